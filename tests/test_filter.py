"""Filter: the embedding is what it says, the kept set is the best within the budget, again and after a kill."""

import dataclasses
import json
import shutil
import signal
import sysconfig
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from running import MICRO, identities, made_in
from test_distributed import launch

from phi_jax import graph
from phi_jax.config import Config, load
from phi_jax.corpus import annotate as annotate_stage
from phi_jax.corpus import classifier
from phi_jax.corpus import filter as stage
from phi_jax.corpus.annotate import annotate, read_grades
from phi_jax.errors import EXIT_PEER_LOST, UserError
from phi_jax.model.embed import embed
from phi_jax.model.phi import PhiConfig, hidden_states, init_params
from phi_jax.parallel.embedder import bucket, make_embedder
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
    "token_budget": 60_000, "batch_size": 8, "classifier": "forest",
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


def test_an_empty_text_gives_zeros(params):
    tokens = np.zeros((1, 8), np.int32)
    assert not np.asarray(embed(params, tokens, np.zeros(1, np.int32), SHAPE, "mean")).any()


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


def test_a_vector_depends_on_its_text_alone(params):
    """Bit for bit: not on the texts beside it, their order, its place in the batch, nor how many there are."""
    shape = dataclasses.replace(SHAPE, max_seq_len=300)
    embed_tokens = make_embedder(params, shape, Config({"embed_tokens": 300, "pooling": "mean", "batch_size": 3}))
    rng = np.random.default_rng(1)
    lengths = [1, 63, 64, 65, 128, 129, 256, 257, 300, 999, 0, *rng.integers(1, 300, 30).tolist()]
    texts = [rng.integers(0, 512, length).tolist() for length in lengths]
    together = embed_tokens(texts)
    assert np.isnan(together).all(1).tolist() == [length == 0 for length in lengths]
    np.testing.assert_array_equal(embed_tokens(texts[::-1])[::-1], together)
    np.testing.assert_array_equal([embed_tokens([text])[0] for text in texts], together)
    # As without padding, but for the last bits.
    for text, vector in zip(texts[:10], together[:10], strict=True):
        ids = np.array([text[:300]], np.int32)
        np.testing.assert_allclose(
            vector, embed(params, ids, np.array([ids.shape[1]], np.int32), shape, "mean")[0], atol=1e-5
        )


def test_texts_are_padded_to_few_lengths():
    lengths = {bucket(length, 1000) for length in range(1, 2000)}
    assert lengths == {64, 128, 256, 512, 1000}
    assert all(length <= bucket(length, 1000) < max(65, 2 * length) for length in range(1, 1001))


# --- The heads and the split ---------------------------------------------------------------------------------------


def test_heads_learn_what_can_be_learnt_and_do_not_repeat_their_labels():
    rng = np.random.default_rng(0)
    vectors, unseen = (rng.standard_normal((n, 5)).astype(np.float32) for n in (400, 300))
    high, noise = vectors[:, 0] > 1, rng.random(400) < 0.5

    def auc(labels, scores):
        told = zip(labels, scores, strict=True)
        return classifier.roc_auc([{"label": "high" if label else "low", "score": score} for label, score in told])

    for head in ("forest", "linear"):
        rules = Config({"trees": 30, "min_samples_leaf": 1, "classifier": head})
        score, scores, rocs = classifier.learn(vectors, high, rules, 0)
        assert rocs.keys() == {"forest", "linear"}
        assert min(rocs.values()) > 0.97
        assert rocs[head] == auc(high, scores)
        assert auc(unseen[:, 0] > 1, score(unseen)) > 0.97
    score, scores, rocs = classifier.learn(vectors, noise, Config({**rules.to_dict(), "classifier": "forest"}), 0)
    assert max(abs(roc - 0.5) for roc in rocs.values()) < 0.1
    assert rocs["forest"] == auc(noise, scores) < auc(noise, score(vectors)) - 0.4


def test_calibration_is_in_tenths_by_score():
    rows = [{"score": n / 100, "label": "high" if n % 2 or n > 89 else "low"} for n in range(95)]
    tenths = classifier.calibration(rows[::-1])
    assert [files for _, _, files in tenths] == [10] * 5 + [9] * 5
    assert tenths[0] == [0.045, 0.5, 10]
    assert tenths[-1] == [0.9, round(7 / 9, 6), 9]
    assert classifier.calibration(rows[:3]) == [[0.0, 0.0, 1], [0.01, 1.0, 1], [0.02, 0.0, 1]]


