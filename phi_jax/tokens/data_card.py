"""Data cards: what the manifests behind a token set say of its texts, and how far a set or a model goes back.

A figure that no manifest holds is on no card. What varies with time or host is left out.
"""

from collections.abc import Container, Mapping
from typing import Any

from phi_jax.store.artifact import Artifact, find


def data_card(label: str, facts: Mapping[str, Any], documents: Artifact) -> str:
    """Markdown about the token set `label`. facts: of its manifest. documents: the artifact that it is made from."""
    made = [*lineage(documents, ("documents", "grades")), documents]
    return rendered("tokens/templates/data_card.md.j2", label=label, facts=facts, made=made)


def rendered(template: str, **fields: Any) -> str:
    """The text that a template of phi_jax makes of these fields."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("phi_jax", ""), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["told"] = _told
    return environment.get_template(template).render(fields)


def lineage(made: Artifact, only: Container[str] = ()) -> list[Artifact]:
    """Every artifact that one was made from and that lies in its work directory unchanged, the first made first.

    only: names of the inputs that are gone back to; () = all.
    """
    found: dict[str, Artifact] = {}
    for name in made.manifest["inputs"]:
        if (not only or name in only) and (source := source_of(made, name)):
            found |= {one.label: one for one in (*lineage(source, only), source)}
    return list(found.values())


def source_of(made: Artifact, name: str) -> Artifact | None:
    """What an input was, where it lies there unchanged."""
    source = made.manifest["inputs"].get(name, {"artifact": ""})
    stage, _, instance = source["artifact"].partition("/")
    found = find(made.directory.parent.parent, stage, instance) if stage else None
    return found if found and found.identity == source["identity"] else None


def _told(text: str, facts: Mapping[str, Any]) -> str:
    try:
        return text.format(**facts)
    except (KeyError, TypeError, ValueError):  # made by a version that notes other facts
        return ""
