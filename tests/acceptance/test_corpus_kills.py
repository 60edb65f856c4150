"""20 seeded SIGKILLs of the driver while it turns 10 MB of Python into tokens: nothing lost, nothing doubled.

    pytest tests/acceptance/test_corpus_kills.py

A kill waits until the driver says that a stage starts or goes on, and then a random share of the time which that stage
takes undisturbed. The next run goes on in the same work directory; after five kills it runs to its end and is compared
with the undisturbed run, and the next five begin afresh. So by processes, and by a Ray cluster of this machine, beside
the undisturbed run by processes. Writes corpus_kills.json and corpus_kills_ray.json. About ten minutes on two cores;
PHI_JAX_KILLS=N kills N times only, and PHI_JAX_KILLS_MB=N makes the corpus smaller.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from running import ROOT, identities, phi_jax

from phi_jax.bench.result import surroundings
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]

KILLS, A_ROUND = int(os.environ.get("PHI_JAX_KILLS", 20)), 5
MEGABYTES = float(os.environ.get("PHI_JAX_KILLS_MB", 10))
SEED = 22
STAGES = ("collect/python", "dedup/python", "decontaminate/raw", "annotate/python", "tokenize/tokenizer",
          "tokenize/raw")  # fmt: skip
_SAID = re.compile(r"^(\S+): (starting|going on from what an interrupted run left)$")


def corpus(directory):
    """Parquet as The Stack has it, of files that are small, so that every stage has several parts. A tenth of the files
    comes twice, as it is or nearly. Returns (bytes, files).
    """
    sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
    import corpus_scale
    import pyarrow as pa
    import pyarrow.parquet as pq

    found, size, rng = [], 0, random.Random(SEED)
    for path, data in corpus_scale.originals(corpus_scale.installed()):
        if 100 < len(data) < 8000:
            found.append((path, data))
            if rng.random() < 0.1:
                found.append((f"again/{path}", data + rng.choice([b"", b"\n# the end\n"])))
            size += len(data)
        if size > MEGABYTES * 1e6:
            break
    directory.mkdir()
    for number in range(3):
        some = found[number::3]
        table = {"content": pa.array([data for _, data in some], pa.binary()), "path": [path for path, _ in some]}
        pq.write_table(pa.table(table), directory / f"{number}.parquet")
    return sum(len(data) for _, data in found), len(found)


def arguments(source, problems, workdir):
    changes = {
        "collect.sources": f"('{source}',)", "decontaminate.problems": problems, "annotate.grader": "static",
        "annotate.max_files": 10**9, "tokenize.tokenizer": "", "tokenize.learn_on": "('raw',)",
        "tokenize.vocab_size": 4096, "tokenize.train_bytes": 2_000_000, "tokenize.seq_len": 256,
        "tokenize.validation_fraction": 0.05, "tokenize.shard_tokens": 200_000,
    }  # fmt: skip
    fields = [f"--config.{name}={value}" for name, value in changes.items()]
    config = ["--config", str(ROOT / "configs" / "phi_1.py"), *fields]
    return ["run", "--verbose", *config, "--only", ",".join(STAGES), "--workdir", str(workdir)]


def killed(command, target, share, usual):
    """Starts the driver and kills it `share` of the way through the first stage from `target` on that it runs.

    Returns (the stage, whether it had gone on, the seconds it had run), or None where the run ended before.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "phi_jax.cli", *command], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        said = _SAID.match(line)
        if said and STAGES.index(said[1]) >= target:
            break
    else:
        assert process.wait() == 0
        return None
    begin = time.monotonic()
    time.sleep(share * usual[said[1]])
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGKILL)
    rest = process.stderr.read()
    if process.wait() != -signal.SIGKILL:
        assert process.returncode == 0, rest
        return None
    _, alive = psutil.wait_procs(children, timeout=300)  # Ray's agents look after their raylet now and then
    assert not alive, f"left behind: {alive}"
    later = [match[1] for line in rest.splitlines() if (match := _SAID.match(line))]
    return (later or [said[1]])[-1], said[2] != "starting", round(time.monotonic() - begin, 2), len(children)


