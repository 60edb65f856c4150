"""What gives texts one vector each, by a model on every device of this process.

A text is padded to the power of two that holds it, so there are few programs and little padding, and its vector is the
same, bit for bit, whatever texts stand beside it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from phi_jax.config import Config
from phi_jax.model.phi import Params, PhiConfig

SMALLEST_BUCKET = 64  # tokens

# Tokens of texts -> vectors [texts, D] float32, NaN where there is no token.
EmbedTokens = Callable[[Sequence[Sequence[int]]], np.ndarray]


def bucket(length: int, longest: int) -> int:
    """The tokens that a text of so many is padded or cut to."""
    return min(longest, max(SMALLEST_BUCKET, 1 << (length - 1).bit_length()))


def make_embedder(params: Params, shape: PhiConfig, rules: Config) -> EmbedTokens:
    """What embeds texts by config.filter's rules: their first tokens, at most as many as the model's context holds.

    Compiled once for each bucket, for a batch on each device.
    """
    import jax

    from phi_jax.model.embed import embed
    from phi_jax.parallel import mesh as meshes

    mesh = meshes.make_mesh((-1, 1, 1), jax.local_devices())
    rows, params = meshes.batch_sharding(mesh), jax.device_put(params, meshes.replicated(mesh))
    longest, size = min(rules.embed_tokens, shape.max_seq_len), rules.batch_size * mesh.size

    def embed_tokens(texts: Sequence[Sequence[int]]) -> np.ndarray:
        buckets = [len(ids) and bucket(len(ids), longest) for ids in texts]
        # None is waited for here: on a CPU the next batch then runs beside it.
        pending = []
        for length in {*buckets} - {0}:
            numbers = [number for number, found in enumerate(buckets) if found == length]
            for chosen in (numbers[first : first + size] for first in range(0, len(numbers), size)):
                tokens_BxT, lengths_B = np.zeros((size, length), np.int32), np.zeros(size, np.int32)
                for row, number in enumerate(chosen):
                    ids = texts[number][:length]
                    tokens_BxT[row, : len(ids)], lengths_B[row] = ids, len(ids)
                batch = jax.device_put((tokens_BxT, lengths_B), rows)
                pending.append((chosen, embed(params, *batch, shape, rules.pooling)))
        vectors_NxD = np.full((len(texts), shape.hidden_size), np.nan, np.float32)
        for chosen, vectors_BxD in pending:
            vectors_NxD[chosen] = np.asarray(vectors_BxD)[: len(chosen)]
        return vectors_NxD

    return embed_tokens
