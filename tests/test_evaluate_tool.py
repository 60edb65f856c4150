"""`phi-jax evaluate --model`: killed it goes on, and it goes on with nothing else."""

import inspect
import os
import shutil
import signal
import sys
import time
from unittest.mock import patch

import pytest
from llm_server import serving
from random_model import export_random
from running import ROOT, Python, phi_jax

from phi_jax import cli
from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.evaluation.backends.chat_server import Server
from phi_jax.evaluation.benchmark_run import greedy_pass_at_1
from phi_jax.evaluation.commands import evaluate_model
from phi_jax.evaluation.completion import Plan
from phi_jax.evaluation.problems import Problem, load_problems
from phi_jax.evaluation.stops import cut
from phi_jax.model import phi
from phi_jax.tokens import tokenizer
from phi_jax.weights.models import load_model

CONFIG = phi.PhiConfig(vocab_size=320, hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2, head_dim=16,
                       rotary_dim=8, max_seq_len=1024)  # fmt: skip
ASKED = ["--max-new-tokens", "8", "--samples-per-problem", "1", "--prompt-form", "both"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An export of a model that has learnt nothing."""
    trained = tokenizer.train(["def f(x):\n    return x\n"], 300)
    return export_random(tmp_path_factory.mktemp("random") / "model", CONFIG, tokenizer=trained)


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """A few problems, in a file of their own."""
    file = tmp_path_factory.mktemp("problems") / "few.jsonl"
    rows = (ROOT / "phi_jax/evaluation/idioms.jsonl").read_text().splitlines(keepends=True)
    file.write_text("".join(rows[:8]))
    return file


@pytest.fixture(scope="module")
def evaluated(model, problems, tmp_path_factory):
    """(what an undisturbed evaluation printed, where it wrote)."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    return phi_jax("evaluate", "--model", model, "--problems", problems, *ASKED, "--out", out).stdout, out


@pytest.fixture(scope="module")
def killed(model, problems, tmp_path_factory):
    """Where an evaluation was killed as it had written its first part."""
    out = tmp_path_factory.mktemp("killed") / "out"
    command = ["evaluate", "--model", model, "--problems", problems, *ASKED, "--out", out]
    process = Python("-m", "phi_jax.cli", *command, start_new_session=True)
    while process.poll() is None and not parts(out):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert parts(out)
    assert not (out / "scores.json").exists()
    return out


def parts(out):
    return {p: p.stat().st_mtime_ns for p in (out / "parts").rglob("*") if p.is_file() and not p.name.startswith(".")}


def results(out):
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file() and p.name != ".lock"}


def test_a_killed_evaluation_goes_on(model, problems, evaluated, killed, tmp_path):
    out = shutil.copytree(killed, tmp_path / "out", copy_function=shutil.copy2)
    made = parts(out)
    done = phi_jax("evaluate", "--model", model, "--problems", problems, *ASKED, "--out", out)
    assert done.stdout == evaluated[0]
    assert done.stdout.startswith(f"{model.parent.name}: few pass@1 ")  # of an export, which lies at NAME/model
    assert results(out) == results(evaluated[1])
    assert made.items() <= parts(out).items()
    assert len(parts(out)) > len(made)


def again(model, problems, out, **changes):
    """The evaluation of ASKED in this process."""
    plan = {"max_new_tokens": 8, "samples_per_problem": 1, "prompt_form": "both", **changes}
    return evaluate_model(str(model), None, str(out), problems_file=str(problems), **plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "an unfinished evaluation, and this one differs: seed 0 -> 1; ask for the same to go on"),
        ({"prompt_form": "kept"}, 'prompt_form "both" -> "kept"'),
        ({"slots": 8}, "slots 32 -> 8"),
        ({"model": "another"}, 'model.sha256 "'),
        ({"problems": "another"}, 'benchmark "few" -> "another"'),
    ],
)
def test_an_evaluation_is_not_gone_on_with_in_another_way(model, problems, killed, tmp_path, change, message):
    if "model" in change:
        model = shutil.copytree(model, tmp_path / change.pop("model"))
        (model / "README.md").write_text("another")
    if "problems" in change:
        problems = shutil.copy(problems, tmp_path / f"{change.pop('problems')}.jsonl")
    before = parts(killed)
    with pytest.raises(UserError, match=message):
        again(model, problems, killed, **change)
    assert parts(killed) == before


