"""Which save is handed on, and which records a validation loss counts."""

import json
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from running import MICRO

from phi_jax import config, selection
from phi_jax.errors import UserError
from phi_jax.store import artifact
from phi_jax.tokens.shards import SplitWriter, write_metadata
from phi_jax.training import rules
from phi_jax.training.data import Data
from phi_jax.weights.checkpoints import Checkpoints


def selected(tmp_path, by, saves, **options):
    """The choice among saves {step: validation loss, or None for none}."""
    training = artifact.open_draft(tmp_path, "pretrain", "base", {}, {})
    with Checkpoints(training.directory / "checkpoints", keep=9) as checkpoints:
        for step, loss in saves.items():
            metrics = {} if loss is None else {"validation_loss": loss}
            checkpoints.save(step, {"params": {"w": np.full(2, step, np.float32)}}, {}, metrics=metrics)
        checkpoints.wait()
        training.add_output("checkpoint", "checkpoints", kind="checkpoint", digest=checkpoints.identity(max(saves)))
        identities = {step: checkpoints.identity(step) for step in saves}
    training.commit()
    found = artifact.find(tmp_path, "pretrain", "base")
    kept = {"steps": max(saves), "checkpoint_every": 1, "evaluate_every": 1, "keep_every": 1}
    plan = {"select": by, "rules": "training"}
    chosen = config.Config({"models": {"base": plan}, "training": kept, "select": options})
    draft = artifact.open_draft(tmp_path, "select", "base", {}, {"training": found})
    selection.select(chosen, {"training": found}, draft)
    choice = json.loads((draft.commit().path("choice")).read_text())
    assert choice["identity"] == identities[choice["step"]]
    assert choice["by"] == by
    return choice["step"], {c["step"]: c["value"] for c in choice["candidates"]}


NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([2, 1, NAN, 3], 2),
        ([NAN, 2, 1, 3], 3),
        ([2, 1, 1, 3], 2),
        ([2, None, 3, None], 1),
        ([float("inf"), 9, NAN, 9], 2),
    ],
)
def test_the_least_finite_loss_is_chosen_and_the_earliest_of_equals(tmp_path, losses, step):
    found, candidates = selected(tmp_path, "validation_loss", dict(enumerate(losses, 1)))
    assert found == step
    assert list(candidates) == list(range(1, 5))
    assert all(value is None or np.isfinite(value) for value in candidates.values())


@pytest.mark.parametrize("losses", [[NAN, float("inf")], [None, None]])
def test_no_finite_loss_is_an_error(tmp_path, losses):
    with pytest.raises(UserError, match="pretrain/base: none of its saves has a finite validation_loss"):
        selected(tmp_path, "validation_loss", dict(enumerate(losses, 1)))


def test_the_most_solved_is_chosen_and_a_measured_save_is_not_measured_again(tmp_path, monkeypatch):
    asked = []

    def share(loaded, problems, rules):
        asked.append(loaded)
        if loaded == 3 and asked.count(3) == 1:
            raise KeyboardInterrupt
        return {1: 0.1, 2: 0.4, 3: 0.4}[loaded]

    monkeypatch.setitem(sys.modules, "phi_jax.evaluation.benchmark_run", SimpleNamespace(greedy_pass_at_1=share))
    monkeypatch.setattr("phi_jax.weights.models.load_model", lambda directory, *, step: step)
    options = {"problems": "idioms", "prompt_form": "stripped", "max_new_tokens": 9, "slots": 4, "sandbox": "full",
               "sandbox_workers": 1}  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        selected(tmp_path, "pass_at_1", dict.fromkeys((1, 2, 3)), **options)
    assert selected(tmp_path, "pass_at_1", dict.fromkeys((1, 2, 3)), **options) == (2, {1: 0.1, 2: 0.4, 3: 0.4})
    assert asked == [1, 2, 3, 3]


def test_a_save_that_an_interruption_made_is_no_candidate():
    kept = config.Config({"steps": 24, "checkpoint_every": 4, "evaluate_every": 8, "keep_every": 8})
    assert rules.candidates(kept, "pass_at_1") == [8, 16, 24]
    kept = config.Config({"steps": 24, "checkpoint_every": 4, "evaluate_every": 16, "keep_every": 8})
    assert rules.candidates(kept, "validation_loss") == [16, 24]


# --- Validation ----------------------------------------------------------------------------------------------


