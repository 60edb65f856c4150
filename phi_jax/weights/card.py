"""The model card of an export: what the manifests of a run say about its data, training, scores, licences and limits.

A figure that no manifest holds is not on the card. What varies with time or host is left out, so that the same model
has the same card.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from phi_jax.model.flops import num_params
from phi_jax.model.phi import PhiConfig
from phi_jax.store.artifact import Artifact, find
from phi_jax.weights.activations import float16_overflow

# Stage -> what it did, filled in from its facts. Stages that are not here made no part of the model.
_DID = {
    "collect": "kept {kept:,} of {files:,} Python files, {bytes:,} bytes",
    "dedup": "left {kept:,} of {documents:,} files: {exact:,} exact and {near:,} near copies went",
    "synthesize": "{textbooks[kept]:,} textbook sections and {exercises[kept]:,} exercises, written by {written_by}",
    "decontaminate": "removed the texts that hold what {problems:,} benchmark problems ask for",
    "prune": "kept {kept:,} of {documents:,} exercises, compared with {problems:,} problems",
    "annotate": "graded {graded:,} files",
    "filter": "a classifier taught by those grades kept {kept:,} of {scored:,} files, {tokens:,} tokens",
    "tokenize": "{tokens:,} tokens, tokenizer of {vocab_size:,} entries",
    "pretrain": "{steps:,} steps, {tokens:,} tokens ({epochs:g} epochs)",
    "finetune": "{steps:,} steps, {tokens:,} tokens ({epochs:g} epochs)",
    "select": "chose one of the saves of that training",
    "import": "weights of `{source}`, a {architecture} published in {dtype}",
}


def model_card(
    source: Artifact,
    config: PhiConfig,
    *,
    weights: str,
    peaks: Mapping[str, float],
    name: str,
    licence: str,
    scores: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Markdown with the front matter that the Hub reads.

    source: a training or select artifact. weights: which of it, e.g. "step 7 in float16". peaks: of activations
    (activations.py). name: what the card calls the model. licence: an SPDX id in lower case, or "other". scores:
    entries of scores.json.
    """
    import jinja2

    made = [*lineage(source), source]
    texts = [a.facts for a in made if a.manifest["stage"] == "synthesize"]
    graded = {a.facts.get("grader") == "static" for a in made if a.manifest["stage"] == "annotate"}
    licences: dict[str, int] = next((a.facts["by_license"] for a in made if "by_license" in a.facts), {})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("phi_jax.weights"), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    return environment.get_template("card.md.j2").render(
        config=config, weights=weights, name=name, licence=licence, scores=scores,
        parameters=num_params(config), peak=next(iter(peaks.items())), beyond=float16_overflow(peaks),
        history=[(a.label, _did(a), a.identity[:12]) for a in made if a.manifest["stage"] in _DID],
        licences=list(licences.items()), graded_by_syntax=sorted(graded),
        writers={facts.get("written_by", "files"): facts.get("teachers", {}) for facts in texts},
        given=[(a.label, a.facts) for a in made if a.facts.get("license")],
    )  # fmt: skip


def lineage(model: Artifact) -> list[Artifact]:
    """Every artifact that `model` was made from and that lies in its work directory unchanged, the first made first."""
    found: dict[str, Artifact] = {}
    for name in model.manifest["inputs"]:
        if source := _source(model, name):
            found |= {made.label: made for made in (*lineage(source), source)}
    return list(found.values())


def scores_of(model: Artifact) -> list[dict[str, Any]]:
    """The entries of scores.json of every evaluation of this very model in its work directory."""
    found: list[dict[str, Any]] = []
    for directory in sorted((model.directory.parent.parent / "evaluate").glob("*")):
        evaluated = Artifact.read(directory)
        exported = _source(evaluated, "model") if evaluated else None
        if evaluated and exported and exported.manifest["inputs"]["checkpoint"]["identity"] == model.identity:
            found += json.loads(evaluated.path("scores.json").read_text())
    return found


def _source(made: Artifact, name: str) -> Artifact | None:
    """What an input was, where it lies there unchanged."""
    source = made.manifest["inputs"].get(name, {"artifact": ""})
    stage, _, instance = source["artifact"].partition("/")
    found = find(made.directory.parent.parent, stage, instance) if stage else None
    return found if found and found.identity == source["identity"] else None


def _did(made: Artifact) -> str:
    try:
        did = _DID[made.manifest["stage"]].format(**made.facts)
    except (KeyError, TypeError, ValueError):  # made by a version that notes other facts
        return ""
    share = made.facts.get("people_share")
    return did if share is None else f"{did}; people wrote {100 * share:.1f} % of the tokens"
