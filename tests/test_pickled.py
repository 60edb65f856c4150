"""pytorch_model.bin: its tensors without torch, and nothing run of what a pickle may hold.

The files are made by hand in torch's format; tests/peers/test_pickled_torch.py has torch write them.
"""

import collections
import io
import json
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from published import CODEGEN, codegen_shapes, publish, random_tensors

from phi_jax.errors import UserError
from phi_jax.weights.huggingface import load_directory
from phi_jax.weights.pickled import open_pickled

KINDS = {np.dtype(np.float32): "FloatStorage", np.dtype(np.float16): "HalfStorage", np.dtype(np.bool_): "BoolStorage",
         np.dtype(ml_dtypes.bfloat16): "BFloat16Storage"}  # fmt: skip


class Name:
    """Pickled as a reference to a global, which need not exist here."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Change:
    """Pickled as a call of __setstate__, or of setattr for each pair of the second dictionary."""

    def __init__(self, thing, attributes):
        self.thing, self.attributes = thing, attributes


class Writer(pickle._Pickler):
    """Python's own pickler in Python, which can be taught to write names of modules that are not here."""

    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.storages = {}

    def persistent_id(self, thing):
        if isinstance(thing, np.ndarray):
            key = str(len(self.storages))
            self.storages[key] = thing
            return ("storage", Name("torch", KINDS[thing.dtype]), key, "cpu", thing.size)
        return None

    def save(self, thing, save_persistent_id=True):
        if isinstance(thing, Name):
            self.write(pickle.GLOBAL + f"{thing.module}\n{thing.name}\n".encode())
        elif isinstance(thing, Call):
            self.save(thing.function)
            self.save(thing.arguments)
            self.write(pickle.REDUCE)
        elif isinstance(thing, Change):
            self.save(thing.thing)
            self.save((None, thing.attributes))
            self.write(pickle.BUILD)
        else:
            super().save(thing, save_persistent_id)


