"""Stage `dedup`: documents -> documents without copies; what is dropped is listed with the one kept in its place.

What a copy is and which one stays: phi_jax/store/near_copies.py.
"""

import itertools
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store import documents
from phi_jax.store.artifact import Draft, Inputs, remove
from phi_jax.store.near_copies import Rules, find_copies
from phi_jax.store.rows import count_rows

_DUPLICATES = pa.schema(
    [
        documents.text_field("id"),
        documents.text_field("kept"),  # id of the document kept in its place
        documents.text_field("kind"),  # exact: the same words as the kept one; near
        pa.field("similarity", pa.float64(), nullable=False),  # Jaccard with the kept one
        ("source", pa.string()),
        ("path", pa.string()),
    ]
)


def check(config: Config, name: str) -> None:
    """Raises UserError where fields of config.dedup do not go together, or `against` names no document set."""
    rules = config.dedup
    if rules.bands > rules.num_perm:
        raise UserError(
            f"config.dedup.bands={rules.bands}: more than config.dedup.num_perm={rules.num_perm}, which they divide; "
            "lower it"
        )
    for earlier in rules.against:
        documents.parts(earlier)


def dedup(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `dedup`. Outputs: "documents" (the rows kept) and "duplicates" (the rows dropped: id, kept, kind,
    similarity, source, path). Rows are dropped for those of config.dedup.against as well, which are in no output.

    Raises UserError for documents that cannot be read and for an id that several rows have.
    """
    source = inputs["documents"].path("documents")
    parts = documents.parts(source)
    schema = documents.schema_of(parts[0])
    chosen = config.dedup
    rules = Rules(chosen.threshold, chosen.ngram, chosen.num_perm, chosen.bands)
    scratch = draft.directory / "signatures"
    found = find_copies(source, rules, scratch, against=chosen.against, label=draft.label)
    if pc.count_distinct(found["id"]).as_py() < len(found):
        raise UserError(f"{source}: several rows have the same id; name the set in config.collect.sources instead")
    starts = [0, *itertools.accumulate(map(count_rows, parts))]

    # A part of the table is written behind its documents, so where it is both are.
    def split(index: int) -> list[documents.Row]:
        rows = list(documents.read_part(parts[index], schema.names))
        told = found.slice(starts[index], len(rows)).to_pylist()
        left = [row for row, copy in zip(rows, told, strict=True) if copy["kept"] is None]
        documents.write_part(draft.directory / "documents", index, left, schema)
        return [row | copy for row, copy in zip(rows, told, strict=True) if copy["kept"] is not None]

    duplicates = draft.directory / "duplicates"
    documents.write_parts(duplicates, len(parts), split, _DUPLICATES, label=f"{draft.label} writing")

    remove(scratch)
    kept = documents.add_output(draft, "documents")
    documents.add_output(draft, "duplicates")
    kinds = Counter(row["kind"] for row in documents.read(duplicates, ("kind",)))
    members = pc.value_counts(found["kept"].drop_null()).field("counts")
    draft.add_facts(
        written_by=inputs["documents"].facts["written_by"],
        documents=len(found),
        kept=kept.rows,
        bytes=kept.bytes,
        exact=kinds["exact"],
        near=kinds["near"],
        clusters=len(members),
        largest_cluster=(pc.max(members).as_py() or 0) + bool(kept.rows),
    )
