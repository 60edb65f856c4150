"""phi-1 planned for TPUs that are not here: the real step compiled by libtpu. Writes plan.json, a case at a time.

    pip install -e '.[plan]' && pytest tests/acceptance/test_plan_topologies.py

Each compilation takes minutes. What the compiler says of memory is asserted; seconds are written down only.
"""

import dataclasses
import datetime
import importlib.util
import json
import platform
import re
from pathlib import Path

import pytest
from running import MICRO, ROOT, phi_jax

from phi_jax import config
from phi_jax.planning.hardware import parse_hardware
from phi_jax.planning.plan import lines, plan

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install -e '.[plan]'"),
]

PHI_1 = ["--config", f"{ROOT}/configs/phi_1.py:attention=splash"]
LARGE = ["--config.training.microbatches=4", "--config.finetune.microbatches=1"]  # a sequence or two a device
# Name -> topology, overrides of phi_1.py, GiB that a chip's share of a step may take.
FITTING = {
    "v5e-16": ("v5e:4x4", [], 4),
    "v5p-16": ("v5p:2x2x4", ["--config.model.remat=dots", "--config.training.microbatches=16"], 24),
    "v5e-256": ("v5e:16x16", [*LARGE, "--config.training.mesh=(16,-1,1)"], 4),
    "two slices of v5e-16": ("2xv5e:4x4", ["--config.training.mesh=(2,-1,1)"], 4),
}


def record(name, overrides, result):
    """Puts one case into plan.json; the others stay."""
    place = Path(__file__).with_name("plan.json")
    cases = json.loads(place.read_text()) if place.exists() else {}
    cases[name] = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, no accelerator, Python {platform.python_version()}",
        "overrides": overrides,
        "lines": lines(result),
        "plan": dataclasses.asdict(result),
    }
    place.write_text(json.dumps(cases, indent=1, sort_keys=True) + "\n")


@pytest.mark.parametrize("name", FITTING)
def test_phi_1_fits(name):
    topology, overrides, gibibytes = FITTING[name]
    result = plan(config.load([*PHI_1, *overrides]), parse_hardware(topology))
    record(name, overrides, result)
    assert result.fits
    for fit in result.sections:
        assert fit.needed_bytes < gibibytes * 2**30
        # The analytic model, which chooses what is compiled next, must not be far off.
        assert 0.75 < sum(fit.parts.values()) / fit.needed_bytes < 1.25


def test_phi_1_in_one_batch_does_not_fit_and_what_does_is_named():
    overrides = ["--config.training.microbatches=1", "--config.finetune.microbatches=1", "--config.model.remat=none"]
    result = plan(config.load([*PHI_1, *overrides]), parse_hardware("v5e:4x4"))
    record("does not fit", overrides, result)
    training = result.sections[0]
    assert not training.fits
    assert training.needed_bytes > training.limit_bytes
    assert training.fitting.compiled
    assert training.fitting.needed_bytes < result.hardware.chip.memory_bytes


def test_the_command_plans_a_tiny_model_for_a_tpu():
    done = phi_jax(
        "plan", *MICRO, "--config.tokenize.seq_len=128", "--topology", "v5e:2x2", "--config.model.attention=splash"
    )
    assert re.search(r"as compiled in \d+ s \(XLA .*\): fits", done.stdout)
