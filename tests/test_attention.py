"""The attention kernels beside plain NumPy, document masks, and what is refused."""

import dataclasses
import functools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_reference import LENGTH, STARTS, draw, largest_errors, outputs_and_gradients, segments_from
from hypothesis import given, settings
from hypothesis import strategies as st
from running import devices, python

from phi_jax.errors import UserError
from phi_jax.model import attention, phi
from phi_jax.model.attention import attend, attend_cudnn, attend_splash, causal_mask, check_kernel_on, segments_of
from phi_jax.model.embed import embed
from phi_jax.parallel.mesh import BatchCut, make_mesh
from phi_jax.parallel.sampler import Request, Sampler
from phi_jax.parallel.sharded_attention import sharded_attention

SMALL = phi.PhiConfig(
    vocab_size=31,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=2,
    head_dim=8,
    rotary_dim=4,
    max_seq_len=128,
)
END = 0  # the end-of-text token
# Errors as shares of the largest value; inputs are rounded to the dtype before either side sees them.
TOLERANCES = {"float32": 3e-6, "bfloat16": 1.5e-2}


def xla(q, k, v, segments):
    return attend(q, k, v, causal_mask(q.shape[1], segments))


interpreted_splash = functools.partial(attend_splash, interpret=True)


def interpret():
    """Has this process run splash in Pallas' interpreter, on whatever devices there are."""
    attention.FUSED["splash"] = interpreted_splash
    attention._PLATFORMS["splash"] = ("cpu",)


KERNELS = {"xla": xla, "splash": interpreted_splash}
JITTED = {name: jax.jit(kernel) for name, kernel in KERNELS.items()}
forward = jax.jit(phi.forward, static_argnames=("config", "attend"))


@pytest.fixture(scope="module")
def params():
    leaves, tree = jax.tree.flatten(phi.abstract_params(SMALL))
    rng = np.random.default_rng(0)
    return tree.unflatten([jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32) for x in leaves])


# --- Kernels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("documents", [False, True], ids=["whole", "documents"])
@pytest.mark.parametrize(("head_dim", "dtype"), [(64, "float32"), (80, "bfloat16")])
@pytest.mark.parametrize("kernel", KERNELS)
def test_outputs_and_gradients_equal_numpys(kernel, head_dim, dtype, documents):
    segments = segments_from(STARTS, LENGTH) if documents else None
    errors = largest_errors(KERNELS[kernel], draw(head_dim, dtype), segments)
    assert max(errors.values()) < TOLERANCES[dtype], errors


def test_splash_in_its_largest_blocks_equals_numpy():
    """At phi-1's length: two blocks, of whose keys half are multiplied at once."""
    inputs = draw(64, "float32", batch=1, length=2048, heads=1)
    errors = largest_errors(interpreted_splash, inputs, segments_from(((0, 700, 1024, 1300),), 2048))
    assert max(errors.values()) < TOLERANCES["float32"], errors


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_result_has_the_dtype_of_its_inputs(kernel):
    q, k, v, _ = draw(16, "bfloat16", batch=1, length=128)
    result = jax.eval_shape(KERNELS[kernel], q, k, v, None)
    assert (result.shape, result.dtype) == (q.shape, q.dtype)


@settings(deadline=None, max_examples=10)
@given(starts=st.sets(st.integers(1, 127), min_size=1, max_size=6), which=st.integers(0, 6), seed=st.integers(0, 9))
@pytest.mark.parametrize("kernel", KERNELS)
def test_no_document_depends_on_another(kernel, starts, which, seed):
    segments = segments_from([{0, *starts}], 128)
    own = segments[0] == which % (len(starts) + 1)
    inputs = draw(8, "float32", batch=1, length=128, seed=seed)[:3]
    others = [jnp.where(own[None, :, None, None], a, b) for a, b in zip(inputs, inputs[::-1], strict=True)]
    before, after = (np.asarray(JITTED[kernel](*x, segments)) for x in (inputs, others))
    np.testing.assert_array_equal(before[:, own], after[:, own])
    assert not np.array_equal(before[:, ~own], after[:, ~own])


