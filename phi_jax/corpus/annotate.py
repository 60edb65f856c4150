"""Stage `annotate`: a sample of the documents is graded for its educational value.

The paper (section 2.1) has GPT-4 grade about 100k files. It gives neither the scale of the grades nor where "high"
begins: here a grade is 0 to 1, and the share `config.annotate.high_share` of the graded files with the best grades
is labelled "high". config.annotate.grader says who grades: the static rubric (rubric.py), or language models by their
votes (taught_grades.py).
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

from phi_jax.config import Config
from phi_jax.corpus import rubric
from phi_jax.errors import UserError
from phi_jax.progress import Progress
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft, atomic_path

FILES_PER_PART = 200
BINS = 10
_PARTS = "graded"
_GRADES = "grades.parquet"

# The graders that are computed here: the text of one file in, its grade out. Any other name is a teacher's.
Grader = Callable[[str], rubric.Grade]
GRADERS: Mapping[str, Grader] = {"static": rubric.grade}

_GRADED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("grade", pa.float64(), nullable=False),  # 0 to 1
        *(pa.field(part, pa.float64()) for part in rubric.PARTS),  # 0 to 1; null where the grader has no such part
        pa.field("reason", pa.string()),  # why the file was given 0 without being weighed, or no grade at all
        pa.field("grader", pa.string(), nullable=False),
    ]
)
_COLUMNS = [*_GRADED.names, "label"]


def annotate(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `annotate`: inputs {"documents"} -> output "grades", a Parquet file.

    Its columns: id, grade (0 to 1), label ("high" or "low"), the parts of the static rubric, reason, grader. Where
    teachers grade, taught_grades.COLUMNS come beside them, and a file without any vote has neither grade nor label.
    Raises UserError for an unknown grader or a share that leaves one of the labels without files, and as Teachers.ask.
    """
    rules = config.annotate
    if not 0 < rules.high_share < 1:
        raise UserError(f"config.annotate.high_share={rules.high_share}: must lie between 0 and 1, both excluded")
    source, _ = documents.document_set(inputs["documents"], "raw")
    chosen = sample(source, rules.max_files)
    if rules.grader in GRADERS:
        grader = GRADERS[rules.grader]
        graded = _grade(draft, source, chosen, lambda row: _weighed(row, grader, rules.grader), _GRADED, rules)
        means = {part: _mean([row[part] for row in graded if row[part] is not None]) for part in rubric.PARTS}
        draft.add_facts(**_facts(graded, rules.grader), mean_parts=means)
    else:
        _annotate_by_teachers(config, source, chosen, draft)


def _annotate_by_teachers(config: Config, source: epath.Path, chosen: set[str], draft: Draft) -> None:
    """All votes are asked for first; then the files are graded in their order from what lies in the journal."""
    from phi_jax.corpus.taught_grades import COLUMNS, TaughtGrader, facts_of_votes, prompt_note
    from phi_jax.teacher.teachers import Teachers

    rules = config.annotate
    schema = pa.schema([*_GRADED.set(1, pa.field("grade", pa.float64())), *COLUMNS])
    with Teachers.of(config, draft.workdir) as faculty:
        grader = TaughtGrader.of(faculty, rules)
        tally = faculty.ask(lambda: grader.requests(_rows(source, chosen)), draft.label, len(chosen) * rules.votes)
        if tally.counts:
            # What an interrupted run has graded may rest on outcomes that have been asked for again since.
            (draft.directory / _GRADES).unlink(missing_ok=True)
            if (draft.directory / _PARTS).exists():
                (draft.directory / _PARTS).rmtree()
        graded = _grade(draft, source, chosen, grader.graded, schema, rules)
        facts = _facts(graded, rules.grader)
        draft.add_facts(
            **facts, **facts_of_votes(graded, facts["threshold"]), prompt=prompt_note(), teaching=faculty.note()
        )


