"""The weights a run starts from: another training's, or an imported model's."""

from typing import Any

import jax
import numpy as np

from phi_jax.errors import UserError
from phi_jax.model.phi import PhiConfig
from phi_jax.store.artifact import Artifact
from phi_jax.weights.models import load_model, open_save, open_training, shape_of, tokenizer_of

PyTree = Any
# Fields of PhiConfig that decide what weights compute.
_SAME = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "head_dim", "rotary_dim",
         "layer_norm_eps", "rope_theta")  # fmt: skip


def initial_params(start: str, abstract_params: PyTree, tokens: Artifact) -> tuple[PyTree, str]:
    """(parameters laid out as `abstract_params` says, what they are called) of the model in the directory `start`.

    start: a training or select artifact, or a Hugging Face directory. tokens: what is going to be trained on. Raises
    UserError where it is none of these, a parameter's shape differs, an artifact's tokenizer is not that of the
    tokens, or its save is not kept or damaged.
    """
    if Artifact.read(start) is None:
        params, _, _ = load_model(start)
        return jax.tree_util.tree_map_with_path(_laid_out, params, abstract_params), start
    training, step = open_training(start)
    if tokenizer_of(training) != tokenizer_of(tokens):
        raise UserError(
            f"{tokens.label}: its tokenizer is not the one that {training.label} was trained with; "
            "tokenize the texts again with that one"
        )
    with open_save(training, step) as (checkpoints, _):
        params = checkpoints.restore_params(step, abstract_params)
    return params, f"{training.label}, step {step}"


def check_shape(start: str, wanted: PhiConfig, *, learnt: bool) -> None:
    """Raises UserError where the model in the directory `start` is none, or computes something else than `wanted`.

    learnt: the vocabulary of `wanted` is not known yet.
    """
    found = shape_of(start)
    for name in _SAME:
        has, asked = getattr(found, name), getattr(wanted, name)
        if has != asked and not (learnt and name == "vocab_size"):
            raise UserError(
                f"config.training.initial_checkpoint={start!r}: its {name} is {has}, the model of config.model has "
                f"{asked}; make config.model and the vocabulary those of the checkpoint"
            )


def _laid_out(path: Any, value: Any, wanted: jax.ShapeDtypeStruct) -> jax.Array:
    array = np.asarray(value, wanted.dtype)
    if array.shape != wanted.shape:
        raise UserError(
            f"config.training.initial_checkpoint: {jax.tree_util.keystr(path)} is of shape {array.shape}, the model of "
            f"config.model has {wanted.shape}; make config.model and the vocabulary those of the checkpoint"
        )
    return jax.make_array_from_callback(array.shape, wanted.sharding, lambda index: array[index])
