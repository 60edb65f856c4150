"""Stage `synthesize` with a teacher, against a real server: what is written adds up, and nothing is asked twice."""

import json
import shutil
import signal
import sys
from collections import Counter

import pytest
from llm_server import serving
from running import python

from phi_jax.config import Config
from phi_jax.store import artifact, documents
from phi_jax.synthesis.llm import curriculum
from phi_jax.synthesis.llm import from_llm as stage
from phi_jax.synthesis.llm.curriculum import Lesson
from phi_jax.synthesis.llm.from_llm import pilot
from phi_jax.synthesis.outputs import KINDS
from phi_jax.teacher.request import PICODOLLARS

REQUESTS = {"textbooks": 14, "exercises": 20}
# Outcomes that are final, so that the server's ledger holds one entry for each try at a lesson.
OUTCOMES = ["refusal", "content_filter", "length"]


@pytest.fixture(scope="module")
def server():
    with serving(faults=0.15, seed=3, kinds=OUTCOMES) as running:
        yield running


def config_of(base_url, **texts):
    rules = {
        "writer": "writer", "seed": 0, "textbook_requests": REQUESTS["textbooks"] * 100,
        "exercise_requests": REQUESTS["exercises"] * 100, "share": 0.01, "max_tokens": 2048,
        "temperature": 1.0, "near_copy_threshold": 0.8, "files": (), "license": "other", "sandbox": "full",
        "sandbox_workers": 2,
    }  # fmt: skip
    writer = {
        "model": "gpt-3.5-turbo", "base_url": base_url, "key_variable": "", "price_as": "", "mode": "live",
        "window": 16, "batch_requests": 100, "timeout": 60.0, "attempts": 3, "json_mode": "schema",
    }  # fmt: skip
    teachers = {"writer": writer, "ours": {**writer, "model": "ours", "price_as": "local"}}
    budget = {"max_dollars": 5.0, "prices": "", "journal": ""}
    return Config({"texts": {"teacher": rules | texts}, "teachers": teachers, "budget": budget})


def charged(ledger):
    """The entries of lessons: asking how a server writes JSON is charged too."""
    return [entry for entry in ledger if entry["about"].startswith("Write a")]


def build(config, workdir):
    """The stage, with its journal in `workdir`/teacher."""
    draft = artifact.open_draft(workdir, "synthesize", "teacher", config.to_dict(), {})
    stage.synthesize(config, {}, draft)
    return draft.commit()


@pytest.fixture(scope="module")
def built(server, tmp_path_factory):
    """(artifact, the server's ledger when it was done, work directory)."""
    workdir = tmp_path_factory.mktemp("taught")
    return build(config_of(server.base_url), workdir), charged(server.ledger()), workdir


def rows_of(built, name):
    return list(documents.read(built.path(name), [*documents.SCHEMA.names, "lesson", "teacher", "tests"]))


def set_aside(built, kind):
    return list(documents.read(built.path("set_aside") / kind, ("path", "code", "text")))


def test_kept_and_set_aside_add_up(built):
    made, ledger, _ = built
    for kind in KINDS:
        facts, kept, aside = made.facts[kind], rows_of(made, kind), set_aside(made, kind)
        assert facts["requested"] == REQUESTS[kind]
        assert facts["kept"] == len(kept) > 0
        assert facts["set_aside"] == sum(facts["reasons"].values()) == len(aside) > 0
        assert sorted(row["path"] for row in (*kept, *aside)) == sorted(f"{kind}/{n}" for n in range(REQUESTS[kind]))
    assert len(ledger) == sum(REQUESTS.values())


