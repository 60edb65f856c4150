"""The day a GPU or a TPU is there: what phi_jax computes on it, how fast, and in how much memory.

    launch/device_check/run --out FILE.json [--parts step matmul] [--again step]

Each part runs in a process of its own for at most --limit seconds (90); then it is stopped, and the next one begins.
FILE.json is written after each part, what a part printed goes to FILE.logs/. Run again, it goes on with the parts that
have no result yet.

The parts, in order of value, and what one H200 may take for each, its start included (estimates; nothing was run):

    correctness    40 s  attention (cudnn, splash on a TPU) and the training step beside a float32 reference, outputs
                         and gradients, rows of one document and of several
    step           60 s  phi-1's step: time, tokens/s, MFU by both conventions, memory as estimated, compiled, measured
    torch          90 s  the same model and batch by transformers on torch, sdpa, eager and then compiled
    small_step     50 s  phi-1-small's step
    remat_rows.*   60 s  each of 9: remat none, dots, full with 4, 8, 16 rows a device, where the estimate fits
    matmul         20 s  bfloat16 TFLOP/s at phi-1's products, and the memory's bandwidth
    sampler.*      60 s  each of 3: tokens/s with 1, 32 and 256 slots beside what the bandwidth allows
    export         50 s  a random model of phi-1's width, exported, loaded by transformers here: logits

With 8 minutes: the first three take 3.2, 4.5 at their limits; then small_step, matmul and one or two of the sampler's.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from parts import ALONE, PARTS, replace

from phi_jax.bench.result import surroundings
from phi_jax.errors import PeerLost, UserError
from phi_jax.parallel import processes
from phi_jax.planning.hardware import GPU_SHARE
from phi_jax.store.json_text import json_text

_DRIVERS = (
    "torch", "transformers", "jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13",
    "libtpu",
)  # fmt: skip


def main() -> int:
    """The exit code: 1 where a part failed, or nothing could be done."""
    parser = argparse.ArgumentParser(prog="device_check", description="What this GPU or TPU does with phi-1.")
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FILE.json", help="the result; read again to go on")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help="only these: %(choices)s")
    add("--again", nargs="+", choices=PARTS, default=[], metavar="PART", help="these, though they have a result")
    add("--shapes", choices=("phi_1", "tiny"), default="phi_1", help="tiny: a rehearsal on a CPU")
    add("--limit", type=float, default=90.0, metavar="SECONDS", help="of a part (default 90)")
    add("--distributed", choices=("slurm", "tpu", "env"), help="as of phi-jax pretrain: this is one process of several")
    options = parser.parse_args()
    try:
        if options.distributed:
            processes.connect(options.distributed)
        return check(options)
    except (PeerLost, UserError) as error:
        print(f"device_check: error: {error}", file=sys.stderr)
        return 1


def check(options: argparse.Namespace) -> int:
    """Does what is to be done, with the other processes of the check. Returns the exit code.

    All processes know all results and so take the same turns; process 0 alone writes them.
    """
    asked = [name for name in PARTS if name in options.parts]
    found = processes.on_leader(lambda: _begun(options))
    logs = options.out.with_suffix(".logs")
    logs.mkdir(parents=True, exist_ok=True)
    for name in asked:
        if name in found["parts"] and name not in options.again:
            continue
        _say(f"{name}: begins")
        context = {"shapes": options.shapes, "distributed": processes.count() > 1, "step": found["parts"].get("step")}
        answers = processes.gather(_run(name, context, options, logs))
        found["parts"][name] = _together(answers)
        if processes.is_leader():
            replace(options.out, json_text(found, indent=1) + "\n")
        _say(f"{name}: {found['parts'][name]['result']} ({found['parts'][name]['seconds']} s)")
    return int(not all(found["parts"][name]["result"].startswith(("done", "skipped")) for name in asked))


def _say(line: str) -> None:
    if processes.is_leader():  # not by phi_jax/progress.py, which needs tqdm
        print(line, file=sys.stderr, flush=True)


def _begun(options: argparse.Namespace) -> dict[str, Any]:
    """What FILE.json holds, or its beginning. Raises UserError for a file of other shapes, or none of ours."""
    if options.out.exists():
        try:
            found: dict[str, Any] = json.loads(options.out.read_text())
            shapes, _ = found["shapes"], [(part["result"], part["seconds"]) for part in found["parts"].values()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"--out {options.out}: no result of a device check; name another file") from None
        if shapes != options.shapes:
            raise UserError(f"--out {options.out}: holds results of --shapes {shapes}; name another file")
        return found
    versions = {}
    for name in _DRIVERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    about = surroundings()
    return {"shapes": options.shapes, **about, "versions": {**about["versions"], **versions}, "parts": {}}


def _run(name: str, context: dict[str, Any], options: argparse.Namespace, logs: Path) -> dict[str, Any]:
    """This process's share of a part, in a child: its answer, and how it ended where it gave none."""
    start, context = time.monotonic(), {**context, "check": os.getpid()}
    environment = _environment(name, options)
    if name in ALONE and not processes.is_leader():
        return {"result": "done", "figures": {}, "seconds": 0.0}
    log = logs / (f"{name}.{processes.index()}.log" if context["distributed"] else f"{name}.log")
    with tempfile.TemporaryDirectory() as scratch, log.open("wb") as file:
        answer = Path(scratch, "answer.json")
        command = [sys.executable, str(Path(__file__).with_name("parts.py")), name, str(answer), json.dumps(context)]
        child = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
        try:
            code: int | None = child.wait(options.limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # and whatever it has started
            child.wait()
        found = json.loads(answer.read_text()) if answer.exists() else {"result": "unfinished", "figures": {}}
    if found["result"] == "unfinished":
        said = log.read_text(errors="replace").strip().splitlines() or ["no word"]
        found["result"] = (
            f"stopped after {options.limit:g} s" if code is None else f"ended with exit code {code}: {said[-1][:300]}"
        )
    return {**found, "seconds": round(time.monotonic() - start, 1)}


def _environment(name: str, options: argparse.Namespace) -> dict[str, str]:
    """Of a part's child; where there are several processes, their children meet at an address of their own."""
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": str(GPU_SHARE), **os.environ}
    if name in ALONE:
        return {**environment, "JAX_PLATFORMS": "cpu"}
    if processes.count() > 1:
        environment |= {
            "JAX_COORDINATOR_ADDRESS": processes.on_leader(_free_address),
            "JAX_NUM_PROCESSES": str(processes.count()),
            "JAX_PROCESS_ID": str(processes.index()),
        }
        if options.distributed == "slurm":  # a task has the GPU of its number, as jax gives it out
            environment["JAX_LOCAL_DEVICE_IDS"] = os.environ["SLURM_LOCALID"]
    return environment


def _free_address() -> str:
    """host:port of this process where nobody listens yet."""
    from jax._src import distributed

    host, _, _ = str(distributed.global_state.coordinator_address).rpartition(":")
    with socket.socket() as listener:
        listener.bind(("", 0))
        return f"{host}:{listener.getsockname()[1]}"


def _together(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Process 0's answer, and the result of the first process with which the part did not end well."""
    first = answers[0]
    for process, answer in enumerate(answers):
        if first["result"] == "done" != answer["result"]:
            return {**first, "result": f"process {process}: {answer['result']}"}
    return first


if __name__ == "__main__":
    sys.exit(main())
