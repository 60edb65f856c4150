"""What makes a client fail, or go wrong without a word, on a Phi directory: one table of rules.

Names and shapes are stated here a second time, so that an export is checked by something that does not share our
writer's mistakes. Read for this: transformers 4.57.6 and 5.23 (run too, tests/peers/test_lint_saved.py), mlx-lm
`models/phi.py`, text-generation-inference (TGI) `flash_phi_modeling.py`, vLLM `model_executor/models/phi.py`, llama.cpp
`conversion/phi.py`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401 - by which numpy knows bfloat16
import numpy as np

from phi_jax.errors import UserError

CONFIG, GENERATION = "config.json", "generation_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
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

    Raises UserError where there is no such directory and for a model that is no Phi.
    """
    model = _Model(Path(directory))
    findings = model.findings
    for severity, name, place, find, problem, remedy in _RULES if model.sizes else ():
        if place not in model.read:
            continue
        try:
            found = find(model)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            model.add("field", place, f"a field has a value of no use ({error}): clients fail or misread it")
            continue
        if found:
            findings.append(Finding(severity, name, place, problem.format(found), remedy))
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.severity)


# --- What is in a directory ----------------------------------------------------------------------------------


class _Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    finite: bool


class _Model:
    """A directory as its clients see it, and the findings about files that are missing or damaged.

    read: the files, or groups of files, that were read whole: rules about others do not apply.
    """

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise UserError(f"{directory}: no such directory; name one in Hugging Face's format")
        self.directory = directory
        self.findings: list[Finding] = []
        self.read = {CONFIG}
        self.config = self._json(CONFIG)
        self.sizes = {} if self.findings else self._read_sizes()
        self.rope = self.config.get("rope_parameters") or {}
        self.generation, self.settings, index = (self._json(name) for name in (GENERATION, SETTINGS, INDEX))
        self.single = (directory / WEIGHTS).is_file()
        self.listed: Any = index.get("weight_map") or {}
        self.tensors: dict[str, _Tensor] = {}
        self.held: dict[str, str] = {}  # name -> file
        self._read_tensors()
        self.vocabulary = self._read_vocabulary()

    def add(self, rule: str, place: str, problem: str, remedy: str = "get a good copy") -> None:
        """Adds an error."""
        self.findings.append(Finding("error", rule, place, problem, remedy))

    def _json(self, name: str) -> dict[str, Any]:
        path = self.directory / name
        if not path.is_file():
            if name == CONFIG:
                self.add("missing", name, "missing: no client knows the model", "get the whole directory")
            return {}
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")).items())
        except (AttributeError, ValueError) as error:
            self.add("damaged", name, f"not a JSON object ({error}): clients fail, or go on without it")
            return {}

    def _read_sizes(self) -> dict[str, int]:
        kind = self.config.get("model_type")
        if kind != "phi":
            raise UserError(f"{self.directory / CONFIG}: model_type is {kind!r}; only 'phi' can be checked")
        sizes: dict[str, Any] = {field: self.config.get(field) for field in _SIZES}
        for field, size in sizes.items():
            if type(size) is not int or size < 1:
                problem = f"{field} is {size!r}: clients build no model, or one of a default size"
                self.add("size", CONFIG, problem, "set it to a whole number from 1")
                return {}
        return sizes

    def _read_tensors(self) -> None:
        """One tensor is in memory at a time."""
        from safetensors import SafetensorError, safe_open

        if not isinstance(self.listed, dict) or not all(isinstance(file, str) for file in self.listed.values()):
            self.add("damaged", INDEX, "its weight_map is not one of names to files: every client fails")
            self.listed = {}
        files = [WEIGHTS] if self.single else sorted(set(self.listed.values()))
        if not files:
            problem = "neither this nor an index of shards is here: most clients fail, or run what a pickle holds"
            self.add("missing", WEIGHTS, problem, "get the whole directory, or save it as safetensors")
            return
        for file in files:
            try:
                with safe_open(self.directory / file, framework="np") as opened:
                    for name in list(opened.keys()):
                        tensor = opened.get_tensor(name)
                        self.tensors[name] = _Tensor(str(tensor.dtype), tensor.shape, bool(np.isfinite(tensor).all()))
                        self.held[name] = file
            except (SafetensorError, OSError) as error:
                self.add("damaged", file, f"cannot be read ({_line(error)}): every client fails")
                return
        self.read |= {WEIGHTS, INDEX}

    def _read_vocabulary(self) -> dict[str, int]:
        import tokenizers

        path = self.directory / TOKENIZER
        if not path.is_file():
            problem = "missing: clients on `tokenizers` fail, others need vocab.json and merges.txt"
            self.add("missing", TOKENIZER, problem, "save it with transformers")
            return {}
        try:
            vocabulary = tokenizers.Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
        except Exception as error:  # the library raises bare Exception
            self.add("damaged", TOKENIZER, f"not a tokenizer ({_line(error)}): every client fails")
            return {}
        self.read.add(TOKENIZER)
        return vocabulary


