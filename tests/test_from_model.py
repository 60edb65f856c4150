"""Stage `synthesize` with a model of the experiment: the same bytes whenever it was killed, and everything counted."""

import json
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from running import ROOT, python

from phi_jax import config, graph
from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.model import phi
from phi_jax.parallel.sampler import Sampler
from phi_jax.store import artifact, documents
from phi_jax.synthesis import from_model as stage
from phi_jax.synthesis import review
from phi_jax.tokens.tokenizer import Tokenizer, train
from phi_jax.weights.huggingface import export_model

# A model that writes by chance, whatever it has read: token -> its share; what is left ends the text.
SHARES = {"7": 0.5, "(": 0.1, "q": 0.1}
RULES = {
    "writer": "models.own", "textbook_requests": 0, "exercise_requests": 600, "share": 0.1, "temperature": 1.0,
    "near_copy_threshold": 1.0, "sandbox": "full", "sandbox_workers": 2,
}  # fmt: skip


def build(workdir, model, seed=3, **fields):
    review._TEXTS_PER_PART = 20
    rules = RULES | fields
    draft = artifact.open_draft(workdir, "synthesize", "mine", rules, {})
    stage.synthesize(
        Config({"seed": seed, "texts": {"mine": rules}}), {"model": SimpleNamespace(directory=model)}, draft
    )
    return draft.commit()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    train(["x = 1\n"], 300).save(root / "tokenizer", max_length=8)
    tokenizer = Tokenizer.load(root / "tokenizer")
    shape = phi.PhiConfig(
        vocab_size=300, max_seq_len=8, num_layers=1, hidden_size=8, intermediate_size=8, num_heads=1, head_dim=8,
        rotary_dim=4, compute_dtype="float32",
    )  # fmt: skip
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), phi.abstract_params(shape))
    shares = {tokenizer.encode(text)[0]: share for text, share in SHARES.items()}
    shares[tokenizer.end_of_text_id] = 1 - sum(shares.values())
    params["head"]["bias"][:] = -1e9
    params["head"]["bias"][list(shares)] = np.log(list(shares.values()))
    export_model(
        params, shape, root / "model",
        tokenizer_directory=root / "tokenizer", end_of_text_id=tokenizer.end_of_text_id, dtype="float32",
    )  # fmt: skip
    return root / "model"


@pytest.fixture(scope="module")
def built(model, tmp_path_factory):
    return build(tmp_path_factory.mktemp("whole"), model)


def test_what_a_model_writes_is_judged_and_all_adds_up(built):
    kept = list(documents.read(built.path("exercises"), ("text", "source", "teacher", "language")))
    failed = list(documents.read(built.path("set_aside") / "exercises", ("text", "code", "reason")))
    facts = built.facts["exercises"]
    assert (facts["requested"], facts["kept"] + facts["set_aside"]) == (60, 60)
    assert facts["reasons"].keys() == {"length", "no_text", "unreadable", "does_not_run", "identical"}
    assert {row["text"].strip("7") for row in kept} == {"\n"}  # nothing else runs
    assert len({row["text"] for row in kept}) == len(kept) > 1
    assert {row["reason"] for row in failed if row["code"] == "length"} == {"it does not end within 7 tokens"}
    assert any("(" in row["text"] for row in failed if row["code"] == "unreadable")
    # Nobody takes it for people's.
    about = {(row["source"], row["teacher"], row["language"]) for row in kept}
    assert about == {("models.own", "models.own", "python")}
    assert built.facts["written_by"] == "models.own"
    assert facts["different"] == len({row["text"] for row in kept + failed}) < 60
    assert built.facts["textbooks"]["kept"] == built.facts["textbooks"]["set_aside"] == 0


def test_killed_it_goes_on_and_writes_the_same(built, model, tmp_path, monkeypatch):
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import killed_run, test_from_model\n"
        r"killed_run.kill_at('os.rename', r'checked/set_aside/exercises/part-00001\.', 1)"
        "\ntest_from_model.build(sys.argv[1], sys.argv[2])"
    )
    killed = python("-c", code, tmp_path, model, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    numbers, complete = [], Sampler.complete
    monkeypatch.setattr(
        Sampler, "complete", lambda self, asked: (numbers.extend(r.sample for r in asked), complete(self, asked))[1]
    )
    again = build(tmp_path, model)
    assert numbers == [*range(20, 60)]  # the first part is not sampled again
    assert again.identity == built.identity


def test_seed_and_temperature_decide(built, model, tmp_path):
    assert build(tmp_path / "seed", model, seed=4).identity != built.identity
    greedy = build(tmp_path / "greedy", model, temperature=0.0, textbook_requests=30, exercise_requests=0)
    # Its likeliest token is 7, for ever.
    assert greedy.facts["textbooks"] == {
        "kept": 0, "set_aside": 3, "reasons": {"length": 3}, "requested": 3, "different": 1,
        "boilerplate_removed": 0,
    }  # fmt: skip


def experiment(mixture, writer, **fields):
    values = config.load(["--config", f"{ROOT}/configs/nano.py:size=micro"]).to_dict()
    values["texts"]["own"] = RULES | {"writer": writer} | fields
    one = {"mixture": mixture, "start": "", "rules": "training", "select": "latest"}
    values["models"] = {"first": one}
    values["tokenize"]["learn_on"] = ["grammar.exercises"]
    return Config(json.loads(json.dumps(values)))


def test_a_model_writes_after_it_is_trained():
    chosen = experiment([["grammar.exercises", 1.0]], "models.first")
    found = {s.label: s for s in graph.stages(chosen)}
    assert found["synthesize/own"].inputs == {"model": "pretrain/first"}
    assert list(found).index("pretrain/first") < list(found).index("synthesize/own")
    assert not found["synthesize/own"].asks_teachers()
    running_jax = {label for label, s in found.items() if s.runs_jax()}
    assert running_jax == {"synthesize/own", "pretrain/first", "evaluate/first"}


@pytest.mark.parametrize(
    ("mixture", "writer", "message"),
    [
        ("own.exercises", "models.first", "a circle: synthesize/own needs pretrain/first needs tokenize/own.exercises"),
        ("grammar.exercises", "models.last", "config.texts.own.writer='last': no such model; there are: first"),
        ("grammar.exercises", "model.first", "no section config.teachers.model.first; there are: none"),
    ],
)
def test_a_writer_that_cannot_be_is_one_line(mixture, writer, message):
    with pytest.raises(UserError) as refused:
        graph.stages(experiment([[mixture, 1.0]], writer))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
