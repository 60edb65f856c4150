"""config.json and generation_config.json: what their readers make of every field.

Read for this: transformers 4.57.6 and 5.23 (run too, tests/peers/test_lint_saved.py), and the sources of
mlx-lm `models/phi.py`, text-generation-inference (TGI) `flash_phi_modeling.py` and `models/flash_phi.py`, vLLM
`model_executor/models/phi.py`, llama.cpp `conversion/phi.py` (all of 2026, older releases where one is named).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from phi_jax.weights.lint.finding import IDS, NUMBER, OBJECT, TEXT, WHOLE, Finding, check, error, warning

CONFIG = "config.json"
GENERATION = "generation_config.json"
# What these two wrote microsoft's first releases with: transformers has no class for them.
EARLY = ("phi-msft", "mixformer-sequential")

# Field -> what transformers takes where it is absent, and what MLX takes (phi-1's and phi-2's sizes).
PHI_SIZES = {
    "vocab_size": (51200, 51200),
    "hidden_size": (2048, 2560),
    "intermediate_size": (8192, 10240),
    "num_hidden_layers": (24, 32),
    "num_attention_heads": (32, 32),
    "max_position_embeddings": (2048, 2048),
}
CODEGEN_SIZES = {"vocab_size": 50400, "n_embd": 4096, "n_layer": 28, "n_head": 16, "n_positions": 2048}
# The other fields that are read.
ID_FIELDS = {"bos_token_id": IDS, "eos_token_id": IDS}
ROTARY_FIELDS = {"partial_rotary_factor": NUMBER, "rope_theta": NUMBER}
FIELDS = {
    **ID_FIELDS, **ROTARY_FIELDS, "rope_parameters": OBJECT, "rope_scaling": OBJECT, "num_key_value_heads": WHOLE,
    "head_dim": WHOLE, "n_inner": WHOLE, "hidden_act": TEXT, "torch_dtype": TEXT, "dtype": TEXT,
}  # fmt: skip
TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes by which a reader of config.json builds the model."""

    architecture: str  # "phi" or "codegen"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    qk_layernorm: bool = False


