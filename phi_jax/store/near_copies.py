"""Exact and near copies among texts, and which of them stay.

Two texts are *exact* copies where their words are the same, and *near* copies where the Jaccard similarity of their
sets of word n-grams reaches the threshold (ngrams.py says what words and n-grams are).

Exact copies go first. Among the rest MinHash (of Daft) proposes pairs and the sets of n-grams decide: no text is
dropped on an estimate. Texts are visited in one order, longest first (UTF-8 bytes, whitespace runs counted as one
space), ties by id: a text stays unless it is a near copy of one that stays already; then it goes, in favour of the most
similar one (ties: the one visited first). So every dropped text is within the threshold of the one kept in its place,
also along a chain a ~ b ~ c whose ends differ, and what is kept depends on the set of texts alone: not on their order,
nor on how they are cut into parts, nor on threads or machines. Texts of earlier sets are visited before all others, and
always stay.

A text is read once, by the process that signs its part: its hashes go into a Parquet part, its set of n-grams into a
file beside it. Daft puts texts with the same hash into one *bucket*, band by band; it moves numbers, no text.
Texts linked by buckets are a *cluster*. No choice depends on another cluster, so the cores, or those of Ray's nodes,
share them out, and read the sets that they compare from the files. In memory lie about 200 bytes a text, and 100 more
while a band is grouped, however long the texts are.
"""

import functools
import itertools
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from etils.epath import Path, PathLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from phi_jax.progress import Progress
from phi_jax.store import documents
from phi_jax.store.artifact import atomic_path, is_object_store
from phi_jax.store.cores import cores, spread, workers
from phi_jax.store.ngrams import Hashes, gram_hashes, jaccard
from phi_jax.store.rows import Row

_SEED = 1  # of the MinHash permutations: part of what "the same result on every run" means
_BATCH = 512  # texts signed at a time
_SHARE = 1 << 15  # texts in buckets that a core is given at a time, or those of one cluster
_SETS = 512  # of n-grams that a core holds at a time
_PART = 1 << 40  # bytes of the n-grams of a part, at most
_SIGNED = pa.schema(
    [
        documents.text_field("id"),
        documents.text_field("words"),  # their hash
        ("visit", pa.int64()),  # - bytes
        ("set", pa.int64()),  # part * _PART + the byte of its file at which the set of n-grams begins
        ("bands", pa.list_(pa.uint64())),
    ]
)
Numbers = npt.NDArray[np.int64]


class Rules(NamedTuple):
    """What a near copy is, and how the pairs to be compared are found."""

    threshold: float = 0.8  # Jaccard similarity of the sets of n-grams, in (0, 1]
    ngram: int = 5  # words
    num_perm: int = 128  # MinHash values of a text
    bands: int = 21  # that these are cut into


def find_copies(
    directory: PathLike, rules: Rules, scratch: Path, *, against: Sequence[PathLike] = (), label: str
) -> pa.Table:
    """What becomes of each document of a set, by the choice that the module's docstring describes, in their order: its
    `id`; `kept`, the id of the text kept in its place, null where it stays; the `similarity` (Jaccard) of the two; and
    the `kind`: "exact" or "near". against: earlier sets.

    scratch: directory for hashes and n-grams, two to three times the texts; a killed run goes on with its parts; the
    caller removes it. label: what the progress is called. Raises UserError for parts that cannot be read.
    """
    import daft

    files = [part for one in (*against, directory) for part in documents.parts(one)]
    new = (len(files) - len(documents.parts(directory))) * _PART  # the first set that is no earlier text's
    sign = functools.partial(_sign, files, scratch, rules)
    documents.write_parts(scratch, len(files), sign, _SIGNED, label=f"{label} signing", apart=files)

    # By the runner that DAFT_RUNNER or a running Ray names, or Daft's own. Ray's workers have a directory of their own.
    hashes = [os.fspath(f if is_object_store(f) else f.absolute()) for f in documents.parts(scratch)]
    signed: Any = daft.read_parquet(hashes)
    visited = signed.sort([signed["set"] >= new, "visit", "id"]).select("id", "words", "set").to_arrow()
    ids, words, sets = (visited[name].combine_chunks() for name in ("id", "words", "set"))
    sets = sets.to_numpy()
    places = np.argsort(sets)
    old = int(np.searchsorted(sets, new, sorter=places))
    words = words.dictionary_encode().indices.to_numpy()
    first = np.unique(words, return_index=True)[1][words]  # place of the text visited first that has the same words
    kept, similarity = first.copy(), np.ones(len(first))
    shares = _shares(signed, sets, places, first, rules)
    choose = functools.partial(_choose, scratch, rules, old)
    with Progress(label, len(shares), "groups of documents compared") as bar:
        for dropped in spread(choose, shares, workers(cores()), label=label):
            for text, other, score in dropped:
                kept[text], similarity[text] = other, score
            bar.advance()
    rows = places[old:]
    originals = first[rows]  # what becomes of them becomes of their exact copies
    instead = kept[originals]
    return pa.table(
        {
            "id": ids.take(pa.array(rows)),
            "kept": ids.take(pa.array(instead, mask=instead == rows)),
            "similarity": similarity[originals],
            "kind": np.where(instead == originals, "exact", "near"),
        }
    )


