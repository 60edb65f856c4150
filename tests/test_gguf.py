"""GGUF files read back with the package's own reader: every tensor, every key, and all that must not be written."""

import dataclasses
import json

import gguf
import ml_dtypes
import numpy as np
import pytest
import test_weights
from safetensors.numpy import load_file, save_file

from phi_jax.errors import UserError
from phi_jax.tokens import tokenizer
from phi_jax.weights.gguf import write_gguf

CONFIG = dataclasses.replace(test_weights.CONFIG, vocab_size=331, layer_norm_eps=2e-5, rope_theta=10000.0)
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.dense": "attn_output",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
MODULES = {
    **{f"model.layers.{n}.{theirs}": f"blk.{n}.{ours}" for n in range(2) for theirs, ours in LAYER_NAMES.items()},
    "model.final_layernorm": "output_norm",
    "lm_head": "output",
}
# Name in safetensors -> name in GGUF.
NAMES = {"model.embed_tokens.weight": "token_embd.weight"} | {
    f"{theirs}.{part}": f"{ours}.{part}" for theirs, ours in MODULES.items() for part in ("weight", "bias")
}
TEXT = "def f(x):\n    return [i * i for i in range(x)]\n\n\nclass A:\n\tdef g(self):\n\t\treturn 'é'\n"


@pytest.fixture(scope="module")
def trained():
    return tokenizer.train([TEXT * 20], 320)


@pytest.fixture
def export(tmp_path, trained):
    """Makes tmp_path/model, or another directory, in a dtype and shape."""
    trained.save(tmp_path / "tokenizer", max_length=CONFIG.max_seq_len)

    def make(name="model", dtype="float32", config=CONFIG):
        return test_weights.export(
            test_weights.random_params(config), tmp_path / name, config,
            tokenizer_directory=tmp_path / "tokenizer", end_of_text_id=trained.end_of_text_id, dtype=dtype,
        )  # fmt: skip

    return make


def read(path):
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    return keys, {tensor.name: tensor for tensor in reader.tensors}


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_tensors(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


# --- What is written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "kind", "numpy_type", "file_type"),
    [
        ("float32", "F32", np.float32, 0),
        ("float16", "F16", np.float16, 1),
        ("bfloat16", "BF16", ml_dtypes.bfloat16, 32),
    ],
)
def test_every_tensor_is_there_bit_for_bit(export, tmp_path, dtype, kind, numpy_type, file_type):
    directory = export(dtype=dtype)
    write_gguf(directory, tmp_path / "model.gguf")
    keys, tensors = read(tmp_path / "model.gguf")
    expected = load_file(directory / "model.safetensors")
    assert expected.keys() == NAMES.keys()
    assert tensors.keys() == set(NAMES.values())
    for theirs, ours in NAMES.items():
        value, tensor = expected[theirs], tensors[ours]
        assert value.dtype == numpy_type
        assert tensor.shape.tolist() == list(reversed(value.shape)), ours
        if value.ndim == 1:
            assert tensor.tensor_type.name == "F32", ours
            np.testing.assert_array_equal(tensor.data, value.astype(np.float32), err_msg=ours)
        else:
            assert tensor.tensor_type.name == kind, ours
            np.testing.assert_array_equal(tensor.data.view(numpy_type), value, err_msg=ours)
    assert keys["general.file_type"] == file_type


def test_the_keys_are_the_converters(export, tmp_path, trained):
    """The list is what llama.cpp's convert_hf_to_gguf.py wrote for such a directory."""
    write_gguf(export(), tmp_path / "model.gguf")
    keys, _ = read(tmp_path / "model.gguf")
    tokens = keys.pop("tokenizer.ggml.tokens")
    types = keys.pop("tokenizer.ggml.token_type")
    merges = keys.pop("tokenizer.ggml.merges")
    end = trained.end_of_text_id
    assert keys == {
        "general.architecture": "phi2", "general.type": "model", "general.name": "phi",
        "general.size_label": "25K", "general.file_type": 0, "general.quantization_version": 2,
        "phi2.context_length": 32, "phi2.embedding_length": 24, "phi2.feed_forward_length": 40,
        "phi2.block_count": 2, "phi2.attention.head_count": 3, "phi2.attention.head_count_kv": 3,
        "phi2.attention.layer_norm_epsilon": np.float32(2e-5), "phi2.rope.dimension_count": 4,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "phi-2",
        "tokenizer.ggml.bos_token_id": end, "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.unknown_token_id": end,
        "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": False,
    }  # fmt: skip
    state = json.loads((tmp_path / "tokenizer/tokenizer.json").read_text())
    assert merges == state["model"]["merges"]
    assert len(tokens) == len(types) == CONFIG.vocab_size > trained.vocab_size
    kinds = {"NORMAL": 1, "CONTROL": 3, "USER_DEFINED": 4, "UNUSED": 5}
    for text, number in state["model"]["vocab"].items():
        assert (tokens[number], types[number]) == (text, kinds["NORMAL"])
    assert (tokens[end], types[end]) == ("<|endoftext|>", kinds["CONTROL"])
    assert tokens[end + 1 : end + 39] == tokenizer.WHITESPACE_RUNS
    assert set(types[end + 1 : end + 39]) == {kinds["USER_DEFINED"]}
    assert tokens[end + 39 :] == [f"[PAD{n}]" for n in range(end + 39, CONFIG.vocab_size)]
    assert set(types[end + 39 :]) == {kinds["UNUSED"]}


