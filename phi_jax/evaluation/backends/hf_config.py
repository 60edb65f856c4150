"""What the backends of others read of an exported model's config.json."""

from __future__ import annotations

from pathlib import Path

from phi_jax.errors import UserError
from phi_jax.evaluation.backends import DTYPES
from phi_jax.evaluation.formats.jsonl import read_object


def read_config(model: Path, dtype: str) -> tuple[int, str]:
    """(tokens of context, dtype to run in: the one asked for, else the export's). Raises UserError where one lacks."""
    path = model / "config.json"
    if not path.is_file():
        raise UserError(f"--model {model}: has no config.json; name an exported directory")
    config = read_object(path)
    context = config.get("max_position_embeddings") or config.get("n_positions")  # Phi's name, and CodeGen's
    if not isinstance(context, int):
        raise UserError(f"{path}: no whole number in max_position_embeddings; get a good copy")
    dtype = dtype or config.get("dtype") or config.get("torch_dtype") or ""  # transformers 5's name, and 4's
    if dtype not in DTYPES:
        raise UserError(f"{path}: dtype is {dtype!r}; name one of {', '.join(DTYPES)} with --dtype")
    return context, dtype
