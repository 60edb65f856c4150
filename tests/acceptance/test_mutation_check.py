# ruff: noqa: E501 (faults as they are, one a line)
"""100 single-line faults in what decides an artifact, a dollar, a verdict or a score: does a test notice each?

Faults are chosen by a script seeded with the first commit of the redesign, so nobody picks them. Each is put into a
copy of the checkout, and the test files that cover its module run with -x. Writes mutation_check.json: fault by fault
caught, or survived; survivors are argued one by one in SURVIVORS. PHI_JAX_MUTATIONS=20 tries the first 20 only.
"""

import ast
import concurrent.futures
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(10_000)]

SEED = "b055b65"
FAULTS = int(os.environ.get("PHI_JAX_MUTATIONS", "100"))
SECONDS = 300  # of one test file; a fault that makes it hang is caught
# Module (or folder) -> the test files that cover it, the quickest first.
COVERED = {
    "store/artifact.py": ("test_artifact.py", "test_pipeline.py"),
    "store/documents.py": ("test_collect.py", "test_dedup.py", "test_tokenize_stages.py", "test_filter.py"),
    "store/digests.py": ("test_artifact.py", "test_pipeline.py"),
    "weights/checkpoints.py": ("test_checkpoints.py", "test_weights.py", "test_training.py"),
    "weights/models.py": ("test_checkpoints.py", "test_weights.py", "test_importing.py"),
    "weights/architectures/phi_names.py": ("test_weights.py", "test_importing.py"),
    "weights/architectures/architecture.py": ("test_weights.py", "test_importing.py", "test_codegen.py"),
    "weights/huggingface.py": ("test_weights.py", "test_importing.py"),
    "teacher/journal.py": ("test_teacher_journal.py", "test_teacher.py", "test_teacher_batch.py"),
    "teacher/budget.py": ("test_teacher_journal.py", "test_teacher_client.py", "test_teacher.py"),
    "teacher/prices.py": ("test_teacher_prices.py", "test_teacher.py"),
    "teacher/server/live.py": ("test_teacher.py", "test_teacher_client.py", "test_teacher_batch.py"),
    "teacher/server/batch.py": ("test_teacher_batch.py",),
    "sandbox/tester.py": ("test_sandbox.py", "test_sandbox_report.py", "test_sandbox_hostile.py"),
    "sandbox/codec.py": ("test_sandbox.py", "test_sandbox_report.py", "test_sandbox_hostile.py"),
    "evaluation/scores.py": ("test_scores.py", "test_evaluation.py"),
    "evaluation/execution.py": ("test_evaluation.py", "test_evaluate_tool.py", "test_scores.py"),
    "evaluation/comparison.py": ("test_scores.py",),
    "evaluation/intervals.py": ("test_scores.py",),
}
SURVIVORS = {  # fault -> why no test can see it, or why it changes no artifact, dollar or score
    "weights/architectures/architecture.py:71 return np.concatenate(parts)[self.rows(config)] if self.rows and len(parts) > 2 else parts[0]": "equivalent: a tensor holds one parameter or three",
    "store/documents.py:56 @dataclasses.dataclass(frozen=False)": "equivalent: nothing assigns to a Totals",
    'sandbox/codec.py:109 elif kind.__module__ == "numpy" and getattr(value, "ndim", 2) == 0 and type(value.item()) is not kind:': "equivalent: both defaults are not 0",
    "teacher/journal.py:98 self._database = sqlite3.connect(uri, 0, uri=True, isolation_level=None, check_same_thread=True)": "equivalent: one thread uses the journal; another would get an error at once",
    "store/artifact.py:339 resumed=False,": "equivalent: open_draft sets it, and what it is for a joined process nobody reads",
    "teacher/server/batch.py:84 while len(self._open) <= _OPEN and await self._submit(fresh):": "nine batches open instead of eight: pace; each request is reserved and sent once all the same",
    'teacher/server/live.py:194 if outcome.kind in ("refused", "unfit"):': "when a failed attempt is followed by a pause: pace",
    "teacher/server/batch.py:146 pass": "a line for the user is not printed",
    "teacher/server/live.py:187 times, outcome = 1, self._claim(request)": "how long the first pause is: pace",
    "evaluation/intervals.py:20 passed = round(value * trials, 7)": "equivalent: a count is whole to 6 digits and to 7",
    'sandbox/codec.py:33 lambda v: v.to_bytes(v.bit_length() + 8 * 8, "little", signed=True),': "the same integer in more bytes",
}

