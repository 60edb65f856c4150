"""What gives texts one vector each, by a model on every device of this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from phi_jax.config import Config
from phi_jax.model.phi import Params, PhiConfig

# Tokens of texts -> vectors [texts, D] float32, NaN where there is no token.
EmbedTokens = Callable[[Sequence[Sequence[int]]], np.ndarray]


def make_embedder(params: Params, shape: PhiConfig, rules: Config) -> EmbedTokens:
    """What embeds texts by config.filter's rules: their first tokens, at most as many as the model's context holds.

    Compiled once, for a batch on each device. Raises UserError for an unknown pooling.
    """
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from phi_jax.model.embed import embed
    from phi_jax.parallel import mesh as meshes

    mesh = meshes.make_mesh((-1, 1, 1), jax.local_devices())
    rows, params = meshes.batch_sharding(mesh), jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    length, size = min(rules.embed_tokens, shape.max_seq_len), rules.batch_size * mesh.size

    def embed_tokens(texts: Sequence[Sequence[int]]) -> np.ndarray:
        padded = -(-len(texts) // size) * size
        tokens_NxT, lengths_N = np.zeros((padded, length), np.int32), np.zeros(padded, np.int32)
        for row, ids in enumerate(texts):
            lengths_N[row] = min(len(ids), length)
            tokens_NxT[row, : lengths_N[row]] = ids[:length]
        batches = [slice(start, start + size) for start in range(0, padded, size)]
        # None is waited for here: on a CPU the next batch then runs beside it.
        cut = [jax.device_put((tokens_NxT[batch], lengths_N[batch]), rows) for batch in batches]
        pending = [embed(params, *batch, shape, rules.pooling) for batch in cut]
        vectors_NxD = np.concatenate([np.empty((0, shape.hidden_size), np.float32), *map(np.asarray, pending)])
        vectors_NxD[lengths_N == 0] = np.nan
        return vectors_NxD[: len(texts)]

    return embed_tokens
