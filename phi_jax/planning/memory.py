"""Memory of one device for one optimizer step, counted from shapes: an analytic model, no compiler asked.

It follows what make_train_step keeps alive, not what a compiler makes of it; tests/test_plan.py holds it against
compiled steps. Letters as in phi_jax/model/phi.py.
"""

import dataclasses
import math
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from phi_jax.config import Config
from phi_jax.model import phi
from phi_jax.parallel.mesh import batch_ways, check_cut
from phi_jax.training.optimizer import make_optimizer
from phi_jax.training.step import abstract_state


def rows_per_device(rules: Config, mesh: Mesh) -> int:
    """Sequences of one microbatch that one device computes."""
    return rules.global_batch_size // (rules.microbatches * batch_ways(mesh))


def estimate_memory(shape: phi.PhiConfig, rules: Config, mesh: Mesh) -> dict[str, int]:
    """Bytes on one device at the peak of a step, by what they hold; their sum is the estimate.

    rules: config.training, or another section over it. Raises UserError where the mesh does not divide the model.
    """
    check_cut(mesh, shape)
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.sharding.shard_shape(x.shape), x.dtype),
        abstract_state(shape, make_optimizer(rules), mesh),
    )
    parameters, tensor = _bytes(state["params"]), mesh.shape["tensor"]
    rows, each = rows_per_device(rules, mesh), jnp.dtype(shape.dtype).itemsize
    # What one device computes of a block: its heads and MLP columns, at the full width D.
    local = dataclasses.replace(
        shape, num_heads=shape.num_heads // tensor, intermediate_size=shape.intermediate_size // tensor
    )
    tokens, heads = rows * shape.max_seq_len, local.num_heads * local.head_dim
    # A block's backward pass holds at once: the MLP's hidden values, queries, keys, values and six arrays of the width
    # D, with their gradients; with the `xla` kernel the float32 attention weights, their logits, a gradient and, where
    # there is dropout, what it leaves of them.
    block = tokens * each * (2 * local.intermediate_size + 6 * heads + 6 * shape.hidden_size)
    arrays = 3 + (shape.attention_dropout > 0)
    block += 4 * arrays * tokens * local.num_heads * shape.max_seq_len if shape.attention == "xla" else 0
    logits = 2 * 4 * rows * min(rules.loss_chunk, shape.max_seq_len) * shape.vocab_size // tensor  # and their gradient
    # Weights that fsdp cuts are made whole where they are used: two blocks (one is fetched ahead), then the head; in
    # the compute dtype, with a float32 gradient before it is scattered again.
    layer = shape.hidden_size * (4 * shape.num_heads * shape.head_dim + 2 * shape.intermediate_size)
    gathered = max(2 * layer * each + 4 * layer, shape.hidden_size * shape.vocab_size * (each + 4)) // tensor
    return {
        "parameters": parameters,
        "optimizer state": _bytes(state["optimizer"]),
        "gradients": parameters,
        "gradient accumulation": parameters if rules.microbatches > 1 else 0,
        "gathered weights": gathered if mesh.shape["fsdp"] > 1 else 0,
        "saved activations": _saved_activation_bytes(local, rows),
        "work space": max(block, logits),
    }


def _saved_activation_bytes(shape: phi.PhiConfig, rows: int) -> int:
    """What autodiff keeps of the forward pass for the backward pass under the shape's remat policy."""
    dropout = shape.attention_dropout > 0 or shape.residual_dropout > 0
    # cudnn and splash keep queries, keys and values. They cannot be traced for a device that is not here.
    attend = None if shape.attention == "xla" else jax.checkpoint(lambda q, k, v, segments: q + k + v)
    if shape.attention == "splash":  # its heads fill the 128 lanes of a TPU: one of phi-1's 64 values takes as much
        shape = dataclasses.replace(shape, head_dim=-(-shape.head_dim // 128) * 128)

    def backward(params: phi.Params, tokens_BxT: jax.Array) -> Any:
        keys_B = jax.random.split(jax.random.key(0), rows) if dropout else None
        return jax.vjp(
            lambda p: phi.hidden_states(p, tokens_BxT, shape, attend=attend, dropout_keys_B=keys_B).astype(jnp.float32),
            params,
        )[1]

    params = phi.abstract_params(shape)
    tokens_BxT = jax.ShapeDtypeStruct((rows, shape.max_seq_len), jnp.int32)
    kept = Counter((x.shape, x.dtype) for x in jax.tree.leaves(jax.eval_shape(backward, params, tokens_BxT)))
    kept -= Counter((x.shape, x.dtype) for x in jax.tree.leaves(params))  # they are among these, and counted elsewhere
    return _bytes([jax.ShapeDtypeStruct(*kind) for kind in kept.elements()])


def _bytes(tree: Any) -> int:
    arrays = [x for x in jax.tree.leaves(tree) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return sum(math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in arrays)
