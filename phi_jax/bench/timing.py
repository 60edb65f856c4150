"""Times a training loop that has one step in flight; the same code times every implementation."""

from __future__ import annotations

import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

WARMUP_STEPS = 3  # the first calls compile, allocate and fill caches
ALONE_STEPS = 5

Handle = TypeVar("Handle")


def time_steps(dispatch: Callable[[int], Handle], read: Callable[[Handle], float], steps: int) -> dict[str, Any]:
    """Runs warm-up and `steps` steps in the loop, then a few steps alone; seconds of wall clock.

    dispatch(i): puts batch i on the device and starts step i. read(handle): waits for that step, returns its loss.
    As in training, the loss of step N - 1 is read after step N was dispatched. Figures:
    - step_seconds, _p10, _p90: median and percentiles of the time between the ends of one step and the next.
    - step_alone_seconds: median from a call of dispatch, with the device idle before, until the loss is on the host.
    - dispatch_seconds: median of how long that call itself took to return.
    - host_gap_seconds: step_seconds - step_alone_seconds, what the loop adds to a step. A step alone contains one
      dispatch, which the loop may hide; so the device waits for the host between host_gap_seconds and
      host_gap_seconds + dispatch_seconds a step, and a negative gap is hidden dispatch. Not seen: idle time inside
      a step (between its kernels), and anything smaller than the spread of step_seconds.
    - first_loss, last_loss: of the first and the last step in the loop.
    - cpu_stolen_share and cpu_others_share: of the machine's CPU time meanwhile, what its host gave to other machines
      and what other processes here took; None where not known. Figures of a busy machine say little.
    Raises ArithmeticError for a loss that is not finite.
    """
    ends, losses = [], []
    before = cpu_seconds()
    previous = dispatch(0)
    for i in range(1, WARMUP_STEPS + steps):
        current = dispatch(i)
        losses.append(read(previous))
        ends.append(time.perf_counter())
        previous = current
    losses.append(read(previous))
    ends.append(time.perf_counter())
    seconds = [end - start for start, end in itertools.pairwise(ends)][WARMUP_STEPS - 1 :]

    alone, dispatched = [], []
    for i in range(ALONE_STEPS):
        start = time.perf_counter()
        handle = dispatch(WARMUP_STEPS + steps + i)
        dispatched.append(time.perf_counter() - start)
        losses.append(read(handle))
        alone.append(time.perf_counter() - start)
    if not all(map(math.isfinite, losses)):
        raise ArithmeticError(f"a loss is not finite: {losses}")
    step, step_alone = statistics.median(seconds), statistics.median(alone)
    return {
        "step_seconds": step,
        "step_seconds_p10": percentile(seconds, 0.1),
        "step_seconds_p90": percentile(seconds, 0.9),
        "step_alone_seconds": step_alone,
        "dispatch_seconds": statistics.median(dispatched),
        "host_gap_seconds": step - step_alone,
        "first_loss": losses[0],
        "last_loss": losses[WARMUP_STEPS + steps - 1],
        **cpu_shares(before, cpu_seconds()),
    }


def rates(figures: dict[str, Any], tokens_per_step: int) -> dict[str, float]:
    """tokens_per_second at the median step, and its 10th and 90th percentile."""
    return {
        "tokens_per_second": tokens_per_step / figures["step_seconds"],
        "tokens_per_second_p10": tokens_per_step / figures["step_seconds_p90"],
        "tokens_per_second_p90": tokens_per_step / figures["step_seconds_p10"],
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values lie at or below, with linear interpolation."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def cpu_seconds() -> dict[str, float] | None:
    """Since boot: stolen by the host, used by all processes, used by this one, and all there was. Linux only."""
    try:
        with open("/proc/stat") as file:
            ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in file.readline().split()[1:9]]
    except OSError:
        return None
    user, niced, system, idle, waiting, hard, soft, stolen = ticks
    own = os.times()
    used = user + niced + system + hard + soft
    return {"stolen": stolen, "used": used, "own": own.user + own.system, "all": used + idle + waiting + stolen}


def cpu_shares(before: dict[str, float] | None, after: dict[str, float] | None) -> dict[str, float | None]:
    """cpu_stolen_share and cpu_others_share between two answers of `cpu_seconds`; see `time_steps`."""
    if before is None or after is None or after["all"] == before["all"]:
        return {"cpu_stolen_share": None, "cpu_others_share": None}
    spent = {name: after[name] - before[name] for name in after}
    others = max(spent["used"] - spent["own"], 0.0)  # ticks are coarse: of a short run, the difference may be below 0
    return {"cpu_stolen_share": spent["stolen"] / spent["all"], "cpu_others_share": others / spent["all"]}
