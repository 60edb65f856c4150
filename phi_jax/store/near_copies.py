"""Stage `dedup`: documents -> documents without copies; what is dropped is listed with the one kept in its place.

Two texts are *exact* copies where their words are the same, and *near* copies where the Jaccard similarity of their
sets of word n-grams reaches the threshold (ngrams.py says what words and n-grams are).

Exact copies go first. Among the rest MinHash proposes pairs (Daft computes the hashes, where the data lies) and the
sets of n-grams decide: no document is dropped on an estimate. Texts are then visited in one order, longest (UTF-8
bytes, whitespace runs counted as one space) first, ties by id: a text stays unless it is a near copy of one that
stays already; then it goes, in favour of the most similar one (ties: the one visited first). So every dropped text
is within the threshold of the one kept in its place, also along a chain a ~ b ~ c whose ends differ, and what is kept
depends on the set of texts alone: not on their order, nor on how they are cut into parts, nor on threads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.progress import Progress
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft
from phi_jax.store.ngrams import Grams, Hashes, Indices, combined

ROWS_PER_PART = 1000
# Members beyond which the pairs of a bucket are not listed; see `Found`.
LARGE_BUCKET = 200
_SEED = 1  # of the MinHash permutations: part of what "the same result on every run" means
_DUPLICATES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kept", pa.string(), nullable=False),  # id of the document kept in its place
        pa.field("kind", pa.string(), nullable=False),  # exact: the same words as the kept one; near
        pa.field("similarity", pa.float64(), nullable=False),  # Jaccard with the kept one
        pa.field("source", pa.string()),
        pa.field("path", pa.string()),
    ]
)

Advance = Callable[[int], None]


def dedup(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `dedup`. Outputs: "documents" (the rows kept, with a column `cluster`: the id of the document that its
    copies were dropped for, its own) and "duplicates" (the rows dropped: id, kept, kind, similarity, source, path).

    Raises UserError for a rule out of range and for documents that cannot be read.
    """
    source, rules = inputs["documents"].path("documents"), Rules.of(config)
    columns, _ = _columns(source)
    schema = columns.append(pa.field("cluster", pa.string(), nullable=False))
    kept_directory, dropped_directory = draft.directory / "documents", draft.directory / "duplicates"
    for directory in (kept_directory, dropped_directory):
        directory.mkdir(exist_ok=True)

    # --- Decide; the table is whole or not there, and all that follows is a function of it and the input ----------
    table = documents.part_path(dropped_directory, 0)
    if not table.exists():
        found = find_pairs([source], rules, label=draft.label)
        dropped, facts = _dropped_rows(source, found, decide(found))
        documents.write_part(dropped_directory, 0, dropped, _DUPLICATES.with_metadata({"facts": json.dumps(facts)}))
    facts = json.loads(pq.ParquetFile(table.open("rb")).schema_arrow.metadata[b"facts"])
    gone = Counter((row["id"], *_place(row)) for row in documents.read_part(table, ("id", "source", "path")))

    # --- Write what stays, in the input's order -------------------------------------------------------------------
    with Progress(draft.label, facts["kept"], "documents written") as bar:
        for index, rows in enumerate(_kept_parts(source, columns.names, gone)):
            if not documents.part_path(kept_directory, index).exists():
                documents.write_part(kept_directory, index, rows, schema)
            bar.advance(len(rows))

    draft.add_output(
        "documents", "documents", kind="documents", digest=documents.digest(kept_directory), rows=facts["kept"]
    )
    # Rows, not Parquet's bytes, are the content: those change with the version of pyarrow.
    draft.add_output(
        "duplicates",
        "duplicates",
        kind="documents",
        digest=documents.digest(dropped_directory),
        rows=facts["documents"] - facts["kept"],
    )
    draft.add_facts(**facts)


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a near copy is, and how the pairs to be compared are found."""

    threshold: float = 0.8  # Jaccard similarity of the sets of n-grams, in (0, 1]
    ngram: int = 5  # words
    num_perm: int = 128  # MinHash values of a text
    bands: int = 21  # that these are cut into

    @classmethod
    def of(cls, config: Config) -> Rules:
        """Those of config.dedup. Raises UserError for one out of range."""
        rules = config.dedup
        if not 0 < rules.threshold <= 1:
            raise UserError(f"config.dedup.threshold={rules.threshold}: a Jaccard similarity; use one in (0, 1]")
        if rules.ngram < 1:
            raise UserError(f"config.dedup.ngram={rules.ngram}: words of an n-gram; use 1 or more")
        if not 1 <= rules.bands <= rules.num_perm:
            raise UserError(
                f"config.dedup.bands={rules.bands}: bands are cut from num_perm={rules.num_perm} hashes; "
                "use 1 to num_perm"
            )
        return cls(rules.threshold, rules.ngram, rules.num_perm, rules.bands)


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found among D texts, no two of them exact copies, numbered in the order in which they are visited.

    `large` holds the members of every bucket (texts with one band of MinHash in common) of more than LARGE_BUCKET.
    Their pairs are not listed: a thousand files that share a licence and a stub have half a million. `decide` compares
    each member with those members that stay, which are few where the others are copies. Nothing is lost: a text is
    only ever dropped for one that stays, so the other pairs have no say.
    """

    ids: list[str]  # [D]
    copies: dict[str, str]  # id of an exact copy -> id of the text of the D that has the same words
    sizes: dict[str, int]  # UTF-8 bytes of the text, by id, copies included
    rows: int  # of the input; more than ids where an id occurs twice
    pairs: Indices  # [P, 2] indices (visited earlier, visited later), each pair once: all candidates
    similarity: npt.NDArray[np.float64]  # [P] Jaccard of the sets of n-grams
    large: list[Indices]
    grams: Grams
    threshold: float

    def near(self) -> Iterator[tuple[str, str, float]]:
        """The verified pairs: (id, id, similarity) of all candidates that reach the threshold."""
        for index in np.flatnonzero(self.similarity >= self.threshold):
            first, second = self.pairs[index]
            yield self.ids[first], self.ids[second], float(self.similarity[index])


