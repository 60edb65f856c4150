"""The behaviours that the built-in teacher can write about, over lists, strings, numbers and dictionaries.

A family (grammar.toml) is a product of parts. Each behaviour is one small function, told in a sentence and written in
code; "$0" and "$1" stand for its parameters. Whether two are the same is found by running them (catalogue.py).
"""

import dataclasses
import functools
import itertools
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_TEXTS = ("slug", "sentence", "body", "loop", "explained")  # of a family: format strings


@functools.cache
def grammar() -> dict[str, Any]:
    """What grammar.toml holds."""
    return tomllib.loads(Path(__file__).with_name("grammar.toml").read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """One thing that a function can do. It is defined by its body."""

    family: str
    signature: tuple[str, ...]  # types of the parameters: int, str, list[int], list[str], dict[str,int]
    slug: str  # name of the function: short, so that the docstring has to be read
    sentence: str  # what it returns, without "Return" and the full stop
    body: str  # lines of code, indented
    loop: str  # the same as a loop; "" where there is none
    explained: str  # what prose says about the code

    @functools.cached_property
    def function(self) -> Callable[..., Any]:
        """The body as a function."""
        namespace: dict[str, Any] = {}
        exec(filled(f"def function({self.parameters}):\n{self.body}", ("first", "second")), namespace)
        return namespace["function"]

    @property
    def parameters(self) -> str:
        """As they stand in the signature, before they have names."""
        return ", ".join(("$0", "$1")[: len(self.signature)])


def filled(template: str, names: Sequence[str]) -> str:
    """The text with the names of the parameters, one or two, in the places of "$0" and "$1"."""
    return template.replace("$0", names[0]).replace("$1", names[-1])


class _Code(str):
    """In a format string, `{code:x}` puts `x` in the place of "@"."""

    def __format__(self, inside: str) -> str:
        return self.replace("@", inside) if inside else str(self)


class _Part(NamedTuple):
    """One choice of a family. In a format string, `{part:x}` is its code about `x`."""

    slug: str
    phrase: str
    code: _Code
    end: str = ""  # of a result as a loop: what is returned
    start: str = ""
    step: str = ""

    def __format__(self, inside: str) -> str:
        return format(self.code, inside)


def all_behaviours() -> Iterator[Behaviour]:
    """Every combination of every family, some of them the same as others in what they do."""
    tables = {
        name: [_Part(slug, *map(_Code, texts)) for slug, texts in table.items()]
        for name, table in grammar()["parts"].items()
    }
    for family in grammar()["families"]:
        choices = []
        for choice in family["choices"].values():
            table, *slugs = choice.split()
            choices.append([part for part in tables[table] if not slugs or part.slug in slugs])
        for chosen in itertools.product(*choices):
            if len(set(chosen)) == len(chosen):
                parts = dict(zip(family["choices"], chosen, strict=True))
                texts = {name: family.get(name, "").format(**parts).strip() for name in _TEXTS}
                codes = {name: textwrap.indent(texts[name], "    ") for name in ("body", "loop")}
                yield Behaviour(family["name"], tuple(family["signature"]), **texts | codes)
