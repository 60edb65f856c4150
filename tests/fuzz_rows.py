"""Files of rows as somebody might hand them to us, and what reading each comes to: for test_fuzz_rows.py, both tiers.

A case is a family of rows (texts, problems in three formats, samples), some of whose fields are odd; a format; and what
happened to the file since. Reading must end in rows and rows set aside that add up, or in one line.
"""

import contextlib
import dataclasses
import gzip
import io
import json
import os
import random
import signal
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phi_jax.config import Config
from phi_jax.contamination.held_out import HeldOut
from phi_jax.corpus import collect, sources
from phi_jax.errors import UserError
from phi_jax.evaluation.execution import read_samples
from phi_jax.evaluation.problems import Problem, load_problems
from phi_jax.store import documents
from phi_jax.store.artifact import digest_of
from phi_jax.store.json_text import json_text
from phi_jax.store.rows import count_rows, read_rows
from phi_jax.synthesis import from_files, review

SECONDS = 20  # that one reader may take
_NO_LIMITS = {"max_bytes": 10**6, "min_bytes": 0, "max_mean_line": 10**6, "max_line": 10**6}
RULES = Config({**_NO_LIMITS, "license": "", "licenses": (), "mask": True})
TEXT_RULES = Config({"columns": (), "kind": "", "license": "other", "teacher": ""})
HUMAN_EVAL = {
    "task_id": "HumanEval/0", "prompt": 'def add(a, b):\n    """Add two numbers that are given as arguments."""\n',
    "entry_point": "add", "canonical_solution": "    return a + b\n",
    "test": "def check(f):\n    assert f(1, 2) == 3\n",
}  # fmt: skip
ROWS = {
    "texts": {"kind": "exercises", "text": "def f(x):\n    return x\n", "tests": ["assert f(1) == 1"],
              "source": "s", "path": "a.py", "license": "MIT", "language": "python", "teacher": "t"},
    "human-eval": HUMAN_EVAL,
    "MBPP": {"task_id": 11, "text": "Double it.", "code": "def double(x):\r\n    return 2 * x", "test_setup_code": "",
             "test_list": ["assert double(1) == 2"], "challenge_test_list": []},
    "EvalPlus": {**{k: v for k, v in HUMAN_EVAL.items() if k != "test"}, "base_input": [[1, 2]],
                 "plus_input": [[0, 0], [-1, 1]], "atol": 0},
    "samples": {"task_id": "HumanEval/0", "completion": "    return a + b\n"},
}  # fmt: skip
FORMATS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".parquet")
TYPES = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string()))
BYTES = ("truncated", "flipped", "renamed", "concatenated", "emptied")  # what may happen to any file
LINES = ("huge line", "blank lines", "line ends", "mark", "UTF-16", "not UTF-8", "NUL", "name twice", "deep", "number")
EDITS = (*["whole"] * 5, *BYTES, *LINES)

TEXTS = (
    "\ud800",
    "a\0b",
    "\ufeffx = 1\r\n",
    "\r",
    "",
    "x" * 5000,
    "é\u2028\x85",
    "nan",
    "[",
    "{}",
    "textbooks",
    '["x"]',
)
NUMBERS = (0, -1, 3, 2**70, -(10**4000), 0.5, float("nan"), float("inf"), -0.0, 1e308)


@dataclasses.dataclass
class Case:
    family: str
    rows: list
    format: str
    edit: str
    number: int  # seeds what is random in the bytes


def case_of(number: int) -> Case:
    """The case with a number, which seeds it."""
    dice = random.Random(number)
    family = dice.choice(sorted(ROWS))
    rows = []
    for place in range(dice.randrange(5)):
        row = dict(ROWS[family])
        if family in ("human-eval", "EvalPlus", "samples"):
            row["task_id"] = f"HumanEval/{place}"
        elif family == "MBPP":
            row["task_id"] += place
        for name in dice.sample([*row, "content", "stop", "renderings", "other"], dice.choice([0, 0, 0, 0, 0, 1, 2])):
            row[name] = odd(dice)
        if dice.random() < 0.1:
            del row[dice.choice(list(row))]
        rows.append(row)
    if dice.random() < 0.05:
        rows.insert(dice.randrange(len(rows) + 1), odd(dice))
    return Case(family, rows, dice.choice(FORMATS), dice.choice(EDITS), number)


