"""Exact and near copies among texts, and which of them stay.

Two texts are *exact* copies where their words are the same, and *near* copies where the Jaccard similarity of their
sets of word n-grams reaches the threshold (ngrams.py says what words and n-grams are).

Exact copies go first. Among the rest MinHash proposes pairs (Daft computes the hashes, where the data lies) and the
sets of n-grams decide: no text is dropped on an estimate. Texts are visited in one order, longest first (UTF-8 bytes,
whitespace runs counted as one space), ties by id: a text stays unless it is a near copy of one that stays already;
then it goes, in favour of the most similar one (ties: the one visited first). So every dropped text is within the
threshold of the one kept in its place, also along a chain a ~ b ~ c whose ends differ, and what is kept depends on the
set of texts alone: not on their order, nor on how they are cut into parts, nor on threads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from etils import epath

from phi_jax.errors import UserError
from phi_jax.progress import Progress
from phi_jax.store import documents
from phi_jax.store.ngrams import Hashes, Indices, WordHashes, combined, gram_hashes, jaccard

_SEED = 1  # of the MinHash permutations: part of what "the same result on every run" means


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a near copy is, and how the pairs to be compared are found."""

    threshold: float = 0.8  # Jaccard similarity of the sets of n-grams, in (0, 1]
    ngram: int = 5  # words
    num_perm: int = 128  # MinHash values of a text
    bands: int = 21  # that these are cut into


@dataclasses.dataclass(frozen=True)
class Found:
    """Which of D texts are to be compared. The texts are numbered in the order in which they are visited."""

    ids: list[str]  # [D] no two of them exact copies
    copies: dict[str, str]  # id of an exact copy -> id of the text of the D that has the same words
    rows: int  # of the input; more than ids and copies where an id occurs twice
    buckets: list[Indices]  # texts with one band of MinHash in common: ascending, two or more
    grams: list[Hashes]  # [D] set of n-grams of each text that is in a bucket; empty for others
    rules: Rules
    label: str


def find_pairs(directories: Sequence[epath.PathLike], rules: Rules, *, label: str = "dedup") -> Found:
    """The pairs to be compared among the documents of one or several sets; rows of one id are one text.

    label: what the progress is called. Raises UserError for parts that cannot be read.
    """
    with Progress(label, sum(documents.totals(d).rows for d in directories), "documents signed") as bar:
        table, keys = _sign(directories, rules, bar.advance)
    # Stable against any order of arrival: digest and size are functions of the text, the id names it.
    table = table.append_column("row", pa.array(np.arange(table.num_rows))).sort_by(
        [("normal_bytes", "descending"), ("id", "ascending")]
    )
    places: dict[str, int] = {}  # id -> row of `keys`, in the order of visits
    first: dict[bytes, str] = {}
    copies: dict[str, str] = {}
    for identifier, digest, row in zip(*(table[c].to_pylist() for c in ("id", "digest", "row")), strict=True):
        text = first.setdefault(digest, identifier)
        if text == identifier:
            places.setdefault(identifier, row)
        else:
            copies[identifier] = text
    buckets = _buckets(keys[np.array(list(places.values()), dtype=np.int64)])
    ids = list(places)
    grams = [np.empty(0, dtype=np.uint64)] * len(ids)
    words = WordHashes()
    wanted = {ids[i]: i for i in np.unique(np.concatenate([np.empty(0, dtype=np.int64), *buckets])).tolist()}
    for directory in directories if wanted else ():
        for row in documents.read(directory):
            if (index := wanted.pop(row["id"], None)) is not None:
                grams[index] = gram_hashes(row["text"], rules.ngram, words)
    return Found(ids, copies, table.num_rows, buckets, grams, rules, label)


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
    dropped: dict[str, tuple[str, float]] = {}
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


