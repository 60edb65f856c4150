"""`phi-jax sweep`: runs the points of a sweep in one directory, says what they would be, and compares what came out."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from phi_jax import preflight
from phi_jax.config import Config
from phi_jax.errors import UserError, one_line
from phi_jax.graph import TRAININGS, models_of, stages
from phi_jax.pipeline import keys_of, saved_config
from phi_jax.planning.hardware import parse_hardware
from phi_jax.planning.pipeline_plan import StagePlan, lines, make_plans
from phi_jax.planning.plan import ASSUMED_MFU
from phi_jax.progress import say
from phi_jax.report import sweep_page
from phi_jax.store import artifact
from phi_jax.store.artifact import Artifact
from phi_jax.store.digests import PathDigests
from phi_jax.sweeps import gke, jobs, local, slurm
from phi_jax.sweeps.points import SEED, Sweep
from phi_jax.sweeps.shared import Shared

_GIB = 2**30
_ENTRY = "{model:s} {benchmark:s} {metric:s} {value:f} {low:f} {high:f}"  # what Table 1 reads of one in scores.json


def run(sweep: Sweep, workdir: str, parallel: int, launcher: str, manifest: str) -> list[str]:
    """Runs what is not whole; returns the table for a terminal. A second run in the same directory is refused.

    launcher: "local", `parallel` jobs at once on this machine, "slurm", or "gke", which runs nothing but writes a
    JobSet after the one in the file `manifest`.

    Raises UserError for a point that the checks before a first stage refuse, and after the last job where one failed.
    """
    directory, digests = Path(workdir), PathDigests(workdir)
    todo = _checked(sweep, workdir, digests, parallel)
    _also(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with artifact.locked(directory):
        digests.save()
        jobs.write_configs(directory, sweep.points)
        try:
            if launcher == "slurm":
                slurm.run(directory, todo)
            elif launcher == "gke":
                gke.write(directory, todo, manifest)
            else:
                local.run(directory, todo, parallel)
        finally:
            table = _report(sweep, directory)
    return table


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
        f"them different, {sum(label.startswith(TRAININGS) for label in due)} trainings to run; {whole} are whole, "
        f"{len(due)} would run; nothing was"
    )
    _checked(sweep, workdir, PathDigests(workdir), parallel)


def prune(sweep: Sweep, workdir: str) -> list[str]:
    """Removes the artifacts that no point of the sweep needs, and the points that it no longer has; says which.

    Raises UserError where there is no such directory, and where another phi-jax works in it.
    """
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


def compare(workdir: str, names: Sequence[str]) -> list[str]:
    """Writes a page on what differs between two points; returns it for a terminal. names: or other work directories.

    Raises UserError for a point that is not there, and for a directory in which nothing was run.
    """
    points = Path(workdir) / "points"
    if wrong := [name for name in names if not (points / name).is_dir()]:
        there = ", ".join(sorted(os.listdir(points)))
        raise UserError(f"--compare {wrong[0]}: no such point in {workdir}; there are: {there}")
    configs = [saved_config(points / name) for name in names]
    made = [_made(config, points / name) for config, name in zip(configs, names, strict=True)]
    data = sweep_page.compare(names, [config.to_dict() for config in configs], made)
    place = Path(workdir) / "report" / "..".join(Path(name).name for name in names)
    return [*sweep_page.compared(data), sweep_page.write(place, "compare.html.j2", data)]


def _checked(sweep: Sweep, workdir: str, digests: PathDigests, parallel: int) -> list[jobs.Job]:
    """The jobs, after the checks of every point that need no device. Changes nothing."""
    if artifact.is_object_store(workdir):
        raise UserError(f"--workdir {workdir}: an object store, which has no links to shared artifacts; name a disk")
    local.shares(parallel)  # refuses what this machine cannot divide
    shared = Shared(Path(workdir))
    todo = jobs.jobs_of(sweep, digests)
    whole = {key for job in todo for label, key in job.stages.items() if Artifact.read(shared.kept(label, key))}
    for name, config in sweep.points.items():
        keys = keys_of(config, digests)
        due = [stage for stage in stages(config) if keys[stage.label] not in whole]
        try:
            preflight.check_without_devices(config, os.fspath(shared.point(name)), due)
        except UserError as error:
            raise UserError(f"point {name}: {error}") from None
    return todo


def _report(sweep: Sweep, directory: Path) -> list[str]:
    """Writes the page on the points that are whole; returns the tables for a terminal."""
    whole = {}
    for name, config in sweep.points.items():
        made = _made(config, Shared(directory).point(name))
        if all(f"evaluate/{model}" in made for model in models_of(config)):
            whole[name] = made
    if not whole:
        say("no point is whole: there is nothing to compare yet")
        return []
    # In no work directory: what replies are like is known after they have come.
    plans = {name: make_plans(sweep.points[name], stages(sweep.points[name]), os.devnull) for name in whole}
    data = sweep_page.gather(sweep.title, whole, SEED, sweep.paper, _also(directory), plans)
    return [*sweep_page.table(data), sweep_page.write(directory / "report", "sweep.html.j2", data)]


def _also(directory: Path) -> dict[str, list]:
    """Name -> scores of the evaluations in S/also. Raises UserError for what Table 1 cannot show."""
    found = {}
    for path in sorted(directory.glob("also/*/scores.json")):
        try:
            found[path.parent.name] = scores = json.loads(path.read_text())
            for entry in scores:
                if entry["metric"] == "pass@1":
                    _ENTRY.format(**entry)
        except Exception as error:  # whatever may stand there
            raise UserError(
                f"{path}: not scores of `phi-jax evaluate --out`, entries with model, benchmark, metric, value, low "
                f"and high ({type(error).__name__}: {one_line(error)}); evaluate again, or take {path.parent} away"
            ) from None
    return found


def _made(config: Config, place: Path) -> dict[str, Artifact]:
    """Label -> artifact of what is whole in a work directory."""
    found = ((s.label, artifact.find(place, s.stage, s.name, settle=False)) for s in stages(config))
    return {label: a for label, a in found if a}