def expected_tensors(m: _Model) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors of a model, as PhiForCausalLM names them."""
    vocabulary, width, inner, layers, heads, _ = m.sizes.values()
    of_a_head = m.config.get("head_dim") or width // heads
    q, k = heads * of_a_head, (m.config.get("num_key_value_heads") or heads) * of_a_head
    layer = {
        "input_layernorm": (width,),
        "mlp.fc1": (inner, width),
        "mlp.fc2": (width, inner),
        "self_attn.q_proj": (q, width),
        "self_attn.k_proj": (k, width),
        "self_attn.v_proj": (k, width),
        "self_attn.dense": (width, q),
    }
    modules: dict[str, tuple[int, ...]] = {"model.final_layernorm": (width,), "lm_head": (vocabulary, width)}
    for number in range(min(layers, _MOST_LAYERS)):
        modules |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    weights = {f"{name}.weight": shape for name, shape in modules.items()}
    biases = {f"{name}.bias": shape[:1] for name, shape in modules.items()}
    return {"model.embed_tokens.weight": (vocabulary, width), **weights, **biases}


# --- What the rules look for: a text for {0} in their problem, "" where all is well ------------------------------


def _named(found: Iterable[str]) -> str:
    names = list(found)
    return "" if not names else names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _misplaced(m: _Model) -> str:
    names = sorted(m.held.keys() | m.listed.keys())
    return "" if m.single else _named(name for name in names if m.listed.get(name) != m.held.get(name))


def _misshapen(m: _Model) -> str:
    both = [(name, m.tensors[name].shape, shape) for name, shape in expected_tensors(m).items() if name in m.tensors]
    return _named(f"{name} is {list(has)}, not {list(wanted)}" for name, has, wanted in both if has != wanted)


def _other_dtype(m: _Model) -> str:
    said = {m.config[field] for field in ("torch_dtype", "dtype") if m.config.get(field)}
    found = {tensor.dtype for tensor in m.tensors.values()}
    return "" if said in (set(), found) else f"{' and '.join(sorted(said))}, the tensors {' and '.join(sorted(found))}"


def _contradictory(m: _Model) -> str:
    said = {field: m.config.get(field) for field in ("partial_rotary_factor", "rope_theta")}
    return _named(field for field, x in said.items() if x is not None and m.rope.get(field, x) != x)


def _constants(m: _Model) -> str:
    """Fields that some clients have as constants, where they are others than phi-1's."""
    heads, width = m.sizes["num_attention_heads"], m.sizes["hidden_size"]
    content = {**m.config, "rope_theta": m.rope.get("rope_theta") or m.config.get("rope_theta")}
    content["rope_scaling"] = m.config.get("rope_scaling") or m.rope.get("rope_type")
    usual: dict[str, tuple[Any, ...]] = {
        "num_key_value_heads": (heads,),
        "head_dim": (width // heads,),
        "intermediate_size": (4 * width,),
        "rope_theta": (10000,),
        "rope_scaling": ("default",),
        "hidden_act": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
        "qk_layernorm": (False,),
        "tie_word_embeddings": (False,),
    }
    return ", ".join(field for field, values in usual.items() if content.get(field) not in (None, *values))


def _other_end(m: _Model) -> str:
    """Ids at which generation by the configs stops, where the tokenizer's end is not among them."""
    end = m.settings.get("eos_token") or "<|endoftext|>"
    text = end["content"] if isinstance(end, dict) else end
    own = m.vocabulary.get(text)
    given = [content["eos_token_id"] for content in (m.config, m.generation) if content.get("eos_token_id") is not None]
    wrong = [ids for ids in given if own is None or own not in (ids if isinstance(ids, list) else [ids])]
    return _named(f"{ids}, the tokenizer's {text!r} is {own}" for ids in (wrong if given else ["null or missing"]))


# severity, name, the file that it is about, what is found, problem, remedy
_Rule = tuple[str, str, str, Callable[[_Model], object], str, str]
_RULES: tuple[_Rule, ...] = (
    ("error", "index", INDEX, _misplaced,
     "{0} is not in the shard that it names: clients fail, or take random numbers for it",
     "get a good copy of all files"),
    ("error", "not-finite", WEIGHTS, lambda m: _named(n for n, tensor in m.tensors.items() if not tensor.finite),
     "{0} holds NaN or infinity: every client computes nonsense", "get an earlier save of the model"),
    ("error", "tensor-missing", WEIGHTS, lambda m: _named(n for n in expected_tensors(m) if n not in m.tensors),
     "{0} is missing: transformers takes random numbers for it, others fail", "get the whole model"),
    ("error", "tensor-shape", WEIGHTS, _misshapen,
     "{0}: every client fails", "get the config.json that belongs to these weights"),
    ("warning", "tensor-unknown", WEIGHTS, lambda m: _named(sorted(m.tensors.keys() - expected_tensors(m).keys())),
     "{0} is not of this config: transformers drops it, silently, MLX and vLLM fail", "remove it"),
    ("warning", "dtype", WEIGHTS, _other_dtype,
     "dtype or torch_dtype of config.json is {0}: transformers 5 and vLLM cast to the former, older ones to the latter",
     "set both to the dtype of the tensors"),
    ("warning", "kv-heads", CONFIG, lambda m: m.config.get("num_key_value_heads") is None,
     "num_key_value_heads is null or missing: TGI before 2.1 divides by null, MLX takes 32 for what is missing",
     "set it to num_attention_heads"),
    ("warning", "rotary-nested", CONFIG, lambda m: m.config.get("partial_rotary_factor") is None,
     "partial_rotary_factor is not at the top level, only under rope_parameters if at all: MLX, TGI and transformers 4 "
     "take their default, silently", "write it there too"),
    ("error", "rotary-contradictory", CONFIG, _contradictory,
     "{0} is another under rope_parameters: transformers 5 and vLLM go by that, others by the top level",
     "keep the one that the model was trained with"),
    ("warning", "constant", CONFIG, _constants,
     "{0} is not phi-1's: MLX, TGI, vLLM or llama.cpp have a constant for it, and fail or go wrong silently",
     "serve it with transformers"),
    ("error", "tokenizer-size", TOKENIZER, lambda m: max(m.vocabulary.values()) >= m.sizes["vocab_size"],
     "it has more entries than the embedding has rows: every client fails, or reads another's memory",
     "get the tokenizer of these weights"),
    ("warning", "end-token", TOKENIZER, _other_end,
     "eos_token_id is {0}: transformers and MLX stop at the one (at 2 where it is missing, never where it is null), "
     "TGI and vLLM at the other, if at all",
     "set eos_token_id, and eos_token in tokenizer_config.json, to <|endoftext|>"),
)  # fmt: skip
