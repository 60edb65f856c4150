"""configs/open.py: from public data on a stand-in of the Hub to an evaluated model, and what is said of the data."""

import json
import os

import pytest
from public_data import CODE, write
from published import hub
from running import ROOT, phi_jax

from phi_jax import config, graph
from phi_jax.model.flops import num_params
from phi_jax.training import rules

OPEN = ["--config", f"{ROOT}/configs/open.py:size=micro"]
TOKEN = "hf_notToBeWritten"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(work directory, what a run said, what a second one said when there was no Hub, paths that the Hub was asked)."""
    root = tmp_path_factory.mktemp("open")
    with hub(write(root / "hub")) as (url, asked):
        # HF_HUB_OFFLINE: tests of peers set it in the same process.
        env = {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(root / "home"), "HF_TOKEN": TOKEN}
        planned = phi_jax("run", *OPEN, "--workdir", root / "run", "--dry-run", env=env)
        assert not any("resolve" in path for path in asked)
        first = phi_jax("run", *OPEN, "--workdir", root / "run", env=env)
    again = phi_jax("run", *OPEN, "--workdir", root / "run", env=env)
    return root / "run", planned.stdout, first.stderr, again.stderr, asked


@pytest.mark.parametrize(("size", "millions"), [("100m", 102), ("350m", 356), ("1.3b", 1418), ("micro", 0)])
def test_every_size_is_an_experiment_of_its_parameters(size, millions):
    chosen = config.load(["--config", f"{ROOT}/configs/open.py:size={size}"])
    for stage in graph.stages(chosen):
        if stage.stage in graph.TRAININGS:
            rules.check(chosen, stage.name)
    assert num_params(rules.model_shape(chosen)) // 1_000_000 == millions


def test_a_size_that_is_none_is_one_line():
    done = phi_jax("plan", "--config", f"{ROOT}/configs/open.py:size=7b", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "open.py:size=7b: unknown; use one of size=100m, size=350m, size=1.3b, size=micro" in done.stderr


def manifest(workdir, label):
    return json.loads((workdir / label / "manifest.json").read_text())


def test_public_data_become_an_evaluated_model(ran):
    workdir, _, _, again, asked = ran
    scores = json.loads((workdir / "evaluate" / "scores.json").read_text())
    assert {(s["model"], s["benchmark"]) for s in scores} == {(m, "idioms") for m in ("raw", "base", "finetuned")}
    count = len(list(workdir.glob("**/manifest.json")))
    assert f"{count} of {count} stages are whole" in again
    assert not any("README" in path for path in asked)


def test_all_rows_are_read_and_the_commit_is_part_of_the_decision(ran):
    workdir = ran[0]
    collected, books = manifest(workdir, "collect/python"), manifest(workdir, "synthesize/open_phi")
    source = f"hf://{CODE}@{'a' * 40}"
    assert collected["decides"]["collect.sources"] == [f"{source}/file-0000000000*.json.gz"]
    assert collected["facts"]["by_source"] == {source: collected["facts"]["kept"]}
    assert {*collected["facts"]["by_license"]} == {"mit", "gpl-3.0"}
    assert collected["facts"]["files"] == 100
    assert all(collected["facts"]["masked"][kind] >= 1 for kind in ("EMAIL", "KEY", "IP_ADDRESS"))
    assert books["facts"]["textbooks"]["kept"] > 20
    exercises = manifest(workdir, "synthesize/jina")["facts"]["exercises"]
    assert exercises["kept"] > 50
    assert {*exercises["reasons"]} <= {"near_copy", "identical"}


def test_licences_and_terms_stand_before_the_run_and_on_the_card(ran):
    workdir, planned, said, _, _ = ran
    card = (workdir / "export" / "finetuned" / "model" / "README.md").read_text()
    terms = "Not for commercial use; OpenAI's terms say what may be trained on these texts."
    for text in (planned, said):
        assert f"licence CC-BY-NC-SA-4.0, written by gpt-3.5-turbo. {terms}" in text
        assert "licence of each file, as its row names it" in text
    assert f"came as files: licence CC-BY-NC-SA-4.0, written by gpt-3.5-turbo. {terms}" in card
    assert "| gpl-3.0 |" in card


def test_every_token_set_has_a_data_card(ran):
    workdir = ran[0]
    facts = {name: manifest(workdir, f"tokenize/{name}")["facts"] for name in ("raw", "filtered", "jina.exercises")}
    cards = {name: (workdir / "tokenize" / name / "CARD.md").read_text() for name in facts}
    for name, card in cards.items():
        sources = facts[name]["sources"]
        assert sum(tokens for *_, tokens in sources) == sum(facts[name][s]["tokens"] for s in ("train", "validation"))
        for source, licence, texts, tokens in sources:
            share = 100 * tokens / facts[name]["tokens"]
            assert f"| {source} | {licence} | {texts:,} | {tokens:,} | {share:.1f} % |" in card
    raw, filtered, exercises = cards.values()
    assert {licence for _, licence, *_ in facts["raw"]["sources"]} == {"mit", "gpl-3.0"}
    collected = manifest(workdir, "collect/python")["facts"]
    assert "masked: " + ", ".join(f"{count:,} {kind}" for kind, count in collected["masked"].items()) in raw
    for reason, count in collected["set_aside"].items():
        assert f"{count:,} {reason}" in raw
    findings = manifest(workdir, "decontaminate/raw")["facts"]["documents"]
    for card in (raw, filtered):
        assert f"documents: {findings['removed']:,} of {findings['documents']:,} went" in card
        assert "- `collect/python`: people." in card
    assert "`filter/python`" in filtered
    assert "`filter/python`" not in raw
    assert "came as files: licence CC-BY-NC-SA-4.0, written by gpt-3.5-turbo. Not for commercial use" in exercises
    assert "collect/python" not in exercises
    assert str(workdir) not in "".join(cards.values())


def test_the_token_is_nowhere(ran):
    workdir, planned, said, again, _ = ran
    assert TOKEN not in planned + said + again
    for file in workdir.rglob("*"):
        if file.is_file() and file.suffix in (".json", ".jsonl", ".md", ".html"):
            assert TOKEN not in file.read_text(errors="replace"), file
    assert os.environ.get("HF_TOKEN") != TOKEN