@dataclasses.dataclass(frozen=True)
class Decisions:
    """What `decide` found: for each dropped id the id kept in its place, and their similarity."""

    dropped: dict[str, tuple[str, float]]
    candidate_pairs: int  # pairs whose sets of n-grams were compared
    verified_pairs: int  # those among them that reach the threshold


def expected_recall(similarity: float, bands: int, rows: int) -> float:
    """The probability that a pair of this Jaccard similarity has at least one of its bands in common."""
    return 1 - (1 - similarity**rows) ** bands


def find_pairs(directories: Sequence[epath.PathLike], rules: Rules, *, label: str = "dedup") -> Found:
    """All candidate pairs of the documents of one or several sets, each verified. label: what the progress is called.

    Raises UserError for parts that cannot be read.
    """
    with Progress(label, sum(_columns(directory)[1] for directory in directories), "documents signed") as bar:
        table, keys = _sign(directories, rules, bar.advance)
    # Stable against any order of arrival: digest and size are functions of the text, the id names it.
    table = table.append_column("row", pa.array(np.arange(table.num_rows))).sort_by(
        [("normal_bytes", "descending"), ("id", "ascending"), ("digest", "ascending")]
    )
    ids: list[str] = []
    order: list[int] = []
    first: dict[bytes, str] = {}
    copies: dict[str, str] = {}
    for identifier, digest, row in zip(*(table[c].to_pylist() for c in ("id", "digest", "row")), strict=True):
        text = first.setdefault(digest, identifier)
        if text != identifier:
            copies[identifier] = text
        elif not ids or ids[-1] != identifier:
            ids.append(identifier)
            order.append(row)
    sizes = dict(zip(table["id"].to_pylist(), table["bytes"].to_pylist(), strict=True))
    pairs, large = candidate_pairs(keys[np.array(order, dtype=np.int64)])
    wanted = {ids[i]: i for i in _union([pairs.ravel(), *large]).tolist()}
    grams = Grams.of(_texts(directories, wanted), len(ids), rules.ngram)
    similarity = np.empty(len(pairs))
    with Progress(label, len(pairs), "pairs verified") as bar:
        for begin, end in _runs(pairs[:, 0]):
            similarity[begin:end] = grams.jaccard(int(pairs[begin, 0]), pairs[begin:end, 1])
            bar.advance(end - begin)
    return Found(ids, copies, sizes, table.num_rows, pairs, similarity, large, grams, rules.threshold)


