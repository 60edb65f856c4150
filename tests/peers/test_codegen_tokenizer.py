"""CodeGen's tokenizer beside transformers' own, made from GPT-2's files, and our files as transformers reads them."""

import random
import shutil
import sysconfig
from pathlib import Path

import pytest

from phi_jax.tokens.tokenizer import WHITESPACE_RUNS, Tokenizer

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def codegen(shared_data):
    return Tokenizer.load(shared_data / "tokenizer")


@pytest.fixture(scope="module")
def texts():
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    chance = random.Random(0)
    others = [" ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "a", "def f", "'ll", "9", "é", "漢", "🙂", "\0"]
    mixed = ["".join(chance.choices(WHITESPACE_RUNS + others, k=chance.randrange(1, 40))) for _ in range(1000)]
    return [p.read_text(errors="replace") for p in paths[::10]] + mixed


def ids_of(theirs, texts):
    return theirs(texts)["input_ids"]


def test_transformers_codegen_tokenizer_from_the_same_files(transformers, codegen, texts, shared_data, tmp_path):
    shutil.copyfile(shared_data / "tokenizer" / "encoder.json", tmp_path / "vocab.json")
    shutil.copyfile(shared_data / "tokenizer" / "vocab.bpe", tmp_path / "merges.txt")
    theirs = transformers.CodeGenTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == 50_257
    theirs.add_tokens([transformers.AddedToken(run, normalized=True) for run in WHITESPACE_RUNS])
    assert len(theirs) == codegen.vocab_size
    assert codegen.encode_batch(texts) == ids_of(theirs, texts)


@pytest.mark.parametrize("files", ["all", "those of a slow tokenizer"])
def test_our_files_in_transformers(transformers, codegen, texts, tmp_path, files):
    codegen.save(tmp_path, max_length=2048)
    if files != "all":
        (tmp_path / "tokenizer.json").unlink()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "CodeGenTokenizer"
    assert (len(theirs), theirs.eos_token_id, theirs.bos_token_id) == (50_295, 50_256, 50_256)
    assert theirs.model_max_length == 2048
    assert ids_of(theirs, texts) == codegen.encode_batch(texts)
    assert theirs.decode(codegen.encode(texts[0])) == texts[0]
