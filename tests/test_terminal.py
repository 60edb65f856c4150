"""What a user sees of a run: on a terminal, in a file, and when it is stopped by Ctrl-C."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import MICRO, ROOT, phi_jax
from test_cores import is_running

from phi_jax.errors import EXIT_PREEMPTED

LABELS = ("dedup/python", "export/base", "evaluate/base", "report")
LIST = [
    r"\d+ of \d+ stages are whole",
    r"dedup/python                \d+ documents, \d+ duplicates +[\d.]+ s",
    r"export/base                 91,904 parameters +[\d.]+ s",
    r"evaluate/base               8 problems +[\d.]+ s",
    r"report                      +[\d.]+ s",
]


@pytest.fixture
def almost_done(micro_run, tmp_path):
    workdir = shutil.copytree(micro_run, tmp_path / "run")
    for label in LABELS:
        shutil.rmtree(workdir / label)
    return workdir


def assert_lines(lines, patterns):
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)
        assert len(line) < 80


def test_a_run_is_a_list_that_fills_and_nothing_else(almost_done):
    """In a file; no library adds a word. With --verbose there are identities, and the log says what begins."""
    done = phi_jax("run", *MICRO, "--workdir", almost_done)
    assert_lines(done.stderr.splitlines(), LIST)
    assert done.stdout.splitlines()[0].startswith("pass@1, greedy")
    assert done.stdout.splitlines()[-1] == f"report: {almost_done}/report/index.html"
    shutil.rmtree(almost_done / "report")
    done = phi_jax("run", *MICRO, "--workdir", almost_done, "--verbose")
    assert_lines(done.stderr.splitlines(), [LIST[0], "report: starting", LIST[-1], r"  identity [0-9a-f]{12}"])


def test_on_a_terminal_the_same_list_is_left(almost_done):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "phi_jax.cli", "run", *MICRO, "--workdir", almost_done]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                said += os.read(ours, 1 << 16)
            except OSError:  # the last one to hold the other end is gone
                break
    os.close(ours)
    assert process.returncode == 0
    assert b"evaluate/base: starting" in said
    assert_lines(shown(said.decode()), LIST)


def shown(said):
    """The lines that a terminal shows in the end; it knows what tqdm and we send to it."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\r|\n|\x1b\[K|\x1b\[A|[^\r\n\x1b]+", said):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif part == "\x1b[A":
            row -= 1
        elif part == "\x1b[K":
            lines[row] = lines[row][:column]
        else:
            lines[row] = lines[row].ljust(column)[:column] + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines if line.strip()]


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------

POOL = """
import functools, pathlib, sys
import test_cores
from phi_jax import cli, pipeline
from phi_jax.store.cores import spread
def run(config, workdir, **_):
    list(spread(functools.partial(test_cores.slow, pathlib.Path(workdir)), range(4), 2, label="x"))
pipeline.run = run
cli.main(sys.argv[1:])
"""


def children_of(process):
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def importing(process, workdir):
    return "/pyarrow/" in Path(f"/proc/{process}/maps").read_text()


def starting_a_pool(process, workdir):
    begun = len(children_of(process)) >= 3  # with the one that multiprocessing keeps
    time.sleep(0.2 * begun)  # a child then imports
    return begun


def in_a_pool(process, workdir):
    return len(list(workdir.iterdir())) >= 2


LONG = ("--config.training.steps=2000", "--config.training.schedule_steps=2000")
GOES_ON = "; the same command goes on from what is saved"


def training(process, workdir):
    metrics = workdir / "pretrain" / "raw.partial" / "metrics.jsonl"
    return metrics.exists() and metrics.read_text().count("\n") > 2


def evaluating(process, workdir):
    return (workdir / "evaluate" / "base.partial").exists() and children_of(process)  # the sandbox's


@pytest.mark.parametrize(
    ("where", "code", "arguments", "left", "told"),
    [
        (importing, "-m phi_jax.cli", ["run"], (), f"stopped{GOES_ON}"),
        (starting_a_pool, POOL, ["run"], (), f"stopped{GOES_ON}"),
        (in_a_pool, POOL, ["run"], (), f"stopped{GOES_ON}"),
        (training, "-m phi_jax.cli", ["pretrain", "--name", "raw", *LONG], ("tokenize/raw",),
         r"pretrain/raw: asked to stop; step (\d+) is saved; run the same command again to go on"),
        (evaluating, "-m phi_jax.cli", ["evaluate", "--name", "base"], ("export/base", "synthesize/grammar"),
         f"stopped in evaluate/base{GOES_ON}"),
    ],
)  # fmt: skip
def test_ctrl_c_is_one_line(request, tmp_path, where, code, arguments, left, told):
    """A terminal sends it to the whole group. left: what stands there before. No process is left behind, and of a
    training no step is lost."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    for label in left:
        shutil.copytree(request.getfixturevalue("micro_run") / label, workdir / label)
    begin = ["-c", code] if code == POOL else code.split()
    process = subprocess.Popen(
        [sys.executable, *begin, *arguments, *MICRO, "--workdir", str(workdir)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # who starts the tests may have it ignored
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not where(process.pid, workdir):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = children_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == (EXIT_PREEMPTED if where is training else 130), said
    # Behind how many stages are whole, and what a stage has said of itself.
    lines = [line for line in said.splitlines() if not line.startswith("  ") and not line.endswith("stages are whole")]
    assert len(lines) == 1
    assert (found := re.fullmatch(f"phi-jax: {told}", lines[0])), said
    if where is training:
        assert (workdir / "pretrain" / "raw.partial" / "checkpoints" / found[1]).is_dir()
    while alive := [child for child in children if is_running(child)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


SAMPLING = """
import sys
from phi_jax import cli, loading
def interrupted(_):
    raise KeyboardInterrupt
loading.Model = interrupted
cli.main(sys.argv[1:])
"""


def test_ctrl_c_of_what_is_no_stage_just_ends():
    """Nothing of a completion stays, so nothing is said of going on."""
    command = [sys.executable, "-c", SAMPLING, "sample", "--model", "m", "--prompt", "p"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (130, "phi-jax: stopped\n")


DEAF = """
import signal, sys, time
from phi_jax import cli, pipeline
class Deaf:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
def run(*_, **__):
    Deaf()
    time.sleep(600)
pipeline.run = run
signal.signal(signal.SIGINT, signal.default_int_handler)
cli.main(sys.argv[1:])
"""


def test_ctrl_c_is_not_lost_where_nothing_can_be_raised(tmp_path):
    """As in jax's callback of the garbage collector, where a training is now and then."""
    command = [sys.executable, "-c", DEAF, "run", *MICRO, "--workdir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (130, "phi-jax: stopped; the same command goes on from what is saved\n")
