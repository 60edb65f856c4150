"""phi-1's shape and rules as its config has them, on this device, in the setting that it has room for."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import types
import unittest.mock
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phi_jax.bench.train_speed import case_of
from phi_jax.config import Config
from phi_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
# Of the smallest model that still has phi-1's heads: every part runs on a CPU with it.
TINY = {"num_layers": 2, "hidden_size": 128, "intermediate_size": 256, "num_heads": 2}
TINY_TOKENS = {"vocab_size": 512, "seq_len": 128}
# (remat, rows a device), the best first: what is not recomputed costs nothing, and more rows fill the device better.
SETTINGS = (*(("none", n) for n in (8, 4, 2)), *(("dots", n) for n in (8, 4, 2)), *(("full", n) for n in (8, 4, 2, 1)))
SHARE = 0.9  # of a device's memory that an estimate may fill


class Skipped(Exception):
    """The part cannot be done here; the message says what is missing."""


class _ConfigDict(dict[str, Any]):
    """As much of ml_collections.ConfigDict as the files in configs/ use: a device's machine may lack it."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__

    def to_dict(self) -> dict[str, Any]:
        return dict(self)


def case(name: str, shapes: str, kernel: str) -> dict[str, Any]:
    """{"name", "model", "training"} of configs/<name>.py, as phi_jax.bench.train_speed.measure takes them.

    shapes: "phi_1" = as the config has them, "tiny" = TINY. kernel: of its attention. One microbatch: a step's batch
    is set by `in_setting`.
    """
    spec: Any = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with unittest.mock.patch.dict(sys.modules, ml_collections=types.SimpleNamespace(ConfigDict=_ConfigDict)):
        spec.loader.exec_module(module)
        values = module.get_config(f"attention={kernel}")
    if shapes == "tiny":
        values.model.update(TINY)
        values.tokenize.update(TINY_TOKENS)
    values.training.microbatches = 1
    return case_of(Config(values))


def device() -> dict[str, Any]:
    """What the figures are of. memory_bytes: what programs get of a device, None where it does not say (CPU)."""
    import jax

    first = jax.local_devices()[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "memory_bytes": (first.memory_stats() or {}).get("bytes_limit"),
    }


def kernel_here() -> str:
    """The attention kernel that trains on this platform: cudnn, splash or, on a CPU, xla."""
    import jax

    return {"gpu": "cudnn", "tpu": "splash"}.get(jax.devices()[0].platform, "xla")


def in_setting(case: dict[str, Any], remat: str, rows: int) -> dict[str, Any]:
    """The case with so many rows on each device in a step, and this remat."""
    import jax

    model = {**case["model"], "remat": remat}
    return {**case, "model": model, "training": {**case["training"], "global_batch_size": rows * jax.device_count()}}


def estimate(case: dict[str, Any]) -> int:
    """Bytes a device at a step's peak, by phi_jax/planning/memory.py."""
    from phi_jax.model.phi import PhiConfig
    from phi_jax.parallel.mesh import make_mesh
    from phi_jax.planning.memory import estimate_memory

    rules = Config(case["training"])
    return sum(estimate_memory(PhiConfig(**case["model"]), rules, make_mesh(tuple(rules.mesh))).values())


def fits(case: dict[str, Any]) -> bool:
    """Whether the estimate leaves room; true where the device does not say what it has."""
    memory = device()["memory_bytes"]
    return memory is None or estimate(case) <= SHARE * memory


def settings(case: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Those of SETTINGS that should fit, the best first. Raises UserError where there is none."""
    found = [(remat, rows) for remat, rows in SETTINGS if fits(in_setting(case, remat, rows))]
    if not found:
        needed = estimate(in_setting(case, "full", 1)) / 2**30
        raise UserError(
            f"{case['name']}: one row needs {needed:.1f} GiB a device by the estimate, and there are "
            f"{device()['memory_bytes'] / 2**30:.1f}; take more devices"
        )
    return iter(found)


def shape_of(case: dict[str, Any], **changes: Any) -> Any:
    """The PhiConfig of a case, with other values for some fields."""
    from phi_jax.model.phi import PhiConfig

    return dataclasses.replace(PhiConfig(**case["model"]), **changes)
