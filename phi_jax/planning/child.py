"""The process that compiles for `phi-jax plan`: a request on standard input, the plan in the file that is named.

Lines on standard output are for the user; what libtpu writes to standard error is not.
"""

from __future__ import annotations

import importlib.metadata
import json
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.model.flops import num_params, training_flops_per_token
from phi_jax.planning.hardware import Hardware, parse_devices, parse_topology, topology_devices
from phi_jax.planning.plan import Duration, Plan
from phi_jax.planning.search import check_fit, model_shape, propose, stages


def main() -> None:
    """Answers one request: {"config", "hardware", "mfu"} -> a pickled Plan, or UserError."""
    request = json.load(sys.stdin)
    config, text = Config(request["config"]), request["hardware"]
    answer: Plan | UserError
    try:
        if ":" in text:
            hardware = parse_topology(text)
            devices: Sequence[Any] = topology_devices(hardware)
        else:
            hardware = parse_devices(text)
            # Pretended devices: only their number matters, to lay the arrays out on them.
            jax.config.update("jax_num_cpu_devices", hardware.devices)
            devices = jax.devices()
        answer = make_plan(config, hardware, devices, request["mfu"])
    except UserError as error:
        answer = error
    Path(sys.argv[1]).write_bytes(pickle.dumps(answer))


def make_plan(config: Config, hardware: Hardware, devices: Sequence[Any], mfu: float) -> Plan:
    """The plan, worked out in this process."""
    shape = model_shape(config)
    flops = training_flops_per_token(shape, causal=False)
    fit = check_fit(config, hardware, devices)
    proposal = None
    if not fit.fits:
        _say(f"{hardware.text}: does not fit as it is; looking for settings that do")
        proposal = propose(config, hardware, devices, _say)
    durations = []
    for name, rules in stages(config).items():
        tokens = rules.steps * rules.global_batch_size * shape.max_seq_len
        seconds = tokens * flops / (hardware.devices * hardware.chip.peak_flops * mfu)
        durations.append(Duration(name, rules.steps, tokens, seconds / 3600))
    packages = ("jax", "jaxlib", "libtpu") if hardware.is_tpu else ("jax",)
    return Plan(
        hardware=hardware.text,
        chip=hardware.chip,
        devices=hardware.devices,
        parameters=num_params(shape),
        model=f"attention {shape.attention}, {shape.compute_dtype}",
        flops_per_token=flops,
        flops_per_token_causal=training_flops_per_token(shape, causal=True),
        mfu=mfu,
        durations=durations,
        fit=fit,
        proposal=proposal[0] if proposal else None,
        proposed_fit=proposal[1] if proposal else None,
        versions={name: importlib.metadata.version(name) for name in packages},
    )


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
