"""The stages that make training text of raw code, at 100 MB, 350 MB and 1 GB of Python: time, memory, disk.

    python tests/benchmarks/corpus_scale.py --scratch DIR --megabytes 100 350 1000 \
        --problems ../shared/data/eval/HumanEval.jsonl.gz --tokenizer ../shared/data/tokenizer

A corpus is the .py files of --sources (default: all that is installed here, standard library and site-packages), those
of the lowest hashes; where it is to be larger than these, they come again and again, mutated with a seed: three of ten
lightly, so that they stay near copies, the others by renaming most identifiers and dropping and reordering blocks. It
is written as The Stack has it, in Parquet of 50 MB, and kept in --scratch. Then each stage runs as a user would run it,
by `phi-jax STAGE` in a process of its own, by configs/phi_1.py with the static grader, which grades every file.
--filter DIR adds the filter with a model in Hugging Face's format; it takes hours where the model is large.

A size is one entry of the result, written when its last stage has ended; a size that has one is not measured again, so
the command goes on where it was stopped. About a minute for 10 MB on two cores.

Memory is of the process and all its children, sampled five times a second, in two ways: `peak_rss_gib` sums their
resident pages, and counts those that they share once for each; `peak_pss_gib` shares these out (Linux), and is what a
machine must have. `peak_of_one_process_gib` is the kernel's own, without sampling. The bar of 1.5 GiB is on pss.
"""

import argparse
import builtins
import hashlib
import json
import keyword
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

from phi_jax.bench.result import surroundings
from phi_jax.store.json_text import json_text

ROOT = Path(__file__).resolve().parents[2]
OUT = Path(__file__).with_name("results") / "corpus_scale.json"
BAR_GIB = 1.5
PART_BYTES = 50_000_000  # of text in a Parquet file of the corpus
STAGES = ("collect/python", "dedup/python", "decontaminate/raw", "annotate/python", "tokenize/tokenizer",
          "tokenize/raw")  # fmt: skip
# The paper, section 2.1: "over 35 million files", "over 35 billion tokens"; lower bounds both. How many bytes that is
# follows from the bytes a token that tokenize/raw measures here.
PAPER_FILES, PAPER_TOKENS = 35_000_000, 35_000_000_000
NODE_CORES, HOURS = 16, 24


# --- The corpus ----------------------------------------------------------------------------------------------------

LIGHT = 0.3  # share of the mutated files that stay near copies
_NAME = re.compile(r"\b[A-Za-z][A-Za-z0-9_]{2,}\b")
_KEPT = {*keyword.kwlist, *keyword.softkwlist, *dir(builtins)}


def installed():
    """Directories: the standard library, which holds site-packages where there is no virtual environment, and these."""
    return list(dict.fromkeys(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))


def originals(directories):
    """(path, bytes) of every .py file, ordered by content, so that a smaller corpus is the head of a larger one."""
    found = {}
    for top in map(Path, directories):
        for file in top.rglob("*.py"):
            if file.is_file() and not file.is_symlink():
                found[file.resolve()] = f"{top.name}/{file.relative_to(top).as_posix()}"
    digests = ((hashlib.sha256(file.read_bytes()).hexdigest(), name, file) for file, name in found.items())
    for _, name, file in sorted(digests):
        yield name, file.read_bytes()


def mutated(text, rng):
    """The text again, near to itself or not, most often still Python."""
    if rng.random() < LIGHT:
        names = sorted({*_NAME.findall(text)} - _KEPT)
        chosen = set(rng.sample(names, min(2, len(names))))
    else:
        first, *blocks = re.split(r"\n{3,}(?=\S)", text)
        blocks = [block for block in blocks if rng.random() < 0.7]
        rng.shuffle(blocks)
        text = "\n\n\n".join([first, *blocks]) + "\n"
        chosen = {name for name in sorted({*_NAME.findall(text)} - _KEPT) if rng.random() < 0.6}
    end = f"_{rng.randrange(10**6)}"
    return _NAME.sub(lambda match: match[0] + end if match[0] in chosen else match[0], text)


def corpus(directories, size, seed):
    """(path, bytes) until there are `size` bytes: the files as they are, then mutated, pass after pass."""
    left, turn, found = size, 0, 0
    while left > 0:
        for name, data in originals(directories):
            if turn:
                try:
                    text = data.decode()
                except UnicodeDecodeError:
                    continue
                data = mutated(text, random.Random(f"{seed} {turn} {name}")).encode()
            found += 1
            yield f"{turn}/{name}", data
            left -= len(data)
            if left <= 0:
                return
        if not found:
            sys.exit(f"error: --sources {' '.join(directories)}: no .py file; name directories that hold some")
        turn += 1


