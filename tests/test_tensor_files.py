"""Safetensors, read back by the library; shards and the index beside them."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from phi_jax.errors import UserError
from phi_jax.weights import tensor_files
from phi_jax.weights.tensor_files import open_tensors, write_tensors

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def write(directory, tensors, *, shard_bytes=tensor_files.SHARD_BYTES):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tensor_files, "SHARD_BYTES", shard_bytes)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        write_tensors(directory, shapes, next(iter(tensors.values())).dtype, reversed(tensors.items()))
    return directory


def some_tensors(dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = {"z": (3, 5), "a": (7,), "layer.0.w": (4, 2), "b": (1,), "layer.1.w": (4, 2)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("code", DTYPES)
def test_the_library_reads_every_bit(tmp_path, code):
    tensors = some_tensors(DTYPES[code])
    write(tmp_path, tensors)
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        assert {file.get_slice(name).get_dtype() for name in tensors} == {code}
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        np.testing.assert_array_equal(loaded[name].view(np.uint8), tensor.view(np.uint8))


def test_views_are_written_as_they_read(tmp_path):
    """A transposed view's buffer lies otherwise than it reads: written as it lies, it would be wrong in silence."""
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    write(tmp_path, {"t": base.T, "half": base[:, ::2]})
    loaded = load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(loaded["t"], base.T)
    np.testing.assert_array_equal(loaded["half"], base[:, ::2])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(4, 200))
def test_shards_hold_everything_once_and_keep_their_size(tmp_path_factory, sizes, shard_bytes):
    directory = tmp_path_factory.mktemp("shards")
    tensors = {f"t{i}": np.full(size, i, np.float32) for i, size in enumerate(sizes)}
    write(directory, tensors, shard_bytes=shard_bytes)
    files = sorted(directory.glob("*.safetensors"))
    held = {file.name: load_file(file) for file in files}
    assert sorted(name for part in held.values() for name in part) == sorted(tensors)
    for part in held.values():
        assert len(part) == 1 or sum(t.nbytes for t in part.values()) <= shard_bytes
    if len(files) == 1:
        assert [f.name for f in directory.iterdir()] == ["model.safetensors"]
    else:
        assert [f.name for f in files] == [
            f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))
        ]
        index = json.loads((directory / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == 4 * sum(sizes)
        assert index["weight_map"] == {name: file for file, part in held.items() for name in part}
    read = open_tensors(directory)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name].read(), tensor)


# --- Shards that contradict their index ------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path):
    return write(tmp_path, some_tensors(), shard_bytes=60)


def change_index(directory, change):
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def refused(directory):
    with pytest.raises(UserError) as error:
        open_tensors(directory)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda m: m.update(a="model-00003-of-00003.safetensors"),
            "tensor 'a' in 'model-00003-of-00003.safetensors'",
        ),
        (
            lambda m: m.update(new="model-00003-of-00003.safetensors"),
            "tensor 'new' in 'model-00003-of-00003.safetensors'",
        ),
    ],
)
def test_an_index_that_says_otherwise_than_the_shards(sharded, change, complaint):
    change_index(sharded, lambda index: change(index["weight_map"]))
    assert f"places {complaint}, where it is not" in refused(sharded)


def test_a_shard_that_is_missing_or_cut_off(sharded):
    shard = sharded / "model-00002-of-00003.safetensors"
    whole = shard.read_bytes()
    for length in (len(whole) - 1, 30, 4, 0):
        shard.write_bytes(whole[:length])
        assert f"{shard}: cannot be read" in refused(sharded)
    shard.unlink()
    assert f"{shard}: missing" in refused(sharded)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": 3}', '{"weight_map": {"a": ["x"]}}'])
def test_an_index_without_a_map(sharded, content):
    (sharded / "model.safetensors.index.json").write_text(content)
    assert "index.json: has no weight_map of names" in refused(sharded)


def test_a_path_in_the_index_leads_nowhere_else(sharded, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.safetensors"
    save_file({"a": np.zeros(7, np.float32)}, outside)
    for name in ("a", "new"):
        change_index(sharded, lambda i, name=name: i["weight_map"].update({name: str(outside)}))
        assert "secret.safetensors" in refused(sharded)


def test_a_pickle_alone_is_not_read_and_its_remedy_is_told(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin is not read" in (told := refused(tmp_path))
    assert f"AutoModelForCausalLM.from_pretrained('{tmp_path}').save_pretrained('NEW_PLACE')" in told
