"""The model card of an export: what the manifests of a run say about its data, training, scores, licences and limits.

A figure that no manifest holds is not on the card. What varies with time or host is left out, so that the same model
has the same card.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from phi_jax.model.phi import PhiConfig
from phi_jax.store import artifact
from phi_jax.store.artifact import Artifact
from phi_jax.tokens import generations

_MOST_LICENCES = 12  # rows of the table of licences


def model_card(
    model: Artifact,
    config: PhiConfig,
    *,
    name: str,
    parameters: int,
    dtype: str,
    licence: str,
    scores: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Markdown with the front matter that the Hub reads.

    model: a training artifact. name: what the card calls it. licence: an SPDX id in lower case, or "other". scores:
    entries of scores.json.
    """
    made = [*lineage(model), model]
    front = [f"license: {json.dumps(licence)}", f"model_name: {json.dumps(name)}", "language: en"]
    front += ["library_name: transformers", "pipeline_tag: text-generation", "tags:", "- code", "- phi_jax"]
    parts = [
        "---\n" + "\n".join(front) + "\n---",
        f"# {name}",
        _summary(config, parameters, dtype),
        "## Use\n\n" + _USE,
        "## How it was made\n\n" + _table(("stage", "what it did", "identity"), list(_history(made))),
        "## Scores\n\n" + _scores(scores),
        "## Licences\n\n" + _licences(made, licence),
        "## Limits\n\n" + _limits(made, config),
    ]
    return "\n\n".join(parts) + "\n"


def lineage(model: Artifact) -> list[Artifact]:
    """Every artifact that `model` was made from and that lies in its work directory unchanged, the first made first."""
    workdir = model.directory
    for _ in filter(None, (model.manifest["stage"], model.manifest["name"])):
        workdir = workdir.parent
    found: dict[str, Artifact] = {}

    def visit(made: Artifact) -> None:
        for source in made.manifest["inputs"].values():
            at = artifact.find(workdir, *_parts(source["artifact"]))
            if at is not None and at.identity == source["identity"] and at.label not in found:
                visit(at)
                found[at.label] = at

    visit(model)
    return list(found.values())


def scores_of(model: Artifact, workdir: epath.PathLike) -> list[dict[str, Any]]:
    """The entries of scores.json of every evaluation of this very model in a work directory."""
    found: list[dict[str, Any]] = []
    root = epath.Path(workdir) / "evaluate"
    for directory in sorted(root.iterdir()) if root.is_dir() else ():
        evaluated = Artifact.read(directory) if directory.is_dir() else None
        if evaluated is None or evaluated.manifest["stage"] != "evaluate":
            continue
        exported = evaluated.manifest["inputs"]["model"]
        at = artifact.find(workdir, *_parts(exported["artifact"]))
        if at is None or at.identity != exported["identity"]:
            continue
        if at.manifest["inputs"]["checkpoint"]["identity"] == model.identity:
            found += json.loads(evaluated.path("scores.json").read_text())
    return found


def _parts(label: str) -> tuple[str, str]:
    stage, _, name = label.partition("/")
    return stage, name


# --- The sections ----------------------------------------------------------------------------------------------

_USE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

