"""Where a measurement's result goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from phi_jax.errors import UserError


def check_out(out: Path | None) -> None:
    """Before anything is measured. Raises UserError where the file's directory is not there."""
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no directory {out.parent}; make it first")


def publish(result: dict[str, Any], out: Path | None) -> None:
    """Prints the result as JSON, and writes it to `out` where there is one."""
    text = json.dumps(result, indent=1)
    print(text)
    if out is not None:
        out.write_text(text + "\n")
