"""What is measured: a model's shape, the batch, and every choice of how the step is computed. Loads no library."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# Sizes of phi-1 and phi-1-small: paper, section 2.3 and the model cards. nano is configs/nano.py, tiny is for tests.
# Shapes lie here, and not in configs/, because reading those needs ml_collections, which a bare GPU image lacks.
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "head_dim", "rotary_dim",
    "max_seq_len",
)  # fmt: skip
SHAPES: dict[str, dict[str, int]] = {
    name: dict(zip(_SIZES, sizes, strict=True))
    for name, sizes in {
        "phi_1": (51200, 2048, 8192, 24, 32, 64, 32, 2048),
        "phi_1_small": (51200, 1024, 4096, 20, 16, 64, 32, 2048),
        "nano": (2048, 128, 512, 4, 4, 32, 16, 256),
        "tiny": (128, 32, 128, 2, 2, 16, 8, 32),
    }.items()
}
# What a shape is computed with where no option says otherwise.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "phi_1": {"compute_dtype": "bfloat16", "scan_unroll": 1, "microbatch": 8, "loss_chunk": 512},
    "phi_1_small": {"compute_dtype": "bfloat16", "scan_unroll": 1, "microbatch": 16, "loss_chunk": 512},
    "nano": {"compute_dtype": "float32", "scan_unroll": 4, "microbatch": 4, "loss_chunk": 128},
    "tiny": {"compute_dtype": "float32", "scan_unroll": 1, "microbatch": 4, "loss_chunk": 16},
}
# Of config.training: phi-1's pretraining where the paper says (section 2.3), else ours. None of these values changes
# how long a step takes.
OPTIMIZER = {
    "learning_rate": 1e-3,
    "warmup_steps": 750,
    "schedule_steps": 36_000,
    "weight_decay": 0.1,
    "beta1": 0.9,
    "beta2": 0.95,
    "epsilon": 1e-8,
    "clip_norm": 1.0,
}
BATCHES = 8  # different random batches, used in turn


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to measure; plain JSON values, since it travels to child processes."""

    name: str  # of the shape, or the title of the config
    model: dict[str, Any]  # fields of phi_jax.model.phi.PhiConfig
    microbatch: int  # sequences in one forward and backward pass, over all devices
    microbatches: int  # passes whose gradients make one step
    loss_chunk: int  # sequence positions whose logits exist at once
    steps: int  # timed, after warm-up
    mesh: tuple[int, ...] | None  # devices along (data, fsdp, tensor); None = all along data
    cpu_devices: int  # devices that a CPU is cut into

    @property
    def batch_size(self) -> int:
        """Sequences in one step."""
        return self.microbatch * self.microbatches

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * int(self.model["max_seq_len"])


def case_of_shape(shape: str, *, steps: int) -> Case:
    """A shape by its name, without dropout (which the fused attention kernels do not have), attention `xla`."""
    defaults = _DEFAULTS[shape]
    choices = {name: defaults[name] for name in ("compute_dtype", "scan_unroll")}
    return Case(
        name=shape,
        model={**SHAPES[shape], **choices, "attention": "xla", "remat": "none"},
        microbatch=defaults["microbatch"],
        microbatches=1,
        loss_chunk=defaults["loss_chunk"],
        steps=steps,
        mesh=None,
        cpu_devices=1,
    )


def random_batches(case: Case) -> list[np.ndarray]:
    """BATCHES token batches [B, T + 1] int32, the same for every implementation."""
    import numpy as np

    random = np.random.default_rng(0)
    shape = (case.batch_size, case.model["max_seq_len"] + 1)
    return [random.integers(0, case.model["vocab_size"], shape, dtype=np.int32) for _ in range(BATCHES)]
