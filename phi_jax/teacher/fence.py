"""A mark for the lines between which a text stands that a language model is told about, not by."""

import hashlib
import itertools

DIGITS = 12


def fence(*texts: str) -> str:
    """DIGITS hex digits that none of the texts holds, and that follow from them.

    By their hash and not by a counter: whatever a text says of marks changes the one in use, so none can say it.
    """
    together = "\0".join(texts)
    marks = (hashlib.sha256(f"{n} {together}".encode()).hexdigest()[:DIGITS] for n in itertools.count())
    return next(mark for mark in marks if not any(mark in text for text in texts))
