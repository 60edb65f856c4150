"""`--runner ray` on a real Ray cluster of two raylets: from raw files to tokens, what processes here come to."""

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import ROOT, identities

from phi_jax.store import documents
from phi_jax.store.artifact import Artifact

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

STAGES = ("collect/python", "dedup/python", "decontaminate/raw", "annotate/python", "tokenize/tokenizer",
          "tokenize/raw")  # fmt: skip
KILLED_IN = ("collect/python", "decontaminate/raw", "tokenize/raw")  # while a worker is at work there
ROWS = 1100  # of a table: two parts


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of a core each. Yields the directory that the command lines of their raylets name."""
    utils = pytest.importorskip("ray.cluster_utils", reason="needs Ray: pip install -e '.[ray]'")
    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    # In a short place, since sockets are in it.
    scratch = tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True)
    with pytest.MonkeyPatch.context() as patch, scratch as place:
        patch.setenv("RAY_TMPDIR", place)  # else it notes its address in /tmp/ray, which need not be there
        patch.setenv("RAY_raylet_start_wait_time_s", "600")  # of a busy machine
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        found = utils.Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        try:
            found.add_node(**node)
            patch.setenv("RAY_ADDRESS", found.address)
            yield place
        finally:
            found.shutdown()


def pieces():
    """Python of two kilobytes each, some of it twice, as it is or nearly."""
    found, size, library = [], 2000, Path(sysconfig.get_path("stdlib"))
    for file in sorted([*library.glob("*.py"), *library.glob("[c-e]*/*.py")]):
        text = file.read_text(errors="ignore")
        found += ["# A piece.\n" + text[n : n + size].partition("\n")[2] for n in range(0, len(text) - size, size)]
    again = [text + ("" if number % 2 else "\n# the end\n") for number, text in enumerate(found[:300:7])]
    return found[: 2 * ROWS] + again


def sources(root):
    """Two directories of tables and files, each with the same text once, and hostile ones among them."""
    texts = pieces()
    assert len(texts) == 2 * ROWS + 43
    one, other = root / "one", root / "other"
    for place in (one, other):
        (place / "deep").mkdir(parents=True)
        (place / "same.py").write_text("def same():\n    return 'the same text in both sources'\n")
    pq.write_table(pa.table({"content": texts[:ROWS]}), one / "a.parquet")
    # What is in it is told, and cannot be read; and what cannot even be counted.
    data = (one / "a.parquet").read_bytes()
    (other / "zeros.parquet").write_bytes(data[: len(data) // 2] + bytes(2000) + data[len(data) // 2 + 2000 :])
    (other / "truncated.parquet").write_bytes(data[: len(data) // 2])
    rows = [json.dumps({"text": text, "path": f"p/{n % 90}.py"}) for n, text in enumerate(texts[-ROWS:])]
    (other / "b.jsonl").write_text("\n".join([*rows, "not JSON", '{"text": "\\ud800"}']))
    os.mkfifo(one / "pipe.py")
    (one / "deep" / "loop").symlink_to(one)
    (other / "self.py").symlink_to(other / "self.py")
    Path(os.fsdecode(os.fsencode(other) + b"/caf\xe9 \xff.py")).write_text("def odd():\n    return 'an odd name'\n")
    return one, other


def command(workdir, places, *more):
    changes = {
        "collect.sources": tuple(map(str, places)), "collect.min_bytes": 10, "decontaminate.problems": "idioms",
        "annotate.grader": "static", "annotate.max_files": 10**9, "tokenize.tokenizer": "",
        "tokenize.learn_on": "('raw',)", "tokenize.vocab_size": 600, "tokenize.train_bytes": 100_000,
        "tokenize.seq_len": 256, "tokenize.validation_fraction": 0.1, "tokenize.shard_tokens": 200_000,
    }  # fmt: skip
    fields = [f"--config.{name}={value}" for name, value in changes.items()]
    config = ["--config", f"{ROOT}/configs/phi_1.py", *fields, "--workdir", str(workdir)]
    return [sys.executable, "-m", "phi_jax.cli", "run", *config, "--only", ",".join(STAGES), *more]


def busy_worker(place):
    """A worker of the cluster that has a task, or None."""
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            said = Path(f"/proc/{process}/cmdline").read_bytes()
            if re.match(b"ray::(?!IDLE|.*Agent)", said):
                parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]
                if place.encode() in Path(f"/proc/{parent}/cmdline").read_bytes():
                    return int(process)
        except OSError:  # ended meanwhile
            continue
    return None


def files_of(workdir):
    return {p.relative_to(workdir).as_posix() for stage in STAGES for p in (workdir / stage).rglob("*") if p.is_file()}


def aside(workdir):
    found = Artifact.read(workdir / "collect" / "python").path("set_aside")
    return sorted(tuple(row.values()) for row in documents.read(found, ("source", "path", "reason")))


def test_the_same_from_hostile_shuffled_input_though_workers_are_killed(cluster, tmp_path):
    one, other = sources(tmp_path)
    plain, here = tmp_path / "plain", tmp_path / "clustered"
    done = subprocess.run(command(plain, (one, other)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    said, hit = [], []
    # From another directory: nothing may rest on where a worker was started.
    arguments = command("clustered", (other, one), "--runner", "ray", "--verbose")
    process = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, stdout=-3, text=True)
    reader = threading.Thread(target=lambda: said.extend(iter(process.stderr.readline, "")), daemon=True)
    reader.start()
    while process.poll() is None:
        stage = next((line.partition(":")[0] for line in reversed(said[:]) if ": starting" in line), "")
        if stage in KILLED_IN and stage not in hit and (worker := busy_worker(cluster)):
            os.kill(worker, signal.SIGKILL)
            hit.append(stage)
        time.sleep(0.03)
    reader.join(60)
    assert process.returncode == 0, "".join(said)
    assert hit == [*KILLED_IN]
    assert "Traceback" not in "".join(said)

    assert identities(here) == identities(plain)
    assert set(identities(here)) == set(STAGES)
    assert files_of(here) == files_of(plain)
    assert aside(here) == aside(plain)
    assert len(documents.parts(Artifact.read(here / "collect" / "python").path("documents"))) >= 3
    reasons = defaultdict(set)
    for _, path, reason in aside(here):
        reasons[path.partition("#")[0]].add(reason)
    assert reasons["same.py"] == {"identical text"}
    assert reasons["pipe.py"] == reasons["self.py"] == {"not a readable file"}
    assert reasons["truncated.parquet"] == {"damaged"}
    assert "damaged" in reasons["zeros.parquet"]
    # What a worker said of a table reaches the user, as it does without a cluster.
    told = done.stderr, "".join(said)
    warned = [sorted(line for line in text.splitlines() if "  warning: " in line) for text in told]
    assert warned[0] == warned[1]
    assert len(warned[0]) >= 2


def test_a_directory_that_a_node_does_not_see_is_named(cluster, tmp_path):
    """As seen by the workers: they are told of another place than the driver's."""
    code = (
        "import sys\nfrom phi_jax.store import cores\nfrom phi_jax.errors import UserError\n"
        f"cores.use_ray({str(tmp_path / 'gone')!r})\n"
        "try:\n    list(cores.spread(len, ['a', 'b'], 2, label='x'))\n"
        "except UserError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "gone: not there on " in done.stdout
    assert "all nodes must share" in done.stdout