def odd(dice: random.Random, deep: int = 3) -> Any:
    """A value that JSON has, of any type, often one that somebody stumbled over."""
    kind = dice.randrange(6 if deep else 4)
    if kind < 4:
        anything = "".join(chr(dice.randrange(dice.choice([128, 0x3000, 0x110000]))) for _ in range(dice.randrange(8)))
        return [anything, dice.choice(TEXTS), dice.choice(NUMBERS), dice.choice([None, True, False])][kind]
    values = [odd(dice, deep - 1) for _ in range(dice.randrange(4))]
    return values if kind == 4 else {f"{value}"[:3]: value for value in values}


def packed(data: bytes, format: str) -> bytes:
    if format.endswith(".gz"):
        return gzip.compress(data, mtime=0)
    return pa.compress(data, "zstd", asbytes=True) if format.endswith(".zst") else data


def data_of(case: Case, format: str, dice: random.Random) -> bytes:
    """A file of the case's rows in a format."""
    if format == ".parquet":
        return parquet_of(case, dice)
    if format.startswith(".json") and not format.startswith(".jsonl") and case.edit not in LINES:
        return packed(json.dumps(case.rows, indent=dice.choice([None, 1])).encode(), format)
    lines = [json.dumps(row, ensure_ascii=dice.random() < 0.9).encode(errors="surrogatepass") for row in case.rows]
    return packed(edited(case, lines, dice), format)


def edited(case: Case, lines: list[bytes], dice: random.Random) -> bytes:
    """JSON lines, with the case's edit where it is one of LINES."""
    edit, place = case.edit, dice.randrange(len(lines) + 1)
    depth = dice.choice([50, 98, 120, 400, 900, 990, 5000, 10**5])
    row = {**ROWS[case.family], "task_id": 510 if case.family == "MBPP" else "HumanEval/4"}
    added = {
        "huge line": b'"other": "%s"' % (b"x" * 2**20),
        "not UTF-8": b'"other": "caf\xe9"',
        "NUL": b'"other": "\0"',
        "name twice": b'"other": 1, "other": 2',
        "deep": b'"other": %s%s' % (b"[" * depth, b"]" * depth),
        "number": b'"other": ' + dice.choice([b"9" * 5000, b"1e999", b"NaN", b"-Infinity", b"00", b"1e"]),
    }
    if edit in added:
        odd_line = json.dumps(row).encode()[:-1] + b", " + added[edit] + b"}"
        lines = [*lines[:place], odd_line, *lines[place:]]
    if edit == "blank lines":
        lines = [piece for line in lines for piece in (line, b"", b" \t")]
    data = (b"\r\n" if edit == "line ends" else b"\n").join(lines) + dice.choice([b"", b"\n"])
    if edit == "mark":
        return b"\xef\xbb\xbf" + data
    return data.decode(errors="replace").encode("utf-16") if edit == "UTF-16" else data


def parquet_of(case: Case, dice: random.Random) -> bytes:
    """Parquet of the rows that are objects: a column whose values have no type in common goes as texts."""
    rows = [row for row in case.rows if isinstance(row, dict)]
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            if all(isinstance(value, str | None) for value in values):
                kind = dice.choice(TYPES)
                texts = [v if v is None else v.encode(errors="surrogatepass") for v in values]
                raw = pa.array(texts, pa.binary())
                as_text = pa.Array.from_buffers(
                    pa.string(), len(raw), raw.buffers()
                )  # unchecked: bytes may be no UTF-8
                column = raw if kind == pa.binary() else (raw if pa.types.is_large_binary(kind) else as_text).cast(kind)
            else:
                column = pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeError, TypeError, ValueError):
            column = pa.array([json.dumps(value) for value in values])
        columns[name.encode(errors="replace").decode()] = column
    sink = io.BytesIO()
    options = {"compression": dice.choice(["zstd", "snappy", "none"]), "use_dictionary": dice.random() < 0.5}
    try:
        pq.write_table(pa.table(columns), sink, row_group_size=dice.choice([1, 2, 100]), **options)
    except (pa.ArrowException, UnicodeError):  # a struct without fields, say
        return parquet_of(dataclasses.replace(case, rows=[ROWS[case.family]] * len(rows)), dice)
    return sink.getvalue()


