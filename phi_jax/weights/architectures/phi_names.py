"""Phi's tensors and config.json (phi-1, phi-1_5, phi-2).

Reference: transformers' PhiForCausalLM (model_type "phi"), to which every tensor below was compared.
"""

import re
from pathlib import Path

import numpy as np

from phi_jax.errors import UserError
from phi_jax.model.phi import PhiConfig
from phi_jax.store.artifact import Json
from phi_jax.weights.architectures.architecture import Architecture, given, number, require_sizes, require_values

# Our path -> name of the tensor.
NAMES = {
    "embed/tokens": "model.embed_tokens.weight",
    "layers/norm/scale": "model.layers.{layer}.input_layernorm.weight",
    "layers/norm/bias": "model.layers.{layer}.input_layernorm.bias",
    "layers/attention/q/kernel": "model.layers.{layer}.self_attn.q_proj.weight",
    "layers/attention/q/bias": "model.layers.{layer}.self_attn.q_proj.bias",
    "layers/attention/k/kernel": "model.layers.{layer}.self_attn.k_proj.weight",
    "layers/attention/k/bias": "model.layers.{layer}.self_attn.k_proj.bias",
    "layers/attention/v/kernel": "model.layers.{layer}.self_attn.v_proj.weight",
    "layers/attention/v/bias": "model.layers.{layer}.self_attn.v_proj.bias",
    "layers/attention/out/kernel": "model.layers.{layer}.self_attn.dense.weight",
    "layers/attention/out/bias": "model.layers.{layer}.self_attn.dense.bias",
    "layers/mlp/fc1/kernel": "model.layers.{layer}.mlp.fc1.weight",
    "layers/mlp/fc1/bias": "model.layers.{layer}.mlp.fc1.bias",
    "layers/mlp/fc2/kernel": "model.layers.{layer}.mlp.fc2.weight",
    "layers/mlp/fc2/bias": "model.layers.{layer}.mlp.fc2.bias",
    "final_norm/scale": "model.final_layernorm.weight",
    "final_norm/bias": "model.final_layernorm.bias",
    "head/kernel": "lm_head.weight",
    "head/bias": "lm_head.bias",
}
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)

# What other families call it -> what a phi does.
_OTHER_NAMES = {
    "rotary_dim": "partial_rotary_factor",
    "rotary_pct": "partial_rotary_factor",
    "rotary_emb_base": "rope_theta",
}


def _write_config(config: PhiConfig) -> Json:
    """config.json in the style of transformers 4 and of 5 at once, with nothing left to a reader's default.

    Readers that go wrong otherwise: TGI takes "gelu_new", the usual name, for the exact GELU; MLX takes a
    partial_rotary_factor of 0.4 where the top level has none; TGI before 2.1 fails on null num_key_value_heads;
    transformers takes 1 and 2 for absent bos and eos ids.
    """
    factor = config.rotary_dim / config.head_dim
    if int(config.head_dim * factor) < config.rotary_dim:  # readers truncate: e.g. 30 of 44 came back as 29
        factor = float(np.nextafter(factor, 1.0))
    return {
        "architectures": ["PhiForCausalLM"],
        "model_type": "phi",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "head_dim": config.head_dim,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": config.max_seq_len,
        "layer_norm_eps": config.layer_norm_eps,
        "attention_dropout": config.attention_dropout,
        "resid_pdrop": config.residual_dropout,
        "qk_layernorm": False,
        "partial_rotary_factor": factor,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            "partial_rotary_factor": factor,
        },
    }


def _read_config(path: Path, c: Json) -> PhiConfig:
    require_sizes(path, c, _SIZES)
    heads = c["num_attention_heads"]
    rope = given(c, "rope_parameters", {})
    for other, ours in _OTHER_NAMES.items():
        if c.get(other) is not None and c.get(ours) is None and rope.get(ours) is None:
            raise UserError(f"{path}: has {other}, which no reader of phi knows, and no {ours}; set {ours} instead")
    # What would make it another function than `phi.forward`; absent or null is transformers' default, which is ours.
    require_values(
        path,
        {**c, **{f"rope_parameters.{field}": value for field, value in rope.items()}},
        {
            "hidden_act": ("gelu_new", "gelu_pytorch_tanh"),  # two names of one function
            "qk_layernorm": (False,),
            "num_key_value_heads": (heads,),
            "rope_scaling": (),
            "rope_parameters.rope_type": ("default",),
            "rope_parameters.type": ("default",),  # its name in transformers 4
        },
    )
    head_dim = given(c, "head_dim", c["hidden_size"] // heads)
    # 0.5 and 10000 are what transformers' PhiConfig takes where they are absent.
    factor = _rope_value(path, c, rope, "partial_rotary_factor", 0.5)
    return PhiConfig(
        vocab_size=c["vocab_size"],
        hidden_size=c["hidden_size"],
        intermediate_size=c["intermediate_size"],
        num_layers=c["num_hidden_layers"],
        num_heads=heads,
        head_dim=head_dim,
        rotary_dim=int(head_dim * number(factor)),
        max_seq_len=c["max_position_embeddings"],
        layer_norm_eps=number(c.get("layer_norm_eps", 1e-5)),
        rope_theta=number(_rope_value(path, c, rope, "rope_theta", 10000.0)),
        attention_dropout=number(given(c, "attention_dropout", 0.0)),
        residual_dropout=number(given(c, "resid_pdrop", 0.0)),
        initializer_range=number(c.get("initializer_range", 0.02)),
    )


def _rope_value(path: Path, c: Json, rope: Json, field: str, default: float) -> float:
    """A value that transformers 4 keeps at the top level and 5 under rope_parameters."""
    values = {x[field] for x in (c, rope) if x.get(field) is not None}
    if len(values) > 1:
        raise UserError(f"{path}: {field} is {sorted(values)} in two places; readers differ on which holds: keep one")
    return values.pop() if values else default


PHI = Architecture(
    model_type="phi",
    names=NAMES,
    buffers=re.compile(r".*rotary_emb\.inv_freq"),
    read_config=_read_config,
    write_config=_write_config,
)
