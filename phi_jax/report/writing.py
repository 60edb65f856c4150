"""What the page says of the synthetic texts and the grades: who gave them, at what cost, how diverse, how agreed."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from phi_jax.report.figures import number, percent, show, table
from phi_jax.tokens import generations

KINDS = ("textbooks", "exercises")
_NOTHING = "nothing to measure"
_SHOWN_NAMES = 6  # of a list; report.json holds all

Facts = Mapping[str, Any]


class Writer(enum.Enum):
    """Who wrote the texts of a `synthesize` artifact."""

    GRAMMAR = "phi_jax's built-in grammar, no LLM"
    MODELS = "language models"
    FILES = "somebody else, a person or a model: they came as files"

    @classmethod
    def of(cls, facts: Facts) -> Writer:
        """facts: of the artifact."""
        return {"grammar": cls.GRAMMAR, "files": cls.FILES}.get(facts["teacher"], cls.MODELS)


def synthesized(stages: Mapping[str, Facts]) -> Facts:
    """The facts of the one `synthesize` artifact among those of all stages."""
    return next(facts for label, facts in stages.items() if label.split("/")[0] == "synthesize")


def models(teachers: Mapping[str, Facts]) -> str:
    """The models of the teachers that a stage asked: "gpt-4o-mini, phi"."""
    return ", ".join(teacher["model"] for teacher in teachers.values())


def author(facts: Facts) -> str:
    """Who wrote, in a few words; behind "written by"."""
    writer = Writer.of(facts)
    return f"language models: {models(facts['teachers'])}" if writer is Writer.MODELS else writer.value


def headline(facts: Facts) -> tuple[str, str]:
    """(figure, what it counts) among those that a reader looks for first."""
    if Writer.of(facts) is Writer.GRAMMAR:
        return number(facts["behaviours"]), "behaviours in the grammar"
    kept = sum(facts[kind]["kept"] for kind in KINDS)
    return number(kept), "texts by language models" if Writer.of(facts) is Writer.MODELS else "texts from files"


def caveat(facts: Facts, benchmark: str) -> str:
    """Why the scores do not compare with the paper's, as far as it lies with the texts."""
    writer = Writer.of(facts)
    if writer is Writer.GRAMMAR:
        test = " and the test" if benchmark == "nano" else ""
        return f"here one grammar wrote the textbooks, the exercises{test}"
    if writer is Writer.MODELS:
        return f"the textbooks and exercises were written by {models(facts['teachers'])}, the paper's by GPT-3.5"
    return "the textbooks and exercises came as files, the paper's were written by GPT-3.5"


def written(facts: Facts) -> str:
    """The section on the texts: who wrote, what was kept, what it cost, how diverse it is."""
    teachers = f'<div class="column">{"".join(_teaching(facts))}</div>'
    return (
        f"<p>Textbooks and exercises were written by {escape(author(facts))}.</p>"
        f'<div class="cards wide">{_card("Texts", _kept(facts))}{teachers}</div>'
        "<h3>How diverse the texts are</h3>"
        '<p class="muted">Measured without a language model, on a sample by hash.</p>'
        f"{_diversity(facts)}{_coverage(facts)}"
    )


def origins(stages: Mapping[str, Facts]) -> str:
    """Of each training run, how much of its tokens people wrote. stages: the facts of all."""
    rows = [
        (label, generations.described(generations.of_training(facts)))
        for label, facts in stages.items()
        if label.split("/")[0] in ("pretrain", "finetune")
    ]
    return (
        "<h3>Who wrote the training tokens</h3>"
        '<p class="muted">Generation 1: by a machine that only people\'s texts taught; n + 1: by one that texts of '
        f'generation n taught.</p><div class="card scroll">{table(rows)}</div>'
    )


