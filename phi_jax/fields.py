"""Every field of a config: its range or its choices, whether it decides a result, and whether it names a path.

A field that says only where, how fast or how often something is kept decides nothing: changing it makes no artifact
stale. A path stands for the digest of what it holds (store/digests.py). Meaning, unit and source of each field stand
beside its value in configs/phi_1.py and configs/nano.py.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from phi_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Field:
    """What a field may hold. kind: of _KINDS. low, high: both allowed (`above`: low itself is not), of a number, of how
    many texts, or of a text's length; choices: of a text, or of each of several.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    kind: str = "a text in one line"
    choices: tuple[str, ...] = ()
    decides: bool = True
    path: bool = False
    or_name: bool = False  # a path only where a "/" is in it
    neutral: Any = None  # at this value a field stays out of the key, as if it were not there: it came later
    ordered: bool = True  # whether the order of several decides

    def problem(self, value: Any) -> str:
        """Why the field may not hold the value; "" where it may."""
        if not _KINDS[self.kind](value):
            return f"must be {self.kind}"
        if self.choices:
            unknown = {*([value] if isinstance(value, str) else value)} - {*self.choices}
            return f"use one of {', '.join(map(repr, self.choices))}" if unknown else ""
        if isinstance(value, str | list | tuple):
            return "must not be empty" if len(value) < self.low else ""
        # NaN fails every comparison, and infinity is above every `high`.
        if not self.low <= value <= min(self.high, _MOST[self.kind]) or (self.above and value == self.low):
            return f"must be {self.kind}, {self._range()}"
        return ""

    def _range(self) -> str:
        least = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        return f"{least} and at most {min(self.high, _MOST[self.kind]):g}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not value.isspace() and not re.search("[\n\r\0\ud800-\udfff]", value)


def _all(values: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(values, list | tuple) and all(map(holds, values))


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "a whole number": _is_whole,
    "a number": lambda value: _is_whole(value) or isinstance(value, float),
    "True or False": lambda value: isinstance(value, bool),
    "a text in one line": _is_text,
    "several texts, each in one line": lambda values: _all(values, lambda value: _is_text(value) and value != ""),
    "several whole numbers": lambda values: _all(values, _is_whole),
    "several pairs": lambda values: _all(values, lambda value: isinstance(value, list | tuple)),  # graph.py says more
}
# What float64 holds exactly, and what float32 holds.
_MOST = {"a whole number": 10**15, "a number": 3e38, "True or False": 1}


def _whole(low: float, high: float = math.inf) -> Field:
    return Field(low, high, kind="a whole number")


def _number(low: float, high: float = math.inf, *, above: bool = False) -> Field:
    return Field(low, high, above, "a number")


def _speed(field: Field) -> Field:
    """The same field, where it decides nothing."""
    return dataclasses.replace(field, decides=False)


def _path(field: Field) -> Field:
    return dataclasses.replace(field, path=True)


ANY, NAME = Field(), Field(1)
TEXTS, NAMES = Field(kind="several texts, each in one line"), Field(1, kind="several texts, each in one line")
LATER, LATER_TEXTS = Field(neutral=""), dataclasses.replace(TEXTS, neutral=[])
NUMBERS = Field(kind="several whole numbers", decides=False)
PERTURBATIONS = dataclasses.replace(TEXTS, choices=("typos", "paraphrase", "rename_function", "rename_arguments"))
COUNT, COUNT_OR_0, SEED = _whole(1), _whole(0), _whole(0, 2**32 - 1)  # a seed is 32 bits to scikit-learn
POSITIVE, NUMBER = _number(1e-30), _number(0)  # less than 1e-30 is 0 to float32, or near it
SHARE, SHARE_ABOVE_0 = _number(0, 1), _number(0, 1, above=True)
DROPOUT = _number(0, 0.999)
CONFINEMENT = Field(choices=("full", "none"))
PROMPT_FORM = Field(choices=("stripped", "kept"))
WORKERS = _speed(_whole(1, 1024))
TEMPERATURE = _number(0, 2)
SECONDS = _number(0.01, 86_400)


