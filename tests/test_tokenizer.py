"""CodeGen's tokenizer: ids beside a reference that is built here, files in all their forms, and both cores."""

import gzip
import itertools
import json
import random
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from published import hub
from running import ROOT
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from phi_jax.errors import UserError
from phi_jax.tokens import fast_core, tokenizer_files
from phi_jax.tokens.tokenizer import END_OF_TEXT, Tokenizer, train

# Not files of ours: the split is by content, so with each change another text would be held out.
TEXTS = [
    p.read_text(encoding="utf-8")
    for name in ("asyncio", "email")
    for p in sorted(Path(sysconfig.get_path("stdlib"), name).glob("*.py"))
]
RUNS = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
# What regular expressions, runs and byte-level alphabets trip over, among any text.
PIECES = st.one_of(
    st.text(),
    st.integers(0, 70).map(lambda n: " " * n),
    st.integers(0, 20).map(lambda n: "\t" * n),
    st.text(" \t\n\r\v\f\x00\x1c\x85\u00a0\u1680\u2003\u2028\u3000\u200b\ufeff"),
    st.sampled_from(["'s", "'ll", "'LL", END_OF_TEXT, "def f(x):\n", "    return", "e\u0301", "漢字", "١٢", "½", "🙂"]),
)
UNICODE = st.lists(PIECES, max_size=12).map("".join)

PROBE = '''\
class Heap(list):
    """It's a heap: they've 2**n nodes; don't, I'm, we'd, you'll, they're, IT'LL.

    Größe, 大小, размер, π ≈ 3½, Ⅷ, ١٢, e\u0301."""

\tdef push(self, item, *, key=lambda x: -x[0]):  # O(log n)
\t\tself.append(item); i = len(self) - 1
        while i > 0 and key(self[(i - 1) // 2]) < key(self[i]):\r
            self[i], self[(i - 1) // 2] = self[(i - 1) // 2], self[i]


if __name__ == "__main__":
    print(f"{1_000_000:>12,.2f}", b"\\x00\\xff", r"^\\s+(?!\\S)", sep="\\n" * 2 + "   \\t")
'''


def reference_of(shared_data):
    """As transformers' CodeGenTokenizerFast is made; a literal <|endoftext|> is text, as everywhere here."""
    vocabulary = json.loads((shared_data / "tokenizer" / "encoder.json").read_text())
    merges = (shared_data / "tokenizer" / "vocab.bpe").read_text().split("\n")[1:-1]
    reference = tokenizers.Tokenizer(models.BPE(vocabulary, [tuple(m.split()) for m in merges]))
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    reference.decoder = decoders.ByteLevel()
    reference.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False)])
    reference.add_tokens([AddedToken(run, normalized=True) for run in RUNS])
    reference.encode_special_tokens = True
    return reference


@pytest.fixture(scope="module")
def reference(shared_data):
    return reference_of(shared_data)


@pytest.fixture(scope="module")
def codegen(shared_data):
    tokenizer = Tokenizer.load(shared_data / "tokenizer")
    assert (tokenizer.core, tokenizer.fast[1]) == ("tiktoken", "")
    return tokenizer


@pytest.fixture(scope="module")
def small():
    return train(TEXTS, 600)


def ids_of(backend, texts):
    return [e.ids for e in backend.encode_batch_fast(texts, add_special_tokens=False)]


# --- Ids -----------------------------------------------------------------------------------------------------


def test_codegens_entries_and_their_ids(codegen):
    assert (codegen.vocab_size, codegen.end_of_text_id) == (50_295, 50_256)
    assert [codegen.encode(f"a{run}b")[1] for run in RUNS] == list(range(50_257, 50_295))
    # From the model card's and the documentation's examples of CodeGen and GPT-2.
    assert codegen.encode("Hello world") == [15496, 995]
    assert codegen.encode("    return") == [50_284, 7783]


