"""`launch/a100_eval` without GPU, torch or vLLM: its command line, its environment, completions of a stand-in."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from running import ROOT

from phi_jax.evaluation.stops import STOP_STRINGS, cut, is_complete
from phi_jax.tokens import tokenizer

HERE = ROOT / "launch" / "a100_eval"
PROBLEMS = [
    {
        "task_id": f"add/{n}",
        "prompt": f'def add_{n}(x):\n    """Adds {n}."""\n',
        "entry_point": f"add_{n}",
        "test": f"def check(candidate):\n    assert candidate(1) == {1 + n}\n",
    }
    for n in range(5)
]
# What the stand-in answers to the stripped prompts: it is right but for add_4, and goes on after the body.
ANSWERS = {
    p["prompt"].rstrip("\n"): f"\n    return x + {min(n, 3)}\n\ndef more(x):\n    return x\n"
    for n, p in enumerate(PROBLEMS)
}

# The signatures of vllm 0.33.0 (entrypoints/llm.py, sampling_params.py): a call that does not fit them is a TypeError.
VLLM = """
import json, os, signal
from pathlib import Path
import tokenizers

__version__ = "0.33.0"
FIELDS = {"model", "runner", "convert", "tokenizer", "tokenizer_mode", "skip_tokenizer_init", "trust_remote_code",
          "tensor_parallel_size", "dtype", "quantization", "revision", "tokenizer_revision", "seed",
          "gpu_memory_utilization", "cpu_offload_gb", "enforce_eager", "hf_token", "hf_overrides",
          # of EngineArgs, through **kwargs
          "max_model_len", "generation_config", "disable_log_stats"}

class SamplingParams:
    def __init__(self, *, n: int = 1, presence_penalty=0.0, frequency_penalty=0.0, repetition_penalty=1.0,
                 temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0, seed=None, stop=None,
                 stop_token_ids=None, ignore_eos=False, max_tokens=16, min_tokens=0, logprobs=None, detokenize=True,
                 skip_special_tokens=True, include_stop_str_in_output=False):
        self.__dict__.update(vars())

class Output:
    def __init__(self, token_ids):
        self.token_ids = tuple(token_ids)

class RequestOutput:
    def __init__(self, outputs):
        self.outputs = outputs

class LLM:
    def __init__(self, model, **fields):
        assert set(fields) <= FIELDS, fields
        assert isinstance(model, str)
        assert os.environ["VLLM_NO_USAGE_STATS"] == os.environ["HF_HUB_OFFLINE"] == os.environ["DO_NOT_TRACK"] == "1"
        self.tokenizer = tokenizers.Tokenizer.from_file(model + "/tokenizer.json")
        self.answers = json.loads(Path(os.environ["STAND_IN_ANSWERS"]).read_text())
        log(("LLM", {"model": model, **fields}))

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None, priority=None,
                 tokenization_kwargs=None, mm_processor_kwargs=None):
        assert len(prompts) == len(sampling_params)
        return [RequestOutput([Output(self.answer(**p, params=s))]) for p, s in zip(prompts, sampling_params)]

    def answer(self, prompt_token_ids, params):
        shown = self.tokenizer.decode(prompt_token_ids, skip_special_tokens=False)
        log((shown, {k: v for k, v in vars(params).items() if k != "self"}))
        if os.environ.get("STAND_IN_DIES_AT") and os.environ["STAND_IN_DIES_AT"] in shown:
            os.kill(os.getpid(), signal.SIGKILL)
        made = []
        end = self.tokenizer.token_to_id("<|endoftext|>")
        for token in [*self.tokenizer.encode(self.answers[shown]).ids, end]:
            made.append(token)
            text = self.tokenizer.decode(made)
            if token in params.stop_token_ids or any(s in text for s in params.stop) or len(made) == params.max_tokens:
                break
        return made

def log(entry):
    with open(os.environ["STAND_IN_LOG"], "a") as file:
        file.write(json.dumps(entry) + "\\n")
