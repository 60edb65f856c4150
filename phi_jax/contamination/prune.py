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

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence

import pyarrow as pa
from etils.epath import Path

from phi_jax.config import Config
from phi_jax.contamination import syntax
from phi_jax.contamination.held_out import NOT_PARSED, solutions
from phi_jax.contamination.match_rate import Matcher
from phi_jax.contamination.overlap import GRAM, Wording
from phi_jax.evaluation.problems import HELD_OUT, load_problems
from phi_jax.store import documents
from phi_jax.store.artifact import Draft, Inputs, write_atomic
from phi_jax.store.python_text import parse

TAUS = (0.95, 0.9, 0.85, 0.8)  # match rates of Table 3
SAME_TEXT, SAME_WORDS = "same text", f"{GRAM} words of a docstring"
# A pair, or an exercise that is not parsed, without task. match_rate: 0 below the lowest that is asked for. words: one
# of the two above, both, or "". verdict: which of TAUS the pair reaches, else its words.
MATCHES = pa.schema({**dict.fromkeys(("id", "task", "words", "verdict"), pa.string()), "match_rate": pa.float64()})


class Likeness:
    """Problems, and what a text has in common with them. texts: of the problems with their solutions, by task."""

    def __init__(self, file: str) -> None:
        """file: of problems, or a built-in benchmark. Raises UserError as `solutions`."""
        _, problems = load_problems(file)
        self.matcher = Matcher((p.task_id, function) for p in problems for function in solutions(file, p))
        self._wording = Wording(problems)
        self.texts = {p.task_id: f"{p.prompt}{p.reference}" for p in problems}

    def matches(self, text: str, lowest: float) -> list[documents.Row]:
        """Rows of MATCHES without ids: the problems that the text has a match rate from `lowest` on or words with."""
        tree, same = parse(text), self._wording.overlap(text)
        rates = self.matcher.rates(syntax.functions(tree), lowest) if tree else {}
        found = [] if tree else [{"match_rate": 0.0, "words": "", "verdict": NOT_PARSED}]
        for task in sorted({*rates, *same.said, *same.prose}):
            rate, said = rates.get(task, 0.0), ((SAME_TEXT, same.said), (SAME_WORDS, same.prose))
            words = ", ".join(name for name, tasks in said if task in tasks)
            verdict = next((f"similar at {tau}" for tau in TAUS if rate >= tau), words)
            found.append({"task": task, "match_rate": rate, "words": words, "verdict": verdict})
        return found


def check(config: Config, name: str) -> None:
    """Raises UserError for problems that cannot be compared with, where a file holds them, and for what is no model."""
    if config.prune.problems != HELD_OUT:
        Likeness(config.prune.problems)
    if config.prune.model:
        from phi_jax.weights.models import shape_of

        shape_of(config.prune.model)


def prune(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `prune`: inputs "documents" (of `decontaminate`), "problems" where config.prune.problems is "nano".

    Outputs: "exercises" (those that stay), "matches" (every pair with a match rate of TAUS or words in common), "page"
    (for a person to judge), and with config.prune.model "nearest". The facts say of each of TAUS how many exercises of
    the input reach it ("exercises_at") and with which problems: those called similar in Table 3 ("problems_at"). Raises
    UserError as `check`.
    """
    rules, given, matches = config.prune, inputs["documents"].path("exercises"), draft.directory / "matches"
    likeness = Likeness(str(inputs["problems"].path("problems")) if rules.problems == HELD_OUT else rules.problems)
    parts, kept = documents.parts(given), draft.directory / "exercises"
    find = functools.partial(_prune, parts, kept, likeness, rules.match_rate)
    documents.write_parts(matches, len(parts), find, MATCHES, label=draft.label, apart=parts)

    rows = sorted(documents.read(matches, MATCHES.names), key=lambda row: row["match_rate"])
    at = {str(tau): [row for row in rows if row["match_rate"] >= tau] for tau in TAUS}
    documents.add_output(draft, "matches")
    draft.add_facts(
        written_by=inputs["documents"].facts["written_by"],
        problems=len(likeness.texts),
        documents=documents.totals(given).rows,
        kept=documents.add_output(draft, "exercises").rows,
        not_parsed=sum(row["task"] is None for row in rows),
        exercises_at={tau: len({row["id"] for row in found}) for tau, found in at.items()},
        problems_at={tau: sorted({row["task"] for row in found}) for tau, found in at.items()},
    )
    # Of each problem those of the highest match rate: with words in common, and without.
    pairs = [*{(row["task"], row["words"]): row for row in rows if row["task"]}.values()]
    if rules.model:
        from phi_jax.contamination.nearest import write_nearest

        pairs += write_nearest(draft.directory / "nearest", parts, likeness.texts, config, draft.label)
        draft.add_output("nearest", "nearest", kind="log")
    write_atomic(draft.directory / "matches.html", _page(pairs, likeness.texts, given))
    draft.add_output("page", "matches.html", kind="log")


def _prune(parts: Sequence[Path], kept: Path, likeness: Likeness, limit: float, number: int) -> list[documents.Row]:
    """The matches in a part. They are written behind the exercises that stay: where they are both are."""
    stay, found = [], []
    schema = documents.schema_of(parts[number])
    for row in documents.read_part(parts[number], schema.names):
        matches = likeness.matches(row["text"], min(TAUS[-1], limit or 1))
        found += [{"id": row["id"], **match} for match in matches]
        if not any(0 < limit <= match["match_rate"] for match in matches):
            stay.append(row)
    documents.write_part(kept, number, stay, schema)
    return found


def _page(pairs: Sequence[documents.Row], problems: Mapping[str, str], exercises: Path) -> str:
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
