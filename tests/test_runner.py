"""`--runner ray` where there is no Ray, or no cluster; tests/system/test_ray.py has one."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from running import MICRO, ROOT, phi_jax

from phi_jax.errors import UserError
from phi_jax.store import cores


def run_with(tmp_path, module, **env):
    """The error of a run that finds this file for Ray; nothing is made."""
    (tmp_path / "ray.py").write_text(module)
    words = [*MICRO, "--workdir", str(tmp_path / "w"), "--runner", "ray"]
    done = subprocess.run(
        [sys.executable, "-m", "phi_jax.cli", "run", *words], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, **env, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert not (tmp_path / "w").exists()
    return done.stderr.strip()


def test_without_ray_the_install_line_is_given(tmp_path):
    line = run_with(tmp_path, "raise ImportError('no Ray')")
    assert line.endswith("--runner ray: Ray is not installed; pip install 'phi-jax[ray]'")


def test_a_cluster_that_is_not_there_is_named(tmp_path):
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        line = run_with(tmp_path, "", RAY_ADDRESS=address)
    assert f"RAY_ADDRESS={address}: no cluster (" in line
    assert "Connection refused" in line
    assert "name one that runs" in line


def test_help_says_what_the_nodes_must_share():
    for command in ("run", "collect", "dedup", "decontaminate", "annotate", "tokenize"):
        assert "RAY_ADDRESS" in phi_jax(command, "--help").stdout


class Gone(Exception):
    """Of a task whose workers died."""


class Refused(Gone):
    """Of a task that raised an error, which Ray wraps."""

    def __init__(self, cause):
        super().__init__("a traceback\nof many lines")
        self.cause = cause


def stand_in(handed_out):
    """Ray's five names that `spread` calls. handed_out: how many tasks were out at a time."""
    out = set()

    def remote(function):
        def hand_out(item):
            out.add(item)
            handed_out.append(len(out))
            return function, item

        return SimpleNamespace(remote=hand_out)

    def get(reference):
        function, item = reference
        out.discard(item)
        try:
            return function(item)
        except UserError as error:
            raise Refused(error) from None

    return SimpleNamespace(
        remote=remote, get=get, cluster_resources=lambda: {"CPU": 3.0}, exceptions=SimpleNamespace(RayError=Gone)
    )


def square(item):
    if item == 50:
        raise UserError("item 50: is bad; mend it")
    if item == 60:
        raise Gone("killed\nthree times")
    return item * item


def test_few_tasks_are_handed_out_at_a_time_and_results_come_in_order(tmp_path, monkeypatch):
    handed_out = []
    monkeypatch.setattr(cores, "_ray", stand_in(handed_out))
    monkeypatch.setattr(cores, "_workdir", tmp_path, raising=False)
    assert list(cores.spread(square, range(40), 3, label="x")) == [n * n for n in range(40)]
    assert len(handed_out) == 40
    assert max(handed_out) == 6
    with pytest.raises(UserError, match=r"^item 50: is bad; mend it$"):
        list(cores.spread(square, range(45, 55), 3, label="x"))
    with pytest.raises(UserError, match=r"^x: its workers died \(killed three times\).*run the command again"):
        list(cores.spread(square, range(55, 65), 3, label="x"))
