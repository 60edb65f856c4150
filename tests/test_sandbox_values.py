"""What a candidate returns compares with what the tests expect as it does in one process, at every depth."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from phi_jax.sandbox import Limits, Program, Sandbox, support

CONFINEMENT = "none" if support().missing else "full"
INPUTS = 200
AT_ONCE = 40  # pairs that one program compares

# Both sides have the plain classes; the wrappers are the candidate's alone.
PLAIN = """
import math
from collections import Counter, OrderedDict, deque
from datetime import date
from decimal import Decimal
from fractions import Fraction
inf = math.inf
"""
WRAPPERS = """
import enum, collections, dataclasses
import numpy as np
Two = collections.namedtuple("Two", "a b")
class List(list): pass
class Dict(dict): pass
class Int(int): pass
class Str(str): pass
class Tuple(tuple): pass
class Color(enum.IntEnum):
    RED = 1
    BLUE = 2
@dataclasses.dataclass
class Data:
    items: list
"""
# How the tests look at a value `v`, where they expect `e`. Not among them is what differs, since ours computes with
# Python's numbers where one process has numpy's: str() of a container of them, round(), what overflows, an array of one
# element (which equals the element), a float32 beside a float that it cannot hold (both are rounded), and numpy's bool
# in ARITHMETIC.
LOOKS = (
    "v == e", "e == v", "not v != e", "[v] == [e]", "v in [e]", "e in [v]", "{1: v} == {1: e}", "bool(v) == bool(e)",
    "len(v) == len(e)", "v[0] == e[0]", "list(v) == list(e)", "sorted(v) == sorted(e)", "set(v) == set(e)",
    "abs(v - e) < 1e-6", "v < e", "v <= e", "e <= v", "sum(v) == sum(e)",
    "v + v == e + e", "isinstance(v, type(e))", "tuple(v) == tuple(e)", "v * 2 == e * 2", "-v == -e",
    "all(a == b for a, b in zip(v, e))",
)  # fmt: skip
ORDER = ("list(v) == list(e)", "tuple(v) == tuple(e)", "all(a == b for a, b in zip(v, e))")  # of a set, with luck only
ARITHMETIC = ("abs(v - e) < 1e-6", "v + v == e + e", "v * 2 == e * 2", "-v == -e")


def source(value):
    return "float('nan')" if value != value else repr(value)


def scalars():
    """(source as the candidate returns it, as the tests expect it)"""
    floats = st.sampled_from([0.0, -0.0, 0.1, 1.5, 1e300, float("nan"), float("inf")]) | st.floats()
    texts = st.text(max_size=5) | st.just("\ud800")

    def both(values, *forms):
        # A NaN of each side its own: one object on both sides would be equal to itself in a container.
        return st.tuples(values, st.sampled_from(("{}", *forms))).map(
            lambda x: (x[1].format(source(x[0])), source(x[0]))
        )

    return st.one_of(
        both(st.integers(-(2**31), 2**31), "np.int64({})", "Int({})"),
        both(st.integers(0, 30), "np.int8({})", "np.int16({})", "np.array({})"),
        both(st.integers(1, 2), "Color({})"),
        both(st.integers()),
        both(st.just(10**40)),
        both(floats, "np.float64({})"),
        both(st.sampled_from([0.5, -2.25, 3.0]), "np.float32({})", "np.float16({})"),
        both(st.booleans(), "np.bool_({})"),
        both(st.complex_numbers(allow_nan=False, allow_infinity=False), "np.complex128({})"),
        both(texts, "Str({})"),
        both(st.text("abc", max_size=5), "np.str_({})"),
        both(st.binary(max_size=5), "bytes({})"),
        both(st.lists(st.integers(0, 9), min_size=2, max_size=4), "np.array({})", "Data({})", "set({})"),
        both(st.none()),
        both(st.decimals(allow_nan=False)),
        both(st.fractions()),
    )


def containers(children):
    items = st.lists(children, max_size=4)
    hashable = scalars()

    def wrap(returned, expected):
        return lambda pairs: (
            returned.format(", ".join(r for r, _ in pairs)), expected.format(", ".join(e for _, e in pairs))
        )  # fmt: skip

    forms = ["[{}]"] * 2 + ["List([{}])", "deque([{}])"]
    lists = [items.map(wrap(form, form.replace("List([{}])", "[{}]"))) for form in forms]
    tuples = [items.map(wrap(form, "tuple([{}])")) for form in ("tuple([{}])", "Tuple([{}])")]
    two = st.lists(children, min_size=2, max_size=2).map(wrap("Two({})", "({})"))
    keyed = st.lists(st.tuples(hashable, children), max_size=4).map(
        lambda pairs: [(f"{k[0]}: {v[0]}", f"{k[1]}: {v[1]}") for k, v in pairs]
    )
    dicts = [keyed.map(wrap(form, "{{{}}}")) for form in ("{{{}}}", "Dict({{{}}})", "OrderedDict({{{}}})",
                                                          "collections.defaultdict(list, {{{}}})")]  # fmt: skip
    sets = [
        st.lists(hashable, max_size=4).map(wrap(f"{kind}([{{}}])", f"{kind}([{{}}])")) for kind in ("set", "frozenset")
    ]
    return st.one_of(*lists, *tuples, two, *dicts, *sets)


VALUES = st.recursive(scalars(), containers, max_leaves=8)
PAIRS = st.tuples(VALUES, VALUES, st.booleans()).map(lambda x: (x[0][0], x[0][1] if x[2] else x[1][1]))
SAMPLES = (
    st.tuples(PAIRS, st.sampled_from(LOOKS))
    .map(lambda x: (*x[0], x[1]))
    .filter(lambda x: not ("np.bool_" in x[0] and x[2] in ARITHMETIC) and not ("set(" in x[0] and x[2] in ORDER))
)
VERDICTS = """
found = ""
for i, look in enumerate(LOOKS):
    try:
        found += "1" if look(f(i), EXPECTED[i]()) else "0"
    except Exception:
        found += "0"