def decide(found: Found) -> Decisions:
    """The greedy choice that the module's docstring describes."""
    close = found.similarity >= found.threshold
    order = np.lexsort((found.pairs[close, 0], found.pairs[close, 1]))
    earlier, later = found.pairs[close][order].T
    similarity = found.similarity[close][order]
    near = {int(later[b]): slice(b, e) for b, e in _runs(later)}
    buckets: dict[int, list[int]] = {}
    for bucket, members in enumerate(found.large):
        for member in members.tolist():
            buckets.setdefault(member, []).append(bucket)

    kept_in = [np.empty_like(members) for members in found.large]
    filled = [0] * len(found.large)
    stays = np.ones(len(found.ids), dtype=bool)
    dropped: dict[str, tuple[str, float]] = {}
    listed = found.pairs[:, 0] * len(found.ids) + found.pairs[:, 1]  # sorted, as the pairs are
    extra = extra_close = 0
    for text in sorted({*near, *buckets}):
        part = near.get(text, slice(0, 0))
        best = [(-s, k) for k, s in zip(earlier[part].tolist(), similarity[part].tolist(), strict=True) if stays[k]]
        others = _union(
            found.grams.can_reach(found.threshold, text, kept_in[b][: filled[b]]) for b in buckets.get(text, ())
        )
        others = others[~_inside(others * len(found.ids) + text, listed)]
        if len(others):
            scores = found.grams.jaccard(text, others)
            best += [(-s, k) for k, s in zip(others.tolist(), scores.tolist(), strict=True) if s >= found.threshold]
            extra += len(others)
            extra_close += int(np.count_nonzero(scores >= found.threshold))
        if best:
            score, kept = min(best)
            stays[text] = False
            dropped[found.ids[text]] = found.ids[kept], -score
        else:
            for bucket in buckets.get(text, ()):
                kept_in[bucket][filled[bucket]] = text
                filled[bucket] += 1
    for copy, original in found.copies.items():
        dropped[copy] = dropped.get(original, (original, 1.0))
    return Decisions(dropped, len(found.pairs) + extra, int(np.count_nonzero(close)) + extra_close)


def candidate_pairs(keys: Hashes) -> tuple[Indices, list[Indices]]:
    """Texts with a band in common. keys: [D, bands], a number that stands for the hashes in each band.

    Returns (pairs [P, 2] with the lower index first, sorted, each once; the members of each large bucket, sorted).
    """
    count = len(keys)
    codes = np.empty(0, dtype=np.int64)
    large: dict[bytes, Indices] = {}
    for band in range(keys.shape[1]):
        order = np.argsort(keys[:, band], kind="stable")
        bounds = np.array(list(_runs(keys[order, band])), dtype=np.int64).reshape(-1, 2)
        lengths = bounds[:, 1] - bounds[:, 0]
        new = [codes]
        for length in np.unique(lengths[lengths > 1]).tolist():
            begins = bounds[lengths == length, 0]
            if length > LARGE_BUCKET:
                for begin in begins.tolist():
                    members = order[begin : begin + length]  # ascending, since the sort is stable
                    large[members.tobytes()] = members
                continue
            members = order[begins[:, None] + np.arange(length)]  # [buckets, length]
            one, other = np.triu_indices(length, 1)
            new.append((members[:, one] * count + members[:, other]).ravel())
        codes = np.unique(np.concatenate(new))
    pairs = np.stack(np.divmod(codes, max(count, 1)), axis=1)
    return pairs, [large[name] for name in sorted(large)]


