"""Filter: the embedding is what it says, the kept set is the best within the budget, again and after a kill."""

import dataclasses
import json
import sysconfig
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phi_jax.config import Config
from phi_jax.corpus import annotate as annotate_stage
from phi_jax.corpus import filter as stage
from phi_jax.corpus.annotate import annotate, read_grades
from phi_jax.errors import UserError
from phi_jax.model.embed import embed
from phi_jax.model.phi import PhiConfig, hidden_states, init_params
from phi_jax.store import artifact, documents
from phi_jax.store.python_text import from_first_code
from phi_jax.tokens.tokenizer import train
from phi_jax.weights.checkpoints import Checkpoints

SHAPE = PhiConfig(
    vocab_size=512, hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, head_dim=8, rotary_dim=4,
    max_seq_len=48,
)  # fmt: skip
RULES = {
    "embed_tokens": 64, "pooling": "mean", "trees": 20, "min_samples_leaf": 2, "held_out": 0.25,
    "token_budget": 60_000, "batch_size": 8,
}  # fmt: skip
FILES = 120
HIDDEN = jax.jit(hidden_states, static_argnums=2)  # one compilation a length, not one an operation


# --- The embedding -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def params():
    return jax.jit(init_params, static_argnums=0)(dataclasses.replace(SHAPE, initializer_range=0.3), jax.random.key(0))


def test_padding_changes_nothing_and_pooling_is_over_the_final_norms_output(params):
    rng = np.random.default_rng(0)
    lengths = np.array([1, 48, 17], np.int32)
    tokens = rng.integers(0, 512, (3, 48)).astype(np.int32)
    noise = np.where(np.arange(48)[None] < lengths[:, None], tokens, 7)
    hidden = [
        np.asarray(HIDDEN(params, jnp.asarray(tokens[row : row + 1, :length]), SHAPE))[0]
        for row, length in enumerate(lengths)
    ]
    for pooling, pooled in (("mean", lambda states: states.mean(0)), ("last", lambda states: states[-1])):
        vectors = np.asarray(embed(params, tokens, lengths, SHAPE, pooling))
        np.testing.assert_allclose(embed(params, noise, lengths, SHAPE, pooling), vectors, atol=1e-5)
        np.testing.assert_allclose(vectors, [pooled(states) for states in hidden], atol=1e-5)


def test_an_empty_text_gives_zeros_and_an_unknown_pooling_is_named(params):
    tokens = np.zeros((1, 8), np.int32)
    assert not np.asarray(embed(params, tokens, np.zeros(1, np.int32), SHAPE, "mean")).any()
    with pytest.raises(UserError, match=r"config\.filter\.pooling='max'.*there are: mean, last"):
        embed(params, tokens, np.ones(1, np.int32), SHAPE, "max")


def test_texts_are_embedded_from_their_first_code_on(params, tokenizer):
    embed_texts = stage.make_embed(params, SHAPE, tokenizer, Config({**RULES, "batch_size": 4}))
    code = "def f(x):\n    return x + 1\n"
    texts = [
        code,
        "# A licence.\n\n#!\n" + code,
        code + "y = 2\n" * 400,
        " " * 900 + code,
        "# nothing else\n",
        "x = 1\n",
    ]
    vectors, tokens = embed_texts(texts)
    assert tokens == [len(ids) for ids in tokenizer.encode_batch(texts)]
    assert vectors.shape == (6, 16)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)
    assert np.isnan(vectors[4]).all()
    assert np.isfinite(np.delete(vectors, 4, 0)).all()
    for text, vector in zip(texts[2:4], vectors[2:4], strict=True):
        ids = np.array([tokenizer.encode(text)[:48]], np.int32)
        expected = embed(params, ids, np.array([ids.shape[1]], np.int32), SHAPE, "mean")[0]
        np.testing.assert_allclose(vector, expected, atol=1e-5)
    assert embed_texts([])[0].shape == (0, 16)


# --- The forest and the split --------------------------------------------------------------------------------------


def test_the_forest_learns_what_can_be_learnt_and_does_not_repeat_its_labels():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((400, 5)).astype(np.float32)
    high = vectors[:, 0] > 1
    rules = Config({"trees": 30, "min_samples_leaf": 1})
    (score, _), (again, _) = (stage.learn(vectors, high, rules, 0) for _ in range(2))
    unseen = rng.standard_normal((300, 5)).astype(np.float32)
    scores = score(unseen)
    np.testing.assert_array_equal(scores, again(unseen))
    rows = [
        {"label": "high" if x > 1 else "low", "score": score} for x, score in zip(unseen[:, 0], scores, strict=True)
    ]
    assert stage.quality(rows)["roc_auc"] > 0.97
    noise, out_of_bag = stage.learn(vectors, rng.random(400) < 0.5, rules, 0)
    assert np.abs(out_of_bag - 0.5).mean() < 0.2 < np.abs(noise(vectors) - 0.5).mean()


