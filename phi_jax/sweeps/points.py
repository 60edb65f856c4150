"""The points of a sweep: a file's `get_points(h)` says what each experiment changes in a base config."""

import dataclasses
import itertools
import os
import re
import runpy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from phi_jax import config, fields
from phi_jax.config import Config
from phi_jax.errors import UserError, one_line
from phi_jax.store.artifact import Json

SCALES = {"micro": "../nano.py:size=micro", "nano": "../nano.py", "paper": "../phi_1.py"}
"""Scale -> the base config of a point that names none, beside the folder of the sweep file."""
BASE = "config"  # the override that names another base
SEED = "seed"
_NAME = re.compile(r"[A-Za-z0-9_.,=+-]{1,100}")

Overrides = Json
Points = dict[str, Overrides]
"""Name -> dotted path of a field -> value; None removes an entry, such as `models.base`."""


class Hyper:
    """What `get_points` makes points with. scale: of the experiment, a key of SCALES."""

    def __init__(self, scale: str) -> None:
        self.scale = scale

    def point(self, name: str, overrides: Mapping[str, Any]) -> Points:
        """One point. A name of "" leaves the names of what it is multiplied with as they are."""
        return {name: dict(overrides)}

    def sweep(self, path: str, values: Iterable[Any]) -> Points:
        """A point for each value of a field, named "field=value"."""
        return {f"{path.rpartition('.')[2]}={f'{v:g}' if isinstance(v, float) else v}": {path: v} for v in values}

    def product(self, *parts: Points) -> Points:
        """Every combination; a later part's value of a field goes before an earlier one's."""
        return _merged(itertools.product(*(part.items() for part in parts)))

    def zip(self, *parts: Points) -> Points:
        """The first of all parts together, the second of all, and so on. Raises ValueError for unequal lengths."""
        return _merged(zip(*(part.items() for part in parts), strict=True))

    def chain(self, *parts: Points) -> Points:
        """All points of all parts. Raises ValueError for a name that comes twice."""
        return _merged((item,) for part in parts for item in part.items())


def _merged(combinations: Iterable[Sequence[tuple[str, Overrides]]]) -> Points:
    found: Points = {}
    for combination in combinations:
        name = ",".join(filter(None, (name for name, _ in combination)))
        if name in found:
            raise ValueError(f"two points are called {name!r}; name them apart")
        found[name] = {path: value for _, overrides in combination for path, value in overrides.items()}
    return found


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The points of a sweep file at one scale.

    title: the file's docstring, first line. overrides: of each point. paper: the file's PAPER, "rows": what the paper
    has beside rows of the page, and "says": what these numbers are; empty where the file has none.
    """

    title: str
    points: dict[str, Config]
    overrides: Points
    paper: Json


def load(config_arguments: Sequence[str], scale: str) -> Sweep:
    """The sweep of `--config FILE.py`, or of FILE.py:seeds=3, which crosses it with so many seeds.

    `--config.a.b=value` is laid over the base of every point. Raises UserError for a file that cannot be read, and for
    a point that is no valid experiment.
    """
    file, more = config.split(config_arguments)
    path, _, argument = file.partition(":")
    if not os.path.isfile(path):
        raise UserError(f"--config {path}: no such file; sweeps of the project lie in configs/sweeps/")
    h = Hyper(scale)
    try:
        module = runpy.run_path(path)
        if "get_points" not in module:
            raise ValueError("it has no get_points(h), so it is no sweep; an experiment is for `phi-jax run`")
        overrides = h.product(module["get_points"](h), _seeds(h, argument))
    except (Exception, SystemExit) as error:  # whatever the file raises
        raise UserError(f"--config {file}: {type(error).__name__}: {one_line(error)}") from None
    if wrong := [name for name in overrides if not _NAME.fullmatch(name)]:
        raise UserError(
            f"--config {file}: {wrong[0]!r} is no name of a point; use up to 100 letters, digits and _.,=+-"
        )
    bases: dict[str, Config] = {}
    points = {}
    for name, changed in overrides.items():
        base = changed.pop(BASE, SCALES[scale])
        if base not in bases:
            bases[base] = config.load([f"--config={Path(path).parent / base}", *more])
        try:
            points[name] = overridden(bases[base], changed)
            fields.check_whole(points[name].to_dict())
        except UserError as error:
            raise UserError(f"point {name}: {error}") from None
    says, rows = module.get("PAPER", ("", {}))
    title = (module["__doc__"] or Path(path).stem).strip().splitlines()[0].rstrip(".")
    return Sweep(title, points, overrides, {"says": says, "rows": rows})


def _seeds(h: Hyper, argument: str) -> Points:
    if not argument:
        return h.point("", {})
    found = re.fullmatch(r"seeds=([1-9][0-9]?)", argument)
    if found is None:
        raise ValueError(f"{argument!r} is no argument of a sweep; use seeds=N")
    return h.sweep(SEED, range(int(found[1])))


def overridden(base: Config, overrides: Mapping[str, Any]) -> Config:
    """The config with other values of some fields. Raises UserError for a section that is not there."""
    values = base.to_dict()
    for path, value in overrides.items():
        *outer, name = path.split(".")
        section: Any = values
        for step in outer:
            section = section.get(step)
            if not isinstance(section, dict):
                raise UserError(f"config.{path}: there is no section {step!r}")
        if value is None:
            section.pop(name, None)
        else:  # 1 is 1.0 where the base has a real number: another spelling is no other experiment
            section[name] = float(value) if isinstance(section.get(name), float) and type(value) is int else value
    return Config(Config(values).to_dict())