def test_what_is_there_is_not_written_over(problems, evaluated, tmp_path):
    """It is refused before anything is read: there is no such model."""
    (tmp_path / "file").write_text("mine")
    for out in (evaluated[1], tmp_path):
        before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
        with pytest.raises(UserError, match="exists already"):
            again("nowhere", problems, out)
        assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_what_failed_at_once_is_in_nobodys_way(model, problems, tmp_path):
    with pytest.raises(UserError, match="max_new_tokens=2000"):
        again(model, problems, tmp_path / "out", max_new_tokens=2000)
    with pytest.raises(UserError, match="no directory"):
        again(tmp_path / "none", problems, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert len(again(model, problems, tmp_path / "out", samples_per_problem=0)) == 2


def test_the_help_tells_what_is_done_without_an_option():
    lines = inspect.getsource(cli).splitlines()
    defaults = {name: Plan._field_defaults[name] for name in cli._PLAN if name in Plan._fields}
    assert len(defaults) >= 6
    for name, value in defaults.items():
        option = f'_option("--{name.replace("_", "-")}"'
        assert any(option in line and f"({value})" in line for line in lines), name


# --- A model behind a server -----------------------------------------------------------------------------------------


def by_server(running, out, *, model="right", dollars=1.0, problems="idioms", **options):
    server = Server(running.base_url, model, dollars, price_as="gpt-4o-mini")
    return evaluate_model(server, problems, str(out), max_new_tokens=400, samples_per_problem=1, **options)


def test_a_server_is_asked_in_chats_and_each_reply_is_paid_once(tmp_path):
    with serving() as running:
        greedy, sampled = by_server(running, tmp_path / "right")
        assert (greedy["value"], sampled["value"], greedy["problems"]) == (1.0, 1.0, 40)
        assert (greedy["prompt_form"], greedy["stop"], greedy["decoding"]) == ("chat", "fence", "greedy")
        assert sampled["decoding"] == "temperature 0.2, top_p 1"
        assert [e["value"] for e in by_server(running, tmp_path / "wrong", model="wrong")] == [0.0, 0.0]
        asked = len(running.ledger())
        assert asked == 2 * 80
        shutil.copytree(tmp_path / "right" / "teacher", tmp_path / "again" / "teacher")
        shutil.copy(tmp_path / "right" / "asked.json", tmp_path / "again")  # as a kill before the first part leaves it
        by_server(running, tmp_path / "again")
        assert len(running.ledger()) == asked
    for name in ("samples.jsonl", "completions.jsonl", "scores.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "right" / name).read_bytes()


def test_a_server_costs_no_more_than_the_budget(tmp_path):
    with serving() as running, pytest.raises(UserError, match="max_dollars"):
        by_server(running, tmp_path / "out", dollars=0.0005)
    with pytest.raises(UserError, match="--server: draws by temperature alone"):
        by_server(running, tmp_path / "out", top_k=3)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("Sure:\n```python\ndef f(x):\n    return x\n```\nDone. ```x```", "def f(x):\n    return x\n"),
        ("```\n    return x\n```", "    return x\n"),
        ("```py\ndef f(x):\n    return x", "def f(x):\n    return x"),  # cut at its longest
        ("def f(x):\n    return x\n", "def f(x):\n    return x\n"),
    ],
)
def test_the_code_of_a_chat(reply, code):
    assert cut("def f(x):\n", reply, "fence") == code
    assert cut("def f(x):", reply, "fence") == f"\n{code}"


# --- Other backends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu"}, "--backend jax: has no option device"),
        ({"backend": "vllm"}, r"--backend vllm: not installed here \(.*pip install 'phi-jax\[vllm\]'"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"prompt_form": "raw"}, "prompt_form='raw'"),
    ],
)
def test_what_a_backend_cannot_do_is_told(model, problems, tmp_path, monkeypatch, options, message):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=message):
        again(model, problems, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_model_in_memory(model, problems):
    """As selection asks for it: half of these problems are solved by whatever is written."""
    loaded = load_model(model)
    chosen = load_problems(None, str(problems))[1]
    rules = Config({"prompt_form": "kept", "max_new_tokens": 4, "slots": 4, "sandbox": "full", "sandbox_workers": 1})
    assert greedy_pass_at_1(loaded, chosen, rules) == 0.0
    solved = [Problem(f"t/{n}", "#", "" if n % 2 else "assert False", None, stop="mbpp") for n in range(4)]
    with patch("phi_jax.evaluation.completion.cut", lambda *_: ""):
        assert greedy_pass_at_1(loaded, solved, rules) == 0.5
