"""Traffic between devices, read from a compiled program's HLO text."""

from __future__ import annotations

import dataclasses
import re

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-broadcast", "collective-permute", "reduce-scatter")
_BITS = {"pred": 8, "bf16": 16, **{f"{t}{n}": n for t in "suf" for n in (4, 8, 16, 32, 64)}}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> (.*) \{")
_OPERATION = re.compile(rf" = (.+?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind in a program, the bodies of its loops counted once."""

    kind: str
    count: int
    bytes: int  # of their results on one device


def collectives(hlo: str) -> list[Collective]:
    """The collectives of a compiled program's text (jax.stages.Compiled.as_text), by kind, largest first.

    A loop's body is in the text once, however often it runs, and so it counts once: these are no totals of a step.
    """
    found: dict[str, tuple[str, int]] = {}  # channel, or line number -> (kind, bytes)
    computation, result = "", ""
    for number, line in enumerate(hlo.splitlines()):
        if header := _COMPUTATION.match(line):
            computation, result = header[1], header[2]
        elif operation := _OPERATION.search(line):
            shape, kind, start = operation.groups()
            if computation.startswith("all-reduce-scatter"):  # how a TPU's program writes it: all-reduce, then a slice
                shape, kind = result, "reduce-scatter"
            sizes = [_bytes(*array) for array in _ARRAY.findall(shape)]
            if start and kind == "collective-permute":
                sizes = sizes[1:2]  # (operand, result, two counters)
            elif start and kind == "all-gather":
                sizes = sizes[len(sizes) // 2 :]  # operands, then results
            # An asynchronous one on a TPU is spread over several fusions, with a copy of the operation in each.
            channel = re.search(r"channel_id=\d+", line)
            found[channel[0] if channel else str(number)] = (kind, sum(sizes))
    by_kind = [
        Collective(kind, len(sizes), sum(sizes))
        for kind in KINDS
        if (sizes := [size for of, size in found.values() if of == kind])
    ]
    return sorted(by_kind, key=lambda c: -c.bytes)


def _bytes(dtype: str, dimensions: str) -> int:
    size = _BITS[dtype]
    for dimension in filter(None, dimensions.split(",")):
        size *= int(dimension)
    return size // 8
