"""Runs `phi-jax` and sends it a signal while it is in a chosen part of training.

    python tests/interrupted_run.py SIGNAL WHERE N phi-jax-arguments...

WHERE: "compile", "step", "eval" or "save". A thread looks at the main thread's stack every few milliseconds ("save":
for the directory of a new save that is not finished) and sends SIGNAL when it has seen the place for the N-th time.
The line "SIGNAL in WHERE" on standard error says that it was sent there.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

IN_COMPILE = {"backend_compile", "backend_compile_and_load", "compile_or_get_cached", "_compile_and_write_cache"}


def frames_of(main_thread):
    """Function name -> its frame, of all that the main thread is in."""
    frame, found = sys._current_frames().get(main_thread), {}
    while frame is not None:
        found.setdefault(frame.f_code.co_name, frame)
        frame = frame.f_back
    return found


def unfinished_saves(workdir):
    return {p.name for p in workdir.glob("*/*.partial/checkpoints/*.orbax-checkpoint-tmp*")}


def is_in(where, main_thread, workdir, old_saves):
    if where == "save":
        return bool(unfinished_saves(workdir) - old_saves)
    frames = frames_of(main_thread)
    compiling = "_train" in frames and not IN_COMPILE.isdisjoint(frames)
    if where == "compile":
        return compiling
    if where == "eval":
        return "_validation_loss" in frames and not compiling
    in_the_loop = "_train" in frames and "metrics" in frames["_train"].f_locals
    return in_the_loop and not compiling and "_validation_loss" not in frames


def interrupt(number, where, count, main_thread, workdir):
    seen, old_saves = 0, unfinished_saves(workdir)
    while seen < count:
        time.sleep(0.002)
        seen += is_in(where, main_thread, workdir, old_saves)
    os.write(2, f"{number.name} in {where}\n".encode())
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    number, where, count = signal.Signals[sys.argv[1]], sys.argv[2], int(sys.argv[3])
    arguments = sys.argv[4:]
    workdir = Path(arguments[arguments.index("--workdir") + 1])
    threading.Thread(target=interrupt, args=(number, where, count, threading.get_ident(), workdir), daemon=True).start()
    from phi_jax.cli import main

    main(arguments)