def pilot(config: Config, inputs: Mapping[str, Artifact], workdir: epath.PathLike, requests: int) -> dict[str, Any]:
    """Asks for the votes that stand first in a teacher's grading; writes nothing but the journal.

    Their files are a sample of those that `annotate` will ask about, with the same requests. Returns the fields of
    teacher.pilot.Sample; rejected are the outcomes that are no vote. Raises as `annotate`, and UserError where no
    teacher grades.
    """
    from phi_jax.corpus.taught_grades import TaughtGrader
    from phi_jax.teacher.request import Status
    from phi_jax.teacher.teachers import Teachers

    rules = config.annotate
    if rules.grader in GRADERS:
        raise UserError(f"config.annotate.grader={rules.grader!r}: asks no teacher, so there is nothing to project")
    source, _ = documents.document_set(inputs["documents"], "raw")
    with Teachers.of(config, workdir, live=True) as faculty:
        grader = TaughtGrader.of(faculty, rules)
        whole = len(sample(source, rules.max_files))
        chosen = sample(source, min(whole, -(-requests // rules.votes)))
        first = list(itertools.islice(grader.requests(_rows(source, chosen)), requests))
        tally = faculty.ask(lambda: first, "annotate pilot", len(first))
        replies = list(faculty.replies(first))
        costs = [faculty.planned_cost(request, reply) for request, reply in replies]
    return {
        "total": whole * rules.votes,
        "costs": costs,
        "rejected": Counter(reply.status.value for _, reply in replies if reply.status is not Status.ANSWERED),
        "asked": tally.counts.total(),
        "seconds": tally.seconds,
        "batch": any(endpoint.mode == "batch" for endpoint in grader.shares.endpoints),
    }


def read_grades(path: epath.PathLike) -> list[dict[str, Any]]:
    """The rows of a "grades" output. Raises UserError naming the file where it is damaged or lacks a column."""
    return list(documents.read_part(path, _COLUMNS))


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


def _rows(source: epath.Path, chosen: set[str]) -> Iterator[documents.Row]:
    """The chosen documents in their order."""
    return (row for row in documents.read(source) if row["id"] in chosen)


def _grade(
    draft: Draft,
    source: epath.Path,
    chosen: set[str],
    grade: Callable[[documents.Row], dict[str, Any]],
    schema: pa.Schema,
    rules: Config,
) -> list[dict[str, Any]]:
    """The rows of the output "grades", which this writes. grade: a document -> its row, but for the label."""
    parts, final = draft.directory / _PARTS, draft.directory / _GRADES
    labelled = schema.insert(2, pa.field("label", pa.string(), nullable=schema.field("grade").nullable))

    # --- Grades, in parts that a killed run leaves behind; a part is a function of the sample's slice ---------------
    if not final.exists():
        parts.mkdir(exist_ok=True)
        with Progress(draft.label, len(chosen), "files") as bar:
            rows = _rows(source, chosen)
            for index in itertools.count():
                if not (batch := list(itertools.islice(rows, FILES_PER_PART))):
                    break
                if not documents.part_path(parts, index).exists():
                    documents.write_part(parts, index, [grade(row) for row in batch], schema)
                bar.advance(len(batch))

        # --- Labels, once all grades are known ----------------------------------------------------------------------
        graded = list(documents.read(parts, schema.names))
        grades = [row["grade"] for row in graded if row["grade"] is not None]
        if not grades:
            raise UserError(
                f"config.annotate.grader={rules.grader!r}: none of {len(graded)} files got a vote "
                f"({next(iter(_reasons(graded)))}); raise config.annotate.max_tokens where replies ended by length, "
                "else ask another teacher"
            )
        threshold = _threshold(grades, rules.high_share)
        for row in graded:
            row["label"] = _label(row, threshold)
        with atomic_path(final) as path, path.open("wb") as file:
            pq.write_table(pa.Table.from_pylist(graded, schema=labelled), file, compression="zstd")
    if parts.exists():
        parts.rmtree()
    draft.add_output("grades", _GRADES, rows=pq.ParquetFile(final.open("rb")).metadata.num_rows)
    return list(documents.read_part(final, labelled.names))


def _label(row: Mapping[str, Any], threshold: float) -> str | None:
    if row["grade"] is None:
        return None
    return "high" if row["grade"] >= threshold and row["reason"] is None else "low"


def _weighed(row: documents.Row, grader: Grader, name: str) -> dict[str, Any]:
    given = grader(row["text"])
    parts = {part: given.parts.get(part) for part in rubric.PARTS}
    return {"id": row["id"], "grade": given.value, **parts, "reason": given.reason, "grader": name}


def _facts(rows: list[dict[str, Any]], grader: str) -> dict[str, Any]:
    """What a reader wants to know of any grader's rows."""
    grades = [row["grade"] for row in rows if row["grade"] is not None]
    high = [row["grade"] for row in rows if row["label"] == "high"]
    return {
        "grader": grader,
        "graded": len(grades),
        "high": len(high),
        "threshold": min(high, default=None),
        "mean_grade": _mean(grades),
        "histogram": histogram(grades, BINS),
        "reasons": _reasons(rows),
    }


def _reasons(rows: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(row["reason"] for row in rows if row["reason"] is not None).most_common())


def _threshold(grades: list[float], share: float) -> float:
    """The grade of the last file that is labelled high; files of an equal grade are high with it."""
    return sorted(grades, reverse=True)[max(1, round(share * len(grades))) - 1]


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None