def write_corpus(directory, directories, size, seed):
    """Writes the corpus unless it is there; what it holds."""
    about = directory / "about.json"
    if not about.exists():
        import pyarrow as pa
        import pyarrow.parquet as pq

        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        counts, rows, held = {"files": 0, "bytes": 0, "mutated": 0}, [], 0

        def flush():
            nonlocal held
            table = pa.table({"content": pa.array([data for _, data in rows], pa.binary()),
                              "max_stars_repo_path": [path for path, _ in rows]})  # fmt: skip
            pq.write_table(table, directory / f"train-{counts['files']:08d}.parquet", row_group_size=1000)
            rows.clear()
            held = 0

        for path, data in corpus(directories, size, seed):
            rows.append((path, data))
            held += len(data)
            counts["files"] += 1
            counts["bytes"] += len(data)
            counts["mutated"] += not path.startswith("0/")
            if held >= PART_BYTES:
                flush()
        if rows:
            flush()
        about.write_text(json.dumps(counts))
    return json.loads(about.read_text())


# --- A stage, watched ----------------------------------------------------------------------------------------------


class Watched:
    """A process and its children, looked at while they run."""

    def __init__(self, process, workdir):
        import psutil

        self.rss = self.pss = self.disk = self.processes = 0
        self._process, self._workdir, self._ended = psutil.Process(process.pid), workdir, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self):
        import psutil

        looks = 0
        while not self._ended.wait(0.2):
            try:
                tree = [self._process, *self._process.children(recursive=True)]
            except psutil.Error:
                return
            sums = [_memory(one) for one in tree]
            self.rss = max(self.rss, sum(rss for rss, _ in sums))
            self.pss = max(self.pss, sum(pss for _, pss in sums))
            self.processes = max(self.processes, len(tree))
            looks += 1
            if looks % 10 == 0:
                self.disk = max(self.disk, disk_used(self._workdir))

    def end(self):
        self._ended.set()
        self._thread.join()
        self.disk = max(self.disk, disk_used(self._workdir))


def _memory(process):
    """(resident bytes, proportional bytes) of a process; 0 where it is gone, proportional 0 where it is not told."""
    import psutil

    try:
        rss = process.memory_info().rss
        told = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        return rss, 1024 * int(re.search(r"^Pss:\s+(\d+)", told, re.M)[1])
    except (psutil.Error, OSError, TypeError):
        return 0, 0


def disk_used(directory):
    """Bytes of the disk's blocks; files come and go meanwhile."""
    total = 0
    for place, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except OSError:
                continue
    return total


def run_stage(label, arguments, workdir):
    """Figures of one stage, in a process of its own. Raises SystemExit where it fails."""
    stage, _, name = label.partition("/")
    before, used = resource.getrusage(resource.RUSAGE_CHILDREN), disk_used(workdir)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "phi_jax.cli", stage, *arguments, "--name", name, "--workdir", str(workdir)],
        cwd=ROOT, env=environment,
    )  # fmt: skip
    watched = Watched(process, workdir)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    watched.end()
    if process.returncode:
        sys.exit(f"error: {label} ended with exit code {process.returncode}; see above")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        **counts_of(workdir, label),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "cores_busy": cpu / seconds,
        "processes": watched.processes,
        "peak_pss_gib": watched.pss / 2**30,
        "peak_rss_gib": watched.rss / 2**30,
        "peak_of_one_process_gib": usage.ru_maxrss / 2**20,
        "disk_bytes_of_the_artifact": disk_used(workdir / stage / name),
        "disk_bytes_at_its_peak": watched.disk - used,
    }


def counts_of(workdir, label):
    """rows_in, rows_out and what became of the rest, from the stage's manifest."""
    manifest = json.loads((workdir / label / "manifest.json").read_text())
    outputs, facts = manifest["outputs"], manifest["facts"]
    stage = label.partition("/")[0]
    if stage == "collect":
        found = {"rows_in": facts["files"], "rows_out": facts["kept"], "set_aside": facts["set_aside"]}
    elif stage == "dedup":
        kinds = {kind: facts[kind] for kind in ("exact", "near", "clusters", "largest_cluster")}
        found = {"rows_in": facts["documents"], "rows_out": facts["kept"], **kinds}
    elif stage == "decontaminate":
        told = facts["documents"]
        found = {"rows_in": told["documents"], "rows_out": told["kept"], "not_parsed": told["not_parsed"]}
    elif stage == "annotate":
        found = {"rows_in": outputs["grades"]["rows"], "rows_out": facts["graded"], "reasons": facts["reasons"]}
    elif stage == "filter":
        found = {"rows_in": facts["scored"] + facts["unscored"], "rows_out": facts["kept"]}
    elif label == "tokenize/tokenizer":
        return {"entries": facts["entries"], "core": facts["core"]}
    else:
        texts = sum(count for _, _, count, _ in facts["sources"])
        found = {"rows_in": texts, "rows_out": outputs["tokens"]["rows"], "tokens": facts["tokens"],
                 "bytes_per_token": facts["bytes_per_token"]}  # fmt: skip
    return found


