"""Sets of word n-grams as numbers, and the Jaccard similarity of two texts' sets.

A text's *words* are what `str.split()` finds: maximal runs without Unicode whitespace, case and punctuation as they
are. Its *n-grams* are its runs of n successive words; a text of fewer than n words has one n-gram, all its words (an
empty text: the empty one).
"""

import hashlib

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: 2**64 divided by the golden ratio


def gram_hashes(text: str, ngram: int) -> Hashes:
    """The set of n-grams of a text, each as a polynomial of 64 bits of its words' BLAKE2b; sorted, at least one."""
    words = text.split()
    digests = {w: hashlib.blake2b(w.encode(errors="surrogatepass"), digest_size=8).digest() for w in set(words)}
    hashes = np.frombuffer(b"".join(map(digests.__getitem__, words)), np.uint64)
    length = min(ngram, len(words))
    grams = np.zeros(len(words) - length + 1, np.uint64)
    for place in range(length):
        grams = grams * _FACTOR + hashes[place : place + len(grams)]
    return np.unique(grams)


def jaccard(one: Hashes, other: Hashes) -> float:
    """Jaccard similarity of two sets, as `gram_hashes` gives them."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)
