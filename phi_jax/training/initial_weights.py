"""The weights a run starts from: another run's, or an imported model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from phi_jax.errors import UserError
from phi_jax.store.artifact import Artifact
from phi_jax.weights.checkpoints import restore_params
from phi_jax.weights.huggingface import load_directory

PyTree = Any


def initial_params(directory: str, abstract_params: PyTree, tokens: Artifact) -> tuple[PyTree, str]:
    """(parameters laid out as `abstract_params` says, what they are) of a training artifact or Hugging Face directory.

    tokens: what is going to be trained on. Raises UserError where `directory` is neither, where a parameter's shape
    differs, or the artifact's tokenizer is not that of the tokens.
    """
    artifact = Artifact.read(directory)
    if artifact is None:
        params, _ = load_directory(Path(directory))
        return jax.tree_util.tree_map_with_path(_laid_out, params, abstract_params), directory
    outputs = artifact.manifest["outputs"]
    if "checkpoint" not in outputs:
        raise UserError(f"{directory}: an artifact of {artifact.label}, not a model; name e.g. W/pretrain/base")
    if outputs["tokenizer"]["sha256"] != tokens.manifest["outputs"]["tokenizer"]["sha256"]:
        raise UserError(
            f"{tokens.label}: its tokenizer is not the one that {artifact.label} was trained with; "
            "tokenize the texts again with that one"
        )
    step = outputs["checkpoint"]["step"]
    params = restore_params(artifact.path("checkpoint"), step, abstract_params)
    return params, f"{artifact.label}, step {step}"


def _laid_out(path: Any, value: Any, wanted: jax.ShapeDtypeStruct) -> jax.Array:
    array = np.asarray(value, wanted.dtype)
    if array.shape != wanted.shape:
        raise UserError(
            f"config.training.initial_checkpoint: {jax.tree_util.keystr(path)} is of shape {array.shape}, the model of "
            f"config.model has {wanted.shape}; make config.model and the vocabulary those of the checkpoint"
        )
    return jax.make_array_from_callback(array.shape, wanted.sharding, lambda index: array[index])
