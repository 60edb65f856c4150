"""Stage `tokenize` with a tokenizer that the config names: its copy, the vocabulary's size, the line that says so."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from running import ROOT

from phi_jax import config
from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store import artifact, documents
from phi_jax.tokens import shards
from phi_jax.tokens.tokenizer import Tokenizer, train

TEXTS = [p.read_text() for p in sorted((ROOT / "phi_jax").rglob("*.py"))]


@pytest.fixture(scope="module")
def small():
    return train(TEXTS, 600)


def tokenize(tmp_path, tokenizer, **rules):
    """The artifact of a stage that is given a tokenizer."""
    draft = artifact.open_draft(tmp_path / "w", "collect", "python", {}, {})
    (draft.directory / "documents").mkdir()
    rows = [
        {"id": documents.document_id(t), "text": t, "source": "s", "path": "p", "license": None, "language": "python"}
        for t in TEXTS[:20]
    ]
    documents.write_part(draft.directory / "documents", 0, rows)
    digest = documents.digest(draft.directory / "documents")
    draft.add_output("documents", "documents", kind="documents", digest=digest, rows=len(rows))
    draft.add_facts(bytes=sum(len(t.encode()) for t in TEXTS[:20]))
    inputs = {"documents": draft.commit()}
    chosen = Config({"tokenize": {
        "tokenizer": str(tokenizer), "vocab_size": 640, "train_bytes": 1000, "seq_len": 64, "validation_fraction": 0.1,
        "shard_tokens": 10_000, **rules,
    }})  # fmt: skip
    draft = artifact.open_draft(tmp_path / "w", "tokenize", "raw", chosen.to_dict(), inputs)
    shards.tokenize(chosen, inputs, draft)
    return draft.commit()


@pytest.mark.parametrize(("vocab_size", "dtype"), [(600, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_a_given_tokenizer_is_copied_and_the_vocabulary_is_the_configs(small, tmp_path, capsys, vocab_size, dtype):
    small.save(tmp_path / "given", max_length=64)
    made = tokenize(tmp_path, tmp_path / "given", vocab_size=vocab_size)
    about = shards.metadata(made.path("tokens"))
    assert (about["vocab_size"], about["dtype"], about["end_of_text_id"]) == (vocab_size, dtype, 561)
    for path in (tmp_path / "given").iterdir():
        assert (Path(made.path("tokenizer")) / path.name).read_bytes() == path.read_bytes()
    said = capsys.readouterr().err
    assert f"tokenize/raw: tokenizer {tmp_path / 'given'}, 600 entries, computed by tiktoken\n" in said
    facts = {name: made.facts[name] for name in ("vocab_size", "tokenizer_entries", "tokenizer_core")}
    assert facts == {"vocab_size": vocab_size, "tokenizer_entries": 600, "tokenizer_core": "tiktoken"}


def test_another_tokenizer_under_the_same_path_is_another_artifact(small, tmp_path):
    small.save(tmp_path / "given", max_length=64)
    first = tokenize(tmp_path / "a", tmp_path / "given")
    again = tokenize(tmp_path / "b", tmp_path / "given")
    train(TEXTS[:9], 600).save(tmp_path / "given", max_length=64)
    other = tokenize(tmp_path / "c", tmp_path / "given")
    assert first.key == again.key == other.key
    assert first.identity == again.identity != other.identity


def test_the_banner_says_why_the_core_is_the_slow_one(small, tmp_path, capsys):
    state = json.loads(small.backend.to_str())
    state["model"]["ignore_merges"] = True
    Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(state))).save(tmp_path / "given", max_length=64)
    made = tokenize(tmp_path, tmp_path / "given")
    assert "600 entries, computed by tokenizers (its BPE has ignore_merges)\n" in capsys.readouterr().err
    assert made.facts["tokenizer_core"] == "tokenizers"


def test_a_tokenizer_larger_than_the_embedding_is_one_line(small, tmp_path):
    small.save(tmp_path / "given", max_length=64)
    with pytest.raises(UserError, match=r"vocab_size=599: the tokenizer .*given has more entries, 600; make it that"):
        tokenize(tmp_path, tmp_path / "given", vocab_size=599)
    with pytest.raises(UserError, match="neither a directory here"):
        tokenize(tmp_path, tmp_path / "~nowhere")


def test_the_papers_sizes(shared_data):
    """50,295 entries in an embedding of 51,200, which two bytes hold (paper, section 2.3)."""
    codegen = Tokenizer.load(shared_data / "tokenizer")
    for name in ("phi_1", "phi_1_small"):
        rules = config.load(["--config", f"{ROOT}/configs/{name}.py"]).tokenize
        assert rules.tokenizer == "Salesforce/codegen-350M-mono"
        assert codegen.vocab_size <= rules.vocab_size == 51_200 <= np.iinfo(np.uint16).max
