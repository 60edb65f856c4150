"""What a compiled step says of itself: memory, exchanges between devices, the kernel that attention became."""

import dataclasses
import functools
import math
import re
from collections import Counter

_COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled step, on one device."""

    seconds: float  # of compiling
    memory: dict[str, int]  # bytes at the peak, by who multiplies matrices; empty where it fits in no way
    exchanges: dict[str, tuple[int, int]]  # of a step: collective -> times, bytes received; {} where they can't be told
    kernels: list[str]  # fused attention kernels in it, as the program calls them


def attention_kernels(text: str) -> list[str]:
    """The fused attention kernels that a program calls: cuDNN's, or Pallas' on TPUs."""
    return sorted(set(re.findall(r'custom_call_target="(__cudnn\$fmha\w*|tpu_custom_call)"', text)))


def exchanges(text: str, devices: int) -> dict[str, tuple[int, int]]:
    """Collective -> (times, bytes that one device receives) in one run of a program, given as its text.

    The body of a loop counts as often as it runs. The result of a collective is read where it ends ("-done"): where it
    starts, its shape holds the operands too. Of an array of S bytes in a group of n, all-gather, reduce-scatter and
    all-to-all bring S (n - 1) / n to a device, all-reduce twice that. Raises LookupError for a loop that does not
    say how often it runs.
    """
    computations = re.findall(r"^(ENTRY )?(%\S+) \(.*?\{\n(.*?)^\}$", text, re.M | re.S)
    bodies = {name: body for _, name, body in computations}
    starts = dict(re.findall(rf"(%\S+) = (.*(?:{_COLLECTIVES})-start\(.*)", text))

    @functools.cache
    def counted(name: str) -> Counter[tuple[str, str]]:
        total: Counter[tuple[str, str]] = Counter()
        for line in bodies[name].splitlines():
            runs = _runs(line, bodies)
            for called in re.findall(r"(?:body|calls)=(%[\w.-]+)", line):
                total += {key: count * runs for key, count in counted(called).items()}
            if found := re.search(rf" = (.*?) ({_COLLECTIVES})(-done)?\((%[\w.-]+)?", line):
                group = _group_size(starts.get(found[4], line), devices)
                total += {(found[2], "times"): 1, (found[2], "bytes"): _received(found[2], found[1], group)}
        return total

    total = counted(next(name for entry, name, _ in computations if entry))
    return {kind: (total[kind, "times"], total[kind, "bytes"]) for kind in sorted({kind for kind, _ in total})}


def _runs(line: str, bodies: dict[str, str]) -> int:
    """How often a line's loop runs: as GPU programs say, or as a TPU's counter goes from 0 to a constant by another."""
    if found := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
        return int(found[1])
    for condition, body in re.findall(r" while\(.*condition=(%[\w.-]+), body=(%[\w.-]+)", line):
        place, end = (re.findall(rf"{what}(\d+)", bodies[condition])[0] for what in (r"\), index=", r"constant\("))
        counters = re.findall(r"%[\w.-]+", re.findall(r"ROOT .* tuple\((.*)", bodies[body])[0])
        by = re.findall(rf"{counters[int(place)]} = .* add\(.*(%[\w.-]+)\)", bodies[body])[0]
        return int(end) // int(re.findall(rf"{by} = .* constant\((\d+)", bodies[body])[0])
    return 1


def _received(kind: str, shape: str, group: int) -> int:
    """Bytes that come to a device, of a result of this shape."""
    size = sum(
        math.prod(map(int, filter(None, sides.split(",")))) * int(bits or 8) // 8
        for bits, sides in re.findall(r"[a-z]+(\d*)\w*\[([\d,]*)\]", shape)
    )
    if kind == "collective-permute":
        return size
    return size * (group - 1) * {"all-reduce": 2, "reduce-scatter": group}.get(kind, 1) // group


def _group_size(line: str, devices: int) -> int:
    """Devices of one group of a collective, written as lists, [groups, size]<=... or axes of a mesh."""
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return found[1].count(",") + 1
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[(.*?)\].*?\{('.*?)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return devices