"""
TORCH = """
import os
__version__ = "2.14.0"
class cuda:
    is_available = staticmethod(lambda: os.environ.get("STAND_IN_GPU", "1") == "1")
    get_device_name = staticmethod(lambda index: "Stand-in A100")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with what a run takes: model (without weights), problems, and the stand-ins."""
    place = tmp_path_factory.mktemp("a100_eval")
    trained = tokenizer.train([p["prompt"] for p in PROBLEMS] + list(ANSWERS.values()), 320)
    trained.save(place / "model", max_length=96)
    config = {"max_position_embeddings": 96, "dtype": "bfloat16", "model_type": "phi"}
    (place / "model" / "config.json").write_text(json.dumps(config))
    (place / "problems.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROBLEMS))
    (place / "answers.json").write_text(json.dumps(ANSWERS))
    (place / "stand-ins").mkdir()
    (place / "stand-ins" / "vllm.py").write_text(VLLM)
    (place / "stand-ins" / "torch.py").write_text(TORCH)
    return place


@pytest.fixture
def module(place, tmp_path, monkeypatch):
    """Imports a module of the launcher; it and the stand-ins that it found are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.syspath_prepend(str(place / "stand-ins"))
    for name in ("DO_NOT_TRACK", "VLLM_NO_USAGE_STATS", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "")
    for name, value in environment(place, tmp_path).items():
        monkeypatch.setenv(name, value)
    names = ("torch", "vllm", "complete", "parts", "backend_vllm", "backend_transformers")
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def environment(place, tmp_path):
    return {"STAND_IN_ANSWERS": str(place / "answers.json"), "STAND_IN_LOG": str(tmp_path / "log")}


def arguments(place, out, *more):
    return ["--model", place / "model", "--problems", place / "problems.jsonl", "--out", out, "--backend", "vllm",
            "--max-new-tokens", "40", *more]  # fmt: skip


def launch(place, tmp_path, *more, script=HERE / "run", **env):
    """`run` in a process of its own, with the stand-ins before everything that is installed."""
    return subprocess.run(
        [script, *map(str, arguments(place, tmp_path / "out", *more))], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(place / "stand-ins"),
             **environment(place, tmp_path), **env},
    )  # fmt: skip


def calls(tmp_path):
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


