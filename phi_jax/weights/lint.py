"""What makes a client fail, or go wrong without a word, on a Phi or CodeGen directory: one table of rules.

Names, shapes and sizes are stated here a second time, so that an export is checked by something that does not share our
writer's mistakes. Read for this: transformers 4.57.6 and 5.23 (run too, tests/peers/test_lint_saved.py), mlx-lm
`models/phi.py`, text-generation-inference (TGI) `flash_phi_modeling.py`, vLLM `model_executor/models/phi.py`, llama.cpp
`conversion/phi.py`.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401 - by which numpy knows bfloat16
import numpy as np

from phi_jax.errors import UserError

CONFIG, GENERATION = "config.json", "generation_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER, SETTINGS, SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
Shape = tuple[int, ...]
# In the order of `_Model`'s sizes.
_SIZES = {
    "phi": "vocab_size hidden_size num_hidden_layers num_attention_heads max_position_embeddings intermediate_size",
    "codegen": "vocab_size n_embd n_layer n_head n_positions",
}
_DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_CONSTANTS = ("rotary_emb.inv_freq", "attn.causal_mask")  # that old releases of CodeGen saved with the weights
_MOST_LAYERS = 1000  # a damaged number of layers is not counted up to


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong in a model directory. `str(finding)` is its line.

    severity: "error" = hardly anybody loads it, or it computes wrong numbers everywhere; "warning" = the clients that
    the line names fail or go wrong. rule: its name in the table. place: the file.
    """

    severity: str
    rule: str
    place: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity} {self.place}: {self.problem}; {self.remedy}"


def lint(directory: str | Path) -> list[Finding]:
    """All findings about a model directory, errors first.

    Raises UserError where there is no such directory and for a model that is neither Phi nor CodeGen.
    """
    model = _Model(Path(directory))
    findings = model.findings
    for rule in _RULES:
        if any(getattr(model, needed) is None for needed in rule.needs):
            continue
        try:
            found = rule.broken(model)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            model.wrong("field", rule.place, f"a field has a value of no use ({error}): clients fail or misread it")
            continue
        if found:
            values = (text.format(found, m=model) for text in (rule.problem, rule.remedy))
            findings.append(Finding(rule.severity, rule.name, rule.place, *values))
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.severity)


# --- What is in a directory ----------------------------------------------------------------------------------


class _Tensor(NamedTuple):
    dtype: str
    shape: Shape
    largest: float  # absolute value; NaN where one is


class _Model:
    """A directory as its readers see it. What is missing or cannot be read is None."""

    sizes: list[int] | None = None
    phi: bool | None = None  # never False
    vocabulary: dict[str, int] | None = None

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise UserError(f"{directory}: no such directory; name one in Hugging Face's format")
        self.directory = directory
        self.findings: list[Finding] = []
        self.config: Any = self._json(CONFIG)
        self.generation = self._json(GENERATION) or {}
        self.settings = self._json(SETTINGS) or {}
        self.special = self._json(SPECIAL) or {}
        self.tensors = self._read_tensors()
        if self.config is None:
            return
        kind = str(self.config.get("model_type"))
        if kind not in _SIZES:
            raise UserError(f"{directory / CONFIG}: model_type is {kind!r}; only {' and '.join(_SIZES)} can be checked")
        sizes: dict[str, Any] = {field: self.config.get(field) for field in _SIZES[kind].split()}
        if wrong := [f"{f} is {n!r}" for f, n in sizes.items() if type(n) is not int or n < 1]:
            problem = f"{wrong[0]}: clients build no model, or one of a default size"
            self.wrong("size", CONFIG, problem, "set it to a whole number from 1")
            return
        self.sizes = list(sizes.values())
        self.vocab_size, self.width, self.layers, self.heads, self.context, *inner = self.sizes
        self.inner = inner[0] if inner else self.config.get("n_inner") or 4 * self.width
        self.phi = kind == "phi" or None
        self.rope = self.config.get("rope_parameters") or {}
        state = self._json(TOKENIZER)
        if state is not None:
            import tokenizers

            try:
                self.vocabulary = tokenizers.Tokenizer.from_str(json.dumps(state)).get_vocab(with_added_tokens=True)
            except Exception as error:  # the library raises bare Exception
                self.wrong("damaged", TOKENIZER, f"not a tokenizer ({_line(error)}): every client fails")

    def wrong(self, rule: str, place: str, problem: str, remedy: str = "get a good copy") -> None:
        """Adds an error."""
        self.findings.append(Finding("error", rule, place, problem, remedy))

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.directory / name
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                return content
            error: object = "not an object"
        except ValueError as wrong:
            error = wrong
        self.wrong("damaged", name, f"not JSON as it should be ({error}): clients fail, or go on without it")
        return None

    def _read_tensors(self) -> dict[str, _Tensor] | None:
        """Name -> tensor, of the files that transformers reads; one tensor is in memory at a time."""
        from safetensors import SafetensorError, safe_open

        self.index = self._json(INDEX)
        listed = (self.index or {}).get("weight_map") or {}
        if not isinstance(listed, dict):
            self.wrong("index", INDEX, "its weight_map is no map: every client fails")
            listed = {}
        self.listed = {name: str(file) for name, file in listed.items()}
        self.single = (self.directory / SINGLE).is_file()
        self.holders = collections.defaultdict(list)  # name -> files
        files = sorted(path.name for path in self.directory.glob("*.safetensors"))
        tensors = {}
        whole = True
        for file in [SINGLE] if self.single else sorted(set(self.listed.values())) or files:
            try:
                with safe_open(self.directory / file, framework="np") as opened:
                    for name in list(opened.keys()):
                        tensor = opened.get_tensor(name)
                        with np.errstate(invalid="ignore"):
                            largest = float(np.abs(tensor).max(initial=0))
                        dtype = opened.get_slice(name).get_dtype()
                        tensors[name] = _Tensor(_DTYPES.get(dtype, dtype), tensor.shape, largest)
                        self.holders[name].append(file)
            except (SafetensorError, OSError) as error:
                self.wrong("damaged", file, f"cannot be read ({_line(error)}): every client fails")
                whole = False
        return tensors if tensors and whole else None


