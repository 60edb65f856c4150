"""200 flipped bits, anywhere in a save of a training: each is noticed or without effect. Writes bit_flips.json.

    pytest tests/acceptance/test_bit_flips.py

Half of the damaged saves are restored on the mesh that saved them, half on two others, of two fake CPU devices. Beside
the counts: how long a state with phi-1's shapes (one layer, embedding, head, both moments) takes to save, to restore
and to verify. The whole takes about 4 minutes on two cores, 4 GiB of disk and 9 GiB of memory.
"""

import collections
import contextlib
import datetime
import io
import itertools
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
FLIPS, STEP_BEFORE, STEP = 200, 1, 2
MESHES = {"as saved": (1, 1, 1), "2 data": (2, 1, 1), "2 fsdp": (1, 2, 1)}

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]


def test_every_flipped_bit_is_noticed_or_without_effect():
    done = subprocess.run(
        [sys.executable, __file__], cwd=HERE.parent.parent, capture_output=True, text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(HERE.parent.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (HERE / "bit_flips.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    assert found["failures"] == []
    assert sum(sum(outcomes.values()) for outcomes in found["flips"].values()) == FLIPS
    # Not one of the places that hold numbers was passed over.
    assert {place.split(", ")[0] for place in found["flips"]} == {"parameters", "moments", "metadata"}


# --- In a process of its own, which has two devices ----------------------------------------------------------


def kind_of(file):
    """Of a file of a save, by its path in it: Orbax keeps an item's numbers under "d", all else is metadata."""
    item = {"params": "parameters", "rest": "moments"}.get(file.parts[0], "metadata")
    return item if "d" in file.parts[1:-1] else "metadata"


def flip_bits(root):
    """(counts by kind of file and mesh -> outcome, failures)."""
    import jax
    import numpy as np
    import optax

    from phi_jax.model import phi
    from phi_jax.parallel.mesh import make_mesh
    from phi_jax.training.step import abstract_state, init_state
    from phi_jax.weights.checkpoints import Checkpoints

    shape = phi.PhiConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2, head_dim=16, rotary_dim=8,
        max_seq_len=24,
    )  # fmt: skip
    optimizer = optax.adamw(1e-3)
    fresh, rng = init_state(shape, optimizer, 0), np.random.default_rng(0)
    states = {  # moments as of a run under way: those of a fresh state are zeros, which take no room on the disk
        step: jax.tree.map(lambda x: x + jax.numpy.asarray(rng.standard_normal(x.shape) * 100, x.dtype), fresh)
        for step in (STEP_BEFORE, STEP)
    }
    with Checkpoints(root / "saved", keep=2) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state, {"step": step}, metrics={"loss": step / 2})
    wanted = {
        name: abstract_state(shape, optimizer, make_mesh(sizes, jax.devices()[: sizes[0] * sizes[1]]))
        for name, sizes in MESHES.items()
    }
    counts, failures = collections.defaultdict(collections.Counter), []
    for number in range(FLIPS):
        draw = random.Random(number)
        name = list(MESHES)[0 if number < FLIPS // 2 else 1 + number % 2]
        copy = shutil.copytree(root / "saved", root / str(number))
        # A file by its size, or any: large files hold numbers, small ones what says where the numbers are.
        files = [path for path in sorted((copy / str(STEP)).rglob("*")) if path.is_file() and path.stat().st_size]
        (hit,) = draw.choices(files, [path.stat().st_size if draw.random() < 0.5 else 1 for path in files])
        bit = draw.randrange(8 * hit.stat().st_size)
        content = bytearray(hit.read_bytes())
        content[bit // 8] ^= 1 << bit % 8
        hit.write_bytes(content)
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), Checkpoints(copy, keep=2) as checkpoints:
                step, state, record = checkpoints.restore_latest(wanted[name])
            leaves = zip(jax.tree.leaves(state), jax.tree.leaves(states[step]), strict=True)
            assert all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in leaves), "another state"
            assert record == {"step": step}, "another record"
            warned = f"warning: checkpoint {copy / str(STEP)}: " in said.getvalue()
            assert warned == (step == STEP_BEFORE), "a damaged save was not named, or an intact one was"
            outcome = "without effect" if step == STEP else "noticed, the save before taken"
        except Exception as error:
            outcome = "failed"
            failures.append(f"flip {number}, {name}, bit {bit} of {hit.relative_to(copy)}: {error}")
        counts[f"{kind_of(hit.relative_to(copy / str(STEP)))}, {name}"][outcome] += 1
        shutil.rmtree(copy)
    return counts, failures


def times(root):
    """Seconds for a state with phi-1's shapes and one layer."""
    import jax
    import optax

    from phi_jax.model import phi
    from phi_jax.parallel.mesh import make_mesh
    from phi_jax.training.step import abstract_state, fresh_state
    from phi_jax.weights.checkpoints import Checkpoints, fingerprints

    shape = phi.PhiConfig(
        vocab_size=51200, hidden_size=2048, intermediate_size=8192, num_layers=1, num_heads=32, head_dim=64,
        rotary_dim=32, max_seq_len=2048,
    )  # fmt: skip
    optimizer, mesh = optax.adamw(1e-3), make_mesh((1, 1, 1), jax.devices()[:1])
    state = jax.block_until_ready(fresh_state(shape, optimizer, mesh, 0))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    fingerprints(state)  # compiles
    clock = [time.perf_counter()]
    with Checkpoints(root / "large") as checkpoints:
        checkpoints.save(1, state, {})
        clock.append(time.perf_counter())
        checkpoints.wait()
        clock.append(time.perf_counter())
        del state
        _, state, _ = checkpoints.restore_latest(abstract_state(shape, optimizer, mesh))
        clock.append(time.perf_counter())
        fingerprints(state)
        clock.append(time.perf_counter())
    blocked, written, restored, verified = (round(b - a, 1) for a, b in itertools.pairwise(clock))
    return {
        "state_gibibytes": round(size / 2**30, 2),
        "save_seconds": round(blocked + written, 1),
        "save_blocks_the_training_seconds": blocked,
        "restore_and_verify_seconds": restored,
        "restore_seconds": round(restored - verified, 1),
        "verify_seconds": verified,
    }


def main():
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        counts, failures = flip_bits(Path(scratch))
        seconds = round(time.perf_counter() - started, 1)
        figures = times(Path(scratch))
    found = {
        "flips": counts, "failures": failures, "flips_seconds": seconds, "phi-1, 1 layer": figures,
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"load {os.getloadavg()[1]:.1f}",
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
