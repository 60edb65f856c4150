"""The directory in which a program runs."""

import contextlib
import os


class Scratch:
    """An empty directory per program where programs can write (unconfined); else the root directory, where
    a confined program can read and write nothing and nothing has to be cleaned up."""

    def __init__(self, *, wanted: bool) -> None:
        self._base = None
        if wanted:
            import tempfile  # only here: each fork would copy it

            self._base = tempfile.mkdtemp(prefix="phi-jax-sandbox-")

    def make(self) -> str:
        """The directory for the next program."""
        if self._base is None:
            return "/"
        path = os.path.join(self._base, "program")
        os.mkdir(path, 0o700)
        return path

    def clear(self) -> None:
        """Removes what the last program left."""
        if self._base is not None:
            import shutil

            shutil.rmtree(os.path.join(self._base, "program"), ignore_errors=True)

    def close(self) -> None:
        """Removes everything."""
        if self._base is not None:
            import shutil

            with contextlib.suppress(OSError):
                shutil.rmtree(self._base, ignore_errors=True)
