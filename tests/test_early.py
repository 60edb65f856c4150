"""Microsoft's first releases: other names, q, k and v in one matrix, and in a mixformer the embedding is layer 0."""

import json

import numpy as np
import pytest
from published import PHI, phi_shapes, publish, random_tensors
from safetensors.numpy import load_file

from phi_jax.errors import UserError
from phi_jax.weights.export import export_checkpoint
from phi_jax.weights.huggingface import load_directory
from phi_jax.weights.importing import import_directory

EARLY = {
    "vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4, "n_inner": None,
    "n_head_kv": None, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "resid_pdrop": 0.0,
    "embd_pdrop": 0.0, "attn_pdrop": 0.0, "tie_word_embeddings": False, "torch_dtype": "float16",
}  # fmt: skip
# Embedding, block of layer 0, block of layer 1, head.
PREFIXES = {
    "phi-msft": ("transformer.embd", "transformer.h.0", "transformer.h.1", "lm_head"),
    "mixformer-sequential": ("layers.0", "layers.1", "layers.2", "layers.3"),
}


def renamed(tensors, kind):
    """A Phi's tensors as a first release has them, by transformers' conversion script read backwards."""
    embedding, *blocks, head = PREFIXES[kind]
    found = {f"{embedding}.wte.weight": tensors["model.embed_tokens.weight"]}
    for layer, block in enumerate(blocks):
        old = f"model.layers.{layer}"
        for end in ("weight", "bias"):
            found[f"{block}.ln.{end}"] = tensors[f"{old}.input_layernorm.{end}"]
            found[f"{block}.mixer.out_proj.{end}"] = tensors[f"{old}.self_attn.dense.{end}"]
            found[f"{block}.mlp.fc1.{end}"] = tensors[f"{old}.mlp.fc1.{end}"]
            found[f"{block}.mlp.fc2.{end}"] = tensors[f"{old}.mlp.fc2.{end}"]
            found[f"{block}.mixer.Wqkv.{end}"] = np.concatenate(
                [tensors[f"{old}.self_attn.{part}_proj.{end}"] for part in "qkv"]
            )
        found[f"{block}.mixer.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    for end in ("weight", "bias"):
        found[f"{head}.ln.{end}"] = tensors[f"model.final_layernorm.{end}"]
        found[f"{head}.linear.{end}"] = tensors[f"lm_head.{end}"]
    return found


@pytest.mark.parametrize("kind", PREFIXES)
def test_a_first_release_becomes_todays(tmp_path, kind):
    tensors = random_tensors(phi_shapes(PHI))
    directory = publish(tmp_path / "early", {**EARLY, "model_type": kind}, renamed(tensors, kind))
    _, config = load_directory(directory)
    assert config == load_directory(publish(tmp_path / "today", PHI, tensors))[1]
    import_directory(str(directory), str(tmp_path / "imported"))
    export_checkpoint(
        str(tmp_path / "imported"), str(tmp_path / "again"),
        dtype="float16", architecture=None, licence="mit", gguf=False,
    )  # fmt: skip
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


def test_wrong_ones_are_refused(tmp_path):
    tensors = renamed(random_tensors(phi_shapes(PHI)), "phi-msft")
    for number, (changes, complaint) in enumerate(
        (
            ({"n_head_kv": 2}, "n_head_kv is 2"),
            ({"model_type": "mixformer-sequential"}, r"tensor layers\.0\.wte\.weight is missing"),
            ({"n_layer": 1}, r"tensor transformer\.h\.1\.\S+ belongs to no phi-msft model"),
        )
    ):
        directory = publish(tmp_path / str(number), {**EARLY, "model_type": "phi-msft", **changes}, tensors)
        with pytest.raises(UserError, match=complaint):
            load_directory(directory)
    (directory / "config.json").write_text(json.dumps({**EARLY, "model_type": ["phi"]}))
    with pytest.raises(UserError, match="model_type is"):
        load_directory(directory)
