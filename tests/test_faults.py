"""Training that is asked to stop, killed, or fed a bad batch."""

import json
import random
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import MICRO, identities, phi_jax, python
from test_checkpoints import state_digest
from test_training import SHAPE, records, rules, training  # noqa: F401 - fixtures

from phi_jax.errors import EXIT_PREEMPTED
from phi_jax.parallel.mesh import make_mesh
from phi_jax.training.optimizer import make_optimizer
from phi_jax.training.step import init_state, make_train_step, state_shardings

SHORT = [*MICRO, "--config.training.steps=40", "--config.training.schedule_steps=40",
         "--config.training.checkpoint_every=5", "--config.training.evaluate_every=5",
         "--config.training.validation_batches=4"]  # fmt: skip


def start(micro_run, workdir):
    """A work directory that holds what stands before pretrain/raw."""
    shutil.copytree(micro_run / "tokenize" / "raw", workdir / "tokenize" / "raw")
    return workdir


def interrupted(workdir, signal_name, where, count, config):
    """The finished process of a training run that was sent a signal in `where`, or ended before."""
    command = ["pretrain", *config, "--name", "raw", "--workdir", workdir]
    return python("tests/interrupted_run.py", signal_name, where, count, *command, timeout=300)


@pytest.fixture(scope="module")
def undisturbed(micro_run, tmp_path_factory):
    workdir = start(micro_run, tmp_path_factory.mktemp("quiet") / "run")
    phi_jax("pretrain", *SHORT, "--name", "raw", "--workdir", workdir)
    return workdir


def figures(workdir):
    """What metrics.jsonl says of each step, without what a clock measured."""
    lines = (workdir / "pretrain" / "raw" / "metrics.jsonl").read_text().splitlines()
    kept = ("step", "loss", "grad_norm", "learning_rate", "skipped", "validation_loss")
    return [{k: v for k, v in json.loads(line).items() if k in kept} for line in lines]


def interrupt_at(moments, micro_run, undisturbed, scratch, config):
    """Runs on through `moments`, in a fresh directory where one is done; returns (what was hit where, all stderr)."""
    hit, rounds = [], 0
    workdir = start(micro_run, scratch / "run-0")
    said = ""
    for signal_name, where, count in moments:
        done = interrupted(workdir, signal_name, where, count, config)
        said += done.stderr
        sent = re.findall(r"^(SIG\w+) in (\w+)$", done.stderr, re.M)
        if done.returncode == 0:  # it was through before its moment came
            assert identities(workdir)["pretrain/raw"] == identities(undisturbed)["pretrain/raw"]
            rounds += 1
            workdir = start(micro_run, scratch / f"run-{rounds}")
            continue
        assert sent == [(signal_name, where)], f"exit code {done.returncode}\n{done.stderr}"
        assert done.returncode == (-9 if signal_name == "SIGKILL" else EXIT_PREEMPTED), done.stderr
        if signal_name == "SIGTERM":
            assert "run the same command again to go on" in done.stderr
            assert "Traceback" not in done.stderr
        hit.append((signal_name, where))
    phi_jax("pretrain", *config, "--name", "raw", "--workdir", workdir)
    assert identities(workdir)["pretrain/raw"] == identities(undisturbed)["pretrain/raw"]
    assert figures(workdir) == figures(undisturbed)
    return hit, said


@pytest.mark.timeout(1800)
def test_stopped_or_killed_in_every_part_the_weights_are_those_of_a_quiet_run(micro_run, tmp_path):
    moments = [
        ("SIGTERM", "compile", 3),
        ("SIGKILL", "step", 5),
        ("SIGTERM", "eval", 2),
        ("SIGKILL", "save", 1),
        ("SIGTERM", "step", 6),
    ]
    hit, said = interrupt_at(moments, micro_run, micro_run, tmp_path, MICRO)
    assert {where for _, where in hit} == {"compile", "step", "eval", "save"}
    assert re.search(r"warning: checkpoint .*checkpoints/\d+\.orbax-checkpoint-tmp.*: its save was cut off", said)


# --- Bad batches ---------------------------------------------------------------------------------------------


def one_step(state, records, training, **options):  # noqa: F811
    step = make_train_step(
        SHAPE,
        make_optimizer(training),
        make_mesh((1, 1, 1), jax.devices()[:1]),
        rules(**options),
        seed=0,
    )
    return step(state, jnp.asarray(records))


@pytest.fixture
def state(training):  # noqa: F811
    optimizer = make_optimizer(training)
    return jax.device_put(
        init_state(SHAPE, optimizer, 0), state_shardings(SHAPE, optimizer, make_mesh((1, 1, 1), jax.devices()[:1]))
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_changes_nothing_but_the_count(training, records, state, bad):  # noqa: F811
    state["params"]["head"]["bias"] = state["params"]["head"]["bias"].at[3].set(bad)
    before = {k: state_digest(state[k]) for k in ("params", "optimizer", "usual_grad_norm")}
    state, found = one_step(state, records, training)
    assert not np.isfinite(found["loss"])
    assert {k: state_digest(state[k]) for k in before} == before
    assert (int(state["step"]), int(found["skipped"]), int(found["skipped_in_a_row"])) == (1, 1, 1)
    state, found = one_step(state, records, training)
    assert (int(found["skipped"]), int(found["skipped_in_a_row"])) == (2, 2)


@pytest.mark.parametrize(("usual", "skipped"), [(0.0, 0), (1e-3, 1), (1e3, 0)])
def test_a_gradient_spike_is_one_beside_the_running_mean(training, records, state, usual, skipped):  # noqa: F811
    state["usual_grad_norm"] = jnp.float32(usual)
    state, found = one_step(state, records, training, skip_spike=20.0)
    assert int(found["skipped"]) == int(found["skipped_in_a_row"]) == skipped
    norm = float(found["grad_norm"])
    expected = usual if skipped else norm if usual == 0 else usual + (norm - usual) / 100
    assert float(state["usual_grad_norm"]) == pytest.approx(expected, rel=1e-5)


def test_skipped_steps_are_named_and_too_many_stop_the_run(micro_run, tmp_path):
    workdir = start(micro_run, tmp_path / "run")
    done = phi_jax("pretrain", *MICRO, "--config.training.learning_rate=1e30", "--config.training.max_skipped=3",
                   "--name", "raw", "--workdir", workdir, check=False)  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for step in (1, 2, 3):
        assert re.search(
            rf"^  step {step} skipped: loss \S+, gradient norm \S+; records \d+, \d+, \d+, \d+$", done.stderr, re.M
        )
    assert "step 3: 3 steps in a row were skipped, as many as config.training.max_skipped" in done.stderr
    lines = (workdir / "pretrain" / "raw.partial" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line, parse_constant=pytest.fail)["loss"] for line in lines]  # NaN is none of JSON's
    assert losses[1:] == [None] * 3


# --- The whole of it, by hand --------------------------------------------------------------------------------


@pytest.mark.acceptance
@pytest.mark.timeout(3600)
def test_twenty_seeded_moments(micro_run, undisturbed, tmp_path):
    draw = random.Random(4)
    kinds = [(s, w) for w in ("compile", "step", "eval", "save") for s in ("SIGTERM", "SIGKILL")]
    moments = [(*kinds[i % 8], draw.randint(1, 3 if kinds[i % 8][1] == "save" else 12)) for i in range(24)]
    draw.shuffle(moments)
    hit, _ = interrupt_at(moments, micro_run, undisturbed, tmp_path, SHORT)
    assert len(hit) >= 20
    assert set(hit) == set(kinds)