def _runs(values: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    """(begin, end) of each run of equal values."""
    if len(values):
        cuts = np.flatnonzero(values[1:] != values[:-1]) + 1
        yield from zip([0, *cuts.tolist()], [*cuts.tolist(), len(values)], strict=True)


def _union(sets: Iterable[Indices]) -> Indices:
    """Sorted, each once."""
    return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *sets]))


def _inside(values: Indices, members: Indices) -> npt.NDArray[np.bool_]:
    """Which values are among the members, which are sorted."""
    places = np.searchsorted(members, values)
    inside = places < len(members)
    inside[inside] = members[places[inside]] == values[inside]
    return inside


def _sign(directories: Sequence[epath.PathLike], rules: Rules, advance: Advance) -> tuple[pa.Table, Hashes]:
    """(table of id, bytes, normal_bytes, digest of the words; band keys [rows, bands]), in the order of arrival.

    The texts stay where Daft reads them: a few hundred bytes a document come here.
    """
    # Daft's own telemetry and progress bars: off before it is imported.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
    import daft
    from daft.functions import minhash

    fields = {
        "words": daft.DataType.string(),
        "bytes": daft.DataType.int64(),
        "normal_bytes": daft.DataType.int64(),
        "digest": daft.DataType.binary(),
    }

    @daft.func.batch(return_dtype=daft.DataType.struct(fields), unnest=True, use_process=False)
    def normalise(series: daft.Series) -> pa.Array:
        texts = [text or "" for text in series.to_arrow().to_pylist()]
        normal = [" ".join(text.split()) for text in texts]
        encoded = [text.encode() for text in normal]
        columns = [
            pa.array(normal, pa.large_string()),
            pa.array([len(text.encode()) for text in texts], pa.int64()),
            pa.array([len(data) for data in encoded], pa.int64()),
            pa.array([hashlib.sha256(data).digest()[:16] for data in encoded], pa.large_binary()),
        ]
        return pa.StructArray.from_arrays(columns, names=list(fields))

    # S-curve of 21 bands of 6 hashes, 1 - (1 - s^6)^21: 0.28 at a Jaccard similarity of 0.5, 0.63 at 0.6, 0.93 at
    # 0.7, 0.998 at 0.8, 1 - 1e-7 at 0.9. 16 x 8 finds 0.947 at 0.8; 18 x 7 finds 0.986; 32 x 4 loses nothing, but
    # proposes 0.87 of the pairs at 0.5, all for nothing.
    width = rules.num_perm // rules.bands
    paths = [os.fspath(path) for directory in directories for path in documents.parts(directory)]
    frame = daft.read_parquet(paths)
    frame = frame.select(daft.col("id"), normalise(daft.col("text")))
    hashes = minhash(daft.col("words"), num_hashes=rules.num_perm, ngram_size=rules.ngram, seed=_SEED)
    names = ("id", "bytes", "normal_bytes", "digest")
    tables, keys = [], [np.empty((0, rules.bands), dtype=np.uint64)]
    try:
        for batch in frame.select(*names, hashes.alias("hashes")).to_arrow_iter():
            signatures = batch.column("hashes").flatten().to_numpy().reshape(batch.num_rows, rules.num_perm)
            columns = signatures[:, : width * rules.bands].astype(np.uint64).reshape(-1, rules.bands, width)
            keys.append(combined([columns[:, :, i] for i in range(width)]))
            tables.append(pa.Table.from_batches([batch.select(names)]))
            advance(batch.num_rows)
    except daft.exceptions.DaftCoreException as error:
        reason = str(error).splitlines()[0]
        places = ", ".join(map(os.fspath, directories))
        raise UserError(f"{places}: Daft cannot read its documents ({reason}); write them again") from None
    empty = pa.schema([("id", pa.large_string()), ("bytes", pa.int64()), ("normal_bytes", pa.int64()),
                       ("digest", pa.large_binary())])  # fmt: skip
    return pa.concat_tables([empty.empty_table(), *tables]), np.concatenate(keys)