assert False, found
"""


def programs_of(chosen):
    """(candidate, tests), in which each sample is a digit of the complaint: 1 for True, 0 for all else."""

    def listed(parameters, sources):
        return "[\n" + "".join(f"lambda {parameters}: {source},\n" for source in sources) + "]"

    returned, expected, looks = zip(*chosen, strict=True)
    candidate = f"{PLAIN}{WRAPPERS}\ndef f(i):\n    return {listed('', returned)}[i]()\n"
    return candidate, f"{PLAIN}EXPECTED = {listed('', expected)}\nLOOKS = {listed('v, e', looks)}\n{VERDICTS}"


def in_one_process(candidate, tests):
    namespace = {}
    exec(candidate, namespace)
    with pytest.raises(AssertionError) as complaint:
        exec(tests, namespace)
    return complaint.value.args[0]


def fuzz(sandbox, inputs):
    """Compares so many samples; returns how many of them were True."""
    true = 0

    @settings(max_examples=inputs // AT_ONCE, derandomize=True, database=None, phases=[Phase.generate])
    @given(st.lists(SAMPLES, min_size=AT_ONCE, max_size=AT_ONCE))
    def compare(chosen):
        nonlocal true
        candidate, tests = programs_of(chosen)
        (verdict,) = sandbox.run([Program(candidate, tests, "f")])
        ours, theirs = verdict.result.removeprefix("failed: "), in_one_process(candidate, tests)
        assert len(ours) == len(theirs), verdict
        differing = [sample for sample, a, b in zip(chosen, ours, theirs, strict=True) if a != b]
        assert differing == []
        true += theirs.count("1")

    compare()
    return true


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(confinement=CONFINEMENT, limits=Limits(wall_seconds=60, output_bytes=1 << 20)) as running:
        yield running


def test_a_value_compares_as_in_one_process(sandbox):
    assert fuzz(sandbox, INPUTS) > INPUTS / 10


HOSTILE = {
    "a list in itself": "v = []; v.append(v); return v",
    "a dict in itself": "v = {}; v[1] = [v]; return v",
    "a namedtuple around itself": "v = [1]; v[0] = Two(v, v); return v",
    "a very deep list": "v = [1]\n    for _ in range(10**5): v = [v]\n    return v",
    "a very deep chain of subclasses": "v = [1]\n    for _ in range(10**5): v = List([v])\n    return [v]",
    "an int of a million digits": "return [1 << 3321928]",
    "more items than may be sent": "return [1] * 300000",
    "items without end": "import itertools; return [itertools.count()]",
    "a scalar of numpy that holds itself": "return [Fake()]",
    "a scalar of numpy that holds another for ever": "Fake.item = lambda self: Fake(); return [Fake()]",
    "a scalar of numpy that raises": "Fake.item = lambda self: 1 / 0; return [Fake()]",
    "a scalar of numpy that exits": "import os; Fake.item = lambda self: os._exit(0); return [Fake()]",
    "a class that raises when its name is asked for": "return [Meta('Nameless', (), {})()]",
    "an item that cannot be hashed": "return {1: Two([], [])}.items()",
    "an item whose hash raises": "Loud.__hash__ = lambda self: 1 / 0; return [Loud(), Loud]",
    "a list that iterates as another": "List.__iter__ = lambda self: iter([1]); return List([2])",
    "a class that lies": "Loud.__class__ = property(lambda self: list); return Loud()",
}
FAKES = """
class Fake:
    ndim = 0
    def item(self): return self
Fake.__module__ = "numpy"
class Meta(type):
    @property
    def __module__(cls): raise ValueError("no module")
    @property
    def __name__(cls): raise ValueError("no name")
class Loud:
    def __eq__(self, other): return True
    def __iter__(self): return iter([1])
    def __len__(self): return 1
"""


def test_a_hostile_value_equals_nothing_and_harms_nobody(sandbox):
    """All of them on one fork server, which still works when they have ended."""
    look = "v = f()\nassert v == [1] or [1] == v or [*v] == [[1]] or set(v) == {(1,)}"
    programs = [Program(f"{PLAIN}{WRAPPERS}{FAKES}\ndef f():\n    {body}\n", look, "f") for body in HOSTILE.values()]
    harmless = Program("def f(): return [1]", "assert f() == [1]", "f")
    verdicts = dict(zip([*HOSTILE, "harmless"], sandbox.run([*programs, harmless]), strict=True))
    assert [name for name, verdict in verdicts.items() if verdict.passed] == ["harmless"]
