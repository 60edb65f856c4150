"""Hugging Face directories, written and read: every number, every name, and every way to be given the wrong thing."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from phi_jax.errors import UserError
from phi_jax.model import phi
from phi_jax.weights.architectures.phi_names import PHI
from phi_jax.weights.huggingface import export_model, load_directory

CONFIG = phi.PhiConfig(
    vocab_size=53,
    hidden_size=24,
    intermediate_size=40,
    num_layers=2,
    num_heads=3,
    head_dim=8,
    rotary_dim=4,
    max_seq_len=32,
    attention_dropout=0.1,
    residual_dropout=0.2,
    rope_theta=5000.0,
)
END = 52
LAYER_TENSORS = {
    **{f"self_attn.{n}_proj.weight": (24, 24) for n in "qkv"},
    **{f"self_attn.{n}_proj.bias": (24,) for n in "qkv"},
    "self_attn.dense.weight": (24, 24),
    "self_attn.dense.bias": (24,),
    "mlp.fc1.weight": (40, 24),
    "mlp.fc1.bias": (40,),
    "mlp.fc2.weight": (24, 40),
    "mlp.fc2.bias": (24,),
    "input_layernorm.weight": (24,),
    "input_layernorm.bias": (24,),
}
TENSORS = {
    "model.embed_tokens.weight": (53, 24),
    "model.final_layernorm.weight": (24,),
    "model.final_layernorm.bias": (24,),
    "lm_head.weight": (53, 24),
    "lm_head.bias": (53,),
    **{f"model.layers.{n}.{name}": shape for n in range(2) for name, shape in LAYER_TENSORS.items()},
}


def random_params(config=CONFIG, seed=0):
    leaves, tree = jax.tree.flatten(phi.abstract_params(config))
    rng = np.random.default_rng(seed)
    return tree.unflatten([rng.standard_normal(x.shape).astype(np.float32) for x in leaves])


def export(params, directory, config=CONFIG, **options):
    export_model(params, config, directory, **{"tokenizer_directory": None, "end_of_text_id": END, **options})
    return directory


@pytest.fixture
def exported(tmp_path):
    return export(random_params(), tmp_path / "model")


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype == np.float32
        np.testing.assert_array_equal(x, y)


# --- What is written -----------------------------------------------------------------------------------------


def test_what_is_exported_is_loaded_bit_for_bit(tmp_path):
    params = random_params()
    params["embed"]["tokens"][0, :3] = [-0.0, np.float32(1e-45), np.finfo(np.float32).max]
    loaded, config = load_directory(export(params, tmp_path / "model"))
    assert config == CONFIG
    assert_same(loaded, params)
    assert np.signbit(loaded["embed"]["tokens"][0, 0])


def test_device_arrays_are_exported_as_well(tmp_path):
    params = random_params()
    loaded, _ = load_directory(export(jax.device_put(params), tmp_path / "model"))
    assert_same(loaded, params)


@pytest.mark.parametrize(("dtype", "kind"), [("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)])
def test_narrow_dtypes_are_rounded_once(tmp_path, dtype, kind):
    params = random_params()
    directory = export(params, tmp_path / "model", dtype=dtype)
    loaded, _ = load_directory(directory)
    assert_same(loaded, jax.tree.map(lambda x: x.astype(kind).astype(np.float32), params))
    config = json.loads((directory / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == dtype


def test_names_shapes_and_metadata_are_transformers(exported):
    with safe_open(exported / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        assert {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} == TENSORS  # noqa: SIM118
        assert {file.get_slice(name).get_dtype() for name in TENSORS} == {"F32"}


def test_matrices_are_transposed_with_heads_outermost(exported):
    """Spelt out element by element; the shapes alone would allow a mistake, q being square."""
    params, tensors = random_params(), load_file(exported / "model.safetensors")
    layers = params["layers"]
    d, h, k, f = 5, 2, 3, 31
    for name in "qkv":
        mine = layers["attention"][name]
        assert tensors[f"model.layers.1.self_attn.{name}_proj.weight"][h * 8 + k, d] == mine["kernel"][1, d, h, k]
        assert tensors[f"model.layers.1.self_attn.{name}_proj.bias"][h * 8 + k] == mine["bias"][1, h, k]
    out = layers["attention"]["out"]["kernel"]
    assert tensors["model.layers.0.self_attn.dense.weight"][d, h * 8 + k] == out[0, h, k, d]
    assert tensors["model.layers.0.mlp.fc1.weight"][f, d] == layers["mlp"]["fc1"]["kernel"][0, d, f]
    assert tensors["model.layers.0.mlp.fc2.weight"][d, f] == layers["mlp"]["fc2"]["kernel"][0, f, d]
    assert tensors["model.embed_tokens.weight"][40, d] == params["embed"]["tokens"][40, d]
    assert tensors["lm_head.weight"][40, d] == params["head"]["kernel"][d, 40]


def test_config_is_written_in_both_styles(exported):
    config = json.loads((exported / "config.json").read_text())
    expected = {
        "architectures": ["PhiForCausalLM"], "model_type": "phi", "hidden_act": "gelu_pytorch_tanh",
        "vocab_size": 53, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 3, "num_key_value_heads": 3, "max_position_embeddings": 32,
        "layer_norm_eps": 1e-5, "attention_dropout": 0.1, "resid_pdrop": 0.2, "embd_pdrop": 0.0,
        "qk_layernorm": False, "tie_word_embeddings": False, "bos_token_id": END, "eos_token_id": END,
        "partial_rotary_factor": 0.5, "rope_theta": 5000.0, "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5},
        "torch_dtype": "float32", "dtype": "float32",
    }  # fmt: skip
    assert {field: config[field] for field in expected} == expected
    generation = json.loads((exported / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (END, END)


def test_every_rotary_dim_survives_the_factor():
    """Readers compute int(head_dim * factor), which for 30 / 44 and 234 others up to 256 is one too few."""
    for head_dim in range(2, 257, 2):
        for rotary_dim in range(2, head_dim + 1, 2):
            config = phi.PhiConfig(8, head_dim, 8, 1, 1, head_dim, rotary_dim, 8)
            factor = PHI.write_config(config)["partial_rotary_factor"]
            assert int(head_dim * factor) == rotary_dim


def test_tokenizer_files_come_along_and_nothing_else(tmp_path):
    source = tmp_path / "tokenizer"
    (source / "cache").mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "config.json", "notes.txt"):
        (source / name).write_text(name)
    directory = export(random_params(), tmp_path / "model", tokenizer_directory=source)
    assert sorted(p.name for p in directory.iterdir()) == [
        "config.json", "generation_config.json", "merges.txt", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "vocab.json",
    ]  # fmt: skip
    assert (directory / "merges.txt").read_text() == "merges.txt"
    load_directory(directory)


# --- Exports that must not happen ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "dtype", "complaint"),
    [
        (np.nan, "float32", r"tensor model\.layers\.1\.mlp\.fc1\.weight holds values that are not finite in float32"),
        (np.inf, "bfloat16", r"tensor model\.layers\.1\.mlp\.fc1\.weight holds values that are not finite"),
        (
            1e6,
            "float16",
            r"tensor model\.layers\.1\.mlp\.fc1\.weight holds values that are not finite in float16: export",
        ),
    ],
)
def test_what_cannot_be_exported(tmp_path, value, dtype, complaint):
    params = random_params()
    params["layers"]["mlp"]["fc1"]["kernel"][1, 2, 3] = value
    with pytest.raises(UserError, match=complaint):
        export(params, tmp_path / "model", dtype=dtype)


# --- What is read --------------------------------------------------------------------------------------------


def change_config(directory, **changes):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    for field, value in changes.items():
        if value is None:
            config.pop(field)
        else:
            config[field] = value
    path.write_text(json.dumps(config))


def change_tensors(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def refused(directory):
    with pytest.raises(UserError) as error:
        load_directory(directory)
    assert "\n" not in str(error.value)
    assert str(directory) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("style", [4, 5])
def test_the_config_of_either_transformers_is_read(exported, style):
    if style == 4:
        change_config(exported, rope_parameters=None, dtype=None, head_dim=None)
    else:
        change_config(exported, rope_theta=None, partial_rotary_factor=None, rope_scaling=None, torch_dtype=None)
    assert load_directory(exported)[1] == CONFIG


def test_shards_are_read(exported):
    tensors = load_file(exported / "model.safetensors")
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, part in files.items():
        save_file({n: tensors[n] for n in part}, exported / file)
    (exported / "model.safetensors").unlink()
    index = {"weight_map": {n: file for file, part in files.items() for n in part}}
    (exported / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same(load_directory(exported)[0], random_params())
    (exported / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors: missing" in refused(exported)


def test_rotary_constants_of_old_checkpoints_are_passed_over(exported):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(exported, lambda t: t.update({name: np.ones(2, np.float32)}))
    assert_same(load_directory(exported)[0], random_params())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"qk_layernorm": True}, "qk_layernorm is True"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True"),
        ({"num_key_value_heads": 1}, "num_key_value_heads is 1"),
        ({"embd_pdrop": 0.1}, "embd_pdrop is 0.1"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
        ({"partial_rotary_factor": 0.25}, r"partial_rotary_factor is [0.25, 0.5] in two places"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"attention_dropout": 1.5}, "attention_dropout=1.5"),
        ({"num_hidden_layers": 3}, "tensor model.layers.2."),
        ({"num_hidden_layers": 1}, "tensor 'model.layers.1."),
        (
            {"vocab_size": 54},
            "embed_tokens.weight has shape (53, 24) in F32, config.json says (54, 24)",
        ),
    ],
)
def test_another_model_is_refused(exported, changes, complaint):
    change_config(exported, **changes)
    assert complaint in refused(exported)


@pytest.mark.parametrize(
    ("other", "ours"),
    [
        ("rotary_dim", "partial_rotary_factor"),
        ("rotary_pct", "partial_rotary_factor"),
        ("rotary_emb_base", "rope_theta"),
    ],
)
def test_a_rotation_by_another_familys_name_is_refused(exported, other, ours):
    """transformers would pass it over, and take its default."""
    change_config(exported, **{other: 4, "rope_parameters": None})
    load_directory(exported)
    change_config(exported, **{ours: None})
    assert f"has {other}, which no reader of phi knows, and no {ours}" in refused(exported)


@pytest.mark.parametrize("name", sorted(TENSORS))
def test_every_missing_tensor_is_named(exported, name):
    change_tensors(exported, lambda t: t.pop(name))
    assert f"tensor {name} is missing" in refused(exported)


@pytest.mark.parametrize("name", sorted(TENSORS))
def test_every_misshapen_tensor_is_named(exported, name):
    change_tensors(exported, lambda t: t.update({name: np.zeros((*t[name].shape, 1), np.float32)}))
    assert f"tensor {name} has shape" in refused(exported)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("lm_head.lora_A.weight", np.zeros(3, np.float32), "tensor 'lm_head.lora_A.weight' belongs to no phi model"),
        ("lm_head.bias", np.zeros(53, np.int8), "tensor lm_head.bias has shape (53,) in I8"),
        ("lm_head.bias", np.zeros(53, np.float64), "tensor lm_head.bias has shape (53,) in F64"),
        ("lm_head.bias", np.full(53, np.nan, np.float32), "tensor lm_head.bias holds values that are not finite"),
        ("lm_head.weight", np.zeros((24, 53), np.float32), "tensor lm_head.weight has shape (24, 53)"),
    ],
)
def test_a_wrong_tensor_is_named(exported, name, value, complaint):
    change_tensors(exported, lambda t: t.update({name: value}))
    assert complaint in refused(exported)


def test_damaged_files_are_named(exported):
    weights = exported / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"{weights}: cannot be read" in refused(exported)
    weights.unlink()
    assert f"{weights}: missing" in refused(exported)
    for text, complaint in (("{", "cannot be read (Expecting"), ("[]", "cannot be read (not a JSON object)")):
        (exported / "config.json").write_text(text)
        assert f"config.json: {complaint}" in refused(exported)
    (exported / "config.json").unlink()
    assert "config.json: no such file" in refused(exported)
