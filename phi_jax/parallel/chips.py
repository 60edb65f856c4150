"""Accelerators by the name that jax gives them: peak and memory, from their makers' datasheets only."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One jax device. What no datasheet says is not here: a wrong peak would make a wrong MFU."""

    name: str  # short, as in `--devices 8xH100`
    device_kinds: tuple[str, ...]  # jax.Device.device_kind
    peak_flops: float  # bfloat16 matmul FLOP/s, dense (NVIDIA's headline figures are for 2:4 sparsity: half of them)
    memory_bytes: int  # HBM; the datasheets' "GB" are 2**30 bytes (an H200 of "141 GB" shows 143,771 MiB)
    source: str


def _chip(name: str, device_kinds: tuple[str, ...], teraflops: float, gibibytes: int, source: str) -> Chip:
    return Chip(name, device_kinds, teraflops * 1e12, gibibytes * 2**30, source)


_GOOGLE = "Google Cloud TPU documentation, "
_NVIDIA = "NVIDIA datasheet, "
_A100_40 = ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB", "A100-SXM4-40GB", "A100-PCIE-40GB")
_A100_80 = ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe", "A100-SXM4-80GB")
CHIPS = (
    _chip("v4", ("TPU v4",), 275, 32, _GOOGLE + "v4"),
    _chip("v5e", ("TPU v5 lite", "TPU v5e"), 197, 16, _GOOGLE + "v5e"),
    _chip("v5p", ("TPU v5", "TPU v5p"), 459, 95, _GOOGLE + "v5p"),
    _chip("v6e", ("TPU v6 lite", "TPU v6e"), 918, 32, _GOOGLE + "v6e"),
    # jax shows the two chiplets of a chip (2,307 TFLOP/s, 192 GiB) as two devices.
    _chip("tpu7x", ("TPU7x",), 2307 / 2, 192 // 2, _GOOGLE + "TPU7x, half a chip"),
    _chip("A100-40GB", _A100_40, 312, 40, _NVIDIA + "A100"),
    _chip("A100-80GB", _A100_80, 312, 80, _NVIDIA + "A100"),
    _chip("H100", ("NVIDIA H100 80GB HBM3",), 1979 / 2, 80, _NVIDIA + "H100 SXM"),
    _chip("H100-PCIe", ("NVIDIA H100 PCIe",), 1513 / 2, 80, _NVIDIA + "H100 PCIe"),
    _chip("H100-NVL", ("NVIDIA H100 NVL",), 1671 / 2, 94, _NVIDIA + "H100 NVL"),
    _chip("H200", ("NVIDIA H200",), 1979 / 2, 141, _NVIDIA + "H200 SXM"),
    _chip("H200-NVL", ("NVIDIA H200 NVL",), 1671 / 2, 141, _NVIDIA + "H200 NVL"),
    _chip("B200", ("NVIDIA B200",), 4500 / 2, 180, _NVIDIA + "HGX B200, an eighth of it"),
    _chip("L4", ("NVIDIA L4",), 242 / 2, 24, _NVIDIA + "L4"),
    _chip("L40S", ("NVIDIA L40S",), 733 / 2, 48, _NVIDIA + "L40S"),
)


def chip_of(device_kind: str) -> Chip | None:
    """The chip that jax calls so (jax.Device.device_kind); None where it is not in the table, and then no MFU."""
    return next((chip for chip in CHIPS if device_kind in chip.device_kinds), None)


def chip_named(name: str) -> Chip | None:
    """The chip of a short name, as in `--devices 8xH100`; None where it is not in the table."""
    return next((chip for chip in CHIPS if name.lower() == chip.name.lower()), None)
