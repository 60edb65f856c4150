"""Completions on disk: a file a batch, whole or not there, beside the settings that all of them were made with."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phi_jax.errors import UserError
from phi_jax.evaluation.execution import Sample
from phi_jax.store.artifact import locked, write_json


class Parts(contextlib.ExitStack):
    """The parts in `directory`/parts; as a context manager, held against a second run.

    settings: all that decides a completion; kept in `directory`/settings.json. Raises UserError on entering where
    the parts that are there were made with others.
    """

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        super().__init__()
        self._directory = directory
        self._settings = json.loads(json.dumps(settings))

    def __enter__(self) -> Parts:
        (self._directory / "parts").mkdir(parents=True, exist_ok=True)
        self.enter_context(locked(self._directory))
        path = self._directory / "settings.json"
        if path.exists():
            theirs = _read(path)
            for field in {**theirs, **self._settings}:
                a, b = theirs.get(field), self._settings.get(field)
                if a != b:
                    raise UserError(
                        f"--out {self._directory}: holds completions made with another {field} ({_differing(a, b)}); "
                        "name another place, or set it as it was"
                    )
        else:
            write_json(path, self._settings)
        return self

    def write(self, samples: Sequence[Sample], seconds: float) -> None:
        """One more part. seconds: of wall time that it took."""
        part = {"seconds": round(seconds, 3), "completions": [dataclasses.asdict(s) for s in samples]}
        number = max((int(file.stem) for file in self._files()), default=-1) + 1
        write_json(self._directory / "parts" / f"{number:05d}.json", part)

    def samples(self) -> list[Sample]:
        """All that the parts hold."""
        return [Sample(**c) for file in self._files() for c in _read(file)["completions"]]

    def speed(self) -> dict[str, float]:
        """Tokens, the seconds they took and tokens per second, of all parts; loading the model is not in it."""
        seconds = sum(_read(file)["seconds"] for file in self._files())
        tokens = sum(s.tokens for s in self.samples())
        rate = tokens / seconds if seconds else 0.0
        return {"tokens": tokens, "seconds": round(seconds, 3), "tokens_per_second": round(rate, 1)}

    def _files(self) -> list[Path]:
        return sorted((self._directory / "parts").glob("[0-9]*.json"))


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it, and what it held is made again") from None


def _differing(a: Any, b: Any) -> str:
    """What differs, in few words; of two mappings the first entry that does."""
    if isinstance(a, dict) and isinstance(b, dict):
        key = next(k for k in {**a, **b} if a.get(k) != b.get(k))
        return f"{key}: {_differing(a.get(key), b.get(key))}"
    return f"{str(a)[:40]}, now {str(b)[:40]}"
