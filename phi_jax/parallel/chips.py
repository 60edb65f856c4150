"""Accelerators by the name that jax gives them: their peaks and memory, as published, and what an hour costs.

Peaks from the makers' documents: NVIDIA's datasheets of the GPU (FLOP/s, memory; NVLink, else PCIe), of DGX A100, DGX
H100, DGX H200 and DGX B200 (network); Google Cloud's TPU pages (FLOP/s, HBM, inter-chip interconnect, data center
network). A link's figure is one direction: half of what a datasheet calls total or bidirectional.

Dollars of a device-hour: of GPUs Modal's list price, as techbytes.app ("Serverless GPU Pricing Matrix") read it on
2026-05-07; of TPUs Google Cloud's list price in its cheapest US regions, as two public repositories quoted it in 2025.
None was read on the seller's own page: compare them with it before you rent.
"""

import dataclasses
import re

# TFLOP/s: bfloat16 products, dense (NVIDIA's headline figures are for 2:4 sparsity: half of them). GiB of HBM: the
# datasheets' "GB" are 2**30 bytes (an H200 of "141 GB" shows 143,771 MiB). GB/s of a device's memory, of its links in
# one direction, and of its share of the network between hosts or slices; dollars of a device-hour on demand. 0: nothing
# is published, or we know none. Of a TPU7x, jax shows the two chiplets (2,307 TFLOP/s, 192 GiB) as two devices.
_TABLE = """
name       TFLOP/s  GiB  memory  links  network  dollars  page                       jax.Device.device_kind
v4          275      32  1200    300     0       0        v4                         TPU v4
v5e         197      16   819    200     3.125   1.2      v5e                        TPU v5 lite, TPU v5e
v5p         459      95  2765    600     6.25    4.2      v5p                        TPU v5, TPU v5p
v6e         918      32  1638    400     0       0        v6e                        TPU v6 lite, TPU v6e
tpu7x      1153.5    96  3690    300     0       0        TPU7x, half a chip         TPU7x
A100-40GB   312      40  1555    300    25       0        A100  NVIDIA A100-SXM4-40GB, NVIDIA A100-PCIE-40GB, \
A100-SXM4-40GB, A100-PCIE-40GB
A100-80GB   312      80  2039    300    25       2.5      A100  NVIDIA A100-SXM4-80GB, NVIDIA A100 80GB PCIe, \
A100-SXM4-80GB
H100        989.5    80  3350    450    50       3.95     H100 SXM                   NVIDIA H100 80GB HBM3
H100-PCIe   756.5    80  2000    300     0       0        H100 PCIe                  NVIDIA H100 PCIe
H100-NVL    835.5    94  3900    300     0       0        H100 NVL                   NVIDIA H100 NVL
H200        989.5   141  4800    450    50       0        H200 SXM                   NVIDIA H200
H200-NVL    835.5   141  4800    450     0       0        H200 NVL                   NVIDIA H200 NVL
B200       2250     180  8000    900    50       0        HGX B200, an eighth of it  NVIDIA B200
L4          121      24   300     32     0       0.8      L4                         NVIDIA L4
L40S        366.5    48   864     32     0       1.95     L40S                       NVIDIA L40S
"""


@dataclasses.dataclass(frozen=True)
class Chip:
    """One jax device. What no datasheet says is not here: a wrong peak would make a wrong MFU."""

    name: str  # short, as in `--devices 8xH100`
    device_kinds: list[str]  # jax.Device.device_kind
    source: str  # of its peak
    memory_bytes: int
    peak_flops: float  # FLOP/s
    memory: float  # bytes/s, and so are these
    links: float
    network: float
    dollars: float


def _chip(line: str) -> Chip:
    name, teraflops, gib, *speeds, dollars, page, kinds = re.split("  +", line)
    flops, memory, links, network = (float(number) for number in (teraflops, *speeds))
    maker = "Google Cloud TPU documentation" if kinds.startswith("TPU") else "NVIDIA datasheet"
    return Chip(
        name, kinds.split(", "), f"{maker}, {page}", int(gib) * 2**30,
        flops * 1e12, memory * 1e9, links * 1e9, network * 1e9, float(dollars),
    )  # fmt: skip


CHIPS = [_chip(line) for line in _TABLE.splitlines()[2:]]


def chip_of(device_kind: str) -> Chip | None:
    """The chip that jax calls so (jax.Device.device_kind); None where it is not in the table, and then no MFU."""
    return next((chip for chip in CHIPS if device_kind in chip.device_kinds), None)


def chip_named(name: str) -> Chip | None:
    """The chip of a short name, as in `--devices 8xH100`; None where it is not in the table."""
    return next((chip for chip in CHIPS if name.lower() == chip.name.lower()), None)
