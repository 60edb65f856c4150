"""How diverse written texts are, in figures that need no language model.

All but the coverage are taken on a sample: the texts of the SAMPLE lowest hashes. "distinct" and "compression_ratio"
look at its first WORDS words and no further, since they fall and rise with the length of what they are taken on: they
compare between sets that state as many "words", the others between sets that state as many "sampled" texts. A word is
a maximal run of letters, digits and underscores.

"distinct_1" to "distinct_4"
    Different n-grams of words among all n-grams, none of which crosses from one text into the next (Li et al. 2016, "A
    Diversity-Promoting Objective Function for Neural Conversation Models"; they divide by words).
"compression_ratio"
    Bytes of the texts over their bytes after gzip (Shaib et al. 2024, "Standardizing the Measurement of Text
    Diversity"): the more repeats, the higher.
"cosine_distance", "effective_texts"
    The spread of the texts as vectors of latent semantic analysis (TF-IDF of words, truncated SVD to COMPONENTS
    dimensions): vocabulary and topic, hardly style or meaning. The mean distance of two texts, 0 to 1; and the Vendi
    score (Friedman and Dieng 2022), which says how many texts with nothing in common would be as diverse: 1 where all
    are the same, about COMPONENTS at most.
"alike_openings", "commonest_opening"
    The share of texts that begin with the same OPENING words as another one, and the opening that most texts have.
"coverage"
    What the lessons behind the texts, all of them, taught of the curriculum; not there where no text has a lesson.
"""

from __future__ import annotations

import gzip
import hashlib
import heapq
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from phi_jax.synthesis import curriculum
from phi_jax.synthesis.curriculum import Lesson

SAMPLE = 2000  # texts
WORDS = 20_000  # about what 200 exercises hold
COMPONENTS = 256  # dimensions
OPENING = 5  # words
_WORD = re.compile(r"\w+")


def measure(texts: Iterable[str], lessons: Iterable[Lesson | None]) -> dict[str, Any]:
    """The figures that the module describes, rounded: a function of the texts and lessons, but not of their order.

    lessons: the one that each text was written for; None for a text without one. Texts without a word count among
    "texts" and nowhere else. Where there is nothing to measure, a figure is None.
    """
    taught: Counter[tuple[str, str]] = Counter()
    chosen, total = _sample(_noting(texts, lessons, taught))
    excerpts = list(_excerpts(chosen, WORDS))
    figures: dict[str, Any] = {
        "texts": total,
        "sampled": len(chosen),
        "words": sum(len(_WORD.findall(text)) for text in excerpts),
        **{f"distinct_{n}": _distinct(excerpts, n) for n in range(1, 5)},
        "compression_ratio": _compression_ratio(excerpts),
        **_spread(chosen),
        **_openings(chosen),
    }
    if taught:
        figures["coverage"] = coverage(taught, curriculum.load().topics)
    return figures


