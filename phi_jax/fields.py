"""Every field of a config: its range or its choices, whether it decides a result, and whether it names a path.

A field that says only where, how fast or how often something is kept decides nothing: changing it makes no artifact
stale. A path stands for the digest of what it holds (store/digests.py). Meaning, unit and source of each field stand
beside its value in configs/phi_1.py and configs/nano.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from phi_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Field:
    """What a field may hold. low, high: of a number, both allowed (`above`: low itself is not); choices: of a text."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    choices: tuple[str, ...] = ()
    decides: bool = True
    path: bool = False

    def problem(self, value: Any) -> str:
        """Why the field may not hold the value; "" where it may."""
        if self.choices:
            return "" if value in self.choices else f"use one of {', '.join(map(repr, self.choices))}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return ""
        if not math.isfinite(value) or not self.low <= value <= self.high or (self.above and value == self.low):
            return f"must be {self._range()}"
        return ""

    def _range(self) -> str:
        least = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        if self.low == -math.inf:
            return f"at most {self.high:g}" if self.high < math.inf else "a finite number"
        return least if self.high == math.inf else f"{least} and at most {self.high:g}"


ANY, PATH = Field(), Field(path=True)
NOTHING = Field(decides=False)  # decides nothing
COUNT, COUNT_OR_0, NUMBER, POSITIVE = Field(1), Field(0), Field(0), Field(0, above=True)
SHARE, SHARE_ABOVE_0 = Field(0, 1), Field(0, 1, above=True)
DROPOUT = Field(0, 0.999)
CONFINEMENT = Field(choices=("full", "none"))
PROMPT_FORM = Field(choices=("stripped", "kept"))
WORKERS = Field(1, decides=False)
TEMPERATURE = Field(0, 2)


def _speed(field: Field) -> Field:
    return dataclasses.replace(field, decides=False)


