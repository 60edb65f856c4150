"""What a measurement was made with: versions, processor, environment, revision. Loads no library."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")
_PREFIXES = (
    "XLA_", "JAX_", "LIBTPU_", "TPU_", "CUDA_", "NCCL_", "NVIDIA_TF32", "CUDNN_", "OMP_", "MKL_", "KMP_", "TORCH",
    "PYTORCH", "RAYON_", "TOKENIZERS_",
)  # fmt: skip


def surroundings(packages: Sequence[str] = _PACKAGES) -> dict[str, Any]:
    """JSON-able, with the versions of `packages`.

    The device is not in it, since asking for it would start a backend.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **_versions(packages)},
        "processor": _processor(),
        "cores": usable_cores(),
        "environment": {name: _value(name) for name in sorted(os.environ) if name.startswith(_PREFIXES)},
        "git_revision": _git_revision(),
    }


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _versions(packages: Sequence[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _value(name: str) -> str:
    """Results are published: a machine's paths do not belong into them."""
    value = os.environ[name]
    return "(a path)" if "/" in value else value


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git_revision() -> str | None:
    """The commit of the checkout this runs from, "+changes" where files differ. artifact.py's loads etils."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+changes",
             "--exclude=*"],
            capture_output=True, text=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
