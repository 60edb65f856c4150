"""The house of design.md as tests: floors, no cycles, file sizes, fields that are read and documented."""

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT

# From the ground up: a module may import, when it is loaded, only what stands on a floor below, or beside it in
# its own package.
FLOORS = (
    {"errors"},
    {"store", "sandbox", "config", "fields", "progress"},
    {"teacher", "tokens", "model"},
    {"parallel"},
    {"weights"},
    {"training", "evaluation"},
    {"corpus", "synthesis", "contamination", "report", "planning", "bench", "selection"},
    {"pipeline", "cli"},
)
HEAVY = (
    "jax",
    "flax",
    "optax",
    "orbax",
    "grain",
    "tensorflow_datasets",
    "pyarrow",
    "daft",
    "sklearn",
    "numpy",
    "tokenizers",
    "tiktoken",
    "huggingface_hub",
    "tqdm",
    "openai",
    "pydantic",
    "aiohttp",
)
MODULES = sorted((ROOT / "phi_jax").rglob("*.py"))


def floor_of(part):
    return next(i for i, floor in enumerate(FLOORS) if part in floor)


def imports_of(path):
    """(imported phi_jax module, whole statement's line) of every import, lazy ones included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "phi_jax":
            parts = node.module.split(".")
            for name in node.names:
                yield parts[1] if len(parts) > 1 else name.name
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("phi_jax."):
                    yield name.name.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path):
    relative = path.relative_to(ROOT / "phi_jax")
    part = relative.parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for imported in imports_of(path):
        if imported != part:
            assert floor_of(imported) < floor_of(part), f"{relative} imports phi_jax.{imported} from above or beside"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_one_idea_a_file(path):
    assert len(path.read_text().splitlines()) <= 500
    assert not re.fullmatch(r"(utils?|helpers?|misc|common)", path.stem)


def test_only_the_document_floor_imports_daft():
    users = {p.name for p in MODULES if re.search(r"^\s*(import|from) daft", p.read_text(), re.M)}
    assert users <= {"near_copies.py"}


def test_the_model_knows_no_mesh_and_no_files():
    for path in (ROOT / "phi_jax" / "model").glob("*.py"):
        assert not re.search(r"import (os|pathlib|grain|orbax)|jax\.sharding|make_mesh|\bopen\(", path.read_text()), (
            path
        )


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom phi_jax.cli import main\n"
        "try:\n main(['--help'])\nexcept SystemExit:\n pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_training_loads_no_data_tools():
    code = (
        "import sys, phi_jax.training.step, phi_jax.training.optimizer, phi_jax.model.sampler\n"
        "print([m for m in ('pyarrow', 'tokenizers', 'grain', 'tensorflow_datasets', 'tensorflow', 'daft', "
        "'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("name", "overrides"), [("nano", ()), ("phi_1", ()), ("phi_1", ("--config.synthesize.teacher=files",))]
)
def test_every_stage_function_exists(name, overrides):
    from phi_jax import config
    from phi_jax.pipeline import stages

    seen = set()
    for stage in stages(config.load(["--config", f"{ROOT}/configs/{name}.py", *overrides])):
        module, _, function = stage.function.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert set(stage.inputs.values()) <= seen
        seen.add(stage.label)


# --- Configs -------------------------------------------------------------------------------------------------

# Fields that a micro run has no reason to read, each with that reason.
UNREAD: dict[str, str] = {}


def test_every_field_is_read(micro_run):
    """A field that a run through every stage does not read is a field that lies."""
    assert json.loads(micro_run.with_name("run.unread.json").read_text()) == sorted(UNREAD)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.py")), ids=lambda p: p.name)
def test_every_field_has_one_line_of_doc(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if re.match(r"\s+c\.\w+\.?\w* = (?!ConfigDict\(\)$)", line):
            assert re.search(r"  # \S.{8,}", line), (
                f"{path.name}:{number}: no meaning, unit and source beside the field"
            )


@pytest.mark.parametrize("argument", ["size=laptop", "size=micro"])
def test_resolved_config_is_the_golden_one(argument):
    """A change of a default shows as a diff of tests/golden in review. Renew: PHI_JAX_RENEW_GOLDEN=1 pytest."""
    import os

    from phi_jax import config

    golden = ROOT / "tests" / "golden" / f"nano.{argument.replace('=', '_')}.json"
    text = json.dumps(config.load(["--config", f"{ROOT}/configs/nano.py:{argument}"]).to_dict(), indent=1) + "\n"
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
