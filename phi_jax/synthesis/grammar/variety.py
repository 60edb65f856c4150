"""How texts differ in names, wording and spelling, so that a model learns to read what it is asked.

Words and chances stand in grammar.toml, under `variety`.
"""

import dataclasses
import functools
import random
import re

from phi_jax.synthesis.grammar.families import Behaviour, grammar


def varied(behaviour: Behaviour, rng: random.Random) -> tuple[Behaviour, list[str]]:
    """(the behaviour with a function's name and a sentence of one exercise, names of the parameters).

    The name may say nothing, and the sentence may call a parameter otherwise than the signature does.
    """
    words, chance = grammar()["variety"], grammar()["variety"]["chances"]
    slug, sentence = behaviour.slug, behaviour.sentence
    if rng.random() < chance["neutral_function"]:
        slug = rng.choice(words["neutral_functions"])
    elif rng.random() < chance["prefix"]:
        slug = f"{rng.choice(words['prefixes'])}_{slug}"
    names = parameter_names(behaviour, rng)
    for place, kind in enumerate(behaviour.signature):
        if rng.random() < chance["noun"]:
            sentence = sentence.replace(f"${place}", rng.choice(words["second_nouns" if place else "nouns"][kind]))

    def reworded(phrase: re.Match[str]) -> str:
        return rng.choice(words["synonyms"][phrase[0]]) if rng.random() < chance["synonym"] else phrase[0]

    def typed(word: re.Match[str]) -> str:
        return _misspelt(word[0], rng) if rng.random() < chance["slip"] else word[0]

    sentence = _phrases().sub(reworded, sentence)
    if rng.random() < chance["careless"]:
        sentence = re.sub(r"[a-z]{3,}", typed, sentence)
    return dataclasses.replace(behaviour, slug=slug, sentence=sentence), names


def parameter_names(behaviour: Behaviour, rng: random.Random) -> list[str]:
    """Different names of the parameters, that tell their types or nothing."""
    words = grammar()["variety"]
    names: list[str] = []
    for place, kind in enumerate(behaviour.signature):
        which = "second_names" if place else "names"
        telling = grammar()[which][kind] + words[which][kind]
        neutral = [name for name in words["neutral_names"] if name not in names]
        names.append(rng.choice(neutral if rng.random() < words["chances"]["neutral_name"] else telling))
    return names


@functools.cache
def _phrases() -> re.Pattern[str]:
    """The phrases that can be said otherwise, the longest first."""
    phrases = sorted(grammar()["variety"]["synonyms"], key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, phrases))})(?!\w)")


def _misspelt(word: str, rng: random.Random) -> str:
    """The word with a letter behind its first one missing, twice, or in the place of the next."""
    i = rng.randrange(1, len(word))
    return word[:i] + rng.choice(("", 2 * word[i], word[i + 1 : i + 2] + word[i])) + word[i + 1 :]
