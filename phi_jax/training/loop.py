"""The training loop: one linear road from token shards to a checkpoint, on one process or many."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from phi_jax.config import Config
from phi_jax.errors import Preempted, UserError
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel import processes
from phi_jax.parallel.mesh import check_batch, global_batch, local_rows, make_mesh
from phi_jax.parallel.watch import Votes, Watch
from phi_jax.store.artifact import Artifact, Draft, write_json
from phi_jax.tokens import generations
from phi_jax.tokens.batches import TokenBatches
from phi_jax.training.initial_weights import initial_params
from phi_jax.training.metrics import Meter, Metrics
from phi_jax.training.optimizer import learning_rate_schedule, make_optimizer
from phi_jax.training.profile import Trace
from phi_jax.training.step import init_state, make_eval_step, make_train_step, state_shardings
from phi_jax.training.validation import LOSS, Validation, is_due
from phi_jax.weights.checkpoints import Checkpoints, state_digest


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
    """Stage `pretrain`: next-token training from fresh weights (paper, section 2.3), or those of
    config.training.initial_checkpoint.

    inputs: {"tokens": a token artifact}, and where "textbooks" is one too,
    config.mixture.textbooks says its share of the records, and config.mixture.min_real how much of the tokens people
    must have written. Outputs as in `_train`.
    Raises UserError where they have written less.
    """
    sources = {"tokens": 1.0}
    if "textbooks" in inputs:
        share = config.mixture.textbooks
        sources = {"tokens": 1.0 - share, "textbooks": share}
    with Watch(draft.label, peer_timeout=config.training.peer_timeout) as watch:
        data = Data(config, config.training, inputs, sources)
        if "textbooks" in inputs:
            generations.check_floor(data.generations, config.mixture.min_real, draft.label)
        shape = model_config(config.model, vocab_size=data.train.vocab_size, seq_len=data.train.seq_len)
        _train(config, config.training, shape, data, inputs, draft, watch, start=config.training.initial_checkpoint)


def finetune(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `finetune`: training goes on from another run's weights, on other tokens (paper, section 2.3).

    inputs: {"checkpoint": a training artifact, "tokens": a token artifact of the same tokenizer}.
    Fields that config.finetune lacks are those of config.training; the optimizer starts afresh. Outputs as in `_train`.
    """
    rules = config.finetune.over(config.training)
    start = inputs["checkpoint"]
    with Watch(draft.label, peer_timeout=rules.peer_timeout) as watch:
        data = Data(config, rules, inputs, {"tokens": 1.0})
        shape = PhiConfig(**json.loads(start.path("model").read_text()))
        _train(config, rules, shape, data, inputs, draft, watch, start=str(start.directory))


class Data:
    """What a run is trained on and what its validation loss is taken on, laid over its mesh."""

    def __init__(
        self, config: Config, rules: Config, inputs: Mapping[str, Artifact], sources: Mapping[str, float]
    ) -> None:
        """sources: name of an input -> its share of the records."""
        self.batch_size: int = rules.global_batch_size
        self.mesh: Mesh = make_mesh(rules.mesh)
        check_batch(self.mesh, self.batch_size, rules.microbatches)
        self._rows = local_rows(self.mesh, self.batch_size)
        weights = {Path(inputs[name].path("tokens")): share for name, share in sources.items()}

        def opened(split: str, *, shuffle: bool) -> TokenBatches:
            return TokenBatches(
                weights, split=split, global_batch_size=self.batch_size, seed=config.seed, rows=self._rows,
                shuffle=shuffle,
            )  # fmt: skip

        self.train = opened("train", shuffle=True)
        self.held_out = opened("validation", shuffle=False)
        self.generations = generations.mixed((inputs[name].facts, share) for name, share in sources.items())
        self.identities = {name: inputs[name].identity for name in sources}
        self.tokens = inputs["tokens"]
        self.tokenizer = Path(self.tokens.path("tokenizer"))
        self.document_end = self.train.end_of_text_id if rules.document_masks else None

    def place(self, tokens_RxT1: Any) -> jax.Array:
        """This process's rows as a part of the global batch [B, seq_len + 1]."""
        return global_batch(self.mesh, self.batch_size, self._rows, tokens_RxT1)


