"""A model of random weights, written as others read one: for decoding where nothing needs to be solved."""

from pathlib import Path

import jax
import numpy as np

from phi_jax.model import phi
from phi_jax.tokens.tokenizer import Tokenizer
from phi_jax.weights.huggingface import export_model

ATTENTION = 2.0  # how much wider than the others its matrices are


def export_random(directory, config, *, tokenizer=None, end_of_text_id=None, seed=0):
    """Writes `directory` and returns it. tokenizer: its files lie in it too; without one there are weights only.

    Biases and norms are random too: initial zeros and ones would hide errors. Matrices are so wide that greedy decoding
    does not fall into a loop at once, those of attention so much wider that what stands far back in a prompt matters.
    """
    leaves, tree = jax.tree.flatten(phi.abstract_params(config))
    rng = np.random.default_rng(seed)
    width = 1.2 / config.hidden_size**0.5
    params = tree.unflatten([(width * rng.standard_normal(x.shape)).astype(np.float32) for x in leaves])
    for norm in (params["layers"]["norm"], params["final_norm"]):
        norm["scale"] += 1.0
    for part in params["layers"]["attention"].values():
        part["kernel"] *= ATTENTION
    directory = Path(directory)
    files = None
    if tokenizer is not None:
        files = directory.with_name(f"{directory.name}-tokenizer")
        tokenizer.save(files, max_length=config.max_seq_len)
        end_of_text_id = tokenizer.end_of_text_id
    export_model(
        params, config, directory,
        tokenizer_directory=files, end_of_text_id=end_of_text_id, dtype="float32",
    )  # fmt: skip
    assert tokenizer is None or Tokenizer.load(directory).end_of_text_id == end_of_text_id
    return directory
