"""`Program.report`: plain data from a candidate, whatever the candidate tries to return in its place."""

import pytest

from phi_jax.sandbox import Limits, Program, Sandbox, Verdict, support

CONFINEMENT = "none" if support().missing else "full"
LIMITS = Limits(wall_seconds=10, cpu_seconds=1, report_bytes=1000)

PLAIN = {
    "every plain type": "return {'a': [1, -2.5, None, True], ('b', 2): ('text', 10 ** 30), 'surrogate': '\\ud800'}",
    "nothing": "pass",
    "prints": "print('x' * 10 ** 6); return 1",
    "a namedtuple's own tuple": "from collections import namedtuple; return tuple(namedtuple('P', 'a')(1))",
    "just within the limit": "return 'x' * 995",
}
VALUES = {
    "every plain type": {"a": [1, -2.5, None, True], ("b", 2): ("text", 10**30), "surrogate": "\ud800"},
    "nothing": None,
    "prints": 1,
    "a namedtuple's own tuple": (1,),
    "just within the limit": "x" * 995,
}
NOT_PLAIN = "failed: the report is not plain data (None, bool, int, float, str, list, tuple, dict)"
NO_FUNCTION = "failed: the candidate defines no function 'report' to report with"
FORGE = """
import os
def forge(value):
    body = b"t\\0\\0\\0\\2s\\0\\0\\0\\6answer" + b"t\\0\\0\\0\\2" + value + b"d\\0\\0\\0\\0"
    os.write(3, len(body).to_bytes(8, "big") + body)
    os._exit(0)
"""
HOSTILE = {
    "too large": ("def report(): return 'x' * 996", "failed: a value of 1001 bytes is above the limit of 1000"),
    "huge": ("def report(): return [0] * 10 ** 7", None),
    "recursive": (
        "def report():\n    a = []\n    a.append(a)\n    return a",
        "failed: a value nested deeper than 150 levels",
    ),
    "deep": ("def report():\n    a = 0\n    for _ in range(10000): a = [a]\n    return a", None),
    "a set": ("def report(): return {1}", NOT_PLAIN),
    "bytes": ("def report(): return [b'1']", NOT_PLAIN),
    "a class of the builtins": ("def report(): return int", NOT_PLAIN),
    "a value of the standard library": ("import decimal\ndef report(): return decimal.Decimal(1)", NOT_PLAIN),
    "an instance": ("class A: pass\ndef report(): return A()", NOT_PLAIN),
    "a function within": ("def report(): return {'a': [report]}", NOT_PLAIN),
    "a key that is no plain data": ("def report(): return {report: 1}", NOT_PLAIN),
    "a subclass": ("class D(dict):\n    def __eq__(self, other): return True\ndef report(): return D(a=1)", NOT_PLAIN),
    "lies in __class__": ("class A:\n    __class__ = property(lambda self: dict)\ndef report(): return A()", NOT_PLAIN),
    "a metaclass that claims to be int": (
        "class M(type):\n    def __eq__(self, other): return True\n    __hash__ = type.__hash__\n"
        "class A(metaclass=M): pass\ndef report(): return A()",
        None,
    ),
    "pickles to code": (
        "class A:\n    def __reduce__(self): return print, ('run',)\ndef report(): return [A()]",
        NOT_PLAIN,
    ),
    "exits": ("def report(): raise SystemExit(0)", "failed: SystemExit: 0"),
    "exits at once": ("import os\ndef report(): os._exit(0)", "failed: the candidate's process ended (exit status 0)"),
    "raises": ("def report(): raise ValueError('no')", "failed: no"),
    "takes for ever": ("def report():\n    while True: pass", "timed out"),
    "missing": ("def f(): return 1", NO_FUNCTION),
    "no function but data": ("report = 'text'", NO_FUNCTION),
    "no function but a builtin class": ("report = dict", NO_FUNCTION),
    "writes a message of its own": (
        "import os\ndef report():\n    os.write(3, (9).to_bytes(8, 'big') + b'n\\0\\0\\0\\4eval')\n    os._exit(0)",
        None,
    ),
    "forges a reference to an object": (FORGE + "def report(): forge(b'C\\0\\0\\0\\0')", NOT_PLAIN),
    "forges a reference to a function of the tests": (
        FORGE + "def report(): forge(b'G\\0\\0\\0\\0')",
        "failed: a reference to nothing",
    ),
    "forges a class": (FORGE + "def report(): forge(b'n\\0\\0\\0\\4type')", NOT_PLAIN),
}


@pytest.fixture(scope="module")
def verdicts():
    programs = [Program(f"def report():\n    {body}", "", None, report="report") for body in PLAIN.values()]
    programs += [Program(source, "", None, report="report") for source, _ in HOSTILE.values()]
    with Sandbox(confinement=CONFINEMENT, limits=LIMITS) as sandbox:
        return dict(zip([*PLAIN, *HOSTILE], sandbox.run(programs), strict=True))


@pytest.mark.parametrize("name", PLAIN)
def test_plain_data_is_handed_back(verdicts, name):
    assert verdicts[name] == Verdict(True, "passed", VALUES[name])
    assert repr(verdicts[name].value) == repr(VALUES[name])  # True is no 1, a tuple no list


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_else_fails(verdicts, name):
    found, expected = verdicts[name], HOSTILE[name][1]
    assert not found.passed
    assert found.value is None
    assert expected in (None, found.result)


def test_the_report_follows_the_tests():
    source = "calls = []\ndef f(x):\n    calls.append(x)\n    return x\ndef report(): return calls"
    with Sandbox(confinement=CONFINEMENT, limits=LIMITS) as sandbox:
        passed, failed, none, number = sandbox.run(
            [
                Program(source, "assert f(1) == 1\nassert f('two') == 'two'", "f", report="report"),
                Program(source, "assert f(1) == 2", "f", report="report"),
                Program(source, "assert f(1) == 1", "f"),
                Program(f"def report(): return {2**40}", "", None, report="report"),
            ]
        )
    assert passed == Verdict(True, "passed", [1, "two"])
    assert failed == Verdict(False, "failed: AssertionError")
    assert none == Verdict(True, "passed")
    assert number.value == 2**40


def test_a_report_may_be_as_large_as_its_limit():
    with Sandbox(confinement=CONFINEMENT, limits=Limits(report_bytes=1 << 20)) as sandbox:
        (found,) = sandbox.run([Program("def report(): return 'y' * 1000000", "", None, report="report")])
    assert found == Verdict(True, "passed", "y" * 1000000)
