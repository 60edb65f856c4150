"""Runs the jobs of a sweep on a SLURM cluster that shares its directory.

All are submitted at once, each with its dependencies, so that they go on when this process is gone; a later one finds
in the queue, by their names, what an earlier one has submitted. One node a job; what else a cluster asks for
(partition, GPUs, time) sbatch itself takes from SBATCH_PARTITION, SBATCH_GPUS_PER_NODE and the like.
"""

import dataclasses
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from phi_jax.errors import UserError
from phi_jax.progress import say
from phi_jax.store.artifact import digest_of
from phi_jax.sweeps.jobs import LOG, Job, begun, commands, last_line, needed_by, refuse_failed, settle
from phi_jax.sweeps.shared import Shared

_LOOK_SECONDS = 5.0
# SBATCH_* go before these options. Two minutes before the time limit the run hears of it; 75 is EXIT_PREEMPTED, and 143
# a stage that SIGTERM ended. A job that SLURM has preempted is queued again already, and a cancelled one shall not be.
_SCRIPT = """\
#!/bin/bash
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
trap 'kill $child' TERM
{} &
child=$!
while wait $child; code=$?; kill -0 $child 2>/dev/null; do :; done
[ $code -ne 0 ] || exec {}
if [ $code -eq 75 ] || [ $code -eq 143 ]; then
  [ "$(squeue -h --jobs=$SLURM_JOB_ID -o %T)" != RUNNING ] || scontrol requeue $SLURM_JOB_ID
fi
exit $code
"""


def run(directory: Path, jobs: Sequence[Job]) -> None:
    """Submits what is neither whole nor in the queue, and waits. A job that fails stops only those that need it.

    Raises UserError at the end where one failed, and where SLURM refuses one.
    """
    shared, queued = Shared(directory.absolute()), _queued()
    ids, submitted = dict[int, str](), set[int]()
    places: list[str] = []
    for number, job in enumerate(jobs):
        # Where it was interrupted, else where no other job runs.
        free = [point for point in job.points if point not in places] or job.points
        places.append(begun(shared, job) or free[0])
        name = f"{job.points[0]} {digest_of([str(shared.directory), *dataclasses.astuple(job)])[:12]}"
        needs, here = needed_by(jobs, number), queued.get(name)
        if here and not needs & submitted:
            ids[number] = here
            continue
        if here:  # it waits for one that failed
            _slurm("scancel", here)
        # What runs is not to be touched, so this comes after the look at the queue.
        if due := settle(shared, job):
            after = [
                f"{'afterok' if other in needs else 'afterany'}:{before}"
                for other, before in ids.items()
                if other in needs
                or places[other] == places[number]
                or (job.asks_teachers and jobs[other].asks_teachers)
            ]
            log = shared.point(places[number]) / LOG
            options = [f"--job-name={name}", f"--output={log}", "--open-mode=append", "--kill-on-invalid-dep=yes"]
            options += [f"--dependency={','.join(after)}"] if after else []
            script = _SCRIPT.format(*map(shlex.join, commands(shared, job, places[number], due)))
            ids[number] = _slurm("sbatch", "--parsable", *options, text=script).partition(";")[0]
            submitted.add(number)
            say(f"{job.name}: job {ids[number]} of SLURM, {len(due)} stages, log {log}")
    failed: dict[int, str] = {}
    while ids:
        time.sleep(_LOOK_SECONDS)
        try:
            queued = _queued()
        except UserError as error:  # its controller may be starting again
            say(f"{error}; asking again")
            continue
        for number in [number for number, here in ids.items() if here not in queued.values()]:
            job, needs = jobs[number], needed_by(jobs, number)
            if needs & ids.keys():
                continue
            del ids[number]
            if lost := needs & failed.keys():
                failed[number] = f"needs {jobs[min(lost)].name}"
            elif settle(shared, job):
                failed[number] = last_line(shared.point(places[number]))
            say(f"{job.name}: {f'failed: {failed[number]}' if number in failed else 'done'}")
    refuse_failed(jobs, failed)


def _queued() -> dict[str, str]:
    """Name -> number of this user's jobs that have not ended."""
    lines = _slurm("squeue", "--me", "-h", "-o", "%i %j").splitlines()
    return {name: identifier for identifier, _, name in (line.partition(" ") for line in lines)}


def _slurm(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout.strip()