def _train(
    config: Config,
    rules: Config,
    shape: PhiConfig,
    data: Data,
    inputs: Mapping[str, Artifact],
    draft: Draft,
    watch: Watch,
    *,
    start: str,
) -> None:
    """The run itself, from fresh weights (`start` empty) or those of the model at `start`.

    Outputs: "checkpoint" (parameters and optimizer state of the steps kept), "model" (the shape, JSON), "tokenizer",
    "metrics", "tensorboard". Raises Preempted once everything is saved, where a process was asked to stop.
    """
    # --- Model, mesh, step ----------------------------------------------------------------------------------
    mesh = data.mesh
    optimizer = make_optimizer(rules)
    train_step = make_train_step(
        shape, optimizer, mesh,
        microbatches=rules.microbatches, loss_chunk=rules.loss_chunk, seed=config.seed,
        document_end=data.document_end, skip_spike=rules.skip_spike,
    )  # fmt: skip
    eval_step = make_eval_step(shape, optimizer, mesh, loss_chunk=rules.loss_chunk, document_end=data.document_end)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        jax.eval_shape(lambda: init_state(shape, optimizer, config.seed)),
        state_shardings(shape, optimizer, mesh),
    )
    banner = _banner(shape, rules, data, abstract)
    processes.say(f"{draft.label}: " + ", ".join(f"{k} {v}" for k, v in banner.items()))
    record = {
        "config": config.to_dict(),
        "model": dataclasses.asdict(shape),
        "tokens": data.identities,
        "banner": banner,
    }

    with Checkpoints(
        draft.directory / "checkpoints",
        keep=rules.keep_checkpoints, keep_every=rules.keep_every, keep_best=rules.keep_best, best_by=rules.best_by,
    ) as checkpoints:  # fmt: skip
        # --- Fresh or resumed state -------------------------------------------------------------------------
        found = checkpoints.restore_latest(abstract)
        pending: dict[str, Any] | None = None  # figures of the step before, read after the next is dispatched
        if found is None:
            step = 0
            shardings = jax.tree.map(lambda x: x.sharding, abstract)
            state = jax.jit(lambda: init_state(shape, optimizer, config.seed), out_shardings=shardings)()
            if start:
                state["params"], where = initial_params(start, abstract["params"], data.tokens)
                processes.say(f"{draft.label}: starts from the weights of {where}")
        else:
            step, state, saved = found
            pending = saved["pending"]
            processes.say(f"{draft.label}: resumed from the checkpoint of step {step}")

        # --- Steps ------------------------------------------------------------------------------------------
        votes = Votes(mesh)
        validation = Validation(eval_step, data, rules, votes, watch)
        stop = False
        stream = data.train.iterate(step, rules.steps)
        with Metrics(
            draft.directory, draft.label, Meter(shape, mesh, data.batch_size), learning_rate_schedule(rules),
            first_step=step if pending is None else step - 1, steps=rules.steps,
        ) as metrics, Trace(
            draft.directory / "profile", rules.profile_steps, begin=step, end=rules.steps
        ) as trace:  # fmt: skip
            while True:
                if pending is not None:
                    unfinished = None
                    if validation.is_due(step):
                        jax.block_until_ready(pending)  # the step ends before what is no part of it begins
                        with metrics.meter.apart():
                            taken = None if stop else validation.take(step, state)
                            jax.block_until_ready(taken)
                        if taken is None:  # left for the run that goes on from here
                            stop, unfinished = True, pending
                        else:
                            pending |= taken
                    if stop or is_due(step, rules.checkpoint_every, rules.steps):
                        watch.phase(f"saving step {step}")
                        pending = {k: v if isinstance(v, int) else float(v) for k, v in pending.items()}
                        if unfinished is None:
                            # Before the save: where the step is saved, its figures are written.
                            _write(pending, metrics, data, rules)
                        checkpoints.save(
                            step, state, {**record, "step": step, "pending": unfinished and pending},
                            metrics={name: pending[name] for name in (LOSS,) if name in pending},
                        )  # fmt: skip
                        pending = None
                if stop or step == rules.steps:
                    break
                watch.phase(f"waiting for the data of step {step}")
                tokens_RxT1, _ = metrics.meter.waiting(stream)
                trace.before(step)
                watch.phase(f"in step {step}")
                state, figures = train_step(state, data.place(tokens_RxT1))
                stop = votes.cast(watch.asked_to_stop)
                if pending is not None:
                    _write(pending, metrics, data, rules)
                pending = {"step": step, **figures}
                trace.after(step, state)
                step += 1
                if not watch.has_started:
                    jax.block_until_ready(figures)
                    watch.started()
                    gc.collect()
                    gc.freeze()  # what exists by now stays: later collections, which stall a step, pass it by
        stream.close()
        watch.phase("waiting for the last save")
        checkpoints.wait()
        watch.finished()
        if stop or not processes.all_agree(not watch.asked_to_stop):
            raise Preempted(f"{draft.label}: asked to stop; step {step} is saved")
        if rules.select_checkpoint == "best":
            step = checkpoints.best_step()
            state, _ = checkpoints.restore(step, abstract)
            processes.say(f"{draft.label}: step {step} is the best by {rules.best_by}, and is handed on")
        digest = state_digest(state)

    # --- What is left behind --------------------------------------------------------------------------------
    if processes.is_leader():
        write_json(draft.directory / "model.json", dataclasses.asdict(shape))
        shutil.copytree(data.tokenizer, draft.directory / "tokenizer", dirs_exist_ok=True)
    draft.add_output("checkpoint", "checkpoints", kind="checkpoint", digest=digest, step=step)
    draft.add_output("model", "model.json")
    draft.add_output("tokenizer", "tokenizer")
    draft.add_output("metrics", "metrics.jsonl", kind="log")
    draft.add_output("tensorboard", "tensorboard", kind="log")
    if (draft.directory / "profile").exists():
        draft.add_output("profile", "profile", kind="log")
    draft.add_facts(
        **banner,
        steps=rules.steps,
        tokens=rules.steps * data.batch_size * shape.max_seq_len,
        epochs=round(rules.steps * data.batch_size / data.train.num_records, 3),
    )