def coverage(taught: Mapping[tuple[str, str], int], topics: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What was taught of a curriculum. taught: texts by (area, topic). topics: all (area, topic) that there are.

    "areas", "topics": the share that at least one text teaches. "area_evenness", "topic_evenness": entropy over the
    largest possible one (Pielou's evenness), 1 where each is taught equally often. "thin_areas": those that fewer texts
    teach than half of an even share, sorted.
    """
    by_topic = [taught.get(each, 0) for each in topics]
    by_area = Counter({area: 0 for area, _ in topics})
    for (area, _), count in zip(topics, by_topic, strict=True):
        by_area[area] += count
    even = sum(by_topic) / len(by_area)
    return {
        "lessons": sum(by_topic),
        "areas": _share_taught(by_area.values()),
        "topics": _share_taught(by_topic),
        "area_evenness": _evenness(list(by_area.values())),
        "topic_evenness": _evenness(by_topic),
        "thin_areas": sorted(area for area, count in by_area.items() if count < even / 2),
    }


def _noting(texts: Iterable[str], lessons: Iterable[Lesson | None], taught: Counter[tuple[str, str]]) -> Iterator[str]:
    """The texts; while they pass, their lessons are counted."""
    for text, lesson in zip(texts, lessons, strict=True):
        if lesson is not None:
            taught[lesson.area, lesson.topic] += 1
        yield text


def _sample(texts: Iterable[str]) -> tuple[list[str], int]:
    """(the SAMPLE texts of the lowest hashes, in that order; how many texts there were).

    The hash of a text that occurs several times takes in which time it is: copies are in the sample in the proportion
    in which they are in the set, neither all nor none of them.
    """
    seen: Counter[bytes] = Counter()
    total = 0

    def ranked() -> Iterator[tuple[bytes, str]]:
        nonlocal total
        for text in texts:
            total += 1
            if not _WORD.search(text):
                continue
            digest = hashlib.sha256(text.encode()).digest()[:16]
            seen[digest] += 1
            yield hashlib.sha256(digest + str(seen[digest]).encode()).digest(), text

    return [text for _, text in heapq.nsmallest(SAMPLE, ranked())], total


def _excerpts(texts: Iterable[str], words: int) -> Iterator[str]:
    """The first texts, as far as so many words go; the last one is cut behind its last word that counts."""
    left = words
    for text in texts:
        ends = [match.end() for match in _WORD.finditer(text)]
        if len(ends) >= left:
            yield text[: ends[left - 1]]
            return
        left -= len(ends)
        yield text


def _distinct(texts: Iterable[str], n: int) -> float | None:
    different: set[tuple[str, ...]] = set()
    count = 0
    for text in texts:
        words = _WORD.findall(text)
        grams = list(zip(*(words[i:] for i in range(n)), strict=False))
        different.update(grams)
        count += len(grams)
    return round(len(different) / count, 4) if count else None


def _compression_ratio(texts: Sequence[str]) -> float | None:
    if not texts:
        return None
    # Sorted, so that copies stand together: gzip sees no repeat more than 32 KiB back.
    data = "\n".join(sorted(texts)).encode()
    return round(len(data) / len(gzip.compress(data, mtime=0)), 3)


def _openings(texts: Sequence[str]) -> dict[str, Any]:
    counts = Counter(" ".join(m.group() for m in islice(_WORD.finditer(text), OPENING)) for text in texts)
    if not counts:
        return {"alike_openings": None, "commonest_opening": None}
    alike = sum(count for count in counts.values() if count > 1)
    opening, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return {
        "alike_openings": round(alike / len(texts), 4),
        "commonest_opening": {"words": opening, "share": round(count / len(texts), 4)},
    }


def _spread(texts: Sequence[str]) -> dict[str, float | None]:
    if not texts:
        return {"cosine_distance": None, "effective_texts": None}
    import numpy as np
    import scipy.linalg
    from sklearn.feature_extraction.text import TfidfVectorizer

    count = len(texts)
    weights = TfidfVectorizer(token_pattern=r"\w+").fit_transform(texts)  # [count, vocabulary], rows of length 1
    # By the eigenvectors of weights' [count, count] product, which is small, not by the matrix itself.
    components = [max(0, count - COMPONENTS), count - 1]
    squares, left = scipy.linalg.eigh((weights @ weights.T).toarray(), subset_by_index=components)
    vectors = left * np.sqrt(np.maximum(squares, 0))  # [count, COMPONENTS or fewer]
    # A text that has no part in any component is taken as unlike every other.
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 1e-6)
    unseen = int(np.count_nonzero(norms <= 1e-6))

    similar = float(np.square(vectors.sum(axis=0)).sum()) - (count - unseen)
    # The eigenvalues of the similarities over `count`: those of the [D, D] product, and one for each unseen text.
    values = np.linalg.eigvalsh(vectors.T @ vectors) / count
    values = np.concatenate([values[values > 1e-12], np.full(unseen, 1 / count)])
    return {
        "cosine_distance": round(max(0.0, 1 - similar / (count * (count - 1))), 4) if count > 1 else 0.0,
        "effective_texts": round(math.exp(-float((values * np.log(values)).sum())), 2),
    }


def _share_taught(counts: Iterable[int]) -> float:
    taught = [count > 0 for count in counts]
    return round(sum(taught) / len(taught), 4)


def _evenness(counts: Sequence[int]) -> float:
    total = sum(counts)
    entropy = -sum(count / total * math.log(count / total) for count in counts if count)
    return round(abs(entropy) / math.log(len(counts)), 4)
