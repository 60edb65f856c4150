"""Stage `annotate`: a sample of the documents is graded for its educational value.

The paper (section 2.1) has GPT-4 grade about 100k files. It gives neither the scale of the grades nor where "high"
begins: here a grade is 0 to 1, and the share `config.annotate.high_share` of the graded files with the best grades
is labelled "high".
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from phi_jax import documents
from phi_jax.artifact import Artifact, Draft, atomic_path
from phi_jax.config import Config
from phi_jax.corpus import rubric
from phi_jax.errors import UserError
from phi_jax.progress import Progress

FILES_PER_PART = 200
BINS = 10
_PARTS = "graded"
_GRADES = "grades.parquet"

# The door through which every grader comes: the text of one file in, its grade out.
Grader = Callable[[str], rubric.Grade]
GRADERS: Mapping[str, Grader] = {"static": rubric.grade}

_GRADED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("grade", pa.float64(), nullable=False),  # 0 to 1
        *(pa.field(part, pa.float64()) for part in rubric.PARTS),  # 0 to 1; null where the grader has no such part
        pa.field("reason", pa.string()),  # why the file was given 0 without being weighed
        pa.field("grader", pa.string(), nullable=False),
    ]
)
_LABELLED = _GRADED.insert(2, pa.field("label", pa.string(), nullable=False))  # "high" or "low"


def find_grader(name: str) -> Grader:
    """The grader of that name. Raises UserError where there is none."""
    if name not in GRADERS:
        raise UserError(f"config.annotate.grader={name!r}: no such grader here; there are: {', '.join(GRADERS)}")
    return GRADERS[name]


def annotate(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `annotate`: inputs {"documents"} -> output "grades", a Parquet file.

    Its columns: id, grade (0 to 1), label ("high" or "low"), the parts of the static rubric, reason, grader.
    Raises UserError for an unknown grader or a share that leaves one of the labels without files.
    """
    rules = config.annotate
    grader = find_grader(rules.grader)
    if not 0 < rules.high_share < 1:
        raise UserError(f"config.annotate.high_share={rules.high_share}: must lie between 0 and 1, both excluded")
    source, _ = documents.document_set(inputs["documents"], "raw")
    parts, final = draft.directory / _PARTS, draft.directory / _GRADES

    # --- Grades, in parts that a killed run leaves behind; a part is a function of the sample's slice ---------------
    if not final.exists():
        parts.mkdir(exist_ok=True)
        chosen = sample(source, rules.max_files)
        with Progress(draft.label, len(chosen), "files") as bar:
            for index, rows in enumerate(_slices(source, chosen)):
                if not documents.part_path(parts, index).exists():
                    documents.write_part(parts, index, [_graded(row, grader, rules.grader) for row in rows], _GRADED)
                bar.advance(len(rows))
        graded = list(documents.read(parts, _GRADED.names))
        threshold = _threshold([row["grade"] for row in graded], rules.high_share)
        for row in graded:
            row["label"] = "high" if row["grade"] >= threshold and row["reason"] is None else "low"
        with atomic_path(final) as path, path.open("wb") as file:
            pq.write_table(pa.Table.from_pylist(graded, schema=_LABELLED), file, compression="zstd")
    if parts.exists():
        parts.rmtree()

    # --- What is left behind ------------------------------------------------------------------------------------
    graded = read_grades(final)
    high = [row["grade"] for row in graded if row["label"] == "high"]
    means = {part: _mean([row[part] for row in graded if row[part] is not None]) for part in rubric.PARTS}
    draft.add_output("grades", _GRADES, rows=len(graded))
    draft.add_facts(
        grader=rules.grader,
        graded=len(graded),
        high=len(high),
        threshold=min(high, default=None),
        mean_grade=_mean([row["grade"] for row in graded]),
        mean_parts=means,
        histogram=histogram([row["grade"] for row in graded], BINS),
        reasons=dict(Counter(row["reason"] for row in graded if row["reason"] is not None).most_common()),
    )


def read_grades(path: epath.PathLike) -> list[dict[str, Any]]:
    """The rows of a "grades" output. Raises UserError naming the file where it is damaged or lacks a column."""
    return list(documents.read_part(path, _LABELLED.names))


def sample(source: epath.PathLike, limit: int) -> set[str]:
    """Ids of the `limit` documents (0 = all) with the lowest hashes.

    The id is hashed again, since `collect` may have sampled by the very hash that the id is. Raises UserError where
    there is no document.
    """
    ids = (row["id"] for row in documents.read(source, ("id",)))
    chosen = set(heapq.nsmallest(limit, ids, key=_position) if limit else ids)
    if not chosen:
        raise UserError(f"{source}: holds no document to grade; collect some first")
    return chosen


def histogram(values: list[float], bins: int) -> list[int]:
    """Counts of values from 0 to 1 in equal bins; 1 falls into the last."""
    counts = Counter(min(int(value * bins), bins - 1) for value in values)
    return [counts[index] for index in range(bins)]


def _position(identifier: str) -> str:
    return hashlib.sha256(f"annotate {identifier}".encode()).hexdigest()


def _slices(source: epath.PathLike, chosen: set[str]) -> Iterator[list[documents.Row]]:
    """The chosen documents in their order, FILES_PER_PART at a time."""
    rows = (row for row in documents.read(source) if row["id"] in chosen)
    while batch := list(itertools.islice(rows, FILES_PER_PART)):
        yield batch


def _graded(row: documents.Row, grader: Grader, name: str) -> dict[str, Any]:
    given = grader(row["text"])
    parts = {part: given.parts.get(part) for part in rubric.PARTS}
    return {"id": row["id"], "grade": given.value, **parts, "reason": given.reason, "grader": name}


def _threshold(grades: list[float], share: float) -> float:
    """The grade of the last file that is labelled high; files of an equal grade are high with it."""
    return sorted(grades, reverse=True)[max(1, round(share * len(grades))) - 1]


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None
