"""Stage `decontaminate`: no held-out problem, nor a likeness of one, in any training text.

A document goes, whole, when one of its functions equals a held-out solution in its AST modulo names ("same syntax"),
for solutions of LEAST_NODES nodes or more, or when it says the same ("same text"):

- the whole first sentence of a problem's docstring, of 6 words or more, letter case, line breaks, comment marks and
  string escapes aside; shorter sentences, and those that several problems share, do not say where they come from;
- all lines of its solution, of 8 tokens and 6 words or more, one after the other, indents and prompts (>>>) aside, a
  string's ends taken for a line's: everybody writes `return " ".join(lines)`;
- 13 consecutive words of the docstring's prose, as in the paper; but for the grammar's texts against the grammar's
  problems, which share their templates' words, so that there it is no evidence.

Documents that share 13 consecutive words of a prompt, its code included, are counted (share_13_words). Of Markdown the
blocks of Python are compared. Text without Python 3 is compared by its words only, and counted as not parsed.
"""

import functools
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
from etils import epath

from phi_jax.config import Config
from phi_jax.contamination.held_out import NOT_PARSED, REMOVING, WORDS, HeldOut
from phi_jax.evaluation.problems import HELD_OUT
from phi_jax.progress import note
from phi_jax.store import documents
from phi_jax.store.artifact import Draft, Inputs

SETS = ("documents", "textbooks", "exercises")  # outputs of an artifact that are training texts
_FINDINGS = pa.schema(
    [*((name, pa.string()) for name in ("set", "id", "path", "reason")), ("tasks", pa.list_(pa.string()))]
)


def check(config: Config, name: str) -> None:
    """Raises UserError for problems that cannot be compared with, where a file holds them."""
    if config.decontaminate.problems != HELD_OUT:
        HeldOut(config.decontaminate.problems)


def decontaminate(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `decontaminate`. inputs: "documents", and "problems" where config.decontaminate.problems is "nano".

    Outputs: each of SETS that the input has, and "findings" (set, id, path, reason, tasks): why a text went, and what
    else HeldOut.inspect says of one. Raises UserError for problems that cannot be compared with.
    """
    source, chosen = inputs["documents"], config.decontaminate.problems
    held_out = HeldOut(str(inputs["problems"].path("problems")) if chosen == HELD_OUT else chosen)
    if held_out.untold:
        note(f"{draft.label}: these problems are too short to be found in a text: {', '.join(held_out.untold)}")
    written_by = source.facts["written_by"]
    prose = not (chosen == HELD_OUT and written_by == "grammar")
    sets = [name for name in SETS if name in source.manifest["outputs"]]
    parts = [(name, *part) for name in sets for part in enumerate(documents.parts(source.path(name)))]
    check = functools.partial(_check, parts, draft.directory, held_out, prose)
    findings = draft.directory / "findings"
    apart = [path for _, _, path in parts]
    documents.write_parts(findings, len(parts), check, _FINDINGS, label=draft.label, apart=apart)

    documents.add_output(draft, "findings")
    counts = Counter((row["set"], row["reason"]) for row in documents.read(findings, ("set", "reason")))
    for name in sets:
        kept, before = documents.add_output(draft, name).rows, documents.totals(source.path(name)).rows
        figures = {
            "documents": before,
            "kept": kept,
            "removed": before - kept,
            "not_parsed": counts[name, NOT_PARSED],
            "share_13_words": counts[name, WORDS],
            "hits": {reason: counts[name, reason] for reason in REMOVING},
        }
        draft.add_facts(**{name: figures})
    draft.add_facts(
        written_by=written_by,
        benchmark=chosen,
        problems=len(held_out.tasks),
        problems_too_short_to_find=held_out.untold,
    )


def _check(
    parts: Sequence[tuple[str, int, epath.Path]], directory: epath.Path, held_out: HeldOut, prose: bool, number: int
) -> list[documents.Row]:
    """The findings in a part. They are written behind the texts that they speak of: where they are both are."""
    name, index, path = parts[number]
    schema = documents.schema_of(path)
    clean, findings = [], []
    for row in documents.read_part(path, schema.names):
        found = held_out.inspect(row["text"], prose=prose)
        if found.keys().isdisjoint(REMOVING):
            clean.append(row)
        about = {"set": name, "id": row["id"], "path": row["path"]}
        findings += [{**about, "reason": reason, "tasks": tasks} for reason, tasks in found.items()]
    documents.write_part(directory / name, index, clean, schema)
    return findings
