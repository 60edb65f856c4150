"""The one way to open a model: a Hugging Face directory, a training artifact, or a select artifact."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from phi_jax.errors import UserError
from phi_jax.model.phi import Params, PhiConfig, abstract_params
from phi_jax.store.artifact import MANIFEST, Artifact, file_digest
from phi_jax.store.rows import read_object
from phi_jax.tokens.tokenizer import Tokenizer
from phi_jax.weights.checkpoints import Checkpoints
from phi_jax.weights.huggingface import load_directory, load_tokenizer, read_architecture

Loaded = tuple[Params, PhiConfig, Tokenizer]  # a model in memory; its parameters are float32 numpy arrays


def load_model(directory: epath.PathLike, *, step: int | None = None) -> Loaded:
    """(parameters, shape, tokenizer) of a model.

    directory: in Hugging Face's format, or of a training or select artifact. step: of an artifact's saves; None = the
    one it hands on. Raises UserError where there is no model, or it is damaged.
    """
    if Artifact.read(directory) is None:
        params, config = load_directory(Path(directory))
        return params, config, load_tokenizer(Path(directory), config)
    training, handed_on = open_training(directory)
    chosen = handed_on if step is None else step
    with open_save(training, chosen) as (checkpoints, config):
        params = checkpoints.restore_params(chosen, abstract_params(config))
    return params, config, Tokenizer.load(Path(verified(training, "tokenizer")))


def shape_of(directory: epath.PathLike) -> PhiConfig:
    """The shape of a model, in a directory as `load_model` takes it. Raises UserError where there is no model."""
    if Artifact.read(directory) is None:
        return read_architecture(Path(directory))[1]
    return _shape_of(open_training(directory)[0])


def _shape_of(training: Artifact) -> PhiConfig:
    return PhiConfig(**read_object(verified(training, "model")))


@contextlib.contextmanager
def open_save(training: Artifact, step: int) -> Iterator[tuple[Checkpoints, PhiConfig]]:
    """(checkpoints, shape) of a training artifact, for reading. Raises UserError where `step` is not kept, or
    is not what the manifest says.
    """
    config = _shape_of(training)
    with Checkpoints(training.path("checkpoint"), read_only=True) as checkpoints:
        if step not in checkpoints.steps():
            raise UserError(f"{training.directory}: step {step} is not kept; those are: {checkpoints.steps()}")
        made = training.manifest["outputs"]["checkpoint"]
        if step == made["step"] and checkpoints.identity(step) != made["sha256"]:
            raise UserError(f"{training.directory}: its step {step} is another run's save; put back a good copy")
        yield checkpoints, config


def open_training(model: epath.PathLike | Artifact) -> tuple[Artifact, int]:
    """(training artifact, step) of a training artifact, or of a select artifact, which stands for its training.

    Raises UserError where `model` is neither, and where what a select artifact chose from is gone or made again.
    """
    found = model if isinstance(model, Artifact) else Artifact.read(model)
    if found is None:
        raise UserError(f"{model}: no whole training artifact there; name e.g. W/pretrain/base")
    outputs = found.manifest["outputs"]
    if "choice" in outputs:
        source = found.manifest["inputs"]["training"]
        training = Artifact.read(found.directory.parent.parent / source["artifact"])
        if training is None or training.identity != source["identity"]:
            raise UserError(
                f"{found.label}: {source['artifact']}, of which it chose a step, is gone or was made again; run again"
            )
        return training, read_object(verified(found, "choice"))["step"]
    if "checkpoint" not in outputs:
        raise UserError(
            f"{found.directory}: an artifact of {found.label}, not a model; name e.g. W/pretrain/base or "
            "W/export/base/model"
        )
    return found, outputs["checkpoint"]["step"]


def tokenizer_of(artifact: Artifact) -> str:
    """The digest of the tokenizer that an artifact holds."""
    return artifact.manifest["outputs"]["tokenizer"]["sha256"]


def verified(artifact: Artifact, output: str) -> epath.Path:
    """Where an output of few bytes lies. Raises UserError where a file of it is not what the manifest says."""
    place = artifact.path(output)
    for name, expected in artifact.manifest["files"].items():
        file = artifact.directory / name
        inside = file == place or place in file.parents
        if inside and (not file.exists() or file_digest(file) != expected["sha256"]):
            raise UserError(f"{file}: not what {MANIFEST} says; put back a good copy, or make {artifact.label} again")
    return place
