"""`phi-jax lint`: silent on a good directory; every defect planted in one is named, in one line, with its remedy."""

import contextlib
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from running import ROOT, phi_jax
from safetensors.numpy import load_file, save_file

from phi_jax.errors import UserError
from phi_jax.model import phi
from phi_jax.tokens import tokenizer
from phi_jax.weights.huggingface import export_model
from phi_jax.weights.lint import lint

SHAPE = phi.PhiConfig(
    vocab_size=352, hidden_size=32, intermediate_size=128, num_layers=2,
    num_heads=2, head_dim=16, rotary_dim=8, max_seq_len=64,
)  # fmt: skip
CODE = "def f(x):\n    return [i * i for i in range(x)]\n" * 20


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tokenizer, saved with all its files."""
    directory = tmp_path_factory.mktemp("tokenizer")
    learnt = tokenizer.train([CODE], 320)
    learnt.save(directory, max_length=SHAPE.max_seq_len)
    return directory, learnt.end_of_text_id


def export(trained, directory, shape=SHAPE, dtype="float32"):
    leaves, tree = jax.tree.flatten(phi.abstract_params(shape))
    rng = np.random.default_rng(0)
    params = tree.unflatten([rng.standard_normal(x.shape).astype(np.float32) for x in leaves])
    source, end = trained
    export_model(
        params, shape, directory,
        tokenizer_directory=source, end_of_text_id=end, dtype=dtype,
    )  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    return export(trained, tmp_path_factory.mktemp("export") / "model")


@pytest.fixture
def model(exported, tmp_path):
    """A good directory to plant a defect in."""
    return shutil.copytree(exported, tmp_path / "model")


@pytest.fixture
def sharded(model):
    """The same in two shards: lm_head and the embedding in the first."""
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    files = {FIRST: sorted(tensors)[:4], SECOND: sorted(tensors)[4:]}
    for file, names in files.items():
        save_file({name: tensors[name] for name in names}, model / file, metadata={"format": "pt"})
    write(
        model / INDEX,
        {
            "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
            "weight_map": {name: file for file, names in files.items() for name in names},
        },
    )
    return model


INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def read(path):
    return json.loads(path.read_text())


def write(path, content):
    path.write_text(json.dumps(content))


def change(path, *missing, **values):
    content = {**read(path), **values}
    write(path, {field: value for field, value in content.items() if field not in missing})


TORCH = {"format": "pt"}


def change_tensors(path, change, metadata=TORCH):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)


def only(directory):
    """The one finding of a directory, as (severity, rule, line)."""
    findings = lint(directory)
    assert len(findings) == 1, [str(finding) for finding in findings]
    line = str(findings[0])
    assert "\n" not in line
    assert line.startswith(f"{findings[0].severity} {findings[0].place}: ")
    assert line.endswith(f"; {findings[0].remedy}")
    return findings[0].severity, findings[0].rule, line


# --- Nothing to find -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_good_export_has_no_findings(trained, tmp_path, dtype):
    assert lint(export(trained, tmp_path / "model", dtype=dtype)) == []


def test_good_shards_have_no_findings(sharded):
    assert lint(sharded) == []


def test_awkward_but_good_shapes_have_no_findings(trained, tmp_path):
    """One head; all of it rotated; and 30 of 44, whose factor rounds badly."""
    for number, (heads, head_dim, rotary_dim) in enumerate([(1, 32, 32), (2, 44, 30)]):
        width = heads * head_dim
        shape = phi.PhiConfig(352, width, 4 * width, 1, heads, head_dim, rotary_dim, SHAPE.max_seq_len)
        assert lint(export(trained, tmp_path / str(number), shape)) == []


def test_what_others_write_too_is_no_finding(model):
    """added_tokens.json, no generation_config.json (transformers 4 and 5 take the ids of config.json), a model card."""
    state = read(model / "tokenizer.json")
    end = read(model / "config.json")["eos_token_id"]
    write(model / "added_tokens.json", {t["content"]: t["id"] for t in state["added_tokens"] if t["id"] != end})
    (model / "generation_config.json").unlink()
    (model / "README.md").write_text("# A model\n")
    change(model / "config.json", "head_dim", "rope_parameters", "dtype", transformers_version="4.37.0")
    assert lint(model) == []


PHI_1 = {  # microsoft/phi-1, config.json
    "_name_or_path": "microsoft/phi-1", "architectures": ["PhiForCausalLM"], "attention_dropout": 0.0,
    "bos_token_id": None, "embd_pdrop": 0.0, "eos_token_id": None, "hidden_act": "gelu_new", "hidden_size": 2048,
    "initializer_range": 0.02, "intermediate_size": 8192, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048,
    "model_type": "phi", "num_attention_heads": 32, "num_hidden_layers": 24, "num_key_value_heads": None,
    "partial_rotary_factor": 0.5, "qk_layernorm": False, "resid_pdrop": 0.0, "rope_scaling": None,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.37.0",
    "use_cache": True, "vocab_size": 51200,
}  # fmt: skip


def test_the_published_phi_1_has_its_two_warnings(trained, tmp_path):
    """Its config.json with smaller sizes, so that weights of them are small, in a directory that is good otherwise."""
    shape = phi.PhiConfig(352, 128, 512, 2, 32, 4, 2, SHAPE.max_seq_len)
    sizes = {
        "vocab_size": 352, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2,
        "max_position_embeddings": SHAPE.max_seq_len,
    }  # fmt: skip
    directory = export(trained, tmp_path / "phi-1", shape, dtype="float16")
    write(directory / "config.json", PHI_1 | sizes)
    write(directory / "generation_config.json", {"_from_model_config": True, "transformers_version": "4.37.0"})
    assert [(finding.severity, finding.rule) for finding in lint(directory)] == [
        ("warning", "kv-heads"),
        ("warning", "end-token"),
    ]


# --- Each rule -----------------------------------------------------------------------------------------------

ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    ("missing", "values", "severity", "rule", "told"),
    [
        ((), {"num_key_value_heads": None}, "warning", "kv-heads", "TGI before 2.1 divides by null"),
        (("num_key_value_heads",), {}, "warning", "kv-heads", "MLX takes 32 for what is missing; set it to num_att"),
        (("partial_rotary_factor",), {}, "warning", "rotary-nested", "partial_rotary_factor is not at the top level"),
        (("rope_theta",), {"rope_parameters": {**ROPE, "rope_theta": 9.0}}, "warning", "constant", "rope_theta is not"),
        ((), {"partial_rotary_factor": 0.25}, "error", "rotary-contradictory", "another under rope_parameters"),
        ((), {"rope_theta": 10001.0}, "error", "rotary-contradictory", "rope_theta"),
        (("rope_parameters",), {"rope_theta": 5000.0}, "warning", "constant", "rope_theta is not phi-1's"),
        ((), {"rope_scaling": {"type": "linear", "factor": 2.0}}, "warning", "constant", "rope_scaling"),
        ((), {"rope_parameters": {**ROPE, "rope_type": "yarn"}}, "warning", "constant", "rope_scaling"),
        ((), {"hidden_act": "gelu"}, "warning", "constant", "hidden_act"),
        ((), {"qk_layernorm": True, "tie_word_embeddings": True}, "warning", "constant", "qk_layernorm, tie_word_emb"),
        ((), {"eos_token_id": 5}, "warning", "end-token", "eos_token_id is 5, the tokenizer's '<|endoftext|>' is"),
        ((), {"vocab_size": 351}, "error", "tensor-shape", "model.embed_tokens.weight is [352, 32], not [351, 32]"),
        ((), {"vocab_size": "many"}, "error", "size", "vocab_size is 'many'"),
        ((), {"num_attention_heads": 0}, "error", "size", "num_attention_heads is 0"),
        (("intermediate_size",), {}, "error", "size", "intermediate_size is None"),
        ((), {"num_hidden_layers": 3}, "error", "tensor-missing", "layers.2.input_layernorm.weight and 13 more"),
        ((), {"num_hidden_layers": 1}, "warning", "tensor-unknown", "drops it, silently, MLX and vLLM fail"),
        ((), {"torch_dtype": "float16"}, "warning", "dtype", "is float16 and float32, the tensors float32"),
        (("dtype",), {"torch_dtype": "float16"}, "warning", "dtype", "is float16, the tensors float32"),
    ],
)  # fmt: skip
def test_every_defect_of_the_config_is_named(model, missing, values, severity, rule, told):
    change(model / "config.json", *missing, **values)
    found = only(model)
    assert found[:2] == (severity, rule)
    assert told in found[2]


@pytest.mark.parametrize("values", [{"intermediate_size": 100}, {"num_key_value_heads": 1}, {"head_dim": 8}])
def test_sizes_that_phi_1_does_not_have_fit_no_tensor_either(model, values):
    change(model / "config.json", **values)
    assert {finding.rule for finding in lint(model)} == {"constant", "tensor-shape"}


def test_ids_are_looked_for_in_both_files(model):
    change(model / "config.json", "bos_token_id", eos_token_id=None)
    assert lint(model) == []  # generation_config.json has them
    change(model / "generation_config.json", eos_token_id=[5, read(model / "generation_config.json")["eos_token_id"]])
    assert lint(model) == []  # several ends
    change(model / "generation_config.json", eos_token_id=[5, 6])
    assert "eos_token_id is [5, 6], the tokenizer's" in only(model)[2]
    (model / "generation_config.json").unlink()
    assert "eos_token_id is null or missing, the tokenizer's" in only(model)[2]


@pytest.mark.parametrize(
    ("planted", "severity", "rule", "told"),
    [
        (lambda t: t.pop("lm_head.bias"), "error", "tensor-missing", "lm_head.bias is missing"),
        (lambda t: t.update({"lm_head.bias": np.ones(3, np.float32)}), "error", "tensor-shape", "[3], not [352]"),
        (lambda t: t.update(surplus=np.ones(3, np.float32)), "warning", "tensor-unknown", "surplus"),
        (lambda t: t["lm_head.weight"].put(7, np.nan), "error", "not-finite", "lm_head.weight"),
        (lambda t: t["lm_head.weight"].put(-1, -np.inf), "error", "not-finite", "lm_head.weight"),
        (
            lambda t: t.update({"lm_head.bias": t["lm_head.bias"].astype(np.float16)}),
            "warning", "dtype", "is float32, the tensors float16 and float32",
        ),
    ],
)  # fmt: skip
def test_every_defect_of_the_tensors_is_named(model, planted, severity, rule, told):
    change_tensors(model / "model.safetensors", planted)
    found = only(model)
    assert found[:2] == (severity, rule)
    assert told in found[2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_narrow_tensors_are_searched_too(trained, tmp_path, value):
    for dtype in ("bfloat16", "float16"):
        directory = export(trained, tmp_path / dtype, dtype=dtype)
        change_tensors(directory / "model.safetensors", lambda t: t["model.final_layernorm.bias"].put(31, value))
        assert only(directory)[:2] == ("error", "not-finite")


def test_numbers_at_the_edge_are_good(model):
    extremes = np.array([3e38, np.finfo(np.float32).tiny, -0.0, 1e-45], np.float32)
    change_tensors(model / "model.safetensors", lambda t: t["lm_head.bias"].put(range(4), extremes))
    assert lint(model) == []


def test_damaged_and_missing_weights_are_named(model):
    path = model / "model.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-100], whole[:50], b"", b"\xff" * 100, whole + b"more"):
        path.write_bytes(content)
        assert only(model)[:2] == ("error", "damaged")
    path.unlink()
    assert only(model)[:2] == ("error", "missing")


@pytest.mark.parametrize(
    ("planted", "rule", "told"),
    [
        (lambda i: i["weight_map"].pop("lm_head.bias"), "index", "lm_head.bias is not in the shard"),
        (lambda i: i["weight_map"].update({"lm_head.bias": SECOND}), "index", "lm_head.bias is not"),
        (lambda i: i["weight_map"].update(ghost=SECOND), "index", "ghost is not in the shard that it names"),
        (lambda i: i["weight_map"].update(ghost="no.safetensors"), "damaged", "no.safetensors"),
    ],
)
def test_every_defect_of_the_index_is_named(sharded, planted, rule, told):
    index = read(sharded / INDEX)
    planted(index)
    write(sharded / INDEX, index)
    found = only(sharded)
    assert found[:2] == ("error", rule)
    assert told in found[2]


def test_shards_without_an_index_are_no_model(sharded):
    (sharded / INDEX).unlink()
    assert "neither this nor an index of shards is here" in only(sharded)[2]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"eos_token": "<eos>"}, "the tokenizer's '<eos>' is None"),
        ({"eos_token": {"content": "def"}}, "the tokenizer's 'def' is"),
    ],
)
def test_another_end_in_tokenizer_config_is_named(model, values, told):
    change(model / "tokenizer_config.json", **values)
    found = only(model)
    assert found[:2] == ("warning", "end-token")
    assert told in found[2]


def test_every_defect_of_the_tokenizer_is_named(model, trained, tmp_path):
    shape = phi.PhiConfig(315, 32, 128, 1, 2, 16, 8, SHAPE.max_seq_len)
    assert only(export(trained, tmp_path / "small", shape))[:2] == ("error", "tokenizer-size")
    exact = phi.PhiConfig(316, 32, 128, 1, 2, 16, 8, SHAPE.max_seq_len)
    assert lint(export(trained, tmp_path / "exact", exact)) == []
    change(model / "tokenizer.json", "model")
    assert "not a tokenizer" in only(model)[2]
    (model / "tokenizer.json").unlink()
    assert only(model)[:2] == ("error", "missing")


# --- Any directory, and the command --------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer.json", INDEX])
def test_damaged_json_is_named(model, file):
    for text in ("{", "[]", "\udcff", ""):
        (model / file).write_text(text, errors="surrogateescape")
        damaged = [(finding.severity, finding.place) for finding in lint(model) if finding.rule == "damaged"]
        assert damaged == [("error", file)]


JUNK = [None, True, 10**30, "x", [1], {"1": {}}]


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("config.json", 40),
        ("generation_config.json", 9),
        ("tokenizer.json", 9),
        ("tokenizer_config.json", 9),
        (INDEX, 9),
    ],
)
def test_no_content_ends_in_a_traceback(sharded, file, fields):
    """Every field of a file, and of the objects in it, replaced by everything it should not be."""
    original = read(sharded / file)
    places = [(original, field) for field in original][:fields]
    for value in original.values():
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict):
            places += [(inner, field) for field in inner][:fields]
    for owner, field in places:
        kept = owner[field]
        for junk in JUNK:
            owner[field] = junk
            write(sharded / file, original)
            with contextlib.suppress(UserError):  # a model_type of another architecture
                assert not [finding for finding in lint(sharded) if "\n" in str(finding)]
        owner[field] = kept


def test_what_cannot_be_checked_is_a_users_mistake(model, tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        lint(tmp_path / "nowhere")
    change(model / "config.json", model_type="llama")
    with pytest.raises(UserError, match="model_type is 'llama'; only 'phi' can be checked"):
        lint(model)
    (model / "config.json").write_text("{}")
    with pytest.raises(UserError, match="model_type is None"):
        lint(model)
    (model / "config.json").unlink()
    assert only(model)[:2] == ("error", "missing")


def test_the_command(model):
    change(model / "config.json", num_key_value_heads=None)
    done = phi_jax("lint", model, check=False)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == f"{model}: errors: 0, warnings: 1"
    (model / "model.safetensors").unlink()
    done = phi_jax("lint", model, check=False)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["error", "warning"]
    assert lines[-1] == f"{model}: errors: 1, warnings: 1"


def test_lint_needs_no_framework(trained, tmp_path):
    """Nor a framework's bfloat16."""
    code = (
        "import sys, phi_jax.weights.lint as l; print(l.lint(sys.argv[1]))\n"
        "print([m for m in ('jax', 'torch', 'transformers', 'flax') if m in sys.modules])"
    )
    directory = export(trained, tmp_path / "m", dtype="bfloat16")
    done = subprocess.run([sys.executable, "-c", code, directory], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n[]\n"