def expected_tensors(m: _Model) -> dict[str, Shape]:
    """Name -> shape of all tensors of a model, as PhiForCausalLM and CodeGenForCausalLM name them."""
    v, d, f = m.vocab_size, m.width, m.inner
    # Name of a module -> the shape of its weight; each has a bias but those of CodeGen's attention.
    if m.phi:
        of_a_head = m.config.get("head_dim") or d // m.heads
        q, k = m.heads * of_a_head, (m.config.get("num_key_value_heads") or m.heads) * of_a_head
        layer = {"input_layernorm": (d,), "mlp.fc1": (f, d), "mlp.fc2": (d, f), "self_attn.q_proj": (q, d)}
        layer |= {"self_attn.k_proj": (k, d), "self_attn.v_proj": (k, d), "self_attn.dense": (d, q)}
        embedding, norm, prefix = "model.embed_tokens", "model.final_layernorm", "model.layers"
    else:
        layer = {"ln_1": (d,), "mlp.fc_in": (f, d), "mlp.fc_out": (d, f)}
        layer |= {"attn.qkv_proj": (3 * d, d), "attn.out_proj": (d, d)}
        embedding, norm, prefix = "transformer.wte", "transformer.ln_f", "transformer.h"
    modules: dict[str, Shape] = {norm: (d,), "lm_head": (v, d)}
    for number in range(min(m.layers, _MOST_LAYERS)):
        modules |= {f"{prefix}.{number}.{name}": shape for name, shape in layer.items()}
    weights = {f"{name}.weight": shape for name, shape in modules.items()}
    biases = {f"{name}.bias": shape[:1] for name, shape in modules.items() if ".attn." not in name}
    return {f"{embedding}.weight": (v, d), **weights, **biases}


# --- What the rules look for: a text for {0} in their sentences, "" where all is well ---------------------------


def _named(names: list[str]) -> str:
    return "" if not names else names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _unknown(m: Any) -> str:
    extra = sorted(m.tensors.keys() - expected_tensors(m).keys())
    return _named([name for name in extra if m.phi or not name.endswith(_CONSTANTS)])


def _misshapen(m: Any) -> str:
    expected = expected_tensors(m).items()
    found = [(name, m.tensors[name].shape, shape) for name, shape in expected if name in m.tensors]
    return _named([f"{name} is {list(has)}, not {list(wanted)}" for name, has, wanted in found if has != wanted])


def _misplaced(m: Any) -> str:
    return "" if m.single else _named([name for name, files in m.holders.items() if m.listed.get(name) not in files])


def _other_dtype(m: Any) -> str:
    said = {m.config[field] for field in ("torch_dtype", "dtype") if m.config.get(field)}
    found = {tensor.dtype for tensor in m.tensors.values() if tensor.dtype in _DTYPES.values()}
    return (
        "" if said == found or not said else f"{' and '.join(sorted(said))}, the tensors {' and '.join(sorted(found))}"
    )


