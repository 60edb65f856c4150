"""From a training artifact to a Hugging Face directory, and from either of the two to a model in memory."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.model.phi import Params, PhiConfig, abstract_params
from phi_jax.store.artifact import Artifact, Draft
from phi_jax.weights.architecture import leaves_of
from phi_jax.weights.card import model_card, scores_of
from phi_jax.weights.checkpoints import open_params, restore_params
from phi_jax.weights.huggingface import ARCHITECTURES, check_target, export_model, load_directory

if TYPE_CHECKING:
    from phi_jax.tokens.tokenizer import Tokenizer


def export(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `export`: inputs {"checkpoint": a training artifact} -> output "model", a Hugging Face directory."""
    target = Path(draft.directory) / "model"
    shutil.rmtree(target, ignore_errors=True)
    rules = config.export
    parameters = _export(
        inputs["checkpoint"], target, name=draft.name, architecture="phi", dtype=rules.dtype, licence=rules.license
    )
    draft.add_output("model", "model")
    draft.add_facts(dtype=rules.dtype, parameters=parameters)


def export_checkpoint(
    checkpoint: str, directory: str, *, dtype: str, architecture: str | None, licence: str, gguf: bool
) -> None:
    """The tool form: exports the training artifact at `checkpoint`, e.g. W/pretrain/base, to a new directory.

    architecture: None = the one it was imported from, else phi. gguf: a GGUF file of the same weights lies in it too.
    The model card holds the scores of the artifact's evaluations in its work directory. Raises UserError where there is
    no whole artifact, where a file of it was changed, the target exists, or the architecture cannot hold it.
    """
    artifact = Artifact.read(checkpoint)
    if artifact is None:
        raise UserError(f"--checkpoint {checkpoint}: no whole training artifact there; name e.g. W/pretrain/base")
    check_target(Path(directory))
    artifact.verify()
    chosen = architecture or artifact.facts.get("architecture", "phi")
    if gguf and chosen != "phi":
        raise UserError(f"--gguf: llama.cpp has no architecture for a {chosen}; add --architecture phi")
    _export(
        artifact, Path(directory), name=Path(directory).name, architecture=chosen, dtype=dtype, licence=licence,
        scores=scores_of(artifact, artifact.directory.parent.parent), gguf=gguf,
    )  # fmt: skip


def load_model(directory: str | Path) -> tuple[Params, PhiConfig, Tokenizer]:
    """(parameters, shape, tokenizer) of a Hugging Face directory or of a training artifact.

    Raises UserError where `directory` is neither.
    """
    from phi_jax.tokens.tokenizer import Tokenizer

    artifact = Artifact.read(directory)
    if artifact is None:
        params, config = load_directory(Path(directory))
        return params, config, Tokenizer.load(Path(directory))
    if "checkpoint" not in artifact.manifest["outputs"]:
        raise UserError(f"{directory}: an artifact of {artifact.label}, not a model; name e.g. W/pretrain/base")
    config = _shape(artifact)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), abstract_params(config))
    params = restore_params(artifact.path("checkpoint"), _step(artifact), abstract)
    return params, config, Tokenizer.load(Path(artifact.path("tokenizer")))


def _export(
    artifact: Artifact,
    directory: Path,
    *,
    name: str,
    architecture: str,
    dtype: str,
    licence: str,
    scores: Sequence[Mapping[str, Any]] = (),
    gguf: bool = False,
) -> int:
    """Returns the number of parameters."""
    from phi_jax.tokens.tokenizer import Tokenizer

    written = [name for name, known in ARCHITECTURES.items() if known.write_config]
    if architecture not in written:
        raise UserError(f"--architecture {architecture}: cannot be written; use one of {', '.join(written)}")
    config = _shape(artifact)
    abstract = abstract_params(config)
    parameters = sum(int(np.prod(leaf.shape)) for _, leaf in leaves_of(abstract))
    tokenizer_directory = Path(artifact.path("tokenizer"))
    with open_params(artifact.path("checkpoint"), _step(artifact), abstract) as read_leaf:
        export_model(
            read_leaf, config, directory,
            tokenizer_directory=tokenizer_directory,
            end_of_text_id=Tokenizer.load(tokenizer_directory).end_of_text_id,
            dtype=dtype,
            architecture=ARCHITECTURES[architecture],
            card=model_card(
                artifact, config, name=name, parameters=parameters, dtype=dtype, licence=licence, scores=scores
            ),
            add_files=functools.partial(_add_gguf, f"{name}-{dtype}.gguf") if gguf else None,
        )  # fmt: skip
    return parameters


def _add_gguf(name: str, directory: Path) -> None:
    from phi_jax.weights.gguf import write_gguf

    write_gguf(directory, directory / name)


def _shape(artifact: Artifact) -> PhiConfig:
    if "checkpoint" not in artifact.manifest["outputs"]:
        raise UserError(
            f"{artifact.directory}: an artifact of {artifact.label}, not a model; name e.g. W/pretrain/base"
        )
    return PhiConfig(**json.loads(artifact.path("model").read_text()))


def _step(artifact: Artifact) -> int:
    return artifact.manifest["outputs"]["checkpoint"]["step"]
