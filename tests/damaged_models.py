"""Model directories with one thing wrong, and what reading them may come to: one generator, for two numbers of inputs.

tests/test_fuzz_weights.py takes 200 of them, tests/acceptance/test_fuzz_weights_full.py 10,000.
"""

import collections
import contextlib
import functools
import json
import os
import random
import resource
import shutil
import signal
import traceback
from unittest import mock

import flax.traverse_util
import numpy as np
from published import CODEGEN, PHI, codegen_shapes, phi_shapes, publish, random_tensors
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from phi_jax.errors import UserError
from phi_jax.model import phi
from phi_jax.weights import huggingface
from phi_jax.weights.architectures import architecture
from phi_jax.weights.huggingface import ARCHITECTURES
from phi_jax.weights.importing import import_directory
from phi_jax.weights.lint import lint
from phi_jax.weights.models import load_model

SECONDS, GIBIBYTES = 30, 4  # that one reading may take, and memory on top of what the process has
_PHI = {
    **PHI,
    "num_key_value_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "rope_parameters": {"rope_type": "default"},
}
_SIZES = {"phi": ("vocab_size", "hidden_size", "num_hidden_layers"), "codegen": ("vocab_size", "n_embd", "n_layer")}


def make_originals(root):
    """Three good directories: a phi, a codegen, and a phi in two shards."""
    publish(root / "phi", _PHI, random_tensors(phi_shapes(_PHI)))
    publish(root / "codegen", CODEGEN, random_tensors(codegen_shapes(CODEGEN)))
    sharded = shutil.copytree(root / "phi", root / "sharded")
    tensors = load_file(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, sharded / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {name: f for f, part in shards.items() for name in part}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    return [root / name for name in ("phi", "codegen", "sharded")]


# --- Damage ----------------------------------------------------------------------------------------------------------


def _junk(draw):
    return draw.choice([
        None, True, False, 0, -1, 1, 2, 3, 4, 7, 16, 32, 64, 320, 2**31, 2**32, 2**63, 2**64, 10**30, 10**400, -(2**63),
        0.5, 1.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"), -float("inf"), "", "x", "phi", "0.5", "F32",
        "\ud800",
        "a\nb", "a\0b", "../../etc/passwd", "/dev/zero", "x" * 5000, [], {}, [[]], [None], {"a": 1}, [1, 2],
        [2**32, 2**32], "F64", "BF16", "I64", "F8_E4M3", "BOOL", {"rope_type": "linear", "factor": 2}, "\ufeff",
        "model-00001-of-00002.safetensors",
    ])  # fmt: skip


def _places(tree, found):
    """(container, key) of everything in a JSON value."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        found.append((tree, key))
        if isinstance(value, dict | list):
            _places(value, found)
    return found


def change_json(draw, text):
    """JSON with one thing changed: a value, a key, an order, or its text."""
    how = draw.choice(["value"] * 8 + ["drop"] * 3 + ["rename", "swap", "add", "twice", "deep", "text", "text", "top"])
    tree = json.loads(text)
    if how == "top":
        return json.dumps(_junk(draw)).encode(), how
    if how == "text":
        return change_bytes(draw, text.encode())
    if how == "deep":
        return (text.rstrip()[:-1] + ', "x": ' + draw.choice("[{") * draw.choice([900, 10**5])).encode(), how
    container, key = draw.choice(_places(tree, []))
    if how == "swap":
        other, where = draw.choice(_places(tree, []))
        with contextlib.suppress(ValueError):
            container[key], other[where] = json.loads(json.dumps([other[where], container[key]]))
    elif how == "drop" or not isinstance(container, dict):
        del container[key]
    elif how == "twice":
        again = json.dumps({key: _junk(draw)})[1:-1]
        return (text.rstrip()[:-1] + f", {again}}}").encode(errors="surrogatepass"), how
    elif how in ("rename", "add"):
        container[str(_junk(draw))[:6000]] = container.pop(key) if how == "rename" else _junk(draw)
    else:
        container[key] = _junk(draw)
    return json.dumps(tree).encode(), how


def change_bytes(draw, content):
    how = draw.choice(["flip", "cut", "empty", "grow", "zeros", "other"])
    content = bytearray(content)
    place = draw.randrange(len(content))
    if how == "flip":
        content[place] ^= 1 << draw.randrange(8)
    elif how == "cut":
        del content[place:]
    elif how == "empty":
        content.clear()
    elif how == "grow":
        content += draw.randbytes(draw.choice([1, 8, 4096]))
    elif how == "zeros":
        content[place : place + 512] = bytes(len(content[place : place + 512]))
    else:
        content[place : place + 4] = draw.randbytes(4)
    return bytes(content), how


def change_safetensors(draw, content):
    """One thing in the header, its length, or anywhere."""
    length = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + length], content[8 + length :]
    how = draw.choice(["header", "header", "header", "length", "bytes", "pair"])
    if how == "bytes":
        return change_bytes(draw, content)
    if how == "length":
        length = draw.choice([0, 1, 7, length - 1, length + 1, len(content), 2**31, 2**32, 10**8, 2**63, 2**64 - 1])
        return length.to_bytes(8, "little") + header + body, how
    if how == "pair":  # two tensors with each other's dtype, shape or place, or both in one place
        tree = json.loads(header)
        (a, b), field = (
            draw.sample([x for x in tree.values() if "shape" in x], 2),
            draw.choice(["shape", "data_offsets"]),
        )
        a[field], b[field] = b[field], draw.choice([a[field], b[field]])
        header, how = json.dumps(tree).encode(), f"pair {field}"
    else:
        header, how = change_json(draw, header.decode())
    return len(header).to_bytes(8, "little") + header + body, f"header {how}"


def change_place(draw, path):
    """Something else stands where a file stood."""
    how = draw.choice(["gone", "directory", "pipe", "link to itself"])
    path.unlink()
    if how == "directory":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "link to itself":
        path.symlink_to(path.name)
    return how


def damage(directory, seed):
    """Changes one thing in a directory; says what."""
    draw = random.Random(seed)
    files = sorted(path.name for path in directory.iterdir())
    weights = [name for name in files if name.endswith(".safetensors")]
    index = [name for name in files if name.endswith(".index.json")]
    rest = [name for name in files if name not in weights and name not in ("config.json", *index)]
    kind = draw.choice([["config.json"], ["config.json"], weights, weights, index or weights, rest, ["tokenizer.json"]])
    path = directory / draw.choice(kind)
    if path.name == "vocab.json" or path.name == "merges.txt":  # which count where there is no tokenizer.json
        (directory / "tokenizer.json").unlink()
    if draw.random() < 0.05:
        return path.name, change_place(draw, path)
    content = path.read_bytes()
    if path.name in weights:
        content, how = change_safetensors(draw, content)
    elif path.name.endswith(".json"):
        content, how = change_json(draw, content.decode())
    else:
        content, how = change_bytes(draw, content)
    path.write_bytes(content)
    return path.name, how


# --- What may come of it ---------------------------------------------------------------------------------------------


class TooLongError(BaseException):
    """Nothing that catches Exception catches it."""


@contextlib.contextmanager
def bounded():
    """Within SECONDS and GIBIBYTES, or an exception."""

    def stop(*_):
        raise TooLongError

    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    before, limits = signal.signal(signal.SIGALRM, stop), resource.getrlimit(resource.RLIMIT_AS)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (size + GIBIBYTES * 2**30, limits[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def failure(error):
    """What to write of an exception that is none of UserError; raises Ctrl-C again."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    return "".join(traceback.format_exception(error)[-4:])[-600:]


def outcome(read, directory):
    """ "result", "refused" or what is wrong with how it ended."""
    try:
        with bounded():
            found = read(directory)
    except UserError as error:
        return _line(str(error), directory)
    except BaseException as error:
        return failure(error)
    return found if isinstance(found, str) else "result"


def _line(text, directory):
    if "\n" in text or len(text) > 12000:
        return f"not one line: {text[:300]!r}"
    text.encode()  # as lint prints it
    return "refused" if str(directory) in text else f"names no file: {text!r}"


def load(directory):
    """Loads, and compares with what the file's own library reads."""
    params, config, tokenizer = load_model(directory)
    said = json.loads((directory / "config.json").read_text())
    of = ARCHITECTURES[said["model_type"]]
    assert [config.vocab_size, config.hidden_size, config.num_layers] == [said[f] for f in _SIZES[said["model_type"]]]
    assert tokenizer.decode(tokenizer.encode("def f(x): é")) is not None
    index = directory / "model.safetensors.index.json"
    shard_of = json.loads(index.read_text())["weight_map"] if index.is_file() else {}

    for name, tensor in of.tensors(flax.traverse_util.flatten_dict(params, sep="/").items(), config):
        with safe_open(directory / shard_of.get(name, "model.safetensors"), framework="np") as file:
            np.testing.assert_array_equal(tensor, file.get_tensor(name).astype(np.float32), err_msg=name)


def check(directory):
    """Lints; each finding must be a line."""
    for finding in lint(directory):
        if (said := _line(str(finding), directory)) not in ("refused",) and finding.severity == "error":
            return said
        if "\n" in str(finding):
            return f"not one line: {finding!s}"
    return None


def try_all(originals, scratch, seeds, *, import_every):
    """(counts by file and outcome, failures) of damaged copies."""
    cached = functools.lru_cache(phi.abstract_params)  # half of the time of a reading
    with contextlib.ExitStack() as patched:
        for module in (architecture, huggingface, phi):
            patched.enter_context(mock.patch.object(module, "abstract_params", cached))
        return _try_all(originals, scratch, seeds, import_every)


def _try_all(originals, scratch, seeds, import_every):
    counts, failures = collections.defaultdict(collections.Counter), []
    for seed in seeds:
        copy = shutil.copytree(originals[seed % len(originals)], scratch / f"m{seed}")
        file, how = damage(copy, seed)
        readers = {"load": load, "lint": check}
        if seed % import_every == 0:
            readers["import"] = lambda source: import_directory(str(source), f"{source}-imported") and None
        kind = "safetensors" if file.endswith(".safetensors") else file
        outcomes = {name: outcome(read, copy) for name, read in readers.items()}
        for name, what in outcomes.items():
            counts[kind][f"{name}: {what if what in ('result', 'refused') else 'failed'}"] += 1
            if what not in ("result", "refused"):
                failures.append(f"seed {seed}, {file}, {how}, {name}: {what}")
        assert not (scratch / f"m{seed}-imported").exists() or outcomes["import"] == outcomes["load"] == "result"
        for left in scratch.glob(f"m{seed}*"):
            shutil.rmtree(left)
        assert list(scratch.iterdir()) == []
    return counts, failures