def test_the_held_out_share_is_of_each_label_and_of_the_ids_alone():
    labels = {f"{n}": "high" if n < 12 else "low" for n in range(100)}
    held_out = classifier.split_held_out(labels, 0.25)
    assert sum(labels[i] == "high" for i in held_out) == 3
    assert sum(labels[i] == "low" for i in held_out) == 22
    assert classifier.split_held_out(dict(reversed(labels.items())), 0.25) == held_out
    few = {**dict.fromkeys("abc", "low"), **dict.fromkeys("de", "high")}
    with pytest.raises(UserError, match=r"2 of 5 files are labelled high.*raise config\.annotate\.max_files"):
        classifier.split_held_out(few, 0.5)
    assert len(classifier.split_held_out({**few, "f": "high"}, 0.9)) == 2  # of each label two are left


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


def test_the_figures_are_of_held_out_files(built, inputs):
    facts, scores = built.facts, scores_of(built)
    grades = {row["id"]: row for row in read_grades(inputs["grades"])}
    assert {i: row["grade"] for i, row in scores.items() if row["grade"] is not None} == {
        i: row["grade"] for i, row in grades.items()
    }
    held_out = [i for i, row in scores.items() if row["held_out"]]
    assert 18 <= len(held_out) <= 22
    assert sum(facts["learnt"].values()) + len(held_out) in (79, 80)
    assert facts["roc_auc"] == classifier.roc_auc([{**grades[i], "score": scores[i]["score"]} for i in held_out])
    graded = [{**row, "score": scores[i]["score"]} for i, row in grades.items() if scores[i]["score"] is not None]
    assert facts["calibration"] == classifier.calibration(graded)
    assert sum(files for _, _, files in facts["calibration"]) in (79, 80)
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
    assert {side: len({example["id"] for example in chosen}) for side, chosen in examples.items()} == {
        "kept": 3, "dropped": 3, "above": min(10, built.facts["kept"]), "below": 10,
    }  # fmt: skip
    ranking = [row["id"] for row in stage.ranked(scores.values())]
    around = ranking[max(0, built.facts["kept"] - 10) : built.facts["kept"] + 10]
    assert [example["id"] for side in ("above", "below") for example in examples[side]] == around
    for side, chosen in examples.items():
        for example in chosen:
            assert scores[example["id"]]["kept"] == (side in ("kept", "above"))
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


def test_a_linear_head_may_be_chosen_and_both_are_told(built, tmp_path, inputs):
    linear = run(tmp_path, inputs, classifier="linear")
    assert linear.identity != built.identity
    rocs = linear.facts["cross_validated_roc_auc"]
    assert rocs == built.facts["cross_validated_roc_auc"]
    assert rocs["forest"] != rocs["linear"]


def test_the_model_may_be_a_directory(built, tmp_path, inputs):
    """One that no stage of the run made: with the same weights, the same files are kept."""
    others = {name: inputs[name] for name in ("documents", "grades")}
    outside = run(tmp_path, others, model=str(inputs["model"].directory))
    for output in ("documents", "scores"):
        assert outside.manifest["outputs"][output]["sha256"] == built.manifest["outputs"][output]["sha256"]

    values = load(MICRO).to_dict()
    values["filter"]["model"] = f"{tmp_path}/nothing"
    (found,) = graph.select(Config(values), "filter", None)
    assert "model" not in found.inputs
    with pytest.raises(UserError, match=r"nothing"):
        stage.check(Config(values), "python")


@pytest.mark.parametrize(("budget", "kept"), [(10**9, "abcd"), (11, "abd"), (10, "ab"), (6, "a"), (4, "")])
def test_the_best_files_up_to_the_first_that_exceeds_the_budget(budget, kept):
    files = [("without", None, 0), ("d", 0.2, 1), ("a", 0.9, 5), ("b", 0.5, 5), ("c", 0.1, 1)]
    scored = [{"id": name, "score": score, "tokens": tokens} for name, score, tokens in files]
    assert set(stage.within_budget(stage.ranked(scored), budget)) == set(kept)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"token_budget": 1}, r"config\.filter\.token_budget=1: less than the tokens of the best file; raise it"),
    ],
)
def test_what_cannot_be_is_named(tmp_path, inputs, rules, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, inputs, **rules)


# --- Several processes ---------------------------------------------------------------------------------------------


