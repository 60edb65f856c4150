"""Sets of word n-grams as numbers, and the Jaccard similarity of two texts' sets.

A text's *words* are what `str.split()` finds: maximal runs without Unicode whitespace, case and punctuation as they
are. Its *n-grams* are its runs of n successive words; a text of fewer than n words has one n-gram, all its words (an
empty text: the empty one).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


def gram_hashes(text: str, ngram: int) -> Hashes:
    """The set of n-grams of a text, each as 64 bits of its BLAKE2b; sorted, at least one."""
    words = text.split()
    grams = {" ".join(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))}
    digests = [hashlib.blake2b(gram.encode(errors="surrogatepass"), digest_size=8).digest() for gram in grams]
    return np.sort(np.frombuffer(b"".join(digests), np.uint64))


def jaccard(one: Hashes, others: Sequence[Hashes]) -> npt.NDArray[np.float64]:
    """Jaccard similarity of one set with each of the others, as `gram_hashes` gives them: [len(others)]."""
    common = np.array([len(np.intersect1d(one, other, assume_unique=True)) for other in others])
    return common / (len(one) + np.array([len(other) for other in others]) - common)