# Dotted path -> Field. "*" stands for the name of an entry. `training` stands for itself and every section that is not
# named here, such as `finetune`: a model may name it as the rules of its training.
FIELDS: Mapping[str, Field] = {
    "seed": COUNT_OR_0,
    "collect.sources": PATH, "collect.packages": ANY, "collect.max_files": COUNT_OR_0, "collect.max_bytes": COUNT,
    "collect.min_bytes": COUNT_OR_0, "collect.max_mean_line": COUNT, "collect.max_line": COUNT,
    "dedup.threshold": SHARE_ABOVE_0, "dedup.ngram": COUNT, "dedup.num_perm": COUNT, "dedup.bands": COUNT,
    "teachers.*.model": ANY, "teachers.*.base_url": NOTHING, "teachers.*.key_variable": NOTHING,
    "teachers.*.price_as": NOTHING, "teachers.*.mode": Field(choices=("live", "batch"), decides=False),
    "teachers.*.json_mode": Field(choices=("schema", "object", "text"), decides=False),
    "teachers.*.window": _speed(COUNT), "teachers.*.batch_requests": _speed(COUNT),
    "teachers.*.timeout": _speed(POSITIVE), "teachers.*.attempts": _speed(COUNT),
    "budget.max_dollars": _speed(NUMBER), "budget.prices": NOTHING, "budget.journal": NOTHING,
    "texts.*.writer": ANY, "texts.*.seed": COUNT_OR_0, "texts.*.textbook_requests": COUNT_OR_0,
    "texts.*.exercise_requests": COUNT_OR_0, "texts.*.share": SHARE_ABOVE_0, "texts.*.max_tokens": COUNT,
    "texts.*.temperature": TEMPERATURE, "texts.*.near_copy_threshold": SHARE_ABOVE_0, "texts.*.files": PATH,
    "texts.*.license": ANY, "texts.*.sandbox": CONFINEMENT, "texts.*.sandbox_workers": WORKERS,
    "texts.*.family_cap": COUNT, "texts.*.held_out_one_in": Field(2), "texts.*.sections_per_behaviour": COUNT_OR_0,
    "texts.*.exercises_per_behaviour": COUNT_OR_0,
    "decontaminate.problems": PATH,
    "annotate.grader": ANY, "annotate.votes": COUNT, "annotate.max_tokens": COUNT, "annotate.temperature": TEMPERATURE,
    "annotate.max_file_bytes": COUNT, "annotate.max_files": Field(4), "annotate.high_share": Field(0.01, 0.99),
    "filter.model": ANY, "filter.embed_tokens": COUNT, "filter.pooling": Field(choices=("mean", "last")),
    "filter.batch_size": _speed(COUNT), "filter.trees": COUNT, "filter.min_samples_leaf": COUNT,
    "filter.held_out": Field(0.01, 0.9), "filter.token_budget": COUNT,
    "tokenize.tokenizer": PATH, "tokenize.learn_on": ANY, "tokenize.vocab_size": Field(300), "tokenize.seq_len": COUNT,
    "tokenize.train_bytes": COUNT, "tokenize.validation_fraction": Field(0, 0.9), "tokenize.shard_tokens": COUNT,
    "model.num_layers": COUNT, "model.hidden_size": COUNT, "model.intermediate_size": COUNT, "model.num_heads": COUNT,
    "model.head_dim": COUNT, "model.rotary_dim": COUNT_OR_0,
    "model.attention": Field(choices=("xla", "cudnn", "splash")),
    "model.attention_dropout": DROPOUT, "model.residual_dropout": DROPOUT,
    "model.compute_dtype": Field(choices=("float32", "bfloat16", "float16")), "model.scan_unroll": _speed(COUNT),
    "model.remat": Field(choices=("none", "dots", "full"), decides=False),
    "training.steps": COUNT, "training.schedule_steps": COUNT, "training.warmup_steps": COUNT_OR_0,
    "training.global_batch_size": COUNT, "training.microbatches": COUNT, "training.learning_rate": POSITIVE,
    "training.weight_decay": NUMBER, "training.beta1": Field(0, 0.99999), "training.beta2": Field(0, 0.99999999),
    "training.epsilon": POSITIVE, "training.clip_norm": NUMBER, "training.loss_chunk": _speed(COUNT),
    "training.document_masks": ANY, "training.mesh": NOTHING, "training.cpu_devices": WORKERS,
    "training.initial_checkpoint": PATH,
    "training.checkpoint_every": _speed(COUNT), "training.keep_checkpoints": _speed(COUNT),
    "training.keep_every": _speed(COUNT_OR_0), "training.evaluate_every": _speed(COUNT),
    "training.validation_batches": _speed(COUNT), "training.skip_spike": NUMBER, "training.max_skipped": _speed(COUNT),
    "training.peer_timeout": _speed(Field(5)), "training.profile_steps": NOTHING,
    "models.*.mixture": ANY, "models.*.start": ANY, "models.*.rules": ANY,
    "models.*.select": Field(choices=("latest", "validation_loss", "pass_at_1")),
    "select.problems": PATH, "select.prompt_form": PROMPT_FORM, "select.max_new_tokens": COUNT,
    "select.slots": _speed(COUNT), "select.sandbox": CONFINEMENT, "select.sandbox_workers": WORKERS,
    "export.dtype": Field(choices=("float32", "bfloat16", "float16")), "export.license": ANY,
    "evaluate.benchmark": PATH, "evaluate.further_benchmarks": PATH, "evaluate.max_problems": COUNT_OR_0,
    "evaluate.prompt_form": Field(choices=("stripped", "kept", "both")), "evaluate.max_new_tokens": COUNT,
    "evaluate.slots": _speed(COUNT), "evaluate.samples_per_problem": COUNT_OR_0,
    "evaluate.temperature": Field(0, 5, above=True), "evaluate.top_p": SHARE_ABOVE_0, "evaluate.top_k": COUNT_OR_0,
    "evaluate.perturbations": ANY, "evaluate.error_rate": SHARE, "evaluate.wall_seconds": POSITIVE,
    "evaluate.sandbox": CONFINEMENT, "evaluate.sandbox_workers": WORKERS,
    "judge.grader": ANY, "judge.repeats": COUNT, "judge.max_tokens": COUNT, "judge.temperature": TEMPERATURE,
    "report.title": ANY, "report.samples": COUNT_OR_0, "report.files_to_grade": COUNT_OR_0,
}  # fmt: skip
_ENTRIES = ("teachers", "texts", "models")  # sections whose next name is an entry's
_SECTIONS = frozenset(path.partition(".")[0] for path in FIELDS)


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every field of nested values."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def field_of(path: str) -> Field | None:
    """The Field at a dotted path, or None."""
    section, _, rest = path.partition(".")
    if section in _ENTRIES:
        return FIELDS.get(f"{section}.*.{rest.rpartition('.')[2]}") if "." in rest else None
    return FIELDS.get(path if section in _SECTIONS else f"training.{rest}")


def check(values: Mapping[str, Any]) -> None:
    """Checks each field of a whole config on its own. Raises UserError naming the first field that is out of range."""
    for path, value in leaves(values):
        field = field_of(path)
        if field is None:
            raise UserError(
                f"config.{path}: no such field; the fields are those of configs/phi_1.py and configs/nano.py"
            )
        problem = field.problem(value)
        if problem:
            raise UserError(f"config.{path}={value!r}: {problem}")
