"""Published models through import, evaluation and export, beside their published scores and beside transformers.

Of each model on the Hub (HF_ENDPOINT is respected):

    fetch         config, tokenizer and weights of the commit that its main branch names
    lint          what `phi-jax lint` finds; it has rules for a Phi only
    import        what `phi-jax import` makes of it
    humaneval     `phi-jax evaluate` of the import: a greedy completion of each problem, beside the published score
    mbpp          the same
    export        `phi-jax export` of the import in the published dtype, compared with what was published: every tensor
                  bit for bit, and which files of config and tokenizer have the same bytes
    transformers  the published directory in transformers, float32, on HumanEval's prompts: which completions differ;
                  left out where torch or transformers is not installed

OUT/published_check.json and a line on the screen are written after each part. Killed and started again it goes on;
what is done is not done again. A part that fails is one line, and the next model is tried. Exit code 1 where a part
failed, a tensor differs, or a score is outside the 95 % interval of the published one.
"""

import argparse
import dataclasses
import filecmp
import functools
import json
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phi_jax.errors import UserError, one_line
from phi_jax.evaluation.commands import evaluate_model
from phi_jax.evaluation.intervals import wilson_interval
from phi_jax.evaluation.problems import load_problems
from phi_jax.progress import say
from phi_jax.sandbox import Program, Sandbox
from phi_jax.store.artifact import Artifact, atomic_path, differences, file_digest, locked, write_atomic, write_json
from phi_jax.store.rows import read_object
from phi_jax.weights.export import export_checkpoint
from phi_jax.weights.huggingface import TOKENIZER_FILES
from phi_jax.weights.importing import import_directory
from phi_jax.weights.lint import lint
from phi_jax.weights.tensor_files import INDEX, WEIGHTS, open_tensors

# Model on the Hub -> its published pass@1, in per cent (Gunasekar et al. 2023, table 1, which has no phi-1_5).
PUBLISHED = {
    "microsoft/phi-1": {"humaneval": 50.6, "mbpp": 55.5},
    "microsoft/phi-1_5": {},
    "Salesforce/codegen-350M-mono": {"humaneval": 12.8},
}
_GITHUB = "https://raw.githubusercontent.com"
# Benchmark -> its problems, at a commit, and their sha256.
PROBLEMS = {
    "humaneval": (
        f"{_GITHUB}/openai/human-eval/6d43fb980f9fee3c892a914eda09951f772ad10d/data/HumanEval.jsonl.gz",
        "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
    ),
    "mbpp": (
        f"{_GITHUB}/google-research/google-research/f82046ba5aabbbb427dbfd38a254d26bff08b533/mbpp/mbpp.jsonl",
        "ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f",
    ),
}
CONFIGS = ("config.json", "generation_config.json", *TOKENIZER_FILES)
PICKLE = "pytorch_model.bin"

Result = dict[str, Any]  # JSON; "says" goes onto the screen, "error" or "wrong" makes the exit code 1


@dataclasses.dataclass
class Check:
    """One model's. problems: benchmark -> its file. found: part -> Result, of this run and those before."""

    name: str
    options: argparse.Namespace
    problems: dict[str, Path]
    found: dict[str, Result]

    def path(self, part: str) -> Path:
        return self.options.out / self.name.replace("/", "--") / part

    def run(self, save: Callable[[], None]) -> None:
        """Runs what is not done; a part that failed is tried again."""
        for part, do in PARTS.items():
            if "error" in self.found.get(part, {"error": ""}):
                say(f"{self.name}: {part}")
                start = time.monotonic()
                try:
                    result = do(self)
                except Exception as error:  # of whichever library: the other models are not to suffer for it
                    said = one_line(error) if isinstance(error, UserError) else repr(error)
                    result = {"says": f"error: {said}", "error": said}
                self.found[part] = {**result, "seconds": round(time.monotonic() - start, 1)}
                save()
                say(f"{self.name}: {part}: {result['says']}")
                if "error" in result and part in ("fetch", "import"):  # the parts behind them need these
                    return

    def evaluate(self, part: str, benchmark: str, model: str, **backend: Any) -> Result:
        """The greedy score; `phi-jax evaluate` goes on where it was killed."""
        options, done = self.options, self.path(part) / "scores.json"
        if not done.exists():
            evaluate_model(
                str(self.path(model)), benchmark, str(done.parent), problems_file=str(self.problems[benchmark]),
                sandbox=options.sandbox, max_new_tokens=options.max_new_tokens, samples_per_problem=0, **backend,
            )  # fmt: skip
        score, *_ = json.loads(done.read_text())
        return {"says": f"{100 * score['value']:.1f}", **score}


