"""The training loop: from token shards to a checkpoint, on one process or many."""

import contextlib
import dataclasses
import gc
import shutil
from collections.abc import Mapping

import jax

from phi_jax.config import Config
from phi_jax.errors import Preempted, UserError
from phi_jax.model.flops import num_params
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel import processes
from phi_jax.parallel.watch import Watch
from phi_jax.store.artifact import Draft, Inputs, Json, write_json
from phi_jax.training.data import Data
from phi_jax.training.initial_weights import initial_params
from phi_jax.training.metrics import Metrics, Profile
from phi_jax.training.optimizer import make_optimizer
from phi_jax.training.rules import VALIDATION_LOSS, model_config, rules_of
from phi_jax.training.step import State, abstract_state, fresh_state, make_eval_step, make_train_step
from phi_jax.weights.checkpoints import Checkpoints
from phi_jax.weights.models import shape_of

# XLA:CPU's buffers leave holes in glibc's heap, which takes no freed aligned block for the next one of its size.
_TRIM_STEPS = 25


def train(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `pretrain`: next-token training from fresh weights (paper, section 2.3), or those of the model in
    config.training.initial_checkpoint. Stage `finetune`: from another model's, in its shape, with a fresh optimizer.

    inputs: a token artifact for each set of config.models.<draft.name>.mixture, by its name; for `finetune` also
    {"checkpoint": a training or select artifact}, of the same tokenizer. Outputs: "checkpoint" (parameters and
    optimizer state of the steps kept), "model" (the shape, JSON), "tokenizer", "metrics", "tensorboard", and "profile"
    where one was asked for. Raises Preempted once everything is saved, where a process was asked to stop.
    """
    rules = rules_of(config, draft.name)
    with contextlib.ExitStack() as opened:
        watch = opened.enter_context(Watch(draft.label, peer_timeout=rules.peer_timeout))
        # --- Model, mesh, step ------------------------------------------------------------------------------
        data = Data(config, rules, inputs, getattr(config.models, draft.name).mixture)
        shape, start = _shape_and_start(config, inputs, data)
        optimizer, end = make_optimizer(rules, data.mesh), data.document_end
        train_step = make_train_step(shape, optimizer, data.mesh, rules, seed=config.seed, document_end=end)
        train_step = jax.transfer_guard("disallow")(train_step)  # the devices are sent nothing but what `place` sends
        eval_step = make_eval_step(shape, data.mesh, rules, document_end=end)
        abstract = abstract_state(shape, optimizer, data.mesh)
        banner = _banner(shape, rules, data)
        processes.note(f"{draft.label}: " + ", ".join(f"{k} {v}" for k, v in banner.items() if v not in (0, 1, "none")))
        record = {"key": draft.key, "config": config.to_dict(), "tokens": data.identities,
                  "model": vars(shape), "banner": banner}  # fmt: skip

        # --- Fresh or resumed state -------------------------------------------------------------------------
        checkpoints = opened.enter_context(
            Checkpoints(draft.directory / "checkpoints", keep=rules.keep_checkpoints, keep_every=rules.keep_every)
        )
        if found := _saved(checkpoints, abstract, draft):
            step, state = found
        else:
            params = None
            if start:
                params, where = initial_params(start, abstract["params"], data.tokens)
                processes.note(f"{draft.label}: starts from the weights of {where}")
            step, state = 0, fresh_state(shape, optimizer, data.mesh, config.seed, params)

        # --- What comes every so many steps, and after the last ---------------------------------------------
        metrics = opened.enter_context(Metrics(draft, shape, data, rules, step))
        profile = opened.enter_context(
            Profile(draft.directory / "profile", rules.profile_steps, begin=step, end=rules.steps)
        )

        def validate(step: int, state: State) -> None:
            watch.phase = f"in the validation at step {step}"
            metrics.add_apart(VALIDATION_LOSS, lambda: data.validation_loss(eval_step, state["params"]))

        def save(step: int, state: State) -> None:
            watch.phase = f"saving step {step}"
            figures = metrics.write()  # before the save: where a step is saved, its figures are written
            validated = {name: value for name, value in figures.items() if name == VALIDATION_LOSS}
            checkpoints.save(step, state, {**record, "step": step}, metrics=validated)

        hooks = [(1, profile.at), (rules.evaluate_every, validate), (rules.checkpoint_every, save),
                 (_TRIM_STEPS, lambda step, state: processes.trim_heap())]  # fmt: skip

        # --- Steps ------------------------------------------------------------------------------------------
        stream = opened.enter_context(contextlib.closing(data.train.iterate(step, rules.steps)))
        stopping = False
        while step < rules.steps and not stopping:
            watch.phase = f"waiting for the data of step {step}"
            tokens_RxT1, _ = next(stream)
            watch.phase = f"in step {step}"
            state, figures = train_step(state, data.place(tokens_RxT1))
            metrics.note(step, figures)
            step += 1
            if not watch.can_save:
                _settle(figures, watch)
            stopping = watch.should_stop(step)
            for every, hook in hooks:
                if step % every == 0 or step == rules.steps or (stopping and hook is save):
                    hook(step, state)
        watch.phase = "waiting for the last save"
        checkpoints.wait()
        watch.can_save = False
        if stopping or any(processes.gather(watch.asked_to_stop)):
            raise Preempted(f"{draft.label}: asked to stop; step {step} is saved")
        _leave_outputs(draft, shape, data, rules, checkpoints.identity(step))
        draft.add_facts(loss=metrics.loss, **banner)


def _saved(checkpoints: Checkpoints, abstract: State, draft: Draft) -> tuple[int, State] | None:
    """(step, state) that this training goes on from, if it has saved any. Raises UserError for another one's."""
    found = checkpoints.restore_latest(abstract)
    if found is None:
        return None
    step, state, record = found
    if record.get("key", draft.key) != draft.key:
        raise UserError(
            f"{draft.label}: {draft.directory / 'checkpoints'} holds step {step} of another run; put back the saves of "
            "this one, or remove the directory to start afresh"
        )
    processes.note(f"{draft.label}: resumed from the checkpoint of step {step}")
    return step, state


def _shape_and_start(config: Config, inputs: Inputs, data: Data) -> tuple[PhiConfig, str]:
    """(shape, the directory of the model whose weights come first; empty for fresh ones)."""
    if "checkpoint" in inputs:
        start = inputs["checkpoint"].directory
        return shape_of(start), str(start)
    tokens = data.train
    shape = model_config(config.model, vocab_size=tokens.vocab_size, seq_len=tokens.seq_len)
    return shape, config.training.initial_checkpoint


def _settle(figures: Mapping[str, jax.Array], watch: Watch) -> None:
    """Waits for the first step, with its compilation."""
    jax.block_until_ready(figures)
    gc.collect()
    gc.freeze()  # later collections, which stall a step, pass by what exists now
    processes.trim_heap()  # of what the compiler has freed
    watch.can_save = True


def _leave_outputs(draft: Draft, shape: PhiConfig, data: Data, rules: Config, identity: str) -> None:
    if processes.is_leader():
        write_json(draft.directory / "model.json", dataclasses.asdict(shape))
        shutil.copytree(data.tokenizer, draft.directory / "tokenizer", dirs_exist_ok=True)
    draft.add_output("checkpoint", "checkpoints", kind="checkpoint", digest=identity, step=rules.steps)
    draft.add_output("model", "model.json")
    draft.add_output("tokenizer", "tokenizer")
    for log in ("metrics.jsonl", "tensorboard", "profile"):
        if (draft.directory / log).exists():
            draft.add_output(log.removesuffix(".jsonl"), log, kind="log")
    draft.add_facts(
        steps=rules.steps,
        tokens=rules.steps * data.batch_size * shape.max_seq_len,
        epochs=round(rules.steps * data.batch_size / data.train.num_records, 3),
    )


def _banner(shape: PhiConfig, rules: Config, data: Data) -> Json:
    """Settings in effect, for the log (but what is off, or one), the checkpoints and the report."""
    computed = ("attention", "attention_dropout", "residual_dropout", "compute_dtype", "remat", "scan_unroll")
    return {
        "parameters": num_params(shape),
        **{name: getattr(shape, name) for name in computed},
        "optimizer": rules.optimizer,
        "document_masks": rules.document_masks,
        "people_share": data.people_share,
        "mesh": dict(zip(data.mesh.axis_names, data.mesh.devices.shape, strict=True)),
        "devices": f"{data.mesh.devices.size} x {data.mesh.devices.flat[0].device_kind}",
        "processes": processes.count(),
    }
