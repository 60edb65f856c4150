"""Directories in Hugging Face's format, written and read. No torch: numpy and safetensors suffice.

Both ways go by the name map of an architecture (architectures/).
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from phi_jax.errors import UserError
from phi_jax.model.phi import Params, PhiConfig, abstract_params
from phi_jax.store.artifact import write_json
from phi_jax.store.rows import read_object
from phi_jax.tokens.tokenizer import Tokenizer
from phi_jax.weights.architectures.architecture import Architecture
from phi_jax.weights.architectures.codegen_names import CODEGEN
from phi_jax.weights.architectures.phi_names import PHI
from phi_jax.weights.tensor_files import CODES, open_tensors, write_tensors

ARCHITECTURES = {a.model_type: a for a in (PHI, CODEGEN)}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
MODEL_CARD = "README.md"


def export_model(
    params: Params | Iterable[tuple[str, np.ndarray]],
    config: PhiConfig,
    directory: Path,
    *,
    tokenizer_directory: Path | None,
    end_of_text_id: int,
    dtype: str = "float32",
    architecture: Architecture = PHI,
) -> None:
    """Fills a directory that transformers 4 and 5 load: weights, configs, tokenizer files.

    params: float32 arrays as abstract_params(config) describes them, in its tree, or (path, array) of one after the
    other, of which few are in memory at a time. vocab_size may exceed the tokenizer's.
    tokenizer_directory: where TOKENIZER_FILES are copied from, as many as are there; None = weights only.
    end_of_text_id: written as bos and eos id, which transformers 5 otherwise takes for 1 and 2.
    dtype: of CODES. Raises UserError for a value that is not finite or that the dtype cannot hold, and for a
    model that the architecture cannot hold.
    """
    directory.mkdir(exist_ok=True)
    ids = {"bos_token_id": end_of_text_id, "eos_token_id": end_of_text_id}
    about = {
        **architecture.write_config(config),
        "vocab_size": config.vocab_size,
        "initializer_range": config.initializer_range,
        "embd_pdrop": 0.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        **ids,
        "torch_dtype": dtype,
        "dtype": dtype,
    }
    write_json(directory / "config.json", about)
    write_json(directory / "generation_config.json", {"_from_model_config": True, **ids})
    if tokenizer_directory:
        for file in TOKENIZER_FILES:
            if (tokenizer_directory / file).is_file():
                shutil.copyfile(tokenizer_directory / file, directory / file)
    leaves = flatten_dict(params, sep="/").items() if isinstance(params, dict) else params
    cast = ((name, _cast(name, tensor, dtype)) for name, tensor in architecture.tensors(leaves, config))
    write_tensors(directory, architecture.shapes(config), np.dtype(dtype), cast)


def _cast(name: str, tensor: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = tensor.astype(dtype, copy=False)
    if not np.isfinite(cast).all():
        raise UserError(
            f"tensor {name} holds values that are not finite in {dtype}: export as bfloat16 or float32, or, where they "
            "are not finite there either, an earlier checkpoint"
        )
    return cast


# --- Reading ---------------------------------------------------------------------------------------------------


def read_architecture(directory: Path) -> tuple[Architecture, PhiConfig]:
    """What config.json says. Raises UserError where it is missing or phi.forward computes something else."""
    path = directory / "config.json"
    content = read_object(path)
    architecture = ARCHITECTURES.get(str(content.get("model_type")))
    if architecture is None:
        known = ", ".join(map(repr, ARCHITECTURES))
        raise UserError(
            f"{path}: model_type is {content.get('model_type')!r}; only {known} can be read; of a run, name e.g. "
            "W/export/finetuned/model"
        )
    if not content.get("is_causal", True):  # by which transformers lets each token see those behind it
        raise UserError(f"{path}: is_causal is {content['is_causal']!r}, only True can be read; use another model")
    try:
        return architecture, architecture.read_config(path, content)
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f"{path}: {error}") from None
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise UserError(f"{path}: a field has a value of no use ({error}); get a good copy") from None


def load_directory(directory: Path) -> tuple[Params, PhiConfig]:
    """(parameters, shape) of a Phi or CodeGen directory; see `read_tensors` for errors.

    parameters: float32 numpy arrays, the tree of abstract_params(shape); float16 and bfloat16 are widened, exactly.
    """
    architecture, config = read_architecture(directory)
    tensors = read_tensors(directory)
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), abstract_params(config))
    parts = architecture.parts(flatten_dict(params, sep="/"), config)
    for name, tensor in tensors:
        architecture.fill(parts[name], tensor, config)
    return params, config


def read_tensors(directory: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name, tensor) of a whole model, read one at a time, as the files have them.

    Raises UserError as `read_architecture` does, for a missing, unknown or misshapen tensor and for a dtype that is
    none of CODES, all by the headers, before it returns; and for a non-finite tensor when that is read.
    """
    architecture, config = read_architecture(directory)
    stored = open_tensors(directory)
    if config.num_layers > len(stored):  # a name for each of a billion layers would take hours to make
        raise UserError(
            f"{directory}: {config.num_layers} layers by config.json, {len(stored)} tensors; get a good copy"
        )
    shapes = architecture.shapes(config)
    for name, shape in shapes.items():
        if name not in stored:
            fused = [repr(other) for other in stored if "query_key_value" in other or "qkv" in other.lower()]
            remedy = "get the whole model directory"
            if fused:
                remedy = (
                    f"q, k and v lie in one, {fused[0]}: convert it first, as transformers' convert_phi_weights_to_hf"
                )
            raise UserError(f"{directory}: tensor {name} is missing; {remedy}")
        if stored[name].shape != shape or stored[name].dtype not in CODES.values():
            raise UserError(
                f"{directory}: tensor {name} has shape {stored[name].shape} in {stored[name].dtype}, config.json says "
                f"{shape} in one of {', '.join(CODES.values())}; get a good copy"
            )
    if unknown := sorted(name for name in stored.keys() - shapes if not architecture.buffers.fullmatch(name)):
        raise UserError(
            f"{directory}: tensor {unknown[0]!r} belongs to no {architecture.model_type} model of this config; "
            "is it another model?"
        )
    return ((name, _finite(directory, name, stored[name].read())) for name in shapes)


def _finite(directory: Path, name: str, tensor: np.ndarray) -> np.ndarray:
    if not np.isfinite(tensor).all():
        raise UserError(f"{directory}: tensor {name} holds values that are not finite; get a good copy")
    return tensor


def load_tokenizer(directory: Path, config: PhiConfig) -> Tokenizer:
    """The tokenizer of a directory. Raises UserError as Tokenizer.load, and where the embedding has too few rows."""
    tokenizer = Tokenizer.load(directory)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} entries, the embedding {config.vocab_size} rows; "
            "is it another model's tokenizer?"
        )
    return tokenizer
