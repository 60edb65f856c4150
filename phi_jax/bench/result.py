"""A measurement's result: what it was made with, and where it goes."""

import datetime
import os
import platform
from collections.abc import Callable
from pathlib import Path

from phi_jax.errors import UserError
from phi_jax.store.artifact import Json
from phi_jax.store.json_text import json_text
from phi_jax.store.versions import git_revision, versions


def publish(measured: Callable[[], Json], out: str | None) -> None:
    """Prints what `measured` returns as JSON, with its surroundings, and writes it to `out` where there is one.

    Raises UserError before anything is measured where the file's directory is not there.
    """
    if out and not Path(out).parent.is_dir():
        raise UserError(f"--out {out}: there is no directory {Path(out).parent}; make it first")
    text = json_text({"surroundings": surroundings(), **measured()}, indent=1)
    print(text)
    if out:
        Path(out).write_text(text + "\n")


def surroundings() -> Json:
    """What a measurement is made with; no path."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "git_revision": git_revision(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
