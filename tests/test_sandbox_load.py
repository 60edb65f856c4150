"""A busy machine changes no verdict. tests/acceptance/test_sandbox_stress.py shows it on benchmarks."""

import multiprocessing
import os
import sys

import pytest

from phi_jax.sandbox import Limits, Program, Sandbox, support

CONFINEMENT = "none" if support().missing else "full"
WORKING = """
import time
def f(seconds):
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass
    return "right"
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's clocks and affinities")


def _burn():
    while True:
        pass


@pytest.fixture
def busy_core():
    """One core for this process and all it starts from now on, six others of which use it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    burning = [multiprocessing.get_context("fork").Process(target=_burn, daemon=True) for _ in range(6)]
    for process in burning:
        process.start()
    yield
    for process in burning:
        process.kill()
        process.join()
    os.sched_setaffinity(0, before)


def verdict(seconds, limits):
    with Sandbox(limits=limits, confinement=CONFINEMENT) as sandbox:
        (found,) = sandbox.run([Program(WORKING, f"assert f({seconds}) == 'right'", "f")])
    return found


def test_waiting_for_a_core_is_not_the_programs(busy_core):
    assert verdict(0.9, Limits(wall_seconds=1, cpu_seconds=5)).passed


def test_the_limit_of_cpu_time_is_exact(busy_core):
    assert verdict(0.3, Limits(cpu_seconds=0.5)).passed
    assert verdict(0.7, Limits(cpu_seconds=0.5)).result == "timed out"


def test_sleeping_is_the_programs_own():
    with Sandbox(limits=Limits(wall_seconds=1), confinement=CONFINEMENT) as sandbox:
        source = "import time\ndef f(x):\n    time.sleep(3)\n    return x"
        (found,) = sandbox.run([Program(source, "assert f(1) == 1", "f")])
    assert found.result == "timed out"
