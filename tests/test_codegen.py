"""CodeGen's files: the fused, interleaved q, k and v spelt out element by element, and both ways bit for bit."""

import json

import ml_dtypes
import numpy as np
import pytest
from published import CODEGEN, codegen_shapes, publish, random_tensors
from safetensors.numpy import load_file, save_file

from phi_jax.errors import UserError
from phi_jax.weights.architectures.codegen_names import CODEGEN as ARCHITECTURE
from phi_jax.weights.huggingface import export_model, load_directory


@pytest.fixture
def published(tmp_path):
    return publish(tmp_path / "codegen", CODEGEN, random_tensors(codegen_shapes(CODEGEN)))


def export(params, config, directory, **options):
    export_model(
        params, config, directory,
        tokenizer_directory=None, end_of_text_id=3, architecture=ARCHITECTURE, **options,
    )  # fmt: skip
    return directory


def test_the_shape_is_read(published):
    _, config = load_directory(published)
    assert (config.vocab_size, config.hidden_size, config.intermediate_size, config.num_layers) == (320, 32, 128, 2)
    assert (config.num_heads, config.head_dim, config.rotary_dim, config.max_seq_len) == (4, 8, 4, 64)
    assert config.rope_theta == 10000.0


def test_heads_and_rotary_dims_stand_where_the_reference_has_them(published):
    """Parts of a fourth of the heads, in each q, v, k; a head's turning dims 0 1 2 3 stand as 0 2 1 3 with us."""
    tensors = load_file(published / "model.safetensors")
    params, _ = load_directory(published)
    fused = tensors["transformer.h.1.attn.qkv_proj.weight"].astype(np.float32)  # [3 * 32, 32]
    theirs = [0, 2, 1, 3, 4, 5, 6, 7]  # of rotary_dim 4 in a head of 8
    for place, name in enumerate("qvk"):
        mine = params["layers"]["attention"][name]["kernel"][1]  # [D, H, K]
        for head in range(4):
            for k in range(8):
                row = 24 * head + 8 * place + (k if name == "v" else theirs[k])
                np.testing.assert_array_equal(mine[:, head, k], fused[row], err_msg=f"{name} {head} {k}")
    for name in ("q", "k", "v", "out"):
        assert not params["layers"]["attention"][name]["bias"].any()
    out = params["layers"]["attention"]["out"]["kernel"][0]
    assert out[2, 5, 7] == tensors["transformer.h.0.attn.out_proj.weight"][7, 2 * 8 + 5]
    assert params["head"]["kernel"][7, 40] == tensors["lm_head.weight"][40, 7]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_what_was_published_is_written_again_bit_for_bit(tmp_path, dtype):
    tensors = random_tensors(codegen_shapes(CODEGEN), dtype=dtype)
    params, config = load_directory(publish(tmp_path / "codegen", CODEGEN, tensors))
    written = export(params, config, tmp_path / "again", dtype=np.dtype(dtype).name)
    again = load_file(written / "model.safetensors")
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == dtype
        np.testing.assert_array_equal(again[name].view(np.uint8), tensor.view(np.uint8), err_msg=name)
    assert load_directory(written)[1] == config


def test_constants_of_the_published_checkpoint_are_passed_over(published):
    tensors = load_file(published / "model.safetensors")
    tensors["transformer.h.0.attn.causal_mask"] = np.ones((1, 1, 64, 64), np.uint8)
    save_file(tensors, published / "model.safetensors")
    load_directory(published)
    tensors["transformer.h.0.attn.q_proj.weight"] = np.ones((32, 32), np.float16)
    save_file(tensors, published / "model.safetensors")
    with pytest.raises(UserError, match=r"q_proj\.weight' belongs to no codegen model"):
        load_directory(published)


def test_a_phi_with_biases_cannot_be_a_codegen(published, tmp_path):
    params, config = load_directory(published)
    params["layers"]["attention"]["k"]["bias"][1, 2, 3] = 1e-6
    with pytest.raises(UserError, match=r"layers/attention/k/bias is not zero, .*export it as phi"):
        export(params, config, tmp_path / "again")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"n_head": 3}, "n_head is 3, which must divide n_embd=32"),
        ({"n_head": 2}, "n_head is 2, which must be a multiple of 4"),
        ({"rotary_dim": None}, "rotary_dim is None"),
        ({"rotary_dim": 3}, "rotary_dim=3: must be even"),
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"embd_pdrop": 0.1}, "embd_pdrop is 0.1"),
        ({"n_inner": 100}, r"mlp.fc_in.weight has shape \(128, 32\) in F16, config.json says \(100, 32\)"),
        ({"n_layer": 3}, "tensor transformer.h.2."),
    ],
)
def test_another_model_is_refused(published, changes, complaint):
    (published / "config.json").write_text(json.dumps({**CODEGEN, **changes}))
    with pytest.raises(UserError, match=complaint) as error:
        load_directory(published)
    assert str(published) in str(error.value)
    assert "\n" not in str(error.value)
