"""`phi_jax.load`: a model in memory, for Python: what it completes, its logits, its vectors, its Flax module."""

import os
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from phi_jax import fields
from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.model.phi import Phi, forward
from phi_jax.model.sampling import Decoding
from phi_jax.parallel.embedder import make_embedder
from phi_jax.parallel.sampler import Request, Sampler
from phi_jax.weights.models import load_model

_BATCH = 8  # texts that a device embeds at once


class Model:
    """A model and its tokenizer, on every device of this process.

    params: a tree of float32 numpy arrays, as `phi_jax.model.phi.forward` takes it with config, the shape. tokenizer:
    encodes and decodes. Raises UserError where `directory` (in Hugging Face's format, or a training or select artifact)
    holds no model, or it is damaged.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.params, self.config, self.tokenizer = load_model(Path(directory))

    def complete(
        self,
        prompt: str,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
    ) -> str:
        """What the model writes behind the prompt, up to end-of-text; greedy, unless there is a temperature.

        temperature, top_p, top_k, seed: as phi_jax.model.sampling.Decoding has them. Raises UserError for one
        that means nothing, and for a prompt that is empty or does not fit the context with what is asked.
        """
        tokens = self.tokenizer.encode(prompt)
        if not tokens:
            raise UserError("prompt: empty; give some text to complete")
        context = self.config.max_seq_len
        if len(tokens) >= context:
            raise UserError(f"prompt: {len(tokens)} tokens fill the model's context of {context}; shorten it")
        if not 1 <= max_new_tokens <= context - len(tokens):
            raise UserError(
                f"max_new_tokens {max_new_tokens}: must be from 1 to {context - len(tokens)}, since the prompt has "
                f"{len(tokens)} tokens and the model's context {context}"
            )
        end = self.tokenizer.end_of_text_id
        one = Sampler(self.params, self.config, end_of_text_id=end, max_new_tokens=max_new_tokens, slots=1)
        ((_, completion),) = one.complete([Request(tokens, decoding=Decoding(temperature, top_p, seed, top_k))])
        return self.tokenizer.decode(completion.tokens)

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Next-token logits [T, V] float32 behind each of T tokens. Raises UserError for more than a context."""
        if not 0 < len(tokens) <= self.config.max_seq_len:
            raise UserError(f"tokens: {len(tokens)}; the model takes 1 to {self.config.max_seq_len}")
        logits_1xTxV = jax.jit(forward, static_argnums=2)(self.params, np.asarray([tokens], np.int32), self.config)
        return np.asarray(logits_1xTxV[0])

    def embed(self, texts: Sequence[str], pooling: str = "mean") -> np.ndarray:
        """Vectors [N, D] float32 of N texts, NaN for an empty one: the last layer's, by "mean" or of the "last" token.

        Of a longer text what the context holds counts. Raises UserError for another pooling.
        """
        rules = {"embed_tokens": self.config.max_seq_len, "batch_size": _BATCH, "pooling": pooling}
        fields.check({"filter": rules})
        return make_embedder(self.params, self.config, Config(rules))(self.tokenizer.encode_batch(texts))

    def module(self) -> Phi:
        """The Flax NNX module with these weights, for those who change it: `nnx.state` of it, an optimizer on it.

        `nnx.to_pure_dict(nnx.state(module, nnx.Param))` is again what `forward` takes.
        """
        module = nnx.eval_shape(lambda: Phi(self.config, rngs=nnx.Rngs(0)))
        state = nnx.state(module)
        nnx.replace_by_pure_dict(state, jax.device_put(self.params))  # NumPy's own would be changed here too
        nnx.update(module, state)
        return module
