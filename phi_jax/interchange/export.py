"""From a training artifact to a Hugging Face directory, and from either of the two to a model in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from phi_jax.artifact import Artifact, Draft
from phi_jax.checkpoints import restore_params
from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.interchange.huggingface import export_phi, load_phi
from phi_jax.model.phi import Params, PhiConfig, abstract_params

if TYPE_CHECKING:
    from phi_jax.tokens.tokenizer import Tokenizer


def export(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `export`: inputs {"checkpoint": a training artifact} -> output "model", a Hugging Face directory."""
    target = Path(draft.directory) / "model"
    shutil.rmtree(target, ignore_errors=True)
    parameters = _export(inputs["checkpoint"], target, config.export.dtype)
    draft.add_output("model", "model")
    draft.add_facts(dtype=config.export.dtype, parameters=parameters)


def export_checkpoint(checkpoint: str, directory: str, *, dtype: str) -> None:
    """The tool form: exports the training artifact at `checkpoint`, e.g. W/pretrain/base, to a new directory.

    Raises UserError where there is no whole artifact, where a file of it was changed, or the target exists.
    """
    artifact = Artifact.read(checkpoint)
    if artifact is None:
        raise UserError(f"--checkpoint {checkpoint}: no whole training artifact there; name e.g. W/pretrain/base")
    artifact.verify()
    _export(artifact, Path(directory), dtype)


def load_model(directory: str | Path) -> tuple[Params, PhiConfig, Tokenizer]:
    """(parameters, shape, tokenizer) of a Hugging Face directory or of a training artifact.

    Raises UserError where `directory` is neither.
    """
    from phi_jax.tokens.tokenizer import Tokenizer

    artifact = Artifact.read(directory)
    if artifact is None:
        params, config = load_phi(Path(directory))
        return params, config, Tokenizer.load(Path(directory))
    if "checkpoint" not in artifact.manifest["outputs"]:
        raise UserError(f"{directory}: an artifact of {artifact.label}, not a model; name e.g. W/pretrain/base")
    params, config = _read_checkpoint(artifact)
    return params, config, Tokenizer.load(Path(artifact.path("tokenizer")))


def _export(artifact: Artifact, directory: Path, dtype: str) -> int:
    from phi_jax.tokens.tokenizer import Tokenizer

    params, config = _read_checkpoint(artifact)
    tokenizer_directory = Path(artifact.path("tokenizer"))
    export_phi(
        params, config, directory,
        tokenizer_directory=tokenizer_directory,
        end_of_text_id=Tokenizer.load(tokenizer_directory).end_of_text_id,
        dtype=dtype,
    )  # fmt: skip
    return sum(x.size for x in jax.tree.leaves(params))


def _read_checkpoint(artifact: Artifact) -> tuple[Params, PhiConfig]:
    config = PhiConfig(**json.loads(artifact.path("model").read_text()))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), abstract_params(config))
    step = artifact.manifest["outputs"]["checkpoint"]["step"]
    return restore_params(artifact.path("checkpoint"), step, abstract), config
