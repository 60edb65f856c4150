"""Figures as the page shows them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

_DIGEST = re.compile(r"[0-9a-f]{64}")


def number(value: float) -> str:
    """1234567 -> "1,234,567"; a float keeps its digits."""
    return f"{value:,}"


def percent(share: float) -> str:
    """0.1234 -> "12.3 %"."""
    return f"{100 * share:.1f} %"


def show(value: Any) -> str:
    """A figure, a word, or the beginning of a digest."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return value[:12] if isinstance(value, str) and _DIGEST.fullmatch(value) else str(value)


def table(rows: Sequence[tuple[str, str]], head: tuple[str, str] | None = None) -> str:
    """Two columns: what, and the figure."""
    top = f"<tr><th>{escape(head[0])}</th><th>{escape(head[1])}</th></tr>" if head else ""
    lines = "".join(f'<tr><td>{escape(a)}</td><td class="number">{escape(b)}</td></tr>' for a, b in rows)
    return f"<table>{top}{lines}</table>"
