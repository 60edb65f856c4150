"""Hostile files from `collect` to tokens, beside honest ones: counted, set aside, in bounded memory. Writes
hostile_corpus.json.

    pytest tests/acceptance/test_hostile_corpus.py

What single stages do with such input is in tests/test_collect.py, test_rows.py, test_stackoverflow.py; here are sizes,
and the way through all stages. About four minutes on two cores; PHI_JAX_HOSTILE_MB=N makes the large ones smaller.
"""

import gzip
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from posts_xml import HEAD, TAIL, answer, question, row
from running import ROOT

from phi_jax.bench.result import surroundings
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

MIB = 1 << 20
LARGE = int(os.environ.get("PHI_JAX_HOSTILE_MB", 100)) * MIB
BAR_GIB = 1.5
CODE = "def f_{0}(x):\n    # Honest number {0}, of a file that is to be kept.\n    return [x + {0}, x * {0}]\n"
HONEST = 400
STAGES = ("collect/python", "dedup/python", "decontaminate/raw", "annotate/python", "tokenize/tokenizer",
          "tokenize/raw")  # fmt: skip


# --- Texts that collect keeps, and that a parser, a tokenizer or n-grams may fail on -------------------------------

DEEP = {
    "parentheses": "x = " + "\n".join(["(" * 80] * 1000) + "1" + "\n".join([")" * 80] * 1000) + "\n",
    "minus": "x = \\\n" + ("-" * 80 + "\\\n") * 2000 + "1\n",
    "sum": "x = (1\n" + "+ a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9\n" * 3000 + ")\n",
    "dots": "x = (a\n" + ".b.c.d.e.f.g.h.i.j.k.l.m.n.o.p\n" * 4000 + ")\n",
    "calls": "x = f\\\n" + "()()()()()()()()()()()()()()()()\\\n" * 3000 + "()\n",
    "elif": "def f(x):\n    if x == 0:\n        return 0\n"
    + "".join(f"    elif x == {n}:\n        return {n}\n" for n in range(1, 4000)),
    "indents": "".join(" " * n + "if x:\n" for n in range(99)) + " " * 99 + "pass\n",
    "lambdas": "x = (\n" + "lambda: \\\n" * 15_000 + "0)\n",
    "strings": "x = " + "'''\n" * 30_001,
    "f-strings": "x = " + "\n".join(["f'{" * 20] * 500) + "\n",
}
ODD = {
    "blank lines": "x = 1\n" + "\n" * 190_000 + "y = 2\n",
    "spaces": "x = 1\n" + (" " * 90 + "\n") * 2000 + "y = 2\n",
    "end of text": "x = 1\n" + "<|endoftext|>\n" * 10_000,
    "one word": "word " * 15 + ("word " * 15 + "\n") * 2000,
    "marks": "# " + "e\u0301\u0302\u0303" * 10 + "\n" + "# \u202e\u2066\U0001f468\u200d\U0001f469\n" * 2000,
    "controls": "x = '\x0b\x0c\x1c\x85\u2028\u2029'\n" * 1500,
    "numbers": "".join(f"x = 0x{'f' * 90}\n" for _ in range(1500)) + f"y = {'9' * 800}\n",
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A directory with all of it; what of it is to be set aside is named in ASIDE."""
    top = tmp_path_factory.mktemp("hostile") / "src"
    (top / "deep").mkdir(parents=True)
    for number in range(HONEST):
        (top / f"honest{number}.py").write_text(CODE.format(number))
    for name, text in {**DEEP, **ODD}.items():
        (top / "deep" / f"{name}.py").write_text(text)
        assert len(text.encode()) < 200_000, name
    large_files(top)
    odd_files(top)
    return top


def large_files(top):
    line = b"x" * MIB
    count = LARGE // MIB

    def fill(file, head, tail):
        file.write(head)
        for _ in range(count):
            file.write(line)
        file.write(tail)

    with open(top / "line.py", "wb") as file:
        fill(file, b"x = '", b"'\n")
    with open(top / "line.jsonl", "wb") as file:
        file.write(json.dumps({"text": CODE.format("jsonl_1")}).encode() + b"\n")
        fill(file, b'{"text": "', b'"}\n')
        fill(file, b'{"text": "x", "other": "', b'"}\n')
        file.write(b"[" * 10**6 + b"\n")
        file.write(b'{"text": ' + b'{"a": ' * 10**5 + b"1" + b"}" * 10**5 + b"}\n")
        fill(file, b'{"text": "', b"\n")  # it does not end
        file.write(json.dumps({"text": CODE.format("jsonl_2")}).encode() + b"\n")
    with gzip.open(top / "bomb.jsonl.gz", "wb", compresslevel=1) as file:  # a thousandth of what it holds
        file.write(json.dumps({"text": CODE.format("gz")}).encode() + b"\n")
        fill(file, b'{"text": "', b'"}\n')
    texts = [CODE.format("parquet_1"), "x" * LARGE, CODE.format("parquet_2")]
    pq.write_table(pa.table({"content": texts}), top / "cell.parquet")
    (top / "so").mkdir()
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    with open(top / "so" / "Posts.xml", "w", newline="", encoding="utf-8") as file:
        file.write(HEAD + f'<!DOCTYPE posts [<!ENTITY l0 "lol">{laughs}]>\r\n')
        file.write(question(1, "Sort a list?", "<p>How do I sort it, and is it stable?</p>", accepted=2))
        file.write(answer(2, 1, "<p>With sorted(), which is stable.</p>", 3))
        file.write(row(Id=3, PostTypeId=2, ParentId=1, Score=9, Body="LOL").replace("LOL", "&l9;"))
        file.write(row(Id=4, PostTypeId=2, ParentId=1, Score=9, Body="<b>" * 100_000))
        file.write('  <row Id="5" PostTypeId="2" ParentId="1" Score="99" Body="')
        for _ in range(count):
            file.write("x" * MIB)
        file.write('" />\r\n' + TAIL)


def odd_files(top):
    (top / "links").mkdir()
    (top / "links" / "loop").symlink_to(top, target_is_directory=True)
    (top / "links" / "self.py").symlink_to("self.py")
    (top / "links" / "gone.py").symlink_to("nowhere.py")
    (top / "links" / "zero.py").symlink_to("/dev/zero")
    (top / "links" / "directory.py").symlink_to(top / "deep", target_is_directory=True)
    os.mkfifo(top / "pipe.py")
    os.mkfifo(top / "pipe.parquet")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(top, os.O_RDONLY)  # a socket's path has 100 characters at most
        listening.bind(f"/proc/self/fd/{here}/socket.py")
        os.close(here)
    names = {
        b"caf\xe9.py": "latin", b"new\nline.py": "newline", b"tab\t.py": "tab", b"\xff\xfe.py": "bytes",
        b"quote'\".py": "quotes", b"-rf.py": "dash", b" .py": "space", b".py": "hidden", b"a" * 252 + b".py": "long",
        "\u202eyp.exe.py".encode(): "rtl", b"*.py": "star", b"\x1b[2J.py": "escape",
    }  # fmt: skip
    for name, about in names.items():
        with open(os.fsencode(top) + b"/" + name, "w") as file:
            file.write(CODE.format(about))
    deep = top
    for _ in range(60):
        deep = deep / ("d" * 50)
        deep.mkdir()
    (deep / "far.py").write_text(CODE.format("far"))


KEPT_ELSEWHERE = 12 + 1 + 2 + 1 + 2 + 1  # odd names, far.py, of JSON lines, of gzip, of Parquet, of StackOverflow
ASIDE = {
    "line.py": "huge", "line.jsonl#1": "huge", "line.jsonl#2": "tiny", "line.jsonl#3": "malformed row",
    "line.jsonl#4": "malformed row", "line.jsonl#5": "malformed row", "bomb.jsonl.gz#1": "huge",
    "cell.parquet#1": "huge", "pipe.py": "not a readable file", "pipe.parquet": "not a readable file",
    "socket.py": "not a readable file", "links/self.py": "not a readable file", "links/gone.py": "not a readable file",
    "links/zero.py": "not a readable file",
}  # fmt: skip


# --- The chain -----------------------------------------------------------------------------------------------------


def watched_run(arguments, workdir, timeout=1500):
    """(exit code, standard error, peak GiB of the process and its children, seconds) of `phi-jax run`."""
    sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
    from corpus_scale import Watched

    begin, said = time.monotonic(), workdir.with_suffix(".log")
    with open(said, "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "phi_jax.cli", *arguments, "--workdir", str(workdir)], cwd=ROOT, stderr=log
        )
        watch = Watched(process, workdir)
        process.wait(timeout)
        watch.end()
    return process.returncode, said.read_text(errors="replace"), watch.pss / 2**30, time.monotonic() - begin


def arguments(source, problems):
    changes = {
        "collect.sources": f"('{source}',)", "decontaminate.problems": problems, "annotate.grader": "static",
        "annotate.max_files": 10**9, "tokenize.tokenizer": "", "tokenize.learn_on": "('raw',)",
        "tokenize.vocab_size": 2048, "tokenize.train_bytes": 2_000_000, "tokenize.seq_len": 256,
        "tokenize.validation_fraction": 0.1,
    }  # fmt: skip
    fields = [f"--config.{name}={value}" for name, value in changes.items()]
    return ["run", "--config", str(ROOT / "configs" / "phi_1.py"), *fields]


def paths_of(built, output):
    columns = documents.schema_of(documents.parts(built.path(output))[0]).names
    return {r["path"]: r for r in documents.read(built.path(output), columns)}


def note(name, figures):
    path = Path(__file__).with_name("hostile_corpus.json")
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, "surroundings": surroundings(), name: figures}, indent=1) + "\n")


@pytest.mark.parametrize("runner", ["processes", "ray"])
def test_all_of_it_goes_through_all_stages(sources, tmp_path, shared_data, runner):
    if runner == "ray":
        pytest.importorskip("ray", reason="needs Ray: pip install -e '.[ray]'")
    workdir = tmp_path / "run"
    problems = shared_data / "eval" / "HumanEval.jsonl.gz"
    command = [*arguments(sources, problems), "--only", ",".join(STAGES), "--runner", runner]
    code, said, peak, seconds = watched_run(command, workdir)
    assert code == 0, said[-3000:]
    assert "Traceback" not in said
    collected = Artifact.read(workdir / "collect" / "python")
    kept, aside = paths_of(collected, "documents"), paths_of(collected, "set_aside")
    reasons = {path: found["reason"] for path, found in aside.items()}
    faults = {path: reason for path, reason in reasons.items() if path.startswith("Posts.xml")}
    assert {path: reasons.get(path) for path in ASIDE} == ASIDE
    assert set(faults.values()) == {"malformed row"}
    assert reasons.keys() - ASIDE.keys() - faults.keys() <= {f"deep/{name}.py" for name in {**DEEP, **ODD}}
    facts = collected.facts
    assert facts["kept"] + sum(facts["set_aside"].values()) == facts["files"]
    assert facts["kept"] == len(kept) == HONEST + KEPT_ELSEWHERE + sum(path.startswith("deep/") for path in kept)
    assert sum(path.startswith("honest") for path in kept) == HONEST

    # What is kept is in every later set, or named where it went.
    dropped = paths_of(Artifact.read(workdir / "dedup" / "python"), "duplicates")
    clean = Artifact.read(workdir / "decontaminate" / "raw")
    left = paths_of(clean, "documents")
    assert left.keys() | dropped.keys() | paths_of(clean, "findings").keys() >= kept.keys()
    grades = Artifact.read(workdir / "annotate" / "python")
    assert grades.manifest["outputs"]["grades"]["rows"] == len(left)
    tokens = Artifact.read(workdir / "tokenize" / "raw").facts
    assert sum(count for _, _, count, _ in tokens["sources"]) == len(left)

    note(
        "chain" if runner == "processes" else "chain on Ray",
        {
            "large_bytes": LARGE, "files": facts["files"], "kept": facts["kept"], "set_aside": facts["set_aside"],
            "deep_and_odd": {n: reasons.get(f"deep/{n}.py", "kept") for n in {**DEEP, **ODD}},
            "not_parsed": clean.facts["documents"]["not_parsed"], "grades": grades.facts["reasons"],
            "peak_pss_gib": round(peak, 2), "seconds": round(seconds, 1),
        },
    )  # fmt: skip
    if runner == "processes":  # Ray's own processes take some
        assert peak <= BAR_GIB


@pytest.mark.parametrize("damage", ["truncated.parquet", "zeros.parquet", "no.parquet", "truncated.jsonl.gz"])
def test_a_damaged_table_beside_good_files(tmp_path, shared_data, damage):
    """It costs itself, counted, and nothing else."""
    source = tmp_path / "src"
    source.mkdir()
    for number in range(HONEST):
        (source / f"honest{number}.py").write_text(CODE.format(number))
    good, texts = ([CODE.format(f"{name}_{n}") for n in range(5000)] for name in ("good", "damaged"))
    pq.write_table(pa.table({"content": texts}), source / damage)
    pq.write_table(pa.table({"content": good}), source / "good.parquet")
    if damage.endswith(".gz"):
        data = gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
        data = data[: len(data) // 2]
    else:
        data = bytearray((source / damage).read_bytes())
        if damage == "truncated.parquet":
            del data[len(data) // 2 :]
        elif damage == "zeros.parquet":  # in the texts: what is in it is told, and cannot be read
            data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
        else:
            data = b"PAR1 but not really"
    (source / damage).write_bytes(data)
    workdir = tmp_path / "run"
    command = [*arguments(source, shared_data / "eval" / "HumanEval.jsonl.gz"), "--only", "collect/python"]
    code, said, peak, _ = watched_run(command, workdir)
    collected = Artifact.read(workdir / "collect" / "python")
    facts = collected.facts if collected else {}
    warned = [re.sub(r"\S*/src/", "", line) for line in said.splitlines() if line.startswith("  warning: ")]
    note(damage, {"exit code": code, "said": warned, **{n: facts.get(n) for n in ("files", "kept", "set_aside")}})
    assert code == 0, said[-2000:]
    kept, aside = paths_of(collected, "documents"), paths_of(collected, "set_aside")
    assert sum(path.startswith(("honest", "good.parquet")) for path in kept) == HONEST + 5000
    assert {found["reason"] for path, found in aside.items() if path.startswith(damage)} == {"damaged"}
    assert len(warned) >= 1
    assert peak <= BAR_GIB