def read_shape(config: dict[str, Any], findings: list[Finding]) -> Shape | None:
    """The shape that config.json describes to transformers; None where it describes none.

    Adds a finding for each size that is missing or no size.
    """
    if config["model_type"] == "codegen":
        sizes = {field: _size(config, field, default, None, findings) for field, default in CODEGEN_SIZES.items()}
    else:
        sizes = {field: _size(config, field, *defaults, findings) for field, defaults in PHI_SIZES.items()}
    if any(size is None for size in sizes.values()):
        return None
    vocab_size, *rest = (size for size in sizes.values() if size is not None)
    if config["model_type"] == "codegen":
        width, layers, heads, context = rest
        inner = config.get("n_inner") or 4 * width
        return Shape("codegen", vocab_size, width, inner, layers, heads, heads, width // heads, context)
    width, inner, layers, heads, context = rest
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or width // heads
    qk_layernorm = bool(config.get("qk_layernorm"))
    return Shape("phi", vocab_size, width, inner, layers, heads, kv_heads, head_dim, context, qk_layernorm)


def _size(
    config: dict[str, Any], field: str, default: int, mlx_default: int | None, findings: list[Finding]
) -> int | None:
    if field not in config:
        clients = ["transformers"] if mlx_default is None else ["transformers", "MLX"]
        guess = f"transformers takes {default}" + ("" if mlx_default is None else f", MLX {mlx_default}")
        findings.append(warning("size-missing", CONFIG, clients, f"{field} is missing: {guess}", "set it"))
        return default
    size = config[field]
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        problem = f"{field} is {size!r}, no size: no client builds the model"
        findings.append(error("size", CONFIG, problem, "set it to a whole number from 1"))
        return None
    return size


def lint_config(config: dict[str, Any], generation: dict[str, Any] | None, shape: Shape | None) -> Iterator[Finding]:
    """Findings about the two config files that neither the tensors nor the tokenizer have a part in."""
    wrong: list[Finding] = []
    nested = check(config.get("rope_parameters") or {}, ROTARY_FIELDS, CONFIG, wrong)
    yield from wrong
    yield from _remote_code(config)
    yield from _ids(config, generation or {}, shape)
    if shape is not None and shape.architecture == "phi":
        yield from _heads(config, shape)
        yield from _rotary(config, nested, shape)
        yield from _fixed_elsewhere(config, nested, shape)


def _remote_code(config: dict[str, Any]) -> Iterator[Finding]:
    if config.get("model_type") in EARLY:
        yield error(
            "early-format", CONFIG,
            f"model_type is {config['model_type']!r}, of the first releases: no client has the model built in",
            "get the release with model_type 'phi', or convert it: phi-jax import, then phi-jax export",
        )  # fmt: skip
    elif config.get("auto_map"):
        yield warning(
            "remote-code", CONFIG, ["transformers"],
            "auto_map is left over from before transformers had the model: with trust_remote_code=True "
            "transformers runs that code, or fails where it is gone",
            "remove auto_map",
        )  # fmt: skip


def _ids(config: dict[str, Any], generation: dict[str, Any], shape: Shape | None) -> Iterator[Finding]:
    """bos_token_id and eos_token_id. Both transformers were run: absent is 1 and 2, null is no end at all."""
    absent = [field for field in ("bos_token_id", "eos_token_id") if field not in config]
    null = [field for field in ("bos_token_id", "eos_token_id") if field in config and config[field] is None]
    stops = generation.get("eos_token_id") is not None
    if absent and config["model_type"] == "phi":  # CodeGen's defaults are its own ids
        taken = "1 and 2" if len(absent) > 1 else {"bos_token_id": "1", "eos_token_id": "2"}[absent[0]]
        yield warning(
            "token-ids", CONFIG, ["transformers"],
            f"{' and '.join(absent)} {_are(absent)} missing: transformers takes {taken}"
            + ("" if stops or "eos_token_id" not in absent else " and generation does not stop"),
            "set it to the id of <|endoftext|>",
        )  # fmt: skip
    if null and not stops:
        yield warning(
            "token-ids", CONFIG, ["transformers"],
            f"{' and '.join(null)} {_are(null)} null: "
            + ("generation in transformers never stops" if "eos_token_id" in null else "transformers has no start"),
            "set it to the id of <|endoftext|>",
        )  # fmt: skip
    if shape is None:
        return
    for place, fields in ((CONFIG, config), (GENERATION, generation)):
        for field in ("bos_token_id", "eos_token_id"):
            for identifier in ids_of(fields.get(field)):
                if not 0 <= identifier < shape.vocab_size:
                    yield warning(
                        "token-id-range", place, ["transformers"],
                        f"{field} is {identifier}, outside the vocabulary of {shape.vocab_size}: "
                        "transformers never meets it, or fails",
                        "set it to the id of <|endoftext|>",
                    )  # fmt: skip


def ids_of(value: Any) -> list[int]:
    """One token id, several, or none (null) as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _are(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"


def _heads(config: dict[str, Any], shape: Shape) -> Iterator[Finding]:
    heads, kv_heads = shape.heads, config.get("num_key_value_heads")
    if "num_key_value_heads" not in config:
        if heads != 32:
            yield warning(
                "kv-heads", CONFIG, ["MLX", "TGI before 2.1"],
                "num_key_value_heads is missing: MLX and TGI before 2.1 take 32", f"set it to {heads}",
            )  # fmt: skip
    elif kv_heads is None:
        # TGI 1.4 to 2.0 read with a PhiConfig of its own, which keeps the null; 2.1 reads with transformers'.
        yield warning(
            "kv-heads", CONFIG, ["TGI before 2.1"],
            "num_key_value_heads is null: TGI before 2.1 divides by it and fails", f"set it to {heads}",
        )  # fmt: skip
    elif kv_heads < 1 or heads % kv_heads:
        problem = f"num_key_value_heads is {kv_heads!r}, which {heads} heads cannot share: no client builds the model"
        yield error("kv-heads", CONFIG, problem, "set it to a divisor")
    elif kv_heads != heads:
        yield warning(
            "kv-heads", CONFIG, ["vLLM", "llama.cpp"],
            f"num_key_value_heads is {kv_heads}: vLLM and llama.cpp build all {heads} for Phi and fail",
            "serve it with transformers or MLX",
        )  # fmt: skip
    plain = shape.hidden_size // heads
    if "head_dim" in config and config["head_dim"] is None:
        # getattr(config, "head_dim", default) finds the null, in both transformers.
        yield error("head-dim", CONFIG, "head_dim is null: transformers computes with it and fails", "remove it")
    elif shape.head_dim != plain:
        clients = ["MLX", "TGI", "vLLM", "llama.cpp"]
        yield warning(
            "head-dim", CONFIG, clients,
            f"head_dim is {shape.head_dim}: MLX, TGI, vLLM and llama.cpp take {plain}, hidden_size by heads, and fail",
            "serve it with transformers",
        )  # fmt: skip


def _rotary(config: dict[str, Any], nested: dict[str, Any], shape: Shape) -> Iterator[Finding]:
    """transformers 5 (and vLLM on it) reads rope_parameters first, then the top level; the others the top level."""
    # MLX's default differs: phi-2's.
    for field, default, mlx_default in (("partial_rotary_factor", 0.5, 0.4), ("rope_theta", 10000.0, 10000.0)):
        value = nested.get(field, default)
        if field in config and config[field] is None:
            clients = ["transformers 4", "TGI", "MLX"] + (["transformers 5"] if field not in nested else [])
            yield warning(
                "rotary-missing", CONFIG, clients,
                f"{field} is null: {', '.join(clients)} compute with it and fail", f"set it to {value}",
            )  # fmt: skip
        elif field not in config:
            taken = {"transformers 4": default, "TGI": default, "MLX": mlx_default}
            wrong = [client for client in taken if taken[client] != value]
            if wrong:
                yield warning(
                    "rotary-missing", CONFIG, wrong,
                    f"{field} is missing at the top level: "
                    f"{', '.join(f'{client} takes {taken[client]}' for client in wrong)}, silently",
                    f"set it to {value} there too",
                )  # fmt: skip
        elif field in nested and nested[field] != config[field]:
            yield error(
                "rotary-contradictory", CONFIG,
                f"{field} is {config[field]} at the top level and {nested[field]} under rope_parameters: "
                "transformers 4, TGI and MLX compute with the one, transformers 5 and vLLM with the other",
                "keep the one that the model was trained with, in both places",
            )  # fmt: skip
    factor = nested.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 0.5
    rotary_dim = int(shape.head_dim * factor)
    if rotary_dim % 2 or not 0 < rotary_dim <= shape.head_dim:
        even = min(shape.head_dim, max(2, 2 * round(shape.head_dim * factor / 2)))
        exact = even / shape.head_dim
        if int(shape.head_dim * exact) < even:
            exact = math.nextafter(exact, 1.0)
        yield error(
            "rotary-dim", CONFIG,
            f"partial_rotary_factor {factor} of head_dim {shape.head_dim} rotates {rotary_dim} numbers of a head, "
            "which are no pairs: every client fails or computes something else",
            f"set it to {exact}, for {even}, if that was meant",
        )  # fmt: skip


def _fixed_elsewhere(config: dict[str, Any], nested: dict[str, Any], shape: Shape) -> Iterator[Finding]:
    """What some readers of Phi have as a constant, whatever the config says."""
    theta = nested.get("rope_theta", config.get("rope_theta"))
    if theta not in (None, 10000):
        # Its converter writes no rope.freq_base for Phi, and the reader's default is 10000.
        yield warning(
            "rope-theta", CONFIG, ["llama.cpp"], f"rope_theta is {theta}: llama.cpp's converter drops it, silently",
            "write phi2.rope.freq_base into the GGUF",
        )  # fmt: skip
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or nested.get("rope_type") or "default"
    if kind != "default":
        yield warning(
            "rope-scaling", CONFIG, ["MLX", "llama.cpp"],
            f"RoPE is scaled ({kind}): MLX and llama.cpp know no scaling for Phi and leave it out, silently",
            "serve it with transformers",
        )  # fmt: skip
    if shape.intermediate_size != 4 * shape.hidden_size:
        yield warning(
            "inner-size", CONFIG, ["vLLM", "llama.cpp"],
            f"intermediate_size is {shape.intermediate_size}: vLLM and llama.cpp take 4 x {shape.hidden_size} for Phi "
            "and fail",
            "serve it with transformers or MLX",
        )  # fmt: skip
    activation = config.get("hidden_act", "gelu_new")
    if activation not in TANH_GELU:
        yield warning(
            "activation", CONFIG, ["MLX", "llama.cpp"],
            f"hidden_act is {activation!r}: MLX and llama.cpp compute gelu_new for Phi, silently",
            "serve it with transformers",
        )  # fmt: skip
    if shape.qk_layernorm:
        yield warning(
            "qk-layernorm", CONFIG, ["MLX", "TGI", "vLLM", "llama.cpp"],
            "qk_layernorm is true: MLX, TGI, vLLM and llama.cpp have no such norm for Phi, and leave it out or fail",
            "serve it with transformers",
        )  # fmt: skip