def _sign(files: Sequence[Path], scratch: Path, rules: Rules, part: int) -> Iterator[Row]:
    """The hashes of the texts of a part; when all are taken, its sets of n-grams are on the disk, one behind the other:
    the number of hashes, the hashes.
    """
    rows = documents.read_part(files[part], ("id", "text"))
    scratch.mkdir(parents=True, exist_ok=True)
    with atomic_path(scratch / f"{part}.grams") as path, path.open("wb") as file:
        while batch := list(itertools.islice(rows, _BATCH)):
            texts = [" ".join(row["text"].split()) for row in batch]
            for row, text, bands in zip(batch, texts, _band_hashes(texts, rules).tolist(), strict=True):
                words, visit, place = documents.document_id(text), -len(text.encode()), part * _PART + file.tell()
                yield {"id": row["id"], "words": words, "visit": visit, "set": place, "bands": bands}
                grams = gram_hashes(text, rules.ngram)
                file.write(len(grams).to_bytes(8) + grams.tobytes())


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
    factors = np.random.default_rng(_SEED).integers(2**64, size=(rules.bands, width), dtype=np.uint64)
    return (values.reshape(len(texts), rules.bands, width) * factors).sum(axis=-1)


def _shares(signed: Any, sets: Numbers, places: Numbers, first: Numbers, rules: Rules) -> list[Numbers]:
    """[3, members] each: the bucket of each member of some clusters; the member; where its n-grams are. The number of a
    bucket is its first text times the bands, plus its band. Of exact copies the first stands for all.
    """
    found = np.empty(0, np.int64)
    for band in range(rules.bands):
        groups = signed.groupby(signed["bands"][band]).agg(signed["set"].list_agg())
        lists = groups.where(groups["set"].length() > 1).select("set").to_arrow()["set"].combine_chunks()
        texts = first[places[np.searchsorted(sets, lists.flatten().to_numpy(), sorter=places)]]
        sizes = lists.value_lengths().to_numpy()
        if len(sizes):
            lowest = np.repeat(np.minimum.reduceat(texts, np.cumsum(sizes) - sizes), sizes)
            found = np.union1d(found, (lowest * rules.bands + band) * len(sets) + texts)
    buckets, texts = np.divmod(found, max(1, len(sets)))
    links = coo_array((np.ones(len(found), bool), (buckets // rules.bands, texts)), (len(sets), len(sets)))
    clusters = connected_components(links, directed=False)[1][texts]
    share = (np.cumsum(np.bincount(clusters)) // _SHARE)[clusters]
    order = np.argsort(share, kind="stable")
    cuts = np.flatnonzero(np.diff(share[order])) + 1
    return np.split(np.stack([buckets, texts, sets[texts]])[:, order], cuts, axis=1)


def _choose(scratch: Path, rules: Rules, old: int, share: Numbers) -> list[tuple[int, int, float]]:
    """(text that goes, the one kept for it, their similarity), of a share. old: how many texts stay in any case.

    A text is only ever dropped for one that stays, so it is compared with those members of its buckets that stay:
    they are few where many are copies of each other.
    """
    where = dict(share[1:].T.tolist())
    buckets = defaultdict(list)
    for bucket, text in share[:2].T.tolist():
        buckets[text].append(bucket)

    @functools.lru_cache(_SETS)
    def grams(text: int) -> Hashes:
        part, begin = divmod(where[text], _PART)
        with (scratch / f"{part}.grams").open("rb") as file:
            file.seek(begin)
            return np.frombuffer(file.read(8 * int.from_bytes(file.read(8))), np.uint64)

    dropped = []
    kept_in = defaultdict[int, list[int]](list)
    for text in sorted(buckets):
        others = sorted({other for bucket in buckets[text] for other in kept_in[bucket]})
        if others and text >= old:
            mine = grams(text)
            scores = [jaccard(mine, grams(other)) for other in others]
            if (highest := max(scores)) >= rules.threshold:
                dropped.append((text, others[scores.index(highest)], highest))  # the first of equal ones
                continue
        for bucket in buckets[text]:
            kept_in[bucket].append(text)
    return dropped
