# ruff: noqa: E501 (faults as they are, one a line)
"""100 single-line faults anywhere in the package: does a test of the default suite notice each?

Faults are chosen by a script seeded with the first commit of the redesign, so nobody picks them. coverage.py says which
tests pass a line (in children too); each fault is put into a copy of the checkout, and these tests run with -x, those
of the module and the quickest first. Writes mutation_check.json: fault by fault caught, or survived; survivors are
argued one by one in SURVIVORS. Needs `pip install coverage`. PHI_JAX_MUTATIONS=20 tries the first 20 only;
PHI_JAX_COVERED names the directory of an earlier coverage, which takes as long as the suite.
"""

import ast
import concurrent.futures
import json
import os
import random
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest
from running import ROOT

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(20_000)]

SEED = "b055b65"
FAULTS = int(os.environ.get("PHI_JAX_MUTATIONS", "100"))
SECONDS = 300  # of tests on one fault, as coverage timed them; a fault that makes them hang is caught
ALONE = "not peers and not system and not acceptance"
MICRO = "tests/test_pipeline.py"  # looks at what the fixture `micro_run` made
# Module and line as it was -> why no test can see the fault, or why it changes no artifact, dollar or score.
SURVIVORS: dict[str, str] = {
    "tokens/batches.py _READ_AHEAD = 4  # batches": "how many batches are read ahead: no result depends on it",
    'tokens/tokenize.py return documents.uniform(identifier, "validation") < fraction': "a hash is never exactly the fraction",
    "tokens/tokenizer.py if 1 in (cores(), len(texts)):  # handing texts to a thread costs a fifth of the time": "whether a thread encodes: the same tokens, another time",
    'teacher/server/batch.py self._say(f"batch {batch} has {len(lines):,} requests")': "a line of progress",
    "sandbox/kernel/landlock.py size = 8 if version < 4 else 16 if version < 6 else 24": "this kernel has another version of Landlock",
    "planning/pipeline_plan.py usage, good = (round(asked * prompt), round(asked * reply), 0), asked * passed": "one cached token more in an estimate: less than a millionth of a dollar",
    "report/charts.py value, middle = float(text.split()[0]), place + 0.26 * (number - (len(texts) - 1) / 2)": "where a label stands beside bars in groups; a reader sees it, no test does",
    "sandbox/kernel/confine.py os.dup2(fd, target, inheritable=False)": "what a child of exec inherits: the confined have no exec",
    "corpus/filter.py processes.gather(None)  # every part is there": "a wait for the other process: without it there is a race",
    "sandbox/server.py tested.kill()": "it is killed on leaving too; here for its CPU time, which says whether it is tried again alone",
    "bench/train_speed.py random, shape = np.random.default_rng(0), (batch_size, seq_len + 1)": "which random tokens a step is timed on",
    'store/artifact.py write_atomic(final, json_text(value, indent=2, ensure_ascii=False) + "\\n")': "the indent of a JSON file; no identity is of its bytes",
}

_COVERAGE = """
[run]
source = phi_jax
parallel = true
relative_files = true
context = ${PYTEST_CURRENT_TEST-}
"""

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


def covered(directory, *only):
    """(module -> line -> tests that pass it, test -> seconds): of the default suite."""
    import coverage

    if not (directory / "durations.xml").exists():
        rules = directory / "coveragerc"
        rules.write_text(_COVERAGE)
        env = {
            **os.environ, "COVERAGE_FILE": str(directory / ".coverage"), "COVERAGE_PROCESS_START": str(rules),
            "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}",
        }  # fmt: skip
        subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "coverage_contexts", "-n", "2", "--dist", "loadfile", "-m", ALONE,
             f"--junitxml={directory / 'durations.xml'}", *only],
            cwd=ROOT, env=env, check=False,
        )  # fmt: skip
        subprocess.run([sys.executable, "-m", "coverage", "combine", "-q"], cwd=ROOT, env=env, check=True)
    seconds = {}
    for case in xml.etree.ElementTree.parse(directory / "durations.xml").iter("testcase"):
        file = case.get("classname").replace(".", "/") + ".py"
        seconds[f"{file}::{case.get('name')}"] = float(case.get("time"))
    data = coverage.CoverageData(directory / ".coverage")
    data.read()
    lines = {}
    for path in data.measured_files():
        module = f"/{path}".rpartition("/phi_jax/")[2]  # a child's paths are absolute where it began elsewhere
        for line, contexts in data.contexts_by_lineno(path).items():
            for whole in contexts:  # of a child "test (call)" or "test (setup)", of a fork "first test|its test"
                context = whole.rpartition("|")[2]
                test = re.sub(r" \((setup|call|teardown)\)$", "", context)
                if test in seconds:
                    lines.setdefault(module, {}).setdefault(line, set()).add(test)
                if context.endswith("(setup)"):
                    lines.setdefault(module, {}).setdefault(line, set()).add(MICRO)
    return lines, seconds


