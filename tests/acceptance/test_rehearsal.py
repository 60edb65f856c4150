"""The dress rehearsal of configs/phi_1.py's synthesis at 1/1000, on the test server: texts by a teacher, verified,
decontaminated, in shards, and trained on for 50 steps by the micro model.

Its figures go to tests/acceptance/rehearsal.json.
"""

import json
import subprocess
import sys

import pytest
from llm_server import serving
from running import ROOT, phi_jax

from phi_jax.synthesis.grammar import catalogue, grammar_texts

pytestmark = pytest.mark.acceptance

# phi_1.py's own synthesis, decontamination and shards; nano's sizes for all else.
CONFIG = """\
import importlib.util


def _load(path):
    spec = importlib.util.spec_from_file_location("base", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def get_config():
    c = _load({phi_1!r}).get_config()
    nano = _load({nano!r}).get_config("size=micro")
    for section in ("collect", "tokenize", "model", "training", "finetune", "filter", "evaluate", "report"):
        c[section] = nano[section]
    c.tokenize.learn_on = ("raw", "teacher.textbooks", "teacher.exercises")
    c.texts.teacher.share = 0.001
    c.texts.teacher.sandbox_workers = 2
    c.annotate.update(max_files=60, votes=2, temperature=1.0)
    c.training.steps = c.training.schedule_steps = 50
    c.decontaminate.problems = c.evaluate.benchmark = {problems!r}
    for teacher in (c.teachers.writer, c.teachers.grader):
        teacher.base_url = {base_url!r}
        teacher.key_variable = "PHI_JAX_TEST_KEY"
    c.teachers.grader.mode = "live"
    c.budget.max_dollars = 20.0
    return c
"""


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    root = tmp_path_factory.mktemp("rehearsal")
    _, tested = catalogue.held_out(catalogue.behaviours(6), 10)
    problems = root / "problems.jsonl"
    problems.write_text("".join(json.dumps(grammar_texts.problem(k)) + "\n" for k in tested))
    with serving(seed=0) as server:
        paths = {"phi_1": str(ROOT / "configs/phi_1.py"), "nano": str(ROOT / "configs/nano.py")}
        config = root / "rehearsal.py"
        config.write_text(CONFIG.format(**paths, problems=str(problems), base_url=server.base_url))
        env = {"PHI_JAX_TEST_KEY": "sk-planted-rehearsal"}
        done = phi_jax("run", "--config", config, "--workdir", root / "w", env=env)
        yield root, done, server.ledger()


def facts(root, label):
    return json.loads((root / "w" / label / "manifest.json").read_text())["facts"]


def test_the_texts_of_a_teacher_reach_the_weights(rehearsal):
    root, done, ledger = rehearsal
    written = facts(root, "synthesize/teacher")
    figures = {
        "synthesize": written,
        "annotate": {k: v for k, v in facts(root, "annotate/python").items() if k != "histogram"},
        "decontaminate": {k: v for k, v in facts(root, "decontaminate/teacher").items() if k != "benchmark"},
        "shards": {n: facts(root, f"tokenize/teacher.{n}")["tokens"] for n in ("textbooks", "exercises")},
        "training": {n: facts(root, n)["steps"] for n in ("pretrain/base", "finetune/finetuned")},
        "ledger": {"requests": len(ledger)},
    }
    (ROOT / "tests/acceptance/rehearsal.json").write_text(json.dumps(figures, indent=1) + "\n")
    for kind, requests in (("textbooks", 700), ("exercises", 1000)):
        assert written[kind]["requested"] == requests
        assert written[kind]["kept"] > requests / 2
        assert written[kind]["set_aside"] > 0
        assert figures["decontaminate"][kind]["documents"] == written[kind]["kept"]
        assert figures["shards"][kind] > 10_000
    # Grammar's behaviours are what the server writes about: the held-out ones among them must have gone.
    assert figures["decontaminate"]["exercises"]["removed"] > 0
    losses = [json.loads(x)["loss"] for x in (root / "w/pretrain/base/metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 50
    assert losses[-1] < losses[0] - 0.5
    grades = figures["annotate"]
    assert (grades["graded"], grades["teaching"]["teachers"]["grader"]["answered"]) == (60, 120)
    page = (root / "w/report/index.html").read_text()
    assert "gpt-3.5-turbo" in page
    planted = [p for p in (root / "w").rglob("*") if p.is_file() and b"sk-planted-rehearsal" in p.read_bytes()]
    assert not planted
    assert "sk-planted" not in done.stdout + done.stderr


def test_again_asks_nothing(rehearsal):
    root, _, _ = rehearsal
    command = [sys.executable, "-m", "phi_jax.cli", "run", "--config", str(root / "rehearsal.py"), "--workdir"]
    again = subprocess.run([*command, str(root / "w")], capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 0, again.stderr
    count = len(list((root / "w").rglob("manifest.json")))
    assert again.stderr == f"{count} of {count} stages are whole\n"
