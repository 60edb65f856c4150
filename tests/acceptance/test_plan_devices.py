"""phi-1 planned for GPUs and TPUs that are not here: the real step, compiled. Writes plan_gpu.json and plan_tpu.json.

    pip install -e '.[plan]' && pytest tests/acceptance/test_plan_devices.py

A case takes half a minute or more. tests/test_plan.py holds the estimate and the configs against the committed figures.
"""

import dataclasses
import datetime
import json
import platform
from pathlib import Path

import jax
import pytest
from running import ROOT

from phi_jax import config
from phi_jax.planning.hardware import compiler_is_here, parse_hardware
from phi_jax.planning.plan import lines, plan

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(5400)]

GPUS = {"8xa100": "8xA100-80GB", "8xh100": "8xH100", "8xh200": "8xH200", "1xh100": "1xH100"}
TPUS = {"16xv5e": "v5e:4x4", "16xv5p": "v5p:2x2x4", "16xv6e": "v6e:4x4"}
CONFIGS = ("phi_1", "phi_1_small")


def chosen(name, hardware):
    return config.load(["--config", f"{ROOT}/configs/{name}.py:hardware={hardware}"]).training.microbatches


FULL, DOTS = ["--config.model.remat=full"], ["--config.model.remat=dots"]
OTHERS = [
    ("phi_1", "", "8xA100-80GB", []),
    ("phi_1", "", "1xH100", ["--config.training.microbatches=64"]),
    ("phi_1", "", "8xH100", ["--config.training.microbatches=128", "--config.model.remat=none"]),
    ("phi_1_small", "", "8xA100-80GB", []),
    ("phi_1", "hardware=8xa100", "8xA100-80GB", FULL),
    ("phi_1", "hardware=8xa100", "8xA100-80GB", DOTS),
    ("phi_1", "attention=cudnn", "8xA100-40GB", []),
    ("phi_1", "attention=cudnn", "8xL4", ["--config.training.microbatches=128"]),
    ("phi_1", "hardware=8xh200", "8xB200", []),
    ("phi_1", "hardware=8xh100", "16xH100", ["--config.training.microbatches=8", "--config.training.mesh=(1,-1,1)"]),
    ("phi_1", "hardware=8xh100", "16xH100", ["--config.training.microbatches=8", "--config.training.mesh=(2,-1,1)"]),
    ("phi_1", "hardware=8xh100", "128xH100", ["--config.training.microbatches=1", "--config.training.mesh=(16,-1,1)"]),
    ("phi_1", "", "v5e:4x4", []),
    ("phi_1", "hardware=16xv5e", "v5e:4x4", ["--config.training.microbatches=64", "--config.model.remat=none"]),
    ("phi_1", "hardware=16xv5p", "v5p:2x2x4", FULL),
    ("phi_1", "hardware=16xv5e", "2xv5e:4x4", ["--config.training.microbatches=8", "--config.training.mesh=(2,-1,1)"]),
]


def planned(name, argument, devices, overrides):
    values = config.load(["--config", f"{ROOT}/configs/{name}.py:{argument}".rstrip(":"), *overrides]).to_dict()
    for model in values["models"].values():  # finetuning differs in the number of its microbatches alone
        model["rules"] = "training"
    hardware = parse_hardware(devices)
    if not compiler_is_here(hardware):
        pytest.skip("needs the compilers: pip install -e '.[plan]'")
    result = plan(config.Config(values), hardware)
    print("\n".join(lines(result)))
    for fit in filter(None, (result.sections[0], result.sections[0].fitting)):
        if fit.program:
            changes = [text for text in overrides if "microbatches" not in text]
            record(
                result, fit, name, argument, devices, [*changes, f"--config.training.microbatches={fit.microbatches}"]
            )
    return result.sections[0]


def record(result, fit, *case):
    """Puts a case into plan_gpu.json or plan_tpu.json; the others stay. One that the compiler refused has no memory."""
    name, argument, devices, overrides = case
    place = Path(__file__).with_name("plan_tpu.json" if result.hardware.is_tpu else "plan_gpu.json")
    cases = json.loads(place.read_text()) if place.exists() else {}
    base = next(duration for duration in result.durations if duration.model == "base")
    changes = [text.rpartition(".")[2] for text in overrides]
    cases[" ".join([f"{name}.py:{argument}".rstrip(":"), "on", devices, *changes])] = {
        "config": case,
        "made": f"{datetime.date.today().isoformat()}, jax {jax.__version__}, {platform.machine()}, no accelerator",
        "fits": fit.fits,
        "rows": fit.rows,
        "GiB": {
            "limit": round(fit.limit_bytes / 2**30, 2),
            "compiled": {who: round(size / 2**30, 2) for who, size in fit.program.memory.items()},
            "estimated": round(sum(fit.parts.values()) / 2**30, 2),
            "received in a step": {k: [n, round(size / 2**30, 2)] for k, (n, size) in fit.program.exchanges.items()},
            "received in a step, at least": round(fit.bound.exchanged_bytes / 2**30, 2),
        },
        "kernels": fit.program.kernels,
        "bound of a step, seconds": {
            "step": round(fit.bound.seconds, 3),
            **{part: [round(seconds, 4), by] for part, (seconds, by) in fit.bound.parts.items()},
        },
        "hours of phi-1-base": {
            "bound": round(base.steps * fit.bound.seconds / 3600, 1),
            f"at {result.mfu:.0%} MFU": round(base.hours, 1),
            "bound, xla with dropout and remat full": round(base.steps * fit.dropout_bound.seconds / 3600, 1),
            "paper, on 8 A100s": 96,
        },
    }
    place.write_text(json.dumps(cases, indent=1, sort_keys=True) + "\n")


@pytest.mark.parametrize("hardware", GPUS | TPUS)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_takes_the_most_rows_that_fit_a_hardware(name, hardware):
    microbatches = chosen(name, hardware)
    twice = [f"--config.training.microbatches={microbatches // 2}"]
    fit = planned(name, f"hardware={hardware}", (GPUS | TPUS)[hardware], twice)
    if microbatches == 4 and fit.fits:  # all of finetuning's batch at once: no more can be taken
        fit = dataclasses.replace(fit, fitting=planned(name, f"hardware={hardware}", (GPUS | TPUS)[hardware], []))
    assert fit.fitting.microbatches == microbatches
    kernels = ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"] if hardware in GPUS else ["tpu_custom_call"]
    assert fit.fitting.program.kernels == kernels


@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_no_less_is_exchanged_than_the_least(case):
    fit = planned(*case)
    assert fit.compiled
    assert fit.bound.exchanged_bytes <= 1.01 * sum(size for _, size in fit.program.exchanges.values())
    assert bool(fit.program.kernels) == (case[1] != "")
