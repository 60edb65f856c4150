"""GGUF, llama.cpp's format: a Phi directory rewritten as architecture "phi2", without torch.

Keys, names and types are those that llama.cpp's convert_hf_to_gguf.py writes for PhiForCausalLM, through the same
package `gguf`. Shapes and tokenizers that llama.cpp would compute or cut otherwise, in silence, are refused where
published models have them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phi_jax.errors import UserError
from phi_jax.model.phi import PhiConfig
from phi_jax.store.artifact import atomic_path
from phi_jax.tokens.tokenizer_files import why_cut_otherwise
from phi_jax.weights.architectures.architecture import DTYPES, read_json
from phi_jax.weights.huggingface import read_architecture, tensor_places
from phi_jax.weights.tensor_files import open_tensors

if TYPE_CHECKING:
    import gguf

EMBEDDING = "model.embed_tokens.weight"
# The converter knows a pre-tokenizer by the ids of a sample text: CodeGen's vocabulary, which phi-1 and phi-2 share,
# is "phi-2". llama.cpp reads that name, like "gpt-2", as GPT-2's regular expression over any vocabulary.
PRE_TOKENIZER = "phi-2"


def write_gguf(directory: Path, target: Path) -> None:
    """Writes the model and the tokenizer of a directory that `export_model` has written as one GGUF file.

    Matrices keep their dtype; vectors become float32, which llama.cpp wants them in. One tensor is in memory at a time.
    Raises UserError for a shape, a name and a tokenizer that llama.cpp would not follow exactly.
    """
    import gguf

    _, config = read_architecture(directory)
    if config.num_heads * config.head_dim != config.hidden_size:
        raise UserError(
            f"{directory}: {config.num_heads} heads of {config.head_dim} do not fill the width of "
            f"{config.hidden_size}, which llama.cpp takes for granted; keep to transformers"
        )
    shapes = {name: shape for name, (*_, shape) in tensor_places(config).items()}
    tensors = open_tensors(directory)
    vector = (gguf.GGMLQuantizationType.F32, DTYPES["float32"])
    dtype = tensors[EMBEDDING]().dtype
    file_type, matrix = {
        DTYPES["float32"]: (gguf.LlamaFileType.ALL_F32, vector),
        DTYPES["float16"]: (gguf.LlamaFileType.MOSTLY_F16, (gguf.GGMLQuantizationType.F16, dtype)),
        DTYPES["bfloat16"]: (gguf.LlamaFileType.MOSTLY_BF16, (gguf.GGMLQuantizationType.BF16, dtype)),
    }[dtype]

    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.PHI2])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.PHI2, config.num_layers)
    for name, shape in shapes.items():
        kind, width = matrix if len(shape) == 2 else vector
        renamed = str(names.get_name(name, (".weight", ".bias")))
        writer.add_tensor_info(renamed, shape, width, math.prod(shape) * width.itemsize, raw_dtype=kind)
    _add_metadata(writer, directory)
    _add_shape(writer, config)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_tokenizer(writer, directory, config.vocab_size)
    with atomic_path(target) as temporary:
        try:
            writer.write_header_to_file(Path(temporary))
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, shape in shapes.items():
                tensor = tensors[name]()
                writer.write_tensor_data(tensor if len(shape) == 2 else tensor.astype(np.float32))
        finally:
            writer.close()


def _add_metadata(writer: gguf.GGUFWriter, directory: Path) -> None:
    """Key group general.*, from the model card; unlike the converter, nothing is guessed from a directory's name."""
    import gguf

    parameters, *of_experts = writer.get_total_parameter_count()
    head = gguf.Metadata.load_model_card(directory)
    metadata = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), head, None, None, parameters)
    metadata.name = str(metadata.name or "phi")
    metadata.size_label = metadata.size_label or gguf.size_label(parameters, *of_experts)
    writer.add_type(gguf.GGUFType.MODEL)
    metadata.set_gguf_meta_model(writer)


def _add_shape(writer: gguf.GGUFWriter, config: PhiConfig) -> None:
    """Key group phi2.*"""
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_rope_dimension_count(config.rotary_dim)
    if config.rope_theta != 10000.0:
        writer.add_rope_freq_base(config.rope_theta)


def _add_tokenizer(writer: gguf.GGUFWriter, directory: Path, rows: int) -> None:
    """Key group tokenizer.*; `rows` is the embedding's, filled up with tokens that stand for nothing."""
    import gguf

    path = directory / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; GGUF holds the tokenizer too, so export the model with its own")
    state = read_json(path)
    added = {token["id"]: token for token in state["added_tokens"]}
    texts = {number: text for text, number in state["model"]["vocab"].items()}
    texts |= {number: token["content"] for number, token in added.items()}
    tokens = [texts.get(number, f"[PAD{number}]") for number in range(rows)]
    if problem := _why_not_llama(state):
        raise UserError(f"{path}: {problem}; llama.cpp would do otherwise: use a byte-level BPE like GPT-2's")

    def kind(number: int) -> gguf.TokenType:
        if number in added:
            return gguf.TokenType.CONTROL if added[number]["special"] else gguf.TokenType.USER_DEFINED
        return gguf.TokenType.NORMAL if number in texts else gguf.TokenType.UNUSED

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types([kind(number) for number in range(rows)])
    special = gguf.SpecialVocab(directory, load_merges=True, n_vocab=rows)
    for name in ("bos", "eos"):
        if name not in special.special_token_ids:  # llama.cpp would take token 11
            raise UserError(f"{directory}: no {name} token is named; add {name}_token to tokenizer_config.json")
    special.add_special_token |= {"bos": False, "eos": False}
    special.add_to_gguf(writer, quiet=True)


def _why_not_llama(state: dict[str, Any]) -> str:
    """What llama.cpp would do otherwise with a tokenizer, as in tokenizer.json; "" where nothing."""
    if reason := why_cut_otherwise(state):
        return reason
    after = (state.get("post_processor") or {}).get("type", "ByteLevel")
    if after != "ByteLevel":
        return f"its post-processor is {after}"
    for token in state["added_tokens"]:
        if flags := [flag for flag in ("single_word", "lstrip", "rstrip") if token[flag]]:
            return f"its token {token['content']!r} is {flags[0]}"
    return ""
