"""`phi-jax sweep --launcher slurm` on a real SLURM of two nodes on one machine, killed five times, beside `local`.

    pytest tests/acceptance/test_slurm_sweep.py

Its figures go to tests/acceptance/slurm_sweep.json.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from running import ROOT, made_in, named_identities, phi_jax, sweep_of_finetunings
from slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

RESULT = Path(__file__).with_name("slurm_sweep.json")
ONE, OTHER = "steps=80,schedule_steps=80", "steps=200,schedule_steps=200"


def test_killed_five_times_it_comes_to_what_local_comes_to(tmp_path):
    (tmp_path / "killed.py").write_text(sweep_of_finetunings(100, (80, 200)))
    sweep = ["sweep", "--config", str(tmp_path / "killed.py"), "--workdir"]
    plain, killed = tmp_path / "local", tmp_path / "slurm"
    phi_jax(*sweep, plain)
    events = []

    with SlurmCluster() as cluster:
        drivers = []

        def drive():
            log = (tmp_path / f"driver{len(drivers)}.log").open("w")
            command = [sys.executable, "-m", "phi_jax.cli", *sweep, str(killed), "--launcher", "slurm"]
            drivers.append(subprocess.Popen(command, env=cluster.env, cwd=ROOT, stdout=log, stderr=log))

        def told(number):
            return (tmp_path / f"driver{number}.log").read_text()

        def until(holds, what, seconds=300):
            deadline = time.monotonic() + seconds
            while not holds():
                if time.monotonic() > deadline:
                    logs = "\n".join(path.read_text()[-2000:] for path in tmp_path.glob("**/*log*") if path.is_file())
                    pytest.fail(f"not within {seconds} s: {what}\n{cluster.run('squeue')}\n{logs}\n{cluster.logs()}")
                time.sleep(0.1)

        def trains(point, label, step):
            """A training has gone on beyond a step, and is at work."""
            path = killed / "points" / point / f"{label}.partial" / "metrics.jsonl"
            until(lambda: path.exists() and len(path.read_text().splitlines()) > step, f"{label}: step {step}")

        def queue():
            """Number -> (state, node) of what has not ended."""
            lines = cluster.run("squeue", "-h", "-o", "%i %T %N").splitlines()
            return {words[0]: (words[1], words[2] if len(words) > 2 else "") for words in map(str.split, lines)}

        def kill_driver():
            drivers[-1].kill()
            drivers[-1].wait()
            events.append("the driver")

        def kill_node():
            node = next(node for state, node in queue().values() if state == "RUNNING")
            assert cluster.lose_power(node)
            events.append(f"node {node}")

        drive()
        trains(ONE, "pretrain/raw", 20)
        submitted = set(queue())
        assert len(submitted) == 3  # what they have in common, and what each has alone
        kill_driver()
        drive()
        kill_node()
        trains(ONE, "pretrain/raw", 50)
        assert set(queue()) == submitted
        # The process of a point.
        trains(OTHER, "finetune/raw+exercises", 20)
        (pid,) = (
            int(path.name) for path in Path("/proc").iterdir()
            if path.name.isdigit() and b"phi_jax.cli\0run" in (text := (path / "cmdline").read_bytes())
            and os.fsencode(killed / "points" / OTHER / "config.json") in text
        )  # fmt: skip
        os.kill(pid, signal.SIGKILL)
        events.append("a point")
        assert drivers[-1].wait(300) == 1
        named = f"1 of 3 jobs failed; first {OTHER}: {killed}/points/{OTHER}/log.txt: "
        assert named in told(1)
        assert (killed / "points" / ONE / "report" / "manifest.json").exists()
        drive()
        trains(OTHER, "finetune/raw+exercises", 40)
        (again,) = queue()
        cluster.run("scontrol", "requeue", again)  # as a preemption does
        until(lambda: queue()[again][0] == "PENDING", "not queued again")
        (asked,) = set(
            re.findall(r"asked to stop; step (\d+) is saved", (killed / "points" / OTHER / "log.txt").read_text())
        )
        trains(OTHER, "finetune/raw+exercises", 80)
        assert set(queue()) == {again}
        kill_node()
        kill_driver()
        drive()
        assert drivers[-1].wait(300) == 0, told(3)

    assert len(events) == 5
    # Each artifact was made once.
    logs = {name: (killed / "points" / name / "log.txt").read_text() for name in (ONE, OTHER)}
    made = Counter(made_in("".join(logs.values())))
    kept = len(list(killed.glob("store/*/*")))
    assert made.total() == kept == len(list(plain.glob("store/*/*")))
    began = Counter(re.findall(r"^(\S+): starting", "".join(logs.values()), re.M))
    assert began["pretrain/raw"] == 1
    assert began["finetune/raw+exercises"] == 2
    went_on = [int(n) for text in logs.values() for n in re.findall(r"resumed from the checkpoint of step (\d+)", text)]
    assert len(went_on) == 4  # after a node, a point, the preemption, a node; those of the driver stop nothing
    assert went_on[2] == int(asked)
    for name in (ONE, OTHER):
        one, other = (named_identities(directory / "points" / name) for directory in (plain, killed))
        assert one == other
        assert len(one) == 16
    one, other = (json.loads((directory / "report" / "report.json").read_text()) for directory in (plain, killed))
    for row in (*one["stages"], *other["stages"]):
        del row["seconds"], row["disk"]  # a training's files have times in them
    assert one == other
    figures = {
        "killed": events,
        "jobs of SLURM": len(submitted | {again}),
        "went on from step": went_on,
        "artifacts": made.total(),
        "made twice": made.total() - kept,
        "other identities than local's": 0,
    }
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
