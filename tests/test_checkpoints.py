"""Saves: what comes back, what stays, and that no flipped bit passes for what was saved."""

import asyncio
import dataclasses
import gc
import hashlib
import math
import os
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from running import MICRO, ROOT, devices, python

from phi_jax import config
from phi_jax.errors import UserError
from phi_jax.model import phi
from phi_jax.store.artifact import digest_of
from phi_jax.training.optimizer import make_optimizer
from phi_jax.training.step import init_state
from phi_jax.weights.checkpoints import Checkpoints, described, fingerprints

SHAPE = phi.PhiConfig(
    vocab_size=96, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2, head_dim=16, rotary_dim=8,
    max_seq_len=24,
)  # fmt: skip
GOLDEN = ROOT / "tests" / "golden"


def state_digest(state):
    """What `Checkpoints.identity` is of, for any tree."""
    return digest_of([described(state), fingerprints(state)])


@pytest.fixture(scope="module")
def state():
    return init_state(SHAPE, optax.adamw(1e-3), 0)


@pytest.fixture(scope="module")
def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def plus(state, k):
    return jax.tree.map(lambda x: x + k, state)


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory, state):
    """Steps 1 and 2, of two states."""
    directory = tmp_path_factory.mktemp("saved") / "c"
    with Checkpoints(directory, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, plus(state, step), {"step": step}, metrics={"loss": step / 2, "other": math.nan})
    return directory


# --- The fingerprint -----------------------------------------------------------------------------------------


def some_tree():
    x = jax.random.normal(jax.random.key(0), (8, 12, 6))
    return {
        "f32": x,
        "bf16": x.astype(jnp.bfloat16),
        "f16": x.astype(jnp.float16),
        "count": jnp.int32(3),
        "bool": x > 0,
    }


def expected_lanes(array):
    """The same in plain Python."""

    def mix(x):
        x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
        x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
        return x ^ (x >> 16)

    lanes = [0] * 4
    for place, bits in enumerate(array.reshape(-1).view(f"uint{8 * array.dtype.itemsize}")):
        hashed = int(bits) ^ mix(place)
        for i, lane in enumerate((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)):
            hashed = mix(hashed ^ lane)
            lanes[i] = (lanes[i] + hashed) % 2**32
    return "".join(f"{lane:08x}" for lane in lanes)


def test_the_fingerprint_is_what_its_docstring_says():
    for path, leaf in some_tree().items():
        assert fingerprints({path: leaf}) == {f"['{path}']": expected_lanes(np.asarray(leaf))}


def test_every_change_changes_it():
    x = np.zeros((3, 5), np.float32)
    others = [x.T, x[:2], x.astype(np.float16), x.copy(), x.copy(), x.copy()]
    others[3][1, 2] = -0.0
    others[4][1, 2], others[5][2, 1] = 1.0, 1.0
    digests = {state_digest({"x": other}) for other in [x, *others]}
    assert len(digests) == len(others) + 1
    assert state_digest({"y": x}) not in digests
    with pytest.raises(TypeError, match="8 bytes"):
        fingerprints({"x": np.zeros(3)})


# --- What comes back, and what stays -------------------------------------------------------------------------


def test_a_save_comes_back_bit_for_bit_with_its_record(saved, state, abstract):
    with Checkpoints(saved, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        step, restored, record = checkpoints.restore_latest(abstract)
        assert (step, record) == (2, {"step": 2})
        assert same(restored, plus(state, 2))
        assert checkpoints.metrics(1) == {"loss": 0.5, "other": None}
        assert checkpoints.identity(1) == state_digest(plus(state, 1)["params"]) != checkpoints.identity(2)
        params = checkpoints.restore_params(1, phi.abstract_params(SHAPE))
        assert same(params, jax.tree.map(np.asarray, plus(state, 1)["params"]))
        assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(params))


