"""Stage `decontaminate`: no held-out problem, nor a likeness of one, in any training text.

A document goes, whole, when one of its functions equals a held-out solution in its AST modulo names ("same syntax"),
for solutions of LEAST_NODES nodes or more, or when it says the same ("same text"):

- the whole first sentence of a problem's docstring, of 6 words or more, letter case, line breaks, comment marks and
  string escapes aside; shorter sentences, and those that several problems share, do not say where they come from;
- all lines of its solution, of 8 tokens or more, one after the other, indents aside;
- 13 consecutive words of the docstring's prose, as in the paper; but for the grammar's texts against the grammar's
  problems, which share their templates' words, so that there it is no evidence.

Documents that share 13 consecutive words of a prompt, its code included, are counted (share_13_words). Of Markdown the
blocks of Python are compared. Text without Python 3 is compared by its words only, and counted as not parsed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import multiprocessing
import os
import sys
import threading
import types
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from phi_jax.config import Config
from phi_jax.contamination.held_out import REASONS, HeldOut, inspect, load_held_out
from phi_jax.evaluation.problems import HELD_OUT
from phi_jax.progress import Progress, say
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft, write_json

SETS = ("documents", "textbooks", "exercises")  # outputs of an artifact that are training texts
_PARALLEL_BYTES = 8_000_000  # of text, from which on several processes read
_COUNTS = ("documents", "kept", "removed", "not_parsed", "functions", "share_13_words")
_REMOVED = pa.schema([(name, pa.string()) for name in ("set", "id", "path", "reason", "task_id")])


class _Part(NamedTuple):
    number: int  # among the parts of all sets
    set: str
    place: int  # within its set
    source: epath.Path


def decontaminate(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `decontaminate`. inputs: "documents", and "problems" where config.decontaminate.problems is "nano".

    Outputs: each of SETS that the input has; "removed" (set, id, path, reason, task_id; a row for every
    reason and problem); "counts" (a log). Raises UserError for problems that cannot be compared with.
    """
    source, chosen = inputs["documents"], config.decontaminate.problems
    held_out = load_held_out(os.fspath(inputs["problems"].path("problems")) if chosen == HELD_OUT else chosen)
    if held_out.untold:
        say(f"{draft.label}: too short to be found in any text: {', '.join(held_out.untold)}")
    written_by = source.facts["written_by"]
    sets = [name for name in SETS if name in source.manifest["outputs"]]
    parts: list[_Part] = []
    for name in sets:
        for index, path in enumerate(documents.parts(source.path(name))):
            parts.append(_Part(len(parts), name, index, path))
    for name in (*sets, "removed", "counts"):
        (draft.directory / name).mkdir(exist_ok=True)
    checker = _Checker(draft.directory, held_out, prose=not (chosen == HELD_OUT and written_by == "grammar"))

    figures: dict[str, Counter[str]] = {name: Counter() for name in sets}
    totals = [documents.totals(source.path(name)) for name in sets]
    with Progress(draft.label, sum(t.rows for t in totals), "documents") as bar:
        for part, count in zip(parts, _counts(checker, parts, sum(t.bytes for t in totals)), strict=True):
            figures[part.set].update(count)
            bar.advance(count["documents"], f"{sum(f['removed'] for f in figures.values())} removed")

    for name in sets:
        documents.add_output(draft, name)
    draft.add_output("removed", "removed", rows=documents.totals(draft.directory / "removed").rows)
    draft.add_output("counts", "counts", kind="log")
    draft.add_facts(
        written_by=written_by,
        benchmark=chosen,
        problems=len(held_out.tasks),
        problems_too_short_to_find=held_out.untold,
        **{name: _facts(figures[name]) for name in sets},
    )


def _facts(figures: Counter[str]) -> dict[str, Any]:
    hits = {reason.removeprefix("same "): figures[reason] for reason in REASONS}
    return {**{name: figures[name] for name in _COUNTS}, "hits": hits}


def _counts(checker: _Checker, parts: Sequence[_Part], size: int) -> Iterator[dict[str, int]]:
    """The counts of each part, in order. size: bytes of text in all."""
    processes = min(len(os.sched_getaffinity(0)), sum(not checker.counts(part).exists() for part in parts))
    if processes < 2 or size < _PARALLEL_BYTES:
        yield from map(checker.check, parts)
        return
    # spawn: the parent may run threads of jax or arrow, which a fork does not survive.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_start_reader) as pool:
        try:
            with _main_hidden():
                done = pool.map(checker.check, parts)
            yield from done
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """A spawned process imports the script that is running; one without a main guard would start over in it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


# --- One part -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Checker:
    """Checks parts, and writes what is left of them under `directory`; each reader gets a copy."""

    directory: epath.Path
    held_out: HeldOut
    prose: bool  # see `inspect`

    def counts(self, part: _Part) -> epath.Path:
        """Where a part's counts are; written last, so where they are the part is whole."""
        return self.directory / "counts" / f"part-{part.number:05d}.json"

    def check(self, part: _Part) -> dict[str, int]:
        """The counts of a part; one that an earlier run finished is not read again."""
        if not self.counts(part).exists():
            write_json(self.counts(part), self._checked(part))
        return json.loads(self.counts(part).read_text())

    def _checked(self, part: _Part) -> dict[str, int]:
        with part.source.open("rb") as handle:
            schema = pq.read_schema(handle)
        rows = list(documents.read_part(part.source, schema.names))
        findings = [inspect(row["text"], self.held_out, prose=self.prose) for row in rows]
        clean = [row for row, finding in zip(rows, findings, strict=True) if not finding.hits]
        evidence = [
            {"set": part.set, "id": row["id"], "path": row["path"], "reason": reason, "task_id": task}
            for row, finding in zip(rows, findings, strict=True)
            for reason, tasks in finding.hits.items()
            for task in tasks
        ]
        documents.write_part(self.directory / part.set, part.place, clean, schema)
        documents.write_part(self.directory / "removed", part.number, evidence, _REMOVED)
        return {
            "documents": len(rows),
            "kept": len(clean),
            "removed": len(rows) - len(clean),
            "not_parsed": sum(not f.parsed for f in findings),
            "functions": sum(f.functions for f in findings),
            "share_13_words": sum(f.shares_words for f in findings),
            **Counter(reason for f in findings for reason in f.hits),
        }


def _start_reader() -> None:
    gc.disable()  # trees have no cycles, and looking for some takes as long as parsing
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    # A killed parent closes nothing that an idle reader would notice.
    threading.Thread(target=end_with_parent, daemon=True).start()
