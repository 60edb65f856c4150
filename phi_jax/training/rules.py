"""The rules of a training: its section of the config, and what can be known of it before the first stage runs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NoReturn

from phi_jax.config import Config
from phi_jax.errors import UserError

if TYPE_CHECKING:
    from phi_jax.model.phi import PhiConfig

LATEST, VALIDATION_LOSS, PASS_AT_1 = "latest", "validation_loss", "pass_at_1"  # values of config.models.*.select
# Fields of PhiConfig that the tokens decide, and those that are phi-1's own.
_NOT_CHOSEN = {"vocab_size", "max_seq_len", "layer_norm_eps", "rope_theta", "initializer_range"}


def rules_of(config: Config, model_name: str) -> Config:
    """config.models.<model>.rules: `training`, or a section whose missing fields are those of config.training."""
    section = getattr(config.models, model_name).rules
    return config.training if section == "training" else getattr(config, section).over(config.training)


def model_config(model: Config, *, vocab_size: int, seq_len: int) -> PhiConfig:
    """The model's shape: what config.model says, with the vocabulary and context of the tokens it is trained on.

    Raises UserError for a shape that cannot be computed.
    """
    from phi_jax.model.phi import PhiConfig

    names = {field.name for field in dataclasses.fields(PhiConfig)} - _NOT_CHOSEN
    return PhiConfig(vocab_size=vocab_size, max_seq_len=seq_len, **{name: getattr(model, name) for name in names})


def model_shape(config: Config) -> PhiConfig:
    """The model that config.model and config.tokenize describe. Raises UserError as `model_config`."""
    return model_config(config.model, vocab_size=config.tokenize.vocab_size, seq_len=config.tokenize.seq_len)


def check(config: Config, model_name: str) -> None:
    """Raises UserError where fields of a model's training do not go together, or do not fit the weights that it starts
    from; the ranges of single fields must hold.
    """
    plan, rules = getattr(config.models, model_name), rules_of(config, model_name)

    whose = f"config.{plan.rules}, the rules of config.models.{model_name}"

    def refuse(problem: str) -> NoReturn:
        raise UserError(f"{whose}: {problem}")

    mesh, profile = tuple(rules.mesh), tuple(rules.profile_steps)
    if len(mesh) != 3 or mesh.count(-1) > 1 or any(size < 1 and size != -1 for size in mesh):
        refuse(f"mesh={mesh} must be the devices along (data, fsdp, tensor); one entry may be -1, for what remains")
    check_batch(rules, 1 if -1 in mesh else mesh[0] * mesh[1], whose)
    if rules.steps > rules.schedule_steps:
        refuse(f"steps={rules.steps} exceeds schedule_steps={rules.schedule_steps}, where the learning rate reaches 0")
    if rules.warmup_steps >= rules.schedule_steps:
        refuse(f"warmup_steps={rules.warmup_steps} leaves no step to schedule_steps={rules.schedule_steps}; lower it")
    if profile and not (len(profile) == 2 and 0 <= profile[0] <= profile[1]):
        refuse(f"profile_steps={profile} must be (first, last) with 0 <= first <= last, or () for no profile")
    if plan.select != LATEST and len(candidates(rules, plan.select)) < 2:
        refuse(
            f"select={plan.select!r} finds only the last save; set keep_every to a multiple of checkpoint_every and "
            "evaluate_every that is below steps"
        )
    shape = model_shape(config)
    if config.training.initial_checkpoint and not plan.start:
        from phi_jax.training.initial_weights import check_shape

        check_shape(config.training.initial_checkpoint, shape, learnt=not config.tokenize.tokenizer)


def check_batch(rules: Config, ways: int, whose: str = "config.training") -> None:
    """Raises UserError where a batch cannot be cut into microbatches, and each of them for `ways` groups of devices.

    whose: the rules, as the error calls them.
    """
    parts = rules.microbatches * ways
    if rules.global_batch_size % parts:
        raise UserError(
            f"{whose}: global_batch_size={rules.global_batch_size} cannot be cut into microbatches="
            f"{rules.microbatches} equal parts for {ways} devices (data x fsdp); make it a multiple of {parts}, set "
            "fewer microbatches, or change the mesh"
        )


def kept_saves(rules: Config) -> int:
    """How many saves of a training lie on the disk at most, the one among them that is being written."""
    for_good = len(range(rules.keep_every, rules.steps, rules.keep_every)) if rules.keep_every else 0
    return min(-(-rules.steps // rules.checkpoint_every), rules.keep_checkpoints + for_good) + 1


def candidates(rules: Config, select: str) -> list[int]:
    """The steps whose saves are chosen among: the last one, and those that `keep_every` keeps; with select
    "validation_loss" those that have one. A save that an interruption made is none of them.
    """
    every = rules.keep_every or rules.steps
    steps = {step for step in range(every, rules.steps, every) if step % rules.checkpoint_every == 0}
    if select == VALIDATION_LOSS:
        steps = {step for step in steps if step % rules.evaluate_every == 0}
    return sorted({*steps, rules.steps})
