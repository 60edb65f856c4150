"""Step, optimizer and checkpoints on one device."""

import copy
import dataclasses
import functools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training_step
from etils import epath
from running import MICRO, ROOT, phi_jax
from test_checkpoints import state_digest

from phi_jax import config, graph, pipeline
from phi_jax.errors import UserError
from phi_jax.model import phi
from phi_jax.parallel.mesh import BatchCut, make_mesh
from phi_jax.store import artifact
from phi_jax.store.digests import PathDigests
from phi_jax.training import metrics
from phi_jax.training.initial_weights import initial_params
from phi_jax.training.loss import batch_loss, chunked_loss
from phi_jax.training.optimizer import learning_rate_schedule, make_optimizer
from phi_jax.training.step import init_state, make_train_step, state_shardings
from phi_jax.weights.models import load_model

SHAPE = phi.PhiConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=2,
    head_dim=16,
    rotary_dim=8,
    max_seq_len=24,
)


# Its step takes half as long to compile; what Muon does has tests of its own.
ADAMW = "--config.training.optimizer=adamw"


@pytest.fixture(scope="module")
def training():
    return with_optimizer("adamw")


def rules(microbatches=1, loss_chunk=8, skip_spike=0.0):
    return config.Config({"microbatches": microbatches, "loss_chunk": loss_chunk, "skip_spike": skip_spike})


def one_device():
    return BatchCut(make_mesh((1, 1, 1), jax.devices()[:1]))


@pytest.fixture(scope="module")
def records():
    return np.asarray(jax.random.randint(jax.random.key(1), (8, 25), 0, 96))


def trained(training, records, steps=3, microbatches=1, shape=SHAPE, chunk=8):
    optimizer, mesh = make_optimizer(training), make_mesh((1, 1, 1), jax.devices()[:1])
    step = make_train_step(shape, optimizer, mesh, rules(microbatches, chunk), seed=0)
    state = jax.device_put(init_state(shape, optimizer, 0), state_shardings(shape, optimizer, mesh))
    losses = []
    for _ in range(steps):
        state, figures = step(state, jnp.asarray(records))
        losses.append(float(figures["loss"]))
    assert step._cache_size() == 1
    return state, losses


LOOPS = """
import re, sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
from phi_jax.model import phi
from phi_jax.parallel.mesh import BatchCut, make_mesh
from phi_jax.training.step import init_state, make_train_step
import optax
sys.path.insert(0, "tests")
from test_training import rules
shape = phi.PhiConfig(vocab_size=192, hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, head_dim=8,
                      rotary_dim=4, max_seq_len=8, scan_unroll=2)
optimizer = optax.sgd(0.1)
mesh, microbatches = map(eval, sys.argv[1:])
step = make_train_step(shape, optimizer, make_mesh(mesh), rules(microbatches, 2), seed=0)
state = jax.eval_shape(lambda: init_state(shape, optimizer, 0))
text = step.lower(state, jax.ShapeDtypeStruct((16, 9), "int32")).compile().as_text()
exchanges = re.findall(r"^.* = .*(?:all-reduce|all-gather|reduce-scatter|all-to-all)\\(.*$", text, re.M)
of_the_head = [line for line in exchanges if "192" in re.findall(r"\\d+", line.split("metadata")[0])]
print(*(sum(wanted in line for line in lines) for lines in (exchanges, of_the_head) for wanted in ("", "while/body")))
"""


def exchanges(mesh, microbatches):
    """Numbers of exchanges between four devices in a compiled step: all, those in loops, the head's, those in loops."""
    # XLA warns while it compiles, which with a cache it need not do.
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        [sys.executable, "-c", LOOPS, str(mesh), str(microbatches)],
        cwd=ROOT, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "rematerialization" not in done.stderr, "rows are brought to every device"
    return map(int, done.stdout.split())


def test_the_head_is_not_exchanged_for_each_chunk_of_the_loss():
    in_all, _, of_the_head, of_the_head_in_loops = exchanges((2, 2, 1), 1)
    assert in_all > of_the_head > 0
    assert of_the_head_in_loops == 0


def test_the_data_axis_exchanges_nothing_for_each_microbatch():
    in_all, in_loops, *_ = exchanges((4, 1, 1), 4)
    assert in_all > 0
    assert in_loops == 0


