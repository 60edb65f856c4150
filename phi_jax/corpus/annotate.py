"""Stage `annotate`: a sample of the documents is graded for its educational value.

The paper (section 2.1) has GPT-4 grade about 100k files. It gives neither the scale of the grades nor where "high"
begins: here a grade is 0 to 1, and the share `config.annotate.high_share` of the graded files with the best grades
is labelled "high". config.annotate.grader says who grades: the static rubric (rubric.py), or language models by their
votes (taught_grades.py).
"""

import functools
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
from etils.epath import Path, PathLike

from phi_jax.config import Config
from phi_jax.corpus import rubric
from phi_jax.corpus.taught_grades import TEMPLATE, ballot, graded
from phi_jax.errors import UserError
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft, Inputs, Json
from phi_jax.store.rows import Row
from phi_jax.teacher.teachers import Teachers
from phi_jax.teacher.templates import read_template
from phi_jax.teacher.votes import vote_of

STATIC = "static"  # the grader that is computed here; any other name is a teacher's
_GRADED = pa.schema(
    [
        documents.text_field("id"),
        ("grade", pa.float64()),  # 0 to 1; null where no vote came
        ("reason", pa.string()),  # why the file was given 0 without being weighed, or no grade at all
        ("votes", pa.list_(pa.int64())),  # one a request, 0 to TOP; null where it is missing
        ("explanation", pa.string()),  # of the first vote that there is
    ]
)


def annotate(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `annotate`: inputs {"documents"} -> output "grades" (id, grade from 0 to 1, reason, votes, explanation).

    The fact "threshold" is the grade from which a file is labelled high; files of an equal grade are high with it.
    Raises UserError where no file got a grade, and as Teachers.ask.
    """
    rules, source = config.annotate, inputs["documents"].path("documents")
    chosen = sample(source, rules.max_files)
    facts = {}
    if rules.grader == STATIC:
        rows = _grade(draft, source, chosen, _weighed)
    else:
        # All votes are asked for first; then the files are graded from what lies in the journal.
        with Teachers(config, draft.workdir) as teachers:
            votes = ballot(teachers, rules)
            tally = teachers.ask(
                lambda: (vote for row in _rows(source, chosen) for vote in votes(row)),
                draft.label, len(chosen) * rules.votes,
            )  # fmt: skip
            # What an interrupted run has graded may rest on outcomes that have been asked for again since.
            if tally.counts:
                (draft.directory / "grades").rmtree(missing_ok=True)
            rows = _grade(
                draft, source, chosen, lambda row: graded(row["id"], [vote_of(teachers, vote) for vote in votes(row)])
            )
            facts = {"prompt": read_template(TEMPLATE).note(), "teaching": teachers.note()}

    documents.add_output(draft, "grades")
    grades = sorted((row["grade"] for row in rows if row["grade"] is not None), reverse=True)
    reasons = dict(Counter(row["reason"] for row in rows if row["reason"] is not None).most_common())
    if not grades:
        raise UserError(
            f"config.annotate.grader={rules.grader!r}: none of {len(rows)} files got a vote ({next(iter(reasons))}); "
            "raise config.annotate.max_tokens where replies ended by length, else ask another teacher"
        )
    threshold = grades[max(1, round(rules.high_share * len(grades))) - 1]
    high = sum(label_of(row, threshold) == "high" for row in rows)
    draft.add_facts(
        grader=rules.grader, graded=len(grades), high=high, threshold=threshold, reasons=reasons, **facts
    )  # fmt: skip


def pilot(config: Config, inputs: Inputs, workdir: PathLike, requests: int) -> Json:
    """Asks for the votes that stand first in a teacher's grading; writes nothing but the journal.

    Their files are a sample of those that `annotate` will ask about, with the same requests. Returns the arguments of
    teacher.pilot.lines; rejected are the outcomes that are no vote. Raises as `annotate`.
    """
    rules, source = config.annotate, inputs["documents"].path("documents")
    with Teachers(config, workdir, live=True) as teachers:
        votes = ballot(teachers, rules)
        whole = len(sample(source, rules.max_files))
        chosen = sample(source, min(whole, -(-requests // rules.votes)))
        first = list(itertools.islice((vote for row in _rows(source, chosen) for vote in votes(row)), requests))
        teachers.ask(lambda: first, "annotate pilot", len(first))
        replies = list(map(teachers.reply, first))
    return {
        "total": whole * rules.votes,
        "costs": [reply.cost for reply in replies],
        "rejected": Counter(reply.status for reply in replies if reply.status != "answered"),
    }


def read_grades(annotated: Artifact) -> list[Json]:
    """{"id", "grade", "label" ("high", "low" or None where there is no grade)} of each file that was to be graded."""
    rows = documents.read(annotated.path("grades"), ("id", "grade", "reason"))
    return [{**row, "label": label_of(row, annotated.facts["threshold"])} for row in rows]


def label_of(row: Row, threshold: float) -> str | None:
    """ "high" from the threshold on, unless the file could not be weighed."""
    if row["grade"] is None:
        return None
    return "high" if row["grade"] >= threshold and row["reason"] is None else "low"


def sample(source: PathLike, limit: int) -> set[str]:
    """Ids of the `limit` documents (0 = all) with the lowest hashes. Raises UserError where there is no document."""
    ids = (row["id"] for row in documents.read(source, ("id",)))
    chosen = set(heapq.nsmallest(limit, ids, key=lambda i: (documents.uniform(i, "annotate"), i)) if limit else ids)
    if not chosen:
        raise UserError(f"{source}: holds no document to grade; collect some first")
    return chosen


def _rows(source: Path, chosen: set[str]) -> Iterator[Row]:
    """The chosen documents in their order."""
    return (row for row in documents.read(source) if row["id"] in chosen)


def _grade(draft: Draft, source: Path, chosen: set[str], grade: Callable[[Row], Row]) -> Sequence[Row]:
    """Writes the parts of the output "grades" that are missing, and reads {"id", "grade", "reason"} of them all."""
    grades, parts = draft.directory / "grades", documents.parts(source)
    make = functools.partial(_grades, parts, chosen, grade)
    # A teacher's replies are looked up in a journal, which stays in this process.
    apart = parts if grade is _weighed else ()
    documents.write_parts(grades, len(parts), make, _GRADED, label=draft.label, apart=apart)
    return list(documents.read(grades, ("id", "grade", "reason")))


def _grades(parts: Sequence[Path], chosen: set[str], grade: Callable[[Row], Row], index: int) -> Iterator[Row]:
    return (grade(row) for row in documents.read_part(parts[index], ("id", "text")) if row["id"] in chosen)


def _weighed(row: Row) -> Row:
    grade = rubric.grade(row["text"])
    return {"id": row["id"], "grade": grade.value, "reason": grade.reason}