# Dotted path -> Field. "*" stands for the name of an entry. `training` stands for itself and every section that is not
# named here, such as `finetune`: a model may name it as the rules of its training.
FIELDS: Mapping[str, Field] = {
    "seed": SEED,
    "collect.sources": dataclasses.replace(_path(NAMES), ordered=False), "collect.packages": TEXTS,
    "collect.max_files": COUNT_OR_0,
    "collect.max_bytes": COUNT, "collect.min_bytes": COUNT_OR_0,
    "collect.max_mean_line": COUNT, "collect.max_line": COUNT,
    "collect.columns": LATER_TEXTS, "collect.license": LATER, "collect.licenses": LATER_TEXTS,
    "collect.opt_outs": _path(LATER),
    "collect.mask": Field(kind="True or False", neutral=False),
    "dedup.threshold": SHARE_ABOVE_0, "dedup.ngram": COUNT, "dedup.num_perm": COUNT, "dedup.bands": COUNT,
    "dedup.against": _path(LATER_TEXTS),
    "teachers.*.model": NAME, "teachers.*.base_url": _speed(NAME), "teachers.*.key_variable": _speed(ANY),
    "teachers.*.price_as": _speed(ANY), "teachers.*.mode": Field(choices=("live", "batch"), decides=False),
    "teachers.*.json_mode": Field(choices=("schema", "object", "text"), decides=False),
    "teachers.*.window": _speed(COUNT), "teachers.*.batch_requests": _speed(COUNT),
    "teachers.*.timeout": _speed(SECONDS), "teachers.*.attempts": _speed(COUNT),
    "budget.max_dollars": _speed(NUMBER), "budget.prices": _speed(ANY), "budget.journal": _speed(ANY),
    "texts.*.writer": NAME, "texts.*.seed": SEED, "texts.*.textbook_requests": COUNT_OR_0,
    "texts.*.exercise_requests": COUNT_OR_0, "texts.*.share": SHARE_ABOVE_0, "texts.*.max_tokens": COUNT,
    "texts.*.temperature": TEMPERATURE, "texts.*.near_copy_threshold": SHARE_ABOVE_0, "texts.*.files": _path(TEXTS),
    "texts.*.columns": LATER_TEXTS, "texts.*.kind": Field(choices=("", "textbooks", "exercises"), neutral=""),
    "texts.*.teacher": LATER, "texts.*.terms": _speed(ANY),
    "texts.*.license": ANY, "texts.*.sandbox": CONFINEMENT, "texts.*.sandbox_workers": WORKERS,
    "texts.*.family_cap": COUNT, "texts.*.held_out_one_in": _whole(2), "texts.*.sections_per_behaviour": COUNT_OR_0,
    "texts.*.exercises_per_behaviour": COUNT_OR_0,
    "decontaminate.problems": _path(NAME),
    "prune.problems": _path(ANY), "prune.match_rate": SHARE, "prune.model": _path(ANY),
    "annotate.grader": NAME, "annotate.votes": COUNT, "annotate.max_tokens": COUNT, "annotate.temperature": TEMPERATURE,
    "annotate.max_file_bytes": COUNT, "annotate.max_files": _whole(4), "annotate.high_share": _number(0.01, 0.99),
    "filter.model": Field(1, path=True, or_name=True),
    "filter.embed_tokens": COUNT, "filter.pooling": Field(choices=("mean", "last")),
    "filter.batch_size": _speed(COUNT), "filter.trees": COUNT, "filter.min_samples_leaf": COUNT,
    "filter.classifier": Field(choices=("forest", "linear"), neutral="forest"),
    "filter.held_out": _number(0.01, 0.9), "filter.token_budget": COUNT,
    "tokenize.tokenizer": _path(ANY), "tokenize.learn_on": NAMES, "tokenize.vocab_size": _whole(300),
    "tokenize.seq_len": COUNT, "tokenize.train_bytes": COUNT, "tokenize.shard_tokens": COUNT,
    "tokenize.validation_fraction": _number(0, 0.9, above=True),
    "model.num_layers": COUNT, "model.hidden_size": COUNT, "model.intermediate_size": COUNT, "model.num_heads": COUNT,
    "model.head_dim": COUNT, "model.rotary_dim": COUNT_OR_0,
    "model.attention": Field(choices=("xla", "cudnn", "splash")),
    "model.attention_dropout": DROPOUT, "model.residual_dropout": DROPOUT,
    "model.compute_dtype": Field(choices=("float32", "bfloat16", "float16")), "model.scan_unroll": _speed(COUNT),
    "model.remat": Field(choices=("none", "dots", "full"), decides=False),
    "training.steps": COUNT, "training.schedule_steps": COUNT, "training.warmup_steps": COUNT_OR_0,
    "training.global_batch_size": COUNT, "training.microbatches": COUNT,
    "training.optimizer": Field(choices=("adamw", "muon")), "training.learning_rate": POSITIVE,
    "training.muon_learning_rate": POSITIVE, "training.muon_weight_decay": NUMBER,
    "training.weight_decay": NUMBER, "training.beta1": _number(0, 0.99999), "training.beta2": _number(0, 0.99999),
    "training.epsilon": POSITIVE, "training.clip_norm": NUMBER, "training.loss_chunk": _speed(COUNT),
    "training.document_masks": Field(0, kind="True or False"), "training.mesh": NUMBERS,
    "training.cpu_devices": WORKERS, "training.initial_checkpoint": _path(ANY),
    "training.checkpoint_every": _speed(COUNT), "training.keep_checkpoints": _speed(COUNT),
    "training.keep_every": _speed(COUNT_OR_0), "training.evaluate_every": _speed(COUNT),
    "training.validation_batches": _speed(COUNT), "training.skip_spike": NUMBER, "training.max_skipped": _speed(COUNT),
    "training.peer_timeout": _speed(_number(5, 86_400)), "training.profile_steps": NUMBERS,
    "models.*.mixture": Field(kind="several pairs"), "models.*.start": ANY, "models.*.rules": NAME,
    "models.*.select": Field(choices=("latest", "validation_loss", "pass_at_1")),
    "select.problems": _path(ANY), "select.prompt_form": PROMPT_FORM, "select.max_new_tokens": COUNT,
    "select.slots": _speed(COUNT), "select.sandbox": CONFINEMENT, "select.sandbox_workers": WORKERS,
    "export.dtype": Field(choices=("float32", "bfloat16", "float16")), "export.license": ANY,
    "evaluate.benchmark": _path(NAME), "evaluate.further_benchmarks": _path(TEXTS), "evaluate.max_problems": COUNT_OR_0,
    "evaluate.prompt_form": Field(choices=("stripped", "kept", "both")), "evaluate.max_new_tokens": COUNT,
    "evaluate.slots": _speed(COUNT), "evaluate.samples_per_problem": COUNT_OR_0,
    "evaluate.temperature": _number(1e-3, 5), "evaluate.top_p": SHARE_ABOVE_0, "evaluate.top_k": COUNT_OR_0,
    "evaluate.perturbations": PERTURBATIONS, "evaluate.error_rate": SHARE, "evaluate.wall_seconds": SECONDS,
    "evaluate.sandbox": CONFINEMENT, "evaluate.sandbox_workers": WORKERS,
    "judge.grader": ANY, "judge.repeats": COUNT, "judge.max_tokens": COUNT, "judge.temperature": TEMPERATURE,
    "report.title": ANY, "report.samples": COUNT_OR_0, "report.files_to_grade": COUNT_OR_0,
}  # fmt: skip
_ENTRIES = ("teachers", "texts", "models")  # sections whose next name is an entry's
_SECTIONS = frozenset(path.partition(".")[0] for path in FIELDS)


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every field of nested values."""
    for name, value in values.items():
        if isinstance(value, Mapping) and (value or not path):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def field_of(path: str) -> Field | None:
    """The Field at a dotted path, or None."""
    section, _, rest = path.partition(".")
    if section in _ENTRIES:
        return FIELDS.get(f"{section}.*.{rest.rpartition('.')[2]}") if "." in rest else None
    return FIELDS.get(path if section in _SECTIONS else f"training.{rest}")


def check_whole(values: Mapping[str, Any]) -> None:
    """As `check`, of a whole config: raises UserError for a field that is not there, too."""
    found = dict(leaves(values))
    if missing := [path for path in FIELDS if "*" not in path and path not in found]:
        raise UserError(f"config.{missing[0]}: must have a value; configs/phi_1.py says which")
    check(values)


def check(values: Mapping[str, Any]) -> None:
    """Checks each field on its own. Raises UserError naming the first that is of another kind than its own, or out of
    its range.
    """
    for path, value in leaves(values):
        field = field_of(path)
        if field is None:
            raise UserError(
                f"config.{path}: no such field; the fields are those of configs/phi_1.py and configs/nano.py"
            )
        problem = field.problem(value)
        if problem:
            raise UserError(f"config.{path}={value!r}: {problem}")
