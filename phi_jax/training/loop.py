"""The training loop: one linear road from token shards to a checkpoint."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from phi_jax.artifact import Artifact, Draft, write_json
from phi_jax.checkpoints import Checkpoints, restore_params, state_digest
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
        scan_unroll=model.scan_unroll,
    )


def pretrain(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `pretrain`: next-token training from fresh weights (paper, section 2.3).

    inputs: {"tokens": a token artifact}, and where "textbooks" is one too, config.mixture.textbooks says its share of
    the records. Outputs as in `_train`.
    """
    sources = {"tokens": 1.0}
    if "textbooks" in inputs:
        share = config.mixture.textbooks
        sources = {"tokens": 1.0 - share, "textbooks": share}
    batches = _open_batches(config, config.training, inputs, sources)
    shape = model_config(config.model, vocab_size=batches.train.vocab_size, seq_len=batches.train.seq_len)
    _train(config, config.training, shape, batches, inputs["tokens"], draft)


def finetune(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `finetune`: training goes on from another run's weights, on other tokens (paper, section 2.3).

    inputs: {"checkpoint": a training artifact, "tokens": a token artifact of the same tokenizer}. Fields that
    config.finetune lacks are those of config.training; the optimizer starts afresh. The paper keeps the best of the
    checkpoints saved every 1,000 steps; here it is the last. Outputs as in `_train`.
    """
    rules = config.finetune.over(config.training)
    start = inputs["checkpoint"]
    if start.manifest["outputs"]["tokenizer"]["sha256"] != inputs["tokens"].manifest["outputs"]["tokenizer"]["sha256"]:
        raise UserError(
            f"{inputs['tokens'].label}: its tokenizer is not the one that {start.label} was trained with; "
            "tokenize the texts again with that one"
        )
    batches = _open_batches(config, rules, inputs, {"tokens": 1.0})
    shape = PhiConfig(**json.loads(start.path("model").read_text()))
    _train(config, rules, shape, batches, inputs["tokens"], draft, start=start)


class Batches(NamedTuple):
    """What a run is trained on, and what its validation loss is taken on."""

    train: TokenBatches
    held_out: TokenBatches
    tokens: dict[str, str]  # identity of each token artifact


def _open_batches(
    config: Config, rules: Config, inputs: Mapping[str, Artifact], sources: Mapping[str, float]
) -> Batches:
    batch_size = rules.global_batch_size
    if batch_size % rules.microbatches:
        raise UserError(
            f"config.training.global_batch_size={batch_size} cannot be cut into "
            f"config.training.microbatches={rules.microbatches} equal parts"
        )
    weights = {Path(inputs[name].path("tokens")): share for name, share in sources.items()}
    return Batches(
        TokenBatches(weights, split="train", global_batch_size=batch_size, seed=config.seed),
        TokenBatches(weights, split="validation", global_batch_size=batch_size, seed=config.seed, shuffle=False),
        {name: inputs[name].identity for name in sources},
    )


def _train(
    config: Config,
    training: Config,
    shape: PhiConfig,
    batches: Batches,
    tokens: Artifact,
    draft: Draft,
    start: Artifact | None = None,
) -> None:
    """The run itself, from fresh weights or those of `start`.

    Outputs: "checkpoint" (parameters and optimizer state of the last steps kept), "model" (the shape, JSON),
    "tokenizer", "metrics", "tensorboard".
    """
    batch_size = training.global_batch_size

    # --- Model, mesh, step ----------------------------------------------------------------------------------
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
        "scan_unroll": shape.scan_unroll,
        "mesh": dict(zip(mesh.axis_names, mesh.devices.shape, strict=True)),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    say(f"{draft.label}: " + ", ".join(f"{k} {v}" for k, v in banner.items()))
    record = {
        "config": config.to_dict(),
        "model": dataclasses.asdict(shape),
        "tokens": batches.tokens,
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
            if start is not None:
                from_step = start.manifest["outputs"]["checkpoint"]["step"]
                state["params"] = restore_params(start.path("checkpoint"), from_step, abstract["params"])
                say(f"{draft.label}: starts from the weights of {start.label}, step {from_step}")
        else:
            step, state, _ = found
            say(f"{draft.label}: resumed from the checkpoint of step {step}")

        # --- Steps ------------------------------------------------------------------------------------------
        sequence_tokens = batch_size * shape.max_seq_len
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

            for tokens_BxT1 in _from_step(batches.train, step, training.steps):
                state, figures = train_step(state, jax.device_put(tokens_BxT1, sharding))
                if pending is not None:
                    flush(pending)
                pending = {"step": step, **figures, "learning_rate": float(schedule(step))}
                step += 1
                last = step == training.steps
                if last or step % training.evaluate_every == 0:
                    pending["validation_loss"] = _validation_loss(
                        eval_step, state, batches.held_out, training.validation_batches, sharding
                    )
                if last or step % training.checkpoint_every == 0:
                    checkpoints.save(step, state, {**record, "step": step})
            if pending is not None:
                flush(pending)
        checkpoints.wait()
        digest = state_digest(state)

    # --- What is left behind --------------------------------------------------------------------------------
    write_json(draft.directory / "model.json", dataclasses.asdict(shape))
    shutil.copytree(tokens.path("tokenizer"), draft.directory / "tokenizer", dirs_exist_ok=True)
    draft.add_output("checkpoint", "checkpoints", kind="checkpoint", digest=digest, step=step)
    draft.add_output("model", "model.json")
    draft.add_output("tokenizer", "tokenizer")
    draft.add_output("metrics", "metrics.jsonl", kind="log")
    draft.add_output("tensorboard", "tensorboard", kind="log")
    draft.add_facts(
        **banner,
        steps=step,
        tokens=step * sequence_tokens,
        epochs=round(step * batch_size / batches.train.num_records, 3),
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
