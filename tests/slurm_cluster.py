"""A SLURM cluster of two nodes on this machine: its daemons, with ports and a folder of their own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

NODES = ("127.0.0.1", "second")
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "scancel")

# The first node is called by its address: jax takes its name for that of the coordinator.
# cred_expire: how long a requeued job waits before it starts again (120 s by default, 5 s at least).
CONFIG = """\
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={munge_socket},cred_expire=5
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
KillWait=60
SchedulerParameters=sched_min_interval=0
FirstJobId={first_job}
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """Use as a context manager. `env` is what SLURM's commands, and so the jobs, are run in."""

    def __init__(self):
        missing = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
        if missing or os.getuid() != 0:
            pytest.skip("needs root and SLURM: apt-get install slurmctld slurmd slurm-client munge")
        # Not pytest's: slurmd's socket lies in it, and the path of a socket has at most 108 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self._daemons = []
        self.env = {**os.environ, "PATH": _path(), "SLURM_CONF": str(self._folder / "slurm.conf")}

    def __enter__(self):
        try:
            self._start_all()
        except BaseException:
            self._stop_all()
            raise
        return self

    def __exit__(self, *_):
        self._stop_all()

    def run(self, *command, cwd=None):
        """What a command of SLURM's prints."""
        done = subprocess.run(command, env=self.env, cwd=cwd, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job):
        """Of a job, and why it is in it: e.g. "PENDING BeginTime"."""
        return self.run("squeue", "-h", "--states=all", f"--job={job}", "-o", "%T %r")

    def lose_power(self, node):
        """Ends a node's daemon and all that runs on it, which cannot say so, and starts the daemon after a while."""
        place = next(i for i, daemon in enumerate(self._daemons) if daemon.args[-2:] == ("-N", node))
        self._daemons[place].kill()
        self._daemons[place].wait()
        tasks = [pid for pid in _processes() if self._runs_on(pid, node)]
        parents = {int(_read(pid, "stat").rpartition(b")")[2].split()[1]) for pid in tasks} - {*tasks}
        for pid in [*parents, *tasks]:  # first slurmstepd, which would report how its task ended
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(25)  # slurmctld asks a node for a job only 20 s after that began
        self._start("slurmd", "-D", "-N", node)
        self._daemons[place] = self._daemons.pop()
        return len(tasks)

    def _runs_on(self, pid, node):
        set_to = _read(pid, "environ").split(b"\0")
        return {f"SLURM_CONF={self.env['SLURM_CONF']}".encode(), f"SLURMD_NODENAME={node}".encode()} <= {*set_to}

    def logs(self):
        return "\n".join(f"--- {p.name}\n{p.read_text()[-3000:]}" for p in sorted(self._folder.glob("*.log")))

    def _start_all(self):
        folder = self._folder
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (folder / name).mkdir()
        host, ports, munge_socket = socket.gethostname().partition(".")[0], _free_ports(3), folder / "munge.socket"
        (folder / "slurm.conf").write_text(
            CONFIG.format(
                host=host, munge_socket=munge_socket, folder=folder, ports=ports, nodes=NODES,
                first_job=ports[0],  # jax derives the coordinator's port from the job's number
            )
        )  # fmt: skip
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self._start(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge_socket}",
            f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed",
        )  # fmt: skip
        self._until(munge_socket.exists, "munged listens")
        self._start("slurmctld", "-D")
        for node in NODES:
            self._start("slurmd", "-D", "-N", node)
        self._until(lambda: self._try("sinfo", "-h", "-o", "%T %D") == "idle 2", "both nodes are idle")

    def _stop_all(self):
        try:
            # While the daemons live: nobody ends a task after them.
            self._try("scancel", "--full", "--signal=KILL", "--state=RUNNING")
            self._until(lambda: not self._try("squeue", "-h", "--states=RUNNING,COMPLETING"), "the tasks have ended")
        finally:
            for daemon in reversed(self._daemons):
                daemon.terminate()
            for daemon in self._daemons:
                daemon.wait(30)
            shutil.rmtree(self._folder)

    def _start(self, *command):
        with open(self._folder / f"{len(self._daemons)}-{command[0]}.log", "w") as log:
            self._daemons.append(subprocess.Popen(command, env=self.env, stdout=log, stderr=log))

    def _try(self, *command):
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60).stdout.strip()

    def _until(self, holds, what, seconds=60):
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds} s: {what}\n{self.logs()}")
            time.sleep(0.1)


def _processes():
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _read(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b"" if name != "stat" else b") X 0"


def _path():
    return os.environ["PATH"] + ":/usr/sbin:/sbin"


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
