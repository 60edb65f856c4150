"""Published models, Phi and CodeGen, saved by transformers 5 itself: imported, exported, and computed by 5 and 4."""

import numpy as np
import pytest
from published import CODE
from safetensors.numpy import load_file
from same_model import VERSIONS, greedy_differences, logit_difference, transformers_model

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