def test_cudnn_lowers_to_cudnns_kernels_and_nothing_else(monkeypatch):
    """Compiled for a GPU that is not here: with a document mask too, no softmax is left to XLA."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    inputs = draw(64, "bfloat16", length=128)
    for segments, call in ((None, "fmhaSoftmax"), (segments_from(((0, 5), (0, 127)), 128), "fmhaScaleBiasSoftmax")):
        run = jax.jit(lambda *x, segments=segments: outputs_and_gradients(attend_cudnn, *x, segments))
        text = run.trace(*inputs).lower(lowering_platforms=("cuda",)).as_text()
        assert re.findall(r"custom_call @__cudnn\$(\w+)", text) == [call, f"{call}Backward"]
        assert text.count("CAUSAL") == 2
        assert not re.search(r"stablehlo\.(dot_general|exponential)", text)


# --- Documents -----------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 2), min_size=9, max_size=9), min_size=1, max_size=3))
@settings(deadline=None)
def test_a_document_ends_with_its_end_of_text_token(rows):
    segments = segments_of(jnp.array(rows), END)
    assert segments.dtype == jnp.int32
    assert segments.tolist() == [[row[:i].count(END) for i in range(len(row))] for row in rows]


def test_documents_of_a_record_are_computed_as_if_apart(params):
    rng = np.random.default_rng(1)
    lengths = (6, 1, 10)
    apart = np.stack([np.append(rng.integers(1, 31, n - 1), [END] * (11 - n)) for n in lengths])  # filled up behind
    record = np.concatenate([row[:n] for row, n in zip(apart, lengths, strict=True)])[None]
    together = forward(params, record, SMALL, segments_BxT=segments_of(record, END))
    alone = zip(forward(params, apart, SMALL), lengths, strict=True)
    np.testing.assert_allclose(together[0], jnp.concatenate([x[:n] for x, n in alone]), rtol=0, atol=1e-4)
    as_one = forward(params, record, SMALL, segments_BxT=jnp.zeros_like(record))
    assert float(jnp.abs(together - as_one).max()) > 0.1


def test_a_model_has_the_same_loss_and_gradients_with_either_kernel(params):
    tokens = np.random.default_rng(2).integers(0, 31, (2, 128))
    config = dataclasses.replace(SMALL, remat="full", residual_dropout=0.1)

    def loss(p, config, attend):
        logits = phi.forward(
            p,
            tokens,
            config,
            segments_BxT=segments_of(tokens, END),
            attend=attend,
            dropout_keys_B=jax.random.split(jax.random.key(0), len(tokens)),
        )
        return jax.nn.logsumexp(logits, axis=-1).mean()

    step = jax.jit(jax.value_and_grad(loss), static_argnums=(1, 2))
    expected = step(params, config, None)
    got = step(params, dataclasses.replace(config, attention="splash"), interpreted_splash)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1.0, float(jnp.abs(b).max())))


@pytest.mark.parametrize("change", [{"attention": "splash"}, {"attention": "cudnn", "compute_dtype": "bfloat16"}])
def test_a_model_trained_with_a_fused_kernel_is_sampled_and_embedded_anywhere(params, change):
    trained = dataclasses.replace(SMALL, **change)
    plain = dataclasses.replace(trained, attention="xla")
    tokens = np.random.default_rng(3).integers(0, 31, (2, 11))
    lengths = np.array([11, 4])

    def decoded(config):
        decoder = Sampler(params, config, end_of_text_id=31, max_new_tokens=8, slots=2)
        return dict(decoder.complete([Request(row.tolist(), i) for i, row in enumerate(tokens)]))

    np.testing.assert_array_equal(*(embed(params, tokens, lengths, c, "mean") for c in (trained, plain)))
    assert decoded(trained) == decoded(plain)


# --- Meshes --------------------------------------------------------------------------------------------------

EIGHT_DEVICES = """
import dataclasses, sys, jax, jax.numpy as jnp, numpy as np
sys.path.insert(0, "tests")
import test_attention as t
from jax.sharding import NamedSharding, PartitionSpec
config = dataclasses.replace(t.SMALL, attention="splash", num_heads=4, vocab_size=32)
t.interpret()
inputs = t.draw(8, "float32", batch=8, length=128, heads=4)
rows = t.segments_from([{0, 16 * i + 5} for i in range(8)], 128)
for shape, segments in (((8, 1, 1), None), ((2, 2, 2), rows)):
    mesh = t.make_mesh(shape)
    def in_ways(*arrays):  # as training/step.py does
        one = t.sharded_attention(config, t.BatchCut(mesh, ("fsdp",)))
        parts = jax.tree.map(lambda x: x.reshape(shape[0], -1, *x.shape[1:]), arrays)
        return jax.vmap(one, spmd_axis_name="data")(*parts).reshape(arrays[0].shape)

    spec = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor", None))
    expected = t.outputs_and_gradients(t.xla, *inputs, segments)
    for attend in (t.sharded_attention(config, t.BatchCut(mesh)), in_ways):
        got = t.outputs_and_gradients(attend, *jax.device_put(inputs, spec), segments)
        for a, b in zip(got, expected, strict=True):
            assert a.sharding.is_equivalent_to(spec, 4), (shape, a.sharding)
            assert a.addressable_shards[0].data.size == a.size // 8
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5, err_msg=str(shape))
print("equal on both meshes")
"""


def test_a_sharded_kernel_computes_what_an_unsharded_one_does():
    done = python("-c", EIGHT_DEVICES, env=devices(8))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "equal on both meshes"


def test_xla_cuts_its_own_kernel():
    assert sharded_attention(SMALL, BatchCut(make_mesh((1, 1, 1)))) is None


# --- Mistakes ------------------------------------------------------------------------------------------------


def refused(run, *parts):
    with pytest.raises(UserError) as error:
        run()
    line = str(error.value)
    assert "\n" not in line
    assert [part for part in (*parts, "config.model.attention=") if part not in line] == [], line


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"attention": "flash"}, ["'flash'", "'xla', 'cudnn', 'splash'"]),
        ({"attention": "cudnn", "compute_dtype": "bfloat16", "attention_dropout": 0.1}, ["attention_dropout=0", "xla"]),
        ({"attention": "splash", "attention_dropout": 0.1}, ["'splash'", "attention_dropout=0", "xla"]),
        ({"attention": "cudnn"}, ["float32", "config.model.compute_dtype=bfloat16"]),
        ({"attention": "cudnn", "compute_dtype": "bfloat16", "head_dim": 12}, ["head_dim=12", "multiple of 8"]),
        ({"attention": "splash", "max_seq_len": 200}, ["200 positions", "multiple of 128"]),
    ],
)
def test_what_a_kernel_cannot_do_is_refused(change, parts):
    refused(lambda: dataclasses.replace(SMALL, **change), *parts)


def test_residual_dropout_goes_with_every_kernel():
    assert dataclasses.replace(SMALL, attention="splash", residual_dropout=0.1).attention == "splash"


@pytest.mark.parametrize(
    ("kernel", "here", "elsewhere"),
    [("xla", ("cpu", "gpu", "tpu"), ()), ("cudnn", ("gpu",), ("cpu", "tpu")), ("splash", ("tpu",), ("cpu", "gpu"))],
)
def test_a_kernel_is_refused_on_devices_that_lack_it(kernel, here, elsewhere):
    for platform in here:
        check_kernel_on(kernel, platform)
    for platform in elsewhere:
        refused(functools.partial(check_kernel_on, kernel, platform), repr(kernel), platform, "attention=xla")


@pytest.mark.parametrize("change", [{"attention": "splash"}, {"attention": "cudnn", "compute_dtype": "bfloat16"}])
def test_training_on_devices_without_the_kernel_is_refused(change):
    config = dataclasses.replace(SMALL, **change)
    refused(lambda: sharded_attention(config, BatchCut(make_mesh((1, 1, 1)))), "cpu")


def test_heads_that_the_mesh_cannot_cut_are_named():
    devices = np.array([SimpleNamespace(platform="tpu")])
    mesh = SimpleNamespace(devices=devices, shape={"data": 1, "fsdp": 1, "tensor": 3})
    with pytest.raises(UserError, match=r"config\.model\.num_heads=2: .* 3 equal parts"):
        sharded_attention(dataclasses.replace(SMALL, attention="splash"), BatchCut(mesh))


@pytest.mark.parametrize("name", ["cudnn", "splash"])
def test_no_kernel_runs_in_another_ones_place(name):
    q, k, v, _ = draw(8, "bfloat16", batch=1, length=128)
    kernel = {"cudnn": attend_cudnn, "splash": attend_splash}[name]
    with pytest.raises((UserError, ValueError), match=r"cuDNN|interpret"):
        jax.jit(kernel)(q, k, v, None)


def test_positions_that_a_kernel_cannot_do_are_refused():
    q, k, v, _ = draw(8, "bfloat16", batch=1, length=129)
    refused(lambda: attend_cudnn(q, k, v, np.zeros((1, 129), np.int32)), "129 positions", "even")