def fetch(check: Check) -> Result:
    import huggingface_hub

    directory = check.path("published")
    commit = str(huggingface_hub.HfApi().model_info(check.name).sha)
    get = functools.partial(huggingface_hub.snapshot_download, check.name, revision=commit, local_dir=directory)
    get(allow_patterns=[*CONFIGS, WEIGHTS, INDEX, WEIGHTS.replace(".", "-*.")])
    if not any(directory.glob("*.safetensors")):
        get(allow_patterns=PICKLE)
        _unpickle(directory)
    return {"says": f"commit {commit[:8]}", "commit": commit}


def _unpickle(directory: Path) -> None:
    """Makes safetensors of a pytorch_model.bin, of which nothing but tensors is read."""
    try:
        import torch
        from safetensors.torch import save_file
    except ImportError:
        raise UserError(f"{directory / PICKLE}: the weights are a pickle, which torch reads; install torch") from None
    tensors = torch.load(directory / PICKLE, map_location="cpu", weights_only=True)
    with atomic_path(directory / WEIGHTS) as path:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def lint_it(check: Check) -> Result:
    directory = check.path("published")
    if read_object(directory / "config.json")["model_type"] != "phi":
        return {"says": "no rules"}
    found = [str(finding) for finding in lint(directory)]
    if found and found[0].startswith("error"):
        raise UserError(found[0])
    return {"says": f"{len(found)} warnings", "findings": found}


def import_it(check: Check) -> Result:
    target = check.path("imported")
    imported = Artifact.read(target) or import_directory(str(check.path("published")), str(target))
    return {"says": f"{imported.facts['parameters']:,} numbers", **imported.facts}


def score_it(benchmark: str, check: Check) -> Result:
    found = check.evaluate(benchmark, benchmark, "imported", slots=check.options.slots)
    percent = PUBLISHED.get(check.name, {}).get(benchmark)
    if percent is None:
        return found
    low, high = wilson_interval(percent / 100, found["problems"])
    verdict = "inside" if low <= found["value"] <= high else "outside"
    if check.options.limit:
        verdict = f"{found['problems']} problems, no verdict"
    says = f"{found['says']} ({percent} [{100 * low:.1f}, {100 * high:.1f}]: {verdict})"
    return {**found, "says": says, "published": percent / 100, "verdict": verdict, "wrong": verdict == "outside"}


def export_it(check: Check) -> Result:
    published, exported = check.path("published"), check.path("exported")
    if not exported.exists():
        export_checkpoint(
            str(check.path("imported")), str(exported),
            dtype=check.found["import"]["dtype"], architecture=None, licence="other", gguf=False,
        )  # fmt: skip
    theirs, ours = open_tensors(published), open_tensors(exported)
    differing = [name for name in ours if name not in theirs or _bits(theirs[name].read()) != _bits(ours[name].read())]
    files = [name for name in CONFIGS if (published / name).exists()]
    same, _, _ = filecmp.cmpfiles(published, exported, files, shallow=False)
    return {
        "says": f"{len(ours) - len(differing)}/{len(ours)} tensors, {len(same)}/{len(files)} files",
        "differing": differing,
        "left_out": sorted(theirs.keys() - ours.keys()),  # constants beside the weights: import refuses all else
        "same_files": same,
        "wrong": bool(differing),
    }


def _bits(tensor: Any) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.tobytes()


