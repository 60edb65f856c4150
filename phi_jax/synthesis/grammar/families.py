"""The behaviours that the built-in teacher can write about, over lists, strings, numbers and dictionaries.

A family (grammar.toml) is a product of parts. Each behaviour is one small function, told in a sentence and written in
code; "$0" and "$1" stand for its parameters. Whether two are the same is found by running them (catalogue.py).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


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
    body: str  # lines of code, not indented
    loop: str  # the same as a loop; "" where there is none
    explained: str  # what prose says about the code

    @functools.cached_property
    def function(self) -> Callable[..., Any]:
        """The body as a function."""
        namespace: dict[str, Any] = {}
        names = ("first", "second")[: len(self.signature)]
        body = indented(filled(self.body, names))
        exec(f"def function({', '.join(names)}):\n{body}", namespace)
        return namespace["function"]


def filled(template: str, names: tuple[str, ...]) -> str:
    """The text with the names of the parameters in the places of "$0" and "$1"."""
    for number, name in enumerate(names):
        template = template.replace(f"${number}", name)
    return template


def indented(code: str) -> str:
    """The lines as the body of a function."""
    return "".join(f"    {line}\n" for line in code.splitlines())


class _Code(str):
    """In a format string, `{code:x}` puts `x` in the place of "@"."""

    def __format__(self, inside: str) -> str:
        return self.replace("@", inside) if inside else str(self)


@dataclasses.dataclass(frozen=True)
class _Part:
    """One choice of a family. In a format string, `{part:x}` is its code about `x`."""

    slug: str
    phrase: str
    code: _Code
    end: str = "found"  # of a result as a loop: what is returned
    start: str = "found = []"
    step: _Code = _Code("found.append(@)")  # noqa: RUF009 (immutable)

    def __format__(self, inside: str) -> str:
        return format(self.code, inside)


def all_behaviours() -> Iterator[Behaviour]:
    """Every combination of every family, some of them the same as others in what they do."""
    tables = {
        name: [_Part(slug, *map(_Code, texts)) for slug, texts in table.items()]
        for name, table in grammar()["parts"].items()
    }
    for family in grammar()["families"]:
        choices = [_chosen(tables, *spec.split()) for spec in family["choices"].values()]
        for chosen in itertools.product(*choices):
            if len(set(chosen)) == len(chosen):
                yield _behaviour(family, dict(zip(family["choices"], chosen, strict=True)))


def _chosen(tables: dict[str, list[_Part]], table: str, *slugs: str) -> list[_Part]:
    return [part for part in tables[table] if not slugs or part.slug in slugs]


def _behaviour(family: dict[str, Any], parts: dict[str, _Part]) -> Behaviour:
    texts = {name: family.get(name, "").format(**parts).strip() for name in ("slug", "sentence", "body", "loop")}
    explained = [each.split(":") for each in family["explained"].split()]
    told = [f"`{parts[name]:{about}}` stands for {parts[name].phrase}" for name, about in explained]
    return Behaviour(family["name"], tuple(family["signature"]), **texts, explained="; ".join(told))