def cut_again(whole, count):
    """Cuts an artifact's documents into `count` parts; they and its identity stay the same."""
    directory, manifest = whole.path("documents"), whole.manifest
    (part,) = documents.parts(directory)
    schema = documents.schema_of(documents.parts(directory)[0])
    rows = list(documents.read_part(part, schema.names))
    for index in range(count):
        documents.write_part(
            directory, index, rows[index * len(rows) // count : (index + 1) * len(rows) // count], schema
        )
        path = documents.part_path(directory, index)
        size, changed_at = path.stat().length, Path(path).stat().st_mtime_ns
        about = {"bytes": size, "changed_at": changed_at, "sha256": artifact.file_digest(path)}
        manifest["files"][str(path.relative_to(whole.directory))] = about
    artifact.write_json(whole.directory / "manifest.json", manifest)


def start_two(micro_run, workdir):
    """Two processes of `phi-jax filter` over five parts, in a work directory that holds what stands before it."""
    if not workdir.exists():
        shutil.copytree(micro_run, workdir)
        shutil.rmtree(workdir / "filter")
        cut_again(artifact.find(workdir, "decontaminate", "raw"), 5)
    arguments = [*MICRO, "--workdir", str(workdir), "--distributed", "env", "--config.training.cpu_devices=1"]
    return launch(2, workdir.with_name("logs"), "-m", "phi_jax.cli", "filter", *arguments)


def test_one_of_two_processes_embeds_every_other_part(built, tmp_path, inputs, monkeypatch):
    """As if there were two, one after the other; below they are."""
    chosen = Config({"seed": 0, "filter": RULES})
    draft = artifact.open_draft(tmp_path, "filter", "python", chosen.to_dict(), inputs)
    for number, there in ((1, {"part-00001.parquet"}), (0, {f"part-0000{n}.parquet" for n in range(3)})):
        other = SimpleNamespace(
            is_connected=lambda: False, index=lambda number=number: number, count=lambda: 2,
            gather=lambda value: [value] * 2, on_leader=lambda work, number=number: None if number else work(),
        )  # fmt: skip
        monkeypatch.setattr(stage, "processes", other)
        stage.filter_documents(chosen, inputs, draft)
        assert {path.name for path in (draft.directory / "embedded").iterdir()} == there
    assert draft.commit().identity == built.identity


@pytest.mark.acceptance
@pytest.mark.timeout(300)
def test_two_processes_share_the_embedding(micro_run, tmp_path):
    workdir = tmp_path / "run"
    two = start_two(micro_run, workdir)
    assert [p.wait() for p in two] == [0, 0], [p.log() for p in two]
    assert len(documents.parts(workdir / "filter" / "python" / "embedded")) == 5
    assert identities(workdir)["filter/python"] == identities(micro_run)["filter/python"]
    assert made_in(two[0].log())
    assert not made_in(two[1].log())


@pytest.mark.acceptance
@pytest.mark.timeout(600)
def test_a_process_that_is_killed_costs_the_parts_in_flight(micro_run, tmp_path):
    workdir = tmp_path / "run"
    two = start_two(micro_run, workdir)
    embedded = workdir / "filter" / "python.partial" / "embedded"
    while not (there := list(embedded.glob("part-*.parquet"))):
        assert all(p.popen.poll() is None for p in two), [p.log() for p in two]
        time.sleep(0.005)
    two[1].signal(signal.SIGKILL)
    assert two[0].wait(120) == EXIT_PEER_LOST, two[0].log()
    assert "process 1 (on" in two[0].log()
    written = {path.name: path.stat().st_mtime_ns for path in there}
    two = start_two(micro_run, workdir)
    assert [p.wait() for p in two] == [0, 0], [p.log() for p in two]
    assert identities(workdir)["filter/python"] == identities(micro_run)["filter/python"]
    whole = workdir / "filter" / "python" / "embedded"
    assert {name: (whole / name).stat().st_mtime_ns for name in written} == written


def test_a_share_of_the_parts_is_written(tmp_path):
    for number in range(2):
        documents.write_parts(
            tmp_path, 5, lambda index: [{"id": f"{index}"}], pa.schema([documents.text_field("id")]),
            label="parts", share=slice(number, None, 2),
        )  # fmt: skip
        found = [row["id"] for row in documents.read(tmp_path, ("id",))]
        assert "".join(found) == ("024", "01234")[number]
