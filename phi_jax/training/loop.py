"""The training loop: one linear road from token shards to a checkpoint."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from phi_jax.artifact import Artifact, Draft, write_json
from phi_jax.checkpoints import Checkpoints, state_digest
from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel.mesh import batch_sharding, make_mesh
from phi_jax.progress import Progress, say
from phi_jax.tokens.batches import TokenBatches
from phi_jax.training.metrics import Metrics
from phi_jax.training.optimizer import learning_rate_schedule, make_optimizer
from phi_jax.training.step import init_state, make_eval_step, make_train_step, state_shardings


def model_config(model: Config, *, vocab_size: int, seq_len: int) -> PhiConfig:
    """The model's shape: what the config says, the vocabulary and context of the tokens it is trained on."""
    return PhiConfig(
        vocab_size=vocab_size,
        max_seq_len=seq_len,
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_heads=model.num_heads,
        head_dim=model.head_dim,
        rotary_dim=model.rotary_dim,
        attention=model.attention,
        attention_dropout=model.attention_dropout,
        residual_dropout=model.residual_dropout,
        compute_dtype=model.compute_dtype,
        remat=model.remat,
    )


def pretrain(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `pretrain`: next-token training from fresh weights (paper, section 2.3).

    inputs: {"tokens": an artifact with outputs "tokens" and "tokenizer"}. Outputs: "checkpoint" (parameters and
    optimizer state of the last steps kept), "model" (the shape, JSON), "tokenizer", "metrics".
    """
    training = config.training

    # --- Data -----------------------------------------------------------------------------------------------
    token_directory = inputs["tokens"].path("tokens")
    batch_size = training.global_batch_size
    if batch_size % training.microbatches:
        raise UserError(
            f"config.training.global_batch_size={batch_size} cannot be cut into "
            f"config.training.microbatches={training.microbatches} equal parts"
        )
    batches = TokenBatches(token_directory, split="train", global_batch_size=batch_size, seed=config.seed)
    held_out = TokenBatches(
        token_directory, split="validation", global_batch_size=batch_size, seed=config.seed, shuffle=False
    )

    # --- Model, mesh, step ----------------------------------------------------------------------------------
    shape = model_config(config.model, vocab_size=batches.vocab_size, seq_len=batches.seq_len)
    mesh = make_mesh(training.mesh)
    optimizer = make_optimizer(training)
    schedule = learning_rate_schedule(training)
    train_step = make_train_step(
        shape, optimizer, mesh,
        microbatches=training.microbatches, loss_chunk=training.loss_chunk, seed=config.seed,
    )  # fmt: skip
    eval_step = make_eval_step(shape, optimizer, mesh, loss_chunk=training.loss_chunk)
    shardings = state_shardings(shape, optimizer, mesh)
    parameters = sum(x.size for x in jax.tree.leaves(jax.eval_shape(
        lambda: init_state(shape, optimizer, config.seed)["params"])))  # fmt: skip
    banner = {
        "parameters": parameters,
        "attention": shape.attention,
        "compute_dtype": shape.compute_dtype,
        "remat": shape.remat,
        "mesh": dict(zip(mesh.axis_names, mesh.devices.shape, strict=True)),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    say(f"{draft.label}: " + ", ".join(f"{k} {v}" for k, v in banner.items()))
    record = {
        "config": config.to_dict(),
        "model": dataclasses.asdict(shape),
        "tokens": inputs["tokens"].identity,
        "banner": banner,
    }

    with Checkpoints(draft.directory / "checkpoints", keep=training.keep_checkpoints) as checkpoints:
        # --- Fresh or resumed state -------------------------------------------------------------------------
        abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            jax.eval_shape(lambda: init_state(shape, optimizer, config.seed)),
            shardings,
        )
        found = checkpoints.restore_latest(abstract)
        if found is None:
            step = 0
            state = jax.jit(lambda: init_state(shape, optimizer, config.seed), out_shardings=shardings)()
        else:
            step, state, _ = found
            say(f"{draft.label}: resumed from the checkpoint of step {step}")

        # --- Steps ------------------------------------------------------------------------------------------
        sequence_tokens = batch_size * batches.seq_len
        sharding = batch_sharding(mesh)
        pending: dict[str, Any] | None = None  # figures of the step before, read after the next is dispatched
        with (
            Metrics(draft.directory, first_step=step) as metrics,
            Progress(draft.label, training.steps * sequence_tokens, "tokens", start=step * sequence_tokens) as bar,
        ):
            clock = time.monotonic()

            def flush(pending: dict[str, Any]) -> None:
                nonlocal clock
                figures = {k: float(v) if isinstance(v, jax.Array) else v for k, v in pending.items()}
                now = time.monotonic()
                figures["tokens_per_second"] = round(sequence_tokens / (now - clock), 1)
                clock = now
                metrics.write(figures)
                bar.advance(sequence_tokens, f"loss {figures['loss']:.3f}")

            for tokens_BxT1 in _from_step(batches, step, training.steps):
                state, figures = train_step(state, jax.device_put(tokens_BxT1, sharding))
                if pending is not None:
                    flush(pending)
                pending = {"step": step, **figures, "learning_rate": float(schedule(step))}
                step += 1
                last = step == training.steps
                if last or step % training.evaluate_every == 0:
                    pending["validation_loss"] = _validation_loss(
                        eval_step, state, held_out, training.validation_batches, sharding
                    )
                if last or step % training.checkpoint_every == 0:
                    checkpoints.save(step, state, {**record, "step": step})
            if pending is not None:
                flush(pending)
        checkpoints.wait()
        digest = state_digest(state)

    # --- What is left behind --------------------------------------------------------------------------------
    write_json(draft.directory / "model.json", dataclasses.asdict(shape))
    shutil.copytree(inputs["tokens"].path("tokenizer"), draft.directory / "tokenizer", dirs_exist_ok=True)
    draft.add_output("checkpoint", "checkpoints", kind="checkpoint", digest=digest, step=step)
    draft.add_output("model", "model.json")
    draft.add_output("tokenizer", "tokenizer")
    draft.add_output("metrics", "metrics.jsonl", kind="log")
    draft.add_output("tensorboard", "tensorboard", kind="log")
    draft.add_facts(
        **banner,
        steps=step,
        tokens=step * sequence_tokens,
        epochs=round(step * batch_size / batches.num_records, 3),
    )


def _from_step(batches: TokenBatches, first: int, end: int) -> Iterator[np.ndarray]:
    """Token batches [B, seq_len + 1] int32 of the steps first..end-1."""
    if first >= end:
        return
    stream = batches.iterate(first)
    for step, (tokens, _) in enumerate(stream, start=first):
        yield tokens
        if step + 1 == end:
            return


def _validation_loss(
    eval_step: Any, state: Any, held_out: TokenBatches, count: int, sharding: jax.sharding.Sharding
) -> jax.Array:
    """Mean loss over the first `count` held-out batches, the same ones each time."""
    losses = [eval_step(state, jax.device_put(held_out.batch(i)[0], sharding)) for i in range(count)]
    return sum(losses[1:], losses[0]) / count