def benchmark_texts(shared_data):
    with gzip.open(shared_data / "eval" / "HumanEval.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    rows += [json.loads(line) for line in (shared_data / "eval" / "mbpp.jsonl").read_text().splitlines()]
    values = [value for row in rows for value in row.values()]
    return [v for v in values if isinstance(v, str)] + [t for v in values if isinstance(v, list) for t in v]


def standard_library():
    paths = sorted(p for p in STANDARD_LIBRARY.rglob("*.py") if "site-packages" not in p.parts)
    return [p.read_bytes().decode(errors="replace") for p in paths]


def test_ids_on_humaneval_and_mbpp(codegen, reference, shared_data):
    texts = benchmark_texts(shared_data)
    assert len(texts) > 5000
    assert codegen.encode_batch(texts) == ids_of(reference, texts)


def test_ids_on_the_standard_library(codegen, reference):
    texts = standard_library()[::40]
    assert codegen.encode_batch(texts) == ids_of(reference, texts)
    assert [codegen.encode(t) for t in texts[:20]] == ids_of(reference, texts[:20])


@settings(max_examples=500, deadline=None)
@given(UNICODE)
def test_ids_of_any_text(codegen, reference, text):
    ids = codegen.encode(text)
    assert ids == reference.encode(text, add_special_tokens=False).ids
    assert codegen.decode(ids) == text


def test_both_regular_expressions_know_the_same_classes_of_characters(codegen, reference):
    """Every character of the planes that have letters, in every place where its class decides."""
    characters = [chr(c) for c in (*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x33480, 7))]
    lines = ["".join(f"x{c}1{c} {c}.{c}" for c in characters[i : i + 1000]) for i in range(0, len(characters), 1000)]
    assert codegen.encode_batch(lines) == ids_of(reference, lines)


LONG = {
    "letters": "a" * 200_000,
    "letters of any kind": "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyzé", k=200_000)),
    "one sign": "=" * 200_000 + "x",
    "spaces": "x" + " " * 1_000_001 + "x",
    "lines": "\n" * 1_000_000 + "x",
    "lines, as many as tiktoken takes": "\n" * fast_core._LONG_TEXT,
    "mixed whitespace": "\n\t" * 500_000 + "x",
    "kinds of whitespace": "".join(random.Random(0).choices(["\n", " \n", "\t\n", "\r", "\u2003"], k=500_000)),
}


@pytest.mark.parametrize("kind", LONG)
def test_very_long_pieces(codegen, reference, kind):
    """tiktoken's regular expressions end a process with a panic at a million characters of whitespace."""
    expected = reference.encode(LONG[kind], add_special_tokens=False).ids
    assert codegen.encode(LONG[kind]) == expected
    assert codegen.encode_batch(["x", LONG[kind], "  y"])[1:] == [expected, codegen.encode("  y")]


@pytest.mark.parametrize("core", ["tiktoken", "tokenizers"])
def test_a_lone_surrogate_is_one_clear_line(small, core):
    tokenizer = small if core == "tiktoken" else changed(small, lambda state: state["model"].update(dropout=0.1))
    assert tokenizer.core == core
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch(["x", text])):
        with pytest.raises(UserError, match=r"lone surrogate, U\+DCFF at character 2"):
            encode("ab\udcff")


# --- Which core ----------------------------------------------------------------------------------------------


def changed(tokenizer, change):
    state = json.loads(tokenizer.backend.to_str())
    change(state)
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(state)))


def shuffle_merges(state):
    """In an order in which every merge still comes after those of its parts: another tokenizer, of the same entries."""
    merges = state["model"]["merges"]
    singles = [m for m in merges if all(len(part) == 1 for part in m)]
    random.Random(0).shuffle(singles)
    state["model"]["merges"] = singles + [m for m in merges if m not in singles]


