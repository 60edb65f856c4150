"""The rules of a training: its section of the config, and what can be known of it before the first stage runs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NoReturn

from phi_jax.config import Config
from phi_jax.errors import UserError

if TYPE_CHECKING:
    from phi_jax.model.phi import PhiConfig

_OF_TOKENS = ("vocab_size", "max_seq_len")  # fields of PhiConfig that the tokens decide
_FIXED = ("layer_norm_eps", "rope_theta", "initializer_range")  # ... and that are phi-1's own


def rules_of(config: Config, model_name: str) -> Config:
    """config.models.<model>.rules: `training`, or a section whose missing fields are those of config.training."""
    section = getattr(config.models, model_name).rules
    return config.training if section == "training" else getattr(config, section).over(config.training)


def model_config(model: Config, *, vocab_size: int, seq_len: int) -> PhiConfig:
    """The model's shape: what config.model says, with the vocabulary and context of the tokens it is trained on.

    Raises UserError for a shape that cannot be computed.
    """
    from phi_jax.model.phi import PhiConfig

    names = {field.name for field in dataclasses.fields(PhiConfig)} - {*_OF_TOKENS, *_FIXED}
    return PhiConfig(vocab_size=vocab_size, max_seq_len=seq_len, **{name: getattr(model, name) for name in names})


def check(config: Config, model_name: str) -> None:
    """Raises UserError where fields of a model's training do not go together; the ranges of single fields must hold."""
    plan, rules = getattr(config.models, model_name), rules_of(config, model_name)

    def refuse(problem: str) -> NoReturn:
        raise UserError(f"config.{plan.rules}, the rules of config.models.{model_name}: {problem}")

    mesh, profile = tuple(rules.mesh), tuple(rules.profile_steps)
    if len(mesh) != 3 or mesh.count(-1) > 1 or any(size < 1 and size != -1 for size in mesh):
        refuse(f"mesh={mesh} must be the devices along (data, fsdp, tensor); one entry may be -1, for what remains")
    parts = rules.microbatches * (1 if -1 in mesh else mesh[0] * mesh[1])
    if rules.global_batch_size % parts:
        refuse(
            f"global_batch_size={rules.global_batch_size} cannot be cut into microbatches={rules.microbatches} equal "
            f"parts over mesh={mesh}; make it a multiple of {parts}"
        )
    if rules.steps > rules.schedule_steps:
        refuse(f"steps={rules.steps} exceeds schedule_steps={rules.schedule_steps}, where the learning rate reaches 0")
    if profile and not (len(profile) == 2 and 0 <= profile[0] <= profile[1]):
        refuse(f"profile_steps={profile} must be (first, last) with 0 <= first <= last, or () for no profile")
    if rules.peer_timeout < 5:
        refuse(f"peer_timeout={rules.peer_timeout} must be at least 5 seconds, or a busy process is taken for lost")
    if plan.select != "latest" and len(_candidates(rules, plan.select)) < 2:
        refuse(
            f"select={plan.select!r} finds only one save to choose; raise keep_checkpoints or keep_every, and make "
            "checkpoint_every a multiple of evaluate_every"
        )
    model_config(config.model, vocab_size=1, seq_len=config.tokenize.seq_len)


def _candidates(rules: Config, select: str) -> set[int]:
    """The saves that are there after training, and for "validation_loss" have one."""
    saves = sorted({*range(rules.checkpoint_every, rules.steps, rules.checkpoint_every), rules.steps})
    kept = {*saves[-rules.keep_checkpoints :], *(s for s in saves if rules.keep_every and s % rules.keep_every == 0)}
    if select == "validation_loss":
        kept = {step for step in kept if step == rules.steps or step % rules.evaluate_every == 0}
    return kept
