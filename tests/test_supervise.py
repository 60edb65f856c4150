"""The parent of each process of a run of several: how a child that could not speak is spoken for, and its exit code."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import MICRO, ROOT

from phi_jax.errors import EXIT_PEER_LOST, EXIT_PREEMPTED


@pytest.fixture
def waiting(tmp_path):
    """(parent, process id of its child): process 1 of a run whose process 0 never comes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = {**os.environ, "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    parent = subprocess.Popen(
        [sys.executable, "-m", "phi_jax.cli", "pretrain", *MICRO, "--name", "raw", "--workdir", str(tmp_path / "run"),
         "--distributed", "env"],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    yield parent, child_of(parent.pid)
    parent.kill()
    parent.communicate()


def child_of(pid):
    """The child, once jax is loaded in it: from then on it waits for process 0."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if "jaxlib" in Path(f"/proc/{child}/maps").read_text():
                return int(child)
        time.sleep(0.05)
    pytest.fail("no child came")


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGABRT, EXIT_PEER_LOST, "aborted by jax: process 0, which keeps the run together, is gone"),
        (signal.SIGKILL, 128 + signal.SIGKILL, "ended by SIGKILL (the machine may have run out of memory)"),
    ],
)
def test_how_a_child_ended_is_said_and_decides_the_exit_code(waiting, number, code, message):
    parent, child = waiting
    os.kill(child, number)
    printed, _ = parent.communicate(timeout=60)
    assert parent.returncode == code, printed
    assert message in printed
    assert "run the same command again to go on" in printed


def test_a_signal_to_the_parent_reaches_the_child(waiting):
    parent, _ = waiting
    parent.send_signal(signal.SIGTERM)
    printed, _ = parent.communicate(timeout=60)
    assert parent.returncode == EXIT_PREEMPTED, printed
    assert "asked to stop before training began; run the same command again to go on" in printed


def test_a_child_does_not_outlive_its_parent(waiting):
    parent, child = waiting
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
