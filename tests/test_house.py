"""The house of design.md as tests: floors, no cycles, sizes, a budget of code, fields that are read and documented."""

import ast
import importlib
import io
import json
import re
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

import pytest
from running import ROOT

from phi_jax import config, fields, graph

# Tokens of code (comments, docstrings and blank space are free) in phi_jax, configs and launch. Raise it only in a
# commit of its own that says what users get for it.
BUDGET = 149_997
# From the ground up: a module may import only what stands on a floor below, or beside it in its own room.
FLOORS = (
    {"errors", "progress"},
    {"store", "sandbox", "config", "fields"},
    {"teacher", "tokens", "model"},
    {"parallel"},
    {"weights"},
    {"training", "evaluation"},
    {"corpus", "synthesis", "contamination", "report", "planning", "bench", "selection", "loading"},
    {"graph", "preflight", "pipeline", "sweeps", "cli"},
)
TOP = len(FLOORS) - 1  # its files may import each other
HEAVY = (
    "jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "pyarrow", "daft", "sklearn", "scipy", "numpy",
    "tokenizers", "tiktoken", "huggingface_hub", "tqdm", "openai", "pydantic", "aiohttp", "jinja2", "matplotlib",
)  # fmt: skip
MODULES = sorted((ROOT / "phi_jax").rglob("*.py"))
SOURCES = sorted(p for top in ("phi_jax", "configs", "launch") for p in (ROOT / top).rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    """Names of the phi_jax modules that a file imports, lazily or for typing too."""
    package = name_of(path).split(".") if path.stem == "__init__" else name_of(path).split(".")[:-1]
    known = {name_of(p) for p in MODULES}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for found in node.names:
                whole = f"{source}.{found.name}"
                if source.split(".")[0] == "phi_jax":
                    yield whole if whole in known else source
        elif isinstance(node, ast.Import):
            yield from (found.name for found in node.names if found.name.startswith("phi_jax."))


def room_of(module):
    return [*module.split("."), "__init__"][1]


def floor_of(module):
    return next(i for i, floor in enumerate(FLOORS) if room_of(module) in floor)


def house():
    """The table of phi_jax/README.md: each room with the first line of its docstring, the top floor first."""
    yield from ("| floor | room | what |", "|---|---|---|")
    for number, floor in sorted(enumerate(FLOORS, 1), reverse=True):
        for room in sorted(floor):
            path = ROOT / "phi_jax" / room
            source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            yield f"| {number} | `{room}` | {ast.get_docstring(ast.parse(source.read_text())).splitlines()[0]} |"


def test_the_readme_shows_the_house():
    assert "\n".join(house()) in (ROOT / "phi_jax" / "README.md").read_text(), "\n".join(house())


def test_imports_go_down_only():
    for path in MODULES:
        module = name_of(path)
        if module == "phi_jax":
            continue
        for imported in imports_of(path):
            below = floor_of(imported) < floor_of(module)
            same = room_of(imported) == room_of(module) or floor_of(imported) == floor_of(module) == TOP
            assert below or same, f"{module} imports {imported} from above or beside"


def test_no_import_goes_round():
    needs = {name_of(p): set(imports_of(p)) - {name_of(p)} for p in MODULES}
    standing: set[str] = set()
    while ready := {m for m in needs.keys() - standing if needs[m] & needs.keys() <= standing}:
        standing |= ready
    assert not needs.keys() - standing, "these files import each other in a circle, or what does"


def test_every_file_is_imported():
    needed = {imported for path in MODULES for imported in imports_of(path)}
    named = " ".join(p.read_text() for p in [*SOURCES, *(ROOT / "launch").rglob("*")] if p.is_file())
    for path in MODULES:
        module = name_of(path)
        if path.stem != "__init__" and module not in needed:
            assert module in named or path.stem in ("cli", "candidate"), f"nothing imports {module}"


def test_one_idea_a_file():
    names = Counter(p.name for p in MODULES if p.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= 500, f"{path.name} is too long"
        assert not re.fullmatch(r"(utils?|helpers?|misc|common)", path.stem)
    folders = Counter(p.parent for p in MODULES if p.name != "__init__.py")
    assert {str(f.relative_to(ROOT)): n for f, n in folders.items() if n > 12} == {}


def test_functions_are_short_and_take_few_arguments():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name != "get_config":
                place = f"{path.name}:{node.lineno} {node.name}"
                assert node.end_lineno - node.lineno < 80, f"{place} is longer than 80 lines"
                a = node.args
                count = len([x for x in (*a.posonlyargs, *a.args, *a.kwonlyargs) if x.arg not in ("self", "cls")])
                assert count <= 7, f"{place} takes {count} arguments"


def code_tokens(path):
    """Tokens less comments, blank space and docstrings (texts that are statements)."""
    count, before = 0, None
    tokens, inside = [], 0  # an f-string is one token, as in Python 3.11; from 3.12 on it comes in parts
    for t in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        inside -= t.type == getattr(tokenize, "FSTRING_END", -1)
        if not inside and t.type not in (tokenize.COMMENT, tokenize.NL, getattr(tokenize, "FSTRING_START", -1)):
            tokens.append(t)
        inside += t.type == getattr(tokenize, "FSTRING_START", -1)
    space = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        statement = before in (None, *space) and following is not None and following.type == tokenize.NEWLINE
        if token.type not in space and not (token.type == tokenize.STRING and statement):
            count += 1
        before = token.type
    return count


def test_the_house_stays_small():
    assert sum(map(code_tokens, SOURCES)) <= BUDGET


def test_daft_is_used_in_one_place():
    users = {p.name for p in MODULES if re.search(r"^\s*(import|from) daft", p.read_text(), re.M)}
    assert users == {"near_copies.py"}


def test_the_model_knows_no_mesh_and_no_files():
    for path in (ROOT / "phi_jax" / "model").glob("*.py"):
        assert not re.search(r"import (os|pathlib|grain|orbax)|jax\.sharding|make_mesh|\bopen\(", path.read_text()), (
            path
        )


def loaded(code, watched):
    code += f"\nimport sys\nprint([m for m in {watched!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.splitlines()[-1]


def test_help_loads_nothing_heavy():
    code = "from phi_jax.cli import main\ntry:\n main(['--help'])\nexcept SystemExit:\n pass"
    assert loaded(code, HEAVY) == "[]"


def test_training_loads_no_data_tools():
    data = ("pyarrow", "tokenizers", "grain", "tensorflow_datasets", "tensorflow", "daft", "torch", "transformers")
    assert loaded("import phi_jax.training.step, phi_jax.parallel.sampler", data) == "[]"


@pytest.mark.parametrize(
    ("name", "overrides"), [("nano", ()), ("phi_1", ()), ("phi_1", ("--config.texts.teacher.writer=files",))]
)
def test_every_stage_function_exists(name, overrides):
    seen = set()
    for stage in graph.stages(config.load(["--config", f"{ROOT}/configs/{name}.py", *overrides])):
        for named in filter(None, (stage.function, stage.check)):
            module, _, function = named.partition(":")
            assert callable(getattr(importlib.import_module(module), function))
        assert set(stage.inputs.values()) <= seen
        seen.add(stage.label)


# --- Configs -------------------------------------------------------------------------------------------------

# Fields that a micro run has no reason to read, by why.
UNREAD = {
    "asks no language model": {
        "annotate.max_file_bytes", "annotate.max_tokens", "annotate.temperature", "annotate.votes",
        "budget.journal", "budget.max_dollars", "budget.prices",
        "judge.max_tokens", "judge.repeats", "judge.temperature",
    },
    "chooses no save by pass@1": {
        "select.max_new_tokens", "select.problems", "select.prompt_form", "select.sandbox", "select.sandbox_workers",
        "select.slots",
    },
}  # fmt: skip


def test_every_field_is_read(micro_run):
    """A field that a run through every stage does not read is a field that lies."""
    unread = set(json.loads(micro_run.with_name("run.unread.json").read_text()))
    assert unread == set().union(*UNREAD.values())


def test_every_field_has_a_range_and_one_line_of_doc():
    for path in sorted((ROOT / "configs").rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.match(r"\s+c\.[\w.\[\]\"+]+ = (?!ConfigDict\()", line):
                assert re.search(r"  # \S.{2,}", line), f"{path.name}:{number}: no meaning, unit or source"
    for name in ("nano", "phi_1", "phi_1_small"):
        fields.check(config.load(["--config", f"{ROOT}/configs/{name}.py"]).to_dict())


@pytest.mark.parametrize("argument", ["nano.py:size=laptop", "nano.py:size=micro", "phi_1.py", "phi_1_small.py"])
def test_resolved_config_is_the_golden_one(argument):
    """A change of a default shows as a diff of tests/golden in review. Renew: PHI_JAX_RENEW_GOLDEN=1 pytest."""
    import os

    golden = (
        ROOT / "tests" / "golden" / (re.sub(r"[=:]", "_", argument.replace(".py:", ".").replace(".py", "")) + ".json")
    )
    text = json.dumps(config.load(["--config", f"{ROOT}/configs/{argument}"]).to_dict(), indent=1) + "\n"
    if os.environ.get("PHI_JAX_RENEW_GOLDEN") == "1":
        golden.write_text(text)
    assert golden.read_text() == text


def test_nothing_else_at_the_top():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout: what is tracked cannot be listed")
    top = {Path(p).parts[0] for p in tracked.stdout.splitlines()}
    allowed = {"pyproject.toml", "phi_jax", "configs", "launch", "tests", "README.md", "LICENSE"}
    assert {t for t in top if not t.startswith(".")} <= allowed
