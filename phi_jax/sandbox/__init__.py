"""Runs generated code against a benchmark's tests and says whether it passed.

    with Sandbox(workers=2) as sandbox:
        for verdict in sandbox.run(programs):
            ...

Per program two processes are forked from a small, clean server: the *candidate*, confined by Landlock,
seccomp and rlimits, runs the untrusted source; the *tester* runs the tests and calls the candidate over a
socket on which only plain data travels. The verdict is written by the tester on a pipe that the candidate does
not have, so a candidate can lie only about its return values, which is what the tests look at.

    program.py    Program, Limits, Verdict: what goes in and what comes out
    pool.py       Sandbox: workers, order, repeats, restarts (in the caller's process)
    server.py     the fork server: time limits, killing, reaping
    tester.py     runs the tests; handles.py: the candidate's objects as the tests see them
    candidate.py  runs the untrusted source and serves the tester's calls
    channel.py    request, reply and references over the socket; codec.py: plain data as bytes
    kernel/       confine.py: rlimits, capabilities, descriptors; landlock.py; seccomp.py; support.py: what there is
"""

from .kernel.support import Support, support
from .pool import Sandbox
from .program import Limits, Program, Verdict

__all__ = ["Limits", "Program", "Sandbox", "Support", "Verdict", "support"]
