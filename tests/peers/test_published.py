"""Published models, Phi and CodeGen, saved by transformers 5 itself: imported, exported, and computed by 5 and 4; and
the parts of `launch/published_check` that need torch."""

import argparse
import importlib
import json
import pickle

import numpy as np
import pytest
from published import CODE
from running import ROOT
from safetensors.numpy import load_file
from same_model import VERSIONS, greedy_differences, logit_difference, transformers_model

from phi_jax.sandbox import support
from phi_jax.tokens import tokenizer
from phi_jax.weights.export import export_checkpoint
from phi_jax.weights.importing import import_directory

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module", params=["tiny phi", "tiny codegen"])
def both(request, transformers, tmp_path_factory):
    """(what transformers saved in float16, what we made of it by way of a checkpoint)."""
    directory = tmp_path_factory.mktemp("published")
    transformers_model("5", "make", request.param, 3, "float16", directory / "saved")
    tokenizer.train([CODE], 310).save(directory / "saved", max_length=256)
    import_directory(str(directory / "saved"), str(directory / "imported"))
    export_checkpoint(
        str(directory / "imported"), str(directory / "exported"),
        dtype="float16", architecture=None, licence="other", gguf=False,
    )  # fmt: skip
    return directory / "saved", directory / "exported"


def test_the_export_is_the_import_bit_for_bit(both):
    saved, exported = (load_file(directory / "model.safetensors") for directory in both)
    assert saved.keys() == exported.keys()
    for name, tensor in saved.items():
        assert exported[name].dtype == tensor.dtype == np.float16
        np.testing.assert_array_equal(exported[name].view(np.uint16), tensor.view(np.uint16), err_msg=name)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_computes_the_same_logits(both, version, tmp_path):
    tokens_BxT = np.random.default_rng(0).integers(0, 640, (2, 256))
    difference, largest = logit_difference(version, both[1], tokens_BxT, tmp_path)
    print(f"transformers {version}: logits {difference:.2e} of {largest:.2f}")
    assert difference < 1e-4


def test_greedy_decoding_is_the_same(both, tmp_path):
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, 640, length).tolist() for length in (1, 60) for _ in range(6)]
    greedy_differences("5", both[1], prompts, 60, tmp_path)


@pytest.fixture
def published_check(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "launch" / "published_check"))
    return importlib.import_module("published_check")


@pytest.mark.parametrize("both", ["tiny codegen"], indirect=True)
def test_completions_are_compared(both, published_check, tmp_path):
    problems = tmp_path / "problems.jsonl"
    row = {
        "prompt": "def f(x):\n    return [i * ",
        "entry_point": "f",
        "test": "def check(f):\n    assert f(1) == [0]\n",
    }
    rows = [{**row, "task_id": f"HumanEval/{n}", "prompt": f"# {n}\n{row['prompt']}"} for n in range(3)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = argparse.Namespace(
        out=tmp_path, sandbox="none" if support().missing else "full", max_new_tokens=20, slots=2, limit=0
    )
    check = published_check.Check("owner/model", options, {"humaneval": problems}, {})
    check.path("").mkdir()
    for part, directory in (("published", both[0]), ("imported", both[0].with_name("imported"))):
        check.path(part).symlink_to(directory)
    published_check.score_it("humaneval", check)
    found = published_check.ask_transformers(check)
    assert (found["says"], found["differing"]) == ("3/3 the same, 0.0", [])

    ours = check.path("humaneval") / "completions.jsonl"
    made = [json.loads(line) for line in ours.read_text().splitlines()]
    assert len({row["completion"] for row in made}) > 1
    made[1]["completion"] = "else"
    ours.write_text("".join(json.dumps(row) + "\n" for row in made))
    found = published_check.ask_transformers(check)
    assert (found["says"], found["differing"]) == ("2/3 the same, 0.0", ["HumanEval/1"])


def test_a_pickle_becomes_safetensors_and_runs_nothing(published_check, transformers, tmp_path):
    import torch

    tensors = {"a": torch.arange(6, dtype=torch.float16).reshape(2, 3).T, "b": torch.tril(torch.ones(3, 3)).bool()}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    published_check._unpickle(tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert {name: (tensor.dtype, tensor.tolist()) for name, tensor in found.items()} == {
        "a": (np.float16, [[0, 3], [1, 4], [2, 5]]), "b": (np.bool_, tensors["b"].tolist()),
    }  # fmt: skip

    class Code:
        def __reduce__(self):
            return (tmp_path / "ran").mkdir, ()

    (tmp_path / "model.safetensors").unlink()
    torch.save({"a": Code()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(pickle.UnpicklingError):
        published_check._unpickle(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_model.bin"]