def measured(options, megabytes):
    """The entry of one size."""
    place = options.scratch / f"{megabytes:g}MB"
    about = write_corpus(place / "corpus", options.sources, int(megabytes * 1e6), options.seed)
    workdir = place / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    fields = {
        "collect.sources": f"('{place / 'corpus'}',)", "collect.columns": "('path=max_stars_repo_path',)",
        "decontaminate.problems": options.problems, "annotate.grader": "static", "annotate.max_files": 10**9,
        "tokenize.tokenizer": options.tokenizer, "tokenize.train_bytes": 20_000_000,
        "tokenize.validation_fraction": 0.01,
        "tokenize.learn_on": "('raw',)",
    }  # fmt: skip
    if options.filter:
        fields["filter.model"] = os.path.abspath(options.filter)
    arguments = ["--config", str(ROOT / "configs" / "phi_1.py")]
    arguments += [f"--config.{name}={value}" for name, value in fields.items()]
    stages, size = {}, about["bytes"]
    for label in (*STAGES, *(["filter/python"] if options.filter else [])):
        print(f"{megabytes:g} MB: {label}", file=sys.stderr, flush=True)
        found = run_stage(label, arguments, workdir)
        if label != "tokenize/tokenizer":
            found |= {
                "mb_in": size / 1e6,
                "mb_per_second": size / 1e6 / found["seconds"],
                "mb_per_second_of_a_core": size / 1e6 / found["cpu_seconds"],
                "disk_bytes_per_million_files": found["disk_bytes_of_the_artifact"] * 1e6 / found["rows_in"],
            }
            documents = json.loads((workdir / label / "manifest.json").read_text())["outputs"].get("documents", {})
            size = documents.get("text_bytes", size) if label in STAGES[:3] else size
        stages[label] = found
        _say(label, found)
    peak = {name: max(found[name] for found in stages.values())
            for name in ("peak_pss_gib", "peak_rss_gib", "peak_of_one_process_gib")}  # fmt: skip
    if not options.keep:
        shutil.rmtree(workdir)
    return {
        "surroundings": surroundings(),
        "config": {name: value for name, value in fields.items() if "/" not in str(value)},
        "corpus": about,
        "stages": stages,
        **peak,
        "seconds": sum(found["seconds"] for found in stages.values()),
        "within_the_bar": peak["peak_pss_gib"] <= BAR_GIB,
    }


def _say(label, found):
    rows = f"{found['rows_in']:,} -> {found['rows_out']:,} rows, " if "rows_in" in found else ""
    rate = f", {found['mb_per_second_of_a_core']:.2f} MB/s a core" if "mb_per_second_of_a_core" in found else ""
    print(
        f"  {label}: {rows}{found['seconds']:.1f} s{rate}, {found['cores_busy']:.2f} cores busy, "
        f"{found['peak_pss_gib']:.2f} GiB (rss {found['peak_rss_gib']:.2f})",
        file=sys.stderr, flush=True,
    )  # fmt: skip


# --- Worked out ----------------------------------------------------------------------------------------------------


