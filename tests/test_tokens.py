"""Tokenizer, shards and batches: round trips, the stream behind the records, batches as a function of the step."""

import hashlib
import itertools
import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import ROOT

from phi_jax.errors import UserError
from phi_jax.tokens import shards
from phi_jax.tokens.batches import TokenBatches
from phi_jax.tokens.tokenize import is_held_out
from phi_jax.tokens.tokenizer import END_OF_TEXT, WHITESPACE_RUNS, Tokenizer, train

# Not files of ours: the split is by content, so with each change another text would be held out.
TEXTS = [
    p.read_text(encoding="utf-8")
    for name in ("asyncio", "email")
    for p in sorted(Path(sysconfig.get_path("stdlib"), name).glob("*.py"))
]
SPACED = st.lists(st.text() | st.integers(0, 70).map(lambda n: " " * n) | st.integers(0, 20).map(lambda n: "\t" * n))


@pytest.fixture(scope="module")
def tokenizer():
    return train(TEXTS, 600)


# --- Tokenizer -----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(SPACED.map("".join))
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_are_in_codegens_order(tokenizer, tmp_path):
    tokenizer.save(tmp_path, max_length=128)
    tokens = json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"]
    assert [t["content"] for t in tokens] == [END_OF_TEXT, *WHITESPACE_RUNS]
    assert [t["id"] for t in tokens] == list(range(600 - 39, 600))
    assert (tokenizer.vocab_size, tokenizer.end_of_text_id) == (600, 561)
    for run in WHITESPACE_RUNS:
        assert len(tokenizer.encode(f"a{run}b")) == 3
    again = Tokenizer.load(tmp_path)
    assert [again.encode(t) for t in TEXTS] == [tokenizer.encode(t) for t in TEXTS]


def test_no_merge_is_spent_on_runs_of_whitespace(tokenizer, tmp_path):
    tokenizer.save(tmp_path, max_length=128)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    assert not [t for t in vocabulary if len(t) > 1 and set(t) <= {"Ġ", "ĉ"}]


def test_control_token_in_a_document_is_text(tokenizer):
    ids = tokenizer.encode(f"a{END_OF_TEXT}b")
    assert tokenizer.end_of_text_id not in ids
    assert tokenizer.decode(ids) == f"a{END_OF_TEXT}b"


@pytest.mark.parametrize("parallel", ["true", "false"])
def test_the_same_bytes_in_any_process(tokenizer, tmp_path, parallel):
    tokenizer.save(tmp_path / "here", max_length=128)
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_tokens as t\n"
        f"t.train(t.TEXTS, 600).save({str(tmp_path / 'there')!r}, max_length=128)"
    )
    env = {"PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": parallel, "PATH": ""}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True)
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()


def test_wrong_tokenizers_are_named(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        Tokenizer.load(tmp_path)


# --- Shards --------------------------------------------------------------------------------------------------


def write(directory, documents, *, seq_len=7, records_per_shard=5, dtype=np.uint16):
    directory.mkdir(exist_ok=True)
    dtype = np.dtype(dtype)
    writer = shards.SplitWriter(directory, "train", seq_len=seq_len, dtype=dtype, records_per_shard=records_per_shard)
    for ids in documents:
        writer.add(ids)
    totals = writer.close()
    shards.write_metadata({"train": writer}, vocab_size=1000, end_of_text_id=0)
    return totals


def records_of(directory):
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(str(directory)).as_data_source("train")
    return np.stack([source[i]["tokens"] for i in range(len(source))])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30).filter(lambda sizes: sum(sizes) >= 8))
def test_records_are_the_stream(tmp_path_factory, sizes):
    directory = tmp_path_factory.mktemp("tokens")
    starts = np.cumsum([0, *sizes])
    stream = np.arange(1, starts[-1] + 1)
    totals = write(directory, [stream[a:b].tolist() for a, b in itertools.pairwise(starts)])
    records = records_of(directory)
    assert totals["records"] == len(records) == starts[-1] // 8
    assert (totals["documents"], totals["tokens"]) == (len(sizes), starts[-1])
    assert totals["dropped_tokens"] == starts[-1] % 8
    np.testing.assert_array_equal(records.ravel(), stream[: len(records) * 8])


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_wide_vocabularies_take_wide_tokens(tmp_path, dtype):
    top = np.iinfo(dtype).max
    write(tmp_path / "t", [[top] * 16], dtype=dtype)
    records = records_of(tmp_path / "t")
    assert records.dtype == dtype
    assert (records == top).all()


def test_the_same_documents_give_the_same_bytes_and_a_killed_writer_goes_on(tmp_path):
    documents = [list(range(i + 1)) for i in range(40)]
    write(tmp_path / "a", documents)
    write(tmp_path / "b", documents)
    (tmp_path / "c").mkdir()
    killed = shards.SplitWriter(tmp_path / "c", "train", seq_len=7, dtype=np.dtype(np.uint16), records_per_shard=5)
    for ids in documents[:30]:  # ends within a shard
        killed.add(ids)
    assert len(killed.shards) > 3
    assert sum(killed.shards) % 5
    for path in sorted((tmp_path / "b").glob("*.array_record"))[-3:]:
        path.unlink()
    for name in "bc":
        write(tmp_path / name, documents)
        for path in (tmp_path / "a").iterdir():
            assert path.read_bytes() == (tmp_path / name / path.name).read_bytes(), path.name
        assert len([*(tmp_path / "a").iterdir()]) == len([*(tmp_path / name).iterdir()])


