"""Runs `phi-jax` and sends it a signal while it is in a chosen part of training.

    python tests/interrupted_run.py SIGNAL WHERE N phi-jax-arguments...

WHERE: "compile", "step", "eval" or "save". A thread looks every few milliseconds where the main thread is (for "save":
for the directory of a new save that is not finished) and sends SIGNAL when it has seen the place for the N-th time.
The line "SIGNAL in WHERE" on standard error says that it was sent there.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from phi_jax.parallel.watch import Watch

PHASES = {"step": ("in step", "waiting for the data"), "eval": ("in the validation",)}


class MainThread:
    """Where the main thread is, written down by itself: to walk its frames from another thread can crash CPython 3.11
    (PyFrame_GetBack meets one that is only half there)."""

    phase = ""
    compiling = False

    def is_told(self):
        enter = Watch.__enter__

        def tell(_, name):
            self.phase = name

        def entered(watch):
            # Here and not before: jax must not be imported before the number of devices is set.
            from jax._src import compiler

            compile_or_get_cached = compiler.compile_or_get_cached

            def compiling(*arguments, **options):
                self.compiling = True
                try:
                    return compile_or_get_cached(*arguments, **options)
                finally:
                    self.compiling = False

            compiler.compile_or_get_cached = compiling
            return enter(watch)

        Watch.phase, Watch.__enter__ = property(lambda _: self.phase, tell), entered

    def is_in(self, where):
        if where == "compile":
            return self.compiling
        return self.phase.startswith(PHASES[where]) and not self.compiling


def unfinished_saves(workdir):
    return {p.name for p in workdir.glob("*/*.partial/checkpoints/*.orbax-checkpoint-tmp*")}


def interrupt(number, where, count, main_thread, workdir):
    seen, old_saves = 0, unfinished_saves(workdir)
    while seen < count:
        time.sleep(0.002)
        seen += bool(unfinished_saves(workdir) - old_saves) if where == "save" else main_thread.is_in(where)
    os.write(2, f"{number.name} in {where}\n".encode())
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    number, where, count = signal.Signals[sys.argv[1]], sys.argv[2], int(sys.argv[3])
    arguments = sys.argv[4:]
    workdir = Path(arguments[arguments.index("--workdir") + 1])
    main_thread = MainThread()
    main_thread.is_told()
    threading.Thread(target=interrupt, args=(number, where, count, main_thread, workdir), daemon=True).start()
    from phi_jax.cli import main

    main(arguments)
