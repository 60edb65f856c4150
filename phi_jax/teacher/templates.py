"""Prompt templates: Markdown files with a system message and a user message that `===` separates.

And a delimiter for quoting untrusted text in a prompt.
"""

import functools
import hashlib
import itertools
import string
from pathlib import Path
from typing import NamedTuple

from phi_jax.store.artifact import file_digest

_BETWEEN = "===\n"


class Template(NamedTuple):
    """A prompt template. name: the file's stem, which is the template's version; sha256: of the file, hex."""

    name: str
    sha256: str
    system: str
    user: string.Template

    def messages(self, **fields: str) -> tuple[tuple[str, str], ...]:
        """(role, content) of the prompt. All fields are filled in one pass: a "$name" inside a field stays as it is.

        The system message has no fields, so that a server can cache it. Raises KeyError for a missing field.
        """
        return ("system", self.system), ("user", self.user.substitute(fields))

    def note(self) -> dict[str, str]:
        """For an artifact's facts."""
        return {"version": self.name, "sha256": self.sha256}


@functools.cache
def read_template(path: Path) -> Template:
    """The template in a Markdown file that ships with the package."""
    system, user = path.read_text(encoding="utf-8").split(_BETWEEN)
    return Template(path.stem, file_digest(path), system.strip(), string.Template(user.strip()))


FENCE_DIGITS = 12


def fence(*texts: str) -> str:
    """A delimiter for quoting these texts: FENCE_DIGITS hex digits that none of them holds, and that follow from them.

    They are a hash and no counter: whatever a text says of delimiters changes the one in use, so none can say it.
    """
    together = "\0".join(texts)
    marks = (hashlib.sha256(f"{n} {together}".encode()).hexdigest()[:FENCE_DIGITS] for n in itertools.count())
    return next(mark for mark in marks if not any(mark in text for text in texts))
