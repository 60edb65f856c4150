"""What gives texts one vector each, by a model on every device of this process."""

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

    from phi_jax.model.embed import embed
    from phi_jax.parallel import mesh as meshes

    mesh = meshes.make_mesh((-1, 1, 1), jax.local_devices())
    rows, params = meshes.batch_sharding(mesh), jax.device_put(params, meshes.replicated(mesh))
    length, size = min(rules.embed_tokens, shape.max_seq_len), rules.batch_size * mesh.size

    def embed_tokens(texts: Sequence[Sequence[int]]) -> np.ndarray:
        padded = -(-len(texts) // size) * size
        tokens_NxT, lengths_N = np.zeros((padded, length), np.int32), np.zeros(padded, np.int32)
        for row, ids in enumerate(texts):
            lengths_N[row] = min(len(ids), length)
            tokens_NxT[row, : lengths_N[row]] = ids[:length]
        batches = zip(tokens_NxT.reshape(-1, size, length), lengths_N.reshape(-1, size), strict=True)
        # None is waited for here: on a CPU the next batch then runs beside it.
        pending = [embed(params, *jax.device_put(batch, rows), shape, rules.pooling) for batch in batches]
        vectors_NxD = np.concatenate([np.empty((0, shape.hidden_size), np.float32), *map(np.asarray, pending)])
        vectors_NxD[lengths_N == 0] = np.nan
        return vectors_NxD[: len(texts)]

    return embed_tokens