def test_an_uncommon_rotary_base_is_written(export, tmp_path):
    write_gguf(export(config=dataclasses.replace(CONFIG, rope_theta=5000.0)), tmp_path / "model.gguf")
    assert read(tmp_path / "model.gguf")[0]["phi2.rope.freq_base"] == 5000.0


def test_the_model_card_gives_name_and_licence(export, tmp_path):
    directory = export()
    card = "---\nmodel_name: phi-1 replica\nlicense: mit\nlanguage: [en]\ntags: [code]\n---\n# phi-1\n"
    (directory / "README.md").write_text(card)
    write_gguf(directory, tmp_path / "model.gguf")
    keys, _ = read(tmp_path / "model.gguf")
    assert (keys["general.name"], keys["general.license"]) == ("phi-1 replica", "mit")
    assert (keys["general.languages"], keys["general.tags"]) == (["en"], ["code"])


def test_the_same_model_gives_the_same_bytes(export, tmp_path):
    directory = export()
    write_gguf(directory, tmp_path / "model.gguf")
    write_gguf(export("another"), tmp_path / "another.gguf")
    once = (tmp_path / "model.gguf").read_bytes()
    assert once == (tmp_path / "another.gguf").read_bytes()

    tensors = load_file(directory / "model.safetensors")
    files = {
        "model-00001-of-00002.safetensors": sorted(tensors)[:9],
        "model-00002-of-00002.safetensors": sorted(tensors)[9:],
    }
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, directory / file)
    (directory / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    write_gguf(directory, tmp_path / "sharded.gguf")
    assert once == (tmp_path / "sharded.gguf").read_bytes()


# --- What must not be written --------------------------------------------------------------------------------


def refused(directory, tmp_path):
    """The complaint, one line; nothing new is left."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        write_gguf(directory, tmp_path / "model.gguf")
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before
    return str(error.value)


def test_an_interrupted_write_leaves_nothing(export, tmp_path, monkeypatch):
    count, write = [], gguf.GGUFWriter.write_tensor_data

    def interrupted(self, tensor):
        count.append(tensor)
        if len(count) > 5:
            raise KeyboardInterrupt
        write(self, tensor)

    directory = export()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_gguf(directory, tmp_path / "model.gguf")
    assert sorted(tmp_path.rglob("*")) == before


def test_heads_that_do_not_fill_the_width_are_refused(export, tmp_path):
    directory = export(config=dataclasses.replace(CONFIG, head_dim=12))
    assert "3 heads of 12 do not fill the width of 24" in refused(directory, tmp_path)


def add(content, number=320, **options):
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return lambda t: t["added_tokens"].append(token | {"id": number, "content": content} | options)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.update(normalizer={"type": "NFC"}), "it normalizes (NFC)"),
        (lambda t: t["pre_tokenizer"].update(add_prefix_space=True), "it puts a space before each text"),
        (lambda t: t["pre_tokenizer"].update(use_regex=False), "it does not cut texts as GPT-2 does"),
        (lambda t: t["model"].update(ignore_merges=True), "its BPE has ignore_merges"),
        (lambda t: t["model"].update(dropout=0.1), "its BPE has dropout"),
        (
            lambda t: t.update(post_processor={"type": "BertProcessing", "sep": ["!", 0], "cls": ["!", 0]}),
            "its post-processor is BertProcessing",
        ),
        (add("<mask>", lstrip=True), "token '<mask>' is bound to words"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_not_follow_is_refused(export, tmp_path, change, complaint):
    directory = export()
    change_json(directory / "tokenizer.json", change)
    message = refused(directory, tmp_path)
    assert message.startswith(f"{directory}/tokenizer.json: ")
    assert complaint in message