@pytest.fixture
def complete(module, monkeypatch, capsys):
    """Runs complete.py in this process: (exit code, what it said)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["complete.py", *map(str, arguments)])
        code = 0
        try:
            module("complete").main()
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().err

    return run


# --- Completions -----------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_and_is_scored(place, tmp_path):
    died = launch(place, tmp_path, "--batch-size", "2", STAND_IN_DIES_AT="add_2")
    assert died.returncode == 137, died.stderr
    assert not (tmp_path / "out" / "samples.jsonl").exists()
    parts = [json.loads(p.read_text()) for p in (tmp_path / "out" / "parts").glob("*.json")]
    whole = {c["task_id"] for part in parts for c in part["completions"]}
    assert 2 <= len(whole) < 5
    (tmp_path / "log").unlink()

    done = launch(place, tmp_path, "--batch-size", "3")
    assert done.returncode == 0, done.stderr
    again = {shown for shown, _ in calls(tmp_path) if shown != "LLM"}
    assert again == {p["prompt"].rstrip("\n") for p in PROBLEMS if p["task_id"] not in whole}
    assert re.search(r"problems pass@1 0\.800 \[.*5 problems, 5 samples", done.stdout)
    assert "vllm 0.33.0 on Stand-in A100, bfloat16 (as exported), greedy, prompt stripped" in done.stderr
    assert f"{len(again)} of 5 completions to make" in done.stderr
    results = [json.loads(x) for x in (tmp_path / "out/scored/samples.jsonl_results.jsonl").read_text().splitlines()]
    assert [r["passed"] for r in results] == [True, True, True, True, False]

    # Once more: nothing is asked of the model, and the files are the same.
    (tmp_path / "log").unlink()
    samples = (tmp_path / "out/samples.jsonl").read_bytes()
    third = launch(place, tmp_path)
    assert third.stdout == done.stdout
    assert not (tmp_path / "log").exists()
    assert (tmp_path / "out/samples.jsonl").read_bytes() == samples


def test_what_is_written(place, tmp_path, complete):
    assert complete(*arguments(place, tmp_path / "out"))[0] == 0
    out = tmp_path / "out"
    native = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
    for n, (row, (shown, answer)) in enumerate(zip(native, ANSWERS.items(), strict=True)):
        assert row["completion"] == cut(shown, answer) == f"\n    return x + {min(n, 3)}\n\n"
        assert row["raw"].startswith(row["completion"] + "def")  # the stop string ended it, and was not lost
        assert (row["stop_reason"], row["decoding"], row["sample"]) == ("stop", "greedy", 0)
    # As it goes behind the stripped prompt, which is what `run` has it scored behind.
    for problem, line in zip(PROBLEMS, (out / "samples.jsonl").read_text().splitlines(), strict=True):
        sample = json.loads(line)
        assert list(sample) == ["task_id", "completion"]
        assert (problem["prompt"].rstrip("\n") + sample["completion"]).startswith(problem["prompt"] + "    return x")

    record = json.loads((out / "record.json").read_text())
    assert record["versions"] == {"vllm": "0.33.0", "torch": "2.14.0"}
    assert (record["device"], record["dtype"], record["stop"]) == ("Stand-in A100", "bfloat16", "dedent")
    assert record["tokens"] == sum(row["tokens"] for row in native)
    assert record["tokens_per_second"] > 0
    assert set(record["model"]) == {p.name for p in (place / "model").iterdir()}
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in record["model"].values())

    (_, fields), *asked = calls(tmp_path)
    assert fields == {"model": str(place / "model"), "dtype": "bfloat16", "max_model_len": 96,
                      "generation_config": "vllm"}  # fmt: skip
    end = tokenizer.Tokenizer.load(place / "model").end_of_text_id
    assert sorted(shown for shown, _ in asked) == sorted(ANSWERS)
    for _, params in asked:
        assert (params["temperature"], params["max_tokens"], params["stop_token_ids"]) == (0, 40, [end])


def test_samples_are_drawn_each_by_its_own_seed(place, tmp_path, complete):
    sampled = ["--temperature", "0.2", "--samples-per-problem", "3"]
    assert complete(*arguments(place, tmp_path / "a", *sampled))[0] == 0
    assert complete(*arguments(place, tmp_path / "b", *sampled, "--batch-size", "2"))[0] == 0
    assert complete(*arguments(place, tmp_path / "c", *sampled, "--seed", "1"))[0] == 0
    made = [c for c in calls(tmp_path) if c[0] != "LLM"]
    first, second, third = ({(s, p["seed"]) for s, p in made[i : i + 15]} for i in (0, 15, 30))
    assert len({seed for _, seed in first}) == 15
    assert first == second
    assert not first & third
    assert {(p["temperature"], p["top_p"]) for _, p in made} == {(0.2, 0.95)}
    rows = [json.loads(line) for line in (tmp_path / "a/completions.jsonl").read_text().splitlines()]
    assert [(r["task_id"], r["sample"]) for r in rows] == [(p["task_id"], s) for p in PROBLEMS for s in range(3)]
    assert {r["decoding"] for r in rows} == {"temperature 0.2, top_p 0.95"}


def test_a_prompt_that_is_too_long_counts_as_failed(place, tmp_path, complete):
    lengths = {p["task_id"]: len(tokenizer.Tokenizer.load(place / "model").encode(shown))
               for p, shown in zip(PROBLEMS, ANSWERS, strict=True)}  # fmt: skip
    long = {**PROBLEMS[0], "task_id": "long", "prompt": PROBLEMS[0]["prompt"].replace("Adds", "Adds and" * 60)}
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps(long) + "\n" + json.dumps(PROBLEMS[1]) + "\n")
    room = 96 - lengths["add/1"]  # what just fits
    code, said = complete(*arguments(place, tmp_path / "out", "--problems", problems, "--max-new-tokens", room))
    assert code == 0
    assert f"1 of 2 prompts have more than {lengths['add/1']} tokens; they count as failed" in said
    rows = [json.loads(line) for line in (tmp_path / "out/completions.jsonl").read_text().splitlines()]
    assert (rows[0]["stop_reason"], rows[0]["completion"]) == ("prompt too long", "")
    assert rows[1]["stop_reason"] == "stop"
    assert json.loads((tmp_path / "out/record.json").read_text())["prompts_too_long"] == 1


@given(st.text("\n #@acdefilmnoprstx:", max_size=60), st.sampled_from(["def f(x):", "def f(x):\n    pass\n"]))
@example("\ndef f", "def f(x):")
@example("    x\nclass", "def f(x):\n    pass\n")
def test_a_stop_string_stops_only_where_the_rule_cuts(text, prompt):
    source = (HERE / "backend_vllm.py").read_text()
    (strings,) = re.findall(r"^DEDENTS = (\(.*?\))$", source, re.M | re.S)
    for stop in ast.literal_eval(strings):
        place = (text + stop).find(stop)
        assert is_complete(prompt, (text + stop)[: place + len(stop)])


def test_no_stop_strings_where_the_body_is_not_indented(module):
    backend = module("backend_vllm")
    assert backend.stop_strings("x = [", "dedent") == []
    assert backend.stop_strings("def f(x):", "dedent") == list(backend.DEDENTS)


def test_the_stop_strings_of_another_rule_are_the_rules_own(module):
    backend = module("backend_vllm")
    assert backend.stop_strings('"""Adds."""\n', "mbpp") == list(STOP_STRINGS["mbpp"])
    assert backend.stop_strings('"""Adds."""', "mbpp") == []


# --- What must not happen --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (["--prompt-form", "kept"], "prompt_form (stripped, now kept)"),
        (["--dtype", "float16"], "dtype (bfloat16, now float16)"),
        (["--max-new-tokens", "41"], "max_new_tokens (40, now 41)"),
        (["--temperature", "0.2"], "decoding (greedy, now temperature 0.2, top_p 0.95)"),
        (["--seed", "1"], "seed (0, now 1)"),
        ("model", "model (config.json: "),
        ("problems", "problems ("),
    ],
)
def test_completions_made_in_another_way_are_not_mixed(place, tmp_path, complete, change, field):
    for name in ("model", "problems.jsonl"):
        copy = shutil.copytree if name == "model" else shutil.copyfile
        copy(place / name, tmp_path / name)
    own = ["--model", tmp_path / "model", "--problems", tmp_path / "problems.jsonl"]
    assert complete(*arguments(place, tmp_path / "out", *own))[0] == 0
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    if change == "model":
        config = json.loads((tmp_path / "model/config.json").read_text())
        (tmp_path / "model/config.json").write_text(json.dumps({**config, "x": 1}))
    elif change == "problems":
        (tmp_path / "problems.jsonl").write_text(json.dumps({**PROBLEMS[0], "test": "pass"}) + "\n")
    code, said = complete(*arguments(place, tmp_path / "out", *own, *(change if isinstance(change, list) else [])))
    assert code == 1
    assert f"holds completions made with another {field}" in said
    assert said.count("\n") == 1
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--temperature", "-1"], "must be 0 (greedy) or a positive number"),
        (["--temperature", "nan"], "must be 0 (greedy) or a positive number"),
        (["--samples-per-problem", "5"], "greedy) draws nothing"),
        (["--top-p", "0.5"], "greedy) draws nothing"),
        (["--temperature", "1", "--top-p", "0"], "--top-p 0.0: must be above 0"),
        (["--batch-size", "0"], "0: must be at least 1"),
        (["--device", "cpu"], "use --backend transformers"),
        (["--dtype", "int8"], "invalid choice"),
        (["--temp", "1"], "unrecognized arguments"),
    ],
)
def test_wrong_usage(place, tmp_path, complete, more, complaint):
    code, said = complete(*arguments(place, tmp_path / "out", *more))
    assert (code, complaint in said) == (2, True), said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "env", "complaint"),
    [
        (["--model", "nowhere"], {}, "--model nowhere: config.json cannot be read"),
        (["--problems", "nowhere"], {}, "benchmark nowhere: neither built in"),
        (["--max-new-tokens", "96"], {}, "leaves no room for a prompt"),
        (["--temperature", "0.001"], {}, "vLLM knows none from 0 to 0.01"),
        ([], {"STAND_IN_GPU": "0"}, "--backend vllm: torch sees no GPU"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(place, tmp_path, complete, monkeypatch, more, env, complaint):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    code, said = complete(*arguments(place, tmp_path / "out", *more))
    assert code == 1
    assert complaint in said.splitlines()[-1]
    assert "Traceback" not in said


def test_a_dtype_that_nobody_named_is_asked_for(place, tmp_path, complete):
    shutil.copytree(place / "model", tmp_path / "model")
    (tmp_path / "model/config.json").write_text(json.dumps({"n_positions": 96}))
    own = ["--model", tmp_path / "model"]
    code, said = complete(*arguments(place, tmp_path / "out", *own))
    assert code == 1
    assert "dtype is None; name one of bfloat16, float16, float32 with --dtype" in said
    code, said = complete(*arguments(place, tmp_path / "out", *own, "--dtype", "float16"))
    assert code == 0
    assert "float16 (as asked)" in said


def test_a_backend_that_is_missing_is_named(place, tmp_path, complete, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    code, said = complete(*arguments(place, tmp_path / "out"))
    assert code == 1
    assert "--backend vllm: " in said
    assert "launch/a100_eval/run installs it" in said
    assert said.count("\n") == 1


def test_a_damaged_part_is_named_and_made_again(place, tmp_path, complete):
    run = arguments(place, tmp_path / "out", "--batch-size", "2")
    assert complete(*run)[0] == 0
    expected = (tmp_path / "out/completions.jsonl").read_bytes()
    part = tmp_path / "out/parts/00001.json"
    part.write_text("{")
    code, said = complete(*run)
    assert code == 1
    assert f"{part}: cannot be read" in said
    part.unlink()
    assert complete(*run)[0] == 0
    assert (tmp_path / "out/completions.jsonl").read_bytes() == expected


# --- Its environment -------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    """(the script in a checkout of its own, a folder with a python3 that makes stand-ins for environments)."""
    shutil.copytree(HERE, tmp_path / "checkout/launch/a100_eval", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "checkout/phi_jax").symlink_to(ROOT / "phi_jax")
    folder = tmp_path / "bin"
    folder.mkdir()
    python = folder / "python3"
    python.write_text(
        f"""#!/usr/bin/env bash
