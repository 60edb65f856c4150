"""What ran: versions of Python and of the packages that can change a result, and the commit of the checkout."""

import contextlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

_DISTRIBUTIONS = (
    "phi-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "array_record",
    "tensorflow-datasets", "ml-collections", "tokenizers", "tiktoken", "safetensors", "gguf", "numpy", "pyarrow",
    "daft", "scikit-learn", "openai", "pydantic", "jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13", "libtpu", "torch", "transformers",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change what a stage writes."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def git_revision() -> str | None:
    """The commit of the checkout this package runs from, with "+changes" where files differ; None outside one."""
    here = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            capture_output=True, text=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