def cut_otherwise(state):
    """As GPT-4's tokenizer does."""
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    pattern = Regex(words + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")
    cut = pre_tokenizers.Split(pattern, behavior="isolated")
    own = tokenizers.Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    state["pre_tokenizer"] = json.loads(own.to_str())["pre_tokenizer"]


def normalize(state):
    own = tokenizers.Tokenizer(models.BPE())
    own.normalizer = normalizers.NFC()
    state["normalizer"] = json.loads(own.to_str())["normalizer"]


def add_token(state):
    state["added_tokens"].append({**state["added_tokens"][-1], "id": 600, "content": "self."})


def strip_around_runs(state):
    state["added_tokens"][5]["lstrip"] = True


def lose_a_run(state):
    del state["added_tokens"][-1]


def cut_out_in_two_rounds(state):
    state["added_tokens"][-1]["normalized"] = False


def make_an_entry_twice(state):
    """abc, made of (ab, c) and of (a, bc)."""
    vocabulary = state["model"]["vocab"]
    at = len(vocabulary)
    vocabulary.update({"QX": at, "XZ": at + 1, "QXZ": at + 2})
    state["model"]["merges"] += [["Q", "X"], ["X", "Z"], ["QX", "Z"], ["Q", "XZ"]]
    renumber(state)


def make_an_entry_that_is_never_reached(state):
    """QXZ of (QX, Z), where (X, Z) comes first: of the bytes QXZ the list makes Q, XZ, and tiktoken the entry."""
    vocabulary = state["model"]["vocab"]
    at = len(vocabulary)
    vocabulary.update({"XZ": at, "QX": at + 1, "QXZ": at + 2})
    state["model"]["merges"] += [["X", "Z"], ["Q", "X"], ["QX", "Z"]]
    renumber(state)


def add_an_entry_without_merge(state):
    state["model"]["vocab"]["QXZ"] = len(state["model"]["vocab"])
    renumber(state)


def renumber(state):
    for number, token in enumerate(state["added_tokens"], len(state["model"]["vocab"])):
        token["id"] = number


def option(**values):
    return lambda state: state["model"].update(values)


OTHERS = {
    "shuffled merges": (shuffle_merges, "ids do not ascend"),
    "another regular expression": (cut_otherwise, "does not cut texts as GPT-2"),
    "a normalizer": (normalize, r"normalizes \(NFC\)"),
    "a space before": (lambda state: state["pre_tokenizer"].update(add_prefix_space=True), "a space before each text"),
    "no regular expression": (lambda state: state["pre_tokenizer"].update(use_regex=False), "does not cut texts"),
    "no cutting": (lambda state: state.update(pre_tokenizer=None), "does not cut texts"),
    "byte_fallback": (option(byte_fallback=True), "BPE has byte_fallback"),
    "ignore_merges": (option(ignore_merges=True), "BPE has ignore_merges"),
    "dropout": (option(dropout=0.1), "BPE has dropout"),
    "an added token": (add_token, "added tokens other than CodeGen's"),
    "runs that take what is before": (strip_around_runs, "added tokens other than CodeGen's"),
    "a run less": (lose_a_run, "added tokens other than CodeGen's"),
    "runs of two kinds": (cut_out_in_two_rounds, "added tokens other than CodeGen's"),
    "an entry made twice": (make_an_entry_twice, "ids do not ascend"),
    "an entry never reached": (make_an_entry_that_is_never_reached, "tokenized alone, is not that entry"),
    "an entry without merge": (add_an_entry_without_merge, "not that of its merges"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_tiktoken_would_do_differently_is_left_to_tokenizers(small, kind):
    change, reason = OTHERS[kind]
    tokenizer = changed(small, change)
    assert tokenizer.core == "tokenizers"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(tokenizer.fast[1])
    if kind != "dropout":
        texts = ["QXZ  x", *TEXTS[:3]]
        assert tokenizer.encode_batch(texts) == ids_of(tokenizer.backend, texts)


def test_an_entry_never_reached_would_have_had_other_ids(small):
    """Why the structure is looked at: tiktoken looks QXZ up, and no probe need hold it."""
    tokenizer = changed(small, make_an_entry_that_is_never_reached)
    state = json.loads(tokenizer.backend.to_str())
    ranks = {entry.encode(): number for entry, number in state["model"]["vocab"].items()}
    import tiktoken

    encoding = tiktoken.Encoding("x", pat_str=r"\w+", mergeable_ranks=ranks, special_tokens={})
    assert len(encoding.encode_ordinary("QXZ")) == 1
    assert len(tokenizer.encode("QXZ")) == 2


def probes(tokenizer):
    """Texts in which the two cores would differ if their regular expressions or merges did."""
    entries = [tokenizer.decode([number]) for number in range(0, tokenizer.vocab_size, 4)]
    met = ["".join(entries[i : i + 500]) for i in range(0, len(entries), 500)]
    # Every sequence of five kinds of whitespace and a letter, and runs of all lengths before what may follow.
    spaces = ["".join(s) for n in range(1, 6) for s in itertools.product(" \t\n\r\u00a0x", repeat=n)]
    after = ("", "x", ".", "1", "\n", " \t", "\t\t", "'s")
    runs = [c * n + behind for c in " \t" for n in range(70) for behind in after]
    contractions = [f"x'{end}{letter}" for end in ("s", "d", "m", "t", "ll", "ve", "re") for letter in "aeiouystlr"]
    return ["|".join(spaces), "x".join(runs), *runs, *met, "".join(contractions), f"a {END_OF_TEXT}b", PROBE]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (r"(?:[^\S \t]| (?! )|\t(?!\t))+(?!\S)", r"\s+(?!\S)"),  # GPT-2's own, which swallows the beginning of a run
        (r"(?:[^\S \t]| (?! )|\t(?!\t))+(?!\S)", r"(?:[^\S \t]| (?! )|\t(?!\t))+"),
        (r"(?:[^\S \t]| (?! )|\t(?!\t))+(?!\S)", r"(?:[^\S \t]| |\t(?!\t))+(?!\S)"),
        (r"(?:[^\S \t]| (?! )|\t(?!\t))+(?!\S)", r"(?:[^\S \t]| (?! )|\t)+(?!\S)"),
        (" {2,31}", " {2,32}"),
        (" {2,31}", " {2,30}"),
        (r"\t{2,9}", r"\t{2,10}"),
        (r"\t{2,9}|", ""),
        (r" ?\p{L}+", r"\p{L}+"),
        (r" ?\p{L}+", r" ?[A-Za-z]+"),
        (r"\p{N}+", r"\d+"),
        ("|ll|", "|"),
    ],
)
def test_the_probes_find_an_expression_that_cuts_otherwise(small, monkeypatch, right, wrong):
    assert right in fast_core._PATTERN_WITH_RUNS
    expected = ids_of(small.backend, probes(small))
    assert small.encode_batch(probes(small)) == expected
    pattern = fast_core._PATTERN_WITH_RUNS.replace(right, wrong, 1)
    monkeypatch.setattr(fast_core, "_PATTERN_WITH_RUNS", pattern)
    assert Tokenizer(small.backend).encode_batch(probes(small)) != expected


def test_a_tokenizer_without_runs_has_the_fast_core_too(small):
    def remove(state):
        state["added_tokens"] = state["added_tokens"][:1]

    tokenizer = changed(small, remove)
    assert tokenizer.core == "tiktoken"
    assert tokenizer.encode_batch(TEXTS) == ids_of(tokenizer.backend, TEXTS)
    assert tokenizer.encode_batch(TEXTS) != small.encode_batch(TEXTS)


def test_truncation_and_padding_in_the_file_cut_nothing(small):
    def truncate(state):
        state["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
        state["padding"] = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_id": 0, "pad_token": "!",
                            "pad_type_id": 0, "pad_to_multiple_of": None}  # fmt: skip

    assert changed(small, truncate).encode_batch(TEXTS) == small.encode_batch(TEXTS)


# --- Files ---------------------------------------------------------------------------------------------------


def tokenizer_json(source, tmp_path):
    Tokenizer.load(source).save(tmp_path / "saved", max_length=2048)
    return (tmp_path / "saved" / "tokenizer.json").read_bytes()


FORMS = {
    "GPT-2's names": ("encoder.json", "vocab.bpe"),
    "vocabulary and merges": ("vocab.json", "merges.txt"),
    "runs named beside it": ("vocab.json", "merges.txt", "added_tokens.json"),
    "tokenizer.json": ("tokenizer.json",),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_tokenizer(small, tmp_path, form):
    small.save(tmp_path / "whole", max_length=2048)
    vocabulary = json.loads((tmp_path / "whole" / "vocab.json").read_text())
    assert list(vocabulary.items())[-1] == (END_OF_TEXT, 561)  # where GPT-2's file has it
    source = tmp_path / "source"
    source.mkdir()
    origin = {"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"}
    for name in FORMS[form]:
        (source / name).write_bytes((tmp_path / "whole" / origin.get(name, name)).read_bytes())
    again = Tokenizer.load(source)
    assert (again.vocab_size, again.end_of_text_id, again.core) == (600, 561, "tiktoken")
    assert again.encode_batch(TEXTS) == small.encode_batch(TEXTS)
    expected = json.loads((tmp_path / "whole" / "tokenizer.json").read_text())
    found = json.loads(tokenizer_json(source, tmp_path))
    expected["model"]["vocab"].setdefault(END_OF_TEXT, 561)
    found["model"]["vocab"].setdefault(END_OF_TEXT, 561)
    assert found == expected


def test_a_tokenizer_json_as_written_when_codegen_was_published(small, tmp_path):
    state = json.loads(small.backend.to_str())
    for name in ("byte_fallback", "ignore_merges"):
        del state["model"][name]
    del state["pre_tokenizer"]["use_regex"]
    state["model"].update(continuing_subword_prefix="", end_of_word_suffix="")
    state["model"]["merges"] = [" ".join(merge) for merge in state["model"]["merges"]]
    state["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    state["added_tokens"][0]["normalized"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.core == "tiktoken"
    assert tokenizer.encode_batch(TEXTS) == small.encode_batch(TEXTS) == ids_of(tokenizer.backend, TEXTS)
    tokenizer.save(tmp_path / "saved", max_length=128)
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] == "CodeGenTokenizer"


def test_a_tokenizer_json_by_its_path_or_the_name_of_its_directory(small, tmp_path, monkeypatch):
    small.save(tmp_path / "t", max_length=2048)
    monkeypatch.chdir(tmp_path)
    for name in ("t", "t/tokenizer.json", str(tmp_path / "t")):
        assert Tokenizer.named(name).encode_batch(TEXTS[:3]) == small.encode_batch(TEXTS[:3])


def test_saved_files_are_those_that_slow_tokenizers_expect(codegen, shared_data, tmp_path):
    codegen.save(tmp_path, max_length=2048)
    base = json.loads((shared_data / "tokenizer" / "encoder.json").read_text())
    assert json.loads((tmp_path / "vocab.json").read_text()) == base
    assert (tmp_path / "merges.txt").read_text() == (shared_data / "tokenizer" / "vocab.bpe").read_text()
    added = json.loads((tmp_path / "added_tokens.json").read_text())
    assert added == {run: 50_257 + i for i, run in enumerate(RUNS)}
    assert tokenizer_json(tmp_path, tmp_path) == (tmp_path / "tokenizer.json").read_bytes()
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt",
        "added_tokens.json",
    }  # fmt: skip


def test_another_kind_is_saved_as_tokenizer_json_only(small, tmp_path):
    other = changed(small, cut_otherwise)
    other.save(tmp_path, max_length=2048)
    assert not (tmp_path / "vocab.json").exists()
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert Tokenizer.load(tmp_path).encode_batch(TEXTS) == other.encode_batch(TEXTS)


def drop_the_end(state):
    state["added_tokens"] = []


def end_is_not_special(state):
    state["added_tokens"][0]["special"] = False


def words_by_spaces(state):
    state["pre_tokenizer"] = {"type": "WhitespaceSplit"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_the_end, r"has no <\|endoftext\|> token, so documents cannot be joined"),
        (end_is_not_special, r'not special, so a text that spells it would end there; set "special": true'),
        (words_by_spaces, "not a byte-level BPE"),
    ],
)
def test_tokenizers_that_cannot_serve_are_one_line(small, tmp_path, change, words):
    state = json.loads(small.backend.to_str())
    change(state)
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=words):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("vocab.json", "{", r"not a tokenizer"),
        ("vocab.json", '{"a": 0}', r"not a tokenizer"),
        ("merges.txt", "Q\nXX", r"not a tokenizer"),
        ("added_tokens.json", '{"  ": 700}', r"added_tokens\.json has other tokens, or other ids, than CodeGen's"),
    ],
)
def test_damaged_files_are_one_line(small, tmp_path, name, content, words):
    small.save(tmp_path, max_length=128)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words) as raised:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(raised.value)


