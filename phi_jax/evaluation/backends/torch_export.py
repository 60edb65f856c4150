"""What transformers and vLLM have in common: both run an exported directory on torch."""

from __future__ import annotations

import platform
from pathlib import Path
from types import ModuleType

import torch

from phi_jax.errors import UserError
from phi_jax.evaluation.backends import TokenBackend
from phi_jax.evaluation.completion import Plan
from phi_jax.evaluation.formats.jsonl import read_object
from phi_jax.tokens.tokenizer import Tokenizer

DTYPES = ("bfloat16", "float16", "float32")


class ExportBackend(TokenBackend):
    """An exported directory, of which `context` (tokens) and `dtype` are read."""

    def __init__(self, library: ModuleType, model: Path, plan: Plan, *, dtype: str, device: str = "cuda") -> None:
        """dtype: of DTYPES; "" = the export's. Raises UserError where neither names one, and where the device lacks."""
        name, path = library.__name__, model / "config.json"
        config = read_object(path)
        # Phi's name and CodeGen's; transformers 5's and 4's.
        self.context: int = config.get("max_position_embeddings") or config.get("n_positions", 0)
        self.dtype = dtype or config.get("dtype") or config.get("torch_dtype") or ""
        if self.dtype not in DTYPES:
            raise UserError(f"{path}: dtype is {self.dtype!r}; name one of {', '.join(DTYPES)} with --dtype")
        super().__init__(Tokenizer.load(model), self.context, plan)
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError(
                f"--backend {name}: torch {torch.__version__} sees no GPU; start it on a machine with one and a driver "
                "that fits, or try a small model with --backend transformers --device cpu"
            )
        self.settings = {
            "backend": name,
            "dtype": self.dtype,
            "versions": {name: library.__version__, "torch": torch.__version__},
            "device": torch.cuda.get_device_name(0) if device == "cuda" else f"{platform.machine()} CPU",
        }