def graded(facts: Facts) -> str:
    """A card on the grades that the filter learnt from. facts: of `annotate`."""
    if facts["grader"] == "static":
        rows = [("grader", "a rubric computed from the syntax tree, no LLM"), ("files graded", number(facts["graded"]))]
        return _card("Grades", table(rows))
    agreement = facts["agreement"]
    missing = ", ".join(f"{number(n)} {status}" for status, n in facts["votes_missing"].items())
    rows = [
        ("grader", models(facts["teaching"]["teachers"])),
        ("prompt", _prompt(facts["prompt"])),
        ("files graded", number(facts["graded"])),
        ("votes", number(facts["votes"])),
        ("votes that did not come", missing or "0"),
        ("files with two votes or more", number(agreement["files"])),
        ("agreement of votes, Krippendorff's alpha (1: full, 0: chance)", _shown(agreement["alpha"])),
        ("files whose votes all give the same label", _shown(agreement["same_label"], percent)),
        ("standard deviation of a file's votes, of 0 to 10", _shown(agreement["standard_deviation"])),
        *((f"mean vote of {name}", _shown(mean)) for name, mean in facts["mean_vote_by_teacher"].items()),
        ("files cut to fit", number(facts["cut_files"])),
        ("dollars", _dollars(facts["teaching"]["dollars"])),
    ]
    return _card("Grades", table(rows))


# --- What was kept, and what it cost ---------------------------------------------------------------------------------

_COUNTS = {
    "requested": "lessons asked for",
    "steered": "of these, for topics of which least had passed",
    "second_tries": "lessons asked for a second time",
    "written": "texts checked",
    "boilerplate_removed": "texts with boilerplate cut off",
    "kept": "kept",
    "kept_at_first": "kept of the first tries",
    "kept_at_second": "kept of the second tries",
    "bytes": "bytes kept",
    "set_aside": "set aside",
}


def _kept(facts: Facts) -> str:
    sets = [facts[kind] for kind in KINDS]
    rows = [
        (title, *(number(s[name]) for s in sets))
        for name, title in _COUNTS.items()
        if name in sets[0]  # what there is depends on who wrote
    ]
    reasons = sorted(
        {*sets[0]["reasons"], *sets[1]["reasons"]}, key=lambda r: (-sum(s["reasons"].get(r, 0) for s in sets), r)
    )
    rows += [(f"set aside: {reason}", *(number(s["reasons"].get(reason, 0)) for s in sets)) for reason in reasons]
    if "prompts" in facts:
        rows.append(("prompt", *(_prompt(facts["prompts"][kind]) for kind in KINDS)))
    return _beside(rows)


def _prompt(prompt: Mapping[str, str]) -> str:
    return f"{prompt['version']} ({show(prompt['sha256'])})"


def _teaching(facts: Facts) -> list[str]:
    """A card for each teacher that was asked."""
    cards = []
    for name, each in facts.get("teachers", {}).items():
        outcomes = ("answered", "refused", "filtered", "length", "poisoned")
        titles = ("answered", "refused", "cut by a content filter", "ended by their length", "given up")
        rows = [
            ("model", each["model"]),
            ("asked", {"live": "one by one", "batch": "in batches"}[each["mode"]]),
            ("requests", number(each["requests"])),
            *((title, number(each[outcome])) for outcome, title in zip(outcomes, titles, strict=True)),
            ("tokens read", number(each["prompt_tokens"])),
            ("tokens written", number(each["completion_tokens"])),
            ("dollars", _dollars(each["dollars"])),
            ("prices as of", each["prices_as_of"]),
        ]
        cards.append(_card(f"Teacher {name}", table(rows)))
    return cards


def _dollars(amount: float) -> str:
    """Cents where they say enough, else three digits: $12.30, $0.00123."""
    return f"${amount:,.2f}" if amount >= 1 or not amount else f"${amount:.3g}"


# --- Diversity -------------------------------------------------------------------------------------------------------