def test_ids_with_gaps_need_an_embedding_for_the_largest(small):
    def leave_a_gap(state):
        state["model"]["vocab"][END_OF_TEXT] = 1000
        state["added_tokens"] = [{**state["added_tokens"][0], "id": 1000}]

    assert changed(small, leave_a_gap).vocab_size == 1001


# --- The Hub -------------------------------------------------------------------------------------------------


def named_in_a_process(tmp_path, *names, **environment):
    """A line for each of `Tokenizer.named`, where the Hub's client starts afresh: it reads its settings at import."""
    code = (
        "import sys\nfrom phi_jax.errors import UserError\nfrom phi_jax.tokens.tokenizer import Tokenizer\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        print(Tokenizer.named(name).vocab_size)\n"
        "    except UserError as error:\n        print(error)"
    )
    env = {"PATH": "", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def served(small, tmp_path):
    small.save(tmp_path / "served", max_length=128)
    (tmp_path / "served" / "model.safetensors").write_bytes(b"weights that nobody asked for")
    (tmp_path / "served" / "tokenizer.py").write_text("code that nobody asked for")
    with hub({"owner/model": tmp_path / "served"}) as running:
        yield running


def test_only_tokenizer_files_are_fetched_and_once(served, tmp_path):
    url, asked = served
    assert named_in_a_process(tmp_path, "owner/model", HF_ENDPOINT=url) == ["600"]
    fetched = {path.rpartition("/")[2] for path in asked if "resolve" in path}
    assert fetched == set(tokenizer_files.PUBLISHED_FILES)
    assert named_in_a_process(tmp_path, "owner/model", HF_ENDPOINT=url, HF_HUB_OFFLINE="1") == ["600"]


def test_what_the_hub_does_not_have_is_one_line(served, tmp_path):
    remedy = "give a directory with tokenizer.json, or with vocab.json and merges.txt"
    for names, environment in (
        (("owner/other", "no/such/name", "~/nowhere"), {"HF_ENDPOINT": served[0]}),
        (("owner/model",), {"HF_ENDPOINT": "http://127.0.0.1:9"}),
        (("owner/model",), {"HF_HUB_OFFLINE": "1"}),
    ):
        for name, said in zip(names, named_in_a_process(tmp_path, *names, **environment), strict=True):
            assert said.startswith(f"{name}: neither a directory here nor to be had from the Hugging Face Hub")
            assert said.endswith(remedy)