echo "$0 $*" >> {tmp_path}/pythons
case "$1 $2 $3" in
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip "*) exit "${{PIP_ENDS:-0}}" ;;
"-m phi_jax.cli score") mkdir "${{@: -1}}" ;;
*) exec {sys.executable} "$@" ;;
esac
"""
    )
    python.chmod(0o755)
    return tmp_path / "checkout/launch/a100_eval/run", folder


def test_the_environment_is_made_once(place, tmp_path, checkout):
    script, folder = checkout
    env = {"PYTHON": "", "PATH": f"{folder}:{os.environ['PATH']}"}
    failed = launch(place, tmp_path, script=script, PIP_ENDS="1", **env)
    assert failed.returncode == 1
    assert "could not be made (see above)" in failed.stderr
    assert not (tmp_path / "out").exists()
    venv = tmp_path / "checkout/.venv-a100_eval-vllm"
    install = f"{venv}/bin/python -m pip install --requirement {script.parent}/requirements-vllm.txt"
    for count in (2, 2):  # the one that failed, and one more
        done = launch(place, tmp_path, script=script, **env)
        assert done.returncode == 0, done.stderr
        ran = (tmp_path / "pythons").read_text().splitlines()
        assert ran.count(install) == count
        assert sum("-m venv" in line for line in ran) == 1
    assert f"{venv}/bin/python -m phi_jax.cli score" in ran[-1]
    with open(script.parent / "requirements-vllm.txt", "a") as file:
        file.write("another\n")
    launch(place, tmp_path, script=script, **env)
    assert (tmp_path / "pythons").read_text().splitlines().count(install) == 3
    assert (venv / ".gitignore").read_text() == "*\n"


def test_a_wrong_command_line_makes_no_environment(place, tmp_path, checkout):
    script, folder = checkout
    env = {"PYTHON": "", "PATH": f"{folder}:{os.environ['PATH']}"}
    for more, code, text in (
        (["--help"], 0, "--samples-per-problem"),
        (["--dry-run"], 0, ""),
        (["--backend=other"], 2, "invalid choice"),
        (["--model", "nowhere"], 1, "--model nowhere"),
    ):
        done = launch(place, tmp_path, *more, script=script, **env)
        assert done.returncode == code
        assert text in done.stdout + done.stderr
    assert not list((tmp_path / "checkout").glob(".venv*"))
    assert not (tmp_path / "out").exists()


def closure(lines):
    """The distributions that requirements bring, as this environment's metadata has it."""
    found, todo = set(), [Requirement(line) for line in lines]
    while todo:
        requirement = todo.pop()
        key = (requirement.name.lower().replace("_", "-"), frozenset(requirement.extras))
        if key in found:
            continue
        found.add(key)
        for line in metadata.requires(requirement.name) or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in (*requirement.extras, "")):
                todo.append(needed)
    return {name for name, _ in found}


def test_the_requirements_are_all_that_is_loaded(place, tmp_path):
    """Every other package that is installed here is barred: what an environment of `run` lacks must not be missed."""
    lines = [x for x in (HERE / "requirements.txt").read_text().splitlines() if x and not x.startswith("#")]
    allowed, here = closure(lines), {"phi_jax", "torch", "vllm"}  # the checkout's, and the stand-ins'
    barred = [
        package
        for package, owners in metadata.packages_distributions().items()
        if package not in here and not any(owner.lower().replace("_", "-") in allowed for owner in owners)
    ]
    assert {"pyarrow", "grain", "daft", "ml_collections", "sklearn"} <= set(barred)
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({barred!r}))\n")
    done = launch(place, tmp_path, PYTHONPATH=f"{tmp_path}:{place / 'stand-ins'}")
    assert done.returncode == 0, done.stderr
    assert "pass@1 0.800" in done.stdout


@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_every_backend_has_its_requirements(backend):
    text = (HERE / f"requirements-{backend}.txt").read_text()
    assert "-r requirements.txt" in text
    assert re.search(rf"^{backend}==[\d.]+$", text, re.M)