def ask_transformers(check: Check) -> Result:
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        return {"says": "skipped", "why": str(error)}
    found = check.evaluate(
        "transformers", "humaneval", "published", backend="transformers", dtype="float32",
        device="cuda" if torch.cuda.is_available() else "cpu", batch_size=check.options.slots,
    )  # fmt: skip
    texts = [(check.path(part) / "completions.jsonl").read_text() for part in ("humaneval", "transformers")]
    pairs = [(json.loads(a), json.loads(b)) for a, b in zip(*map(str.splitlines, texts), strict=True)]
    differing = [a["task_id"] for a, b in pairs if a["completion"] != b["completion"]]  # as far as they count
    says = f"{len(pairs) - len(differing)}/{len(pairs)} the same, {found['says']}"
    return {**found, "says": says, "differing": differing}


PARTS: dict[str, Callable[[Check], Result]] = {
    "fetch": fetch,
    "lint": lint_it,
    "import": import_it,
    "humaneval": functools.partial(score_it, "humaneval"),
    "mbpp": functools.partial(score_it, "mbpp"),
    "export": export_it,
    "transformers": ask_transformers,
}


def problem_file(benchmark: str, given: str | None, out: Path) -> tuple[Path, str]:
    """(the file, its sha256) that is given, or else fetched. Raises UserError where it cannot be had."""
    url, known = PROBLEMS[benchmark]
    path = Path(given or out / url.rpartition("/")[2])
    try:
        if not given and not path.exists():
            with urllib.request.urlopen(url, timeout=60) as reply:
                write_atomic(path, reply.read())
        digest = file_digest(path)
    except OSError as error:
        raise UserError(f"{given or url}: cannot be had ({error}); give --{benchmark} FILE") from None
    print(f"{benchmark}: {path}: sha256 {digest}, {'as' if digest == known else 'NOT as'} known: {known}")
    return path, digest


def run(options: argparse.Namespace) -> int:
    """Runs all that is not done yet; the exit code."""
    with Sandbox(confinement=options.sandbox) as sandbox:  # that it works is known before gigabytes are fetched
        list(sandbox.run([Program("", "", None)]))
    asked = {"limit": options.limit, "max_new_tokens": options.max_new_tokens}
    problems = {}
    for benchmark in PROBLEMS:
        path, asked[benchmark] = problem_file(benchmark, getattr(options, benchmark), options.out)
        if options.limit:
            rows = [json.dumps(problem.row) for problem in load_problems(benchmark, str(path))[1][: options.limit]]
            path = options.out / f"{benchmark}-{options.limit}.jsonl"
            write_atomic(path, "\n".join(rows))
        problems[benchmark] = path
    record = options.out / "published_check.json"
    state = read_object(record) if record.exists() else {"asked": asked, "models": {}}
    if changed := differences(state["asked"], asked):
        raise UserError(f"{record}: was asked for otherwise: {'; '.join(changed)}; name another --out")
    results = []
    for name in options.models.split(","):
        found = state["models"].setdefault(name, {})
        Check(name, options, problems, found).run(lambda: write_json(record, state))
        results += [found.get(part, {"error": ""}) for part in PARTS]
    return int(any("error" in result or result.get("wrong") for result in results))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="where all of it goes: 26 GB for the three models")
    add("--models", default=",".join(PUBLISHED), metavar="A,B", help="names on the Hub (%(default)s)")
    for benchmark, (url, _) in PROBLEMS.items():
        add(f"--{benchmark}", metavar="FILE", help=f"instead of {url}")
    add("--limit", type=int, default=0, metavar="N", help="the first N problems, without a verdict")
    add("--max-new-tokens", type=int, default=512, metavar="N", help="of a completion (512)")
    add("--slots", type=int, default=16, metavar="N", help="completions decoded at once (16)")
    add("--sandbox", choices=("full", "none"), default="full", help="as in phi-jax evaluate")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(options.out):
            return run(options)
    except UserError as error:
        say(f"published_check: error: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
