"""The jobs of a sweep: the stages that the same points have in common are one job, which runs in one of them.

A point needs all that the stages it has in common with others are made of, so a job waits only for jobs of more points.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.graph import stages
from phi_jax.pipeline import keys_of
from phi_jax.store import artifact
from phi_jax.store.digests import DIGESTS, PathDigests
from phi_jax.sweeps.points import Sweep
from phi_jax.sweeps.shared import Shared

LOG = "log.txt"  # of a point


@dataclasses.dataclass(frozen=True)
class Job:
    """points: that have these stages in common, in the sweep's order. stages: label -> key, inputs first."""

    points: tuple[str, ...]
    stages: dict[str, str]
    asks_teachers: bool

    @property
    def name(self) -> str:
        """For people: the point, or all that share it."""
        return self.points[0] if len(self.points) == 1 else f"shared by {len(self.points)}: {', '.join(self.points)}"


def jobs_of(sweep: Sweep, digests: PathDigests) -> list[Job]:
    """The jobs of a sweep, each after those it needs. Raises UserError for two points that are one experiment."""
    owners, asking = dict[tuple[str, str], list[str]](), set[str]()
    for point, config in sweep.points.items():
        for label, key in keys_of(config, digests).items():
            owners.setdefault((label, key), []).append(point)
        asking |= {stage.label for stage in stages(config) if stage.asks_teachers()}
    if same := next((points for (label, _), points in owners.items() if label == "report" and len(points) > 1), None):
        raise UserError(
            f"points {' and '.join(same)}: the same experiment; leave one out, or give them different fields"
        )
    grouped: dict[tuple[str, ...], dict[str, str]] = {}
    for (label, key), points in owners.items():
        grouped.setdefault(tuple(points), {})[label] = key
    ordered = sorted(grouped.items(), key=lambda item: -len(item[0]))  # stable: the sweep's order
    return [Job(points, labels, not asking.isdisjoint(labels)) for points, labels in ordered]


def write_configs(directory: Path, points: Mapping[str, Config]) -> None:
    """Writes the config.json of every point, which `phi-jax --config` takes."""
    for name, config in points.items():
        place = Shared(directory).point(name)
        place.mkdir(parents=True, exist_ok=True)
        # One journal and one cap for all: what one point has paid for no other pays for again.
        values = config.to_dict()
        if not values["budget"]["journal"]:
            values["budget"]["journal"] = os.path.abspath(directory / "teacher")
        artifact.write_json(place / "config.json", values)
        digests = directory / DIGESTS
        if digests.exists():  # so that all points see the Hub's data sets as the sweep first saw them
            artifact.write_atomic(place / DIGESTS, digests.read_bytes())  # a job may be reading it


def settle(shared: Shared, job: Job) -> list[str]:
    """Has each point of a job name what is whole of it; returns the labels of the stages that are not."""
    found = {label: [shared.settle(point, label, key) for point in job.points] for label, key in job.stages.items()}
    return [label for label, whole in found.items() if not all(whole)]


def commands(shared: Shared, job: Job, point: str, due: Sequence[str]) -> tuple[list[str], list[str]]:
    """What makes stages of a job in a point, and what then has all its points name them: `settle`, below."""
    place = os.fspath(shared.point(point))
    run = ["phi_jax.cli", "run", "--verbose", "--config", f"{place}/config.json", "--workdir", place, "--only"]
    name = ["phi_jax.sweeps.jobs", os.fspath(shared.directory), json.dumps(dataclasses.asdict(job))]
    return [sys.executable, "-m", *run, ",".join(due)], [sys.executable, "-m", *name]


def begun(shared: Shared, job: Job) -> str | None:
    """The point in whose work directory a stage of the job was interrupted, or None."""
    return next(
        (p for p in job.points for label in job.stages if (shared.point(p) / f"{label}.partial").exists()), None
    )


def needed_by(jobs: Sequence[Job], number: int) -> set[int]:
    """The jobs that must be whole before a job: those of more points, its own among them."""
    points = set(jobs[number].points)
    return {other for other, job in enumerate(jobs) if points < set(job.points)}


def last_line(point: Path) -> str:
    """What a point's log ends with."""
    log = point / LOG
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return f"{log}: {next((line for line in reversed(lines) if line.strip()), 'nothing yet')}"


def refuse_failed(jobs: Sequence[Job], failed: Mapping[int, str]) -> None:
    """Raises UserError that names the first job that failed, where one did. failed: number -> why."""
    if failed:
        first = next(iter(failed))
        raise UserError(f"{len(failed)} of {len(jobs)} jobs failed; first {jobs[first].name}: {failed[first]}")


if __name__ == "__main__":
    sys.exit(bool(settle(Shared(Path(sys.argv[1])), Job(**json.loads(sys.argv[2])))))
