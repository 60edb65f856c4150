"""phi_jax/store/cores.py: work in several processes gives what one gives, and they end with the one that asked."""

import functools
import os
import signal
import subprocess
import sys
import time

import pytest
from running import ROOT

from phi_jax.contamination import decontaminate
from phi_jax.contamination.held_out import HeldOut
from phi_jax.corpus import annotate
from phi_jax.errors import UserError
from phi_jax.evaluation.problems import load_problems
from phi_jax.store import cores, documents
from phi_jax.store.artifact import file_digest


def slow(place, item):
    (place / f"{item}.{os.getpid()}").touch()
    time.sleep(600)


def failing(item):
    if item == 1:
        raise UserError("item 1: is bad; mend it")
    time.sleep(600 * (item > 1))


def killed(item):
    os.kill(os.getpid(), signal.SIGKILL)


def number(item):
    return item, os.getpid()


def test_results_come_in_order_from_other_processes():
    found = list(cores.spread(number, range(6), 2, label="x"))
    assert [item for item, _ in found] == list(range(6))
    assert os.getpid() not in {process for _, process in found}
    assert {process for _, process in cores.spread(number, range(6), 1, label="x")} == {os.getpid()}
    assert {process for _, process in cores.spread(number, [5], 2, label="x")} == {os.getpid()}


def test_an_error_of_one_is_raised_and_ends_the_others():
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"^item 1: is bad; mend it$"):
        list(cores.spread(failing, range(4), 2, label="x"))
    assert time.monotonic() - begin < 60


def test_a_killed_process_is_an_error_of_a_line():
    with pytest.raises(UserError, match=r"^x: one of its 2 processes was killed.*run the same command again"):
        list(cores.spread(killed, range(4), 2, label="x"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_one_that_asked(tmp_path, number):
    code = (
        # Python leaves SIGINT ignored where whoever started the tests did, as a shell does for what runs behind it.
        "import functools, pathlib, signal, test_cores\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from phi_jax.store.cores import spread\n"
        f"list(spread(functools.partial(test_cores.slow, pathlib.Path({str(tmp_path)!r})), range(4), 2, label='x'))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, stderr=-3)
    deadline = time.monotonic() + 120
    while len(begun := list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(begun) == 2, "the work did not begin"
    parent.send_signal(number)
    assert parent.wait(timeout=60) != 0
    children = [int(name.suffix[1:]) for name in begun]
    while (left := [child for child in children if is_running(child)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def is_running(process):
    try:
        return open(f"/proc/{process}/stat").read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_parts_have_the_same_bytes_from_two_processes(tmp_path, monkeypatch):
    """What our stages hand over can be pickled, and findings, texts and grades are the same, bit for bit."""
    held_out = HeldOut("idioms")
    _, problems = load_problems("idioms")
    leak = next(p.prompt + p.reference for p in problems if "same text" in held_out.inspect(p.prompt + p.reference))
    source = tmp_path / "source"
    source.mkdir()
    for part in range(3):
        texts = [f"{text}# {part}\n" for text in (leak, "def f(x):\n    return x + 1\n", "not Python (", "# words\n")]
        about = {"source": "s", "path": "p", "language": "python"}
        documents.write_part(source, part, [{"id": documents.document_id(t), "text": t, **about} for t in texts])
    ids = {row["id"] for row in documents.read(source, ("id",))}
    parts = [("texts", *part) for part in enumerate(documents.parts(source))]
    monkeypatch.setattr(documents, "_WORTH_PROCESSES", 0)
    digests = []
    for count in (1, 2):
        monkeypatch.setattr(documents, "cores", lambda count=count: count)
        to = tmp_path / str(count)
        (to / "texts").mkdir(parents=True)
        check = functools.partial(decontaminate._check, parts, to, held_out, True)
        apart = [path for _, _, path in parts]
        documents.write_parts(to / "findings", 3, check, decontaminate._FINDINGS, label="x", apart=apart)
        grade = functools.partial(annotate._grades, apart, ids, annotate._weighed)
        documents.write_parts(to / "grades", 3, grade, annotate._GRADED, label="x", apart=apart)
        digests.append({str(p.relative_to(to)): file_digest(p) for p in sorted(to.rglob("*.parquet"))})
    assert "same text" in {row["reason"] for row in documents.read(to / "findings", ("reason",))}
    assert len(digests[0]) == 9
    assert digests[0] == digests[1]