def _banner(shape: PhiConfig, rules: Config, data: Data, abstract: Any) -> dict[str, Any]:
    """What was chosen, for the first line, the checkpoints and the report."""
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(abstract["params"])),
        "attention": shape.attention,
        "attention_dropout": shape.attention_dropout,
        "residual_dropout": shape.residual_dropout,
        "document_masks": rules.document_masks,
        "compute_dtype": shape.compute_dtype,
        "remat": shape.remat,
        "scan_unroll": shape.scan_unroll,
        "generations": data.generations,
        "mesh": dict(zip(data.mesh.axis_names, data.mesh.devices.shape, strict=True)),
        "devices": f"{data.mesh.devices.size} x {data.mesh.devices.flat[0].device_kind}",
        "processes": processes.count(),
    }


def _write(pending: Mapping[str, Any], metrics: Metrics, data: Data, rules: Config) -> None:
    """Writes the figures of a step, which waits for it; names the records of a skipped one.

    Raises UserError after config.training.max_skipped skipped steps in a row.
    """
    written, most = metrics.write(pending), rules.max_skipped
    if not written["skipped_in_a_row"]:
        return
    step = written["step"]
    records = ", ".join(map(str, data.train.record_numbers(step)))
    processes.say(
        f"step {step} skipped: loss {written['loss']:.4g}, gradient norm {written['grad_norm']:.4g}; records {records}"
    )
    if written["skipped_in_a_row"] >= most:
        raise UserError(
            f"step {step}: {written['skipped_in_a_row']} steps in a row were skipped, as many as "
            "config.training.max_skipped; lower the learning rate, or look at the records named above"
        )
