"""The day a GPU or a TPU is there: what phi_jax computes on it, how fast, and in how much memory.

    launch/device_check/run --out FILE.json [--parts attention step.phi_1.none.4]

Each part runs in a process of its own for at most --limit seconds (90). FILE.json is written before and after each
part, what a part printed goes to FILE.logs/. Started again, the check goes on: first with the parts that were never
begun, then once more with those that failed, ran out of time, or were running when the check was killed.

The parts, in order of value, and what one H200 may take for each, its start included (estimates; nothing was run):

    attention          30 s  cudnn (GPU) or splash (TPU), and `xla`, in bfloat16 beside `xla` in float32: outputs and
                             gradients, rows of one document and of several; then their seconds
    gradients          40 s  loss and gradients in bfloat16 beside float32, by both kernels, rows of several documents
    step.phi_1.none.4  60 s  phi-1's step without recomputing, 4 rows a device: time, tokens/s, MFU by both conventions,
                             memory as estimated, compiled and measured
    torch_step         90 s  the same model and rows by transformers on torch: sdpa, torch.compile
    sampler            40 s  greedy completions beside the whole forward pass
    save               30 s  parameters saved and read back
    step.*             60 s  each of 3: phi-1 with 8 rows; with full recomputing and 4; phi-1-small with 8
    ceilings           20 s  TFLOP/s of a product in bfloat16, and GB/s of the memory
    sampler_speed.*    50 s  each of 3: tokens/s with 1, 32 and 256 slots. A step of all slots reads the weights, 2.8 GB
                             of phi-1: tokens/s / slots * 2.8 is to be seen beside the ceiling of GB/s

With 8 minutes: the first three take 2.2, 4.5 at their limits.
"""

import argparse
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from phi_jax.bench.result import surroundings
from phi_jax.errors import UserError, one_line
from phi_jax.parallel import processes
from phi_jax.parallel.child import run_child
from phi_jax.parallel.supervise import die_with_parent
from phi_jax.store.artifact import Json, write_json

# "function.argument.argument", of parts.py.
PARTS = (
    "attention", "gradients", "step.phi_1.none.4", "torch_step", "sampler", "save", "step.phi_1.none.8",
    "step.phi_1.full.4", "step.phi_1_small.none.8", "ceilings", "sampler_speed.1", "sampler_speed.32",
    "sampler_speed.256",
)  # fmt: skip
_NO_DEVICE = "the devices here are CPUs; add --tiny for a rehearsal"


def main() -> int:
    """The exit code: 1 where a part has failed, or nothing could be done."""
    parser = argparse.ArgumentParser(prog="device_check")
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FILE.json", help="the result; read again to go on")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="only these: %(choices)s")
    add("--limit", type=float, default=90, metavar="SECONDS", help="of a part (default 90)")
    add("--tiny", action="store_true", help="small shapes: a rehearsal on a CPU")
    add("--distributed", choices=("slurm", "tpu", "env"), help="as of phi-jax pretrain: this is one process of several")
    try:
        return check(parser.parse_args())
    except UserError as error:
        print(f"device_check: error: {error}", file=sys.stderr)
        return 1


def check(options: argparse.Namespace) -> int:
    """Runs what is asked for and not done. Returns the exit code. Raises UserError for a file not to go on with."""
    out, shapes = options.out, "tiny" if options.tiny else "phi_1"
    try:
        found = json.loads(out.read_text()) if out.exists() else {shapes: {}}
        results = found[shapes]
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(f"--out {out}: no result of a device check of these shapes; name another file") from None
    folder = out.with_suffix(".logs").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    context = {"tiny": options.tiny, "distributed": options.distributed, "check": os.getpid(), "folder": str(folder)}

    def keep(**result: Any) -> None:
        results[name] = result
        write_json(out, found)
        print(f"{name}: {result['result']}", file=sys.stderr, flush=True)  # not by progress.py, which needs tqdm

    def is_left(name: str) -> bool:
        return not results.get(name, {"result": ""})["result"].startswith(("done", "skipped"))

    asked = [name for name in PARTS if name in options.parts and is_left(name)]
    for name in sorted(asked, key=results.__contains__):
        keep(result="begun")
        start = time.monotonic()
        try:
            answer = run_child("check:run", {"name": name, **context}, environment=os.environ, timeout=options.limit)
        except UserError as error:
            answer = {"result": f"failed: {error}"}
        keep(**answer, seconds=round(time.monotonic() - start, 1))
        if answer["result"].endswith(_NO_DEVICE):  # so would all others
            break
    return int(any(map(is_left, options.parts)))


def run(name: str, tiny: bool, distributed: str | None, check: int, folder: str) -> Json:
    """The part's result, figures and surroundings. check: id of the process that started this one.

    folder: where the part works, and where its log goes.
    """
    die_with_parent()  # no part outlives the check that watches it
    if os.getppid() != check:
        sys.exit()
    os.chdir(folder)
    with open(f"{name}.log", "wb") as log:
        os.dup2(log.fileno(), 2)
    function, *arguments = name.split(".")
    of_torch = function.startswith("torch")
    if of_torch:
        os.environ["JAX_PLATFORMS"] = "cpu"  # jax leaves the accelerator to torch
    figures: Json = {}
    found = {"result": "done", **surroundings(), "figures": figures}
    try:
        if distributed:
            processes.connect(distributed)
        import jax
        import parts

        found["devices"] = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        if jax.default_backend() == "cpu" and not tiny and not of_torch:
            raise UserError(_NO_DEVICE)
        getattr(parts, function)(figures, tiny, *arguments)
        if "wrong" in figures:
            found["result"] = f"wrong: {'; '.join(figures['wrong'])}"
    except Exception as error:
        traceback.print_exc()
        absent = of_torch and isinstance(error, ModuleNotFoundError)
        found["result"] = f"{'skipped' if absent else 'failed'}: {one_line(error)}"
    return found


if __name__ == "__main__":
    sys.exit(main())
