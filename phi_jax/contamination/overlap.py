"""Words that a text has in common with the held-out problems: a sentence, a solution's lines, 13 words in a row."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections import defaultdict
from collections.abc import Sequence

from phi_jax.contamination import syntax
from phi_jax.evaluation.problems import Problem

SENTENCE_WORDS = 6
SOLUTION_TOKENS = 8
GRAM = 13
_ANCHOR = 4  # words that lead from a text to the sentences and grams it may hold
_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_COMMENT_MARK = re.compile(r"^[ \t]*#+", re.MULTILINE)

Gram = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Overlap:
    """What a text has in common with the problems, as task_ids."""

    said: list[str]  # a problem's sentence or solution
    prose: list[str]  # 13 words of a docstring's prose
    prompts: list[str]  # 13 words of a prompt, its code included


@dataclasses.dataclass(frozen=True)
class Wording:
    """The problems' words, indexed for looking them up."""

    sentences: dict[Gram, list[tuple[str, re.Pattern[str]]]]  # by their words
    lengths: dict[Gram, list[int]]  # of the sentences that begin with these words
    solutions: dict[str, list[tuple[str, str]]]  # by their longest line: (task_id, lines)
    grams: dict[Gram, tuple[str, bool]]  # -> (task_id, whether it is of the docstring's prose)
    anchors: frozenset[Gram]

    def overlap(self, text: str) -> Overlap:
        """What `text` has in common with the problems."""
        words = _WORD.findall(text.lower())
        fours = zip(words, words[1:], words[2:], words[3:], strict=False)
        anchors = self.anchors
        patterns: dict[str, re.Pattern[str]] = {}
        shared: dict[str, bool] = {}
        for start in [i for i, four in enumerate(fours) if four in anchors]:
            for length in self.lengths.get(tuple(words[start : start + _ANCHOR]), ()):
                patterns.update(self.sentences.get(tuple(words[start : start + length]), ()))
            task, in_prose = self.grams.get(tuple(words[start : start + GRAM]), ("", False))
            if task:
                shared[task] = shared.get(task, False) or in_prose
        said = []
        if patterns:
            collapsed = _collapsed(text)
            said = [task for task, pattern in patterns.items() if pattern.search(collapsed)]
        lines = [line for line in _lines(text) if line]
        candidates = self.solutions.keys() & set(lines)
        if candidates:
            whole = "\n".join(["", *lines, ""])
            for line in sorted(candidates):
                said += [task for task, solution in self.solutions[line] if solution in whole]
        return Overlap(said, [task for task, in_prose in shared.items() if in_prose], list(shared))


def wording(problems: Sequence[Problem]) -> Wording:
    """Indexes the sentences and solutions that are long enough, and the 13-grams of prompts.

    Problems must parse with their solutions. Examples (>>>) in a docstring are no part of its prose.
    """
    sentences: dict[Gram, list[tuple[str, re.Pattern[str]]]] = defaultdict(list)
    lengths: dict[Gram, list[int]] = defaultdict(list)
    solutions: dict[str, list[tuple[str, str]]] = defaultdict(list)
    grams: dict[Gram, tuple[str, bool]] = {}
    for problem in problems:
        prose = _prose(problem)
        sentence = re.split(r"(?<=[.!?])\s", _collapsed(prose), maxsplit=1)[0]
        words = tuple(_WORD.findall(sentence))
        if len(words) >= SENTENCE_WORDS:
            # A sentence without a full stop must not be found at the head of a longer one.
            end = "" if sentence.endswith((".", "!", "?")) else r"(?! ?\w)"
            sentences[words].append((problem.task_id, re.compile(r"(?<!\w)" + re.escape(sentence) + end)))
            if len(words) not in lengths[words[:_ANCHOR]]:
                lengths[words[:_ANCHOR]].append(len(words))
        lines = [line for line in _lines(problem.reference or "") if line]
        if len(_TOKEN.findall(" ".join(lines))) >= SOLUTION_TOKENS:
            solutions[max(lines, key=len)].append((problem.task_id, "\n".join(["", *lines, ""])))
    # Prose first: a gram of one problem's prose may be in another's prompt.
    for in_prose in (True, False):
        for problem in problems:
            text = _prose(problem) if in_prose else _without_examples(problem.prompt)
            found = _WORD.findall(text.lower())
            for gram in zip(*(found[i:] for i in range(GRAM)), strict=False):
                grams.setdefault(gram, (problem.task_id, in_prose))
    return Wording(
        sentences=dict(sentences),
        lengths=dict(lengths),
        solutions=dict(solutions),
        grams=grams,
        anchors=frozenset([*lengths, *(gram[:_ANCHOR] for gram in grams)]),
    )


def _prose(problem: Problem) -> str:
    tree = ast.parse(problem.prompt + (problem.reference or ""))
    nodes = [f for f in syntax.functions(tree) if f.name == problem.entry_point]
    return _without_examples(ast.get_docstring(nodes[-1]) or "") if nodes else ""


def _without_examples(text: str) -> str:
    kept, example = [], False
    for line in text.splitlines():
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if not example:
            kept.append(line)
    return "\n".join(kept)


def _collapsed(text: str) -> str:
    """Lower case, whitespace runs as one space, marks at the head of comment lines gone."""
    return " ".join(_COMMENT_MARK.sub(" ", text).lower().split())


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in _COMMENT_MARK.sub("", text).splitlines()]