def test_recall_is_told_for_each_label():
    scores = {"high": (0.4, 0.2, 0.5), "low": (0.6, 0.1)}
    figures = stage.quality([{"label": label, "score": score} for label in scores for score in scores[label]])
    assert figures == {"recall": {"high": pytest.approx(1 / 3, abs=1e-6), "low": 0.5}, "roc_auc": 0.5}


def test_the_held_out_share_is_of_each_label_and_of_the_ids_alone():
    labels = {f"{n}": "high" if n < 12 else "low" for n in range(100)}
    held_out = stage.split_held_out(labels, 0.25)
    assert sum(labels[i] == "high" for i in held_out) == 3
    assert sum(labels[i] == "low" for i in held_out) == 22
    assert stage.split_held_out(dict(reversed(labels.items())), 0.25) == held_out
    with pytest.raises(UserError, match=r"1 of 5 files are labelled high.*raise config\.annotate\.max_files"):
        stage.split_held_out({"a": "high", "b": "low", "c": "low", "d": "low", "e": "low"}, 0.5)


# --- The stage -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts():
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"), key=lambda p: p.stat().st_size)
    found = [p.read_text(encoding="utf-8") for p in paths[20 : 20 + FILES - 1]]
    return [*found, "# Nothing that could be embedded.\n"]


@pytest.fixture(scope="module")
def tokenizer(texts):
    return train(texts, SHAPE.vocab_size)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, texts, tokenizer, params):
    """The three artifacts that the stage reads: documents, their grades, and a model of random weights."""
    workdir = tmp_path_factory.mktemp("filter")
    draft = artifact.open_draft(workdir, "collect", "python", {}, {})
    directory = draft.directory / "documents"
    directory.mkdir()
    rows = [
        {"id": documents.document_id(t), "text": t, "source": "s", "path": f"{n}.py", "license": None, "language": "x"}
        for n, t in enumerate(texts)
    ]
    for index, start in enumerate(range(0, FILES, 50)):
        documents.write_part(directory, index, rows[start : start + 50])
    documents.add_output(draft, "documents")
    draft.add_facts(written_by="people")
    collected = draft.commit()

    chosen = Config({"annotate": {"grader": "static", "max_files": 80, "high_share": 0.4}})
    draft = artifact.open_draft(workdir, "annotate", "python", chosen.to_dict(), {"documents": collected})
    annotate(chosen, {"documents": collected}, draft)
    grades = draft.commit()

    draft = artifact.open_draft(workdir, "pretrain", "base", {}, {})
    with Checkpoints(draft.directory / "checkpoints") as checkpoints:
        checkpoints.save(1, {"params": params}, {})
        identity = checkpoints.identity(1)
    artifact.write_json(draft.directory / "model.json", dataclasses.asdict(SHAPE))
    tokenizer.save(Path(draft.directory) / "tokenizer", max_length=SHAPE.max_seq_len)
    draft.add_output("checkpoint", "checkpoints", kind="checkpoint", digest=identity, step=1)
    draft.add_output("model", "model.json")
    draft.add_output("tokenizer", "tokenizer")
    return {"documents": collected, "grades": grades, "model": draft.commit()}


def run(tmp_path, inputs, **rules):
    chosen = Config({"seed": 0, "filter": {**RULES, **rules}})
    draft = artifact.open_draft(tmp_path / "w", "filter", "python", chosen.to_dict(), inputs)
    stage.filter_documents(chosen, inputs, draft)
    return draft.commit()


def scores_of(built):
    return {row["id"]: row for row in documents.read(built.path("scores"), stage._SCORED.names)}


@pytest.fixture(scope="module")
def built(tmp_path_factory, inputs):
    return run(tmp_path_factory.mktemp("built"), inputs)


def test_the_best_are_kept_until_the_budget_is_spent(built, inputs, tokenizer):
    facts, scores = built.facts, scores_of(built)
    kept = list(documents.read(built.path("documents"), (*documents.SCHEMA.names, "score", "tokens")))
    originals = {row["id"]: row for row in documents.read(inputs["documents"].path("documents"))}
    assert {row["id"] for row in kept} == {i for i, row in scores.items() if row["kept"]}
    assert scores.keys() == originals.keys()
    worst = min(row["score"] for row in kept)
    left = [row for row in scores.values() if not row["kept"] and row["score"] is not None]
    assert all(row["score"] <= worst for row in left)
    tokens = {row["id"]: len(tokenizer.encode(row["text"])) for row in kept}
    assert {row["id"]: row["tokens"] for row in kept} == tokens
    assert facts["tokens"] == sum(tokens.values()) <= RULES["token_budget"]
    following = min(left, key=lambda row: (-row["score"], row["id"]))
    assert facts["tokens"] + len(tokenizer.encode(originals[following["id"]]["text"])) > RULES["token_budget"]
    assert facts["bytes"] == sum(len(row["text"].encode()) for row in kept)
    assert facts["threshold"] == worst
    assert (facts["scored"], facts["unscored"]) == (FILES - 1, 1)
    assert facts["kept"] == len(kept) > 3
    assert all(row["score"] == scores[row["id"]]["score"] for row in kept)
    assert (sum(facts["histogram"]), sum(facts["histogram_kept"])) == (FILES - 1, len(kept))


