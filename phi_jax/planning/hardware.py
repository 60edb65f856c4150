"""The devices that a plan is for, none of which need be here: TPU topologies and numbers of GPUs."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from phi_jax.errors import UserError
from phi_jax.parallel.chips import CHIPS, Chip, chip_named

_TPUS = [chip for chip in CHIPS if chip.device_kinds[0].startswith("TPU")]
_GPUS = [chip for chip in CHIPS if chip not in _TPUS]
# libtpu asks the cloud and the chips of its machine unless it is told that there is nothing to ask.
LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
GPU_SHARE = 0.9  # of a GPU's memory that XLA is given: XLA_PYTHON_CLIENT_MEM_FRACTION (its own default is 0.75)


@dataclasses.dataclass(frozen=True)
class Hardware:
    """TPU slices of one shape, or GPUs."""

    text: str  # as the user wrote it
    chip: Chip
    count: int  # of slices or GPUs
    shape: tuple[int, ...] = ()  # chips of a TPU slice along each dimension; () = GPUs

    @property
    def is_tpu(self) -> bool:
        return bool(self.shape)

    @property
    def devices(self) -> int:
        """jax devices in all; of a TPU7x chip there are two."""
        return self.count * math.prod(self.shape) * (2 if self.chip.name == "tpu7x" else 1)

    @property
    def usable_bytes(self) -> int:
        """What a step may take of a device's memory."""
        return self.chip.memory_bytes if self.is_tpu else int(GPU_SHARE * self.chip.memory_bytes)


def parse_hardware(text: str) -> Hardware:
    """What `parse_topology` or `parse_devices` takes."""
    return parse_topology(text) if ":" in text else parse_devices(text)


def parse_topology(text: str) -> Hardware:
    """TPU slices: "v5e:4x4", or two of them that the data center's network joins: "2xv5e:4x4".

    Raises UserError for what is none. A shape that no data center has is refused only where libtpu refuses it.
    """
    found = re.fullmatch(r"(?:([1-9]\d*)x)?(\w+):([1-9]\d*(?:x[1-9]\d*)*)", text)
    chip = chip_named(found[2]) if found else None
    if not found or chip not in _TPUS:
        raise UserError(
            f"--topology {text}: must be KIND:AxB or NxKIND:AxB (N slices), e.g. v5e:4x4, v5p:2x2x4 or 2xv5e:4x4; "
            f"kinds: {', '.join(chip.name for chip in _TPUS)}"
        )
    return Hardware(text, chip, int(found[1] or 1), tuple(map(int, found[3].split("x"))))


def parse_devices(text: str) -> Hardware:
    """A number of GPUs: "8xH100". Raises UserError for what is none."""
    found = re.fullmatch(r"([1-9]\d*)x(.+)", text)
    chip = chip_named(found[2]) if found else None
    if not found or chip not in _GPUS:
        names = ", ".join(chip.name for chip in _GPUS)
        raise UserError(f"--devices {text}: must be NxGPU, e.g. 8xH100; GPUs: {names}")
    return Hardware(text, chip, int(found[1]))


def topology_devices(hardware: Hardware) -> list[Any]:
    """The jax devices of a TPU topology, to compile for. libtpu must be there, in LIBTPU_ENVIRONMENT.

    Raises UserError where libtpu knows no such topology.
    """
    import jax
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if hardware.count > 1:
        options["num_slices"] = hardware.count
    if math.prod(hardware.shape) == 1:  # a host of four chips otherwise
        options["chips_per_host_bounds"] = (1, 1, 1)
    if hardware.chip.name == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip are one device, as on the real one
    name = f"{hardware.chip.name}:{'x'.join(map(str, hardware.shape))}"
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology {hardware.text}: {' '.join(str(error).split())}; choose another shape") from None
    return list(devices)
