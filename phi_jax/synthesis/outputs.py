"""What every stage of texts writes: documents of each kind, and the texts that were set aside with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
from etils import epath

from phi_jax.store import documents
from phi_jax.store.artifact import Draft
from phi_jax.store.documents import Row
from phi_jax.synthesis.diversity import measure

LANGUAGES = {"textbooks": "markdown", "exercises": "python"}  # by kind, of what people and models write
SET_ASIDE = pa.schema(
    [("path", pa.string()), ("code", pa.string()), ("reason", pa.string()), ("text", pa.large_string())]
)

T = TypeVar("T")


class Fault(NamedTuple):
    """Why a text is set aside. Faults are counted by `code`; `reason` is one line for people.

    no_answer, refused, filtered, cut_off   the teacher's reply is no text
    no_text            a row of a file is none
    wrong_form         no Python block, not one function of the right name, no docstring, too long
    unreadable         code, test or example does not parse
    does_not_run       an error, or the end of its process
    reads_input        a block waits for somebody to type
    wrong_example      an example in a docstring or session gives something else
    wrong_output       a block prints something else than the text states
    test_fails, few_tests, weak_tests       of an exercise's own tests
    varies             another result on a second run, or with sets in another order
    too_slow           its time is up
    identical, near_copy                    of a text that is kept
    """

    code: str
    reason: str


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """At least one, which may be empty: a set without texts has a part too."""
    iterator = iter(items)
    yield list(islice(iterator, size))
    while chunk := list(islice(iterator, size)):
        yield chunk


def write_parts(directory: epath.Path, rows: Iterable[Row], schema: pa.Schema, size: int) -> None:
    """Writes the parts of a document set that are missing. The rows must be the same in every run."""
    directory.mkdir(parents=True, exist_ok=True)
    for index, chunk in enumerate(chunks(rows, size)):
        if not documents.part_path(directory, index).exists():
            documents.write_part(directory, index, chunk, schema)


def declare(draft: Draft, **facts: Any) -> None:
    """Declares the outputs "textbooks", "exercises" and "set_aside", whose parts are written. For each kind, the facts
    say how many texts were `written`, `kept` and `set_aside`, for which `reasons`; `facts` adds to them."""
    for kind in LANGUAGES:
        kept = documents.add_output(draft, kind)
        reasons = Counter(row["code"] for row in documents.read(draft.directory / "set_aside" / kind, ("code",)))
        texts = (row["text"] for row in documents.read(draft.directory / kind, ("text",)))
        counted: Mapping[str, Any] = facts.get(kind, {})
        facts[kind] = {
            "written": kept.rows + reasons.total(),
            "kept": kept.rows,
            "set_aside": reasons.total(),
            "reasons": dict(sorted(reasons.items())),
            "bytes": kept.bytes,
            "diversity": measure(texts),
            **counted,
        }
    draft.add_output("set_aside", "set_aside", rows=sum(facts[kind]["set_aside"] for kind in LANGUAGES))
    draft.add_facts(**facts)
