"""lint on directories that transformers 4.57.6 and 5.23 saved themselves, undamaged and with defects planted.

Where a rule says that transformers fails or goes wrong, both are made to load the damaged directory, and do.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.numpy import load_file, save_file
from transformers4 import run_transformers_4

from phi_jax.weights.lint import lint

pytestmark = pytest.mark.peers
SAVED = Path(__file__).with_name("saved.py").read_text()
TORCH = {"format": "pt"}
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def saved(transformers, tmp_path_factory):
    """{4: directory, 5: directory}, each with what that transformers saved: whole, sharded, narrow."""
    import saved

    from phi_jax.tokens import tokenizer

    root = tmp_path_factory.mktemp("saved")
    code = "def f(x):\n    return [i * i for i in range(x)]\n" * 20
    tokenizer.train([code], 320).save(root / "tokenizer", max_length=64)
    saved.save(root / "tokenizer", root / "5")
    run_transformers_4(SAVED, "save", root / "tokenizer", root / "4")
    return {4: root / "4", 5: root / "5"}


# What is true of a directory that is as its transformers saved it: 5 writes rotary fields under rope_parameters only.
TRUE_OF = {(v, kind): {"rotary-nested"} if v == 5 else set() for v in (4, 5) for kind in ("whole", "sharded", "narrow")}


@pytest.mark.parametrize(("version", "kind"), TRUE_OF)
def test_an_undamaged_directory_has_only_what_is_true_of_it(saved, version, kind):
    findings = lint(saved[version] / kind)
    assert {finding.rule for finding in findings} == TRUE_OF[version, kind]
    assert {finding.severity for finding in findings} <= {"warning"}


# --- Defects -------------------------------------------------------------------------------------------------


def config(*missing, file="config.json", **values):
    def plant(directory):
        content = {**json.loads((directory / file).read_text()), **values}
        (directory / file).write_text(json.dumps({k: v for k, v in content.items() if k not in missing}))

    return plant


def settings(*missing, **values):
    return config(*missing, file="tokenizer_config.json", **values)


def tensors(change, metadata=TORCH):
    def plant(directory):
        content = load_file(directory / "model.safetensors")
        change(content)
        save_file(content, directory / "model.safetensors", metadata=metadata)

    return plant


def no_ids(directory):
    config("bos_token_id", "eos_token_id")(directory)
    (directory / "generation_config.json").unlink()


def null_ids(directory):
    config(bos_token_id=None, eos_token_id=None)(directory)
    (directory / "generation_config.json").unlink()


def no_generation_config(directory):
    (directory / "generation_config.json").unlink()


def shard(number, change):
    def plant(directory):
        change(sorted(directory.glob("model-*.safetensors"))[number])

    return plant


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def index(change):
    def plant(directory):
        content = json.loads((directory / INDEX).read_text())
        change(content)
        (directory / INDEX).write_text(json.dumps(content))

    return plant


def forget(content):
    """Of a shard that is listed for another tensor."""
    content["weight_map"].pop("lm_head.bias")


def forget_shard(content):
    lost = content["weight_map"]["lm_head.weight"]
    content["weight_map"] = {name: file for name, file in content["weight_map"].items() if file != lost}


def misplace(content):
    content["weight_map"]["lm_head.bias"] = content["weight_map"]["model.embed_tokens.weight"]


def grow(directory):
    """A tokenizer that has learnt more than there are rows."""
    state = json.loads((directory / "tokenizer.json").read_text())
    last = max(token["id"] for token in state["added_tokens"])
    flags = {k: v for k, v in state["added_tokens"][-1].items() if k not in ("id", "content")}
    state["added_tokens"] += [{"id": last + n, "content": f"<more{n}>", **flags} for n in range(1, 100)]
    (directory / "tokenizer.json").write_text(json.dumps(state))


def fails(with_what):
    return lambda got: with_what in got.get("error", "")


def is_random(name):
    return lambda got: name in got["missing"]


def counts(what, number):
    return lambda got: len(got[what]) == number


def gives(what, value):
    return lambda got: got[what] == value


def good(got):
    return "error" not in got and not got["missing"] and got["stops"] == got["end"] and got["round_trip"]


class Defect(NamedTuple):
    kind: str  # of the saved directories
    plant: Callable
    rule: str
    told: str  # in lint's line
    by_4: Callable  # of what that transformers makes of it: is it what lint says?
    by_5: Callable


NESTED = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
UNREADABLE, FILE, MISFIT = fails("SafetensorError"), fails("FileNotFoundError"), fails("RuntimeError")
NO_HEAD, NO_BIAS = is_random("lm_head.weight"), is_random("lm_head.bias")
WEIGHTS = "model.safetensors"
DEFECTS = {
    "truncated shard": Defect("sharded", shard(2, truncate), "load", "cannot be read", UNREADABLE, UNREADABLE),
    "missing shard": Defect("sharded", shard(2, Path.unlink), "load", "missing", FILE, FILE),
    "unlisted tensor": Defect("sharded", index(forget), "load", "lm_head.bias is missing", NO_BIAS, good),
    "misplaced tensor": Defect("sharded", index(misplace), "load", "where it is not", good, good),
    "unlisted shard": Defect("sharded", index(forget_shard), "load", "is missing", NO_HEAD, NO_HEAD),
    "truncated": Defect("whole", lambda d: truncate(d / WEIGHTS), "load", "cannot be read", UNREADABLE, UNREADABLE),
    "missing tensor": Defect("whole", tensors(lambda t: t.pop("lm_head.bias")), "load", "lm_head.bias is missing",
                             NO_BIAS, NO_BIAS),
    "misshapen tensor": Defect("whole", tensors(lambda t: t.update({"lm_head.bias": t["lm_head.bias"][:3]})),
                               "load", "shape (3,)", MISFIT, MISFIT),
    "a layer fewer": Defect("whole", config(num_hidden_layers=1), "load", "belongs to no phi model",
                            counts("unexpected", 14), counts("unexpected", 14)),
    "a layer more": Defect("whole", config(num_hidden_layers=3), "load", "model.layers.2.",
                           counts("missing", 14), counts("missing", 14)),
    "qk norms missing": Defect("whole", config(qk_layernorm=True), "load", "qk_layernorm",
                               counts("missing", 8), counts("missing", 8)),
    "NaN": Defect("whole", tensors(lambda t: t["lm_head.bias"].fill(float("nan"))), "load", "not finite",
                  gives("finite", False), gives("finite", False)),
    "vocabulary": Defect("whole", config(vocab_size=351), "load", "has shape (352, ", MISFIT, MISFIT),
    "no inner size": Defect("whole", config("intermediate_size"), "load", "intermediate_size is None", MISFIT, MISFIT),
    "null kv heads": Defect("whole", config(num_key_value_heads=None), "kv-heads", "TGI", good, good),
    "no ids": Defect("whole", no_ids, "end-token", "2 where it is missing",
                     lambda got: (got["ids"], got["stops"]) == ([1, 2], 2),
                     lambda got: (got["ids"], got["stops"]) == ([1, 2], None)),
    "null ids": Defect("whole", null_ids, "end-token", "never where it is null", gives("stops", None),
                       gives("stops", None)),
    "ends differ": Defect("whole", config(file="generation_config.json", eos_token_id=5), "end-token",
                          "eos_token_id is 5", gives("stops", 5), gives("stops", 5)),
    "two factors": Defect("whole", config(partial_rotary_factor=0.5, rope_parameters=NESTED, rope_theta=10000.0),
                          "load", "in two places", gives("rotary_dim", 8), gives("rotary_dim", 4)),
    "factor nested": Defect("whole", config("partial_rotary_factor", "rope_theta", rope_parameters=NESTED),
                            "rotary-nested", "transformers 4 take their default",
                            gives("rotary_dim", 8), gives("rotary_dim", 4)),
    "tied": Defect("whole", config(tie_word_embeddings=True), "load", "tie_word_embeddings",
                   gives("tied", True), gives("tied", False)),
    "dtype": Defect("whole", config("dtype", torch_dtype="float16"), "dtype", "transformers 5",
                    gives("dtype", "torch.float32"), gives("dtype", "torch.float16")),
    "two dtypes": Defect("whole", config(dtype="bfloat16", torch_dtype="float16"), "dtype", "float16 and bfloat16",
                         good, gives("dtype", "torch.bfloat16")),
    "unknown end": Defect("whole", settings(eos_token="<eos>"), "end-token", "is None",
                          gives("end", 316), gives("end", 316)),
    "too many tokens": Defect("whole", grow, "load", "the embedding 352 rows",
                              gives("largest_id", 414), gives("largest_id", 414)),
}  # fmt: skip
# What lint lets pass: config.json has the ids, and both know the class for Phi.
HARMLESS = {"no generation_config.json": no_generation_config, "class not named": settings("tokenizer_class")}


@pytest.fixture(scope="module")
def planted(saved, tmp_path_factory):
    """(version that saved it, name) -> directory with that defect, or with what is none."""
    root = tmp_path_factory.mktemp("planted")
    plants = {name: (defect.kind, defect.plant) for name, defect in DEFECTS.items()}
    plants |= {name: ("whole", plant) for name, plant in HARMLESS.items()}
    plants |= {"as saved": ("whole", lambda directory: None)}
    directories = {}
    for version in (4, 5):
        for name, (kind, plant) in plants.items():
            directories[version, name] = shutil.copytree(saved[version] / kind, root / f"{version} {name}")
            plant(directories[version, name])
    return directories


@pytest.mark.parametrize("name", DEFECTS)
@pytest.mark.parametrize("version", [4, 5])
def test_each_defect_is_named(planted, version, name):
    defect = DEFECTS[name]
    findings = lint(planted[version, name])
    found = [f for f in findings if f.rule == defect.rule and defect.told in str(f)]
    assert len(found) == 1, [str(f) for f in findings]
    assert "\n" not in str(found[0])


@pytest.fixture(scope="module")
def loaded(planted, transformers):
    """(version, name) -> what that transformers makes of what it saved itself."""
    import saved

    mine = {version: [key for key in planted if key[0] == version] for version in (4, 5)}
    by_4 = json.loads(run_transformers_4(SAVED, "load", *(planted[k] for k in mine[4])))
    by_5 = [saved.load(str(planted[key])) for key in mine[5]]
    return dict(zip([*mine[4], *mine[5]], by_4 + by_5, strict=True))


@pytest.mark.parametrize("name", DEFECTS)
@pytest.mark.parametrize("version", [4, 5])
def test_transformers_does_what_lint_says(loaded, version, name):
    consequence = DEFECTS[name].by_4 if version == 4 else DEFECTS[name].by_5
    assert consequence(loaded[version, name]), loaded[version, name]


@pytest.mark.parametrize("name", ["as saved", *HARMLESS])
@pytest.mark.parametrize("version", [4, 5])
def test_what_lint_lets_pass_does_no_harm(planted, loaded, version, name):
    assert {f.rule for f in lint(planted[version, name])} == TRUE_OF[version, "whole"]
    assert good(loaded[version, name])
