"""What makes a client fail, or go wrong without a word, on a Phi directory: one table of rules.

First the directory has to pass the checks by which `phi-jax import` reads it: whole files, every tensor by its name and
shape, finite, a config.json that means what phi.forward computes, a tokenizer that fits. Clients fail on most of what
these refuse, or take random numbers for it. The table has what they go wrong on besides. Read for it: transformers
4.57.6 and 5.23 (run too, tests/peers/test_lint_saved.py), mlx-lm `models/phi.py`, text-generation-inference (TGI)
`flash_phi_modeling.py`, vLLM `model_executor/models/phi.py`, llama.cpp `conversion/phi.py`.
"""

from pathlib import Path
from typing import NamedTuple

from phi_jax.errors import UserError
from phi_jax.model.phi import PhiConfig
from phi_jax.store.artifact import Json
from phi_jax.store.rows import escaped, read_object
from phi_jax.tokens.tokenizer import Tokenizer
from phi_jax.tokens.tokenizer_files import END_OF_TEXT
from phi_jax.weights.activations import activation_peaks, float16_overflow
from phi_jax.weights.huggingface import load_tokenizer, read_architecture, read_tensors


class Finding(NamedTuple):
    """One thing that is wrong in a model directory. `str(finding)` is its line.

    severity: "error" = it cannot be loaded; "warning" = the clients that the line names fail or go wrong. rule: its
    name in the table, or "load". text: the file, the problem and the remedy.
    """

    severity: str
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.severity} {self.rule}: {self.text}"


def lint(directory: str | Path) -> list[Finding]:
    """Why a model directory cannot be loaded, or else all that clients go wrong on.

    One block's tensors are in memory at a time (activations.py). Raises UserError where there is no config.json
    and for a model that is no Phi.
    """
    directory = Path(directory)
    path = directory / "config.json"
    config = read_object(path)
    if config.get("model_type") != "phi":
        raise UserError(f"{path}: model_type is {config.get('model_type')!r}; only 'phi' can be checked")
    try:
        _, shape = read_architecture(directory)
        others = [directory / name for name in ("generation_config.json", "tokenizer_config.json")]
        generation, settings = (read_object(other) if other.is_file() else {} for other in others)
        tokenizer = load_tokenizer(directory, shape)
        dtypes = sorted({tensor.dtype.name for _, tensor in read_tensors(directory)})
    except UserError as error:
        return [Finding("error", "load", str(error))]
    model = _Model(config, shape, generation, settings, tokenizer, dtypes, activation_peaks(directory))
    # What a file says goes into one line that can be printed: no line ends, no lone surrogates.
    return [
        Finding("warning", rule, text.format(escaped("\\n".join(str(found).splitlines()))))
        for rule, find, text in _RULES
        if (found := find(model))
    ]


# --- What the rules look for: a text for {0}, or False or "" where all is well -------------------------------------


class _Model(NamedTuple):
    config: Json
    shape: PhiConfig
    generation: Json  # generation_config.json
    settings: Json  # tokenizer_config.json
    tokenizer: Tokenizer
    dtypes: list[str]
    peaks: dict[str, float]  # of its activations


def _other_dtype(m: _Model) -> str:
    said = [str(m.config[field]) for field in ("torch_dtype", "dtype") if m.config.get(field)]
    wrong = any([dtype] != m.dtypes for dtype in said)
    return f"{' and '.join(said)}, the tensors {' and '.join(m.dtypes)}" if wrong else ""


def _constants(m: _Model) -> str:
    """Fields that some clients have as constants, where they are others than phi-1's."""
    usual = {
        "head_dim": (m.shape.head_dim * m.shape.num_heads, m.shape.hidden_size),
        "intermediate_size": (m.shape.intermediate_size, 4 * m.shape.hidden_size),
        "rope_theta": (m.shape.rope_theta, 10000),
    }
    return ", ".join(field for field, (value, constant) in usual.items() if value != constant)


def _other_end(m: _Model) -> str:
    """Ids at which generation by the configs stops, where the tokenizer's end is not among them."""
    end = m.settings.get("eos_token") or END_OF_TEXT
    text = str(end.get("content") if isinstance(end, dict) else end)
    own = m.tokenizer.backend.token_to_id(text)
    given = [x["eos_token_id"] for x in (m.config, m.generation) if x.get("eos_token_id") is not None]
    for ids in given or ["null or missing"]:
        if own is None or own not in (ids if isinstance(ids, list) else [ids]):
            return f"{ids}, the tokenizer's {text!r} is {own}"
    return ""


# name, what is found, line
_RULES = (
    ("dtype", _other_dtype,
     "config.json: dtype or torch_dtype is {0}: transformers 5 and vLLM cast to the former, older ones to the latter; "
     "set both to the dtype of the tensors"),
    ("kv-heads", lambda m: m.config.get("num_key_value_heads") is None,
     "config.json: num_key_value_heads is null or missing: TGI before 2.1 divides by null, MLX takes 32 for what is "
     "missing; set it to num_attention_heads"),
    ("rotary-nested", lambda m: m.config.get("partial_rotary_factor") is None,
     "config.json: partial_rotary_factor is not at the top level, only under rope_parameters if at all: MLX, TGI and "
     "transformers 4 take their default, silently; write it there too"),
    ("constant", _constants,
     "config.json: {0} is not phi-1's: MLX, TGI, vLLM or llama.cpp have a constant for it, and fail or go wrong "
     "silently; serve it with transformers"),
    ("end-token", _other_end,
     "eos_token_id is {0}: transformers and MLX stop at the one (2 where it is missing, never where it is null), TGI "
     "and vLLM at the other, if at all; set eos_token_id, and eos_token in tokenizer_config.json, to <|endoftext|>"),
    ("float16", lambda m: float16_overflow(m.peaks),
     "activations: over a few texts they reach {0}, and float16 holds 65,504: clients that compute in it give NaN, "
     "e.g. transformers' eager attention; serve it in bfloat16 or float32"),
)  # fmt: skip