def _buckets(keys: Hashes) -> list[Indices]:
    """The sets of two or more texts that have a band in common, each once. keys: [D, bands] hash of each band."""
    found: dict[bytes, Indices] = {}
    for band in keys.T:
        order = np.argsort(band, kind="stable")  # so that the members of a bucket ascend
        starts = np.flatnonzero(np.append(True, band[order][1:] != band[order][:-1]))
        lengths = np.diff(np.append(starts, len(band)))
        for start, length in zip(starts[lengths > 1].tolist(), lengths[lengths > 1].tolist(), strict=True):
            members = order[start : start + length]
            found[members.tobytes()] = members
    return list(found.values())


def _sign(
    directories: Sequence[epath.PathLike], rules: Rules, advance: Callable[[int], None]
) -> tuple[pa.Table, Hashes]:
    """(table of id, normal_bytes, digest of the words; hashes of the bands [rows, bands]), in the order of arrival.

    The texts stay where Daft reads them: a few hundred bytes a document come here.
    """
    # Daft's own telemetry and progress bars: off before it is imported.
    for name, value in (("DO_NOT_TRACK", "1"), ("DAFT_PROGRESS_BAR", "0"), ("DAFT_ANALYTICS_ENABLED", "0")):
        os.environ.setdefault(name, value)
    import daft
    from daft.functions import minhash

    fields = {
        "words": daft.DataType.string(),
        "normal_bytes": daft.DataType.int64(),
        "digest": daft.DataType.binary(),
    }

    @daft.func.batch(return_dtype=daft.DataType.struct(fields), unnest=True, use_process=False)
    def normalise(series: daft.Series) -> pa.Array:
        normal = [" ".join((text or "").split()) for text in series.to_arrow().to_pylist()]
        encoded = [text.encode() for text in normal]
        columns = [
            pa.array(normal, pa.large_string()),
            pa.array([len(data) for data in encoded], pa.int64()),
            pa.array([hashlib.sha256(data).digest()[:16] for data in encoded], pa.large_binary()),
        ]
        return pa.StructArray.from_arrays(columns, names=list(fields))

    # S-curve of 21 bands of 6 hashes, 1 - (1 - s^6)^21: 0.28 at a Jaccard similarity of 0.5, 0.63 at 0.6, 0.93 at
    # 0.7, 0.998 at 0.8, 1 - 1e-7 at 0.9. 16 x 8 finds 0.947 at 0.8; 18 x 7 finds 0.986; 32 x 4 loses nothing, but
    # proposes 0.87 of the pairs at 0.5, all for nothing.
    width = rules.num_perm // rules.bands
    frame = daft.read_parquet([os.fspath(path) for directory in directories for path in documents.parts(directory)])
    frame = frame.select(daft.col("id"), normalise(daft.col("text")))
    hashes = minhash(daft.col("words"), num_hashes=rules.num_perm, ngram_size=rules.ngram, seed=_SEED)
    schema = pa.schema([("id", pa.large_string()), ("normal_bytes", pa.int64()), ("digest", pa.large_binary())])
    tables, keys = [schema.empty_table()], [np.empty((0, rules.bands), dtype=np.uint64)]
    try:
        for batch in frame.select(*schema.names, hashes.alias("hashes")).to_arrow_iter():
            signatures = batch.column("hashes").flatten().to_numpy().reshape(batch.num_rows, rules.num_perm)
            columns = signatures[:, : width * rules.bands].astype(np.uint64).reshape(-1, rules.bands, width)
            keys.append(combined([columns[:, :, i] for i in range(width)]))
            tables.append(pa.Table.from_batches([batch.select(schema.names)]))
            advance(batch.num_rows)
    except daft.exceptions.DaftCoreException as error:
        reason = str(error).splitlines()[0]
        places = ", ".join(map(os.fspath, directories))
        raise UserError(f"{places}: Daft cannot read its documents ({reason}); write them again") from None
    return pa.concat_tables(tables), np.concatenate(keys)
