"""A measurement's result: what it was made with, and where it goes."""

import argparse
import datetime
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from phi_jax.errors import UserError
from phi_jax.store.json_text import json_text
from phi_jax.store.versions import git_revision, versions


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every bench has."""
    add = parser.add_argument
    add("--config", metavar="FILE.py[:ARG]", help="whose model is measured; --config.a.b=V sets a field")
    add("--out", type=Path, metavar="FILE.json", help="where the result goes, beside standard output")


def publish(measured: Callable[[], dict[str, Any]], out: Path | None) -> None:
    """Prints what `measured` returns as JSON, with its surroundings, and writes it to `out` where there is one.

    Raises UserError before anything is measured where the file's directory is not there.
    """
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no directory {out.parent}; make it first")
    text = json_text({"surroundings": surroundings(), **measured()}, indent=1)
    print(text)
    if out is not None:
        out.write_text(text + "\n")


def surroundings() -> dict[str, Any]:
    """What a measurement is made with; no path."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "git_revision": git_revision(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
