"""Every field of a config.json that may matter: what importing it does, and other values than the usual one.

"read": our shape has it. "refused": another value than the usual one is another function. "passed over": it says
nothing of what the model computes, to which transformers agrees (tests/peers/test_config_fields.py).
"""

_SIZES = (None, 0, -1, 1, 3, 7, 8, 10**6, 10**12, 10**30, 2.0, "8", True, [8])
_SHARES = (None, 0, 0.0, 0.1, 0.25, 1, 1.5, -0.5, 1e30, float("nan"), float("inf"), "0.5", True, [0.5])
_SWITCHES = (None, False, True, 0, 1, "false", "x")
_IDS = (None, 0, 3, 10**9, -1, [3, 4], "x")
_PASSED_OVER = {
    "transformers_version": (None, "3.0", 4), "architectures": (None, ["LlamaForCausalLM"], []),
    "output_hidden_states": _SWITCHES, "output_attentions": _SWITCHES, "return_dict": _SWITCHES,
    "chunk_size_feed_forward": (0, 1, 4), "is_encoder_decoder": _SWITCHES, "is_decoder": _SWITCHES,
    "add_cross_attention": _SWITCHES, "id2label": (None, {"0": "x"}),
    "label2id": (None, {"x": 0}), "problem_type": (None, "regression"), "use_cache": _SWITCHES,
    "use_bfloat16": _SWITCHES,
    "bos_token_id": _IDS, "eos_token_id": _IDS, "pad_token_id": _IDS, "_name_or_path": (None, "x/y"),
    "auto_map": (None, {"AutoModelForCausalLM": "modeling_phi.PhiForCausalLM"}), "torch_dtype": (None, "float16"),
    "dtype": (None, "float32", "bfloat16"), "attention_bias": _SWITCHES, "mlp_bias": _SWITCHES,
    "pruned_heads": (None, {}),
    "sliding_window": (None, 2), "layer_types": (None, ["full_attention"] * 2), "scale_attn_weights": _SWITCHES,
    "a_field_of_nobody": (1, {"x": [1]}),
}  # fmt: skip
FIELDS = {
    "phi": {
        "read": {
            "vocab_size": _SIZES, "hidden_size": _SIZES, "intermediate_size": _SIZES, "num_hidden_layers": _SIZES,
            "num_attention_heads": _SIZES, "max_position_embeddings": _SIZES, "head_dim": _SIZES,
            "partial_rotary_factor": _SHARES, "rope_theta": _SHARES, "layer_norm_eps": _SHARES,
            "initializer_range": _SHARES, "resid_pdrop": _SHARES, "attention_dropout": _SHARES,
            "rope_parameters": (
                None, {}, [], "x", {"rope_type": "default"}, {"rope_type": "default", "rope_theta": 100.0},
                {"rope_type": "linear", "factor": 2.0}, {"type": "linear", "factor": 2.0}, {"rope_theta": 100.0},
                {"type": "default"}, {"partial_rotary_factor": 0.25}, {"rope_type": "yarn", "factor": 4.0},
                {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "factor": 3.0},
                {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10.0}},
            ),
        },
        "refused": {
            "model_type": (None, "llama", "phi3", 3, ["phi"]), "num_key_value_heads": _SIZES, "embd_pdrop": _SHARES,
            "hidden_act": (None, "relu", "gelu", "gelu_pytorch_tanh", "gelu_fast", "silu", 3),
            "qk_layernorm": _SWITCHES,
            "tie_word_embeddings": _SWITCHES, "is_causal": _SWITCHES,
            "rope_scaling": (None, {"type": "linear", "factor": 2.0}, {}, 3),
            "quantization_config": (None, {"quant_method": "bitsandbytes", "load_in_8bit": True}, {}),
            # Names of other families, of which transformers' phi knows none: harmless beside its own names.
            "rotary_dim": (None, 2), "rotary_pct": (None, 0.25), "rotary_emb_base": (None, 100),
        },
        "passed over": _PASSED_OVER | {"n_positions": (None, 3), "n_embd": (None, 3), "n_inner": (None, 3)},
    },
    "codegen": {
        "read": {
            "vocab_size": _SIZES, "n_embd": _SIZES, "n_inner": _SIZES, "n_layer": _SIZES, "n_head": _SIZES,
            "n_positions": _SIZES, "rotary_dim": _SIZES, "layer_norm_epsilon": _SHARES, "initializer_range": _SHARES,
            "resid_pdrop": _SHARES, "attn_pdrop": _SHARES,
        },
        "refused": {
            "model_type": (None, "llama", "gptj", 3), "embd_pdrop": _SHARES, "tie_word_embeddings": _SWITCHES,
            "is_causal": _SWITCHES, "activation_function": (None, "relu", "gelu", "gelu_pytorch_tanh", "silu", 3),
            "quantization_config": (None, {"quant_method": "bitsandbytes", "load_in_8bit": True}, {}),
            # By these, transformers sets n_embd, n_head, n_layer and n_positions.
            "hidden_size": _SIZES, "num_attention_heads": _SIZES, "num_hidden_layers": _SIZES,
            "max_position_embeddings": _SIZES,
        },
        "passed over": _PASSED_OVER | {
            "n_ctx": (None, 8, 10**6), "head_dim": (None, 4), "rope_theta": (None, 100.0),
            "partial_rotary_factor": (None, 0.25),
            "rope_parameters": (None, {"rope_type": "default", "rope_theta": 10.0}),
            "rope_scaling": (None,), "hidden_act": (None, "relu"), "intermediate_size": (None, 3),
        },
    },
}  # fmt: skip
CASES = [
    (architecture, does, field, value)
    for architecture, table in FIELDS.items()
    for does, fields in table.items()
    for field, values in fields.items()
    for value in values
]
