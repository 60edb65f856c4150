"""The client library is an extra: training, and a run whose teacher is the grammar, do without it."""

from __future__ import annotations

import importlib.util

from phi_jax.errors import UserError

_PACKAGES = ("openai", "aiohttp", "pydantic")


def require() -> None:
    """Raises UserError where what speaks to a language model, or reads its texts, is not installed."""
    for name in _PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"a language model's texts need the package {name}, which is not installed here: "
                "pip install -e '.[teacher]'"
            )