def chosen():
    package = ROOT / "phi_jax"
    every = [
        (str(path.relative_to(package)), fault)
        for path in sorted(package.rglob("*.py"))
        for fault in sorted(set(faults_of(path)))
    ]
    return random.Random(SEED).sample(every, FAULTS)


def quickest(module, line, lines, seconds):
    """Those that pass the line, or, of one that runs at import, those that pass any of its module; first those of a
    file named after the module, and among them the quickest.

    Coverage sees nothing of what is confined: of the sandbox's program, all tests of files named after the sandbox.
    """
    in_module, room = lines.get(module, {}), module.partition("/")[0]
    passing = in_module.get(line) or set().union(*in_module.values())
    passing = passing or {test for test in seconds if f"/test_{room}" in test}
    picked, spent = [], 0.0
    for test in sorted(passing, key=lambda test: (Path(module).stem not in test, seconds.get(test, 60), test)):
        spent += seconds.get(test, 60)
        if spent > SECONDS and picked:
            break
        picked.append(test)
    return picked[:200]


def copied(copy):
    for name in ("phi_jax", "tests", "configs", "launch", "pyproject.toml", "README.md", "LICENSE", ".ci"):
        source = ROOT / name
        shutil.copytree(source, copy / name) if source.is_dir() else shutil.copy(source, copy / name)
    return copy


def failing(copy, tests, *options, **env):
    """The first of these tests that fails in a copy, as pytest says it; "" if none does."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *options, *tests],
            cwd=copy, capture_output=True, text=True, timeout=4 * SECONDS,
            env={**os.environ, "PYTHONPATH": str(copy), **env},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "timeout"
    said = (x for x in done.stdout.splitlines() if x.startswith(("FAILED ", "ERROR ")))
    return next(said, "no test could be collected") if done.returncode else ""


def tried(number, module, fault, directory, found):
    """What became of one fault."""
    line, start, end, new = fault
    copy = copied(directory / str(number))
    path = copy / "phi_jax" / module
    text = path.read_bytes().splitlines(keepends=True)
    old = text[line - 1]
    text[line - 1] = old[:start] + new.encode() + old[end:]
    path.write_bytes(b"".join(text))
    tests = quickest(module, line, *found)
    about = {
        "fault": f"{module}:{line}", "old": old.decode().strip(), "new": text[line - 1].decode().strip(), "tests": len(tests)
    }  # fmt: skip
    # Where no fixture passes the line, the micro run is what it is without the fault.
    micro = {} if MICRO in tests else {"PHI_JAX_MICRO_RUN": str(directory / "micro" / "micro" / "run")}
    by = ""
    while tests:
        by = failing(copy, tests, **micro)
        named = max((test for test in tests if by.partition(" ")[2].startswith(test)), key=len, default=None)
        if named is None or not failing(directory / "whole", [named]):
            break
        tests.remove(named)  # it fails without the fault too
        by = ""
    shutil.rmtree(copy)
    outcome = "caught" if by else "survived"
    print(outcome, about, by, flush=True)
    return {**about, "outcome": outcome, "by": by[:160]}


def test_single_line_faults_are_noticed(tmp_path):
    found = covered(Path(os.environ.get("PHI_JAX_COVERED", tmp_path)))
    (tmp_path / "shared").symlink_to(ROOT.parent / "shared")
    assert not failing(copied(tmp_path / "whole"), [MICRO], f"--basetemp={tmp_path / 'micro'}")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        each = list(pool.map(lambda x: tried(x[0], *x[1], tmp_path, found), enumerate(chosen())))
    caught = sum(f["outcome"] == "caught" for f in each)
    result = {"seed": SEED, "faults": len(each), "caught": caught, "each": each}
    Path(__file__).with_name("mutation_check.json").write_text(json.dumps(result, indent=1) + "\n")
    survived = [f"{f['fault'].partition(':')[0]} {f['old']}" for f in each if f["outcome"] == "survived"]
    assert [s for s in survived if s not in SURVIVORS] == []
