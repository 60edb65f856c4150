"""No step is faster than this: what it must compute, read, write and exchange, at the hardware's published peaks.

A bound, not a forecast. Letters as in phi_jax/model/phi.py.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from phi_jax.config import Config
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel.mesh import batch_ways
from phi_jax.planning.hardware import Hardware
from phi_jax.planning.memory import estimate_memory


@dataclasses.dataclass(frozen=True)
class Bound:
    """The least time of a step: its parts one after the other, but for the exchanges, which may run beside them."""

    parts: dict[str, tuple[float, str]]  # (seconds on one device, at least; what bounds it: FLOPs, memory, ...)
    exchanged_bytes: int  # the least that a device receives in a step, as the parameters lie

    @property
    def seconds(self) -> float:
        apart = self.parts["exchanges"][0]
        return max(apart, sum(seconds for seconds, _ in self.parts.values()) - apart)


def step_bound(shape: PhiConfig, rules: Config, mesh: Mesh, hardware: Hardware) -> Bound:
    """The bound of an optimizer step. Muon's own products, a few thousandths of phi-1's step, are left out.

    Raises UserError as estimate_memory does.
    """
    memory = estimate_memory(shape, rules, mesh)
    each, length, layers = jnp.dtype(shape.dtype).itemsize, shape.max_seq_len, shape.num_layers
    tensor, parameters, microbatches = mesh.shape["tensor"], memory["parameters"], rules.microbatches
    tokens = rules.global_batch_size // batch_ways(mesh) * length  # of a device in a step
    heads = shape.num_heads // tensor
    width = layers * tokens * heads * shape.head_dim
    blocks = layers * shape.hidden_size * (4 * heads * shape.head_dim + 2 * shape.intermediate_size // tensor)
    head = shape.hidden_size * shape.vocab_size // tensor
    # What the backward pass computes again: all products, or attention's alone.
    again, attends_again = shape.remat == "full", shape.remat != "none"

    if shape.attention == "xla":  # two products forward, four backward; their float32 results are written and read
        scores = layers * tokens * heads * length
        attention = {"FLOPs": 4 * width * length * (3 + attends_again), "memory": 8 * scores * (2 + attends_again)}
    else:  # half of the pairs of positions, one product more backward; all that goes in and comes out
        attention = {
            "FLOPs": width * length * (7 + 2 * attends_again),
            "memory": 4 * width * each * (3 + attends_again),
        }
    chunks = microbatches * -(-length // rules.loss_chunk)
    logits = tokens * shape.vocab_size // tensor
    sums = 2 * parameters if microbatches > 1 else 0
    needs = {
        # Weights are read in the compute dtype for each pass, their gradients written, and added up in float32; what is
        # saved for the backward pass is written and read.
        "products": {
            "FLOPs": 2 * tokens * blocks * (3 + again),
            "memory": microbatches * (blocks * each * (3 + again) + 2 * memory["saved activations"] + sums),
        },
        "attention": attention,
        # Logits in float32 and their gradient in the compute dtype are written and read, the latter twice; each chunk
        # reads the kernel twice, and reads and writes its float32 gradient.
        "loss": {
            "FLOPs": 6 * tokens * head,
            "memory": logits * (8 + 3 * each) + chunks * head * (8 + 2 * each),
        },
        # Parameters and moments are read and written; gradients are read for their norm and for the update.
        "optimizer": {"memory": 2 * (2 * parameters + memory["optimizer state"])},
        "exchanges": {"links": 0.0, "network": 0.0},
    }
    # Arrays that the devices along an axis exchange; each of n receives (n - 1) / n of them. fsdp: the weights for each
    # pass, and gradients in the compute dtype; data: float32 gradients, once a step and twice, as all need the sum;
    # tensor: a block's output, and the gradient of its input, twice likewise.
    arrays = {
        "data": 2 * parameters,
        "fsdp": microbatches * each * (3 * blocks + 2 * head),
        "tensor": 4 * layers * tokens * shape.hidden_size * each,
    }
    for axis, (name, size) in enumerate(mesh.shape.items()):
        group = np.moveaxis(mesh.devices, axis, -1).reshape(-1, size)[0]
        places = len({hardware.place_of(device) for device in group})
        needs["exchanges"]["links"] += arrays[name] * (size - 1) / size
        # The devices of a host share out what the host must get.
        needs["exchanges"]["network"] += arrays[name] * (places - 1) / size
    least = {
        name: max((amount / hardware.published[resource], resource) for resource, amount in part.items())
        for name, part in needs.items()
    }
    return Bound(least, round(needs["exchanges"]["links"]))