ON_FOUR_DEVICES = """
import sys, jax, numpy as np, optax
from jax.sharding import NamedSharding, PartitionSpec
from test_checkpoints import SHAPE, Checkpoints, init_state, some_tree, state_digest
mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
cut = lambda x: NamedSharding(mesh, PartitionSpec(*("a", "b")[: max(0, x.ndim - 1)]))
tree = some_tree()
print(state_digest(jax.device_put(tree, jax.tree.map(cut, tree))))
state = jax.eval_shape(lambda: init_state(SHAPE, optax.adamw(1e-3), 0))
abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cut(x)), state)
with Checkpoints(sys.argv[1], read_only=True) as checkpoints:
    print(state_digest(checkpoints.restore_latest(abstract)[1]))
"""


def test_on_another_mesh_digests_are_the_same(saved, state):
    done = python("-c", ON_FOUR_DEVICES, saved, cwd=ROOT / "tests", env=devices(4))
    assert done.stdout.split() == [state_digest(some_tree()), state_digest(plus(state, 2))], done.stderr


def test_the_latest_and_every_nth_stay(tmp_path, state):
    with Checkpoints(tmp_path / "c", keep=1, keep_every=3) as checkpoints:
        for step in range(1, 8):
            checkpoints.save(step, {"params": state["params"]}, {})
        checkpoints.wait()
        assert checkpoints.steps() == [3, 6, 7]


def test_a_save_at_a_preemption_is_like_any_other(saved, tmp_path, state, monkeypatch):
    """Orbax counts the time since the save before; of one that another process made it has read none."""
    monkeypatch.setattr(ocp.utils, "reached_preemption", lambda _: True)
    copy = shutil.copytree(saved, tmp_path / "c")
    with Checkpoints(copy, keep=9) as checkpoints:
        checkpoints.save(3, state, {})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2, 3]


def test_no_checkpoint_is_none(tmp_path, abstract):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore_latest(abstract) is None


@pytest.mark.parametrize("change", ["shape", "dtype", "missing", "surplus"])
def test_another_state_than_the_saved_one_is_refused_and_nothing_is_lost(saved, abstract, change):
    wanted = jax.tree.map(lambda x: x, abstract)
    head = wanted["params"]["head"]
    old = head["bias"]
    if change == "missing":
        head["extra"] = old
    elif change == "surplus":
        del wanted["optimizer"]
    else:
        shape, dtype = ((97,), old.dtype) if change == "shape" else (old.shape, jnp.bfloat16)
        head["bias"] = jax.ShapeDtypeStruct(shape, dtype, sharding=old.sharding)
    with Checkpoints(saved, keep=2) as checkpoints:
        with pytest.raises(UserError, match=r"c/2: .* is .*, not .*, which the config asks for"):
            checkpoints.restore_latest(wanted)
        assert checkpoints.steps() == [1, 2]


# --- Damage --------------------------------------------------------------------------------------------------


def files_of(save):
    return [path for path in sorted(save.rglob("*")) if path.is_file()]


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("seed", range(12))  # 200, on other meshes too: tests/acceptance/test_bit_flips.py
def test_a_flipped_bit_is_noticed_or_without_effect(saved, tmp_path, state, abstract, seed, capsys):
    """Anywhere in a save: parameters, moments, metadata, record. Half of the flips meet a file by its size."""
    copy = shutil.copytree(saved, tmp_path / "c")
    draw = random.Random(seed)
    files = files_of(copy / "2")
    sizes = [path.stat().st_size if seed % 2 else 1 for path in files]
    (hit,) = draw.choices(files, sizes)
    flip(hit, draw.randrange(8 * hit.stat().st_size))
    with Checkpoints(copy, keep=2) as checkpoints:
        step, restored, record = checkpoints.restore_latest(abstract)
        assert same(restored, plus(state, step)), hit
        assert record == {"step": step}
        assert checkpoints.steps() == list(range(1, step + 1))
    said = capsys.readouterr().err
    assert (f"warning: checkpoint {copy / '2'}: " in said) == (step == 1)


