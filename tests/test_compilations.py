"""phi_jax/parallel/compilations.py: a second process compiles nothing, and where nothing can be kept it goes on."""

import os
import subprocess
import sys

from running import ROOT

CODE = """
import collections, sys
import jax, jax.numpy as jnp
from phi_jax.parallel import compilations
events = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name.rpartition("/")[2]]))
work = sys.argv[1]
compilations.keep_compilations(work)
print(jax.jit(lambda x: (x + 1) @ x)(jnp.ones((2, 2))).sum(), jax.jit(lambda x: x * 3)(jnp.ones(2)).sum())
print(events["cache_hits"], events["cache_misses"])
"""
RESULT = "16.0 6.0"


def run(work, **variables):
    without = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(work)],
        env={**without, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **variables},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    result, events = done.stdout.splitlines()
    assert result == RESULT
    return *map(int, events.split()), done.stderr.splitlines()


def kept(work):
    return sorted(path.name for path in work.glob(".jax_cache/*/*"))


def test_a_second_process_compiles_nothing(tmp_path):
    hits, misses, said = run(tmp_path)
    assert (hits, said) == (0, [])
    assert misses >= 2
    before = kept(tmp_path)
    assert len(before) == misses
    assert all(name.endswith("-cache") for name in before)
    assert run(tmp_path) == (misses, 0, [])
    assert kept(tmp_path) == before


def test_a_cache_that_the_user_has_chosen_goes_before(tmp_path):
    run(tmp_path / "work", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
    assert not (tmp_path / "work").exists()


def test_where_nothing_can_be_kept_it_says_so_once_and_goes_on(tmp_path):
    (tmp_path / ".jax_cache").write_text("in the way")
    hits, _, said = run(tmp_path)
    assert (hits, len(said)) == (0, 1)
    assert said[0].strip().startswith(str(tmp_path / ".jax_cache"))
    assert said[0].endswith("; what is compiled is not kept there")


def test_a_piece_that_a_kill_left_is_compiled_again(tmp_path):
    run(tmp_path)
    for path in tmp_path.glob(".jax_cache/*/*"):
        path.write_bytes(path.read_bytes()[:100])
    hits, _, said = run(tmp_path)
    assert hits == 0
    assert any("Error reading persistent compilation cache entry" in line for line in said)