_COMPARE = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.In: "not in",
    ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
}  # fmt: skip
_ARITHMETIC = {ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "+", ast.Pow: "*"}


def faults_of(path):
    """(line, column, end column, new text) of every single-line fault that the file can have."""
    source = path.read_text()
    lines = source.splitlines()

    def text(node):
        return lines[node.lineno - 1].encode()[node.col_offset : node.end_col_offset].decode()

    for node in ast.walk(ast.parse(source)):
        if getattr(node, "lineno", 0) != getattr(node, "end_lineno", -1):
            continue
        new = None
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            new = f"{text(node.left)} {_COMPARE[type(node.ops[0])]} {text(node.comparators[0])}"
        elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            new = f"{text(node.left)} {_ARITHMETIC[type(node.op)]} {text(node.right)}"
        elif isinstance(node, ast.BoolOp):
            word = " or " if isinstance(node.op, ast.And) else " and "
            new = word.join(map(text, node.values))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            new = text(node.operand)
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            new = str(not node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int):
            new = str(node.value + 1)
        elif isinstance(node, ast.Return) and node.value is not None and text(node.value) != "None":
            new = "return None"
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            new = "pass"
        if new is not None:
            yield node.lineno, node.col_offset, node.end_col_offset, new


def chosen():
    every = [
        (module, fault)
        for module in COVERED
        for fault in sorted(set(faults_of(ROOT / "phi_jax" / module)))
    ]  # fmt: skip
    return random.Random(SEED).sample(every, FAULTS)


def tried(number, module, fault, directory):
    """What became of one fault."""
    line, start, end, new = fault
    copy = directory / str(number)
    kept = ("phi_jax", "tests", "configs", "launch", "pyproject.toml", "README.md")
    for name in kept:
        source = ROOT / name
        shutil.copytree(source, copy / name) if source.is_dir() else shutil.copy(source, copy / name)
    (directory / "shared").exists() or (directory / "shared").symlink_to(ROOT.parent / "shared")
    path = copy / "phi_jax" / module
    lines = path.read_bytes().splitlines(keepends=True)
    old = lines[line - 1]
    lines[line - 1] = old[:start] + new.encode() + old[end:]
    path.write_bytes(b"".join(lines))
    about = {"fault": f"{module}:{line}", "old": old.decode().strip(), "new": lines[line - 1].decode().strip()}
    outcome, by = "survived", ""
    for test in COVERED[module]:
        if not (copy / "tests" / test).exists():
            continue
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{test}"],
                cwd=copy, capture_output=True, text=True, timeout=SECONDS, env={**os.environ, "PYTHONPATH": str(copy)},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            outcome, by = "caught", f"{test}: timeout"
            break
        if done.returncode:
            outcome, by = (
                "caught",
                next((x for x in done.stdout.splitlines() if x.startswith(("FAILED", "ERROR"))), test),
            )
            break
    shutil.rmtree(copy)
    print(outcome, about, by, flush=True)
    return {**about, "outcome": outcome, "by": by[:160]}


def test_single_line_faults_are_noticed(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda x: tried(x[0], *x[1], tmp_path), enumerate(chosen())))
    caught = sum(f["outcome"] == "caught" for f in found)
    result = {"seed": SEED, "faults": len(found), "caught": caught, "each": found}
    Path(__file__).with_name("mutation_check.json").write_text(json.dumps(result, indent=1) + "\n")
    survived = [f"{f['fault']} {f['new']}" for f in found if f["outcome"] == "survived"]
    assert [s for s in survived if s not in SURVIVORS] == []
