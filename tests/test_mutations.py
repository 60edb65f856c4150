"""The mutants: programs with one change, the same everywhere, and the change is where it is said to be."""

import ast
import difflib
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi_jax.synthesis.grammar import catalogue, grammar_texts
from phi_jax.synthesis.llm.mutations import MOST, mutants, trivial_bodies

# One line of a function -> what the mutants make of it, by kind.
CHANGES = {
    "return a < b": {"boundary": ["return a <= b"]},
    "return a >= b": {"boundary": ["return a > b"]},
    "return a < b <= c": {"boundary": ["return a <= b <= c", "return a < b < c"]},
    "return a == b": {"equality": ["return a != b"]},
    "return a not in b": {"equality": ["return a  in b"]},
    "return a is not None": {"equality": ["return a is  None"]},
    "return not a": {"equality": ["return  a"]},
    "return a - b": {"arithmetic": ["return a + b"]},
    "return (a or b) * c": {"arithmetic": ["return (a or b) + c"], "connective": ["return (a and b) * c"]},
    "return a ** b": {"arithmetic": ["return a * b"]},
    "return [1, 0x10, 0.5, True, 'text']": {
        "constant": ["return [2, 0x10, 0.5, True, 'text']", "return [1, 17, 0.5, True, 'text']",
                     "return [1, 0x10, 1.5, True, 'text']", "return [1, 0x10, 0.5, False, 'text']"],
    },
    "return 1e300": {},  # one more is the same number
    "return a if b else c": {"negation": ["return a if not b else c"]},
    "return a if not b else c": {"equality": ["return a if  b else c"], "negation": ["return a if not not b else c"]},
    "return [x for x in a if x]": {"negation": ["return [x for x in a if not x]"]},
    "while a > b: continue": {
        "boundary": ["while a >= b: continue"],
        "negation": ["while not a > b: continue"],
        "statement": ["while a > b: pass"],
    },
    "a[b] += c": {"arithmetic": ["a[b] -= c"]},
    "for _ in a: break": {"statement": ["for _ in a: pass"]},
    "return max(a), a.upper()": {"call": ["return min(a), a.upper()", "return max(a), a.lower()"]},
    "return 'é' + a, a < b": {"arithmetic": ["return 'é' - a, a < b"], "boundary": ["return 'é' + a, a <= b"]},
    # Before Python 3.12 the parts of an f-string have no places of their own.
    "return f'{a + 1}'": {"arithmetic": ["return f'{a - 1}'"], "constant": ["return f'{a + 2}'"]}
    if sys.version_info >= (3, 12)
    else {},
    "return a": {},
}  # fmt: skip


@pytest.mark.parametrize("line", CHANGES)
def test_what_is_changed(line):
    found = {}
    for mutant in mutants(f"def f(a, b=1, c=2):\n    '''Twice 2.'''\n    {line}\n"):
        assert mutant.line == 3
        found.setdefault(mutant.kind, []).append(mutant.code.splitlines()[2].strip())
    assert found == CHANGES[line]


def test_what_is_changed_over_several_lines():
    code = "def f(a):\n    return (a +\n            # two\n            2)\n"
    changed = {m.kind: m for m in mutants(code)}
    assert changed["constant"].line == 4
    assert changed["arithmetic"].code == "def f(a):\n    return (a -\n            # two\n            2)\n"


def test_helpers_and_methods_are_changed_and_what_surrounds_them_is_not():
    code = (
        "import math\nLIMIT = 3\n\ndef wrapped(n=1):\n    return lambda f: f\n\n"
        "@wrapped(2)\ndef helper(x: 'a < b', y=4) -> 'a + b':\n    return x < y\n\n"
        "class Box:\n    size = 5\n    def more(self):\n        return self.size + 6\n"
    )
    assert {(m.line, m.kind) for m in mutants(code)} == {
        (9, "boundary"), (12, "constant"), (14, "constant"), (14, "arithmetic"),
    }  # fmt: skip


def test_no_more_than_asked_for_and_every_kind_first():
    code = "def f(x):\n" + "    x += 1\n" * 40 + "    if x:\n        x = 2 < x\n    return x\n"
    found = mutants(code, 7)
    assert len(found) == 7
    assert {m.kind for m in found} == {"arithmetic", "boundary", "constant", "negation"}
    assert len(mutants(code)) == MOST


def test_mutants_of_the_grammars_exercises_are_programs_with_one_line_changed_and_always_the_same():
    known = catalogue.held_out(catalogue.behaviours(120), 10)[0][::25]
    kinds = set()
    for text in (grammar_texts.exercise(k, 0) for k in known):
        found = mutants(text.code)
        assert found == mutants(text.code)
        assert 1 <= len({m.code for m in found}) == len(found) <= MOST
        for mutant in found:
            ast.parse(mutant.code)
            lines = [x for x in difflib.ndiff(text.code.splitlines(), mutant.code.splitlines()) if x[0] in "+-"]
            assert len(lines) == 2
            kinds.add(mutant.kind)
    assert kinds >= {"arithmetic", "boundary", "call", "constant", "equality", "negation"}


EXPRESSIONS = st.recursive(
    st.sampled_from(["a", "1", "b.c", "f'{a + 1}'", "'é'", "(yield)", "lambda x: x + 1", "(a := 2)", "*a, 1", "not a"]),
    lambda inner: st.builds(
        lambda form, x, y: form.format(x=x, y=y),
        st.sampled_from(["({x}) + ({y})", "({x}) < ({y}) <= a", "[{x}] and ({y})", "f(({x}), k=({y}))",
                         "[i for i in ({x}) if ({y})]", "({x}) if ({y}) else 3", "-({x})", "a[({x}):({y})]"]),
        inner, inner,
    ),
    max_leaves=6,
)  # fmt: skip
STATEMENTS = st.sampled_from(
    ["return ({})", "x = ({})", "x += ({})", "if ({}): pass", "while ({}):\n        break", "f(({}))"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(STATEMENTS, EXPRESSIONS), min_size=1, max_size=3))
def test_a_mutant_of_a_program_is_another_program(parts):
    code = "def f(a, b):\n" + "".join(f"    {form.format(inner)}\n" for form, inner in parts)
    try:
        ast.parse(code)
    except SyntaxError:
        return
    for mutant in mutants(code, 100):
        assert ast.dump(ast.parse(mutant.code)) != ast.dump(ast.parse(code))


def test_trivial_bodies_do_what_they_say():
    for (what, source), result in zip(trivial_bodies("f"), [None, 5, "a", "b", "c", ""], strict=True):
        namespace = {"_results": ["a", "b", "c"]}
        exec(source, namespace)
        assert namespace["f"](5, x=6) == result, what
