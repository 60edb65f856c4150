"""A real SLURM of two nodes: launch/slurm stopped, preempted, requeued each time, and finished; and a sweep's jobs."""

import dataclasses
import json
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
from running import MICRO, ROOT, made_in, named_identities
from slurm_cluster import SlurmCluster

from phi_jax.errors import EXIT_PREEMPTED, UserError
from phi_jax.store.digests import PathDigests
from phi_jax.sweeps import jobs, local, points, slurm

STEPS = 60


def interrupted(_):
    """What Ctrl-C does to a sleep; the signal itself is ignored in what a shell starts in the background."""
    raise KeyboardInterrupt


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
                time.sleep(0.3)  # each look is a process, beside the two that train

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
        reach(first[0] + 8)
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


SWEEP = f'''
def get_points(h):
    return h.product(
        h.point("", {{"config": "{ROOT}/configs/nano.py:size=micro", "models.base": None, "models.finetuned": None,
                     "models.raw+exercises": None, "collect.max_files": 60}}),
        h.sweep("tokenize.vocab_size", (300, 320)),
    )
'''
DATA = ("synthesize", "collect", "dedup", "decontaminate", "tokenize")


@pytest.mark.system
def test_the_jobs_of_a_sweep_come_to_what_local_comes_to(tmp_path, monkeypatch):
    """The stages before training; tests/acceptance/test_slurm_sweep.py has all of them, and kills."""
    (tmp_path / "sizes.py").write_text(SWEEP)
    sweep = points.load(["--config", str(tmp_path / "sizes.py")], "micro")
    one, other = sweep.points
    plain, directory = tmp_path / "local", tmp_path / "slurm"
    todo = [
        dataclasses.replace(job, stages={k: v for k, v in job.stages.items() if k.partition("/")[0] in DATA})
        for job in jobs.jobs_of(sweep, PathDigests(None))
    ]
    assert [job.points for job in todo] == [(one, other), (one,), (other,)]
    for place in (plain, directory):
        jobs.write_configs(place, sweep.points)
    local.run(plain, todo, 1)
    monkeypatch.setattr(slurm, "_LOOK_SECONDS", 0.5)
    in_the_way = directory / "points" / other / "tokenize"
    in_the_way.touch()

    with SlurmCluster() as cluster:
        for name in ("PATH", "SLURM_CONF"):
            monkeypatch.setenv(name, cluster.env[name])
        with monkeypatch.context() as refused:
            refused.setenv("SBATCH_PARTITION", "nowhere")
            with pytest.raises(UserError, match=r"^sbatch: .*invalid partition"):
                slurm.run(directory, todo)
        # Killed once all is submitted, and started again: it waits for the same.
        with monkeypatch.context() as dying:
            dying.setattr(slurm.time, "sleep", interrupted)
            with pytest.raises(KeyboardInterrupt):
                slurm.run(directory, todo)
        submitted = slurm._queued()
        assert len(submitted) == 3
        with pytest.raises(UserError) as failed:
            slurm.run(directory, todo)
        assert f"1 of 3 jobs failed; first {other}: {in_the_way.parent}/log.txt: phi-jax: error: " in str(failed.value)
        in_the_way.unlink()
        slurm.run(directory, todo)
        assert not slurm._queued()
        numbers = cluster.run("squeue", "-h", "--states=all", "-o", "%i").split()
        assert len(numbers) == 4  # of the three only the one that failed was submitted again
    made = made_in("".join(p.read_text() for p in directory.glob("points/*/log.txt")))
    assert len(made) == len(list(directory.glob("store/*/*")))
    for name in (one, other):
        assert named_identities(directory / "points" / name) == named_identities(plain / "points" / name)
    assert {label for job in todo for label in job.stages} == {*named_identities(directory / "points" / one)}
