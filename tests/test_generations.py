"""How far training text is from people's: counted with the tokens, mixed by weight, held above a floor, told."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import MICRO, phi_jax

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store import documents
from phi_jax.store.artifact import open_draft
from phi_jax.tokens import generations
from phi_jax.tokens.shards import tokenize


def facts(run, label):
    return json.loads((run / label / "manifest.json").read_text())["facts"]


def of(tokens):
    """The facts of a token artifact, by its tokens of each generation."""
    return {"train": {"generations": generations.counted(tokens)}}


def test_the_shares_of_a_mixture_are_those_of_its_records():
    people, written = of({0: 700, 1: 300}), of({1: 1, 2: 3})
    assert generations.mixed([(people, 0.75), (written, 0.25)]) == {"0": 0.525, "1": 0.2875, "2": 0.1875}
    assert generations.mixed([(people, 1.0), (written, 0.0)]) == {"0": 0.7, "1": 0.3}
    made_elsewhere = {"train": {"tokens": 5}}
    assert generations.mixed([(people, 0.5), (made_elsewhere, 0.5)]) == {"0": 0.35, "1": 0.15, "unknown": 0.5}
    assert list(generations.counted({None: 1, 10: 1, 2: 1, 0: 1})) == ["0", "2", "10", "unknown"]


_TOKENS = st.dictionaries(st.none() | st.integers(0, 127), st.integers(1, 10**12), min_size=1)


@given(st.lists(st.tuples(_TOKENS, st.floats(0.01, 1)), min_size=1, max_size=4))
def test_shares_sum_to_one(sources):
    total = sum(weight for _, weight in sources)
    shares = generations.mixed((of(tokens), weight / total) for tokens, weight in sources)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert set(shares) == {generation for tokens, _ in sources for generation in generations.counted(tokens)}


def test_what_is_unknown_is_not_peoples():
    generations.check_floor({"0": 0.5, "unknown": 0.5}, 0.5, "pretrain/base")
    with pytest.raises(UserError) as error:
        generations.check_floor({"0": 0.499, "1": 0.25, "unknown": 0.251}, 0.5, "pretrain/base")
    assert str(error.value) == (
        "config.mixture.min_real=0.5: of the tokens of pretrain/base only 49.9 % were written by people, 25.0 % are of "
        "generation 1, 25.1 % are of unknown origin; lower config.mixture.textbooks, or config.mixture.min_real if it "
        "is meant so"
    )
    for floor in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match=r"config\.mixture\.min_real=.*: a share of the tokens"):
            generations.check_floor({"0": 1.0}, floor, "pretrain/base")


@pytest.mark.parametrize(
    ("trainings", "written"),
    [
        ([{"0": 1.0}], 1),
        ([{"0": 0.8, "1": 0.2}, {"1": 1.0}], 2),
        ([{"0": 1.0}, {"2": 0.1, "0": 0.9}], 3),
        ([{"0": 1.0}, {"unknown": 0.01, "0": 0.99}], None),
        ([], None),
    ],
)
def test_what_a_model_writes_is_a_generation_further(trainings, written):
    assert generations.of_writings(trainings) == written


def test_each_document_counts_by_its_column(tmp_path):
    draft = open_draft(tmp_path, "decontaminate", "nano", {}, {})
    schema = documents.SCHEMA.append(documents.GENERATION)
    directory = draft.directory / "documents"
    directory.mkdir()
    texts = {f"x{n} = {n}\n" * 30: (None, 0, 1, 2)[n % 4] for n in range(40)}
    documents.write_part(
        directory,
        0,
        [
            {"id": documents.document_id(text), "text": text, "source": "s", "path": "p", "license": None,
             "language": "python", "generation": generation}
            for text, generation in texts.items()
        ],
        schema,
    )  # fmt: skip
    draft.add_output("documents", "documents", kind="documents", digest=documents.digest(directory), rows=len(texts))
    draft.add_facts(bytes=sum(len(text.encode()) for text in texts))
    rules = {"tokenizer": "", "vocab_size": 300, "train_bytes": 10**6, "seq_len": 16, "validation_fraction": 0.2,
             "shard_tokens": 1000}  # fmt: skip
    made = open_draft(tmp_path, "tokenize", "raw", {"tokenize": rules}, {})
    tokenize(Config({"tokenize": rules}), {"documents": draft.commit()}, made)
    found = made.commit().facts
    for split in ("train", "validation"):
        assert sum(found[split]["generations"].values()) == found[split]["tokens"]
    assert list(found["train"]["generations"]) == ["0", "1", "2", "unknown"]


def test_nanos_models_know_what_they_learnt_from(micro_run):
    assert list(facts(micro_run, "tokenize/raw")["train"]["generations"]) == ["0"]
    assert facts(micro_run, "pretrain/raw")["generations"] == {"0": 1.0}
    assert facts(micro_run, "pretrain/base")["generations"] == {"0": 0.25, "1": 0.75}
    assert facts(micro_run, "finetune/finetuned")["generations"] == {"1": 1.0}


def test_too_little_of_peoples_text_is_not_trained_on(micro_run, tmp_path):
    for label in ("tokenize/filtered", "tokenize/textbooks"):
        shutil.copytree(micro_run / label, tmp_path / "w" / label)
    done = phi_jax("pretrain", *MICRO, "--name", "base", "--workdir", tmp_path / "w",
                   "--config.mixture.min_real=0.3", check=False)  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert (
        "config.mixture.min_real=0.3: of the tokens of pretrain/base only 25.0 % were written by people, 75.0 %"
        in (done.stderr.splitlines()[-1])
    )
    assert not (tmp_path / "w" / "pretrain" / "base").exists()
