"""Ours beside a peer's, in turns: each side in a process of its own, one at a time, so that neither takes cores or
memory from the other.

A script of this folder defines one function for each side, which returns figures with a speed, and calls `compare`.
"""

import argparse
import dataclasses
import os
import shutil
import statistics
import sys
from pathlib import Path

from phi_jax.bench.result import publish
from phi_jax.errors import UserError
from phi_jax.parallel.child import run_child

DISTURBED = 0.05  # share of the machine's CPU time that goes elsewhere
HERE = Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Side:
    """function: "module:name" of this folder, called with `arguments` by `interpreter`."""

    function: str
    arguments: dict
    interpreter: str = sys.executable

    def run(self):
        """The figures of one run, with what went on beside it. Raises UserError where it fails."""
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
        before = _cpu_seconds()
        figures = run_child(
            self.function, self.arguments, environment={**os.environ, "PYTHONPATH": path}, interpreter=self.interpreter
        )
        return {**figures, **_cpu_shares(before, _cpu_seconds())}


def compare(sides, rounds, *, speed="tokens_per_second", check=None):
    """{"ratio", "rounds"}: `rounds` times each side's figures, the first side's turn at the start and the end by turns.

    sides: {"ours": Side, "peer": Side}, or "ours" alone, and then no ratio. ratio: ours / peer's `speed`: each round's,
    the median, the lowest, the highest, and of the "undisturbed" rounds, in which other processes and the machine's
    host took less than DISTURBED of the CPU time on either side; on a CPU no other ratio means much.
    check: raises what shows that the figures of one round are not of the same work.
    """
    pairs = []
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        figures = {name: sides[name].run() for name in order}
        if check is not None:
            check(figures)
        pairs.append({name: figures[name] for name in sides})
        said = ", ".join(f"{name} {pairs[-1][name][speed]:.1f}" for name in sides)
        print(f"round {number + 1}: {said} {speed.replace('_', ' ')}", file=sys.stderr, flush=True)
    if len(sides) == 1:
        return {"rounds": pairs}
    ratios = [pair["ours"][speed] / pair["peer"][speed] for pair in pairs]
    undisturbed = [ratio for ratio, pair in zip(ratios, pairs, strict=True) if not any(map(_disturbed, pair.values()))]
    ratio = {
        "median": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "rounds": ratios,
        "undisturbed": undisturbed,
    }  # fmt: skip
    print(
        f"ours / peer: {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f} over {rounds} rounds, "
        f"{len(undisturbed)} of them undisturbed)",
        file=sys.stderr,
    )
    return {"ratio": ratio, "rounds": pairs}


def main(add_arguments, measure):
    """The main of a script: its options, `--rounds` and `--out`; measure(options) gives the result."""
    parser = argparse.ArgumentParser()
    add_arguments(parser.add_argument)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each side (default 5)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where the result goes, beside standard output")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: must be at least 1")
    try:
        publish(lambda: measure(options), options.out)
    except UserError as error:
        sys.exit(f"error: {error}")


def interpreter_of(path):
    """Raises UserError where there is none."""
    if path is not None and shutil.which(path) is None:
        raise UserError(f"--peer-python {path}: no such program; name an interpreter, as V/bin/python")
    return path


def _disturbed(figures):
    return any((figures[name] or 0.0) >= DISTURBED for name in ("cpu_stolen_share", "cpu_others_share"))


def _cpu_seconds():
    """Since boot: stolen by the host, used by all processes, used by us and our children, and all there was. Linux."""
    try:
        with open("/proc/stat") as file:
            ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in file.readline().split()[1:9]]
    except OSError:
        return None
    user, niced, system, idle, waiting, hard, soft, stolen = ticks
    used = user + niced + system + hard + soft
    return {"stolen": stolen, "used": used, "own": sum(os.times()[:4]), "all": used + idle + waiting + stolen}


def _cpu_shares(before, after):
    if before is None or after is None or after["all"] == before["all"]:
        return {"cpu_stolen_share": None, "cpu_others_share": None}
    spent = {name: after[name] - before[name] for name in after}
    others = max(spent["used"] - spent["own"], 0.0)  # ticks are coarse: of a short run, the difference may be below 0
    return {"cpu_stolen_share": spent["stolen"] / spent["all"], "cpu_others_share": others / spent["all"]}
