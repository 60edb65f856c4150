"""Words that a text has in common with the held-out problems: a sentence, a solution's lines, 13 words in a row.

Comment marks, Markdown's marks at the head of a line, and the escapes of string literals are looked through.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections import defaultdict
from collections.abc import Sequence

from phi_jax.contamination import syntax
from phi_jax.evaluation.problems import Problem
from phi_jax.store.python_text import parse

SENTENCE_WORDS = 6
SOLUTION_TOKENS = 8
GRAM = 13
_ANCHOR = 4  # words that lead from a text to the sentences and grams it may hold
_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_MARK = re.compile(r"^[ \t]*(?:#+|>(?!>)|[-*+] )", re.MULTILINE)  # of a comment, a heading, a quote, a list
_ESCAPES = {r"\r": " ", r"\n": "\n", r"\t": " ", r"\"": '"', r"\'": "'", r"\/": "/"}  # of JSON and Python strings
_ESCAPE = re.compile("|".join([*map(re.escape, _ESCAPES), r"\\u([0-9a-fA-F]{4})"]))

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

    sentences: dict[Gram, tuple[str, str]]  # by their words: (task_id, regular expression)
    lengths: frozenset[int]  # of the sentences, in words
    solutions: dict[str, list[tuple[str, str]]]  # by their longest line: (task_id, lines)
    grams: dict[Gram, tuple[str, bool]]  # -> (task_id, whether it is of the docstring's prose)
    anchors: frozenset[Gram]

    def overlap(self, text: str) -> Overlap:
        """What `text` has in common with the problems."""
        flat = _flat(text)
        words = _WORD.findall(flat)
        fours = zip(words, words[1:], words[2:], words[3:], strict=False)
        found: set[Gram] = set()
        shared: dict[str, bool] = {}
        for start in [i for i, four in enumerate(fours) if four in self.anchors]:
            found |= self.sentences.keys() & {tuple(words[start : start + length]) for length in self.lengths}
            task, in_prose = self.grams.get(tuple(words[start : start + GRAM]), ("", False))
            if task:
                shared[task] = shared.get(task, False) or in_prose
        said = [task for task, pattern in (self.sentences[gram] for gram in sorted(found)) if re.search(pattern, flat)]
        lines = _lines(text)
        candidates = self.solutions.keys() & set(lines)
        if candidates:
            whole = "\n".join(["", *lines, ""])
            said += [t for line in sorted(candidates) for t, solution in self.solutions[line] if solution in whole]
        return Overlap(said, [task for task, in_prose in shared.items() if in_prose], list(shared))


def wording(problems: Sequence[Problem]) -> Wording:
    """Indexes the sentences and solutions that are long enough, and the 13-grams of prompts.

    A sentence that several problems share says nothing of where a text comes from and is left out. Examples (>>>)
    and tests in a docstring are no part of its prose.
    """
    sentences: dict[Gram, list[tuple[str, str]]] = defaultdict(list)
    solutions: dict[str, list[tuple[str, str]]] = defaultdict(list)
    grams: dict[Gram, tuple[str, bool]] = {}
    for problem in problems:
        sentence = re.split(r"(?<=[.!?])\s", _flat(_prose(problem)), maxsplit=1)[0]
        words = tuple(_WORD.findall(sentence))
        if len(words) >= SENTENCE_WORDS:
            # A sentence without a full stop must not be found at the head of a longer one.
            end = "" if sentence.endswith((".", "!", "?")) else r"(?! ?\w)"
            sentences[words].append((problem.task_id, r"(?<!\w)" + re.escape(sentence) + end))
        lines = _lines(problem.reference or "")
        if len(_TOKEN.findall(" ".join(lines))) >= SOLUTION_TOKENS:
            solutions[max(lines, key=len)].append((problem.task_id, "\n".join(["", *lines, ""])))
    # Prose first: a gram of one problem's prose may be in another's prompt.
    for in_prose in (True, False):
        for problem in problems:
            words = tuple(_WORD.findall(_flat(_prose(problem) if in_prose else _without_examples(problem.prompt))))
            for gram in zip(*(words[i:] for i in range(GRAM)), strict=False):
                grams.setdefault(gram, (problem.task_id, in_prose))
    own = {words: found[0] for words, found in sentences.items() if len(found) == 1}
    anchors = frozenset(gram[:_ANCHOR] for gram in (*own, *grams))
    return Wording(own, frozenset(map(len, own)), dict(solutions), grams, anchors)


def _prose(problem: Problem) -> str:
    """The docstring of the function that the tests call, or, as in MBPP, of the whole prompt."""
    tree = parse(problem.prompt + (problem.reference or "")) or ast.Module([], [])
    owners = [tree, *(f for f in syntax.functions(tree) if f.name == problem.entry_point)]
    return _without_examples(next(filter(None, map(ast.get_docstring, reversed(owners))), ""))


def _without_examples(text: str) -> str:
    kept, example = [], False
    for line in text.splitlines():
        example = line.lstrip().startswith((">>>", "assert ")) or (example and bool(line.strip()))
        if not example:
            kept.append(line)
    return "\n".join(kept)


def _plain(text: str) -> str:
    """Without the marks at the heads of lines, and with the escapes of string literals resolved."""
    return _MARK.sub(" ", _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else _ESCAPES[m[0]], text))


def _flat(text: str) -> str:
    """Plain, in lower case, whitespace runs as one space."""
    return " ".join(_plain(text).lower().split())


def _lines(text: str) -> list[str]:
    return [line for line in (" ".join(line.split()) for line in _plain(text).splitlines()) if line]
