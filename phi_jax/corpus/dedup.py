"""Stage `dedup`: documents -> documents without copies; what is dropped is listed with the one kept in its place.

What a copy is and which one stays: phi_jax/store/near_copies.py.
"""

from collections import Counter

import pyarrow as pa

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store import documents
from phi_jax.store.artifact import Draft, Inputs
from phi_jax.store.near_copies import Rules, decide, find_pairs

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
    """Raises UserError where fields of config.dedup do not go together."""
    rules = config.dedup
    if rules.bands > rules.num_perm:
        raise UserError(
            f"config.dedup.bands={rules.bands}: more than config.dedup.num_perm={rules.num_perm}, which they divide; "
            "lower it"
        )


def dedup(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `dedup`. Outputs: "documents" (the rows kept) and "duplicates" (the rows dropped: id, kept, kind,
    similarity, source, path).

    Raises UserError as `check`, for documents that cannot be read and for an id that several rows have.
    """
    check(config, draft.name)
    source = inputs["documents"].path("documents")
    schema, parts = documents.schema_of(source), documents.parts(source)
    chosen = config.dedup
    rules = Rules(chosen.threshold, chosen.ngram, chosen.num_perm, chosen.bands)
    found = find_pairs([source], rules, label=draft.label)
    if found.rows > len(found.ids) + len(found.copies):
        raise UserError(f"{source}: several rows have the same id; name the set in config.collect.sources instead")
    gone = decide(found)

    # A part of the table is written behind its documents, so where it is both are.
    def split(index: int) -> list[documents.Row]:
        rows = list(documents.read_part(parts[index], schema.names))
        left = [row for row in rows if row["id"] not in gone]
        documents.write_part(draft.directory / "documents", index, left, schema)
        return [duplicate(row) for row in rows if row["id"] in gone]

    def duplicate(row: documents.Row) -> documents.Row:
        kept, similarity = gone[row["id"]]
        kind = "exact" if found.copies.get(row["id"]) == kept else "near"
        return {**row, "kept": kept, "kind": kind, "similarity": similarity}

    duplicates = draft.directory / "duplicates"
    documents.write_parts(duplicates, len(parts), split, _DUPLICATES, label=f"{draft.label} writing")

    kept = documents.add_output(draft, "documents")
    documents.add_output(draft, "duplicates")
    kinds = Counter(row["kind"] for row in documents.read(duplicates, ("kind",)))
    members = Counter(kept for kept, _ in gone.values())
    draft.add_facts(
        written_by=inputs["documents"].facts["written_by"],
        documents=kept.rows + len(gone),
        kept=kept.rows,
        bytes=kept.bytes,
        exact=kinds["exact"],
        near=kinds["near"],
        clusters=len(members),
        largest_cluster=max(members.values(), default=0) + bool(kept.rows),
    )
