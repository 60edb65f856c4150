"""A Posts.xml of 20 MB, and one of 200 MB, through `phi-jax collect`: rows, seconds, memory. Writes stackoverflow.json.

    pytest tests/acceptance/test_stackoverflow_dump.py

The format is the dump's; code and counts are the standard library's. A third of the questions is about Python.
"""

import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import psutil
import pytest
from posts_xml import forum, write
from running import MICRO

from phi_jax.store import documents
from phi_jax.store.artifact import Artifact

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]


def codes(size):
    """Pieces of the standard library, over and over, until a dump of them has `size` bytes."""
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "".join(path.read_text(errors="ignore") for path in library)
    lines = ["".join(c for c in line if c.isprintable()) for line in text.split("\n")]
    pieces = ["\n".join(lines[n : n + 30]) for n in range(0, len(lines), 30)]
    made = used = 0
    while used < size:
        yield f"# {made}\n{pieces[made % len(pieces)]}"
        used += 3 * len(pieces[made % len(pieces)]) + 1500
        made += 1


def collected(dump, workdir):
    """(the artifact, seconds, peak in MiB of the resident memory of all processes together, sampled). Not wait4's
    ru_maxrss: that begins with what this process held when it started the other.
    """
    command = [sys.executable, "-m", "phi_jax.cli", "collect", *MICRO, "--workdir", str(workdir)]
    started = time.monotonic()
    process = subprocess.Popen([*command, f"--config.collect.sources=('{dump}',)", "--config.collect.max_files=0"])
    peak, first = 0, psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            peak = max(peak, sum(one.memory_info().rss for one in (first, *first.children(recursive=True))))
        time.sleep(0.05)
    assert process.returncode == 0
    return Artifact.read(workdir / "collect" / "python"), time.monotonic() - started, peak / 2**20


def test_a_dump_in_bounded_memory(tmp_path):
    measured = []
    for megabytes in (20, 200):
        texts = list(codes(megabytes * 1_000_000))
        dump = write(tmp_path / str(megabytes) / "Posts.xml", forum(texts))
        built, seconds, peak = collected(dump, tmp_path / f"w{megabytes}")
        size = dump.stat().st_size
        python = range(0, len(texts), 3)
        unanswered = sum(n % 12 == 9 for n in python)
        aside = built.facts["set_aside"]
        assert aside["no answer"] == unanswered
        assert not {"malformed row", "truncated"} & aside.keys()
        assert built.facts["kept"] + sum(aside.values()) == built.facts["files"] == len(python)
        assert built.facts["kept"] > 0.8 * (len(python) - unanswered)
        for row in documents.read(built.path("documents"), ("text", "path", "license")):
            question, _, answer = row["path"].removeprefix("questions/").partition("#")
            accepted = int(question) // 10 % 2
            assert int(answer) == int(question) + (2 if accepted else 1)
            assert row["text"].partition("## Answer\n\n")[2].startswith("Accepted." if accepted else "Most liked.")
            assert row["license"] == ("CC-BY-SA-4.0 AND CC-BY-SA-3.0" if accepted else "CC-BY-SA-4.0")
        measured.append({
            "dump_bytes": size, "questions": len(texts), "about_python": len(python), "kept": built.facts["kept"],
            "set_aside": aside, "seconds": round(seconds, 1), "bytes_a_second": round(size / seconds),
            "peak_mib": round(peak),
        })  # fmt: skip
        dump.unlink()
    result = {
        "date": datetime.date.today().isoformat(), "python": platform.python_version(), "cpus": os.cpu_count(),
        "dumps": measured,
    }  # fmt: skip
    Path(__file__).with_name("stackoverflow.json").write_text(json.dumps(result, indent=1) + "\n")
    small, large = measured
    assert abs(small["dump_bytes"] / 20e6 - 1) < 0.3
    assert large["peak_mib"] < 1536
    assert large["peak_mib"] < small["peak_mib"] + 100
