"""The profile of chosen steps."""

import re

import jax
import pytest
from running import MICRO, phi_jax
from test_faults import start

from phi_jax.store import artifact
from phi_jax.training.metrics import Profile


def steps_in(directory):
    """The numbers of the functions called step_0, step_1, ... in the one profile in `directory`."""
    [path] = directory.glob("**/*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    names = " ".join(event.name for plane in planes for line in plane.lines for event in line.events)
    return {int(number) for number in re.findall(r"\bstep_(\d+)\b", names)}


def call_step(number):
    def step(x):
        return x + number

    step.__name__ = f"step_{number}"
    return jax.jit(step)(1)


@pytest.mark.parametrize(("begin", "end", "kept"), [(0, 9, {2, 3, 4}), (0, 4, {2, 3}), (3, 9, {3, 4})])
def test_the_chosen_steps_and_no_others_are_in_the_profile(tmp_path, begin, end, kept):
    """Those of them that a run takes, where it begins or ends within them."""
    with Profile(tmp_path, (2, 4), begin=begin, end=end) as profile:
        for number in range(begin, end):
            profile.at(number + 1, call_step(number))
    assert steps_in(tmp_path) == kept


def test_a_training_run_leaves_its_profile(micro_run, tmp_path):
    workdir = start(micro_run, tmp_path / "run")
    phi_jax("pretrain", *MICRO, "--config.training.profile_steps=(5, 6)", "--name", "raw", "--workdir", workdir)
    assert artifact.find(workdir, "pretrain", "raw").path("profile").exists()


def test_steps_that_a_run_does_not_take_are_said_to_be_missing(tmp_path, capsys):
    with Profile(tmp_path / "profile", (5, 6), begin=7, end=10) as profile:
        for step in range(7, 10):
            profile.at(step + 1, ())
    assert not (tmp_path / "profile").exists()
    assert "no profile: config.training.profile_steps=(5, 6) are not among the steps 7 to 9" in capsys.readouterr().err
