"""Sets of word n-grams as numbers, and the Jaccard similarity of two texts' sets.

A text's *words* are what `str.split()` finds: maximal runs without Unicode whitespace, case and punctuation as they
are. Its *n-grams* are its runs of n successive words; a text of fewer than n words has one n-gram, all its words (an
empty text: the empty one).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
_REMEMBERED_WORDS = 1_000_000
_BLOCK = 4096  # texts whose n-grams are looked at at once


@dataclasses.dataclass(frozen=True)
class Grams:
    """Sets of n-grams, of which those that only one text has are counted but not held: they are in no overlap."""

    sizes: Indices  # [D] n-grams in the set of each text; 0 for a text that was not asked for
    starts: Indices  # [D + 1] into `shared`
    shared: npt.NDArray[np.int64]  # the n-grams that several texts have, as numbers from 0
    marks: npt.NDArray[np.bool_]  # [distinct shared n-grams] all False between calls

    @classmethod
    def of(cls, texts: Iterator[tuple[int, str]], count: int, ngram: int) -> Grams:
        """texts: (index below `count`, text), an index once at most."""
        words = _WordHashes()
        sets: list[Hashes] = [np.empty(0, dtype=np.uint64)] * count
        for index, text in texts:
            sets[index] = gram_hashes(text, ngram, words)
        sizes = np.array([len(s) for s in sets], dtype=np.int64)
        values = np.concatenate([np.empty(0, dtype=np.uint64), *sets])
        del sets
        _, numbers, occurrences = np.unique(values, return_inverse=True, return_counts=True)
        several = occurrences > 1
        held = several[numbers]
        inside = np.concatenate([[0], np.cumsum(held)])
        starts = inside[np.concatenate([[0], np.cumsum(sizes)])]
        shared = (np.cumsum(several) - 1)[numbers[held]]
        return cls(sizes, starts, shared, np.zeros(int(np.count_nonzero(several)), dtype=bool))

    def jaccard(self, text: int, others: Indices) -> npt.NDArray[np.float64]:
        """Jaccard similarity of one text with each of the others, itself not among them: [len(others)]."""
        mine = self.shared[self.starts[text] : self.starts[text + 1]]
        self.marks[mine] = True
        blocks = [self._marked(others[i : i + _BLOCK]) for i in range(0, len(others), _BLOCK)]
        self.marks[mine] = False
        common = np.concatenate([np.empty(0, dtype=np.int64), *blocks])
        return common / (self.sizes[text] + self.sizes[others] - common)

    def _marked(self, others: Indices) -> Indices:
        """How many n-grams of each text are marked: [len(others)]."""
        begins, lengths = self.starts[others], self.starts[others + 1] - self.starts[others]
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1]) + np.repeat(begins - (ends - lengths), lengths)
        total = np.concatenate([[0], np.cumsum(self.marks[self.shared[places]])])
        return total[ends] - total[ends - lengths]

    def can_reach(self, threshold: float, text: int, others: Indices) -> Indices:
        """Those of the others whose similarity may reach the threshold; no other one does.

        Sets overlap at most in the n-grams that each shares with some text: of stubs that have a licence in common
        but little else, this leaves none to be compared.
        """
        held = self.starts[others + 1] - self.starts[others]
        most = np.minimum(held, self.starts[text + 1] - self.starts[text])
        return others[most / (self.sizes[others] + self.sizes[text] - most) >= threshold]


class _WordHashes(dict[str, int]):
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
    words = _WordHashes() if words is None else words
    split = text.split()
    hashes = np.fromiter(map(words.__getitem__, split), np.uint64, len(split))
    width = min(ngram, len(split))
    if not width:
        return np.zeros(1, dtype=np.uint64)
    count = len(split) - width + 1
    return np.unique(combined([hashes[i : i + count] for i in range(width)]))


def combined(columns: Sequence[Hashes]) -> Hashes:
    """One hash of several, in order (the finaliser of SplitMix64 after each)."""
    total = np.zeros_like(columns[0])
    for column in columns:
        total = (total ^ column) + np.uint64(0x9E3779B97F4A7C15)
        total = (total ^ (total >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        total = (total ^ (total >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total ^= total >> np.uint64(31)
    return total