directory = "."  # where this card lies
model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
prompt = tokenizer("def add(a, b):", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=64)[0]))
```

A prompt should not end in a newline: in training text, the newline and the indentation behind it are other tokens."""


def _summary(config: PhiConfig, parameters: int, dtype: str) -> str:
    return (
        f"A language model of Python code: a phi of {parameters:,} parameters ({config.num_layers} layers, width "
        f"{config.hidden_size}, {config.num_heads} heads of {config.head_dim}, {config.rotary_dim} of them rotary, "
        f"context {config.max_seq_len} tokens, vocabulary {config.vocab_size:,}), weights in {dtype}. Written by "
        "phi_jax, an open reimplementation of phi-1 (Textbooks Are All You Need, arXiv 2306.11644)."
    )


def _history(made: Sequence[Artifact]) -> Iterator[tuple[str, str, str]]:
    for each in made:
        describe = _DESCRIPTIONS.get(each.manifest["stage"])
        if describe is not None:
            yield f"`{each.label}`", describe(each), f"`{each.identity[:12]}`"


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
    chosen = (
        "No licence was chosen for these weights (`config.export.license`)."
        if licence == "other"
        else f"These weights: {licence}."
    )
    counts = next((a.facts["by_license"] for a in made if "by_license" in a.facts), None)
    if not counts:
        return f"{chosen} The licences of the training texts are not known here."
    rows = [(name, f"{count:,}") for name, count in list(counts.items())[:_MOST_LICENCES]]
    rest = sum(counts.values()) - sum(list(counts.values())[:_MOST_LICENCES])
    rows += [("others", f"{rest:,}")] if rest else []
    return f"{chosen} The files that were collected, by what their sources name:\n\n" + _table(
        ("licence", "files"), rows
    )


def _limits(made: Sequence[Artifact], config: PhiConfig) -> str:
    limits = [
        "It completes Python code; it was not trained to follow instructions or to chat.",
        "What it writes may be wrong, insecure, or copied from its training texts. Run it only in a sandbox.",
        f"It sees {config.max_seq_len} tokens of context.",
        "Its training texts may carry bias, names and secrets of those who wrote them.",
    ]
    for each in made:
        of_stage = {"synthesize": _limit_of_texts, "annotate": _limit_of_grades}.get(each.manifest["stage"])
        if of_stage is not None:
            limits.append(of_stage(each.facts))
    limits.append(_limit_of_teaching(made))
    return "\n".join(f"- {limit}" for limit in limits)


def _limit_of_texts(facts: Mapping[str, Any]) -> str:
    if facts["teacher"] == "grammar":
        return (
            "Its textbooks and exercises were written by phi_jax's built-in grammar, not by a language model: it knows "
            "that grammar's programs, and its scores on problems of that grammar say little about others."
        )
    if facts["teacher"] == "files":
        return (
            "Its textbooks and exercises came as files: who or what wrote them, and on what terms, is not known here."
        )
    return (
        f"Its textbooks and exercises were written by language models ({_models(facts['teachers'])}): it has learnt "
        "their mistakes with the rest, and their terms may restrict what it is used for."
    )


def _limit_of_grades(facts: Mapping[str, Any]) -> str:
    if facts["grader"] == "static":
        return "Its code was filtered by grades computed from syntax, not by a language model's."
    return f"Its code was filtered by grades that language models gave ({_models(facts['teaching']['teachers'])})."


def _limit_of_teaching(made: Sequence[Artifact]) -> str:
    """What must be known before it writes texts that another model learns from."""
    trained = {a.label: a for a in made if a.manifest["stage"] in ("pretrain", "finetune")}
    known = all(_start(a) in ("", *trained) for a in trained.values())
    written = generations.of_writings(generations.of_training(a.facts) for a in trained.values()) if known else None
    if written is None:
        return "How far its training texts are from people's is not known: let nothing it writes teach another model."
    return (
        f"What it writes is of generation {written} (0: people's): say so where it teaches another model "
        "(`config.teachers.<name>.generation`), and keep people's texts in what that learns from."
    )


def _start(trained: Artifact) -> str:
    """What the weights were before: label of an artifact, or a place outside the work directory; "" = fresh."""
    if trained.manifest["stage"] == "finetune":
        return trained.manifest["inputs"]["checkpoint"]["artifact"]
    return trained.manifest["config"]["training"].get("initial_checkpoint", "")


def _models(teachers: Mapping[str, Any]) -> str:
    """teachers: as teacher/faculty.py notes them in an artifact's facts."""
    return ", ".join(f"`{teacher['model']}`" for teacher in teachers.values())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


# --- What each stage did, in a sentence ------------------------------------------------------------------------


def _collect(a: Artifact) -> str:
    f = a.facts
    return (
        f"kept {f['kept']:,} of {f['files']:,} Python files, {f['bytes']:,} bytes, from {len(f['by_source'])} sources"
    )


def _dedup(a: Artifact) -> str:
    f = a.facts
    return f"left {f['kept']:,} of {f['documents']:,}: {f['exact']:,} exact and {f['near']:,} near copies went"


def _synthesize(a: Artifact) -> str:
    f = a.facts
    kept = f"{f['textbooks']['kept']:,} textbook sections and {f['exercises']['kept']:,} exercises"
    if f["teacher"] == "grammar":
        return f"the built-in grammar, no language model, wrote {kept}"
    if f["teacher"] == "files":
        return f"took {kept} from files"
    return f"{_models(f['teachers'])} wrote {kept}"


def _decontaminate(a: Artifact) -> str:
    removed = sum(v["removed"] for v in a.facts.values() if isinstance(v, dict))
    return f"removed {removed:,} texts that hold what {a.facts['problems']:,} benchmark problems ask for"


def _annotate(a: Artifact) -> str:
    f = a.facts
    if f["grader"] == "static":
        return f"graded {f['graded']:,} files by a rubric computed from syntax, no language model"
    alpha = f["agreement"]["alpha"]
    agreed = "" if alpha is None else f", Krippendorff's alpha {alpha:.2f}"
    return f"{_models(f['teaching']['teachers'])} graded {f['graded']:,} files by {f['votes']:,} votes{agreed}"


def _filter(a: Artifact) -> str:
    f = a.facts
    return f"a classifier taught by those grades kept {f['kept']:,} of {f['scored']:,} files, {f['tokens']:,} tokens"


def _tokenize(a: Artifact) -> str:
    return f"{a.facts['tokens']:,} tokens, tokenizer of {a.facts['vocab_size']:,} entries"


def _training(a: Artifact) -> str:
    f = a.facts
    section = a.manifest["config"].get(a.manifest["stage"], {})
    rules = {**a.manifest["config"]["training"], **section}
    outside = _start(a) if a.manifest["stage"] == "pretrain" else ""
    weights = f"from the weights of `{epath.Path(outside).name}`: " if outside else ""
    taken = a.manifest["outputs"]["checkpoint"]["step"]
    return (
        f"{weights}{f['steps']:,} steps of {rules['global_batch_size']} sequences, {f['tokens']:,} tokens "
        f"({f['epochs']:g} epochs), peak learning rate {rules['learning_rate']:g}, step {taken:,} taken; of the tokens "
        f"{generations.described(generations.of_training(f))}"
    )


def _import(a: Artifact) -> str:
    f = a.facts
    return f"weights of `{f['source']}`, a {f['architecture']} published in {f['dtype']}"


_DESCRIPTIONS: dict[str, Callable[[Artifact], str]] = {
    "collect": _collect,
    "dedup": _dedup,
    "synthesize": _synthesize,
    "decontaminate": _decontaminate,
    "annotate": _annotate,
    "filter": _filter,
    "tokenize": _tokenize,
    "pretrain": _training,
    "finetune": _training,
    "import": _import,
}