def test_a_document_leads_back_to_its_lesson(built):
    made, _, _ = built
    for kind in KINDS:
        lessons = {lesson.number: lesson for lesson in curriculum.lessons(kind, REQUESTS[kind], seed=0)}
        for row in rows_of(made, kind):
            lesson = Lesson(**json.loads(row["lesson"]))
            assert lessons[lesson.number] == lesson
            assert row["path"] == f"{kind}/{lesson.number}"
            assert (row["source"], row["license"]) == ("writer", "other")
            assert row["teacher"].startswith("gpt-3.5-turbo")
            assert row["language"] == ("python" if kind == "exercises" else "markdown")
            if kind == "exercises":
                assert f"def {lesson.name}(" in row["text"]
                assert all(lesson.name in test for test in json.loads(row["tests"]))


def test_facts_name_teacher_prompts_and_money(built):
    made, ledger, _ = built
    facts = made.facts
    assert facts["written_by"] == "writer"
    assert facts["prompts"]["exercises"]["version"] == "exercise.v1"
    (writer,) = facts["teachers"].values()
    assert writer["requests"] == len(ledger)
    assert writer["completion_tokens"] == sum(entry["completion"] for entry in ledger)
    assert 0 < facts["dollars"] < 5
    outcomes = Counter(entry["status"] for entry in ledger)
    assert (writer["refused"], writer["filtered"]) == (outcomes["refusal"], outcomes["content_filter"])


# Rename of a finished file -> what a run that is killed there leaves.
KILLS = (
    "checked/textbooks",  # replies in the journal, nothing checked
    "checked/set_aside/exercises",  # checked, those that failed not written down
    "partial/exercises/part",  # all checked, nothing published
    "manifest",  # all but the manifest
)


def killed_at(place, base_url, workdir, **rules):
    done = python(__file__, place, base_url, workdir, json.dumps(rules), timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("places", [KILLS[1:2], pytest.param(KILLS, marks=pytest.mark.acceptance)])
def test_killed_and_resumed_it_gives_the_same_and_asks_nothing(places, built, server, tmp_path):
    """The journal is there, so not one request reaches the server, however often the stage is killed."""
    made, _, workdir = built
    shutil.copytree(workdir / "teacher", tmp_path / "teacher")
    before = server.ledger()
    for place in places:
        killed_at(place, server.base_url, tmp_path)
        assert artifact.find(tmp_path, "synthesize", "teacher") is None
    again = build(config_of(server.base_url), tmp_path)
    assert again.identity == made.identity
    assert {kind: again.facts[kind] for kind in KINDS} == {kind: made.facts[kind] for kind in KINDS}
    assert server.ledger() == before


def test_a_pilot_pays_what_the_run_does_not_pay_again(server, tmp_path):
    """Of both kinds in proportion, at their cost; its replies are found in the journal."""
    before = len(server.ledger())
    config = config_of(server.base_url)
    sample = pilot(config, {}, tmp_path, 20)
    assert (sample["total"], len(sample["costs"])) == (34, 20)
    assert sum(sample["rejected"].values()) < 10
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]
    asked = charged(server.ledger()[before:])
    assert len(asked) == 20
    # Dollars a million tokens, as prices.json has gpt-3.5-turbo.
    paid = sum(entry["prompt"] * 0.5 + entry["completion"] * 1.5 for entry in asked) / 1e6
    assert sum(sample["costs"]) / PICODOLLARS == pytest.approx(paid)
    before = server.ledger()
    again = pilot(config, {}, tmp_path, 20)
    assert again == sample
    assert server.ledger() == before


def test_two_teachers_share_the_lessons(server, tmp_path):
    config = config_of(server.base_url, writer="writer:0.5,ours:0.5", share=0.005)
    made = build(config, tmp_path)
    sources = Counter(row["source"] for kind in KINDS for row in rows_of(made, kind))
    assert set(sources) == {"writer", "ours"}
    assert made.facts["teachers"]["ours"]["dollars"] == 0
    assert made.facts["teachers"]["writer"]["dollars"] == made.facts["dollars"] > 0


if __name__ == "__main__":
    from killed_run import kill_at

    kill_at("os.rename", sys.argv[1], 1)
    build(config_of(sys.argv[2], **json.loads(sys.argv[4])), sys.argv[3])