def tensor(storage, shape=None, strides=None, offset=0):
    shape = storage.shape if shape is None else shape
    if strides is None:
        strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    rebuild = Name("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage.reshape(-1), offset, shape, strides, False, collections.OrderedDict())


def write(path, content):
    program = io.BytesIO()
    writer = Writer(program)
    writer.dump(content)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", program.getvalue())
        for key, storage in writer.storages.items():
            archive.writestr(f"archive/data/{key}", storage.tobytes())
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_tensors_are_read(tmp_path, dtype):
    numbers = np.random.default_rng(0).standard_normal((3, 4)).astype(dtype)
    content = collections.OrderedDict(
        whole=tensor(numbers),
        transposed=tensor(numbers, shape=(4, 3), strides=(1, 4)),
        part=tensor(numbers, shape=(2,), strides=(4,), offset=5),
        parameter=Call(Name("torch._utils", "_rebuild_parameter"), tensor(numbers), True, collections.OrderedDict()),
    )
    read = open_pickled(write(tmp_path / "pytorch_model.bin", content))
    assert list(read) == ["whole", "transposed", "part", "parameter"]
    for name, expected in (("whole", numbers), ("transposed", numbers.T), ("part", numbers.reshape(-1)[5::4][:2]),
                           ("parameter", numbers)):  # fmt: skip
        assert read[name]().dtype == dtype
        np.testing.assert_array_equal(read[name](), expected)


def test_a_published_pickle_is_a_model(tmp_path):
    """As codegen-350M-mono is published: no safetensors, and masks among the weights."""
    tensors = random_tensors(codegen_shapes(CODEGEN))
    expected, shape = load_directory(publish(tmp_path / "safe", CODEGEN, tensors))
    directory = publish(tmp_path / "pickled", CODEGEN, tensors)
    (directory / "model.safetensors").unlink()
    mask = np.tril(np.ones((1, 1, 64, 64), np.bool_))
    content = {name: tensor(value) for name, value in tensors.items()}
    write(directory / "pytorch_model.bin", content | {"transformer.h.0.attn.causal_mask": tensor(mask)})
    params, config = load_directory(directory)
    assert config == shape
    np.testing.assert_array_equal(
        params["layers"]["attention"]["q"]["kernel"], expected["layers"]["attention"]["q"]["kernel"]
    )


def test_shards_of_pickles_are_read_and_safetensors_come_first(tmp_path):
    tensors = random_tensors(codegen_shapes(CODEGEN))
    directory = publish(tmp_path / "m", CODEGEN, tensors)
    names = sorted(tensors)
    files = {"pytorch_model-1.bin": names[:5], "pytorch_model-2.bin": names[5:]}
    for file, part in files.items():
        write(directory / file, {n: tensor(-tensors[n]) for n in part})
    index = {"weight_map": {n: file for file, part in files.items() for n in part}}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert load_directory(directory)[0]["head"]["bias"][3] == tensors["lm_head.bias"][3]
    (directory / "model.safetensors").unlink()
    assert load_directory(directory)[0]["head"]["bias"][3] == -tensors["lm_head.bias"][3]
    (directory / "pytorch_model-2.bin").unlink()
    with pytest.raises(UserError, match=r"pytorch_model-2\.bin: missing"):
        load_directory(directory)


# --- What must not be ------------------------------------------------------------------------------------------


def refused(path):
    with pytest.raises(UserError) as error:
        open_pickled(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"), ("posix", "system"), ("builtins", "exec"), ("builtins", "getattr"), ("torch", "load"),
        ("torch.storage", "_load_from_bytes"), ("collections", "Counter"), ("torch", "FloatStorage.__class__"),
        ("numpy.core.multiarray", "_reconstruct"), ("torch._utils", "_rebuild_tensor_v2.__globals__"),
    ],
)  # fmt: skip
def test_nothing_else_is_called(tmp_path, module, name):
    target = tmp_path / "was_here"
    program = Call(Name(module, name), f"touch {target}")
    path = write(tmp_path / "pytorch_model.bin", {"lm_head.bias": program})
    assert f"wants to call {module}.{name}, which no tensor needs: it was not run" in refused(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "thing",
    [Name("torch", "FloatStorage"), Name("collections", "OrderedDict"), tensor(np.ones(3, np.float32))],
    ids=["a storage", "a class", "a tensor"],
)
def test_nothing_of_ours_is_changed(tmp_path, thing):
    path = write(tmp_path / "m.bin", {"a": Change(thing, {"shape": (10**9,), "keys": 3})})
    assert "cannot be read" in refused(path)
    assert collections.OrderedDict(a=1).keys() == {"a"}
    assert open_pickled(write(path, {"a": tensor(np.ones(3, np.float32))}))["a"]().shape == (3,)


def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path):
    numbers = np.ones(3, np.float32)
    for content in ([tensor(numbers)], {"model": {"a": tensor(numbers)}}, {"a": 3}, None):
        assert "not a dictionary of tensors" in refused(write(tmp_path / "m.bin", content))


def test_damaged_files_are_named(tmp_path):
    path = write(tmp_path / "m.bin", {"a": tensor(np.ones(100, np.float32))})
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert "no zip archive" in refused(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    assert "saved by torch before 1.6" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00(X")
    assert "cannot be read" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/other", b"")
    assert "cannot be read" in refused(path)


@pytest.mark.parametrize(("shape", "strides", "offset"), [((4,), (1,), 0), ((3,), (1,), 1), ((2,), (-1,), 2),
                                                          ((3,), (1,), -1), ((2, 2), (2, 1), 0)])  # fmt: skip
def test_a_tensor_reaches_no_byte_outside_its_storage(tmp_path, shape, strides, offset):
    content = {"a": tensor(np.ones(3, np.float32), shape=shape, strides=strides, offset=offset)}
    read = open_pickled(write(tmp_path / "m.bin", content))
    with pytest.raises(UserError, match="too few"):
        read["a"]()
