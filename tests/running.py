"""What several tests run: the command line in a process of its own, on the micro config."""

import contextlib
import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fork_server
import pytest

ROOT = Path(__file__).resolve().parent.parent
# Of all tests and their children: optimising the code takes LLVM ten times as long as running it here does. HLO, and
# with it memory and exchanges between devices, is the same. tests/training_step.py and nano itself are optimised.
UNOPTIMISED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
MICRO = ["--config", str(ROOT / "configs" / "nano.py") + ":size=micro"]


# A third of most commands' time.
PHI_JAX = ("jax", "openai", "orbax.checkpoint", "phi_jax.pipeline", "phi_jax.training.loop")
_servers = {}  # (modules, PYTHONPATH) -> process and socket of tests/fork_server.py, in each worker of pytest
_FOR_PROCESSES = {"JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"}  # which jax reads when it connects


def server(modules=PHI_JAX, env=None):
    """The path of the socket of a fork server that has imported `modules`, in an environment."""
    env = {name: value for name, value in (env or os.environ).items() if name != "JAX_NUM_CPU_DEVICES"}
    kind = modules, env.get("PYTHONPATH")
    process, path = _servers.get(kind) or (None, None)
    if process is None or process.poll() is not None:
        path = tempfile.mktemp()  # pytest's directories have names too long for a socket
        command = [sys.executable, str(ROOT / "tests" / "fork_server.py"), "serve", path, *modules]
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE)
        _servers[kind] = process, path
        while not os.path.exists(path):
            assert process.poll() is None
            time.sleep(0.01)
    return path


def devices(count):
    """What `python` and `Python` need of the environment for so many pretended devices."""
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count} {UNOPTIMISED}", "JAX_PLATFORMS": "cpu"}


class Python:
    """`python ARGUMENTS` in a process of its own, which has imported jax: what jax read then cannot change.

    Used as a subprocess.Popen is. socket: of another server.
    """

    def __init__(self, *arguments, cwd=ROOT, env=None, stdout=1, stderr=2, start_new_session=False, socket=None):
        self.args, env = arguments, os.environ if env is None else env
        changed = {name for name in {*env, *os.environ} if env.get(name) != os.environ.get(name)} - _FOR_PROCESSES
        assert socket or not any(name.startswith(("JAX_", "PYTHON")) for name in changed)
        files = [file if isinstance(file, int) else file.fileno() for file in (stdout, stderr)]
        with open(os.devnull) as nothing:
            files = [nothing.fileno(), *files]
            self._connection = fork_server.ask(socket or server(), arguments, cwd, env, files, start_new_session)
        self._answers = self._connection.makefile()
        self.pid, self.returncode = int(self._answers.readline()), None

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._answers.readline())
            self._connection.close()
        return self.returncode

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def python(*arguments, cwd=ROOT, env=None, timeout=None, socket=None):
    """The finished process, as subprocess.run gives it; `env` comes on top of this process's."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        env = {**os.environ, **(env or {})}
        process = Python(*arguments, cwd=cwd, env=env, stdout=stdout, stderr=stderr, socket=socket)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(arguments, code, stdout.read(), stderr.read())


def phi_jax(*arguments, check=True, **options):
    """Runs the command line in a process of its own."""
    done = python("-m", "phi_jax.cli", *arguments, **options)
    if check and done.returncode:
        pytest.fail(f"phi-jax {' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
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
