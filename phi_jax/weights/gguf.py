"""GGUF, llama.cpp's format: a Phi directory rewritten as architecture "phi2", without torch.

Keys, names and types are those that llama.cpp's convert_hf_to_gguf.py writes for PhiForCausalLM, through the same
package `gguf`. What llama.cpp would compute or tokenise otherwise, in silence, is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phi_jax.errors import UserError
from phi_jax.model.phi import PhiConfig
from phi_jax.store.artifact import atomic_path
from phi_jax.tokens.tokenizer import Tokenizer
from phi_jax.tokens.tokenizer_files import byte_alphabet, why_cut_otherwise
from phi_jax.weights.architecture import DTYPES, read_json
from phi_jax.weights.huggingface import MODEL_CARD, read_architecture, tensor_shapes
from phi_jax.weights.phi_names import PHI
from phi_jax.weights.tensor_files import open_tensors

if TYPE_CHECKING:
    import gguf

EMBEDDING = "model.embed_tokens.weight"
# The converter knows a pre-tokenizer by the ids of a sample text: CodeGen's vocabulary, which phi-1 and phi-2 share,
# is "phi-2". llama.cpp reads that name, like "gpt-2", as GPT-2's regular expression over any vocabulary.
PRE_TOKENIZER = "phi-2"


def write_gguf(directory: Path, target: Path) -> None:
    """Writes the model and the tokenizer of a Hugging Face Phi directory as one GGUF file.

    Matrices keep their dtype (float32, float16 or bfloat16, the same for all); vectors become float32, which
    llama.cpp wants them in. One tensor is in memory at a time. The same directory gives the same bytes.
    Raises UserError where `target` exists, where the package gguf is missing, for another architecture, for a tensor
    that is missing, unknown, misshapen, not finite or of another dtype, and for a tokenizer that llama.cpp would not
    follow exactly; nothing is left half-written.
    """
    try:
        import gguf
    except ImportError as error:
        raise UserError(f"GGUF is written by a package that is missing ({error}): pip install gguf") from None
    directory, target = Path(directory), Path(target)
    if target.exists():
        raise UserError(f"{target}: exists already; remove it, or write to another place")
    config = _checked_config(directory)
    shapes = tensor_shapes(config)
    tensors = _checked_tensors(directory, shapes)
    matrix_types = {
        DTYPES["float32"]: (gguf.LlamaFileType.ALL_F32, gguf.GGMLQuantizationType.F32),
        DTYPES["float16"]: (gguf.LlamaFileType.MOSTLY_F16, gguf.GGMLQuantizationType.F16),
        DTYPES["bfloat16"]: (gguf.LlamaFileType.MOSTLY_BF16, gguf.GGMLQuantizationType.BF16),
    }
    dtype = tensors[EMBEDDING]().dtype
    if dtype not in matrix_types:
        raise UserError(
            f"{directory}: tensor {EMBEDDING} is {dtype}; GGUF is written of {', '.join(DTYPES)}: convert it"
        )
    file_type, matrix_type = matrix_types[dtype]

    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.PHI2])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.PHI2, config.num_layers)
    for name, shape in shapes.items():
        kind, width = (matrix_type, dtype) if len(shape) == 2 else (gguf.GGMLQuantizationType.F32, DTYPES["float32"])
        size = int(np.prod(shape)) * width.itemsize
        renamed = names.get_name(name, (".weight", ".bias"))
        assert renamed is not None, name
        writer.add_tensor_info(renamed, shape, width, size, raw_dtype=kind)
    _add_metadata(writer, directory)
    _add_shape(writer, config)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_tokenizer(writer, directory, config.vocab_size)

    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        try:
            writer.write_header_to_file(Path(temporary))
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, shape in shapes.items():
                writer.write_tensor_data(_read(directory, tensors, name, shape, dtype))
        finally:
            writer.close()


# --- The model -----------------------------------------------------------------------------------------------


def _checked_config(directory: Path) -> PhiConfig:
    path = directory / "config.json"
    if path.is_file() and (model_type := read_json(path).get("model_type")) != "phi":
        raise UserError(f"{path}: model_type is {model_type!r}; only 'phi' has an architecture in GGUF: export as phi")
    _, config = read_architecture(directory)
    if config.num_heads * config.head_dim != config.hidden_size:
        raise UserError(
            f"{path}: {config.num_heads} heads of {config.head_dim} do not fill the width of {config.hidden_size}, "
            "which llama.cpp takes for granted; keep to transformers"
        )
    return config


def _checked_tensors(directory: Path, shapes: Mapping[str, Any]) -> dict[str, Callable[[], np.ndarray]]:
    tensors = open_tensors(directory)
    if missing := sorted(shapes.keys() - tensors.keys()):
        raise UserError(f"{directory}: tensor {missing[0]} is missing; get the whole model directory")
    if unknown := sorted(name for name in tensors.keys() - shapes.keys() if not PHI.buffers.fullmatch(name)):
        raise UserError(
            f"{directory}: tensor {unknown[0]} belongs to no Phi model of this config; is it another model?"
        )
    return tensors


def _read(
    directory: Path, tensors: Mapping[str, Callable[[], np.ndarray]], name: str, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """One tensor as the file holds it; `dtype` is that of the matrices."""
    tensor = tensors[name]()
    if tensor.shape != shape:
        raise UserError(
            f"{directory}: tensor {name} has shape {tensor.shape}, config.json says {shape}; get a good copy"
        )
    allowed = [dtype] if len(shape) == 2 else list(DTYPES.values())
    if tensor.dtype not in allowed:
        raise UserError(
            f"{directory}: tensor {name} is {tensor.dtype}, not {' or '.join(map(str, allowed))}; convert the model "
            "to one dtype"
        )
    if not np.isfinite(tensor).all():
        raise UserError(f"{directory}: tensor {name} holds values that are not finite; get a good copy")
    return tensor if len(shape) == 2 else tensor.astype(np.float32)


def _add_metadata(writer: gguf.GGUFWriter, directory: Path) -> None:
    """Key group general.*, from the model card; unlike the converter, nothing is guessed from a directory's name."""
    import gguf

    card = directory / MODEL_CARD
    parameters, *of_experts = writer.get_total_parameter_count()
    try:
        head = gguf.Metadata.load_model_card(directory)
        metadata = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), head, None, None, parameters)
    except Exception as error:  # whatever YAML and the package's guesses raise
        problem = " ".join(str(error).split())
        raise UserError(f"{card}: its head cannot be read ({problem}); mend or remove it") from None
    metadata.name = str(metadata.name or "phi")
    if any(name in metadata.name.lower() for name in ("phi-3", "phi3")):
        raise UserError(
            f"{card}: llama.cpp takes a model named {metadata.name!r} for a Phi-3 and fails on its tokenizer; "
            "choose another model_name"
        )
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


