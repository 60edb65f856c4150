"""How diverse texts are, in figures that need no language model.

"distinct_1" to "distinct_4"
    Different n-grams of words among all n-grams, none of which crosses from one text into the next (Li et al. 2016, "A
    Diversity-Promoting Objective Function for Neural Conversation Models"; they divide by words).
"compression_ratio"
    Bytes of the texts over their bytes after gzip (Shaib et al. 2024, "Standardizing the Measurement of Text
    Diversity"): the more repeats, the higher.

Both depend on the length of what they are taken on, so they are taken on an excerpt: the texts in the order of their
hashes, up to WORDS words. Figures of two sets compare where both state as many "words". A word is a maximal run of
letters, digits and underscores.
"""

from __future__ import annotations

import gzip
import hashlib
import heapq
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

WORDS = 20_000  # about what 200 exercises hold
_SAMPLE = 2000  # texts whose words are counted, so that no set has to be held in memory
_WORD = re.compile(r"\w+")


def measure(texts: Iterable[str]) -> dict[str, Any]:
    """The figures that the module describes, rounded: a function of the set of texts, but not of their order.

    Where there is no n-gram, or no word, a figure is None.
    """
    sample = heapq.nsmallest(_SAMPLE, texts, key=lambda text: hashlib.sha256(text.encode()).digest())
    excerpt = list(_excerpt(sample))
    data = "\n".join(sorted(excerpt)).encode()  # gzip sees no repeat that is more than 32 KiB back
    return {
        "words": sum(len(_WORD.findall(text)) for text in excerpt),
        **{f"distinct_{n}": _distinct(excerpt, n) for n in range(1, 5)},
        "compression_ratio": round(len(data) / len(gzip.compress(data, mtime=0)), 3) if excerpt else None,
    }


def _excerpt(texts: Iterable[str]) -> Iterator[str]:
    """The first texts up to WORDS words; the last text is cut behind its last word that counts."""
    left = WORDS
    for text in texts:
        ends = [match.end() for match in _WORD.finditer(text)]
        if len(ends) >= left:
            yield text[: ends[left - 1]]
            return
        left -= len(ends)
        if ends:
            yield text


def _distinct(texts: Sequence[str], n: int) -> float | None:
    words = map(_WORD.findall, texts)
    grams = [gram for each in words for gram in zip(*(each[i:] for i in range(n)), strict=False)]
    return round(len(set(grams)) / len(grams), 4) if grams else None
