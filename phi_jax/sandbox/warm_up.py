"""A small program of our own, run in the fork server before it serves.

The interpreter writes into code while it runs it for the first times (its counters and caches, PEP 659), and fills
its caches of types, attributes and free memory. Done here once, it costs no child time or copies of memory pages.
"""

import _socket
import sys
from typing import Any

from . import candidate, tester
from .channel import write_frame
from .codec import Side, encode
from .handles import Handle

_TIMES = 12  # the interpreter's own thresholds are at 8
_TRUSTED = '''
from typing import List

def other(items: List[int]) -> int:
    """Another function.
    >>> other([1])
    """
'''
_SOURCE = f"""{_TRUSTED}
    count = 0
    for each in items:
        if each != 0:
            count += 1
    return count
"""
_TESTS = """
METADATA = {"author": "nobody"}

def check(candidate):
    assert candidate([1, 2.5, "three", (4, None)]) == [True, {"a": 1}], "text"
    assert abs(candidate([[1, 2], [3]]) - 6) < 1e-6

check(entry)
"""


def run(output_bytes: int) -> None:
    """Runs the candidate's part and the tester's, each against a recording of what the other one says."""
    entry = object()
    calls = [[entry, [1, 2, 3]], [entry, [[1], (2.5, "three", None, True)]]]
    asked: list[Any] = [("names", ["other", "missing"], {}), *(("call", call, {}) for call in calls)]
    for _ in range(_TIMES):
        ours, theirs = _socket.socketpair()
        for body in asked:
            write_frame(ours.fileno(), encode(("ask", body), _Recorded(), output_bytes))
        ours.shutdown(_socket.SHUT_WR)
        candidate.run(theirs.fileno(), _SOURCE, "", output_bytes)
        ours.close()
        theirs.close()
        _test()
        encode((tester.PASSED, tester.clean(""), None), Side(), output_bytes)
    del sys.modules["candidate"]


def _test() -> None:
    def ask(_: object) -> Any:
        return answers.pop()

    answers: list[Any] = [(6.0, {0: [[1, 2], [3]]}), ([True, {"a": 1}], {}), {"entry": Handle(ask, 0)}]
    tester.run_tests(ask, lambda: None, _TESTS, _TRUSTED, "entry", "")


class _Recorded(Side):
    """Whatever is no plain data is the candidate's first object."""

    def refer(self, value: object) -> tuple[str, int]:
        return "C", 0
