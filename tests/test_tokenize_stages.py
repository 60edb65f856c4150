"""Stages `tokenize/tokenizer` and `tokenize/<set>`: which texts are learnt from, copies, splits, and what is said."""

import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from running import ROOT

from phi_jax import config, progress
from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store import artifact, documents
from phi_jax.tokens import shards
from phi_jax.tokens import tokenize as stage
from phi_jax.tokens.batches import TokenBatches
from phi_jax.tokens.tokenizer import Tokenizer, train

# Not files of ours: the split is by content, so with each change another text would be held out.
TEXTS = [
    p.read_text(encoding="utf-8")
    for name in ("asyncio", "email")
    for p in sorted(Path(sysconfig.get_path("stdlib"), name).glob("*.py"))
]
RULES = {
    "tokenizer": "", "learn_on": ("raw",), "vocab_size": 640, "train_bytes": 1000, "seq_len": 64,
    "validation_fraction": 0.1, "shard_tokens": 10_000,
}  # fmt: skip


@pytest.fixture(scope="module")
def small():
    return train(TEXTS, 600)


def collected(workdir, texts, name="python", outputs=("documents",)):
    """An artifact whose outputs hold the texts."""
    draft = artifact.open_draft(workdir, "collect", name, {}, {})
    for output in outputs:
        rows = [
            {"id": documents.document_id(t), "text": t, "source": "s", "path": "p", "license": None, "language": "x"}
            for t in texts
        ]
        documents.write_parts(draft.directory / output, 1, lambda _, rows=rows: rows, label="rows")
        documents.add_output(draft, output)
    draft.add_facts(written_by="people")
    return draft.commit()


def make_tokenizer(workdir, inputs=None, **rules):
    chosen = Config({"tokenize": {**RULES, **rules}})
    draft = artifact.open_draft(workdir, "tokenize", "tokenizer", chosen.to_dict(), inputs or {})
    stage.make_tokenizer(chosen, inputs or {}, draft)
    return draft.commit()


def tokenize(workdir, texts, name="raw", outputs=("documents",), tokenizer=None, **rules):
    """The artifact of `tokenize/<name>`; with the tokenizer at the path `tokenizer`, or one learnt on the texts."""
    rules = {"tokenizer": str(tokenizer or ""), "learn_on": (name,), **rules}
    source = collected(workdir, texts, outputs=outputs)
    made = make_tokenizer(workdir, {} if tokenizer else {name: source}, **rules)
    inputs = {"documents": source, "tokenizer": made}
    chosen = Config({"tokenize": {**RULES, **rules}})
    draft = artifact.open_draft(workdir, "tokenize", name, chosen.to_dict(), inputs)
    stage.tokenize(chosen, inputs, draft)
    return draft.commit()


# --- The tokenizer -------------------------------------------------------------------------------------------------


@given(st.lists(st.text("ab", max_size=9), min_size=1, max_size=12, unique=True), st.integers(1, 40))
def test_what_is_learnt_from_is_the_lowest_ids_up_to_the_limit(tmp_path_factory, texts, limit):
    rows = [{"id": documents.document_id(t), "text": t} for t in texts]
    directory = tmp_path_factory.mktemp("sample")
    documents.write_part(directory, 0, rows, documents.SCHEMA.empty_table().select(["id", "text"]).schema)
    expected, left = [], limit
    for row in sorted(rows, key=lambda row: row["id"]):
        if left > 0:
            expected.append(row["text"])
            left -= len(row["text"])
    assert list(stage._sample_texts(directory, limit)) == expected


def test_it_is_learnt_on_the_sets_named_in_their_order(tmp_path):
    first = collected(tmp_path, TEXTS[:10])
    second = collected(tmp_path, TEXTS[10:20], "other", ("textbooks", "exercises"))
    inputs = {"raw": first, "teacher.textbooks": second}
    made = make_tokenizer(tmp_path, inputs, learn_on=("raw", "teacher.textbooks"), train_bytes=10**9, vocab_size=400)
    by_id = [sorted(texts, key=documents.document_id) for texts in (TEXTS[:10], TEXTS[10:20])]
    expected = train(by_id[0] + by_id[1], 400)
    assert Tokenizer.load(Path(made.path("tokenizer"))).backend.to_str() == expected.backend.to_str()
    assert made.facts["origin"] == "learnt on raw, teacher.textbooks"


def test_another_tokenizer_under_the_same_path_is_another_artifact(small, tmp_path):
    small.save(tmp_path / "given", max_length=64)
    first, again = (make_tokenizer(tmp_path / n, tokenizer=str(tmp_path / "given")) for n in "ab")
    train(TEXTS[:9], 600).save(tmp_path / "given", max_length=64)
    other = make_tokenizer(tmp_path / "c", tokenizer=str(tmp_path / "given"))
    assert first.identity == again.identity != other.identity


