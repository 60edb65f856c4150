r"""tiktoken's BPE in the place of that of `tokenizers`: the same ids several times as fast, wherever that is proved.

tiktoken cuts a text by one regular expression, looks each piece up whole, and otherwise merges the adjacent pair of
bytes whose result has the lowest id. `tokenizers` first cuts the added tokens out, then each stretch between them by
GPT-2's expression, and merges by a list. Both give the same ids where

1. added tokens that count are CodeGen's runs of whitespace or none, and the rest is GPT-2's form and no more;
2. ids ascend in the order of the list of merges, and each entry, tokenized alone, is itself. For let tiktoken be the
   first to merge a pair that the list lacks, into entry e: everything before happened inside e's bytes as it does when
   they stand alone, where the list then ends with that pair apart, and not with e;
3. the two regular expressions cut alike. They know the same classes of characters in the pinned versions (tests), and
   texts that are made to differ are encoded by both at load.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import models, pre_tokenizers

from phi_jax.tokens.tokenizer_files import END_OF_TEXT, byte_alphabet, why_not_gpt2

if TYPE_CHECKING:
    import tiktoken

# GPT-2's expression (its encoder.py). What needs no look-ahead stands in one group, which the engine then runs as one
# automaton: without the group it takes twice as long.
_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
_PATTERN = rf"(?:{_WORDS})|\s+(?!\S)|\s"
# The runs are pieces of their own, the longest at each place. Other whitespace stops where a run begins, as it would at
# the end of a text, since `tokenizers` has cut the run out by then.
_PATTERN_WITH_RUNS = rf"(?: {{2,31}}|\t{{2,9}}|{_WORDS})|(?:[^\S \t]| (?! )|\t(?!\t))+(?!\S)|\s"

# The engine's stack holds more than 400,000 characters of whitespace other than runs, and fewer than a million.
_LONG_TEXT = 100_000  # characters
_LONG_WHITESPACE = re.compile(r"\s{1000}")


class _Differs(Exception):
    """Why the ids would not be equal, or might not be."""


def fast_core(backend: tokenizers.Tokenizer) -> tuple[tiktoken.Encoding | None, str]:
    """(encoding, "") where tiktoken gives the ids of `backend` with special tokens as text, else (None, the reason)."""
    import tiktoken

    state = json.loads(backend.to_str())
    try:
        ranks = _ranks(backend, state)
        pattern = _PATTERN
        if runs := _runs(state):
            pattern = _PATTERN_WITH_RUNS
            # GPT-2 has entries for the same bytes, which no text with runs cut out leads to.
            ranks |= {run.encode(): number for run, number in runs.items()}
        encoding = tiktoken.Encoding("phi_jax", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        _compare(backend, encoding, ranks)
    except _Differs as reason:
        return None, str(reason)
    return encoding, ""


def is_beyond(text: str) -> bool:
    """Whether a text may hold more whitespace in a row than tiktoken's regular expressions can go through."""
    return len(text) > _LONG_TEXT and _LONG_WHITESPACE.search(text) is not None


def _runs(state: dict[str, Any]) -> dict[str, int]:
    return {t["content"]: t["id"] for t in state["added_tokens"] if not t["special"]}


def _ranks(backend: tokenizers.Tokenizer, state: dict[str, Any]) -> dict[bytes, int]:
    """The bytes of each entry with its id, which is its place in the order of merges; steps 1 and 2 above."""
    if reason := why_not_gpt2(state):
        raise _Differs(reason)
    vocabulary: dict[str, int] = state["model"]["vocab"]
    alphabet = byte_alphabet()
    symbols = list(alphabet)
    if any(symbol not in vocabulary for symbol in symbols):
        raise _Differs("its vocabulary lacks some bytes")
    last = -1
    for merge in state["model"]["merges"]:
        merged = merge.replace(" ", "") if isinstance(merge, str) else "".join(merge)
        if vocabulary[merged] <= last:
            raise _Differs("its ids do not ascend in the order of its merges")
        last = vocabulary[merged]
        symbols.append(merged)
    added = {t["content"] for t in state["added_tokens"]}
    if len(set(symbols)) < len(symbols) or set(vocabulary) - added - set(symbols):
        raise _Differs("its vocabulary is not that of its merges")
    ids = [vocabulary[symbol] for symbol in symbols]
    if _tokenized_alone(backend.model, symbols) != ids:
        raise _Differs("an entry of its vocabulary, tokenized alone, is not that entry")
    to_bytes = str.maketrans({character: chr(byte) for character, byte in alphabet.items()})
    return {s.translate(to_bytes).encode("latin-1"): number for s, number in zip(symbols, ids, strict=True)}


def _tokenized_alone(model: models.Model, symbols: list[str]) -> list[int]:
    alone = tokenizers.Tokenizer(model)
    alone.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # the alphabet of bytes has no whitespace
    parts = [" ".join(symbols[i : i + 1000]) for i in range(0, len(symbols), 1000)]
    return [number for e in alone.encode_batch_fast(parts, add_special_tokens=False) for number in e.ids]


def _compare(backend: tokenizers.Tokenizer, encoding: tiktoken.Encoding, ranks: dict[bytes, int]) -> None:
    """Step 3: both cores on texts in which they would differ if their regular expressions or merges did."""
    probes = [*_whitespace(), *_entries(ranks), _contractions(), f"a {END_OF_TEXT}b", _CODE]
    for text, expected in zip(probes, backend.encode_batch_fast(probes, add_special_tokens=False), strict=True):
        if encoding.encode_ordinary(text) != expected.ids:
            raise _Differs(f"tiktoken gives other ids on a probe ({text[:20]!r}...)")


def _entries(ranks: dict[bytes, int]) -> list[str]:
    """Every fourth entry, as far as it is text, after one another: they meet in ways that nobody writes."""
    texts = [entry.decode(errors="ignore") for entry in itertools.islice(ranks, 0, None, 4)]
    return ["".join(texts[i : i + 500]) for i in range(0, len(texts), 500)]


def _contractions() -> str:
    """GPT-2's contractions, before letters that could merge with their last one."""
    return "".join(f"x'{end}{letter}" for end in ("s", "d", "m", "t", "ll", "ve", "re") for letter in "aeiouystlr")


def _whitespace() -> list[str]:
    """Every sequence of five kinds of whitespace and a letter, and runs of all lengths, before what may follow."""
    sequences = ["".join(s) for n in range(1, 6) for s in itertools.product(" \t\n\r\u00a0x", repeat=n)]
    runs = [c * n + after for c in " \t" for n in range(70) for after in ("", "x", ".", "1", "\n", " \t", "\t\t", "'s")]
    return ["|".join(sequences), "x".join(runs), *runs]


_CODE = '''\
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