@pytest.mark.parametrize("chunk", [1, 5, 8, 24, 100])
def test_chunked_loss_is_the_whole_loss(records, chunk):
    params = phi.init_params(SHAPE, jax.random.key(0))

    def whole(p):
        logits = phi.forward(p, records[:, :-1], SHAPE)
        return optax.softmax_cross_entropy_with_integer_labels(logits, records[:, 1:]).mean()

    def chunked(p):
        hidden, targets = phi.hidden_states(p, records[:, :-1], SHAPE), jnp.asarray(records[:, 1:])
        return chunked_loss(p, hidden, targets, SHAPE, chunk, one_device())

    (a, grads_a), (b, grads_b) = (jax.jit(jax.value_and_grad(loss))(params) for loss in (whole, chunked))
    assert abs(a - b) < 2e-6
    for x, y in zip(jax.tree.leaves(grads_a), jax.tree.leaves(grads_b), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-6)


def test_microbatches_change_nothing_but_rounding(training, records):
    one, losses_one = trained(training, records)
    four, losses_four = trained(training, records, microbatches=4)
    np.testing.assert_allclose(losses_one, losses_four, atol=1e-5)
    for a, b in zip(jax.tree.leaves(one["params"]), jax.tree.leaves(four["params"]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_training_learns_and_repeats_bit_for_bit(training, records):
    state, losses = trained(training, records, steps=12)
    again, losses_again = trained(training, records, steps=12)
    assert losses[-1] < losses[0] - 0.3
    assert losses == losses_again
    assert state_digest(state) == state_digest(again)


@pytest.mark.parametrize("devices", training_step.MESHES)
def test_a_step_computes_what_it_has_always_computed(devices):
    """tests/golden/training_step.json was made by commit eb91aac: bit for bit on its platform, nearly so on others."""
    golden = json.loads((ROOT / "tests" / "golden" / "training_step.json").read_text())
    done = subprocess.run(
        [sys.executable, "tests/training_step.py", str(devices)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    for mesh, made in found["meshes"].items():
        losses, wanted = ([float.fromhex(loss) for loss in x["losses"]] for x in (made, golden["meshes"][mesh]))
        np.testing.assert_allclose(losses, wanted, rtol=0, atol=2e-5, err_msg=mesh)
        if found["platform"] == golden["platform"]:
            assert made == golden["meshes"][mesh], mesh
    if found["platform"] != golden["platform"]:
        warnings.warn(f"other platform, bits not compared: {found['platform']}; not {golden['platform']}", stacklevel=1)


def test_initial_loss_is_that_of_guessing(records):
    loss = batch_loss(phi.init_params(SHAPE, jax.random.key(0)), jnp.asarray(records), SHAPE, 8, cut=one_device())
    assert abs(float(loss) - np.log(96)) < 0.1


def test_learning_rate_rises_and_falls_in_lines():
    training = config.load(
        [*MICRO, "--config.training.warmup_steps=4", "--config.training.schedule_steps=12",
         "--config.training.learning_rate=1.0"]
    ).training  # fmt: skip
    rates = [float(learning_rate_schedule(training)(i)) for i in range(13)]
    np.testing.assert_allclose(
        rates, [0.25, 0.5, 0.75, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0], atol=1e-6
    )


def with_optimizer(name, **fields):
    arguments = [f"--config.training.{field}={value}" for field, value in {"optimizer": name, **fields}.items()]
    return config.load([*MICRO, *arguments]).training


@pytest.mark.parametrize(("name", "decay"), [("adamw", 0.0), ("muon", 0.1), ("muon", 0.0)])
def test_only_matrices_decay(name, decay):
    optimizer = make_optimizer(with_optimizer(name, muon_weight_decay=decay))
    state = init_state(SHAPE, optimizer, 0)
    zeros = jax.tree.map(jnp.zeros_like, state["params"])
    updates, _ = jax.jit(optimizer.update)(zeros, state["optimizer"], jax.tree.map(jnp.ones_like, state["params"]))
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        moved_by_muon = name == "muon" and path[0].key == "layers"
        decays = path[-1].key in ("kernel", "tokens") and (decay > 0 or not moved_by_muon)
        assert bool(jnp.any(update != 0)) == decays, path


def test_muon_moves_the_kernels_of_the_blocks_and_adamw_the_rest():
    """A first step is each layer's gradient with its singular values made equal, of the size that the paper of
    Moonlight gives; everything else moves as with AdamW alone, bit for bit.
    """
    rate = 0.5
    muon = make_optimizer(with_optimizer("muon", muon_learning_rate=rate, warmup_steps=1))
    adamw = make_optimizer(with_optimizer("adamw", warmup_steps=1))
    params = phi.init_params(SHAPE, jax.random.key(0))
    grads = jax.tree.map(lambda x: 1e-3 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    found, plain = (jax.jit(o.update)(grads, o.init(params), params)[0] for o in (muon, adamw))
    inputs = {"q": 1, "k": 1, "v": 1, "out": 2, "fc1": 1, "fc2": 1}  # axes that a product with the kernel sums over
    matrices = 0
    for path, update in jax.tree_util.tree_leaves_with_path(found):
        *above, owner, last = (key.key for key in path)
        if "layers" not in above or last != "kernel":
            np.testing.assert_array_equal(update, functools.reduce(lambda tree, key: tree[key.key], path, plain))
            continue
        gradient = functools.reduce(lambda tree, key: tree[key.key], path, grads)
        for step, wanted in zip(update, gradient, strict=True):
            sums = math.prod(step.shape[: inputs[owner]])
            left, _, right = np.linalg.svd(np.reshape(wanted, (sums, -1)), full_matrices=False)
            size = 0.2 * max(sums, step.size // sums) ** 0.5
            turned = left.T @ np.reshape(step, (sums, -1)) @ right.T / (-rate * size)
            values = np.diag(turned)
            assert np.abs(turned - np.diag(values)).max() < 1e-3, path
            # Five steps bring all but the smallest near 1.
            assert 0.6 < np.median(values) <= values.max() < 1.3, path
            matrices += 1
    assert matrices == 6 * SHAPE.num_layers


def test_gradients_are_clipped_to_the_norm(training, records):
    optimizer = make_optimizer(training)
    params = phi.init_params(SHAPE, jax.random.key(0))
    huge = jax.tree.map(lambda x: jnp.full_like(x, 1e6), params)
    clipped, _ = optax.clip_by_global_norm(training.clip_norm).update(huge, optax.EmptyState())
    assert abs(float(optax.global_norm(clipped)) - training.clip_norm) < 1e-3
    a, _ = optimizer.update(huge, optimizer.init(params), params)
    b, _ = optimizer.update(clipped, optimizer.init(params), params)
    np.testing.assert_allclose(a["head"]["kernel"], b["head"]["kernel"], rtol=1e-5)


def test_a_mesh_that_does_not_fit_the_devices_is_named():
    for shape in ((3, 1, 1), (-1, 3, 1), (-1, -1, 1), (1, 1), (0, 1, 1)):
        with pytest.raises(UserError, match=rf"mesh={re.escape(str(shape))}.* is 1 here \(cpu\)"):
            make_mesh(shape, jax.devices()[:1])


@dataclasses.dataclass(frozen=True)
class Chip:
    """What jax tells of a device of a slice, as far as a mesh is made from it."""

    id: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "H100"
    process_index: int = 0


def test_the_data_axis_runs_across_slices_and_the_others_stay_inside_one():
    chips = [Chip(i, slice_index=i % 2) for i in range(8)]
    mesh = make_mesh((-1, 2, 1), chips)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    for row in mesh.devices:
        assert len({chip.slice_index for chip in row.flat}) == 1
    assert {chip.slice_index for chip in mesh.devices[:, 0, 0]} == {0, 1}
    with pytest.raises(UserError, match="2 slices; make it a multiple of 2"):
        make_mesh((1, 8, 1), chips)


# --- Finetuning ----------------------------------------------------------------------------------------------


def weights(workdir, label):
    """The digest of the weights that a training hands on."""
    return state_digest(load_model(workdir / label)[0])


def test_finetuning_starts_from_the_weights_it_is_given(micro_run, tmp_path):
    workdir = shutil.copytree(micro_run, tmp_path / "run")
    done = phi_jax("finetune", *MICRO, "--config.finetune.steps=1", "--config.finetune.learning_rate=1e-30",
                   "--config.finetune.muon_learning_rate=1e-30",
                   "--config.models.finetuned.select=latest", "--name", "finetuned", "--workdir", workdir)  # fmt: skip
    assert "finetune/finetuned: starts from the weights of pretrain/base, step 24" in done.stderr
    assert weights(workdir, "finetune/finetuned") == weights(workdir, "pretrain/base")
    assert weights(micro_run, "finetune/finetuned") != weights(micro_run, "pretrain/base")


def test_tokens_of_another_tokenizer_are_refused(micro_run, abstract):
    tokens = copy.deepcopy(artifact.find(micro_run, "tokenize", "grammar.exercises"))
    tokens.manifest["outputs"]["tokenizer"]["sha256"] = "0" * 64
    with pytest.raises(UserError, match=r"grammar.exercises: its tokenizer is not the one .*pretrain/base.*again"):
        initial_params(str(micro_run / "pretrain" / "base"), abstract["params"], tokens)


def test_training_starts_from_an_imported_model(micro_run, tmp_path):
    """A Hugging Face directory, as `initial_checkpoint`: with next to no learning rate its weights come out."""
    workdir = tmp_path / "run"
    shutil.copytree(micro_run / "tokenize" / "raw", workdir / "tokenize" / "raw")
    model = micro_run / "export" / "base" / "model"
    done = phi_jax("pretrain", *MICRO, ADAMW, "--config.training.steps=1", "--config.training.learning_rate=1e-30",
                   f"--config.training.initial_checkpoint={model}", "--name", "raw", "--workdir", workdir)  # fmt: skip
    assert f"starts from the weights of {model}" in done.stderr
    assert weights(workdir, "pretrain/raw") == weights(micro_run, "pretrain/base")


def test_a_step_is_sent_nothing_that_was_not_placed_on_the_devices(micro_run, tmp_path, monkeypatch):
    """Rows that are still on the host would go to the devices in each step, while they wait."""
    workdir = tmp_path / "run"
    shutil.copytree(micro_run / "tokenize" / "raw", workdir / "tokenize" / "raw")
    monkeypatch.setattr("phi_jax.training.data.Data.place", lambda data, tokens: tokens)
    made = functools.partial(jax.jit, lambda state, tokens: (state, {"loss": tokens.sum()}))  # compiled in no time
    monkeypatch.setattr("phi_jax.training.loop.make_train_step", lambda *arguments, **more: made())
    chosen = config.load([*MICRO, "--config.training.mesh=(1, -1, 1)"])
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        pipeline.run(chosen, workdir, only=graph.select(chosen, "pretrain", "raw"))


def test_the_rate_counts_from_the_end_of_the_first_step(micro_run, tmp_path, monkeypatch):
    """The compilation before it would be in the first estimates of the time left."""
    workdir, opened = tmp_path / "run", []
    shutil.copytree(micro_run / "tokenize" / "raw", workdir / "tokenize" / "raw")
    written = workdir / "pretrain" / "raw.partial" / "metrics.jsonl"

    class Seen(metrics.Progress):
        def __init__(self, label, total, unit, start):
            opened.append((len(written.read_text().splitlines()), start, total))
            super().__init__(label, total, unit, start=start)

    monkeypatch.setattr(metrics, "Progress", Seen)
    chosen = config.load([*MICRO, ADAMW])
    pipeline.run(chosen, workdir, only=graph.select(chosen, "pretrain", "raw"))
    ((records, start, total),) = opened
    assert (records, 24 * start) == (1, total)


def test_saves_of_another_run_are_not_gone_on_from(micro_run, tmp_path):
    workdir, arguments = tmp_path / "run", [*MICRO, "--config.seed=7"]
    shutil.copytree(micro_run / "tokenize" / "raw", workdir / "tokenize" / "raw")
    other = config.load(arguments)
    (stage,) = graph.select(other, "pretrain", "raw")
    pipeline._open_stage(stage, other, epath.Path(workdir), PathDigests(workdir), again=False)
    shutil.copytree(
        micro_run / "pretrain" / "raw" / "checkpoints", workdir / "pretrain" / "raw.partial" / "checkpoints"
    )
    done = phi_jax("pretrain", *arguments, "--name", "raw", "--workdir", workdir, check=False)
    assert re.search(r"error: pretrain/raw: .* holds step 24 of another run; put back", done.stderr)


def test_an_imported_model_of_another_shape_is_refused(micro_run, abstract):
    with pytest.raises(UserError, match=r"config.training.initial_checkpoint: .* is of shape"):
        initial_params(str(micro_run / "export" / "base" / "model"), abstract["params"], None)


@pytest.fixture
def state(training):
    return init_state(SHAPE, make_optimizer(training), 0)


@pytest.fixture
def abstract(state, training):
    shardings = state_shardings(SHAPE, make_optimizer(training), make_mesh((1, 1, 1), jax.devices()[:1]))
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)
