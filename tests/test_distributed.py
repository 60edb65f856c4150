"""Training in several real processes: the same losses, a stop that all agree on, peers that die or hang."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from running import MICRO, Python, identities, made_in, phi_jax
from test_faults import figures, start

from phi_jax.errors import EXIT_FAILED, EXIT_PEER_LOST, EXIT_PREEMPTED
from phi_jax.store import artifact

# A fifth of micro's learning rate. With micro's own, sixty steps magnified float32's rounding (sums in another order)
# past the bounds below on some corpora, and the corpus is what a machine has installed.
CONFIG = [
    *MICRO, "--config.training.cpu_devices=1", "--config.training.steps=30",
    "--config.training.schedule_steps=30", "--config.training.peer_timeout=8",
    "--config.training.learning_rate=1e-3",
]  # fmt: skip


class Process:
    """One process of a run; reads along what it prints."""

    def __init__(self, command, env):
        self.lines = Path(env["LOG"])
        with open(self.lines, "w") as log:
            self.popen = Python(*command, env=env, stdout=log, stderr=log, start_new_session=True)

    def log(self):
        return self.lines.read_text()

    def wait(self, seconds=240):
        return self.popen.wait(seconds)

    def signal(self, number):
        """To the process and its child, as a scheduler would."""
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.killpg(self.popen.pid, number)


def launch(count, scratch, *command, last=(), **env):
    """`count` processes of `python COMMAND`, told of each other; the last has the arguments `last` too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scratch.mkdir(parents=True, exist_ok=True)
    base = {**os.environ, **env, "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(count)}
    return [
        Process(
            [*command, *(last if i == count - 1 else ())],
            {**base, "JAX_PROCESS_ID": str(i), "LOG": str(scratch / f"{time.monotonic_ns()}-{i}.log")},
        )
        for i in range(count)
    ]


def train(count, workdir, config=CONFIG, last=()):
    return launch(
        count, workdir / "logs", "-m", "phi_jax.cli", "pretrain", *config, "--name", "raw", "--workdir", str(workdir),
        "--distributed", "env", last=last,
    )  # fmt: skip


def reach(workdir, step, processes, seconds=240):
    """Waits until metrics.jsonl tells of `step`."""
    path = workdir / "pretrain" / "raw.partial" / "metrics.jsonl"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if path.exists() and f'{{"step": {step},' in path.read_text():
            return
        assert all(p.popen.poll() is None for p in processes), [p.log() for p in processes]
        time.sleep(0.02)
    pytest.fail(f"step {step} was not reached\n" + "\n".join(p.log() for p in processes))


def stop_at(step, processes, workdir):
    """SIGTERM to one process once `step` is written; all save and end with their code."""
    reach(workdir, step, processes)
    processes[-1].signal(signal.SIGTERM)
    assert [p.wait() for p in processes] == [EXIT_PREEMPTED] * len(processes), [p.log() for p in processes]


@pytest.fixture(scope="module")
def control(micro_run, tmp_path_factory):
    """The run in one process, on one device."""
    workdir = start(micro_run, tmp_path_factory.mktemp("control") / "run")
    phi_jax("pretrain", *CONFIG, "--name", "raw", "--workdir", workdir)
    return workdir


def assert_same_losses(workdir, control):
    found, wanted = figures(workdir), figures(control)
    assert [f["step"] for f in found] == [f["step"] for f in wanted]
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose([f[name] for f in found], [f[name] for f in wanted], rtol=0, atol=1e-5)


@pytest.mark.timeout(1800)
def test_lost_stopped_and_gone_on_with_two_and_one(micro_run, tmp_path):
    """Two processes, of which one is lost, then both stopped, come to the same bits as two that nothing disturbs; one
    that goes on instead, to the same losses.
    """
    quiet = start(micro_run, tmp_path / "quiet")
    two = train(2, quiet)
    assert [p.wait() for p in two] == [0, 0], [p.log() for p in two]
    # What was written once is the leader's: the other process says nothing of the run.
    assert made_in(two[0].log())
    assert "mesh" not in two[1].log()

    workdir = start(micro_run, tmp_path / "run")
    two = train(2, workdir)
    reach(workdir, 9, two)  # one is saved: of step 8
    lose(1, signal.SIGKILL, two)
    two = train(2, workdir)
    stop_at(13, two, workdir)  # the one that is sent SIGTERM takes the other along
    steps = [re.search(r"asked to stop; step (\d+) is saved", p.log())[1] for p in two]
    assert steps[0] == steps[1]
    alone = shutil.copytree(workdir, tmp_path / "alone")

    two = train(2, workdir)
    assert [p.wait() for p in two] == [0, 0], [p.log() for p in two]
    assert identities(workdir)["pretrain/raw"] == identities(quiet)["pretrain/raw"]
    assert figures(workdir) == figures(quiet)
    (one,) = train(1, alone)
    assert one.wait() == 0, one.log()
    assert f"resumed from the checkpoint of step {steps[0]}" in one.log()
    assert_same_losses(alone, quiet)


def lose(victim, number, processes):
    """Sends a signal to one of two processes; the other says which one is gone, and ends."""
    processes[victim].signal(number)
    sent = time.monotonic()
    other = processes[1 - victim]
    assert other.wait(60) == EXIT_PEER_LOST, other.log()
    assert time.monotonic() - sent < 60
    assert re.search(rf"process {victim}\b.*(gone|no heartbeat|not answered)", other.log()), other.log()
    assert "run the same command again to go on" in other.log()
    processes[victim].signal(signal.SIGKILL)
    processes[victim].wait()


ROWS = """
import json, sys
from pathlib import Path
from phi_jax.parallel import processes
processes.set_cpu_devices(1)
processes.connect("env")
from phi_jax.parallel.mesh import local_rows, make_mesh
from phi_jax.tokens.batches import TokenBatches
rows = local_rows(make_mesh((-1, 1, 1)), 4)
batches = TokenBatches({Path(sys.argv[1]): 1.0}, split="train", global_batch_size=4, seed=0, rows=rows)
print(json.dumps([rows, [batches.batch(step)[1].tolist() for step in (0, 7)]]))
"""


def test_each_process_reads_only_its_rows(micro_run, tmp_path):
    from phi_jax.tokens.batches import TokenBatches

    directory = Path(artifact.find(micro_run, "tokenize", "raw").path("tokens"))
    processes = launch(2, tmp_path, "-c", ROWS, str(directory))
    assert [p.wait() for p in processes] == [0, 0], [p.log() for p in processes]
    found = [json.loads(p.log().splitlines()[-1]) for p in processes]
    assert [rows for rows, _ in found] == [[0, 1], [2, 3]]
    whole = TokenBatches({directory: 1.0}, split="train", global_batch_size=4, seed=0)
    for i, step in enumerate((0, 7)):
        assert [number for _, numbers in found for number in numbers[i]] == whole.record_numbers(step)


# --- Peers that die or hang ----------------------------------------------------------------------------------


ACCEPTANCE = pytest.mark.acceptance  # the rest of these four, by hand


@pytest.mark.parametrize(
    ("victim", "number"),
    [
        (0, signal.SIGSTOP),  # (1, SIGKILL): above
        pytest.param(0, signal.SIGKILL, marks=ACCEPTANCE),
        pytest.param(1, signal.SIGSTOP, marks=ACCEPTANCE),
    ],
)
def test_a_lost_process_is_named(micro_run, tmp_path, victim, number):
    workdir = start(micro_run, tmp_path / "run")
    processes = train(2, workdir)
    reach(workdir, 10, processes)
    lose(victim, number, processes)


def test_sigterm_before_the_first_step_ends_all(micro_run, tmp_path):
    """In the compile there is nothing to save yet; the process that was not asked leaves too."""
    workdir = start(micro_run, tmp_path / "run")
    processes = train(2, workdir, [*CONFIG, "--config.model.num_layers=16", "--config.model.scan_unroll=16"])
    deadline = time.monotonic() + 240
    while "mesh" not in processes[0].log() and time.monotonic() < deadline:
        time.sleep(0.02)
    processes[1].signal(signal.SIGTERM)
    assert [p.wait(60) for p in processes] == [EXIT_PREEMPTED] * 2, [p.log() for p in processes]


def test_an_error_of_one_process_is_the_end_of_all_and_not_taken_for_a_lost_peer(micro_run, tmp_path):
    """One has another mesh than the other. Starting again would not help, so no launcher may be told to."""
    workdir = start(micro_run, tmp_path / "run")
    right, wrong = train(2, workdir, last=["--config.training.mesh=(1, -1, 1)"])
    assert [p.wait(60) for p in (right, wrong)] == [EXIT_FAILED] * 2, right.log() + wrong.log()
    assert "error: pretrain/raw: process 1 has another config" in wrong.log()
    assert "pretrain/raw: process 0: process 1 failed: pretrain/raw: process 1 has another config" in right.log()
    assert "again to go on" not in right.log() + wrong.log()


# --- Mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "--distributed", "slurm"], "--distributed slurm: SLURM_JOB_ID"),
        (["finetune", "--distributed", "env"], "--distributed env: JAX_COORDINATOR_ADDRESS"),
    ],
)
def test_an_environment_of_another_kind_is_named(tmp_path, arguments, message):
    done = phi_jax(*arguments, *MICRO, "--workdir", tmp_path / "run", check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# --- Four processes, by hand ---------------------------------------------------------------------------------


@pytest.mark.acceptance
def test_four_processes_killed_and_gone_on_with_one_then_two(micro_run, control, tmp_path):
    workdir = start(micro_run, tmp_path / "run")
    four = train(4, workdir)
    reach(workdir, 20, four)
    for process in four:
        process.signal(signal.SIGKILL)
    for process in four:
        process.wait()
    one = train(1, workdir)
    stop_at(30, one, workdir)
    two = train(2, workdir)
    assert [p.wait() for p in two] == [0, 0], [p.log() for p in two]
    assert_same_losses(workdir, control)
