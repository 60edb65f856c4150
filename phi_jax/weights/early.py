"""Microsoft's first releases of phi-1, phi-1_5 and phi-2, from before transformers had the model; read only.

Model types "mixformer-sequential" (a list of layers, the embedding first) and "phi-msft". q, k and v lie in one matrix,
one after the other. Reference: transformers' convert_phi_weights_to_hf.py; the model code of those releases is not run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from phi_jax.model.phi import PhiConfig
from phi_jax.weights.architecture import Architecture, Tensor, one_to_one, read_gpt_config

# Path of ours -> what stands behind a block's prefix.
_BLOCK = {
    "layers/norm/scale": "ln.weight",
    "layers/norm/bias": "ln.bias",
    "layers/attention/out/kernel": "mixer.out_proj.weight",
    "layers/attention/out/bias": "mixer.out_proj.bias",
    "layers/mlp/fc1/kernel": "mlp.fc1.weight",
    "layers/mlp/fc1/bias": "mlp.fc1.bias",
    "layers/mlp/fc2/kernel": "mlp.fc2.weight",
    "layers/mlp/fc2/bias": "mlp.fc2.bias",
}


def _fuse(qkv: Sequence[np.ndarray], config: PhiConfig) -> np.ndarray:
    return np.concatenate(qkv)


def _split(fused: np.ndarray, config: PhiConfig) -> tuple[np.ndarray, ...]:
    return tuple(np.split(fused, 3))


def _tensors(embedding: str, block: str, head: str) -> tuple[Tensor, ...]:
    """The names by the prefixes of the three parts."""
    names = {
        "embed/tokens": f"{embedding}.wte.weight",
        **{path: f"{block}.{name}" for path, name in _BLOCK.items()},
        "final_norm/scale": f"{head}.ln.weight",
        "final_norm/bias": f"{head}.ln.bias",
        "head/kernel": f"{head}.linear.weight",
        "head/bias": f"{head}.linear.bias",
    }
    fused = [
        Tensor(
            f"{block}.mixer.Wqkv.{name}",
            tuple(f"layers/attention/{part}/{ours}" for part in "qkv"),
            fuse=_fuse,
            split=_split,
        )
        for name, ours in (("weight", "kernel"), ("bias", "bias"))
    ]
    return (*one_to_one(names), *fused)


_BUFFERS = re.compile(r".*\.rotary_emb\.(inv_freq|scale)")
PHI_MSFT = Architecture(
    model_type="phi-msft",
    tensors=_tensors("transformer.embd", "transformer.h.{layer}", "lm_head"),
    absent=(),
    buffers=_BUFFERS,
    read_config=read_gpt_config,
    write_config=None,
)
MIXFORMER = Architecture(
    model_type="mixformer-sequential",
    tensors=_tensors("layers.0", "layers.{layer_from_1}", "layers.{last}"),
    absent=(),
    buffers=_BUFFERS,
    read_config=read_gpt_config,
    write_config=None,
)
