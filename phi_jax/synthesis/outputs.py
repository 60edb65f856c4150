"""What every stage of texts writes: documents of each kind, and the texts that were set aside with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
from etils import epath

from phi_jax.store import documents
from phi_jax.store.artifact import Draft
from phi_jax.store.documents import Row

LANGUAGES = {"textbooks": "markdown", "exercises": "python"}  # by kind, of what people and models write
_FAULT = (pa.field("code", pa.string()), pa.field("reason", pa.string()))  # columns of what is set aside

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


def judged(row: Row, fault: Fault | None) -> Row:
    """The row with the columns `code` and `reason`: null where there is no fault."""
    return row | {"code": fault and fault.code, "reason": fault and fault.reason}


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """At least one, which may be empty: a set without texts has a part too."""
    iterator = iter(items)
    yield list(islice(iterator, size))
    while chunk := list(islice(iterator, size)):
        yield chunk


class Sorted(NamedTuple):
    """Two document sets with the same number of parts: the rows that passed, and those with a fault."""

    passed: epath.Path
    failed: epath.Path
    schema: pa.Schema  # of what passed; what failed has the columns `code` and `reason` beside

    def write(self, items: Iterable[T], check: Callable[[list[T]], Iterable[Row]], size: int) -> None:
        """Checks items, `size` at a time, and writes the rows, which have gone through `judged`. `check` is not called
        for parts that an earlier run has written.
        """
        for directory in (self.passed, self.failed):
            directory.mkdir(parents=True, exist_ok=True)
        for index, chunk in enumerate(chunks(items, size)):
            if documents.part_path(self.failed, index).exists():  # written after the part of what passed
                continue
            rows = list(check(chunk))
            documents.write_part(self.passed, index, [row for row in rows if row["code"] is None], self.schema)
            failed = [row for row in rows if row["code"]]
            documents.write_part(self.failed, index, failed, pa.schema([*self.schema, *_FAULT]))


def outputs_of(draft: Draft, kind: str, schema: pa.Schema) -> Sorted:
    """Where the texts of a kind go."""
    return Sorted(draft.directory / kind, draft.directory / "set_aside" / kind, schema)


def declare(draft: Draft, **facts: Any) -> None:
    """Declares the outputs "textbooks", "exercises" and "set_aside", whose parts are written. For each kind, the facts
    say how many texts were `written`, `kept` and `set_aside`, for which `reasons`; `facts` adds to them."""
    set_aside = 0
    for kind in LANGUAGES:
        kept = documents.add_output(draft, kind)
        reasons = Counter(row["code"] for row in documents.read(draft.directory / "set_aside" / kind, ("code",)))
        set_aside += reasons.total()
        facts[kind] = {
            "written": kept.rows + reasons.total(),
            "kept": kept.rows,
            "set_aside": reasons.total(),
            "reasons": dict(sorted(reasons.items())),
            "bytes": kept.bytes,
            **facts.get(kind, {}),
        }
    draft.add_output("set_aside", "set_aside", rows=set_aside)
    draft.add_facts(**facts)