def write(case: Case, directory: Path) -> Path:
    """The file of a case, with the edits of BYTES."""
    dice = random.Random(case.number)
    format = dice.choice(FORMATS) if case.edit == "renamed" else case.format
    data = bytearray(data_of(case, format, dice))
    if case.edit == "truncated":
        del data[dice.randrange(len(data) + 1) :]
    elif case.edit == "flipped":
        for _ in range(dice.choice([1, 1, 2, 8])):
            if data:
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    elif case.edit == "concatenated":
        data += data_of(case, dice.choice([format, format, dice.choice(FORMATS)]), dice)
    elif case.edit == "emptied":
        data.clear()
    path = directory / f"rows{case.format}"
    path.write_bytes(data)
    return path


# --- Readers: each returns what came out, by kind ----------------------------------------------------------------


def as_sources(path: Path) -> Counter:
    """As `collect` reads them."""
    if path.name.endswith(".json"):
        return Counter()
    listed = list(sources.list_files(str(path)))
    kept, aside = collect._look_at(listed, RULES, sources.Reader({}))
    assert len(kept) + len(aside) == len(listed) == count_rows(path)
    pa.Table.from_pylist(kept, schema=documents.SCHEMA)
    pa.Table.from_pylist(aside, schema=collect._SET_ASIDE)
    return Counter(row["reason"] for row in aside) + Counter({"row": len(kept)})


def as_texts(path: Path) -> Counter:
    """As `synthesize` reads somebody's texts."""
    found = list(from_files._texts([(path.name, path.name, path)], TEXT_RULES, "mine"))
    assert len(found) == count_rows(path)
    tidied = [review._tidied(kind, text) for kind, text in found]
    pa.Table.from_pylist(tidied, schema=review.SCHEMA)
    assert all(row["code"] or row["text"].strip("\n") == row["text"].strip("\n") for row in tidied)
    assert all(row["reason"] for row in tidied if row["code"])
    return Counter(row["code"] or "row" for row in tidied)


def as_problems(path: Path) -> Counter:
    """As `score`, `evaluate` and `decontaminate` read problems."""
    with contextlib.redirect_stderr(io.StringIO()):
        name, problems = load_problems(None, str(path))
    assert problems
    digest_of([name, *(dataclasses.asdict(dataclasses.replace(problem, row={})) for problem in problems)])
    for problem in problems:
        "".join([problem.prompt, problem.reference or "", problem.tests, problem.trusted, problem.setup]).encode()
    with contextlib.suppress(UserError), contextlib.redirect_stderr(io.StringIO()):
        HeldOut(str(path))
    return Counter({"row": len(problems)})


def as_samples(path: Path) -> Counter:
    """As `score` reads samples."""
    named = {str(given.row.get("task_id")) for given in read_rows(path)}
    tasks = [f"HumanEval/{number}" for number in range(5)]
    samples = read_samples(path, [Problem(task, "", "", None) for task in tasks if task in named])
    assert len(samples) == count_rows(path)
    assert [json.loads(json_text(vars(s)))["completion"] for s in samples] == [s.completion for s in samples]
    return Counter({"row": len(samples)})


READERS = {"sources": as_sources, "texts": as_texts, "problems": as_problems, "samples": as_samples}


@contextlib.contextmanager
def bounded():
    def stop(*_):
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(reader, path: Path) -> Counter:
    """What reading the file comes to; a UserError is one line that names the file."""
    try:
        with bounded():
            found = reader(path)
    except UserError as error:
        said = str(error)
    else:
        return found
    assert str(path) in said
    assert "\n" not in said
    return Counter(error=1)


def run(inputs: int) -> dict:
    """Reads `inputs` files in every way; returns what was tried, what came out, and the faults with their cases."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        return _run(Path(directory), inputs)


def _run(directory: Path, inputs: int) -> dict:
    tried: Counter = Counter()
    came: dict[str, Counter] = {name: Counter() for name in READERS}
    faults = []
    for number in range(inputs):
        case = case_of(number)
        path = write(case, directory)
        tried.update([f"family: {case.family}", f"format: {case.format}", f"edit: {case.edit}", "inputs"])
        for name, reader in READERS.items():
            try:
                came[name].update(outcome(reader, path))
            except Exception as error:
                faults.append(f"case_of({number}), {name}: {error!r}"[:300])
    return {
        "tried": dict(sorted(tried.items())),
        "came out": {name: dict(sorted(counts.items())) for name, counts in came.items()},
        "faults": faults,
    }