# Figure -> (title, what it means, which way is more diverse).
_DIVERSITY = {
    "distinct_1": ("distinct words", "different ones among all words", "higher"),
    "distinct_2": ("distinct pairs of words", "different ones among all pairs of successive words", "higher"),
    "distinct_3": ("distinct runs of three words", "the same of three", "higher"),
    "distinct_4": ("distinct runs of four words", "the same of four", "higher"),
    "compression_ratio": ("compression ratio", "bytes before gzip over bytes after: it finds repeats", "lower"),
    "cosine_distance": (
        "distance of two texts",
        "mean of 1 - cosine of their vectors, TF-IDF and truncated SVD: they see vocabulary, hardly meaning",
        "higher",
    ),
    "effective_texts": (
        "effective number of texts",
        "Vendi score of these vectors: so many texts with nothing in common would be as diverse",
        "higher",
    ),
    "alike_openings": ("texts that begin alike", "share whose first five words another text begins with too", "lower"),
}


def _diversity(facts: Facts) -> str:
    sets = [facts[kind]["diversity"] for kind in KINDS]
    rows: list[tuple[str, ...]] = []
    for name, (title, meaning, direction) in _DIVERSITY.items():
        form = percent if name == "alike_openings" else number
        explained = f"{title}\n{meaning}; {direction} is more diverse"
        rows.append((explained, *(_shown(s[name], form) for s in sets)))
    openings = (s["commonest_opening"] for s in sets)
    rows += [
        (
            "commonest opening\nand the share of texts that have it",
            *(f'"{found["words"]}" {percent(found["share"])}' if found else _NOTHING for found in openings),
        ),
        (
            "words looked at\nfor runs of words and compression, which compare where as many were",
            *(number(s["words"]) for s in sets),
        ),
        (
            "texts looked at\nfor the others, which compare where as many were",
            *(f"{number(s['sampled'])} of {number(s['texts'])}" for s in sets),
        ),
    ]
    return f'<div class="card scroll">{_beside(rows)}</div>'


def _listed(names: Sequence[str]) -> str:
    more = [f"{len(names) - _SHOWN_NAMES} more"] if len(names) > _SHOWN_NAMES else []
    return ", ".join([*names[:_SHOWN_NAMES], *more]) or "none"


_COVERAGE: dict[str, tuple[str, Callable[[Any], str]]] = {
    "areas": ("areas taught\nof all that there are", percent),
    "topics": ("topics taught\nof all that there are", percent),
    "area_evenness": ("evenness of areas\nentropy over the largest possible; 1: each equally often", number),
    "topic_evenness": ("evenness of topics\nas above", number),
    "thin_areas": ("areas below half of their even share", _listed),
}


def _coverage(facts: Facts) -> str:
    """Nothing where no text was written for a lesson."""
    sets = [facts[kind]["diversity"].get("coverage") for kind in KINDS]
    if not any(sets):
        return ""
    rows = [
        (title, *("" if found is None else form(found[name]) for found in sets))
        for name, (title, form) in _COVERAGE.items()
    ]
    return f'<h3>Coverage of the curriculum</h3><div class="card scroll">{_beside(rows)}</div>'


def _shown(value: float | None, form: Callable[[float], str] = number) -> str:
    return _NOTHING if value is None else form(value)


# --- HTML ------------------------------------------------------------------------------------------------------------


def _card(title: str, body: str) -> str:
    return f'<div class="card scroll"><h3>{escape(title)}</h3>{body}</div>'


def _beside(rows: Sequence[Sequence[str]]) -> str:
    """Textbooks and exercises side by side. A row: name, a newline before what explains it, and the two figures."""
    lines = []
    for name, *figures in rows:
        title, _, meaning = name.partition("\n")
        explained = f'<br><span class="muted">{escape(meaning)}</span>' if meaning else ""
        cells = "".join(f'<td class="number">{escape(f)}</td>' for f in figures)
        lines.append(f"<tr><td>{escape(title)}{explained}</td>{cells}</tr>")
    head = "".join(f'<th class="number">{kind}</th>' for kind in KINDS)
    return f'<table class="beside"><tr><th></th>{head}</tr>{"".join(lines)}</table>'
