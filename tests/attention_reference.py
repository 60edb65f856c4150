"""Attention and its gradients in plain NumPy, and inputs: what every kernel is held against, here and on a GPU."""

import jax
import jax.numpy as jnp
import numpy as np

LENGTH = 384  # three of splash's smallest blocks: some lie below the diagonal, on it and above
# First positions of documents: one token long, astride a block's edge, starting on one.
STARTS = ((0, 1, 100, 128, 300, 301), (0, 255))


def segments_from(starts, length):
    """int32 [B, T]: the number of the document at each position, where a row's documents start at `starts`."""
    return np.array([np.isin(np.arange(length), row).cumsum() - 1 for row in starts], np.int32)


def draw(head_dim, dtype, *, batch=2, length=LENGTH, heads=2, seed=0):
    """q, k, v and a cotangent, each [B, T, H, K]."""
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.standard_normal((batch, length, heads, head_dim)), dtype) for _ in range(4))


def reference(q, k, v, cotangent, segments):
    """(heads, dq, dk, dv): softmax(q k / sqrt(K)) v over the positions that a query may see, in float64."""
    q, k, v, d_heads = (np.asarray(x, np.float64) for x in (q, k, v, cotangent))
    positions, scale = np.arange(q.shape[1]), q.shape[-1] ** -0.5
    sees = (positions[:, None] >= positions)[None, None]
    if segments is not None:
        sees = sees & (segments[:, None, :, None] == segments[:, None, None, :])
    weights = np.where(sees, np.exp(np.einsum("bthk,bshk->bhts", q, k) * scale), 0)
    weights /= weights.sum(-1, keepdims=True)
    d_weights = np.einsum("bthk,bshk->bhts", d_heads, v)
    d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True)) * scale
    return (
        np.einsum("bhts,bshk->bthk", weights, v),
        np.einsum("bhts,bshk->bthk", d_scores, k),
        np.einsum("bhts,bthk->bshk", d_scores, q),
        np.einsum("bhts,bthk->bshk", weights, d_heads),
    )


def outputs_and_gradients(attend, q, k, v, cotangent, segments):
    """(heads, dq, dk, dv) of a kernel, in its dtype."""

    @jax.jit
    def run(q, k, v, cotangent, segments):
        heads, pull = jax.vjp(lambda q, k, v: attend(q, k, v, segments), q, k, v)
        return heads, *pull(cotangent)

    return run(q, k, v, cotangent, segments)


def largest_errors(attend, inputs, segments):
    """Of heads, dq, dk and dv: the largest difference from the reference as a share of its largest value."""
    got, expected = outputs_and_gradients(attend, *inputs, segments), reference(*inputs, segments)
    return {
        name: float(np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max())
        for name, a, b in zip(("heads", "dq", "dk", "dv"), got, expected, strict=True)
    }
