"""Digests of what paths hold: a path in a config stands for its content, not for its name."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from phi_jax.store import hub
from phi_jax.store.artifact import MANIFEST, Json, digest_of, file_digest, is_object_store, write_json

DIGESTS = ".digests.json"


class PathDigests:
    """Digests of files and directories, remembered in the work directory by path, size and time.

    So a run reads a source again only where a file of it has changed.
    """

    def __init__(self, workdir: os.PathLike | str | None) -> None:
        """workdir: where the digests are remembered; None or an object store = nowhere."""
        self._file = None if workdir is None or is_object_store(workdir) else Path(workdir) / DIGESTS
        self._known: Json = {}
        if self._file is not None:
            with contextlib.suppress(OSError, ValueError):
                self._known = json.loads(self._file.read_text())
        self._changed = False

    def of(self, value: Any) -> Any:
        """The value of a path field with the digest in the place of each path that exists, and the commit in the place
        of a revision of the Hub: that which the work directory saw first. Other texts stay.

        Raises UserError as hub.pin.
        """
        if isinstance(value, list | tuple):
            return [self.of(one) for one in value]
        if not isinstance(value, str):
            return value
        if hub.is_hub(value):
            self._known[value] = hub.pin(value, self._known.get(value, ""))
            self._changed = True
            return self._known[value]
        return {"sha256": self._digest(Path(value))} if os.path.exists(value) else value

    def save(self) -> None:
        """Writes what was read since, where the work directory exists."""
        if self._changed and self._file is not None and self._file.parent.is_dir():
            write_json(self._file, self._known)
            self._changed = False

    def _digest(self, path: Path) -> str:
        if not path.is_dir():
            return self._of_file(path)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return json.loads((path / MANIFEST).read_text())["identity"]
        inside = (file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        return digest_of({os.fsencode(file.relative_to(path)).hex(): self._of_file(file) for file in inside})

    def _of_file(self, path: Path) -> str:
        if not path.is_file() or not os.access(path, os.R_OK):
            return "not a readable file"
        status = path.stat()
        mark = [status.st_size, status.st_mtime_ns, status.st_ino]
        name = os.fsencode(path.absolute()).hex()
        if name not in self._known or self._known[name][0] != mark:
            self._known[name] = [mark, file_digest(path)]
            self._changed = True
        return self._known[name][1]
