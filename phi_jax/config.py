"""Configs: ml_collections files, overridden on the command line, and read through a view that records each read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_jax.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict


class NoSuchField(UserError, AttributeError):
    """A config lacks a field that is read: one line for the user, and what hasattr expects."""


class Config:
    """A read-only view of a config. Remembers which fields were read, so that a field nobody reads is found.

    `config.training.learning_rate` reads a field; a section is another Config that shares the record.
    An unknown field raises NoSuchField.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        _path: str = "",
        _reads: set[str] | None = None,
        _base: Config | None = None,
    ) -> None:
        self._values = dict(values)
        self._path = _path
        self._base = _base
        self._reads: set[str] = set() if _reads is None else _reads

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        path = f"{self._path}.{name}".lstrip(".")
        if name not in self._values and self._base is not None:
            return getattr(self._base, name)
        if name not in self._values:
            raise NoSuchField(f"config.{path}: no such field; there are: {', '.join(sorted(self._values))}")
        value = self._values[name]
        if isinstance(value, Mapping):
            return Config(value, path, self._reads)
        self._reads.add(path)
        return value

    def only(self, sections: Sequence[str]) -> Config:
        """A view with just these sections, "training" or one inside another, "teachers.writer"; reads go to the same
        record. Raises KeyError for one that is not there.
        """
        chosen: dict[str, Any] = {}
        for section in sections:
            *outer, name = section.split(".")
            values, kept = self._values, chosen
            for step in outer:
                values, kept = values[step], kept.setdefault(step, {})
            kept[name] = values[name]
        return Config(chosen, self._path, self._reads)

    def over(self, base: Config) -> Config:
        """A view of this section that has the fields of `base` where it has none of its own."""
        return Config(self._values, self._path, self._reads, base)

    @property
    def reads(self) -> frozenset[str]:
        """Dotted paths of the fields read so far, through this view or any other view of the same config."""
        return frozenset(self._reads)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values (tuples become lists). Does not count as reading the fields."""
        return _plain(self._values)


def from_config_dict(values: ConfigDict) -> Config:
    """Wraps what a config file's get_config() returns; "~/" at the beginning of a text is the home directory."""
    return Config(_plain(values.to_dict()))


def _plain(value: Any) -> Any:
    """As JSON has it, with the home directory in the place of "~/"."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def load(config_arguments: Sequence[str]) -> Config:
    """Loads `--config=FILE.py[:ARGUMENT]`, or the config.json of a work directory, with overrides `--config.a.b=value`.

    Raises UserError for a missing file, an unknown field or a value of the wrong type.
    """
    from absl import flags
    from ml_collections import ConfigDict, config_flags

    chosen, overrides = split(config_arguments)
    file = chosen.partition(":")[0]
    if not os.path.isfile(file):
        raise UserError(f"--config {file}: no such file; configs of the project lie in configs/")
    values, argv = flags.FlagValues(), ["phi-jax", f"--config={chosen}", *overrides]
    try:
        if file.endswith(".json"):
            del argv[1]
            saved = ConfigDict(json.loads(Path(file).read_text()))
            config_flags.DEFINE_config_dict("config", saved, flag_values=values, sys_argv=argv)
        else:
            config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
        values(argv)
        return from_config_dict(values["config"].value)
    except UserError:
        raise
    except SystemExit:
        raise UserError(f"--config {file}: ends the process; it must only define get_config()") from None
    except Exception as error:  # whatever the file raises
        # An exception inside the file arrives as the text of a traceback, whose last line says what is wrong.
        found = error.args[0] if isinstance(error, AttributeError) else error  # which holds a KeyError, or a text
        text = str(found.args[0] if isinstance(found, KeyError) else found)
        line = text.splitlines()[-1] if "Traceback" in text else ". ".join(text.splitlines())
        if "'get_config'" in line:
            line = "it has no get_config(), so it is no experiment; a sweep is for `phi-jax sweep`"
        elif isinstance(found, KeyError):
            line = f"there is no field or key {line}"
        line = re.sub("^flag --(.*): invalid literal for int.*", r"\1: must be a whole number", line)
        line = re.sub("^flag --(.*): could not convert string.*", r"\1: must be a number", line)
        raise UserError(f"--config {file}: {line.removeprefix('ValueError: ')}") from None


def split(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """(the last FILE of `--config FILE`, overrides as `--config.a.b=value`). Raises UserError where there is none."""
    taken, _ = take(arguments)
    files = [argument.split("=", 1)[1] for argument in taken if argument.startswith("--config=")]
    if not files:
        raise UserError("no config given; add --config FILE.py, e.g. --config configs/nano.py")
    return files[-1], [argument for argument in taken if not argument.startswith("--config=")]


def take(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """(`--config X` as `--config=X`, and `--config.a.b X` likewise; all other arguments)."""
    taken, rest, words = list[str](), list[str](), iter(arguments)
    for word in words:
        if not re.match("--config[.=]|--config$", word):
            rest.append(word)
        elif "=" in word:
            taken.append(word)
        elif (value := next(words, None)) is not None:
            taken.append(f"{word}={value}")
        else:
            raise UserError(f"{word}: a value must follow")
    return taken, rest
