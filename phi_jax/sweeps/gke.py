"""Writes the jobs of a sweep as one JobSet for Kubernetes, S/jobset.json, and runs nothing: `kubectl create -f` does.

Each job is a replicatedJob after the template's only one (launch/gke_sweep.yaml, or a copy of it whose EDIT lines are
changed): image, nodes, devices, volumes, and what happens to a pod that ends, come from there. S must lie on a volume
that pods mount at the path that it has here; a relative path in a config is one of the image.

The jobs of a point run one after another, and so do those that ask teachers. A job that fails writes why into its
point's log and ends as if all were well, since JobSet stops every job of a set in which one has failed; what needs it
then finds its inputs missing and ends likewise, and the others go on. So a JobSet is "Completed" whatever came out. The
same `phi-jax sweep`, run again when it has ended and not before, names what is not whole and what its log ends with,
and writes a JobSet of that, or the page.

Needs JobSet 0.9, where a job may wait for five others (0.8: for one); a job that must wait for more `kubectl` refuses.
"""

import copy
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from phi_jax.errors import UserError, one_line
from phi_jax.progress import say
from phi_jax.store.artifact import write_json
from phi_jax.sweeps.jobs import LOG, Job, commands, last_line, settle
from phi_jax.sweeps.shared import Shared


def write(directory: Path, jobs: Sequence[Job], template: str) -> None:
    """Writes the jobs that are not whole, where there are any. template: a file.

    Raises UserError where that is no JobSet like launch/gke_sweep.yaml.
    """
    import yaml

    try:
        jobset = yaml.safe_load(Path(template).read_text())
        (pattern,) = jobset["spec"]["replicatedJobs"]
        container = pattern["template"]["spec"]["template"]["spec"]["containers"][0]
    except Exception as error:  # whatever may stand there
        raise UserError(f"--manifest {template}: no JobSet like launch/gke_sweep.yaml: {one_line(error)}") from None
    shared, file = Shared(directory.absolute()), directory / "jobset.json"
    latest = dict[str, str]()  # of those that use a point, or the teachers
    jobset["spec"]["replicatedJobs"] = entries = []
    for number, job in enumerate(jobs):
        if due := settle(shared, job):
            log, made = shared.point(job.points[0]) / LOG, commands(shared, job, job.points[0], due)
            container["args"] = [os.fspath(log), *(shlex.join(command[1:]) for command in made)]
            used = [*job.points, *["teachers/"] * job.asks_teachers]
            entry = copy.deepcopy(pattern) | {"name": f"job-{number}"}
            if after := sorted({latest[name] for name in used if name in latest}):  # JobSet refuses [] in the first
                entry["dependsOn"] = [{"name": name, "status": "Complete"} for name in after]
            latest |= dict.fromkeys(used, entry["name"])
            entries.append(entry)
            say(f"{job.name}: {entry['name']}, {len(due)} stages; so far {last_line(log.parent)}")
    say(f"{len(jobs) - len(entries)} of {len(jobs)} jobs are whole")
    if entries:
        write_json(file, jobset)
        say(f"the others: kubectl create -f {file}; when it has ended, run this again")
