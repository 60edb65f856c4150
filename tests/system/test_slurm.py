"""launch/slurm on a real SLURM of two nodes: stopped, preempted, requeued each time, and finished."""

import json
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
from running import MICRO, ROOT
from slurm_cluster import SlurmCluster

from phi_jax.errors import EXIT_PREEMPTED

STEPS = 200


def edited(workdir):
    """launch/slurm for this cluster: what stands before the EDIT marks replaced, the rest as it is."""
    run = ["pretrain", *MICRO, "--config.training.cpu_devices=1", f"--config.training.steps={STEPS}",
           f"--config.training.schedule_steps={STEPS}",
           "--config.training.checkpoint_every=50", "--config.training.evaluate_every=50",
           "--config.training.peer_timeout=15", "--workdir", str(workdir), "--name", "raw"]  # fmt: skip
    mine = {
        "#SBATCH --nodes": "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node": "#SBATCH --ntasks-per-node=1",
        "#SBATCH --gpus-per-node": "",
        "#SBATCH --time": "#SBATCH --time=30",
        "run": f"run=({' '.join(run)})",
    }
    text = (ROOT / "launch" / "slurm").read_text()
    return re.sub(r"^(.*?)=.*?(  # EDIT.*)$", lambda m: mine[m[1]] + m[2], text, flags=re.M)


def steps_in(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.system
@pytest.mark.timeout(1200)
def test_a_job_is_stopped_and_preempted_and_finishes_by_itself(micro_run, tmp_path):
    workdir, artifact = tmp_path / "run", tmp_path / "run" / "pretrain" / "raw"
    shutil.copytree(micro_run / "tokenize" / "raw", workdir / "tokenize" / "raw")
    (tmp_path / "slurm").write_text(edited(workdir))
    log = tmp_path / "job.log"
    log.touch()

    with SlurmCluster() as cluster:

        def wait(holds, what, seconds=300):
            deadline = time.monotonic() + seconds
            while not holds():
                if time.monotonic() > deadline or cluster.state(job).startswith(("FAILED", "CANCELLED")):
                    pytest.fail(f"{what}: {cluster.state(job)}\n{log.read_text()}\n{cluster.logs()}")
                time.sleep(0.1)

        def reach(step):
            path = artifact.with_suffix(".partial") / "metrics.jsonl"
            wait(lambda: steps_in(path)[-1:] > [step], f"step {step} is not reached")

        def saved():
            """The steps at which the job's tasks said, in turn, that they had saved and would end."""
            return [int(s) for s in re.findall(r"asked to stop; step (\d+) is saved", log.read_text())]

        cluster.env["PATH"] = f"{Path(sys.executable).parent}:{cluster.env['PATH']}"
        job = cluster.run("sbatch", "--parsable", f"--output={log}", "slurm", cwd=tmp_path)

        # SIGTERM to the tasks, as --signal sends it before the time limit.
        reach(10)
        cluster.run("scancel", "--signal=TERM", job)
        wait(lambda: cluster.state(job).startswith("PENDING"), "not requeued")
        first = saved()
        assert len(first) == 2
        assert first[0] == first[1]
        # srun's own words: a line for both tasks, or one for each.
        codes = re.findall(r"tasks? .*: Exited with exit code (\d+)$", log.read_text(), re.M)
        assert set(codes) == {str(EXIT_PREEMPTED)}

        # A preemption: SLURM itself sends SIGTERM to all of the job, and requeues it.
        reach(first[0] + 20)
        cluster.run("scontrol", "requeue", job)
        wait(lambda: cluster.state(job).startswith("PENDING"), "not requeued")
        # srun gets the signal too, and may end before it has passed on what the second task said. That both had saved
        # is seen below: the run goes on from this step.
        second = saved()[2:]
        assert 1 <= len(second) <= 2
        assert len(set(second)) == 1
        assert second[0] > first[0]

        wait(lambda: cluster.state(job).startswith("COMPLETED"), "not finished")
    text = log.read_text()
    assert [int(s) for s in re.findall(r"resumed from the checkpoint of step (\d+)", text)] == [first[0], second[0]]
    assert (artifact / "manifest.json").exists()
    assert steps_in(artifact / "metrics.jsonl") == list(range(STEPS))
