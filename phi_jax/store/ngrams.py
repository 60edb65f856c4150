"""Sets of word n-grams as numbers, and the Jaccard similarity of two texts' sets.

A text's *words* are what `str.split()` finds: maximal runs without Unicode whitespace, case and punctuation as they
are. Its *n-grams* are its runs of n successive words; a text of fewer than n words has one n-gram, all its words (an
empty text: the empty one).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
_REMEMBERED_WORDS = 1_000_000


class WordHashes(dict[str, int]):
    """Word -> 64 bits of its BLAKE2b; forgets where it grows large, which only costs time."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _REMEMBERED_WORDS:
            self.clear()
        data = word.encode(errors="surrogatepass")
        value = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
        self[word] = value
        return value


def gram_hashes(text: str, ngram: int, words: dict[str, int] | None = None) -> Hashes:
    """The set of n-grams of a text, each as a 64-bit hash; sorted, at least one. `words` speeds up a series."""
    words = WordHashes() if words is None else words
    split = text.split()
    hashes = np.fromiter(map(words.__getitem__, split), np.uint64, len(split))
    width = min(ngram, len(split))
    if not width:
        return np.zeros(1, dtype=np.uint64)
    count = len(split) - width + 1
    return np.unique(combined([hashes[i : i + count] for i in range(width)]))


def jaccard(one: Hashes, others: Sequence[Hashes]) -> npt.NDArray[np.float64]:
    """Jaccard similarity of one set with each of the others, as `gram_hashes` gives them: [len(others)]."""
    if not others:
        return np.empty(0)
    sizes = np.array([len(other) for other in others])
    values = np.concatenate(others)
    places = np.minimum(np.searchsorted(one, values), len(one) - 1)
    common = np.add.reduceat(one[places] == values, np.cumsum(sizes) - sizes, dtype=np.int64)
    return common / (len(one) + sizes - common)


def combined(columns: Sequence[Hashes]) -> Hashes:
    """One hash of several, in order (the finaliser of SplitMix64 after each)."""
    total = np.zeros_like(columns[0])
    for column in columns:
        total = (total ^ column) + np.uint64(0x9E3779B97F4A7C15)
        total = (total ^ (total >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        total = (total ^ (total >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total ^= total >> np.uint64(31)
    return total
