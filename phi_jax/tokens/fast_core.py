r"""tiktoken's BPE in the place of that of `tokenizers`: the same ids six times as fast, wherever that is proved.

tiktoken cuts a text by one regular expression, looks each piece up whole, and otherwise merges the adjacent pair of
bytes whose result has the lowest id. `tokenizers` first cuts the added tokens out, then each stretch between them by
GPT-2's expression, and merges by a list. Both give the same ids where

1. added tokens that count are CodeGen's runs of whitespace or none, and the rest is GPT-2's form and no more;
2. ids ascend in the order of the list of merges, and each entry, tokenized alone, is itself. For let tiktoken be the
   first to merge a pair that the list lacks, into entry e: everything before happened inside e's bytes as it does when
   they stand alone, where the list then ends with that pair apart, and not with e;
3. the two regular expressions cut alike, which tests show of the pinned versions, on texts that are made to differ.
"""

import json
import re

import tiktoken
import tokenizers
from tokenizers import models, pre_tokenizers

from phi_jax.tokens.tokenizer_files import byte_alphabet, why_not_gpt2

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


def fast_core(backend: tokenizers.Tokenizer) -> tuple[tiktoken.Encoding | None, str]:
    """(encoding, "") where tiktoken gives the ids of `backend` with special tokens as text, else (None, the reason)."""
    state = json.loads(backend.to_str())
    if reason := why_not_gpt2(state):
        return None, reason
    vocabulary = state["model"]["vocab"]
    alphabet = byte_alphabet()
    if alphabet.keys() - vocabulary:
        return None, "its vocabulary lacks some bytes"
    symbols = [*alphabet, *map("".join, state["model"]["merges"])]
    ids = [vocabulary[symbol] for symbol in symbols]
    merged = ids[len(alphabet) :]
    if merged != sorted(set(merged)):
        return None, "its ids do not ascend in the order of its merges"
    if len(set(symbols)) < len(symbols) or vocabulary.keys() - symbols - {t["content"] for t in state["added_tokens"]}:
        return None, "its vocabulary is not that of its merges"
    if _tokenized_alone(backend.model, symbols) != ids:
        return None, "an entry of its vocabulary, tokenized alone, is not that entry"
    to_bytes = str.maketrans({character: chr(byte) for character, byte in alphabet.items()})
    ranks = {s.translate(to_bytes).encode("latin-1"): number for s, number in zip(symbols, ids, strict=True)}
    # GPT-2 has entries for the same bytes as the runs, which no text with runs cut out leads to.
    runs = {t["content"].encode(): t["id"] for t in state["added_tokens"] if not t["special"]}
    pattern = _PATTERN_WITH_RUNS if runs else _PATTERN
    return tiktoken.Encoding("phi_jax", pat_str=pattern, mergeable_ranks=ranks | runs, special_tokens={}), ""


def is_beyond(text: str) -> bool:
    """Whether a text may hold more whitespace in a row than tiktoken's regular expressions can go through."""
    return len(text) > _LONG_TEXT and _LONG_WHITESPACE.search(text) is not None


def _tokenized_alone(model: models.Model, symbols: list[str]) -> list[int]:
    alone = tokenizers.Tokenizer(model)
    alone.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # the alphabet of bytes has no whitespace
    parts = [" ".join(symbols[i : i + 1000]) for i in range(0, len(symbols), 1000)]
    return [number for e in alone.encode_batch_fast(parts, add_special_tokens=False) for number in e.ids]
