"""Stage `collect`: raw files -> documents; what is left out is counted and set aside with the reason."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from phi_jax.config import Config
from phi_jax.corpus.sources import RawFile, list_files, read_rows
from phi_jax.errors import UserError
from phi_jax.progress import Progress
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft, atomic_path

FILES_PER_PART = 1000
_SNAPSHOT = "snapshot.jsonl"
_SET_ASIDE = pa.schema([("source", pa.string()), ("path", pa.string()), ("reason", pa.string())])
# What generators write about themselves in the first lines of a file.
_GENERATED = re.compile(r"do not edit|auto-?generated|generated (by|from|automatically)|@generated", re.IGNORECASE)
_GENERATED_LINES = 10


def collect(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `collect`. Outputs: "documents", "set_aside" (source, path, reason), "snapshot" (the files looked at).

    Raises UserError where no document is left.
    """
    rules = config.collect
    snapshot = _snapshot(rules, draft)
    kept_directory, aside_directory = draft.directory / "documents", draft.directory / "set_aside"
    for directory in (kept_directory, aside_directory):
        directory.mkdir(exist_ok=True)

    # --- Each part is a function of the snapshot's slice and of the hashes seen before it --------------------------
    seen: set[str] = set()
    reasons: Counter[str] = Counter()
    by_source: Counter[str] = Counter()
    by_license: Counter[str] = Counter()
    kept_bytes = 0
    starts = range(0, len(snapshot), FILES_PER_PART)
    with Progress(draft.label, len(snapshot), "files") as bar:
        for index, start in enumerate(starts):
            chunk = snapshot[start : start + FILES_PER_PART]
            # The set-aside part is written after the documents, so where it is both are.
            if not documents.part_path(aside_directory, index).exists():
                kept, aside = _look_at(chunk, rules, seen)
                documents.write_part(kept_directory, index, kept)
                documents.write_part(aside_directory, index, aside, _SET_ASIDE)
            columns = ("id", "source", "license", "text")
            for row in documents.read_part(documents.part_path(kept_directory, index), columns):
                seen.add(row["id"])
                by_source[row["source"]] += 1
                by_license[row["license"] or "not named"] += 1
                kept_bytes += len(row["text"].encode())
            for row in documents.read_part(documents.part_path(aside_directory, index), ("reason",)):
                reasons[row["reason"]] += 1
            bar.advance(len(chunk), f"{sum(by_source.values())} kept")

    if not by_source:
        raise UserError(
            f"config.collect.sources={tuple(rules.sources)}: no document is left of {len(snapshot)} files "
            f"({', '.join(f'{n} {r}' for r, n in reasons.most_common()) or 'there are none'}); "
            "name sources that hold Python files"
        )
    rows = sum(by_source.values())
    draft.add_output("documents", "documents", kind="documents", digest=documents.digest(kept_directory), rows=rows)
    draft.add_output("set_aside", "set_aside", rows=sum(reasons.values()))
    draft.add_output("snapshot", _SNAPSHOT, kind="log", rows=len(snapshot))
    draft.add_facts(
        files=len(snapshot),
        kept=rows,
        bytes=kept_bytes,
        set_aside=dict(reasons.most_common()),
        by_source=dict(by_source.most_common()),
        by_license=dict(by_license.most_common()),
    )


def _snapshot(rules: Config, draft: Draft) -> list[tuple[RawFile, str]]:
    """The files to look at with the SHA-256 of each, listed once: a resumed run sees what the first one saw."""
    path = draft.directory / _SNAPSHOT
    if not path.exists():
        sources = list(rules.sources)
        with atomic_path(path) as temporary, temporary.open("w") as file:
            for source in sources:
                table_digests: dict[str, str] = {}
                for raw in list_files(source):
                    digest = table_digests.get(raw.file)
                    if digest is None:
                        digest = _digest(raw.file)
                        if raw.row >= 0:
                            table_digests[raw.file] = digest
                    file.write(json.dumps([*raw, digest]) + "\n")
    listed = [json.loads(line) for line in path.read_text().splitlines()]
    entries = [(RawFile(*fields), digest) for *fields, digest in listed]
    limit = rules.max_files
    if limit and len(entries) > limit:
        # By content hash, the sample is uniform, and the same whatever else changes on the disk.
        entries = sorted(entries, key=lambda e: (e[1], e[0].row, e[0].source, e[0].path))[:limit]
        entries.sort(key=lambda e: (e[0].source, e[0].path))
    return entries


def _look_at(
    chunk: list[tuple[RawFile, str]], rules: Config, seen: set[str]
) -> tuple[list[documents.Row], list[documents.Row]]:
    """Sorts files into documents to keep and rows to set aside."""
    kept: list[documents.Row] = []
    aside: list[documents.Row] = []
    new: set[str] = set()
    for raw, row in _rows(chunk):
        reason = row if isinstance(row, str) else why_not(row["text"], raw.path, rules)
        if reason is None and isinstance(row, dict):
            text = row["text"]
            identifier = documents.document_id(text)
            if identifier in seen or identifier in new:
                reason = "identical text"
            else:
                new.add(identifier)
                kept.append(
                    {
                        "id": identifier,
                        "text": text,
                        "source": raw.source,
                        "path": str(row.get("path") or raw.path),
                        "license": raw.license or _text(row.get("license")),
                        "language": str(row.get("language") or "python").lower(),
                    }
                )
        if reason is not None:
            aside.append({"source": raw.source, "path": raw.path, "reason": reason})
    return kept, aside


def _rows(chunk: list[tuple[RawFile, str]]) -> Iterator[tuple[RawFile, dict | str]]:
    """Each raw file with its row {"text", ...}, or with the reason why there is none."""
    table: Iterator[dict | None] = iter(())
    table_file, position = "", -1
    for raw, digest in chunk:
        if raw.row < 0:
            yield raw, _read_text(raw.file, digest)
            continue
        if raw.file != table_file or raw.row <= position:
            table_file, position, table = raw.file, -1, read_rows(Path(raw.file))
        row = None
        while position < raw.row:
            row, position = next(table, None), position + 1
        yield raw, row if row is not None else "malformed row"


def _read_text(file: str, digest: str) -> dict | str:
    try:
        data = Path(file).read_bytes()
    except OSError:
        return "unreadable"
    if hashlib.sha256(data).hexdigest() != digest:
        return "changed since the list was made"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "not UTF-8"
    return {"text": text.replace("\r\n", "\n").replace("\r", "\n")}


def why_not(text: str, path: str, rules: Config) -> str | None:
    """Why a text is set aside, or None. Rules in the order of their cost; the thresholds are the config's."""
    size = len(text.encode(errors="surrogatepass"))
    if not text.isascii() and any(0xD800 <= ord(c) < 0xE000 for c in text):
        return "not UTF-8"
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
    return None


def _digest(file: str) -> str:
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return "unreadable"


def _text(value: object) -> str | None:
    return None if value is None else str(value)
