"""The same said otherwise, by rule: each rule is a phrase and others that mean the same in a programming task."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import partial

from phi_jax.evaluation.perturb.prose import Edit, Prose, Site, in_case_of, one_of, rewritten
from phi_jax.evaluation.problems import Problem

_VERBS = "return|find|compute|calculate|determine|check|count|output|replace|obtain|implement|write|reverse|get|apply"

# Phrase -> others, from the longest to the shortest; a phrase stands on one line. A capital at its start is kept.
RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"write a (?:python )?function that takes(?: in)?",
     ("implement a function that accepts", "create a function which receives")),
    (r"write a (?:python )?function that accepts",
     ("implement a function that takes", "create a function that receives")),
    (r"create a function (?:that|which) takes",
     ("write a function that accepts", "implement a function which receives")),
    (r"create a function (?:that|which) returns",
     ("write a function that gives back", "implement a function returning")),
    (r"write a (?:python )?function (?:that|which)", ("implement a function that", "create a function which")),
    (r"write a (?:python )?function to", ("implement a function to", "create a function to", "write code to")),
    (r"create a function (?:that|which)", ("write a function that", "implement a function which")),
    (r"your task is to (?:implement|write) a function",
     ("you have to write a function", "you need to implement a function")),
    (r"your (?:task|goal|job) is to", ("you have to", "what you need to do is")),
    (r"(?:this|the) function (?:takes|gets|receives|accepts)",
     ("the function is given", "as its input the function has")),
    (r"(?:this|the) function (?:will take|will be given|will receive)",
     ("the function is given", "the function receives")),
    (r"(?:this|the) function should return", ("the function has to return", "the result of the function must be")),
    (r"input to this function is", ("this function is given", "the argument of this function is")),
    (r"return (?=the (?:sum|product|average|mean|median|number of)\b)",
     ("compute and return ", "work out and return ")),
    (r"return true if", ("return True when", "the result is True if")),
    (r"return false if", ("return False when", "the result is False if")),
    (r"returns true if", ("gives True if", "returns True when")),
    (r"returns false if", ("gives False if", "returns False when")),
    (r"return (?=an? |the |only )", ("give back ", "produce and return ")),
    (r"return (?=(?:one|whether)\b)", ("give back ",)),
    (r"the sum of", ("the total of",)),
    (r"(?:check|test|determine|detect) (?:if|whether)", ("find out whether", "decide whether", "establish whether")),
    (r"find out (?=how many)", ("determine ",)),
    (r"find (?=(?:the|all|how|an|a)\b)", ("determine ", "work out ")),
    (r"(?:calculate|compute) (?=(?:the|a)\b)", ("work out ", "determine ")),
    (r"you are given (?=an?\b|two\b|the\b)", ("your input is ", "suppose you have ")),
    (r"(?-i:Given) an? (?=[a-z])", ("for a given ", "for any given ")),
    (r"(?-i:Given) two (?=[a-z])", ("for two given ",)),
    (r"given list", ("supplied list",)),
    (r"in (?:ascending|increasing) order", ("from the smallest to the largest",)),
    (r"in (?:descending|decreasing) order", ("from the largest to the smallest",)),
    (r"consisting of", ("that consists of", "made up of")),
    (r"how many times", ("how often",)),
    (r"the number of (?=(?:times|digits|elements|occurrences|words|items|substrings|ways)\b)",
     ("the count of ",)),
    (r"for example", ("for instance",)),
    (r"note that", ("keep in mind that", "bear in mind that")),
    (r"you (?:may|can) assume", ("it is safe to assume", "you may take it")),
    (r"otherwise,? (?:it should )?return", ("else return", "in every other case return")),
    (r"otherwise", ("in every other case",)),
    (r"should (?:return|output)", ("must return", "has to return")),
    (r"(?:greater|larger) than", ("bigger than", "above")),
    (r"(?:less|smaller) than", ("below",)),
    (r"largest", ("biggest", "greatest")),
    (r"smallest", ("least",)),
    (r"such that", ("so that", "in such a way that")),
    (r"elements", ("items", "entries")),
    (r"characters", ("chars",)),
    (r"integers", ("ints", "integer numbers")),
    (r"appears", ("occurs",)),
    (r"appear", ("occur",)),
    (r"contains", ("includes", "holds")),
    (r"multiplied by", ("times",)),
    (r"(?:by )?using", ("with the help of", "by means of")),
    (r"consecutive", ("successive",)),
    (r"distinct", ("different",)),
    (r"without (?!using\b)", ("with no ",)),
    (r"joined by", ("put together with",)),
    (r"each (?!other|of)", ("every ",)),
    (r"return (?=[a-z(])", ("give back ", "hand back ")),
    (r"limited to", ("held within",)),
)  # fmt: skip
# No match begins or ends within a word.
_RULES = tuple((re.compile(rf"\b{phrase}(?!(?<=\w)\w)", re.IGNORECASE), others) for phrase, others in RULES)
_GIVEN = re.compile(rf"\bGiven (?=an? |two |the |list )[^.?!:;]*?(, (?:please )?)({_VERBS})\b")


def paraphrase(problem: Problem, rate: float, seed: int) -> Problem | None:
    """Says each phrase that a rule knows otherwise, at a chance of `rate`; the meaning stays, the style may suffer."""
    return rewritten(problem, "paraphrase", _phrases, rate, seed)


def _phrases(prose: Prose) -> list[Site]:
    taken: list[tuple[int, int]] = []
    found: list[tuple[int, Site]] = []

    def take(*spans: tuple[int, int]) -> bool:
        """Whether all these spans are free and not another rule's; they are this one's then."""
        if not all(prose.free(*s) and not any(a < s[1] and s[0] < b for a, b in taken) for s in spans):
            return False
        taken.extend(spans)
        return True

    for match in _GIVEN.finditer(prose.text):
        given = (match.start(), match.start() + len("Given"))
        verb = (match.start(1), match.end(2))
        if take(given, verb):
            new = match.group(2).capitalize()
            found.append((match.start(), partial(_always, [(*given, "You are given"), (*verb, f". {new}")])))
    for rule, others in _RULES:
        for match in rule.finditer(prose.text):
            if take(match.span()):
                options = [(*match.span(), in_case_of(match.group(), other)) for other in others]
                found.append((match.start(), partial(one_of, options)))
    return [site for _, site in sorted(found, key=lambda pair: pair[0])]


def _always(edits: Sequence[Edit], rng: random.Random) -> Sequence[Edit]:
    return edits