@pytest.mark.parametrize("item", ["params", "about"])
def test_a_reader_of_parameters_notices_too(saved, tmp_path, item):
    copy = shutil.copytree(saved, tmp_path / "c")
    hit = max(files_of(copy / "2" / item), key=lambda path: path.stat().st_size)
    flip(hit, 8 * (hit.stat().st_size // 2))
    with Checkpoints(copy, read_only=True) as checkpoints:
        with pytest.raises(UserError, match=r"c/2: .*damaged.* or train again"):
            checkpoints.restore_params(2, phi.abstract_params(SHAPE))
        if item == "about":
            with pytest.raises(UserError, match=r"c/2: cannot be read"):
                checkpoints.identity(2)
    hit = max(files_of(copy / "1" / "rest"), key=lambda path: path.stat().st_size)
    flip(hit, 8 * (hit.stat().st_size // 2))
    with Checkpoints(copy, read_only=True) as checkpoints:  # which moments are none of its business
        checkpoints.restore_params(1, phi.abstract_params(SHAPE))


def test_a_save_in_another_steps_place_is_not_taken_for_it(saved, tmp_path, state, abstract, capsys):
    copy = shutil.copytree(saved, tmp_path / "c")
    shutil.copytree(copy / "1", copy / "3")
    with Checkpoints(copy, keep=3) as checkpoints:
        with pytest.raises(UserError, match=r"c/3: cannot be read \(ValueError: it is the save of step 1\)"):
            checkpoints.identity(3)
        assert checkpoints.restore_latest(abstract)[0] == 2
    assert f"warning: checkpoint {copy / '3'}: cannot be read" in capsys.readouterr().err


def test_all_damaged_is_an_error_and_nothing_is_deleted(saved, tmp_path, abstract):
    copy = shutil.copytree(saved, tmp_path / "c")
    for path in files_of(copy):
        os.truncate(path, path.stat().st_size // 2)
    with Checkpoints(copy) as checkpoints, pytest.raises(UserError, match="no checkpoint can be read"):
        checkpoints.restore_latest(abstract)
    assert {p.name for p in copy.iterdir()} >= {"1", "2"}


def test_of_a_failed_save_only_what_wait_raises_is_told(tmp_path, caplog):
    async def fails(message):
        raise ValueError(message)

    def nobody_asks(message):
        loop = asyncio.new_event_loop()
        write = loop.create_task(fails(message))
        loop.run_until_complete(asyncio.wait([write]))
        loop.close()

    with Checkpoints(tmp_path / "c"), Checkpoints(tmp_path / "d"):
        caplog.clear()
    for message in ("5.orbax-checkpoint-tmp: No space left on device", "somebody else's"):
        nobody_asks(message)
        gc.collect()
    assert [r.exc_info[1].args for r in caplog.records if r.name == "asyncio"] == [("somebody else's",)]


# --- A save that is committed --------------------------------------------------------------------------------


def test_golden_checkpoint(tmp_path):
    """A save that is committed: one that cannot be read any more is a broken promise.

    Renew it, where it has to be: PHI_JAX_RENEW_GOLDEN=1 pytest.
    """
    shape = dataclasses.replace(
        SHAPE, vocab_size=8, hidden_size=4, intermediate_size=4, num_layers=1, num_heads=1, head_dim=4, rotary_dim=2
    )
    fresh = init_state(shape, make_optimizer(config.load([*MICRO, "--config.training.optimizer=adamw"]).training), 0)
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), fresh)
    if os.environ.get("PHI_JAX_RENEW_GOLDEN") == "1":
        shutil.rmtree(GOLDEN / "checkpoint", ignore_errors=True)
        with Checkpoints(GOLDEN / "checkpoint") as checkpoints:
            checkpoints.save(7, fresh, {"digest": digest(fresh)})
    # A copy: reading must not touch what the project holds.
    with Checkpoints(shutil.copytree(GOLDEN / "checkpoint", tmp_path / "c")) as checkpoints:
        step, restored, record = checkpoints.restore_latest(wanted)
    assert step == 7
    assert digest(restored) == record["digest"]


def digest(state):
    hasher = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = np.asarray(leaf)
        hasher.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}\n".encode())
        hasher.update(array.tobytes())
    return hasher.hexdigest()
