"""`phi-jax sweep`: runs the points of a sweep in one directory, says what they would be, and compares what came out."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from phi_jax import preflight
from phi_jax.errors import UserError
from phi_jax.graph import DISTRIBUTED, models_of, stages
from phi_jax.pipeline import evaluated, keys_of
from phi_jax.planning.hardware import parse_hardware
from phi_jax.planning.pipeline_plan import StagePlan, lines, make_plans
from phi_jax.planning.plan import ASSUMED_MFU
from phi_jax.progress import say
from phi_jax.report import sweep_page
from phi_jax.store import artifact
from phi_jax.store.artifact import Artifact
from phi_jax.store.digests import PathDigests
from phi_jax.sweeps import jobs, local
from phi_jax.sweeps.points import SEED, Sweep, load
from phi_jax.sweeps.shared import Shared, require_local

__all__ = ["dry_run", "load", "prune", "run"]
_GIB = 2**30


def run(sweep: Sweep, workdir: str, parallel: int, _: str) -> list[str]:
    """Runs what is not whole; returns the table for a terminal. A second run in the same directory is refused.

    Raises UserError for a point that the checks before a first stage refuse, and after the last job where one failed.
    """
    directory, digests = Path(workdir), PathDigests(workdir)
    todo = _checked(sweep, workdir, digests, parallel)
    directory.mkdir(parents=True, exist_ok=True)
    with artifact.locked(directory):
        digests.save()
        jobs.write_configs(directory, sweep.points)
        try:
            local.run(directory, todo, parallel)
        finally:
            table = _report(sweep, directory)
    return [*table, f"report: {directory / 'report' / 'index.html'}"]


def dry_run(sweep: Sweep, workdir: str, parallel: int, devices: str) -> Iterator[str]:
    """The points, the jobs that they share, what is whole already, and what the rest will take on these devices; what
    points share counts once. Changes nothing.

    Raises UserError at once for what are no devices, and at the end as `run` does before its first job.
    """
    hardware, shared, todo = parse_hardware(devices), Shared(Path(workdir)), jobs.jobs_of(sweep, PathDigests(workdir))
    plans = {name: make_plans(config, stages(config), workdir) for name, config in sweep.points.items()}
    yield from [sweep.title, *(f"point {name}: {sweep.overrides[name]}" for name in sweep.points)]
    whole, due = 0, dict[str, StagePlan]()
    for job in todo:
        there = [label for label, key in job.stages.items() if Artifact.read(shared.kept(label, key))]
        whole += len(there)
        due |= {f"{label}/{job.name}": plans[job.points[0]][label] for label in job.stages if label not in there}
        yield f"job {job.name}: {len(job.stages)} stages, {len(there)} whole: {', '.join(job.stages)}"
    yield from lines(due, hardware, ASSUMED_MFU)[-3:]
    yield (
        f"dry run: {len(sweep.points)} points ask for {sum(map(len, plans.values()))} stages, {whole + len(due)} of "
        f"them different, {sum(label.startswith(DISTRIBUTED) for label in due)} trainings to run; {whole} are whole, "
        f"{len(due)} would run; nothing was"
    )
    _checked(sweep, workdir, PathDigests(workdir), parallel)


def prune(sweep: Sweep, workdir: str, *_: object) -> list[str]:
    """Removes the artifacts that no point of the sweep needs, and the points that it no longer has; says which."""
    directory = Path(workdir)
    if not directory.is_dir():
        raise UserError(f"--workdir {workdir}: no such directory")
    with artifact.locked(directory):
        digests = PathDigests(directory)
        unused = Shared(directory).unused({name: keys_of(config, digests) for name, config in sweep.points.items()})
        freed = {path: sum(f.lstat().st_size for f in path.rglob("*") if not f.is_dir()) for path in unused}
        for path in unused:
            shutil.rmtree(path)
    return [
        *(f"removed: {path}, {size / _GIB:.3g} GiB" for path, size in freed.items()),
        f"removed: {len(freed)} in all",
    ]


def _checked(sweep: Sweep, workdir: str, digests: PathDigests, parallel: int) -> list[jobs.Job]:
    """The jobs, after the checks of every point that need no device. Changes nothing."""
    require_local(workdir)
    local.check_parallel(parallel)
    shared = Shared(Path(workdir))
    todo = jobs.jobs_of(sweep, digests)
    whole = {key for job in todo for label, key in job.stages.items() if Artifact.read(shared.kept(label, key))}
    for name, config in sweep.points.items():
        keys = keys_of(config, digests)
        due = [stage for stage in stages(config) if keys[stage.label] not in whole]
        with _named(name):
            preflight.check_without_devices(config, os.fspath(shared.point(name)), due)
    return todo


@contextlib.contextmanager
def _named(point: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"point {point}: {error}") from None


def _report(sweep: Sweep, directory: Path) -> list[str]:
    """Writes the page on the points that are whole; returns the table for a terminal."""
    found = {}
    for name, config in sweep.points.items():
        place, there = Shared(directory).point(name), evaluated(config, Shared(directory).point(name))
        if len(there) == len(models_of(config)):
            trained = {s.name: artifact.find(place, s.stage, s.name) for s in stages(config) if s.stage in DISTRIBUTED}
            found[name] = sweep_page.Point(sweep.overrides[name], {n: a for n, a in trained.items() if a}, there)
    if not found:
        say("no point is whole: there is nothing to compare yet")
        return []
    data = sweep_page.gather(sweep.title, found, SEED, {"says": sweep.paper_says, "rows": sweep.paper})
    sweep_page.write(directory / "report", data)
    return sweep_page.table(data)
