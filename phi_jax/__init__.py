"""phi_jax: phi-1 ("Textbooks Are All You Need", arXiv 2306.11644) end to end in JAX."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phi_jax.loading import Model

__version__ = "0.1.0"

# No telemetry: ours does not exist, and that of the libraries is switched off before any is imported.
for _name, _value in {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DAFT_ANALYTICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DAFT_PROGRESS_BAR": "0",  # it would draw over ours
    "DAFT_SHOW_QUERY_ID": "0",
}.items():
    os.environ.setdefault(_name, _value)


def load(directory: str | os.PathLike[str]) -> "Model":
    """A model in memory; see `phi_jax.loading.Model`. directory: an export, a training, or what others published."""
    from phi_jax.loading import Model

    return Model(directory)
