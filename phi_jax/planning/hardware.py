"""The devices that a plan is for, none of which need be here: TPU topologies and numbers of GPUs."""

import dataclasses
import importlib.util
import math
import re
from typing import Any

from phi_jax.errors import UserError, one_line
from phi_jax.parallel.chips import CHIPS, Chip, chip_named

# libtpu asks the cloud and the chips of its machine unless it is told that there is nothing to ask.
LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
HOST = 8  # GPUs of a host, where a plan is for more
GPU_SHARE = 0.9  # of a GPU's memory that XLA is given: XLA_PYTHON_CLIENT_MEM_FRACTION (its own default is 0.75)
# A GPU as XLA describes it, a GpuTargetConfigProto with no field that jax 0.10 does not know; the cores of one GPU for
# each compute capability: A100, L40S, H100, B200. Numbers: CUDA programming guide, "Compute capabilities"; NVIDIA's
# architecture papers; XLA's own descriptions (target_config/specs).
_TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  %s memory_bandwidth: %d device_memory_size: %d
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "%s"
"""
_FAMILIES = {  # by the first letter of the chip
    "A": """
  cuda_compute_capability { major: 8 minor: 0 } core_count: 108 fpus_per_core: 64 clock_rate_ghz: 1.41
  threads_per_core_limit: 2048 l2_cache_size: 41943040
  shared_memory_per_core: 167936 shared_memory_per_block_optin: 166912
""",
    "L": """
  cuda_compute_capability { major: 8 minor: 9 } core_count: 142 fpus_per_core: 128 clock_rate_ghz: 2.52
  threads_per_core_limit: 1536 l2_cache_size: 100663296
  shared_memory_per_core: 102400 shared_memory_per_block_optin: 101376
""",
    "H": """
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 threads_per_core_limit: 2048 l2_cache_size: 52428800
  shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
""",
    "B": """
  cuda_compute_capability { major: 10 feature_extension: ACCELERATED_FEATURES }
  core_count: 148 fpus_per_core: 128 clock_rate_ghz: 1.965 threads_per_core_limit: 2048 l2_cache_size: 132644864
  shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
""",
}


@dataclasses.dataclass(frozen=True)
class Hardware:
    """TPU slices of one shape, or GPUs."""

    text: str  # as the user wrote it
    chip: Chip
    count: int  # of slices or GPUs
    shape: tuple[int, ...] = ()  # chips of a TPU slice along each dimension; () = GPUs
    dollars: float | None = None  # of a device-hour; None: as published

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

    @property
    def published(self) -> dict[str, float]:
        """Peaks of a device: FLOP/s, and bytes/s of its memory, its links, its network beyond them; dollars of an hour.

        The network counts as fast as the links where nothing is published: a bound stays one.
        """
        chip = self.chip
        speeds = {"memory": chip.memory, "links": chip.links, "network": chip.network or chip.links}
        return {"FLOPs": chip.peak_flops, **speeds, "dollars": chip.dollars}

    def flops(self, mfu: float) -> float:
        """FLOP/s of a device at this share of its peak. Raises UserError for what is no share."""
        if not 0 < mfu <= 1:
            raise UserError(f"--mfu {mfu}: must be above 0 and at most 1")
        return self.chip.peak_flops * mfu

    def place_of(self, device: Any) -> int:
        """The host or, of TPUs, the slice that holds a device: what its links do not reach beyond."""
        return getattr(device, "slice_index", 0) or 0 if self.is_tpu else device.id // HOST


def parse_hardware(text: str) -> Hardware:
    """A number of GPUs: "8xH100"; "16xH100" are two hosts of eight. Or TPU slices: "v5e:4x4", or two of them that the
    data center's network joins: "2xv5e:4x4". "8xH100@2.5": at so many dollars a device-hour.

    Raises UserError for what is neither. A shape that no data center has is refused only where libtpu refuses it.
    """
    found = re.fullmatch(r"(?:([1-9]\d*)x)?([\w-]+?)(?::([1-9]\d*(?:x[1-9]\d*)*))?(?:@(\d+(?:\.\d+)?))?", text)
    chip = chip_named(found[2]) if found else None
    if not (found and chip and (found[1] or found[3]) and chip.device_kinds[0].startswith("TPU") == bool(found[3])):
        raise UserError(
            f"--devices {text}: must be NxGPU, e.g. 8xH100, or TPU slices, KIND:AxB or NxKIND:AxB (N slices), e.g. "
            f"v5e:4x4, v5p:2x2x4 or 2xv5e:4x4; there are: {', '.join(one.name for one in CHIPS)}"
        )
    count, sides = int(found[1] or 1), tuple(map(int, found[3].split("x"))) if found[3] else ()
    if not sides and count > HOST and count % HOST:
        raise UserError(f"--devices {text}: more than {HOST} GPUs must be hosts of {HOST}, e.g. 16xH100")
    return Hardware(text, chip, count, sides, float(found[4]) if found[4] else None)


def compiler_is_here(hardware: Hardware) -> bool:
    """Whether libtpu or, for GPUs, jax's CUDA plugin is installed, which needs no GPU and no library of NVIDIA's."""
    names = ["libtpu"] if hardware.is_tpu else ["jax_cuda13_plugin", "jax_cuda12_plugin"]
    return any(importlib.util.find_spec(name) for name in names)


def topology_devices(hardware: Hardware) -> list[Any]:
    """The jax devices of TPUs or GPUs that need not be here, to compile for; libtpu must be in LIBTPU_ENVIRONMENT.

    Raises UserError where the compiler knows no such topology, or does not go with this jax.
    """
    from jax.experimental import topologies

    chip, count = hardware.chip, hardware.count
    options: dict[str, Any] = {"platform": "tpu", "topology_name": f"{chip.name}:{'x'.join(map(str, hardware.shape))}"}
    if not hardware.is_tpu:
        target = _TARGET % (
            _FAMILIES[chip.name[0]], hardware.published["memory"], chip.memory_bytes, chip.device_kinds[0]
        )  # fmt: skip
        hosts = -(-count // HOST)
        options = {"platform": "cuda", "target_config": target, "topology": f"1x{hosts}x{count // hosts}"}
    elif count > 1:
        options["num_slices"] = count
    if math.prod(hardware.shape) == 1 and hardware.is_tpu:  # a host of four chips otherwise
        options["chips_per_host_bounds"] = (1, 1, 1)
    if chip.name == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip are one device, as on the real one
    try:
        return list(topologies.get_topology_desc(**options).devices)
    except RuntimeError as error:
        raise UserError(
            f"{hardware.text}: the compiler says: {one_line(error)}; choose another shape, or install the "
            "compilers of this jax: pip install 'phi-jax[plan]'"
        ) from None
