"""The `cudnn` kernel on an NVIDIA GPU beside plain NumPy, whole records and documents.

    JAX_PLATFORMS=cuda pytest tests/acceptance/test_cudnn.py

Needs of the rest of phi_jax nothing but jax and flax.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_reference import LENGTH, STARTS, draw, largest_errors, outputs_and_gradients, segments_from

from phi_jax.model import phi
from phi_jax.model.attention import attend, causal_mask, segments_of
from phi_jax.parallel.mesh import BatchCut, make_mesh
from phi_jax.parallel.sharded_attention import sharded_attention

pytestmark = pytest.mark.acceptance

CONFIG = phi.PhiConfig(
    vocab_size=512,
    hidden_size=256,
    intermediate_size=1024,
    num_layers=2,
    num_heads=4,
    head_dim=64,
    rotary_dim=32,
    max_seq_len=LENGTH,
    attention="cudnn",
    compute_dtype="bfloat16",
)


@pytest.fixture
def cudnn():
    """The kernel as training gets it."""
    if jax.devices()[0].platform != "gpu":
        pytest.skip("needs an NVIDIA GPU: JAX_PLATFORMS=cuda pytest tests/acceptance/test_cudnn.py")
    return sharded_attention(CONFIG, BatchCut(make_mesh((1, jax.device_count(), 1))))


@pytest.mark.parametrize("documents", [False, True], ids=["whole", "documents"])
@pytest.mark.parametrize("head_dim", [64, 80])
def test_outputs_and_gradients_equal_numpys(cudnn, head_dim, documents):
    batch = 2 * jax.device_count()
    segments = segments_from(STARTS * jax.device_count(), LENGTH) if documents else None
    errors = largest_errors(cudnn, draw(head_dim, "bfloat16", batch=batch), segments)
    print(errors)
    assert max(errors.values()) < 1.5e-2, errors


@pytest.mark.parametrize("documents", [False, True], ids=["whole", "documents"])
def test_the_compiled_program_calls_cudnn(cudnn, documents):
    inputs = draw(64, "bfloat16", batch=2 * jax.device_count())
    segments = segments_from(STARTS * jax.device_count(), LENGTH) if documents else None
    text = jax.jit(lambda *x: outputs_and_gradients(cudnn, *x, segments)).lower(*inputs).compile().as_text()
    assert "__cudnn$fmha" in text
    assert "Backward" in text


def test_no_document_depends_on_another(cudnn):
    segments = segments_from(((0, 100, 129),) * jax.device_count(), LENGTH)
    q, k, v, other = draw(64, "bfloat16", batch=jax.device_count())
    own = segments[0] == 1
    run = jax.jit(cudnn)
    before = np.asarray(run(q, k, v, segments), np.float32)
    changed = (jnp.where(own[None, :, None, None], x, other) for x in (q, k, v))
    after = np.asarray(run(*changed, segments), np.float32)
    np.testing.assert_array_equal(before[:, own], after[:, own])
    assert not np.array_equal(before[:, ~own], after[:, ~own])


@pytest.mark.parametrize("documents", [False, True], ids=["whole", "documents"])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_model_has_the_loss_and_gradients_of_the_xla_kernel(cudnn, remat, documents):
    batch = 2 * jax.device_count()
    tokens = np.random.default_rng(0).integers(0, 16, (batch, LENGTH))
    segments = segments_of(tokens, 0) if documents else None
    config = dataclasses.replace(CONFIG, remat=remat)
    params = phi.init_params(config, jax.random.key(0))

    def loss(p, kernel):
        logits = phi.forward(p, tokens, config, segments_BxT=segments, attend=kernel)
        return -jax.nn.log_softmax(logits)[..., 0].mean()

    step = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    got = step(params, cudnn)
    expected = step(params, lambda q, k, v, s: attend(q, k, v, causal_mask(LENGTH, s)))
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-3)
    for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(expected[1]), strict=True):
        assert np.abs(a - b).max() <= 0.05 * np.abs(b).max() + 1e-6
