"""AdamW with linear warmup and linear decay (paper, section 2.3)."""

from __future__ import annotations

from typing import Any

import jax
import optax

from phi_jax.config import Config


def learning_rate_schedule(training: Config) -> optax.Schedule:
    """Step (from 0) -> learning rate: linear from 0 over warmup_steps, then linear to 0 at schedule_steps.

    The first step uses 1/warmup_steps of the peak: a step at rate 0 would be wasted.
    """
    peak, warmup, total = training.learning_rate, training.warmup_steps, training.schedule_steps
    rise = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    fall = optax.linear_schedule(peak, 0.0, max(total - warmup, 1))
    return optax.join_schedules([rise, fall], [warmup])


def make_optimizer(training: Config) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW.

    The paper names AdamW and its weight decay, not which tensors decay: here matrices and embeddings do, biases
    and LayerNorm parameters do not, as in GPT-3 and its successors.
    """

    def decays(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in ("kernel", "tokens"), params)

    adamw = optax.adamw(
        learning_rate_schedule(training),
        b1=training.beta1,
        b2=training.beta2,
        eps=training.epsilon,
        weight_decay=training.weight_decay,
        mask=decays,
    )
    clip = training.clip_norm
    return optax.chain(optax.clip_by_global_norm(clip), adamw) if clip else adamw
