"""Tiny models in the form in which others publish them, made without our exporter."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from phi_jax.tokens import tokenizer

CODE = "def f(x):\n    return [i * i for i in range(x)]\n\n\nclass A:\n\tdef g(self):\n\t\treturn 'é'\n" * 20
PHI = {
    "architectures": ["PhiForCausalLM"], "model_type": "phi", "vocab_size": 320, "hidden_size": 32,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": None,
    "hidden_act": "gelu_new", "max_position_embeddings": 64, "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5,
    "rope_theta": 10000.0, "rope_scaling": None, "attention_dropout": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
    "initializer_range": 0.02, "qk_layernorm": False, "tie_word_embeddings": False, "bos_token_id": None,
    "eos_token_id": None, "torch_dtype": "float16",
}  # fmt: skip
CODEGEN = {
    "architectures": ["CodeGenForCausalLM"], "model_type": "codegen", "vocab_size": 320, "n_embd": 32, "n_inner": None,
    "n_layer": 2, "n_head": 4, "n_positions": 64, "n_ctx": 64, "rotary_dim": 4, "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "initializer_range": 0.02,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 50256, "torch_dtype": "float16",
}  # fmt: skip


def phi_shapes(c):
    d, f, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    layer = {f"self_attn.{n}.weight": (d, d) for n in ("q_proj", "k_proj", "v_proj", "dense")}
    layer |= {f"self_attn.{n}.bias": (d,) for n in ("q_proj", "k_proj", "v_proj", "dense")}
    layer |= {"mlp.fc1.weight": (f, d), "mlp.fc1.bias": (f,), "mlp.fc2.weight": (d, f), "mlp.fc2.bias": (d,)}
    layer |= {"input_layernorm.weight": (d,), "input_layernorm.bias": (d,)}
    ends = {"model.embed_tokens.weight": (v, d), "lm_head.weight": (v, d), "lm_head.bias": (v,)}
    ends |= {"model.final_layernorm.weight": (d,), "model.final_layernorm.bias": (d,)}
    return ends | {f"model.layers.{i}.{n}": s for i in range(c["num_hidden_layers"]) for n, s in layer.items()}


def codegen_shapes(c):
    d, v = c["n_embd"], c["vocab_size"]
    f = c["n_inner"] or 4 * d
    layer = {"attn.qkv_proj.weight": (3 * d, d), "attn.out_proj.weight": (d, d)}
    layer |= {"mlp.fc_in.weight": (f, d), "mlp.fc_in.bias": (f,), "mlp.fc_out.weight": (d, f), "mlp.fc_out.bias": (d,)}
    layer |= {"ln_1.weight": (d,), "ln_1.bias": (d,)}
    ends = {"transformer.wte.weight": (v, d), "lm_head.weight": (v, d), "lm_head.bias": (v,)}
    ends |= {"transformer.ln_f.weight": (d,), "transformer.ln_f.bias": (d,)}
    return ends | {f"transformer.h.{i}.{n}": s for i in range(c["n_layer"]) for n, s in layer.items()}


def random_tensors(shapes, seed=0, dtype=np.float16):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def publish(directory, config, tensors):
    """Writes config.json, weights and a trained tokenizer; returns the directory."""
    directory = Path(directory)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    tokenizer.train([CODE], 310).save(directory, max_length=64)
    return directory
