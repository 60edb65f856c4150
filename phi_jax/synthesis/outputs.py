"""What every stage of texts writes: documents of each kind, and the texts that were set aside with the reason."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
from etils import epath

from phi_jax.store import documents
from phi_jax.store.artifact import Draft
from phi_jax.store.documents import Row

LANGUAGES = {"textbooks": "markdown", "exercises": "python"}  # by kind, of what people and models write
KINDS = tuple(LANGUAGES)
CHECKED = "checked"  # where a draft keeps what only a killed run needs
_FAULT = (("code", pa.string()), ("reason", pa.string()))  # columns of what is set aside

T = TypeVar("T")


class Fault(NamedTuple):
    """Why a text is set aside. Faults are counted by `code`; `reason` is one line for people.

    poisoned, refused, filtered, length     the teacher's reply is no text; see teacher.request.Status
    no_text            a row of a file is no text of a kind, or none that can be written down
    wrong_form         no Python block, not one function of the right name, no docstring, too long
    unreadable         code, test or example does not parse
    does_not_run       an error, or the end of its process
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


class Sorted:
    """Two document sets with the same number of parts: the rows that passed, and those with a fault."""

    def __init__(self, root: epath.Path, kind: str, schema: pa.Schema) -> None:
        """schema: of what passed; what failed has the columns `code` and `reason` beside."""
        self.passed, self.failed = root / kind, root / "set_aside" / kind
        self._schema = schema

    def write(self, items: Iterable[T], check: Callable[[list[T]], Iterable[Row]], size: int) -> None:
        """Checks items, `size` at a time, and writes the rows, which have gone through `judged`. `check` is not called
        for parts that an earlier run has written.
        """
        left = iter(items)
        for index in itertools.count():
            chunk = list(itertools.islice(left, size))
            if index and not chunk:  # a set without texts has a part too
                break
            if documents.part_path(self.failed, index).exists():  # written after the part of what passed
                continue
            rows = list(check(chunk))
            documents.write_part(self.passed, index, [row for row in rows if row["code"] is None], self._schema)
            failed = [row for row in rows if row["code"]]
            documents.write_part(self.failed, index, failed, pa.schema([*self._schema, *_FAULT]))


def declare(draft: Draft, **facts: Any) -> None:
    """Declares the outputs "textbooks", "exercises" and "set_aside", whose parts are written. For each kind, the facts
    say how many texts were `kept` and `set_aside`, for which `reasons`; `facts` adds to them."""
    set_aside = 0
    for kind in KINDS:
        kept = documents.add_output(draft, kind)
        reasons = Counter(row["code"] for row in documents.read(draft.directory / "set_aside" / kind, ("code",)))
        set_aside += reasons.total()
        counts = {"kept": kept.rows, "set_aside": reasons.total(), "reasons": dict(sorted(reasons.items()))}
        facts[kind] = counts | facts.get(kind, {})
    draft.add_output("set_aside", "set_aside", rows=set_aside)
    draft.add_facts(**facts)
    (draft.directory / CHECKED).rmtree(missing_ok=True)