def _not_on_top(m: Any) -> str:
    """Transformers 5 looks under rope_parameters first, the others at the top level alone."""
    theta_matters = "rope_theta" in m.config or m.rope.get("rope_theta", 10000) != 10000  # which all take by default
    fields = ["partial_rotary_factor", *(["rope_theta"] if theta_matters else [])]
    return _named([field for field in fields if m.config.get(field) is None])


def _contradictory(m: Any) -> str:
    fields = [field for field in ("partial_rotary_factor", "rope_theta") if m.config.get(field) is not None]
    return _named([field for field in fields if m.rope.get(field, m.config[field]) != m.config[field]])


def _no_pairs(m: Any) -> str:
    head_dim = m.config.get("head_dim") or m.width // m.heads
    rotary_dim = int(head_dim * (m.rope.get("partial_rotary_factor") or m.config.get("partial_rotary_factor") or 0.5))
    return f"{rotary_dim} of {head_dim}" if rotary_dim % 2 or not 0 < rotary_dim <= head_dim else ""


def _constants(m: Any) -> str:
    """Fields that some readers of Phi have as constants, where they are others."""
    scaling = m.config.get("rope_scaling") or {}
    theta = m.rope.get("rope_theta") or m.config.get("rope_theta") or 10000
    differs = {
        "num_key_value_heads": (m.config.get("num_key_value_heads") or m.heads) != m.heads,
        "head_dim": (m.config.get("head_dim") or m.width // m.heads) != m.width // m.heads,
        "intermediate_size": m.inner != 4 * m.width,
        "rope_theta": theta != 10000,
        "rope_scaling": bool(scaling) or m.rope.get("rope_type", "default") != "default",
        "hidden_act": m.config.get("hidden_act", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
        "qk_layernorm": m.config.get("qk_layernorm"),
        "tie_word_embeddings": m.config.get("tie_word_embeddings"),
    }
    return ", ".join(field for field, other in differs.items() if other)


def _ids(content: Any, field: str) -> list[int]:
    value = content.get(field)
    return value if isinstance(value, list) else [] if value is None else [value]


def _end(m: Any) -> str:
    end = m.settings.get("eos_token") or m.special.get("eos_token") or "<|endoftext|>"
    return end["content"] if isinstance(end, dict) else end


def _other_ends(m: Any) -> str:
    """Ids at which generation by the configs stops, where the tokenizer's end is not among them."""
    own = m.vocabulary.get(_end(m))
    ends = [_ids(content, "eos_token_id") for content in (m.config, m.generation)]
    return " and ".join(str(ids) for ids in ends if ids and own is not None and own not in ids)


class _Rule(NamedTuple):
    """problem, remedy: sentences in which {0} is what `broken` found. needs: of a model, for the rule to apply."""

    severity: str
    name: str
    place: str
    needs: tuple[str, ...]
    broken: Callable[[Any], object]
    problem: str
    remedy: str


_HERE, _WEIGHTS, _BOTH = ("directory",), ("config", "tensors"), ("sizes", "tensors")
_PHI, _WORDS = ("phi",), ("sizes", "vocabulary")
_RULES = [
    _Rule(*rule)
    for rule in (
        ("error", "no-config", CONFIG, _HERE, lambda m: not (m.directory / CONFIG).is_file(),
         "missing: no client knows the model", "get the whole directory"),
        ("error", "no-weights", SINGLE, _HERE, lambda m: not any(m.directory.glob("*.safetensors")),
         "no safetensors are here: most clients fail, and who must not run what a pickle holds",
         "get the whole directory, or save it as safetensors"),
        ("error", "no-tokenizer", TOKENIZER, _HERE, lambda m: not (m.directory / TOKENIZER).is_file(),
         "missing: clients on `tokenizers` fail, others need vocab.json and merges.txt", "save it with transformers"),
        ("warning", "two-models", SINGLE, _WEIGHTS, lambda m: m.single and m.listed,
         "lies beside an index of shards: transformers reads this file, vLLM the shards, MLX both, TGI fails",
         "remove what is not the model"),
        ("warning", "index", INDEX, ("index",), lambda m: not m.index.get("metadata"),
         "has no metadata: transformers fails", 'write "metadata": {{"total_size": ...}}'),
        ("warning", "index-tensor", INDEX, _WEIGHTS, _misplaced,
         "{0} is not listed in the shard that holds it: transformers may take random numbers instead",
         "write the index again"),
        ("error", "index-tensor", INDEX, _WEIGHTS, lambda m: _named(sorted(m.listed.keys() - m.tensors.keys())),
         "{0} is in no shard: every client fails", "get a good copy"),
        ("warning", "tensor-twice", INDEX, _WEIGHTS, lambda m: _named([n for n, f in m.holders.items() if f[1:]]),
         "{0} is in more than one shard: TGI fails, others take either", "keep one of them"),
        ("error", "not-finite", SINGLE, _WEIGHTS,
         lambda m: _named([name for name, x in m.tensors.items() if not math.isfinite(x.largest)]),
         "{0} holds NaN or infinity: every client computes nonsense", "get an earlier save of the model"),
        ("warning", "float16-range", SINGLE, _WEIGHTS,
         lambda m: _named([name for name, x in m.tensors.items() if 65504 < x.largest < math.inf]),
         "{0} holds numbers beyond 65504: whoever serves it in float16 computes infinities",
         "serve it in bfloat16 or float32"),
        ("error", "tensor-missing", SINGLE, _BOTH,
         lambda m: _named([name for name in expected_tensors(m) if name not in m.tensors]),
         "{0} is missing: transformers takes random numbers for it, others fail", "get the whole model"),
        ("error", "tensor-shape", SINGLE, _BOTH, _misshapen,
         "{0}: every client fails", "get the config.json that belongs to these weights"),
        ("warning", "tensor-unknown", SINGLE, _BOTH, _unknown,
         "{0} is not of this config: transformers drops it, silently, MLX and vLLM fail", "remove it"),
        ("warning", "dtype", CONFIG, _WEIGHTS, _other_dtype,
         "dtype or torch_dtype is {0}: transformers 5 and vLLM cast to the former, what is older to the latter",
         "set both to the dtype of the tensors"),
        ("warning", "kv-heads", CONFIG, _PHI, lambda m: m.config.get("num_key_value_heads") is None,
         "num_key_value_heads is null or missing: TGI before 2.1 divides by null, MLX takes 32 for what is missing",
         "set it to {m.heads}"),
        ("error", "head-dim", CONFIG, _PHI, lambda m: m.config.get("head_dim", 0) is None,
         "head_dim is null: transformers computes with it and fails", "remove it"),
        ("warning", "rotary-missing", CONFIG, _PHI, _not_on_top,
         "{0} is not at the top level: MLX, TGI and transformers 4 take their default, silently, or fail on null",
         "write it there too"),
        ("error", "rotary-contradictory", CONFIG, _PHI, _contradictory,
         "{0} is another under rope_parameters: transformers 5 and vLLM go by that, others by the top level",
         "keep the one that the model was trained with"),
        ("error", "rotary-dim", CONFIG, _PHI, _no_pairs,
         "partial_rotary_factor rotates {0} numbers of a head, which are no pairs: every client fails",
         "set it to an even part of the head"),
        ("warning", "constant", CONFIG, _PHI, _constants,
         "{0} is not phi-1's: MLX, TGI, vLLM or llama.cpp have a constant for it, and fail or go wrong silently",
         "serve it with transformers"),
        ("warning", "token-ids", CONFIG, _BOTH,
         lambda m: [f for f in ("bos_token_id", "eos_token_id") if not _ids(m.config, f) + _ids(m.generation, f)],
         "{0} null or missing: transformers takes 1 and 2, or never stops", "set both to the id of <|endoftext|>"),
        ("error", "tokenizer-size", TOKENIZER, _WORDS, lambda m: max(m.vocabulary.values()) >= m.vocab_size,
         "more entries than the {m.vocab_size} rows of the embedding: every client fails, or reads another's memory",
         "get the tokenizer of these weights"),
        ("warning", "end-token", SETTINGS, _WORDS, lambda m: _end(m) not in m.vocabulary,
         "eos_token is not in the vocabulary: TGI and vLLM have nothing to stop at", "set it to <|endoftext|>"),
        ("warning", "end-differs", CONFIG, _WORDS, _other_ends,
         "eos_token_id is {0}, the tokenizer's end another: transformers and MLX stop at the one, TGI and vLLM at the "
         "other", "set it to the tokenizer's"),
        ("warning", "max-length", SETTINGS, _WORDS, lambda m: m.settings.get("model_max_length") != m.context,
         "model_max_length is not {m.context}: transformers cuts shorter texts, or does not warn of longer ones",
         "set it to {m.context}"),
    )
]  # fmt: skip