# --- The tokenizer -------------------------------------------------------------------------------------------


def _add_tokenizer(writer: gguf.GGUFWriter, directory: Path, rows: int) -> None:
    """Key group tokenizer.*; `rows` is the embedding's, filled up with tokens that stand for nothing."""
    import gguf

    path = directory / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; GGUF holds the tokenizer too, so export the model with its own")
    Tokenizer.load(directory)  # its complaints about a damaged file are better than those that would follow
    state = read_json(path)
    _check_pre_tokenizer(path, state)
    added = {token["id"]: token for token in state["added_tokens"]}
    _check_added(path, list(added.values()))

    texts = {number: text for text, number in state["model"]["vocab"].items()}
    texts |= {number: token["content"] for number, token in added.items()}
    if max(texts) >= rows:
        raise UserError(f"{path}: token {max(texts)} has no row in the embedding of {rows}; is it another model's?")
    tokens = [texts.get(number, f"[PAD{number}]") for number in range(rows)]
    if len(set(tokens)) < rows:  # llama.cpp ends the process
        twice = next(text for number, text in enumerate(tokens) if text in tokens[:number])
        raise UserError(f"{path}: two tokens read {twice!r}, llama.cpp keeps but one; use another tokenizer")

    def kind(number: int) -> gguf.TokenType:
        if number in added:
            return gguf.TokenType.CONTROL if added[number]["special"] else gguf.TokenType.USER_DEFINED
        return gguf.TokenType.NORMAL if number in texts else gguf.TokenType.UNUSED

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types([kind(number) for number in range(rows)])
    if (directory / "tokenizer_config.json").is_file():
        read_json(directory / "tokenizer_config.json")  # the next line would raise for a damaged one
    special = gguf.SpecialVocab(directory, load_merges=True, n_vocab=rows)
    for name in ("bos", "eos"):
        if name not in special.special_token_ids:  # llama.cpp would take token 11
            raise UserError(f"{directory}: no {name} token is named; add {name}_token to tokenizer_config.json")
    special.add_special_token |= {"bos": False, "eos": False}
    special.add_to_gguf(writer, quiet=True)


def _check_pre_tokenizer(path: Path, state: dict[str, Any]) -> None:
    """Raises UserError for what is not a byte-level BPE behind GPT-2's regular expression, and nothing else."""
    after = (state.get("post_processor") or {}).get("type", "ByteLevel")
    reason = why_cut_otherwise(state) or ("" if after == "ByteLevel" else f"its post-processor is {after}")
    if reason:
        raise UserError(
            f"{path}: {reason}; llama.cpp would do otherwise, in silence: use a byte-level BPE like GPT-2's"
        )
    model = state["model"]
    if not model.get("merges"):
        raise UserError(f"{path}: has no merges, without which llama.cpp loads no vocabulary; use another tokenizer")
    if missing := sorted(byte_alphabet().keys() - model["vocab"].keys()):
        raise UserError(f"{path}: not byte-level, {missing[0]!r} has no token; use a byte-level BPE like GPT-2's")


def _check_added(path: Path, added: list[dict[str, Any]]) -> None:
    """Raises UserError for added tokens that llama.cpp cuts out of a text in another way than `tokenizers` does.

    `tokenizers` takes the leftmost, and the longest of those; llama.cpp the longest anywhere in the text. The two
    agree unless one token may begin inside another, runs of one character aside.
    """
    for token in added:
        for option in ("single_word", "lstrip", "rstrip"):
            if token[option]:
                raise UserError(f"{path}: token {token['content']!r} is {option}, which GGUF cannot say; change it")
    for a, b in itertools.permutations((token["content"] for token in added), 2):
        overlap = any(a.endswith(b[:n]) for n in range(1, min(len(a), len(b))))
        if overlap and len({*a, *b}) > 1:
            raise UserError(f"{path}: tokens {a!r} and {b!r} overlap, where llama.cpp cuts otherwise; drop one")
