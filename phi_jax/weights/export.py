"""From a training artifact to a Hugging Face directory: the stage `export`, and `phi-jax export --checkpoint`."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.model.flops import num_params
from phi_jax.model.phi import abstract_params
from phi_jax.parallel import processes
from phi_jax.store.artifact import Artifact, Draft, Inputs, new_directory, write_atomic
from phi_jax.tokens.tokenizer import Tokenizer
from phi_jax.weights.activations import activation_peaks, float16_overflow
from phi_jax.weights.card import model_card, scores_of
from phi_jax.weights.huggingface import ARCHITECTURES, MODEL_CARD, export_model
from phi_jax.weights.models import open_save, open_training, verified


def export(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `export`: inputs {"checkpoint": a training or select artifact} -> output "model", a Hugging Face directory.

    Fact "parameters": how many numbers the model has.
    """
    target = Path(draft.directory) / "model"
    shutil.rmtree(target, ignore_errors=True)  # of an interrupted run
    rules = config.export
    parameters = _fill(target, inputs["checkpoint"], name=draft.name, dtype=rules.dtype, licence=rules.license)
    draft.add_output("model", "model")
    draft.add_facts(dtype=rules.dtype, parameters=parameters)


def export_checkpoint(
    checkpoint: str, directory: str, *, dtype: str, architecture: str | None, licence: str, gguf: bool
) -> None:
    """The tool form: exports the training or select artifact at `checkpoint`, e.g. W/pretrain/base, to a new directory.

    architecture: None = the one it was imported from, else phi. The model card holds the scores of the artifact's
    evaluations in its work directory. Raises UserError where there is no whole artifact or it is damaged, where the
    target exists, for an empty licence, and where the architecture or dtype cannot hold the model.
    """
    if not licence.strip():
        raise UserError(f"--license {licence!r}: must not be empty; name an SPDX id in lower case, or other")
    training, _ = open_training(checkpoint)
    source = Artifact.read(checkpoint) or training
    chosen = architecture or training.facts.get("architecture", "phi")
    if gguf and chosen != "phi":
        raise UserError(f"--gguf: llama.cpp has no architecture for a {chosen}; add --architecture phi")
    name = Path(directory).resolve().name
    with new_directory(directory) as target:
        scores = scores_of(source)
        _fill(target, source, name=name, dtype=dtype, licence=licence, architecture=chosen, scores=scores)
        if gguf:
            from phi_jax.weights.gguf import write_gguf

            write_gguf(target, target / f"{name if name.rpartition('-')[2] == dtype else f'{name}-{dtype}'}.gguf")


def _fill(
    directory: Path,
    source: Artifact,
    *,
    name: str,
    dtype: str,
    licence: str,
    architecture: str = "phi",
    scores: Sequence[Mapping[str, Any]] = (),
) -> int:
    """Writes model, tokenizer and card, and warns where float16 cannot hold its activations; returns num_params.

    dtype: of every tensor. licence: an SPDX id in lower case, or "other".
    """
    training, step = open_training(source)
    tokenizer = Path(verified(training, "tokenizer"))
    with open_save(training, step) as (checkpoints, config):
        export_model(
            checkpoints.each_param(step, abstract_params(config)), config, directory,
            tokenizer_directory=tokenizer,
            end_of_text_id=Tokenizer.load(tokenizer).end_of_text_id,
            dtype=dtype,
            architecture=ARCHITECTURES[architecture],
        )  # fmt: skip
    peaks = activation_peaks(directory)
    if beyond := float16_overflow(peaks):
        processes.note(f"warning: {name}: in float16 it overflows ({beyond}); use it in bfloat16 or float32 only")
    card = model_card(
        source, config, weights=f"step {step:,} in {dtype}", peaks=peaks, name=name, licence=licence, scores=scores
    )
    write_atomic(directory / MODEL_CARD, card)
    return num_params(config)
