"""What several tests run: the command line in a process of its own, on the micro config."""

import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Of all tests and their children: optimising the code takes LLVM ten times as long as running it here does. HLO, and
# with it memory and exchanges between devices, is the same. tests/training_step.py and nano itself are optimised.
UNOPTIMISED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
MICRO = ["--config", str(ROOT / "configs" / "nano.py") + ":size=micro"]


_server = None  # tests/fork_server.py, one for each worker of pytest


def phi_jax(*arguments, cwd=ROOT, check=True, env=None):
    """Runs the command line in a process of its own, which has imported jax: what jax read then cannot change."""
    global _server
    assert not any(name.startswith(("JAX_", "PYTHON")) for name in env or ())
    if _server is None or _server.poll() is not None:
        command = [sys.executable, str(ROOT / "tests" / "fork_server.py")]
        _server = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
    arguments = [*map(str, arguments)]
    with tempfile.TemporaryDirectory() as said:
        stdout, stderr = Path(said, "stdout"), Path(said, "stderr")
        asked = {
            "arguments": arguments, "cwd": str(cwd), "env": {**os.environ, **(env or {})},
            "stdout": str(stdout), "stderr": str(stderr),
        }  # fmt: skip
        try:
            _server.stdin.write(json.dumps(asked) + "\n")
            code = int(_server.stdout.readline())
        except BaseException:
            _server.kill()  # the next command gets another
            raise
        done = subprocess.CompletedProcess(arguments, code, stdout.read_text(), stderr.read_text())
    if check and code:
        pytest.fail(f"phi-jax {' '.join(arguments)}: exit {code}\n{done.stdout}{done.stderr}")
    return done


def identities(workdir):
    """Label -> identity of every artifact in a work directory."""
    manifests = [json.loads(p.read_text()) for p in sorted(Path(workdir).glob("**/manifest.json"))]
    return {f"{m['stage']}/{m['name']}": m["identity"] for m in manifests}


def made_in(said):
    """The labels of the stages that a run says it has made, in order."""
    return re.findall(r"^(\S+) .* [\d,.]+ s$", said, re.MULTILINE)


def named_identities(point):
    """Label -> identity of every artifact that a sweep's point names by a link."""
    manifests = [
        json.loads(p.read_text()) for depth in ("*", "*/*") for p in Path(point).glob(f"{depth}/manifest.json")
    ]
    return {f"{m['stage']}/{m['name']}": m["identity"] for m in manifests}


def sweep_of_finetunings(training_steps, finetune_steps):
    """A sweep file: two models of raw code, finetuned for so many steps each, behind one pretraining."""
    return f'''"""How long raw code's model is finetuned."""

def get_points(h):
    return h.product(
        h.point("", {{
            "config": "{ROOT}/configs/nano.py:size=micro", "models.base": None, "models.finetuned": None,
            "collect.max_files": 60, "evaluate.further_benchmarks": (), "evaluate.perturbations": (),
            "training.steps": {training_steps}, "training.schedule_steps": {training_steps},
            "training.checkpoint_every": 10, "training.cpu_devices": 1,
        }}),
        h.zip(h.sweep("finetune.steps", {finetune_steps}), h.sweep("finetune.schedule_steps", {finetune_steps})),
    )
'''


@contextlib.contextmanager
def fewer_slots(count):
    """The sampler fills only the first so many slots of each device; the others stay idle."""
    from phi_jax.parallel.sampler import Sampler

    whole = Sampler._prompts

    def some(self, slots, waiting, bucket):
        first = itertools.islice(slots.items(), count * self._devices)  # the slots of all devices take turns
        return whole(self, dict(first), waiting, bucket)

    Sampler._prompts = some
    try:
        yield
    finally:
        Sampler._prompts = whole