class Tokens:
    """A token artifact whose validation records begin with the numbers given, and hold nothing else."""

    def __init__(self, directory, firsts, tokenizer="a"):
        self.directory, self.identity, self.label = directory, "", directory.name
        self.facts = {"written_by": directory.name}
        self.manifest = {"outputs": {"tokenizer": {"sha256": tokenizer}}}
        (directory / "tokens").mkdir(parents=True)
        writers = {}
        for split, stream in {"train": range(100, 116), "validation": firsts}.items():
            writers[split] = SplitWriter(
                directory / "tokens", split, seq_len=4, dtype=np.dtype(np.uint16), records_per_shard=100
            )
            for number in stream:
                writers[split].add([number] * 5)
            writers[split].close()
        write_metadata(writers, vocab_size=200, end_of_text_id=0)

    def path(self, output):
        return self.directory / output


def data(tmp_path, sets, mixture, batches=16):
    fields = {"global_batch_size": 4, "mesh": (1, 1, 1), "microbatches": 1, "validation_batches": batches,
              "document_masks": False}  # fmt: skip
    tokens = {name: Tokens(tmp_path / name, firsts) for name, firsts in sets.items()}
    return Data(config.Config({"seed": 0}), config.Config(fields), tokens, mixture)


def first_tokens(found):
    """(the first token of each record that a validation loss is of, that loss where a record's loss is its token)."""
    seen = []

    def eval_step(state, tokens):
        firsts = np.asarray(tokens[:, 0])
        seen.extend(firsts[firsts >= 0].tolist())
        return jax.numpy.where(tokens[:, 0] < 0, 0, tokens[:, 0]).sum() / len(tokens)

    return seen, float(found.validation_loss(eval_step, None))


@pytest.mark.parametrize(("count", "batches", "of"), [(10, 16, 10), (3, 16, 3), (10, 2, 8), (8, 2, 8)])
def test_each_held_out_record_counts_once_or_the_first_of_them(tmp_path, count, batches, of):
    seen, loss = first_tokens(data(tmp_path, {"raw": range(1, count + 1)}, [("raw", 1.0)], batches))
    assert sorted(seen) == list(range(1, of + 1))
    assert loss == pytest.approx(np.mean(range(1, of + 1)))


def test_each_record_of_a_mixture_counts_once(tmp_path):
    sets = {"people": range(1, 4), "grammar": range(11, 18)}
    found = data(tmp_path, sets, [("people", 0.75), ("grammar", 0.25)])
    assert sorted(first_tokens(found)[0]) == [*range(1, 4), *range(11, 18)]
    assert found.people_share == 0.75


def test_sets_of_two_tokenizers_are_refused(tmp_path):
    tokens = {"a": Tokens(tmp_path / "a", [1], "a"), "b": Tokens(tmp_path / "b", [1], "b")}
    chosen = config.Config({"global_batch_size": 4, "mesh": (1, 1, 1), "microbatches": 1})
    with pytest.raises(UserError, match="b: its tokenizer is not that of a"):
        Data(config.Config({"seed": 0}), chosen, tokens, [("a", 1.0), ("b", 1.0)])


# --- Rules ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"training.steps": 60}, "steps=60 exceeds schedule_steps=24"),
        ({"training.microbatches": 3}, "global_batch_size=4 cannot be cut into microbatches=3"),
        ({"training.mesh": (8, 1, 1)}, "make it a multiple of 8"),
        ({"training.mesh": (-1, -1, 1)}, "mesh=(-1, -1, 1) must be"),
        ({"training.profile_steps": (6, 5)}, "profile_steps=(6, 5) must be (first, last)"),
        ({"models.raw.select": "pass_at_1"}, "finds only the last save"),
        (
            {"models.raw.select": "validation_loss", "training.checkpoint_every": 7, "training.keep_every": 7},
            "finds only the last save",
        ),
        ({"model.rotary_dim": 7}, "config.model.rotary_dim=7"),
    ],
)
def test_fields_that_do_not_go_together_are_named(changes, complaint):
    overrides = [f"--config.{name}={value!r}" if isinstance(value, tuple) else f"--config.{name}={value}"
                 for name, value in changes.items()]  # fmt: skip
    with pytest.raises(UserError) as caught:
        rules.check(config.load([*MICRO, *overrides]), "raw")
    assert complaint in str(caught.value)


def test_every_model_of_the_configs_has_rules_that_go_together():
    for name in ("nano.py", "phi_1.py"):
        chosen = config.load(["--config", MICRO[1].replace("nano.py:size=micro", name)])
        for model in chosen.models.to_dict():
            rules.check(chosen, model)