def test_the_figures_are_of_held_out_files(built, inputs):
    facts, scores = built.facts, scores_of(built)
    grades = {row["id"]: row for row in read_grades(inputs["grades"])}
    assert {i: row["grade"] for i, row in scores.items() if row["grade"] is not None} == {
        i: row["grade"] for i, row in grades.items()
    }
    held_out = [i for i, row in scores.items() if row["held_out"]]
    assert 18 <= len(held_out) <= 22
    assert sum(facts["learnt"].values()) + len(held_out) in (79, 80)
    figures = stage.quality([{**grades[i], "score": scores[i]["score"]} for i in held_out])
    assert figures.items() <= facts.items()
    assert (facts["grader"], facts["written_by"]) == ("static", "people")


def test_files_without_a_grade_teach_nothing(tmp_path, inputs):
    """Grades as teachers leave them: some files have none."""
    rows = list(documents.read(inputs["grades"].path("grades"), annotate_stage._GRADED.names))
    without = {row["id"] for row in rows[::8]}
    for row in rows:
        if row["id"] in without:
            row.update(grade=None, reason="no vote: 1 refused")
    draft = artifact.open_draft(tmp_path / "w", "annotate", "python", {"by": "teachers"}, {})
    documents.write_parts(draft.directory / "grades", 1, lambda _: rows, annotate_stage._GRADED, label="grades")
    documents.add_output(draft, "grades")
    draft.add_facts(grader="reader", threshold=inputs["grades"].facts["threshold"])
    taught = run(tmp_path, {**inputs, "grades": draft.commit()})
    facts, scores = taught.facts, scores_of(taught)
    held_out = {i for i, row in scores.items() if row["held_out"]}
    assert not held_out & without
    assert 70 - len(held_out) >= sum(facts["learnt"].values()) >= 68 - len(held_out)
    assert all(scores[i]["grade"] is None for i in without)


def test_examples_are_kept_and_dropped_files_with_their_first_lines(built, inputs):
    scores = scores_of(built)
    texts = {row["id"]: row["text"] for row in documents.read(inputs["documents"].path("documents"))}
    examples = json.loads(built.path("examples").read_text())
    assert examples.keys() == {"kept", "dropped"}
    for side, chosen in examples.items():
        assert len({example["id"] for example in chosen}) == 3
        for example in chosen:
            assert scores[example["id"]]["kept"] == (side == "kept")
            assert example["score"] == scores[example["id"]]["score"]
            assert example["lines"] == from_first_code(texts[example["id"]]).split("\n")[:30]
            assert example["source"] == "s"
            assert example["path"].endswith(".py")


def test_again_and_after_a_kill_it_is_the_same(built, tmp_path, inputs, monkeypatch):
    assert run(tmp_path, inputs).identity == built.identity
    calls = []
    original = stage.make_embed

    def counting(*arguments, **options):
        embed_texts = original(*arguments, **options)

        def embed_and_count(texts):
            calls.append(len(texts))
            return embed_texts(texts)

        return embed_and_count

    monkeypatch.setattr(stage, "make_embed", counting)
    learn = stage.learn
    monkeypatch.setattr(stage, "learn", None)
    with pytest.raises(TypeError):
        run(tmp_path / "killed", inputs)
    assert calls == [50, 50, 20]
    (tmp_path / "killed" / "w" / "filter" / "python.partial" / "embedded" / "part-00001.parquet").unlink()
    monkeypatch.setattr(stage, "learn", learn)
    calls.clear()
    assert run(tmp_path / "killed", inputs).identity == built.identity
    assert calls == [50]


@pytest.mark.parametrize(("budget", "kept"), [(10**9, "abcd"), (11, "abd"), (10, "ab"), (6, "a"), (4, "")])
def test_the_best_files_up_to_the_first_that_exceeds_the_budget(budget, kept):
    files = [("without", None, 0), ("d", 0.2, 1), ("a", 0.9, 5), ("b", 0.5, 5), ("c", 0.1, 1)]
    scored = [{"id": name, "score": score, "tokens": tokens} for name, score, tokens in files]
    assert set(stage.within_budget(scored, budget)) == set(kept)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"token_budget": 1}, r"config\.filter\.token_budget=1: less than the tokens of the best file; raise it"),
        ({"pooling": "max"}, r"config\.filter\.pooling='max'"),
    ],
)
def test_what_cannot_be_is_named(tmp_path, inputs, rules, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, inputs, **rules)
