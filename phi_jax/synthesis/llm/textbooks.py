"""Checks of textbook sections that an LLM wrote: every Python block runs, and prints what the text says it prints.

A section is Markdown. Its Python blocks run in order in one namespace, as one script. These are the fences labelled
python, py, python3, py3, ipython, pycon, python-repl, doctest and the like; those that hold a session, a line with
">>>", under whatever label: their results must hold, as must those of the examples in docstrings; and those without a
label that parse as Python and do more than name a value. The ```output block behind a block is what it prints. Other
blocks are prose.
"""

import ast
import re
from typing import NamedTuple

from phi_jax.store.markdown import Fence, fences
from phi_jax.synthesis.llm import sandbox_checks
from phi_jax.synthesis.llm.examples import UNREADABLE, docstring_examples, examples_of, parsed
from phi_jax.synthesis.outputs import Fault

_PYTHON = re.compile(r"i?py(thon)?[\d.]*(-?(con|console|repl))?|doctest")
_PROMPT = re.compile(r"^[ \t]*>>> ", re.MULTILINE)


class Block(NamedTuple):
    """A Python block of a section and what the section says that it prints (None: it does not say)."""

    code: str
    output: str | None


def blocks(text: str) -> list[Block]:
    """The Python blocks of a section, in order. Raises ValueError where a fence is not closed."""
    found: list[Block] = []
    below_python = False  # whether the fence just above is Python
    for fence in fences(text):
        if not fence.closed:
            raise ValueError(f"the fence in line {fence.first + 1} is not closed")
        code = _python_of(fence)
        if code is not None:
            found.append(Block(code, None))
        elif below_python and fence.language == "output":
            found[-1] = found[-1]._replace(output=fence.content)
        below_python = code is not None
    return found


def _python_of(fence: Fence) -> str | None:
    """The Python of a fence, of a session without what stands above its first prompt; None for prose."""
    if _PYTHON.fullmatch(fence.language) or (not fence.language and _does_something(fence.content)):
        return fence.content
    prompt = _PROMPT.search(fence.content)
    return fence.content[prompt.start() :] if prompt and fence.language != "output" else None


def _does_something(code: str) -> bool:
    """Whether it is Python that does more than name a value, as a block of output could."""
    try:
        tree = parsed(code)
    except UNREADABLE:
        return False
    calls = any(isinstance(node, ast.Call) for node in ast.walk(tree))
    return calls or not all(isinstance(node, ast.Expr) for node in tree.body)


def read_section(text: str) -> str | Fault:
    """The call that runs the section's blocks, or a fault, for run_checks.check. Raises one of UNREADABLE."""
    read: list[sandbox_checks.Block] = []
    for number, (code, output) in enumerate(blocks(text), 1):
        name = f"block {number}"
        if not code.strip():
            return Fault("wrong_form", f"{name} is empty")
        if code.lstrip().startswith(">>>"):  # a session states its results itself
            read.append((name, "", [examples_of(code, name)], None))
        else:
            read.append((name, code, docstring_examples(parsed(code, name), name), output))
    return f"textbook({read!r})" if read else Fault("wrong_form", "it has no Python block")
