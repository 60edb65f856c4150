"""Words that a text has in common with the held-out problems: a sentence, a solution's lines, 13 words in a row.

Comment marks, Markdown's marks at the head of a line, and the escapes of string literals are looked through.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from phi_jax.contamination import syntax
from phi_jax.evaluation.problems import Problem
from phi_jax.store.python_text import parse

LEAST_WORDS = 6  # of a sentence, of a solution
SOLUTION_TOKENS = 8
GRAM = 13
_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_MARK = re.compile(r"^[ \t]*(?:#+|>(?!>)|[-*+] )", re.MULTILINE)  # of a comment, a heading, a quote, a list
_PROMPT = re.compile(r"^[ \t]*(?:>>>|\.\.\.) ", re.MULTILINE)
# Of JSON and Python strings.
_ESCAPES = {"\\\\": "\\", r"\r": " ", r"\n": "\n", r"\t": " ", r"\"": '"', r"\'": "'", r"\/": "/"}
_ESCAPE = re.compile("|".join([*map(re.escape, _ESCAPES), r"\\u([0-9a-fA-F]{4})"]))

Gram = tuple[str, ...]
Said = dict[Gram, list[tuple[str, str, bool]]]  # words -> (task_id, regular expression, whether it is of lines)


class Overlap(NamedTuple):
    """What a text has in common with the problems, as task_ids."""

    said: set[str]  # a problem's sentence or solution
    prose: set[str]  # 13 words of a docstring's prose
    prompts: set[str]  # 13 words of a prompt, its code included


class Wording:
    """The problems' words, indexed for looking them up: long enough sentences and solutions, 13-grams of prompts.

    A sentence that several problems share says nothing of where a text comes from and is left out. Examples (>>>)
    and tests in a docstring are no part of its prose.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        sentences: Said = defaultdict(list)  # by all their words
        self._said: Said = defaultdict(list)  # by the first words
        self._grams: dict[Gram, tuple[str, bool]] = {}  # -> (task_id, whether it is of the docstring's prose)
        for problem in problems:
            sentence = re.split(r"(?<=[.!?])\s", _flat(_plain(_prose(problem))), maxsplit=1)[0]
            words = tuple(_WORD.findall(sentence))
            if len(words) >= LEAST_WORDS:
                # A sentence without a full stop must not be found at the head of a longer one.
                end = "" if sentence.endswith((".", "!", "?")) else r"(?! ?\w)"
                sentences[words].append((problem.task_id, r"(?<!\w)" + re.escape(sentence) + end, False))
            lines = _lines(_plain(problem.reference or ""))
            words = tuple(_WORD.findall(lines.lower()))
            if len(words) >= LEAST_WORDS and len(_TOKEN.findall(lines)) >= SOLUTION_TOKENS:
                # The ends of strings are ends of lines.
                pattern = rf"(?m:(^|[\"'`] ?){re.escape(lines)}($| ?[\"'`]))"
                self._said[words[:LEAST_WORDS]].append((problem.task_id, pattern, True))
        for words, found in sentences.items():
            if len(found) == 1:
                self._said[words[:LEAST_WORDS]] += found
        # Prose first: a gram of one problem's prose may be in another's prompt.
        for in_prose in (True, False):
            for problem in problems:
                text = _prose(problem) if in_prose else _without_examples(problem.prompt)
                for gram in _grams(_WORD.findall(_flat(_plain(text))), GRAM):
                    self._grams.setdefault(gram, (problem.task_id, in_prose))

    def overlap(self, text: str) -> Overlap:
        """What `text` has in common with the problems."""
        plain = _plain(text)
        flat = _flat(plain)
        words = _WORD.findall(flat)
        found = [entry for first in self._said.keys() & _grams(words, LEAST_WORDS) for entry in self._said[first]]
        lines = _lines(plain) if found else ""
        said = {task for task, pattern, of_lines in found if re.search(pattern, lines if of_lines else flat)}
        shared = [self._grams[gram] for gram in self._grams.keys() & _grams(words, GRAM)]
        return Overlap(said, {task for task, in_prose in shared if in_prose}, {task for task, _ in shared})


def _grams(words: Sequence[str], length: int) -> Iterable[Gram]:
    return zip(*(words[start:] for start in range(length)), strict=False)


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
    """In lower case, whitespace runs as one space."""
    return " ".join(text.lower().split())


def _lines(text: str) -> str:
    """The lines that are not blank, without indents and the prompts of a session."""
    lines = (" ".join(line.split()) for line in _PROMPT.sub("", text).splitlines())
    return "\n".join(line for line in lines if line)