def test_held_out_documents_are_a_fair_share_of_any_sample():
    identifiers = [hashlib.sha256(str(i).encode()).hexdigest()[:32] for i in range(20_000)]
    lowest = sorted(identifiers)[:4000]
    for sample in (identifiers, lowest):
        share = sum(is_held_out(i, 0.05) for i in sample) / len(sample)
        assert abs(share - 0.05) < 0.012


def test_tensorflow_is_never_imported(tmp_path):
    write(tmp_path / "t", [list(range(200))])
    code = (
        "import sys; from phi_jax.tokens.batches import TokenBatches\n"
        f"TokenBatches({{{str(tmp_path / 't')!r}: 1.0}}, split='train', global_batch_size=2, seed=0).batch(0)\n"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- Batches -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("batches") / "t"
    write(directory, [[i // 8 for i in range(8 * 37)]])  # record i holds the number i
    return directory


def batches(directory, **kwargs):
    weights = directory if isinstance(directory, dict) else {directory: 1.0}
    return TokenBatches(weights, **{"split": "train", "global_batch_size": 4, "seed": 0, **kwargs})


def test_a_batch_is_a_function_of_seed_and_step(directory):
    one, other = batches(directory), batches(directory)
    assert [n.tolist() for _, n in one.iterate(4, 4)] == []
    streamed = [numbers.tolist() for (_, numbers), _ in zip(one.iterate(3, 12), range(9), strict=True)]
    assert streamed == [other.batch(step)[1].tolist() for step in range(3, 12)]
    assert batches(directory, seed=1).batch(0)[1].tolist() != other.batch(0)[1].tolist()


def test_tokens_are_those_of_the_records_named(directory):
    for step in (0, 5, 100):
        tokens, numbers = batches(directory).batch(step)
        assert tokens.shape == (4, 8)
        assert tokens.dtype == np.int32
        assert (tokens == numbers[:, None]).all()


@pytest.mark.parametrize("rows", [[0, 1], [1, 3], [2]])
def test_a_process_reads_its_rows_of_the_global_batch(directory, second, rows):
    for sources in (directory, {directory: 0.5, second: 0.5}):
        for step in (0, 7, 30):
            tokens, numbers = batches(sources).batch(step)
            part_tokens, part_numbers = batches(sources, rows=rows).batch(step)
            assert part_numbers.tolist() == numbers[rows].tolist()
            assert (part_tokens == tokens[rows]).all()
            assert batches(sources, rows=rows).record_numbers(step) == numbers.tolist()


def test_an_epoch_holds_each_record_once(directory):
    numbers = np.concatenate([batches(directory).batch(step)[1] for step in range(37)])
    for epoch in numbers.reshape(4, 37):
        assert sorted(epoch) == list(range(37))
    assert numbers[:37].tolist() != numbers[37:74].tolist()


def test_golden_record_ids(directory, second):
    """Renewing these means that no run made before resumes on the data it would have seen."""
    golden = json.loads((ROOT / "tests/golden/batches.json").read_text())
    for name, sources in (("one set", directory), ("mixture", {directory: 0.75, second: 0.25})):
        found = {str(step): batches(sources).record_numbers(step) for step in (0, 1, 1000)}
        assert found == golden[name], f"{name}: {found}"


def test_validation_is_in_order(directory):
    assert batches(directory, shuffle=False).batch(1)[1].tolist() == [4, 5, 6, 7]


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """Another set, of 16 records that hold 100 and following."""
    directory = tmp_path_factory.mktemp("second") / "t"
    write(directory, [[100 + i // 8 for i in range(8 * 16)]])
    return directory


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_mixture_holds_each_set_by_its_weight(directory, second, share):
    mixed = batches({directory: 1 - share, second: share})
    tokens, numbers = map(np.concatenate, zip(*(mixed.batch(step) for step in range(250)), strict=True))
    of_second = tokens[:, 0] >= 100
    assert abs(of_second.mean() - share) < 0.01
    assert (numbers[of_second] == tokens[of_second, 0] - 100 + 37).all()
    assert (numbers[~of_second] == tokens[~of_second, 0]).all()
    for chosen, count in ((of_second, 16), (~of_second, 37)):
        first_epoch = numbers[chosen][:count]
        assert len(set(first_epoch)) == min(count, len(first_epoch))


def test_sets_of_other_lengths_or_vocabularies_do_not_mix(directory, tmp_path):
    write(tmp_path / "t", [list(range(200))], seq_len=9)
    with pytest.raises(
        UserError, match=r"seq_len, vocabulary and end of text .* differ .* tokenize both with the same tokenizer"
    ):
        batches({directory: 0.5, tmp_path / "t": 0.5})


def test_what_cannot_be_batched_is_named(directory, tmp_path):
    with pytest.raises(UserError, match="37 records, less than one batch of 64"):
        batches(directory, global_batch_size=64)
    with pytest.raises(UserError, match="phi-jax tokenize"):
        batches(tmp_path)


def test_a_corrupt_shard_is_an_error_that_names_the_remedy(directory, tmp_path):
    import shutil

    broken = shutil.copytree(directory, tmp_path / "t")
    for shard in broken.glob("*.array_record"):
        data = bytearray(shard.read_bytes())
        data[40:200] = bytes(b ^ 0xFF for b in data[40:200])
        shard.write_bytes(data)

    def read_all():
        for step in range(9):
            batches(broken).batch(step)

    with pytest.raises(UserError, match="rebuild with `phi-jax tokenize`"):
        read_all()