def _texts(directories: Sequence[epath.PathLike], wanted: Mapping[str, int]) -> Iterator[tuple[int, str]]:
    """(index, text) of the ids wanted, each once."""
    left = dict(wanted)
    for directory in directories if left else ():
        for row in documents.read(directory, ("id", "text")):
            if (index := left.pop(row["id"], None)) is not None:
                yield index, row["text"] or ""


def _dropped_rows(
    directory: epath.PathLike, found: Found, decisions: Decisions
) -> tuple[list[documents.Row], dict[str, Any]]:
    """(rows of the table of duplicates, sorted; facts)."""
    # An id that names several rows (sets made elsewhere) stays once: the first by source and path.
    first: dict[str, tuple[str, str]] = {}
    if found.rows > len(found.sizes):
        for row in documents.read(directory, ("id", "source", "path")):
            first[row["id"]] = min(first.get(row["id"], _place(row)), _place(row))
    rows: list[documents.Row] = []
    stayed: set[str] = set()
    for row in documents.read(directory, ("id", "source", "path")):
        identifier = row["id"]
        kept, similarity = decisions.dropped.get(identifier, (identifier, 1.0))
        if kept == identifier and identifier not in stayed and first.get(identifier, _place(row)) == _place(row):
            stayed.add(identifier)
            continue
        kind = "exact" if kept in (identifier, found.copies.get(identifier)) else "near"
        rows.append({**row, "kept": kept, "kind": kind, "similarity": similarity})
    rows.sort(key=lambda row: (row["id"], *_place(row)))
    kinds = Counter(row["kind"] for row in rows)
    members = Counter(row["kept"] for row in rows)
    return rows, {
        "documents": found.rows,
        "kept": len(stayed),
        "exact": kinds["exact"],
        "near": kinds["near"],
        "clusters": len(members),
        "largest_cluster": max(members.values(), default=0) + bool(stayed),
        "candidate_pairs": decisions.candidate_pairs,
        "verified_pairs": decisions.verified_pairs,
        "bytes": sum(found.sizes[identifier] for identifier in stayed),
    }


def _kept_parts(
    directory: epath.PathLike, columns: Sequence[str], gone: Counter[tuple[str, str, str]]
) -> Iterator[list[documents.Row]]:
    """The rows that stay with their cluster, ROWS_PER_PART at a time, at least one part. gone: rows by id and place."""
    rows: list[documents.Row] = []
    begun = False
    for row in documents.read(directory, columns):
        name = (row["id"], *_place(row))
        if gone[name]:
            gone[name] -= 1
            continue
        rows.append({**row, "cluster": row["id"]})
        if len(rows) == ROWS_PER_PART:
            yield rows
            rows, begun = [], True
    if rows or not begun:
        yield rows


def _place(row: documents.Row) -> tuple[str, str]:
    return row["source"] or "", row["path"] or ""


def _columns(directory: epath.PathLike) -> tuple[pa.Schema, int]:
    """(the columns of a document set, less a `cluster` of an earlier round; its rows). Reads the parts' footers only.

    Raises UserError naming a part that is damaged or has other columns than the first.
    """
    schema, rows = None, 0
    for path in documents.parts(directory):
        try:
            with path.open("rb") as file:
                part = pq.ParquetFile(file)
                found, rows = part.schema_arrow.remove_metadata(), rows + part.metadata.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path}: cannot be read as Parquet ({error}); write it again") from None
        schema = found if schema is None else schema
        missing = [name for name in ("text", *schema.names) if name not in found.names]
        if missing:
            raise UserError(f"{path}: has no column {missing[0]!r}, which documents need or the first part has")
    assert schema is not None  # `parts` finds one or raises
    return pa.schema([field for field in schema if field.name != "cluster"]), rows