def rows_of(workdir, label, output):
    """Sorted rows; an id that comes twice shows."""
    built = Artifact.read(workdir / label)
    columns = documents.schema_of(documents.parts(built.path(output))[0]).names
    return sorted(json.dumps(row, sort_keys=True) for row in documents.read(built.path(output), columns))


OUTPUTS = (("collect/python", "documents"), ("collect/python", "set_aside"), ("dedup/python", "documents"),
           ("dedup/python", "duplicates"), ("decontaminate/raw", "documents"), ("decontaminate/raw", "findings"),
           ("annotate/python", "grades"))  # fmt: skip


def files_of(workdir):
    """Every file of the artifacts, and what of the artifacts is left half done."""
    return {p.relative_to(workdir).as_posix() for stage in STAGES for p in (workdir / stage).rglob("*") if p.is_file()}


def check(workdir, quiet, counts):
    assert identities(workdir) == identities(quiet)
    assert files_of(workdir) == files_of(quiet)
    assert not [*workdir.rglob("*.partial"), *workdir.rglob("*tmp*")]
    for label, output in OUTPUTS:
        assert rows_of(workdir, label, output) == rows_of(quiet, label, output), (label, output)
    assert {label: Artifact.read(workdir / label).facts for label in STAGES} == counts
    verified = phi_jax("status", "--workdir", workdir, "--verify", check=False)
    standings = {line.split()[0]: line for line in verified.stdout.splitlines() if line.split()}
    for label in STAGES:
        assert "whole" in standings[label], verified.stdout


@pytest.mark.parametrize("runner", ["processes", "ray"])
def test_nothing_is_lost_or_doubled(tmp_path, shared_data, runner):
    if runner == "ray":
        pytest.importorskip("ray", reason="needs Ray: pip install -e '.[ray]'")
    size, files = corpus(tmp_path / "src")
    problems, quiet = shared_data / "eval" / "HumanEval.jsonl.gz", tmp_path / "quiet"
    begin = time.monotonic()
    phi_jax(*arguments(tmp_path / "src", problems, quiet))
    undisturbed = time.monotonic() - begin
    usual = {label: Artifact.read(quiet / label).manifest["seconds"] for label in STAGES}
    counts = {label: Artifact.read(quiet / label).facts for label in STAGES}

    rng, hits, rounds = random.Random(SEED), [], 0
    targets = [number % len(STAGES) for number in range(KILLS)]
    rng.shuffle(targets)
    while len(hits) < KILLS:
        workdir = tmp_path / f"run-{rounds}"
        command = [*arguments(tmp_path / "src", problems, workdir), "--runner", runner]
        chosen = targets[rounds * A_ROUND :][:A_ROUND] or [0]
        rounds += 1
        for target in sorted(chosen)[: KILLS - len(hits)]:  # in order, since a run goes forward
            if hit := killed(command, target, rng.uniform(0.05, 0.8), usual):
                hits.append(dict(zip(("stage", "had gone on", "seconds into it", "children"), hit, strict=True)))
        phi_jax(*command)
        check(workdir, quiet, counts)

    by_stage = {label: sum(hit["stage"] == label for hit in hits) for label in STAGES}
    result = {
        "surroundings": surroundings(),
        "seed": SEED,
        "corpus": {"bytes": size, "files": files},
        "undisturbed_seconds": round(undisturbed, 1),
        "seconds_of_stages": usual,
        "kills": len(hits),
        "by_stage": by_stage,
        "work_directories": rounds,
        "hits": hits,
        "parts": {label: len(documents.parts(Artifact.read(quiet / label).path(output))) for label, output in OUTPUTS},
        "rows": {f"{label} {output}": len(rows_of(quiet, label, output)) for label, output in OUTPUTS},
        "identities": identities(quiet),
    }
    name = "corpus_kills.json" if runner == "processes" else "corpus_kills_ray.json"
    Path(__file__).with_name(name).write_text(json.dumps(result, indent=1) + "\n")
    assert len(hits) == KILLS
    if KILLS >= 20:
        assert all(by_stage.values()), by_stage
        assert sum(hit["had gone on"] for hit in hits) >= 3
