"""CodeGen's tensors and config.json (codegen-350M-mono, whose family phi-1 grew out of).

A CodeGen is a phi without biases in attention, whose q, k and v lie in one matrix and whose rotary dims are
interleaved. Reference: transformers' CodeGenForCausalLM (model_type "codegen"), to which every tensor was compared.
"""

import re
from pathlib import Path

import numpy as np

from phi_jax.errors import UserError
from phi_jax.model.phi import PhiConfig
from phi_jax.store.artifact import Json
from phi_jax.weights.architectures.architecture import Architecture, given, number, require_sizes, require_values

NAMES = {
    "embed/tokens": "transformer.wte.weight",
    "layers/norm/scale": "transformer.h.{layer}.ln_1.weight",
    "layers/norm/bias": "transformer.h.{layer}.ln_1.bias",
    "layers/attention/q/kernel": "transformer.h.{layer}.attn.qkv_proj.weight",
    "layers/attention/k/kernel": "transformer.h.{layer}.attn.qkv_proj.weight",
    "layers/attention/v/kernel": "transformer.h.{layer}.attn.qkv_proj.weight",
    "layers/attention/out/kernel": "transformer.h.{layer}.attn.out_proj.weight",
    "layers/mlp/fc1/kernel": "transformer.h.{layer}.mlp.fc_in.weight",
    "layers/mlp/fc1/bias": "transformer.h.{layer}.mlp.fc_in.bias",
    "layers/mlp/fc2/kernel": "transformer.h.{layer}.mlp.fc_out.weight",
    "layers/mlp/fc2/bias": "transformer.h.{layer}.mlp.fc_out.bias",
    "final_norm/scale": "transformer.ln_f.weight",
    "final_norm/bias": "transformer.ln_f.bias",
    "head/kernel": "lm_head.weight",
    "head/bias": "lm_head.bias",
}
_ROPE_THETA = 10000.0  # a CodeGen has no other
_PARTS = 4  # parts that the qkv matrix is cut into, one a core of the TPUs it was trained on (transformers: mp_num)


def _rows(config: PhiConfig) -> np.ndarray:
    """[3*H*K] which row of q, k and v, one below the other, stands at each row of the qkv matrix.

    The matrix holds, for each fourth of the heads, q, v and k. A head of q or k turns dims 2i and 2i+1 together, ours
    i and i + rotary_dim/2.
    """
    q, k, v = np.arange(3 * config.num_heads * config.head_dim).reshape(3, config.num_heads, config.head_dim)
    turning, rest = np.split(np.arange(config.head_dim), [config.rotary_dim])
    ours = np.concatenate([turning.reshape(2, -1).T.ravel(), rest])
    return np.stack([x.reshape(_PARTS, -1) for x in (q[:, ours], v, k[:, ours])], axis=1).ravel()


def _write_config(config: PhiConfig) -> Json:
    """config.json as transformers writes it. Raises UserError for a shape that CodeGen does not have."""
    for problem, wrong in (
        (f"num_heads is {config.num_heads}, no multiple of {_PARTS}", config.num_heads % _PARTS),
        ("num_heads * head_dim is not hidden_size", config.num_heads * config.head_dim != config.hidden_size),
        (f"rope_theta is {config.rope_theta}, not {_ROPE_THETA}", config.rope_theta != _ROPE_THETA),
    ):
        if wrong:
            raise UserError(f"a CodeGen cannot hold this model: {problem}; add --architecture phi")
    return {
        "architectures": ["CodeGenForCausalLM"],
        "model_type": "codegen",
        "n_positions": config.max_seq_len,
        "n_ctx": config.max_seq_len,
        "n_embd": config.hidden_size,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.intermediate_size,
        "rotary_dim": config.rotary_dim,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.layer_norm_eps,
        "attn_pdrop": config.attention_dropout,
        "resid_pdrop": config.residual_dropout,
        "tokenizer_class": "CodeGenTokenizer",
    }


def _read_config(path: Path, c: Json) -> PhiConfig:
    require_sizes(path, c, ("vocab_size", "n_embd", "n_layer", "n_head", "n_positions", "rotary_dim"))
    heads, width = c["n_head"], c["n_embd"]
    if width % heads:
        raise UserError(f"{path}: n_head is {heads}, which must divide n_embd={width}; get a good copy")
    if heads % _PARTS:
        raise UserError(f"{path}: n_head is {heads}, which must be a multiple of {_PARTS}; use another model")
    allowed = {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names of one function
        # By these names transformers sets the same fields.
        "hidden_size": (width,),
        "num_attention_heads": (heads,),
        "num_hidden_layers": (c["n_layer"],),
        "max_position_embeddings": (c["n_positions"],),
    }
    require_values(path, c, allowed)
    return PhiConfig(
        vocab_size=c["vocab_size"],
        hidden_size=width,
        intermediate_size=given(c, "n_inner", 4 * width),
        num_layers=c["n_layer"],
        num_heads=heads,
        head_dim=width // heads,
        rotary_dim=c["rotary_dim"],
        max_seq_len=c["n_positions"],
        layer_norm_eps=number(c.get("layer_norm_epsilon", 1e-5)),
        rope_theta=_ROPE_THETA,
        attention_dropout=number(given(c, "attn_pdrop", 0.0)),
        residual_dropout=number(given(c, "resid_pdrop", 0.0)),
        initializer_range=number(c.get("initializer_range", 0.02)),
    )


CODEGEN = Architecture(
    model_type="codegen",
    names=NAMES,
    rows=_rows,
    buffers=re.compile(r"transformer\.h\.\d+\.attn\.(causal_mask|bias|masked_bias)|.*rotary_emb\.inv_freq"),
    read_config=_read_config,
    write_config=_write_config,
)
