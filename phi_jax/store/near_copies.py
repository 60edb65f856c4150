"""Exact and near copies among texts, and which of them stay.

Two texts are *exact* copies where their words are the same, and *near* copies where the Jaccard similarity of their
sets of word n-grams reaches the threshold (ngrams.py says what words and n-grams are).

Exact copies go first. Among the rest MinHash (of Daft) proposes pairs and the
sets of n-grams decide: no text is dropped on an estimate. Texts are visited in one order, longest first (UTF-8 bytes,
whitespace runs counted as one space), ties by id: a text stays unless it is a near copy of one that stays already;
then it goes, in favour of the most similar one (ties: the one visited first). So every dropped text is within the
threshold of the one kept in its place, also along a chain a ~ b ~ c whose ends differ, and what is kept depends on the
set of texts alone: not on their order, nor on how they are cut into parts, nor on threads.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from etils import epath

from phi_jax.progress import Progress
from phi_jax.store import documents
from phi_jax.store.ngrams import Hashes, gram_hashes, jaccard

_SEED = 1  # of the MinHash permutations: part of what "the same result on every run" means
_BATCH = 512  # texts signed at a time
Members = npt.NDArray[np.int64]  # numbers of texts, ascending


class Rules(NamedTuple):
    """What a near copy is, and how the pairs to be compared are found."""

    threshold: float = 0.8  # Jaccard similarity of the sets of n-grams, in (0, 1]
    ngram: int = 5  # words
    num_perm: int = 128  # MinHash values of a text
    bands: int = 21  # that these are cut into


class Found(NamedTuple):
    """Which of D texts are to be compared. The texts are numbered in the order in which they are visited."""

    ids: list[str]  # [D] no two of them exact copies
    copies: dict[str, str]  # id of an exact copy -> id of the text of the D that has the same words
    rows: int  # of the input; more than ids and copies where an id occurs twice
    buckets: list[Members]  # texts with one band of MinHash in common: ascending, two or more
    grams: dict[int, Hashes]  # set of n-grams of each text that is in a bucket
    rules: Rules
    label: str


def find_pairs(directories: Sequence[epath.PathLike], rules: Rules, *, label: str = "dedup") -> Found:
    """The pairs to be compared among the documents of one or several sets; rows of one id are one text.

    label: what the progress is called. Raises UserError for parts that cannot be read.
    """
    signed = []  # (- bytes, id, digest of the words) of each row
    bands = [np.empty((0, rules.bands), dtype=np.uint64)]
    rows = (row for directory in directories for row in documents.read(directory))
    with Progress(label, sum(documents.totals(d).rows for d in directories), "documents signed") as bar:
        while batch := list(itertools.islice(rows, _BATCH)):
            texts = [" ".join(row["text"].split()) for row in batch]
            for row, text in zip(batch, texts, strict=True):
                signed.append((-len(text.encode()), row["id"], documents.document_id(text)))
            bands.append(_band_hashes(texts, rules))
            bar.advance(len(batch))
    places: dict[str, int] = {}  # id -> its row, in the order of visits
    first: dict[str, str] = {}
    copies = {}
    for place in sorted(range(len(signed)), key=signed.__getitem__):
        _, identifier, digest = signed[place]
        if (text := first.setdefault(digest, identifier)) == identifier:
            places.setdefault(identifier, place)
        else:
            copies[identifier] = text
    ids = list(places)
    buckets = _buckets(np.concatenate(bands)[list(places.values())])
    compared = {ids[member]: member for members in buckets for member in members.tolist()}
    grams = {}
    for directory in directories if compared else ():
        for row in documents.read(directory):
            if (member := compared.pop(row["id"], None)) is not None:
                grams[member] = gram_hashes(row["text"], rules.ngram)
    return Found(ids, copies, len(signed), buckets, grams, rules, label)


def decide(found: Found) -> dict[str, tuple[str, float]]:
    """The choice that the module's docstring describes: id of what goes -> (id kept in its place, their similarity).

    A text is only ever dropped for one that stays, so it is compared with those members of its buckets that stay:
    they are few where many are copies of each other.
    """
    buckets: dict[int, list[int]] = {}
    for bucket, members in enumerate(found.buckets):
        for member in members.tolist():
            buckets.setdefault(member, []).append(bucket)
    kept_in: list[list[int]] = [[] for _ in found.buckets]
    dropped = {}
    with Progress(found.label, len(buckets), "documents compared") as bar:
        for text in sorted(buckets):
            others = sorted({kept for bucket in buckets[text] for kept in kept_in[bucket]})
            scores = jaccard(found.grams[text], [found.grams[kept] for kept in others])
            best = int(scores.argmax()) if others else 0  # the first of equal ones
            if others and scores[best] >= found.rules.threshold:
                dropped[found.ids[text]] = found.ids[others[best]], float(scores[best])
            else:
                for bucket in buckets[text]:
                    kept_in[bucket].append(text)
            bar.advance()
    for copy, original in found.copies.items():
        dropped[copy] = dropped.get(original, (original, 1.0))
    return dropped


def _band_hashes(texts: list[str], rules: Rules) -> Hashes:
    """A hash of each band of MinHash values of each text: [texts, bands]. texts: words between single spaces.

    Bands that differ may have one hash, which only costs a comparison.
    """
    import daft

    # S-curve of 21 bands of 6 hashes, 1 - (1 - s^6)^21: 0.28 at a Jaccard similarity of 0.5, 0.63 at 0.6, 0.93 at
    # 0.7, 0.998 at 0.8, 1 - 1e-7 at 0.9. 16 x 8 finds 0.947 at 0.8; 18 x 7 finds 0.986; 32 x 4 loses nothing, but
    # proposes 0.87 of the pairs at 0.5, all for nothing.
    width = rules.num_perm // rules.bands
    signatures = daft.Series.from_pylist(texts).minhash(rules.num_perm, rules.ngram, _SEED).to_arrow().flatten()
    values = signatures.to_numpy().reshape(len(texts), rules.num_perm)[:, : rules.bands * width]
    factors = np.random.default_rng(_SEED).integers(2**64, size=width, dtype=np.uint64)
    return values.reshape(len(texts), rules.bands, width).astype(np.uint64) @ factors


def _buckets(hashes: Hashes) -> list[Members]:
    """The sets of two or more texts that have a band in common, each once. hashes: [D, bands]."""
    found = {}
    for band in hashes.T:
        order = np.argsort(band, kind="stable")  # so that the members of a bucket ascend
        ends = np.append(np.flatnonzero(np.diff(band[order])) + 1, len(order))
        sizes = np.diff(ends, prepend=0)
        for end, size in zip(ends[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
            members = order[end - size : end]
            found[members.tobytes()] = members
    return list(found.values())
