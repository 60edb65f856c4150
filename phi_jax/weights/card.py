"""The model card of an export: what the manifests of a run say about its data, training, scores, licences and limits.

A figure that no manifest holds is not on the card. What varies with time or host is left out, so that the same model
has the same card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from phi_jax.model.phi import PhiConfig, abstract_params
from phi_jax.store.artifact import Artifact, find

_MOST_LICENCES = 12  # rows of the table of licences
# Stage -> what it did, filled in from its facts. Stages that are not here made no part of the model.
_DID = {
    "collect": "kept {kept:,} of {files:,} Python files, {bytes:,} bytes",
    "dedup": "left {kept:,} of {documents:,} files: {exact:,} exact and {near:,} near copies went",
    "synthesize": "{textbooks[kept]:,} textbook sections and {exercises[kept]:,} exercises, written by {written_by}",
    "decontaminate": "removed the texts that hold what {problems:,} benchmark problems ask for",
    "annotate": "graded {graded:,} files",
    "filter": "a classifier taught by those grades kept {kept:,} of {scored:,} files, {tokens:,} tokens",
    "tokenize": "{tokens:,} tokens, tokenizer of {vocab_size:,} entries",
    "pretrain": "{steps:,} steps, {tokens:,} tokens ({epochs:g} epochs)",
    "finetune": "{steps:,} steps, {tokens:,} tokens ({epochs:g} epochs)",
    "select": "chose one of the saves of that training",
    "import": "weights of `{source}`, a {architecture} published in {dtype}",
}
_USE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

directory = "."  # where this card lies
model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
prompt = tokenizer("def add(a, b):", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=64)[0]))
```

A prompt should not end in a newline: in training text, the newline and the indentation behind it are other tokens."""
_LIMITS = """\
- It completes Python code; it was not trained to follow instructions or to chat.
- What it writes may be wrong, insecure, or copied from its training texts. Run it only in a sandbox.
- It sees {context} tokens of context.
- Its training texts may carry bias, names and secrets of those who wrote them."""
# Who wrote the textbooks and exercises -> the limit that follows.
_WRITTEN_BY = {
    "grammar": "Its textbooks and exercises were written by phi_jax's built-in grammar, not by a language model: it "
    "knows that grammar's programs, and its scores on problems of that grammar say little about others.",
    "files": "Its textbooks and exercises came as files: who or what wrote them, and on what terms, is not known here.",
}
_BY_MODELS = (
    "Its textbooks and exercises were written by language models ({}): it has learnt their mistakes with the rest, and "
    "their terms may restrict what it is used for."
)


def model_card(
    source: Artifact,
    config: PhiConfig,
    *,
    step: int,
    name: str,
    dtype: str,
    licence: str,
    scores: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Markdown with the front matter that the Hub reads.

    source: a training or select artifact. step: of the save that is exported. name: what the card calls the model.
    licence: an SPDX id in lower case, or "other". scores: entries of scores.json.
    """
    made = [*lineage(source), source]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config)))
    front = [f"license: {json.dumps(licence)}", f"model_name: {json.dumps(name)}", "language: en"]
    front += ["library_name: transformers", "pipeline_tag: text-generation", "tags:", "- code", "- phi_jax"]
    summary = (
        f"A language model of Python code: a phi of {parameters:,} parameters ({config.num_layers} layers, width "
        f"{config.hidden_size}, {config.num_heads} heads of {config.head_dim}, {config.rotary_dim} of them rotary, "
        f"context {config.max_seq_len} tokens, vocabulary {config.vocab_size:,}), weights of step {step:,} in {dtype}. "
        "Written by phi_jax, an open reimplementation of phi-1 (Textbooks Are All You Need, arXiv 2306.11644)."
    )
    history = [(f"`{a.label}`", _did(a), f"`{a.identity[:12]}`") for a in made if a.manifest["stage"] in _DID]
    parts = [
        "---\n" + "\n".join(front) + "\n---",
        f"# {name}",
        summary,
        "## Use\n\n" + _USE,
        "## How it was made\n\n" + _table(("stage", "what it did", "identity"), history),
        "## Scores\n\n" + _scores(scores),
        "## Licences\n\n" + _licences(made, licence),
        "## Limits\n\n" + "\n".join([_LIMITS.format(context=config.max_seq_len), *_limits(made)]),
    ]
    return "\n\n".join(parts) + "\n"


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
    root = model.directory.parent.parent / "evaluate"
    for directory in sorted(root.iterdir()) if root.is_dir() else ():
        evaluated = Artifact.read(directory) if directory.is_dir() else None
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


def _scores(scores: Sequence[Mapping[str, Any]]) -> str:
    if not scores:
        return "None: no evaluation of these weights was at hand when this card was written."
    rows = [
        (
            s["benchmark"],
            f"{s['metric']}, {s['decoding']}, prompt {s['prompt_form']}",
            f"{100 * s['value']:.1f} %",
            f"{100 * s['low']:.1f} % to {100 * s['high']:.1f} %",
            f"{s['problems']:,}",
            f"{s['samples']:,}",
        )
        for s in scores
    ]
    return _table(("benchmark", "metric", "value", "95 % interval", "problems", "samples"), rows)


def _licences(made: Sequence[Artifact], licence: str) -> str:
    chosen = "No licence was chosen for these weights (`config.export.license`)."
    if licence != "other":
        chosen = f"These weights: {licence}."
    counts = next((a.facts["by_license"] for a in made if "by_license" in a.facts), None)
    if not counts:
        return f"{chosen} The licences of the training texts are not known here."
    rows = [(name, f"{count:,}") for name, count in list(counts.items())[:_MOST_LICENCES]]
    if rest := sum(list(counts.values())[_MOST_LICENCES:]):
        rows.append(("others", f"{rest:,}"))
    collected = "The files that were collected, by what their sources name:"
    return f"{chosen} {collected}\n\n" + _table(("licence", "files"), rows)


def _limits(made: Sequence[Artifact]) -> list[str]:
    limits = []
    for each in made:
        if each.manifest["stage"] == "synthesize":
            writer = str(each.facts.get("written_by", "files"))
            models = [f"`{teacher['model']}`" for teacher in each.facts.get("teachers", {}).values()]
            limits.append(_WRITTEN_BY.get(writer, _BY_MODELS.format(", ".join(models) or writer)))
        elif each.manifest["stage"] == "annotate":
            by_syntax = each.facts.get("grader") == "static"
            graded = "computed from syntax, not by a language model" if by_syntax else "that language models gave"
            limits.append(f"Its code was filtered by grades {graded}.")
    return [f"- {limit}" for limit in dict.fromkeys(limits)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
