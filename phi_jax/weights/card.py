"""The model card of an export: what the manifests of a run say about its data, training, scores, licences and limits.

A figure that no manifest holds is not on the card. What varies with time or host is left out, so that the same model
has the same card.
"""

import json
from collections.abc import Mapping, Sequence

from phi_jax.model.flops import num_params
from phi_jax.model.phi import PhiConfig
from phi_jax.store.artifact import Artifact, Fields, Json
from phi_jax.tokens.data_card import lineage, rendered, source_of
from phi_jax.weights.activations import float16_overflow


def model_card(
    source: Artifact, config: PhiConfig, *, peaks: Mapping[str, float], scores: Sequence[Fields] = (), **about: str
) -> str:
    """Markdown with the front matter that the Hub reads.

    source: a training or select artifact. peaks: of activations (activations.py). scores: entries of scores.json.
    about: "weights", which of it, e.g. "step 7 in float16"; "name", what the card calls the model; "licence", an SPDX
    id in lower case, or "other".
    """
    return rendered(
        "weights/templates/card.md.j2", made=[*lineage(source), source], config=config, scores=scores,
        parameters=num_params(config), peak=next(iter(peaks.items())), beyond=float16_overflow(peaks), **about,
    )  # fmt: skip


def scores_of(model: Artifact) -> list[Json]:
    """The entries of scores.json of every evaluation of this very model in its work directory."""
    found: list[Json] = []
    for directory in sorted((model.directory.parent.parent / "evaluate").glob("*")):
        evaluated = Artifact.read(directory)
        exported = source_of(evaluated, "model") if evaluated else None
        if evaluated and exported and exported.manifest["inputs"]["checkpoint"]["identity"] == model.identity:
            found += json.loads(evaluated.path("scores.json").read_text())
    return found
