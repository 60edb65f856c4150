"""GGUF, llama.cpp's format: a Phi directory rewritten as architecture "phi2", without torch.

Keys, names and types are those that llama.cpp's convert_hf_to_gguf.py writes for PhiForCausalLM, through the same
package `gguf`. Shapes and tokenizers that llama.cpp would compute or cut otherwise, in silence, are refused where
published models have them.
"""

import math
from pathlib import Path

import gguf
import numpy as np

from phi_jax.errors import UserError
from phi_jax.model.phi import PhiConfig
from phi_jax.store.artifact import atomic_path
from phi_jax.store.rows import read_object
from phi_jax.tokens.tokenizer_files import why_cut_otherwise
from phi_jax.weights.huggingface import read_architecture
from phi_jax.weights.tensor_files import CODES, open_tensors

# The converter knows a pre-tokenizer by the ids of a sample text: CodeGen's vocabulary, which phi-1 and phi-2 share,
# is "phi-2". llama.cpp reads that name, like "gpt-2", as GPT-2's regular expression over any vocabulary.
_PRE_TOKENIZER = "phi-2"


def write_gguf(directory: Path, target: Path) -> None:
    """Writes the model and the tokenizer of a directory that `export_model` has written as one GGUF file.

    Matrices keep their dtype; vectors become float32, which llama.cpp wants them in. One tensor is in memory at a time.
    Raises UserError for a shape and a tokenizer that llama.cpp would not follow exactly.
    """
    architecture, config = read_architecture(directory)
    if config.num_heads * config.head_dim != config.hidden_size:
        raise UserError(
            f"{directory}: {config.num_heads} heads of {config.head_dim} do not fill the width of "
            f"{config.hidden_size}, which llama.cpp takes for granted; keep to transformers"
        )
    dtype = read_object(directory / "config.json")["dtype"]
    kind = CODES[dtype]  # gguf calls them so too, and a file by its matrices
    shapes, tensors = architecture.shapes(config), open_tensors(directory)
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.PHI2])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.PHI2, config.num_layers)
    for name, shape in shapes.items():
        stored, width = (kind, np.dtype(dtype)) if len(shape) == 2 else ("F32", np.dtype(np.float32))
        writer.add_tensor_info(
            str(names.get_name(name, (".weight", ".bias"))), shape, width, math.prod(shape) * width.itemsize,
            raw_dtype=gguf.GGMLQuantizationType[stored],
        )  # fmt: skip
    _add_metadata(writer, directory)
    _add_shape(writer, config)
    writer.add_file_type(gguf.LlamaFileType[f"{'ALL' if kind == 'F32' else 'MOSTLY'}_{kind}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_tokenizer(writer, directory, config.vocab_size)
    with atomic_path(target) as temporary:
        try:
            writer.write_header_to_file(Path(temporary))
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, shape in shapes.items():
                tensor = tensors[name].read()
                writer.write_tensor_data(tensor if len(shape) == 2 else tensor.astype(np.float32))
        finally:
            writer.close()


def _add_metadata(writer: gguf.GGUFWriter, directory: Path) -> None:
    """Key group general.*, from the model card; unlike the converter, nothing is guessed from a directory's name."""
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
    path, kinds = directory / "tokenizer.json", gguf.TokenType
    state = read_object(path)
    added = state["added_tokens"]
    after = (state["post_processor"] or {}).get("type", "ByteLevel")
    odd = [token["content"] for token in added if token["single_word"] or token["lstrip"] or token["rstrip"]]
    problem = why_cut_otherwise(state) or (f"its post-processor is {after}" if after != "ByteLevel" else "")
    if problem or odd:
        problem = problem or f"its token {odd[0]!r} is bound to words or spaces beside it"
        raise UserError(f"{path}: {problem}; llama.cpp would do otherwise: use a byte-level BPE like GPT-2's")
    entries = {number: (text, kinds.NORMAL) for text, number in state["model"]["vocab"].items()}
    for token in added:
        entries[token["id"]] = (token["content"], kinds.CONTROL if token["special"] else kinds.USER_DEFINED)
    table = [entries.get(number, (f"[PAD{number}]", kinds.UNUSED)) for number in range(rows)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_PRE_TOKENIZER)
    writer.add_token_list([text for text, _ in table])
    writer.add_token_types([kind for _, kind in table])
    special = gguf.SpecialVocab(directory, load_merges=True, n_vocab=rows)
    special.add_special_token |= {"bos": False, "eos": False}
    special.add_to_gguf(writer, quiet=True)