def worked_out(sizes):
    """What the paper's pool would take by the rates of the largest size, and by how memory grows over the sizes."""
    ordered = sorted(sizes.values(), key=lambda entry: entry["corpus"]["bytes"])
    largest = ordered[-1]
    pool = PAPER_TOKENS * largest["stages"]["tokenize/raw"]["bytes_per_token"]
    before = largest["corpus"]["files"], largest["corpus"]["bytes"] / 1e6
    stages, core_hours, one_node = {}, {"by bytes": 0.0, "by files": 0.0}, {"by bytes": 0.0, "by files": 0.0}
    for label, found in largest["stages"].items():
        if label == "tokenize/tokenizer":
            continue
        # What an earlier stage drops here it drops there.
        share = {"by bytes": found["mb_in"] / before[1], "by files": found["rows_in"] / before[0]}
        hours = {
            "by bytes": pool / 1e6 * share["by bytes"] / found["mb_per_second_of_a_core"] / 3600,
            "by files": PAPER_FILES * share["by files"] * found["cpu_seconds"] / found["rows_in"] / 3600,
        }
        core_hours = {name: core_hours[name] + value for name, value in hours.items()}
        cores = NODE_CORES if found["processes"] > 1 else 1
        one_node = {name: one_node[name] + value / cores for name, value in hours.items()}
        stages[label] = {
            "core_hours": hours,
            "cores_of_a_node_that_it_takes": cores,
            "disk_gb": {
                "by bytes": found["disk_bytes_of_the_artifact"] / before[1] / 1e6 * pool / 1e9,
                "by files": found["disk_bytes_of_the_artifact"] / before[0] * PAPER_FILES / 1e9,
            },
            "disk_gb_at_its_peak, by bytes": found["disk_bytes_at_its_peak"] / before[1] / 1e6 * pool / 1e9,
            "peak_gib_a_million_files_more": _slope(ordered, label),
        }
    return {
        "by_the_rates_of": f"{largest['corpus']['bytes'] / 1e6:.0f} MB",
        "files": PAPER_FILES,
        "gb": pool / 1e9,
        "bytes_a_file": {"there": pool / PAPER_FILES, "here": largest["corpus"]["bytes"] / largest["corpus"]["files"]},
        "stages": stages,
        "core_hours": core_hours,
        f"hours_on_one_node_of_{NODE_CORES}_cores": one_node,
        f"nodes_of_{NODE_CORES}_cores_for_{HOURS}_hours": {
            name: value / NODE_CORES / HOURS for name, value in core_hours.items()
        },
        "why": "files here are larger than the pool's, so its true figure lies between the one by bytes and the one by "
        "files; a stage that ran in one process here takes one core of a node; nodes for a day are for all cores busy, "
        "of which `cores_busy` tells; memory grows with processes too, so its slope tells little of small sizes; the "
        "paper grades 100,000 files, here all are graded",
    }


def _slope(ordered, label):
    """GiB more for a million files more, between the smallest and the largest size; None where there is one size."""
    first, last = ((entry["stages"][label]["peak_pss_gib"], entry["stages"][label]["rows_in"]) for entry in
                   (ordered[0], ordered[-1]))  # fmt: skip
    return None if first[1] == last[1] else (last[0] - first[0]) / (last[1] - first[1]) * 1e6


def rounded(value):
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add(
        "--megabytes", nargs="+", type=float, default=[100, 350, 1000], metavar="N", help="sizes (default 100 350 1000)"
    )
    add("--scratch", type=Path, required=True, metavar="DIR", help="for corpora and runs: 5 times the largest size")
    add(
        "--sources",
        nargs="+",
        default=installed(),
        metavar="DIR",
        help="unpacked sdists or wheels (default: installed)",
    )
    add("--problems", required=True, metavar="FILE", help="HumanEval.jsonl.gz")
    add("--tokenizer", default="", metavar="DIR_OR_NAME", help="default: learnt on 20 MB of the texts")
    add("--filter", metavar="DIR", help="a model, of Hugging Face's format: the filter runs too")
    add("--seed", type=int, default=0, metavar="N", help="of the mutations (default 0)")
    add("--again", action="store_true", help="measure sizes that the result has already")
    add("--keep", action="store_true", help="leave the work directories in --scratch")
    add("--out", type=Path, default=OUT, metavar="FILE.json", help="default: results/corpus_scale.json")
    options = parser.parse_args()
    options.problems = os.path.abspath(options.problems)
    options.scratch = options.scratch.resolve()
    if os.path.exists(options.tokenizer):
        options.tokenizer = os.path.abspath(options.tokenizer)
    sizes = json.loads(options.out.read_text())["sizes"] if options.out.exists() else {}
    for megabytes in options.megabytes:
        name = f"{megabytes:g} MB"
        if name in sizes and not options.again:
            print(f"{name}: is in {options.out.name} already", file=sys.stderr)
            continue
        sizes[name] = rounded(measured(options, megabytes))
        result = {"bar_gib": BAR_GIB, "sizes": sizes, "35 million files": rounded(worked_out(sizes))}
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json_text(result, indent=1) + "\n")
    print(json.dumps(json.loads(options.out.read_text())["35 million files"], indent=1))
    if wrong := [name for name, entry in sizes.items() if not entry["within_the_bar"]]:
        sys.exit(f"above {BAR_GIB} GiB: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
