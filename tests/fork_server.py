"""A `python` that has imported what its runs need: each of them is a child of this process.

    python tests/fork_server.py serve SOCKET MODULE...     serves until its standard input ends
    python tests/fork_server.py python SOCKET ARGUMENT...  is `python ARGUMENT...`, but for signals

A client sends a line of JSON, {"arguments", "cwd", "env", "new_session"}, and with it the files that the run has as
standard input, output and error. It is answered with the number of the process and, once that has ended, its exit code,
which is negative for a signal.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import socket
import sys


def ask(path, arguments, cwd, env, files, new_session=False):
    """The connection, from which the number and the exit code can be read, a line each."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    asked = {"arguments": [*map(str, arguments)], "cwd": str(cwd), "env": dict(env), "new_session": new_session}
    line = json.dumps(asked).encode() + b"\n"
    sent = socket.send_fds(connection, [line], [*files])
    connection.sendall(line[sent:])
    return connection


def serve(path):
    """Returns in each child, with what it was asked for, and in the parent, with nothing."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen()
    os.rename(f"{path}.new", path)  # now clients may come
    waiting = selectors.SelectSelector()
    waiting.register(listener, selectors.EVENT_READ)
    waiting.register(sys.stdin, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is sys.stdin:
                os.unlink(path)
                return None
            if key.fileobj is not listener:
                connection, child = key.data
                waiting.unregister(key.fileobj)
                os.close(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with connection, contextlib.suppress(BrokenPipeError):
                    connection.sendall(b"%d\n" % code)
                continue
            connection, _ = listener.accept()
            line, files, _, _ = socket.recv_fds(connection, 2**16, 3)
            while not line.endswith(b"\n"):
                line += connection.recv(2**16)
            child = os.fork()
            if child == 0:
                for other in (listener, connection, *(key.data[0] for key in waiting.get_map().values() if key.data)):
                    other.close()
                return {**json.loads(line), "files": files}
            for file in files:
                os.close(file)
            connection.sendall(b"%d\n" % child)
            waiting.register(os.pidfd_open(child), selectors.EVENT_READ, (connection, child))


def run(arguments, cwd, env, new_session, files):
    """As `python` does with its arguments."""
    if new_session:
        os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if "coverage" in sys.modules:  # acceptance/test_mutation_check.py asks which test this child is of
        sys.modules["coverage"].Coverage.current().switch_context(env["PYTEST_CURRENT_TEST"])
    kind, *rest = arguments
    if kind == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        exec(compile(rest[0], "<string>", "exec"), sys.modules["__main__"].__dict__)
    elif kind == "-m":
        sys.argv, sys.path[0] = rest, ""
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.abspath(kind))
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":  # a process that a stage starts imports this file too
    what, path, *rest = sys.argv[1:]
    if what == "python":
        answers = ask(path, rest, os.getcwd(), os.environ, (0, 1, 2)).makefile()
        sys.exit([*map(int, answers)][1])
    for module in rest:
        importlib.import_module(module)
    gc.freeze()  # else each child looks through all of that for garbage as it ends, for half a second
    if asked := serve(path):
        run(**asked)
