"""Saves with one thing wrong, and what reading them may come to: one generator, for two numbers of inputs.

tests/test_fuzz_weights.py takes 200 of them, tests/acceptance/test_fuzz_checkpoints.py 10,000.
"""

import collections
import contextlib
import io
import random
import shutil

import jax
import numpy as np
from damaged_models import bounded, change_bytes, change_json, failure

from phi_jax.errors import UserError
from phi_jax.weights.checkpoints import Checkpoints


def state_of(run, step):
    rng = np.random.default_rng([run, step])
    params = {
        "a": rng.standard_normal((3, 4)).astype(np.float32),
        "b": {"c": rng.standard_normal(5).astype(np.float32)},
    }
    return {"params": params, "moments": {"m": rng.standard_normal((3, 4)).astype(np.float32)}, "step": np.int32(step)}


def make_originals(root):
    """Two runs with steps 1 and 2 each, of equal shapes."""
    for run in (0, 1):
        with Checkpoints(root / str(run), keep=2) as checkpoints:
            for step in (1, 2):
                state = jax.tree.map(jax.numpy.asarray, state_of(run, step))
                checkpoints.save(step, state, {"run": run}, metrics={"loss": run + step / 8})
    return [root / "0", root / "1"]


def damage(originals, copy, seed):
    """Changes one thing in step 2 of a copy of run 0; says what."""
    draw, step = random.Random(seed), copy / "2"
    files = [path for path in sorted(step.rglob("*")) if path.is_file()]
    path = draw.choice(files)
    how = draw.choice(["bytes"] * 4 + ["json"] * 3 + ["swap", "swap", "swap tree", "swap tree", "gone", "tree gone"])
    texts = [file for file in files if file.stat().st_size and file.read_bytes()[:1] == b"{"]
    if how == "json":
        path = draw.choice(texts)
        content, how = change_json(draw, path.read_text())
        path.write_bytes(content)
    elif how == "swap":  # with what another run or step has in its place, or another file of this one
        others = [originals[0] / "1", originals[1] / "1", originals[1] / "2"]
        there = draw.choice([other / path.relative_to(step) for other in others])
        path.write_bytes((there if there.is_file() else draw.choice(files)).read_bytes())
    elif "tree" in how:
        trees = [part for part in sorted(step.rglob("*")) if part.is_dir()]
        path = draw.choice(trees)
        if how == "swap tree":
            there = draw.choice([originals[0] / "1", originals[1] / "2"]) / path.relative_to(step)
            there = there if there.is_dir() else draw.choice(trees)
            there = shutil.copytree(there, copy / "there")
        shutil.rmtree(path)
        if how == "swap tree":
            there.rename(path)
    elif how == "gone":
        path.unlink()
    elif path.stat().st_size:
        content, how = change_bytes(draw, path.read_bytes())
        path.write_bytes(content)
    return str(path.relative_to(copy)), how


def same(found, wanted):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return jax.tree.structure(found) == jax.tree.structure(wanted) and all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs
    )


def restore(copy):
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state_of(0, 2))
    said = io.StringIO()
    with contextlib.redirect_stderr(said), Checkpoints(copy, keep=2) as checkpoints:
        assert checkpoints.steps() in ([1, 2], [1])
        step, state, record = checkpoints.restore_latest(abstract)
    assert same(state, state_of(0, step)), "another state"
    assert record == {"run": 0}, "another record"
    lines = said.getvalue().splitlines()
    assert all(line.startswith("  warning: checkpoint ") for line in lines), lines
    assert len(lines) <= 1
    return "result" if step == 2 else "the save before"


def read_params(copy):
    """As export and load_model do."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state_of(0, 2)["params"])
    with Checkpoints(copy, read_only=True) as checkpoints:
        if 2 not in checkpoints.steps():
            return "not a step"
        assert same(checkpoints.restore_params(2, abstract), state_of(0, 2)["params"]), "other parameters"
    return "result"


def read_record(copy, known):
    with Checkpoints(copy, read_only=True) as checkpoints:
        if 2 not in checkpoints.steps():
            return "not a step"
        # A record that is whole, of the same step of another run, is told by the numbers alone.
        assert (checkpoints.metrics(2), checkpoints.identity(2)) in known, "another record"
    return "result"


def try_all(originals, scratch, seeds):
    """(counts by outcome, failures) of damaged copies of the first of two runs."""
    known = []
    for original in originals:
        with Checkpoints(original, read_only=True) as checkpoints:
            known.append((checkpoints.metrics(2), checkpoints.identity(2)))
    counts, failures = collections.defaultdict(collections.Counter), []
    others = {"parameters": read_params, "record": lambda copy: read_record(copy, known)}
    for seed in seeds:
        copy = shutil.copytree(originals[0], scratch / f"c{seed}")
        file, how = damage(originals, copy, seed)
        other = list(others)[seed % 2]
        for name, read in {other: others[other], "restore": restore}.items():  # which removes what is damaged, last
            try:
                with bounded():
                    what = read(copy)
            except UserError as error:
                what = "refused" if str(copy) in str(error) and "\n" not in str(error) else f"not a line: {error}"
            except BaseException as error:
                what = failure(error)
            counts[name][what if len(what) < 20 else "failed"] += 1
            if len(what) >= 20:
                failures.append(f"seed {seed}, {file}, {how}, {name}: {what}")
        shutil.rmtree(copy)
    return counts, failures
