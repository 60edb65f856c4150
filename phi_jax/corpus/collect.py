"""Stage `collect`: raw files -> documents; what is left out is counted and set aside with the reason."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping

import pyarrow as pa
from etils import epath

from phi_jax.config import Config
from phi_jax.corpus.sources import FILES, RawFile, Reader, list_files
from phi_jax.errors import UserError
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft, atomic_path
from phi_jax.store.rows import escaped

FILES_PER_PART = 1000
_SNAPSHOT = "snapshot.jsonl"
_SET_ASIDE = pa.schema([("source", pa.string()), ("path", pa.string()), ("reason", pa.string())])
# What generators write about the file at its top: comments, or a docstring that says it of the file. Prose that speaks
# of something generated, "Its tables are generated from the grammar when it starts", is neither.
_GENERATED = re.compile(
    r"^\s*#.*(do not edit|@generated|auto(matically)?[- ]?generated|code generated (by|from)\b)"
    r"|^\s*#\W*generated (by|from)\b"
    r"|\b(this|the) (file|module|code|script) (is|was|has been) (\w+[- ])?(auto-?)?generated\b"
    r"|\bgenerated from \S+ (by|with|using) \S+\.py\b",
    re.IGNORECASE | re.MULTILINE,
)
_GENERATED_LINES = 10


def collect(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `collect`. Outputs: "documents", "set_aside" (source, path, reason), "snapshot" (the files looked at).

    Raises UserError where no document is left.
    """
    rules = config.collect
    snapshot = _snapshot(rules, draft.directory / _SNAPSHOT)
    kept, aside = draft.directory / "documents", draft.directory / "set_aside"
    kept.mkdir(exist_ok=True)
    reader = Reader()
    seen: set[str] = set()  # ids
    by_source: Counter[str] = Counter()
    by_license: Counter[str] = Counter()
    noted = 0  # parts whose documents are in these

    def note(part: int, rows: Iterable[documents.Row]) -> None:
        nonlocal noted
        for row in rows:
            seen.add(row["id"])
            by_source[row["source"]] += 1
            by_license[row["license"] or "not named"] += 1
        noted = part + 1

    def note_before(end: int) -> None:
        for part in range(noted, end):  # that an earlier run wrote
            note(part, documents.read_part(documents.part_path(kept, part), ("id", "source", "license")))

    # Each part is a function of the snapshot's slice and of the ids seen before it. The part of what is set aside is
    # written last, so where it is both are.
    def set_aside(index: int) -> Iterable[documents.Row]:
        note_before(index)
        start = index * FILES_PER_PART
        chosen, others = _look_at(snapshot[start : start + FILES_PER_PART], rules, reader, seen)
        documents.write_part(kept, index, chosen)
        note(index, chosen)
        return others

    count = max(1, -(-len(snapshot) // FILES_PER_PART))
    documents.write_parts(aside, count, set_aside, _SET_ASIDE, label=draft.label)
    note_before(count)

    reasons = Counter(row["reason"] for row in documents.read(aside, ("reason",)))
    if not seen:
        raise UserError(
            f"config.collect.sources={tuple(rules.sources)}: no document is left of {len(snapshot)} files "
            f"({', '.join(f'{n} {r}' for r, n in reasons.most_common()) or 'there are none'}); "
            f"name sources that hold Python, in files ending in {', '.join(FILES)}"
        )
    found = documents.add_output(draft, "documents")
    documents.add_output(draft, "set_aside")
    draft.add_output("snapshot", _SNAPSHOT, kind="log", rows=len(snapshot))
    draft.add_facts(
        written_by="people",
        files=len(snapshot),
        kept=found.rows,
        bytes=found.bytes,
        set_aside=dict(reasons.most_common()),
        by_source=dict(by_source.most_common()),
        by_license=dict(by_license.most_common()),
    )


def _snapshot(rules: Config, path: epath.Path) -> list[RawFile]:
    """The files to look at, listed once: a resumed run sees what the first one saw."""
    if not path.exists():
        with atomic_path(path) as temporary, temporary.open("w") as file:
            for source in rules.sources:
                file.writelines(json.dumps(raw) + "\n" for raw in list_files(source, rules.packages))
    entries = [RawFile(*json.loads(line)) for line in path.read_text().splitlines()]
    if rules.max_files and len(entries) > rules.max_files:
        # By content, so the sample is uniform, and the same whatever else changes on the disk.
        entries = sorted(entries, key=lambda raw: (raw.digest, raw.source, raw.path))[: rules.max_files]
        entries.sort(key=lambda raw: (raw.source, raw.file, raw.row))
    return entries


def _look_at(
    entries: Iterable[RawFile], rules: Config, reader: Reader, seen: set[str]
) -> tuple[list[documents.Row], list[documents.Row]]:
    """(documents to keep, rows to set aside). seen: ids of the documents before them, to which theirs are added."""
    kept: list[documents.Row] = []
    aside: list[documents.Row] = []
    for raw in entries:
        row, reason = reader.read(raw)
        source, path = escaped(raw.source), escaped(raw.path)
        reason = reason or why_not(row["text"], path, rules)
        identifier = "" if reason else documents.document_id(row["text"])
        if identifier in seen:
            reason = "identical text"
        if reason:
            aside.append({"source": source, "path": path, "reason": reason})
            continue
        seen.add(identifier)
        about = {"path": row["path"] or path, "license": raw.license or row["license"]}
        language = (row["language"] or "python").lower()
        kept.append({"id": identifier, "text": row["text"], "source": source, **about, "language": language})
    return kept, aside


def why_not(text: str, path: str, rules: Config) -> str:
    """Why a text is set aside, or "". Rules in the order of their cost; the thresholds are the config's."""
    size = len(text.encode())
    if size > rules.max_bytes:
        return "huge"
    if not text.strip():
        return "empty"
    if size < rules.min_bytes:
        return "tiny"
    lines = text.splitlines()
    if len(text) / len(lines) > rules.max_mean_line or max(map(len, lines)) > rules.max_line:
        return "minified"
    if path.endswith(("_pb2.py", "_pb2_grpc.py")) or _GENERATED.search("\n".join(lines[:_GENERATED_LINES])):
        return "generated"
    return ""
