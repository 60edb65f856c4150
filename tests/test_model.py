"""The phi block: shapes, counts, gradients, dropout and the cache, against plain NumPy and against itself."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phi_jax.errors import UserError
from phi_jax.model import phi
from phi_jax.model.attention import attend

SMALL = phi.PhiConfig(
    vocab_size=97,
    hidden_size=24,
    intermediate_size=80,
    num_layers=3,
    num_heads=3,
    head_dim=10,  # 3 * 10 is not 24: heads and width must not be mistaken for each other
    rotary_dim=6,
    max_seq_len=64,
)
PHI_1 = phi.PhiConfig(51200, 2048, 8192, 24, 32, 64, 32, 2048)
PHI_1_SMALL = phi.PhiConfig(51200, 1024, 4096, 20, 16, 64, 32, 2048)

# Compiled whole: op by op, XLA's compiler would take most of the time of these tests.
forward = jax.jit(phi.forward, static_argnames="config")
hidden_states = jax.jit(phi.hidden_states, static_argnames="config")
logits_of = jax.jit(phi.logits, static_argnames="config")
attention = jax.jit(attend, static_argnames="dropout_rate")

AXES = {
    "embed/tokens": ("vocab", "embed"),
    "layers/norm/scale": ("layers", "embed"),
    "layers/norm/bias": ("layers", "embed"),
    **{f"layers/attention/{n}/kernel": ("layers", "embed", "heads", "head_dim") for n in "qkv"},
    **{f"layers/attention/{n}/bias": ("layers", "heads", "head_dim") for n in "qkv"},
    "layers/attention/out/kernel": ("layers", "heads", "head_dim", "embed"),
    "layers/attention/out/bias": ("layers", "embed"),
    "layers/mlp/fc1/kernel": ("layers", "embed", "mlp"),
    "layers/mlp/fc1/bias": ("layers", "mlp"),
    "layers/mlp/fc2/kernel": ("layers", "mlp", "embed"),
    "layers/mlp/fc2/bias": ("layers", "embed"),
    "final_norm/scale": ("embed",),
    "final_norm/bias": ("embed",),
    "head/kernel": ("embed", "vocab"),
    "head/bias": ("vocab",),
}


def flat(tree, is_leaf=None):
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {"/".join(k.key for k in path): leaf for path, leaf in leaves}


def random_params(config, seed=0):
    """Weights without a special value anywhere: zero biases and unit scales would hide mistakes."""
    leaves, tree = jax.tree.flatten(phi.abstract_params(config))
    rng = np.random.default_rng(seed)
    return tree.unflatten([jnp.asarray(0.2 * rng.standard_normal(x.shape), jnp.float32) for x in leaves])


def random_tokens(config, batch, length, seed=0):
    return np.random.default_rng(seed).integers(0, config.vocab_size, (batch, length)).astype(np.int32)


@pytest.fixture(scope="module")
def params():
    return random_params(SMALL)


# --- Parameters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config", "count"), [(PHI_1, 1_418_270_720), (PHI_1_SMALL, 356_794_368)])
def test_parameter_counts_are_the_papers(config, count):
    leaves = jax.tree.leaves(phi.abstract_params(config))
    d, f, v, layers = config.hidden_size, config.intermediate_size, config.vocab_size, config.num_layers
    formula = 2 * v * d + v + 2 * d + layers * (4 * (d * d + d) + 2 * d * f + f + d + 2 * d)
    assert sum(math.prod(x.shape) for x in leaves) == formula == count
    assert {x.dtype for x in leaves} == {jnp.dtype(jnp.float32)}


def test_the_tree_is_the_contract():
    c = SMALL
    sizes = {
        "vocab": c.vocab_size, "embed": c.hidden_size, "mlp": c.intermediate_size, "layers": c.num_layers,
        "heads": c.num_heads, "head_dim": c.head_dim,
    }  # fmt: skip
    axes = flat(phi.logical_axes(c), is_leaf=lambda x: isinstance(x, tuple))
    assert axes == AXES
    shapes = {path: tuple(sizes[a] for a in names) for path, names in AXES.items()}
    assert {path: x.shape for path, x in flat(phi.abstract_params(c)).items()} == shapes
    assert {path: x.shape for path, x in flat(phi.init_params(c, jax.random.key(0))).items()} == shapes


def test_initial_values_depend_on_the_key_alone():
    init = jax.jit(phi.init_params, static_argnums=0)
    first, again = (flat(init(SMALL, jax.random.key(3))) for _ in range(2))
    eager = flat(phi.init_params(SMALL, jax.random.key(3)))
    other = flat(init(SMALL, jax.random.key(4)))
    for path, value in first.items():
        np.testing.assert_array_equal(value, again[path])
        np.testing.assert_allclose(value, eager[path], rtol=0, atol=1e-8)
        last = path.split("/")[-1]
        if last in ("kernel", "tokens"):
            assert not np.array_equal(value, other[path])
            assert 0.017 < float(value.std()) < 0.023
        else:
            assert np.all(np.asarray(value) == (1.0 if last == "scale" else 0.0))
    kernels = [np.asarray(x).ravel()[:20].tobytes() for path, x in first.items() if "kernel" in path]
    assert len(set(kernels)) == len(kernels), "two matrices were drawn with one key"


# --- Forward -------------------------------------------------------------------------------------------------


def numpy_forward(params, tokens, c):
    """phi in float64, a position and a head at a time: as unlike the code under test as it can be."""
    p = {path: np.asarray(x, np.float64) for path, x in flat(params).items()}

    def norm(x, scale, bias):
        return (x - x.mean()) / np.sqrt(x.var() + c.layer_norm_eps) * scale + bias

    def rotate(x, position):
        out = x.copy()
        half = c.rotary_dim // 2
        for i in range(half):
            angle = position * c.rope_theta ** (-2 * i / c.rotary_dim)
            out[i] = x[i] * np.cos(angle) - x[i + half] * np.sin(angle)
            out[i + half] = x[i + half] * np.cos(angle) + x[i] * np.sin(angle)
        return out

    x = p["embed/tokens"][tokens]
    for layer in range(c.num_layers):
        w = {path[7:]: value[layer] for path, value in p.items() if path.startswith("layers/")}
        normed = np.stack([norm(row, w["norm/scale"], w["norm/bias"]) for row in x])
        attended = np.zeros_like(x)
        for h in range(c.num_heads):
            q, k, v = (normed @ w[f"attention/{n}/kernel"][:, h] + w[f"attention/{n}/bias"][h] for n in ("q", "k", "v"))
            q = np.stack([rotate(row, t) for t, row in enumerate(q)])
            k = np.stack([rotate(row, t) for t, row in enumerate(k)])
            for t in range(len(x)):
                scores = np.exp(k[: t + 1] @ q[t] / np.sqrt(c.head_dim))
                attended[t] += (scores / scores.sum()) @ v[: t + 1] @ w["attention/out/kernel"][h]
        a = normed @ w["mlp/fc1/kernel"] + w["mlp/fc1/bias"]
        gelu = 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
        x = x + attended + w["attention/out/bias"] + gelu @ w["mlp/fc2/kernel"] + w["mlp/fc2/bias"]
    x = np.stack([norm(row, p["final_norm/scale"], p["final_norm/bias"]) for row in x])
    return x @ p["head/kernel"] + p["head/bias"]


def test_forward_equals_numpy(params):
    tokens = random_tokens(SMALL, 2, 17)
    got = forward(params, tokens, SMALL)
    assert got.shape == (2, 17, SMALL.vocab_size)
    assert got.dtype == jnp.float32
    expected = np.stack([numpy_forward(params, row, SMALL) for row in tokens])
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)


def test_hidden_states_and_logits_make_forward(params):
    tokens = random_tokens(SMALL, 2, 8)
    hidden = hidden_states(params, tokens, SMALL)
    assert hidden.shape == (2, 8, SMALL.hidden_size)
    np.testing.assert_allclose(logits_of(params, hidden, SMALL), forward(params, tokens, SMALL), rtol=0, atol=1e-5)
    assert logits_of(params, hidden[0, 3], SMALL).shape == (SMALL.vocab_size,)


def test_no_position_sees_a_later_one(params):
    tokens = random_tokens(SMALL, 1, 16)
    changed = tokens.copy()
    changed[0, 9:] = (changed[0, 9:] + 1) % SMALL.vocab_size
    before, after = forward(params, tokens, SMALL), forward(params, changed, SMALL)
    np.testing.assert_array_equal(before[:, :9], after[:, :9])
    assert np.abs(before[:, 9:] - after[:, 9:]).min(axis=-1).max() > 0


def test_bfloat16_computes_in_bfloat16_and_returns_float32(params):
    config = dataclasses.replace(SMALL, compute_dtype="bfloat16")
    tokens = random_tokens(SMALL, 2, 16)
    assert hidden_states(params, tokens, config).dtype == jnp.bfloat16
    got, exact = forward(params, tokens, config), forward(params, tokens, SMALL)
    assert got.dtype == jnp.float32
    assert 0 < float(jnp.abs(got - exact).max()) < 0.1 * float(exact.std())


# --- Dropout -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["attention_dropout", "residual_dropout"])
def test_dropout_is_a_function_of_its_key(params, field):
    config = dataclasses.replace(SMALL, **{field: 0.3})
    tokens, key = random_tokens(SMALL, 2, 12), jax.random.key(0)

    def run(key):
        return forward(params, tokens, config, dropout_keys_B=jax.random.split(key, len(tokens)))

    np.testing.assert_array_equal(run(key), run(key))
    assert float(jnp.abs(run(key) - run(jax.random.key(1))).max()) > 1e-3
    without = forward(params, tokens, SMALL)
    np.testing.assert_allclose(forward(params, tokens, config), without, rtol=0, atol=1e-5)
    assert float(jnp.abs(run(key) - without).max()) > 1e-3


def test_a_key_without_a_rate_drops_nothing(params):
    tokens = random_tokens(SMALL, 2, 12)
    with_key = forward(params, tokens, SMALL, dropout_keys_B=jax.random.split(jax.random.key(0)))
    np.testing.assert_allclose(with_key, forward(params, tokens, SMALL), rtol=0, atol=1e-5)


def test_layers_and_places_draw_different_masks():
    """A model whose layers are all alike and that reads out nothing but what dropout left of them."""
    config = dataclasses.replace(SMALL, num_layers=2, residual_dropout=0.5)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), phi.abstract_params(config))
    params["layers"]["attention"]["out"]["bias"] += 1.0
    params["layers"]["mlp"]["fc2"]["bias"] += 10.0
    params["final_norm"]["scale"] += 1.0
    keys_B = jax.random.split(jax.random.key(0), 8)
    hidden = hidden_states(params, np.zeros((8, 32), np.int32), config, dropout_keys_B=keys_B)
    # Sums of two layers with kept values doubled: 0, 2, 4 from attention and 0, 20, 40 from the MLP, all nine.
    values = np.unique(np.asarray(hidden).round(5))
    assert len(values) >= 9
    single = np.asarray(hidden[0])
    assert not np.array_equal(single[0], single[1]), "two positions share a mask"
    assert not np.array_equal(single, np.asarray(hidden[1])), "two rows share a mask"
    turned = hidden_states(params, np.zeros((8, 32), np.int32), config, dropout_keys_B=keys_B[::-1])
    np.testing.assert_array_equal(turned, hidden[::-1])


def test_attention_dropout_keeps_the_mean():
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 6, 2, 4)) for i in range(3))
    mask = jnp.tril(jnp.ones((1, 6, 6), bool))
    exact = attention(q, k, v, mask)
    keys = jax.random.split(jax.random.key(9), 4000)
    draw = jax.vmap(lambda key: attend(q, k, v, mask, dropout_rate=0.25, dropout_keys_B=key[None]))
    draws = jax.jit(draw)(keys)
    error = jnp.abs(draws.mean(0) - exact) / (draws.std(0) / math.sqrt(len(keys)) + 1e-6)
    assert float(error.max()) < 4.5  # standard errors; 48 values
    # The first position attends to itself alone: dropped to 0, or kept and scaled by 1 / 0.75.
    first = np.asarray(draws[:, 0, 0, 0, 0] / v[0, 0, 0, 0])
    np.testing.assert_allclose(np.unique(first.round(4)), [0.0, 1.3333], atol=1e-4)
    assert abs((first == 0).mean() - 0.25) < 0.03


# --- Attention -----------------------------------------------------------------------------------------------


def test_the_kernel_equals_jax_nn():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 33, 3, 16)) for i in range(3))
    mask = jnp.tril(jnp.ones((1, 33, 33), bool))

    def ours(*qkv):
        return attention(*qkv, mask)

    def theirs(*qkv):
        return jax.nn.dot_product_attention(*qkv, is_causal=True)

    np.testing.assert_allclose(ours(q, k, v), theirs(q, k, v), rtol=0, atol=2e-6)
    grads = [jax.jit(jax.grad(lambda *x, f=f: jnp.square(f(*x)).sum(), (0, 1, 2)))(q, k, v) for f in (ours, theirs)]
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


def test_huge_logits_stay_finite():
    q = jnp.full((1, 4, 1, 8), 200.0)
    out = attention(q, q, jnp.ones_like(q), jnp.tril(jnp.ones((1, 4, 4), bool)))
    np.testing.assert_allclose(out, 1.0, atol=1e-6)


# --- Mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attention", "splash"),
        ("attention", "cudnn"),
        ("compute_dtype", "float16"),
        ("remat", "some"),
        ("rotary_dim", 5),
        ("rotary_dim", 12),
        ("rotary_dim", 0),
        ("num_layers", 0),
        ("hidden_size", -8),
        ("attention_dropout", 1.0),
        ("residual_dropout", -0.1),
    ],
)
def test_a_config_that_cannot_be_computed_is_refused(field, value):
    with pytest.raises(UserError, match=f"config.model.{field}=") as error:
        dataclasses.replace(SMALL, **{field: value})
    assert str(value) in str(error.value)
    assert "\n" not in str(error.value)