def test_the_banner_says_why_the_core_is_the_slow_one(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "verbose", True)
    state = json.loads(small.backend.to_str())
    state["model"]["ignore_merges"] = True
    Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(state))).save(tmp_path / "given", max_length=64)
    made = make_tokenizer(tmp_path, tokenizer=str(tmp_path / "given"))
    assert "600 entries, computed by tokenizers (its BPE has ignore_merges)\n" in capsys.readouterr().err
    assert made.facts["core"] == "tokenizers"


def test_a_tokenizer_that_does_not_fit_or_is_not_there_is_one_line(small, tmp_path):
    small.save(tmp_path / "given", max_length=64)
    with pytest.raises(UserError, match=r"vocab_size=599: the tokenizer .*given has more entries, 600; make it that"):
        make_tokenizer(tmp_path, tokenizer=str(tmp_path / "given"), vocab_size=599)
    with pytest.raises(UserError, match="neither a directory here"):
        make_tokenizer(tmp_path, tokenizer=str(tmp_path / "~nowhere"))


def test_the_papers_sizes(shared_data):
    """50,295 entries in an embedding of 51,200, which two bytes hold (paper, section 2.3)."""
    codegen = Tokenizer.load(shared_data / "tokenizer")
    for name in ("phi_1", "phi_1_small"):
        rules = config.load(["--config", f"{ROOT}/configs/{name}.py"]).tokenize
        assert rules.tokenizer == "Salesforce/codegen-350M-mono"
        assert codegen.vocab_size <= rules.vocab_size == 51_200 <= np.iinfo(np.uint16).max


# --- The tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vocab_size", "dtype"), [(600, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_a_given_tokenizer_is_copied_and_the_vocabulary_is_the_configs(
    small, tmp_path, capsys, monkeypatch, vocab_size, dtype
):
    monkeypatch.setattr(progress, "verbose", True)
    small.save(tmp_path / "given", max_length=64)
    made = tokenize(tmp_path, TEXTS[:20], tokenizer=tmp_path / "given", vocab_size=vocab_size)
    about = shards.metadata(Path(made.path("tokens")))
    assert (about["vocab_size"], about["dtype"], about["end_of_text_id"]) == (vocab_size, dtype, 561)
    for path in (tmp_path / "given").iterdir():
        assert (Path(made.path("tokenizer")) / path.name).read_bytes() == path.read_bytes()
    said = capsys.readouterr().err
    assert f"tokenize/tokenizer: tokenizer {tmp_path / 'given'}, 600 entries, computed by tiktoken\n" in said
    assert (made.facts["vocab_size"], made.facts["written_by"]) == (vocab_size, "people")


def test_each_document_is_in_one_split_and_the_text_comes_back(tmp_path):
    made = tokenize(tmp_path, TEXTS[:40], seq_len=16, shard_tokens=1000)
    tokenizer, facts = Tokenizer.load(Path(made.path("tokenizer"))), made.facts
    for split, held_out in (("train", False), ("validation", True)):
        texts = [t for t in TEXTS[:40] if stage.is_held_out(documents.document_id(t), 0.1) == held_out]
        stream = [i for t in texts for i in [*tokenizer.encode(t), tokenizer.end_of_text_id]]
        batches = TokenBatches(
            {Path(made.path("tokens")): 1.0}, split=split, global_batch_size=1, seed=0, shuffle=False
        )
        assert batches.num_records == facts[split]["records"] == len(stream) // 17
        found = [i for step in range(batches.num_records) for i in batches.batch(step)[0][0].tolist()]
        assert found == stream[: len(found)]
        assert facts[split]["documents"] == len(texts)
        assert facts[split]["tokens"] == len(found) + facts[split]["dropped_tokens"] == len(stream)
    assert facts["tokens"] == facts["train"]["tokens"] + facts["validation"]["tokens"]


def test_a_set_named_by_its_output(tmp_path):
    made = tokenize(tmp_path, TEXTS[:40], "teacher.textbooks", ("textbooks",))
    assert made.facts["train"]["records"] > 0
    assert stage.output_of("raw") == "documents"


@pytest.mark.parametrize(
    ("texts", "rules", "message"),
    [
        (TEXTS[:3], {"validation_fraction": 1e-9}, r"split validation hold less than .*raise config\.tokenize\.valid"),
        (["x = 1\n"] * 1, {"validation_fraction": 1.0}, r"split train hold less than one record of 65.*lower"),
        (["x = 1\n", "y = 2\n"], {"validation_fraction": 1.0}, r"split train hold less"),
    ],
)
def test_too_few_documents_are_an_error(tmp_path, texts, rules, message, monkeypatch):
    monkeypatch.setattr(stage, "write_metadata", None)
    with pytest.raises(UserError, match=message):
        tokenize(tmp_path, texts, **rules)


def test_without_a_validation_split(tmp_path):
    made = tokenize(tmp_path, TEXTS[:5], validation_fraction=0.0)
    assert made.facts["validation"]["documents"] == 0
    with pytest.raises(UserError, match="split validation holds nothing"):
        TokenBatches({Path(made.path("tokens")): 1.0}, split="validation", global_batch_size=1, seed=0)
