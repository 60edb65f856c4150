"""The behaviours that the grammar writes about: told apart by running them, some of them held out."""

import dataclasses
import functools
import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from phi_jax.store.documents import uniform
from phi_jax.synthesis.grammar.families import Behaviour, all_behaviours, grammar

FIXED_INPUTS = 20


@dataclasses.dataclass(frozen=True)
class Known:
    """A behaviour that differs from every other one, with what it gives on the fixed inputs."""

    behaviour: Behaviour
    outputs: tuple[str, ...]  # repr of the result on each fixed input of its signature
    digest: str  # hash of signature and outputs: its name in files


@functools.cache
def fixed_inputs(signature: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """The 20 inputs of a signature, on which behaviours are told apart and problems are tested."""
    rng = random.Random(f"fixed inputs {list(signature)}")
    edges = [tuple(grammar()["edges"][kind][i] for kind in signature) for i in range(2)]
    return edges + [tuple(random_value(kind, rng) for kind in signature) for _ in range(FIXED_INPUTS - len(edges))]


def random_value(kind: str, rng: random.Random, longest: int = 8) -> Any:
    """A value of a type, with at most `longest` items."""
    words = grammar()["words"]["values"]
    if kind == "int":
        return rng.randint(-20, 60) if rng.random() < 0.8 else rng.randint(100, 999)
    if kind == "list[int]":
        return [rng.randint(-12, 24) for _ in range(rng.randint(2, longest))]
    if kind == "list[str]":
        return [rng.choice(words) for _ in range(rng.randint(2, longest))]
    if kind == "dict[str,int]":
        return {word: rng.randint(-12, 24) for word in rng.sample(words, rng.randint(2, longest))}
    assert kind == "str"
    chosen = [rng.choice(words) for _ in range(rng.randint(2, max(2, longest // 2)))]
    styled = [rng.choice((w, w, w.capitalize(), w.upper())) for w in chosen]
    return " ".join(w if rng.random() < 0.8 else f"{w}{rng.randint(0, 99)}" for w in styled)


def behaviours(family_cap: int) -> list[Known]:
    """Behaviours of which no two are the same, at most `family_cap` of each family, chosen by hash.

    Of several that are the same, the one that comes first in grammar.toml stays.
    """
    found: dict[str, Known] = {}
    for behaviour in all_behaviours():
        results = [behaviour.function(*case) for case in fixed_inputs(behaviour.signature)]
        outputs = tuple(map(repr, results))
        if len(set(outputs)) == 1:
            continue  # a constant teaches nothing
        same = (behaviour.signature, list(map(_shown, results)))
        digest = hashlib.sha256(repr(same).encode()).hexdigest()[:16]
        found.setdefault(digest, Known(behaviour, outputs, digest))
    families: dict[str, list[Known]] = {}
    for digest in sorted(found):
        families.setdefault(found[digest].behaviour.family, []).append(found[digest])
    return sorted((k for family in families.values() for k in family[:family_cap]), key=lambda k: k.digest)


def _shown(result: Any) -> str:
    """A result as text, equal for what a test's == finds equal: True and 1, a dictionary in another order."""
    if isinstance(result, list):
        return f"list({', '.join(map(_shown, result))})"
    if isinstance(result, dict):
        return f"dict({', '.join(sorted(f'{_shown(k)}: {_shown(v)}' for k, v in result.items()))})"
    return repr(int(result)) if isinstance(result, bool) else repr(result)


def held_out(known: Sequence[Known], one_in: int) -> tuple[list[Known], list[Known]]:
    """(taught, held out): of each family one in `one_in`, by hash."""
    ranks: Counter[str] = Counter()
    tested: set[str] = set()
    for k in sorted(known, key=lambda k: uniform(k.digest, "held out")):
        if ranks[k.behaviour.family] % one_in == 0:
            tested.add(k.digest)
        ranks[k.behaviour.family] += 1
    return [k for k in known if k.digest not in tested], [k for k in known if k.digest in tested]
