"""Parameters and floating-point operations of a phi model, counted from its shape."""

import math

import jax

from phi_jax.model import phi


def num_params(config: phi.PhiConfig) -> int:
    """Number of parameters, embedding and untied head included (phi-1: 1,418,270,720)."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(phi.abstract_params(config)))


def training_flops_per_token(config: phi.PhiConfig, *, causal: bool = False) -> float:
    """Matmul FLOPs of forward and backward per token at T = max_seq_len: "model FLOPs" (PaLM, appendix B).

    A multiply-add counts 2, the backward pass twice the forward. The head counts; the embedding lookup, being no
    matmul, does not; nor does what remat computes again. Attention counts all T x T pairs of positions. This is 6N +
    12LHKT of PaLM with N = the parameters that are multiplied with. causal: half of these pairs, the other convention.
    """
    c = config
    heads = c.num_heads * c.head_dim
    weights = c.num_layers * (4 * c.hidden_size * heads + 2 * c.hidden_size * c.intermediate_size)
    weights += c.hidden_size * c.vocab_size
    attention = 2 * c.num_layers * c.max_seq_len * heads  # multiply-adds of q k and of softmax(q k) v
    return 3.0 * 2.0 * (weights + attention / (2 if causal else 1))
