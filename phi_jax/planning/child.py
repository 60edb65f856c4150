"""The process that compiles for `phi-jax plan`: a pickled request on standard input, the plan in the file named."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.model.flops import num_params, training_flops_per_token
from phi_jax.planning.fit import check_fits, model_shape, rule_sections
from phi_jax.planning.hardware import Hardware, topology_devices
from phi_jax.planning.plan import Duration, Plan


def main() -> None:
    """Answers one request, (config's values, Hardware, MFU), with a pickled Plan, or UserError."""
    values, hardware, mfu = pickle.load(sys.stdin.buffer)
    answer: Plan | UserError
    try:
        # GPUs are pretended: only their number matters, to lay the arrays out on them.
        jax.config.update("jax_num_cpu_devices", 1 if hardware.is_tpu else hardware.devices)
        devices = topology_devices(hardware) if hardware.is_tpu else jax.devices()
        answer = make_plan(Config(values), hardware, devices, mfu)
    except UserError as error:
        answer = error
    Path(sys.argv[1]).write_bytes(pickle.dumps(answer))


def make_plan(config: Config, hardware: Hardware, devices: Sequence[Any], mfu: float) -> Plan:
    """The plan, worked out in this process."""
    shape = model_shape(config)
    flops = training_flops_per_token(shape, causal=False)
    fits = check_fits(config, hardware, devices)
    sections, durations = rule_sections(config), []
    for name in config.models.to_dict():
        rules = sections[getattr(config.models, name).rules]
        tokens = rules.steps * rules.global_batch_size * shape.max_seq_len
        seconds = tokens * flops / (hardware.devices * hardware.chip.peak_flops * mfu)
        durations.append(Duration(name, rules.steps, tokens, seconds / 3600))
    return Plan(
        hardware=hardware,
        parameters=num_params(shape),
        model=f"attention {shape.attention}, {shape.compute_dtype}, remat {shape.remat}",
        flops_per_token=flops,
        flops_per_token_causal=training_flops_per_token(shape, causal=True),
        mfu=mfu,
        durations=durations,
        sections=fits,
    )


if __name__ == "__main__":
    main()
