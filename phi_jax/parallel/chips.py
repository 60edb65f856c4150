"""Accelerators by the name that jax gives them: peak and memory, from their makers' datasheets only."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One jax device. What no datasheet says is not here: a wrong peak would make a wrong MFU."""

    name: str  # short, as in `--devices 8xH100`
    device_kinds: tuple[str, ...]  # jax.Device.device_kind
    peak_flops: float  # bfloat16 matmul FLOP/s, dense (NVIDIA's headline figures are for 2:4 sparsity: half of them)
    memory_bytes: int  # HBM; the datasheets' "GB" are 2**30 bytes (an H200 of "141 GB" shows 143,771 MiB)
    source: str


_GIB = 2**30
_A100_40 = ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB", "A100-SXM4-40GB", "A100-PCIE-40GB")
_A100_80 = ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe", "A100-SXM4-80GB")
CHIPS = (
    Chip("v4", ("TPU v4",), 275e12, 32 * _GIB, "Google Cloud TPU documentation, v4"),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 16 * _GIB, "Google Cloud TPU documentation, v5e"),
    Chip("v5p", ("TPU v5", "TPU v5p"), 459e12, 95 * _GIB, "Google Cloud TPU documentation, v5p"),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 32 * _GIB, "Google Cloud TPU documentation, v6e"),
    # jax shows the two chiplets of a chip (2,307 TFLOP/s, 192 GiB) as two devices.
    Chip("tpu7x", ("TPU7x",), 2307e12 / 2, 96 * _GIB, "Google Cloud TPU documentation, TPU7x, half a chip"),
    Chip("A100-40GB", _A100_40, 312e12, 40 * _GIB, "NVIDIA datasheet, A100"),
    Chip("A100-80GB", _A100_80, 312e12, 80 * _GIB, "NVIDIA datasheet, A100"),
    Chip("H100", ("NVIDIA H100 80GB HBM3",), 1979e12 / 2, 80 * _GIB, "NVIDIA datasheet, H100 SXM"),
    Chip("H100-PCIe", ("NVIDIA H100 PCIe",), 1513e12 / 2, 80 * _GIB, "NVIDIA datasheet, H100 PCIe"),
    Chip("H100-NVL", ("NVIDIA H100 NVL",), 1671e12 / 2, 94 * _GIB, "NVIDIA datasheet, H100 NVL"),
    Chip("H200", ("NVIDIA H200",), 1979e12 / 2, 141 * _GIB, "NVIDIA datasheet, H200 SXM"),
    Chip("H200-NVL", ("NVIDIA H200 NVL",), 1671e12 / 2, 141 * _GIB, "NVIDIA datasheet, H200 NVL"),
    Chip("B200", ("NVIDIA B200",), 4500e12 / 2, 180 * _GIB, "NVIDIA datasheet, HGX B200, an eighth of it"),
    Chip("L4", ("NVIDIA L4",), 242e12 / 2, 24 * _GIB, "NVIDIA datasheet, L4"),
    Chip("L40S", ("NVIDIA L40S",), 733e12 / 2, 48 * _GIB, "NVIDIA datasheet, L40S"),
)


def chip_of(device_kind: str) -> Chip | None:
    """The chip that jax calls so (jax.Device.device_kind); None where it is not in the table, and then no MFU."""
    return next((chip for chip in CHIPS if device_kind in chip.device_kinds), None)


def chip_named(name: str) -> Chip | None:
    """The chip of a short name, as in `--devices 8xH100`; None where it is not in the table."""
    return next((chip for chip in CHIPS if name.lower() == chip.name.lower()), None)
