"""Checks of textbook sections that an LLM wrote: every Python block runs, and prints what the text says it prints.

A section is Markdown. Its ```python blocks run in order in one namespace, as one script; the ```output block behind
one is what it prints, as is a ```text or ```console block with nothing but blank lines between. A block that begins
with ">>>" is a session; what it shows must hold, as must the examples in docstrings. Other blocks are prose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from phi_jax.progress import Progress
from phi_jax.sandbox import Limits, Sandbox
from phi_jax.store.markdown import Fence, fences
from phi_jax.synthesis import confined
from phi_jax.synthesis.examples import docstring_examples, examples_of, parsed
from phi_jax.synthesis.verify import OTHER_HASH_SEED, confined_program, said, uses_sets

_PYTHON = ("python", "py", "python3", "pycon")
_LIMITS = Limits(wall_seconds=20.0, cpu_seconds=4.0)
_LONGEST = 200_000  # characters of a section


@dataclasses.dataclass(frozen=True)
class Block:
    """A Python block of a section and what the section says that it prints (None: it does not say)."""

    code: str
    output: str | None

    @property
    def is_session(self) -> bool:
        """Whether it is typed at Python's prompt, results and all."""
        return self.code.lstrip().startswith(">>>")


def blocks(text: str) -> list[Block]:
    """The Python blocks of a section, in order. Raises ValueError where a fence is not closed."""
    found: list[Block] = []
    lines = text.split("\n")
    before: Fence | None = None  # the fence just above, if it is Python
    for fence in fences(text):
        if not fence.closed:
            raise ValueError(f"the fence in line {fence.first + 1} is not closed")
        if fence.language in _PYTHON:
            found.append(Block(fence.content, None))
            before = fence
            continue
        if before is not None and _is_output(fence, "".join(lines[before.last + 1 : fence.first])):
            found[-1] = dataclasses.replace(found[-1], output=fence.content)
        before = None
    return found


def _is_output(fence: Fence, between: str) -> bool:
    """Whether the fence says what the Python block above it prints. between: the text between them."""
    if fence.language == "output":
        return True
    shell = fence.content.lstrip().startswith(("$ ", "% ", "> ", "C:\\", ">>> "))
    return fence.language in ("text", "console") and not between.strip() and not shell


def check_textbooks(texts: Sequence[str], label: str, *, sandbox: str, workers: int) -> list[str | None]:
    """For each section None, or why it is set aside: one line, the same in every run, with the block's number.

    sandbox: "full" or "none".
    """
    read = [_reading(text) for text in texts]
    runnable = [reading for reading in read if not isinstance(reading, str)]
    calls = [f"textbook({reading!r})" for reading in runnable]
    with (
        Sandbox(limits=_LIMITS, workers=workers, confinement=sandbox) as box,
        Progress(label, len(calls), "sections") as bar,
    ):
        verdicts: list[str | None] = []
        for verdict in box.run(map(confined_program, calls)):
            verdicts.append(said(verdict)[1] or None)
            bar.advance()
    doubtful = [i for i, reading in enumerate(runnable) if verdicts[i] is None and _may_use_sets(reading)]
    with Sandbox(limits=_LIMITS, workers=workers, confinement=sandbox, hash_seed=OTHER_HASH_SEED) as box:
        for i, verdict in zip(doubtful, box.run(confined_program(calls[i]) for i in doubtful), strict=True):
            if wrong := said(verdict)[1]:
                verdicts[i] = f"with sets in another order: {wrong}"
    ran = iter(verdicts)
    return [reading if isinstance(reading, str) else next(ran) for reading in read]


def _may_use_sets(blocks: Sequence[confined.Block]) -> bool:
    """Sessions are taken to: their sources are not read here."""
    return any(not code or uses_sets(parsed(code)) for code, _, _ in blocks)


def _reading(text: str) -> list[confined.Block] | str:
    """The section's blocks as they are run; or why it is set aside, which shows without running them."""
    if len(text) > _LONGEST:
        return f"it is longer than {_LONGEST:,} characters"
    try:
        found = blocks(text)
    except ValueError as error:
        return str(error)
    if not found:
        return "it has no Python block"
    read: list[confined.Block] = []
    for number, block in enumerate(found, 1):
        try:
            if block.is_session:
                read.append(("", [examples_of(block.code)], None))  # it states its results itself
            else:
                read.append((block.code, docstring_examples(parsed(block.code)), block.output))
        except ValueError as error:
            return f"block {number} {' '.join(str(error).split())}"
        if not block.code.strip():
            return f"block {number} is empty"
    return read
