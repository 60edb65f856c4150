"""`phi-jax lint`: silent on a good directory; every defect planted in one is named, in one line, with its remedy."""

import contextlib
import json
import shutil

import jax
import numpy as np
import pytest
from running import phi_jax
from safetensors.numpy import load_file, save_file

from phi_jax.errors import UserError
from phi_jax.model import phi
from phi_jax.tokens import tokenizer
from phi_jax.weights import activations
from phi_jax.weights.huggingface import export_model
from phi_jax.weights.lint import lint
from phi_jax.weights.models import load_model

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


def read(path):
    return json.loads(path.read_text())


def write(path, content):
    path.write_text(json.dumps(content))


def change(path, *missing, **values):
    content = {**read(path), **values}
    write(path, {field: value for field, value in content.items() if field not in missing})


def only(directory):
    """The one finding of a directory, as (severity, rule, line)."""
    findings = lint(directory)
    assert len(findings) == 1, [str(finding) for finding in findings]
    assert "\n" not in str(findings[0])
    return findings[0].severity, findings[0].rule, str(findings[0])


# --- Nothing to find -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_good_export_has_no_findings(trained, tmp_path, dtype):
    assert lint(export(trained, tmp_path / "model", dtype=dtype)) == []


def test_awkward_but_good_shapes_have_no_findings(trained, tmp_path):
    """One head; all of it rotated; and 30 of 44, whose factor rounds badly."""
    for number, (heads, head_dim, rotary_dim) in enumerate([(1, 32, 32), (2, 44, 30)]):
        width = heads * head_dim
        shape = phi.PhiConfig(352, width, 4 * width, 1, heads, head_dim, rotary_dim, SHAPE.max_seq_len)
        assert lint(export(trained, tmp_path / str(number), shape)) == []


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
    ("missing", "values", "rule", "told"),
    [
        ((), {"num_key_value_heads": None}, "kv-heads", "TGI before 2.1 divides by null"),
        (("num_key_value_heads",), {}, "kv-heads", "MLX takes 32 for what is missing; set it to num_att"),
        (("partial_rotary_factor",), {}, "rotary-nested", "partial_rotary_factor is not at the top level"),
        (("rope_theta",), {"rope_parameters": {**ROPE, "rope_theta": 9.0}}, "constant", "rope_theta is not phi-1's"),
        ((), {"eos_token_id": 5}, "end-token", "eos_token_id is 5, the tokenizer's '<|endoftext|>' is"),
        ((), {"torch_dtype": "float16"}, "dtype", "is float16 and float32, the tensors float32"),
        (("dtype",), {"torch_dtype": "float16"}, "dtype", "is float16, the tensors float32"),
    ],
)  # fmt: skip
def test_every_rule_names_its_defect(model, missing, values, rule, told):
    change(model / "config.json", *missing, **values)
    found = only(model)
    assert found[:2] == ("warning", rule)
    assert told in found[2]


def test_sizes_that_clients_have_as_constants_are_named(trained, tmp_path):
    for number, (inner, head_dim) in enumerate([(100, 16), (128, 12)]):
        shape = phi.PhiConfig(352, 32, inner, 1, 2, head_dim, 8, SHAPE.max_seq_len)
        field = "intermediate_size" if inner == 100 else "head_dim"
        assert f"{field} is not phi-1's" in only(export(trained, tmp_path / str(number), shape))[2]


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


# --- Activations that float16 cannot hold; transformers agrees: tests/peers/test_transformers.py -------------------


def layers(name, value):
    return {f"model.layers.{n}.{name}": value for n in range(SHAPE.num_layers)}


@pytest.mark.parametrize(
    ("constants", "told"),
    [
        (layers("self_attn.q_proj.bias", 420) | layers("self_attn.k_proj.bias", 420), "queries times keys 2.8e+06,"),
        (layers("mlp.fc1.bias", -7e4), "MLP's inside 7e+04,"),
        (layers("mlp.fc2.bias", 3.5e4), "residual 7e+04,"),
        (layers("self_attn.dense.bias", 3.5e4) | layers("mlp.fc2.bias", 3.5e4), "attention and MLP 7e+04,"),
        ({"model.final_layernorm.bias": 7e4, "lm_head.weight": 0.1}, "norm 7e+04,"),
        ({"lm_head.bias": 7e4}, "logits 7e+04,"),
        (layers("input_layernorm.weight", 1e38), "queries inf,"),
    ],
)
def test_what_overflows_float16_is_named(model, constants, told):
    def plant(tensors):
        for name, value in constants.items():
            tensors[name][...] = value

    change_tensors(model / "model.safetensors", plant)
    found = only(model)
    assert found[:2] == ("warning", "float16")
    assert told in found[2] + ","


def test_the_pass_is_the_models_own(exported):
    """Its logits are those of phi.forward, for the same texts."""
    peaks = activations.activation_peaks(exported)
    params, config, own = load_model(exported)
    rows = [row[: activations._POSITIONS] for row in own.encode_batch(activations._TEXTS)]
    logits = [np.abs(phi.forward(params, np.array([row]), config)).max() for row in rows]
    assert all(len(row) == activations._POSITIONS for row in rows)
    assert peaks["logits"] == pytest.approx(max(logits), rel=1e-5)
    assert list(peaks.values()) == sorted(peaks.values(), reverse=True)
    assert activations.float16_overflow(peaks) == ""


# --- What cannot be loaded -----------------------------------------------------------------------------------


def change_tensors(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (lambda d: change(d / "config.json", partial_rotary_factor=0.25), "is [0.25, 0.5] in two places"),
        (lambda d: change(d / "config.json", rope_parameters=3), "config.json: a field has a value of no use"),
        (lambda d: change_tensors(d / "model.safetensors", lambda t: t.pop("lm_head.bias")), "lm_head.bias is missing"),
        (
            lambda d: change_tensors(d / "model.safetensors", lambda t: t["lm_head.bias"].put(7, np.nan)),
            "lm_head.bias holds values that are not finite",
        ),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors: missing"),
        (lambda d: (d / "tokenizer.json").write_text("{"), ": not a tokenizer"),
        (lambda d: (d / "generation_config.json").write_text("{"), "generation_config.json: cannot be read"),
    ],
)
def test_what_cannot_be_loaded_is_one_error(model, plant, told):
    plant(model)
    found = only(model)
    assert found[:2] == ("error", "load")
    assert told in found[2]


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_junk_is_no_traceback(model, file):
    """Every field of a file replaced by what it should not be."""
    original = read(model / file)
    for field in original:
        for junk in (None, True, "x", [1], {"1": {}}):
            write(model / file, {**original, field: junk})
            with contextlib.suppress(UserError):  # a model_type of another architecture
                assert not [finding for finding in lint(model) if "\n" in str(finding)]


def test_what_cannot_be_checked_is_a_users_mistake(model, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        lint(tmp_path / "nowhere")
    change(model / "config.json", model_type="llama")
    with pytest.raises(UserError, match="model_type is 'llama'; only 'phi' can be checked"):
        lint(model)


def test_the_command(model):
    (model / "model.safetensors").unlink()
    done = phi_jax("lint", model, check=False)
    assert done.returncode == 1
    line, count = done.stdout.splitlines()
    assert line.startswith(f"error load: {model / 'model.safetensors'}: missing; ")
    assert count == f"{model}: errors: 1, warnings: 0"
