"""Stage `prune`: exercises too like a benchmark's problems are found as in the paper's section 5, and taken out.

It is there where config.prune.problems names problems, between `decontaminate`, which takes out copies, and `tokenize`.
A stage of its own, so that a model that sees no exercises is the same at every match rate: a sweep over
config.prune.match_rate is Table 3, and trains only what stands behind the exercises again.

Every exercise is compared with every problem by

- the match rate of their ASTs (match_rate.py), the highest of the exercise's functions. It alone takes exercises out:
  those that reach config.prune.match_rate with any problem; 0 = none goes. The paper asks for a small distance of
  embeddings too, and does not say how small;
- their words: a whole sentence or solution, or 13 words of a docstring in a row (overlap.py);
- with config.prune.model, their embeddings (nearest.py), for the page only: hosts round differently.
"""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

import pyarrow as pa
from etils import epath

from phi_jax.config import Config
from phi_jax.contamination import syntax
from phi_jax.contamination.held_out import NOT_PARSED, solutions
from phi_jax.contamination.match_rate import Matcher
from phi_jax.contamination.overlap import GRAM, Wording
from phi_jax.evaluation.problems import HELD_OUT, load_problems
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft, write_atomic
from phi_jax.store.python_text import parse

TAUS = (0.95, 0.9, 0.85, 0.8)  # match rates of Table 3
SAME_TEXT, SAME_WORDS = "same text", f"{GRAM} words of a docstring"
# A pair, or an exercise that is not parsed, without task. match_rate: null below the lowest that is asked for. words:
# one of the two above, or both. verdict: which of TAUS the pair reaches, else its words.
_MATCHES = pa.schema({**dict.fromkeys(("id", "task", "words", "verdict"), pa.string()), "match_rate": pa.float64()})


class Likeness:
    """Problems, and what a text has in common with them. texts: of the problems with their solutions, by task."""

    def __init__(self, file: str) -> None:
        """file: of problems, or a built-in benchmark. Raises UserError as `solutions`."""
        _, problems = load_problems(file)
        self._matcher = Matcher([(p.task_id, function) for p in problems for function in solutions(file, p)])
        self._wording = Wording(problems)
        self.texts = {p.task_id: f"{p.prompt}{p.reference}" for p in problems}

    def matches(self, text: str, lowest: float) -> list[documents.Row]:
        """Rows of _MATCHES without ids: the problems that the text has a match rate from `lowest` on or words with."""
        tree, same = parse(text), self._wording.overlap(text)
        words = dict.fromkeys(same.said, SAME_TEXT)
        words |= {task: f"{words[task]}, {SAME_WORDS}" if task in words else SAME_WORDS for task in same.prose}
        rates = {} if tree is None else self._matcher.rates(syntax.functions(tree), lowest)
        found = [
            {"task": task, "match_rate": rates.get(task), "words": words.get(task),
             "verdict": next((f"similar at {tau}" for tau in TAUS if rates.get(task, 0) >= tau), words.get(task))}
            for task in self.texts if task in rates or task in words
        ]  # fmt: skip
        return found if tree else [*found, {"verdict": NOT_PARSED}]


def check(config: Config, name: str) -> None:
    """Raises UserError for problems that cannot be compared with, where a file holds them, and for what is no model."""
    if config.prune.problems != HELD_OUT:
        Likeness(config.prune.problems)
    if config.prune.model:
        from phi_jax.contamination.nearest import check_model

        check_model(config.prune.model)


def prune(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `prune`: inputs "documents" (of `decontaminate`), "problems" where config.prune.problems is "nano".

    Outputs: "exercises" (those that stay), "matches" (every pair with a match rate of TAUS or words in common), "page"
    (for a person to judge), and with config.prune.model "nearest". The facts say of each of TAUS how many exercises of
    the input reach it ("exercises_at") and with which problems: those called similar in Table 3 ("problems_at"). Raises
    UserError as `check`.
    """
    rules, given = config.prune, inputs["documents"].path("exercises")
    held_out = rules.problems == HELD_OUT
    likeness = Likeness(os.fspath(inputs["problems"].path("problems")) if held_out else rules.problems)
    parts, matches = documents.parts(given), draft.directory / "matches"
    find = functools.partial(_matches, parts, likeness, min(TAUS[-1], rules.match_rate or 1))
    documents.write_parts(matches, len(parts), find, _MATCHES, label=draft.label, apart=parts)

    exercises, problems = defaultdict[str, float](float), dict.fromkeys(likeness.texts, 0.0)  # -> highest match rate
    shown = dict[tuple[str, str | None], documents.Row]()
    unparsed = 0
    for row in documents.read(matches, _MATCHES.names):
        if (task := row["task"]) is None:
            unparsed += 1
            continue
        rate = row["match_rate"] = row["match_rate"] or 0.0
        best = shown.setdefault((task, row["words"]), row)
        if rate > best["match_rate"]:
            shown[task, row["words"]] = row
        exercises[row["id"]], problems[task] = max(rate, exercises[row["id"]]), max(rate, problems[task])
    gone = {identifier for identifier, rate in exercises.items() if 0 < rules.match_rate <= rate}
    schema = documents.schema_of(given)
    documents.map_parts(
        given, draft.directory / "exercises", lambda rows: (row for row in rows if row["id"] not in gone), schema.names,
        schema, label=f"{draft.label} writing",
    )  # fmt: skip

    kept, before = documents.add_output(draft, "exercises").rows, documents.totals(given).rows
    documents.add_output(draft, "matches")
    draft.add_facts(
        written_by=inputs["documents"].facts["written_by"],
        problems=len(problems),
        exercises={"documents": before, "kept": kept, "removed": before - kept, "not_parsed": unparsed},
        exercises_at={str(tau): sum(rate >= tau for rate in exercises.values()) for tau in TAUS},
        problems_at={str(tau): [task for task in problems if problems[task] >= tau] for tau in TAUS},
    )
    pairs = list(shown.values())
    if rules.model:
        from phi_jax.contamination.nearest import write_nearest

        pairs += write_nearest(draft.directory / "nearest", parts, likeness.texts, config, draft.label)
        draft.add_output("nearest", "nearest", kind="log")
    write_atomic(draft.directory / "matches.html", _page(pairs, likeness.texts, given))
    draft.add_output("page", "matches.html", kind="log")


def _matches(parts: Sequence[epath.Path], likeness: Likeness, lowest: float, number: int) -> list[documents.Row]:
    rows = documents.read_part(parts[number], ("id", "text"))
    return [{"id": row["id"], **match} for row in rows for match in likeness.matches(row["text"], lowest)]


def _page(pairs: Sequence[documents.Row], problems: Mapping[str, str], exercises: epath.Path) -> str:
    """The pairs side by side, as HTML with nothing to fetch, those most alike first."""
    import jinja2

    one = defaultdict[tuple[str, str], documents.Row](dict)
    for pair in pairs:
        one[pair["task"], pair["id"]] |= pair
    wanted = {identifier for _, identifier in one}
    environment = jinja2.Environment(loader=jinja2.PackageLoader("phi_jax.contamination"), autoescape=True)
    return environment.get_template("side_by_side.html.j2").render(
        pairs=sorted(one.values(), key=lambda pair: -pair.get("match_rate", 0)),
        problems=problems,
        exercises={row["id"]: row["text"] for row in documents.read(exercises) if row["id"] in wanted},
    )
