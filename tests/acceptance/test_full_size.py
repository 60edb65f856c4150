"""Weights in and out at full size, beside transformers 5 and 4. Writes interchange.json, a case at a time.

    pip install -e '.[dev,peers]' && pip install --target .transformers4 --no-deps -r tests/peers/transformers4.txt
    pytest tests/acceptance/test_full_size.py

Random weights, saved by transformers itself. The whole takes about half an hour on two cores, 20 GiB of disk and 13 GiB
of memory; what was published is not needed.
"""

import datetime
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from running import ROOT

sys.path.insert(0, str(ROOT / "tests" / "peers"))
from published import CODE
from same_model import VERSIONS, greedy_differences, logit_difference, transformers_model

from phi_jax.tokens import tokenizer
from phi_jax.weights.tensor_files import open_tensors

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(
        importlib.util.find_spec("transformers") is None, reason="needs transformers: pip install -e '.[peers]'"
    ),
]

FULL = ("phi-1", 24)
SHALLOW = [("phi-1", 2), ("phi-2", 2), ("codegen-350M", 2)]


def record(case, **figures):
    """Puts one case into interchange.json; the others stay."""
    place = Path(__file__).with_name("interchange.json")
    cases = json.loads(place.read_text()) if place.exists() else {}
    figures["date"] = datetime.date.today().isoformat()
    figures["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    cases[case] = cases.get(case, {}) | figures
    place.write_text(json.dumps(cases, indent=1, sort_keys=True) + "\n")
    print(case, figures)


def phi_jax(*arguments):
    """(seconds, peak GiB) of a command in a process of its own."""
    script = (
        "import resource, subprocess, sys\n"
        "code = subprocess.run([sys.executable, '-m', 'phi_jax.cli', *sys.argv[1:]]).returncode\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\nsys.exit(code)"
    )
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return round(time.monotonic() - begin, 1), round(int(done.stdout.split()[-1]) / 2**20, 2)


def assert_equal_bits(a, b):
    a, b = open_tensors(a), open_tensors(b)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        x, y = tensor.read(), b[name].read()
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x.view(np.uint8), y.view(np.uint8), err_msg=name)
    return len(a)


@pytest.fixture(scope="module", params=[FULL, *SHALLOW], ids=lambda p: f"{p[0]}, {p[1]} layers")
def model(request, tmp_path_factory):
    """(name of the case, what transformers saved in float16, the checkpoint it was imported to)."""
    shape, layers = request.param
    case = f"{shape}, {layers} layers"
    directory = tmp_path_factory.mktemp("model")
    transformers_model("5", "make", shape, layers, "float16", directory / "saved")
    tokenizer.train([CODE], 310).save(directory / "saved", max_length=2048)
    seconds, peak = phi_jax("import", "--hf", directory / "saved", "--out", directory / "imported")
    facts = json.loads((directory / "imported" / "manifest.json").read_text())["facts"]
    record(case, parameters=facts["parameters"], import_seconds=seconds, import_peak_gibibytes=peak)
    yield case, directory / "saved", directory / "imported"
    subprocess.run(["rm", "-r", directory], check=True)


@pytest.fixture(scope="module")
def exported(model):
    """The checkpoint in float16 again."""
    _, saved, imported = model
    phi_jax("export", "--checkpoint", imported, "--out", saved.parent / "exported", "--dtype", "float16")
    return saved.parent / "exported"


def test_import_and_export_are_bit_exact(model, exported):
    case, saved, _ = model
    record(case, bit_exact_tensors=assert_equal_bits(saved, exported))


def test_memory_of_an_export_to_bfloat16(model, tmp_path):
    case, _, imported = model
    seconds, peak = phi_jax("export", "--checkpoint", imported, "--out", tmp_path / "m", "--dtype", "bfloat16")
    record(case, export_bfloat16_seconds=seconds, export_bfloat16_peak_gibibytes=peak)
    assert peak < 6


@pytest.mark.parametrize("version", VERSIONS)
def test_logits_at_the_whole_context(model, exported, version, tmp_path):
    tokens_BxT = np.random.default_rng(0).integers(0, 51200, (1, 2048))
    difference, largest = logit_difference(version, exported, tokens_BxT, tmp_path)
    record(model[0], **{f"logit_difference_transformers_{version}": difference, "largest_logit": largest})
    assert difference < 1e-4


def test_greedy_decoding(model, exported, tmp_path):
    if "24 layers" in model[0]:
        pytest.skip("greedy decoding is compared with few layers")
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, 51200, length).tolist() for length in (1, 31, 64) for _ in range(17)][:50]
    parted = greedy_differences("5", exported, prompts, 200, tmp_path)
    record(model[0], greedy_prompts=len(prompts), greedy_tokens=200, parted_at_ties=parted)
