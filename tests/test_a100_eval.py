"""`launch/a100_eval` without GPU, torch or vLLM: its environment, and the backend vllm on a stand-in for it."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from running import ROOT

from phi_jax.errors import UserError
from phi_jax.evaluation import completion
from phi_jax.evaluation.commands import evaluate_model
from phi_jax.evaluation.stops import cut
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
        self.tokenizer = tokenizers.Tokenizer.from_file(model + "/tokenizer.json")
        self.answers = json.loads(Path(os.environ["STAND_IN_ANSWERS"]).read_text())
        log(("LLM", {"model": model, **fields, "offline": os.environ.get("HF_HUB_OFFLINE")}))

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
            if token in params.stop_token_ids or len(made) == params.max_tokens:
                break
        return made

def log(entry):
    with open(os.environ["STAND_IN_LOG"], "a") as file:
        file.write(json.dumps(entry) + "\\n")
"""
TORCH = """
import os
__version__ = "2.14.0"
class Tensor:  # scipy asks for it where torch is loaded
    pass
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
def backend(place, tmp_path, monkeypatch):
    """The module vllm_engine on the stand-ins; both are forgotten afterwards."""
    name = "phi_jax.evaluation.backends.vllm_engine"
    monkeypatch.syspath_prepend(str(place / "stand-ins"))
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "")
    for variable, value in environment(place, tmp_path).items():
        monkeypatch.setenv(variable, value)
    forgotten = ("torch", "vllm", name)
    before = {n: sys.modules.pop(n) for n in forgotten if n in sys.modules}
    yield importlib.import_module(name)
    for module in forgotten:
        sys.modules.pop(module, None)
    sys.modules.update(before)


def environment(place, tmp_path):
    return {"STAND_IN_ANSWERS": str(place / "answers.json"), "STAND_IN_LOG": str(tmp_path / "log")}


def evaluated(place, out, **changes):
    """Of the stand-in: (scores, native records, asked.json)."""
    options = {"backend": "vllm", "max_new_tokens": 40, "samples_per_problem": 0, **changes}
    model, problems = options.pop("model", place / "model"), options.pop("problems", place / "problems.jsonl")
    scores = evaluate_model(str(model), None, str(out), problems_file=str(problems), **options)
    records = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
    return scores, records, json.loads((out / "asked.json").read_text())


def launch(place, tmp_path, *more, script=HERE / "run", **env):
    """`run` in a process of its own, with the stand-ins before everything that is installed."""
    own = ["--model", place / "model", "--problems", place / "problems.jsonl", "--out", tmp_path / "out", "--backend",
           "vllm", "--max-new-tokens", "40"]  # fmt: skip
    return subprocess.run(
        [script, *map(str, (*own, *more))], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(place / "stand-ins"),
             **environment(place, tmp_path), **env},
    )  # fmt: skip


def calls(tmp_path):
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


# --- Completions -----------------------------------------------------------------------------------------------


def test_what_is_asked_and_what_is_written(place, tmp_path, backend, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # which tests of peers set in the same process
    (score,), records, asked = evaluated(place, tmp_path / "out")
    assert (score["value"], score["prompt_form"], score["decoding"]) == (0.8, "stripped", "greedy")
    for n, (row, (shown, answer)) in enumerate(zip(records, ANSWERS.items(), strict=True)):
        assert row["completion"] == cut(shown, answer) == f"\n    return x + {min(n, 3)}\n\n"
        assert row["raw"].startswith(row["completion"] + "def")  # the stop string ended it, and was not lost
        assert (row["stop_reason"], row["sample"]) == ("stop", 0)
    assert asked["versions"] == {"vllm": "0.33.0", "torch": "2.14.0"}
    assert (asked["backend"], asked["device"], asked["dtype"]) == ("vllm", "Stand-in A100", "bfloat16")
    assert len(asked["model"]["sha256"]) == 64

    (_, fields), *sent = calls(tmp_path)
    assert fields == {"model": str(place / "model"), "dtype": "bfloat16", "max_model_len": 96,
                      "generation_config": "vllm", "offline": None}  # fmt: skip
    end = tokenizer.Tokenizer.load(place / "model").end_of_text_id
    assert sorted(shown for shown, _ in sent) == sorted(ANSWERS)
    for _, params in sent:
        assert (params["temperature"], params["max_tokens"], params["stop_token_ids"]) == (0, 40, [end])


def test_samples_are_drawn_each_by_its_own_seed(place, tmp_path, backend, monkeypatch):
    sampled = {"temperature": 0.2, "samples_per_problem": 3}
    first = evaluated(place, tmp_path / "a", **sampled)[1]
    monkeypatch.setattr(backend, "AT_ONCE", 2)
    assert evaluated(place, tmp_path / "b", **sampled)[1] == first
    evaluated(place, tmp_path / "c", **sampled, seed=1)
    made = [c for c in calls(tmp_path) if c[0] != "LLM"]
    drawn = [{(s, p["seed"]) for s, p in made[i : i + 20] if p["temperature"]} for i in (0, 20, 40)]
    assert len({seed for _, seed in drawn[0]}) == 15
    assert drawn[0] == drawn[1]
    assert not drawn[0] & drawn[2]
    assert {(p["temperature"], p["top_p"]) for _, p in made} == {(0.0, 1.0), (0.2, 0.95)}
    assert [(r["task_id"], r["sample"]) for r in first[5:]] == [(p["task_id"], s) for p in PROBLEMS for s in range(3)]
    assert {r["decoding"] for r in first[5:]} == {"temperature 0.2, top_p 0.95"}


def test_a_prompt_that_is_too_long_counts_as_failed(place, tmp_path, backend, capsys):
    length = len(tokenizer.Tokenizer.load(place / "model").encode(list(ANSWERS)[1]))
    long = {**PROBLEMS[0], "task_id": "long", "prompt": PROBLEMS[0]["prompt"].replace("Adds", "Adds and" * 60)}
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps(long) + "\n" + json.dumps(PROBLEMS[1]) + "\n")
    room = 96 - length  # what just fits
    _, rows, _ = evaluated(place, tmp_path / "out", problems=problems, max_new_tokens=room)
    assert "1 of 2 prompts do not fit the model's context; they count as failed" in capsys.readouterr().err
    assert (rows[0]["stop_reason"], rows[0]["completion"], rows[0]["passed"]) == ("prompt too long", "", False)
    assert rows[1]["stop_reason"] == "stop"


# --- What must not happen --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "environ", "complaint"),
    [
        ({"model": "nowhere"}, {}, "--model nowhere: no directory"),
        ({"problems": "nowhere"}, {}, "benchmark nowhere: neither built in"),
        ({"max_new_tokens": 96}, {}, "leaves no room for a prompt"),
        ({"dtype": "int8"}, {}, "dtype is 'int8'; name one of bfloat16, float16, float32 with --dtype"),
        ({"batch_size": 4}, {}, "--backend vllm: has no option batch_size"),
        ({}, {"STAND_IN_GPU": "0"}, "--backend vllm: torch 2.14.0 sees no GPU"),
    ],
)
def test_what_is_not_there_is_told(place, tmp_path, backend, monkeypatch, options, environ, complaint):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=re.escape(complaint)):
        evaluated(place, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_damaged_part_is_named_and_made_again(place, tmp_path, backend, monkeypatch):
    monkeypatch.setattr(completion, "PART", 2)
    _, expected, _ = evaluated(place, tmp_path / "out")
    for name in ("scores.json", "completions.jsonl"):
        (tmp_path / "out" / name).unlink()
    part = next((tmp_path / "out/parts").rglob("part-00002.jsonl"))
    part.write_text("{")
    with pytest.raises(UserError, match=f"{part}:1: not JSON .* remove it"):
        evaluated(place, tmp_path / "out")
    part.unlink()
    assert evaluated(place, tmp_path / "out")[1] == expected


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
"-m phi_jax.cli evaluate") echo "scored offline=$HF_HUB_OFFLINE" ;;
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
    assert f"{venv}/bin/python -m phi_jax.cli evaluate --backend vllm --max-new-tokens 512" in ran[-1]
    assert done.stdout == "scored offline=1\n"
    with open(script.parent / "requirements-vllm.txt", "a") as file:
        file.write("another\n")
    launch(place, tmp_path, script=script, **env)
    assert (tmp_path / "pythons").read_text().splitlines().count(install) == 3
    assert (venv / ".gitignore").read_text() == "*\n"


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


BARRING = """
import sys
class Barring:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BARRED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Barring())
"""


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
    (tmp_path / "sitecustomize.py").write_text(BARRING.replace("BARRED", repr(barred)))
    done = launch(place, tmp_path, PYTHONPATH=f"{tmp_path}:{place / 'stand-ins'}")
    assert done.returncode == 0, done.stderr
    assert "problems pass@1 0.800 [" in done.stdout
    assert calls(tmp_path)[0][1]["offline"] == "1"
