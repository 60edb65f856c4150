"""The launch scripts without a cluster: what they would start, and what they do with how it ends."""

import os
import re
import subprocess

import pytest
import yaml  # comes with ml_collections
from running import ROOT

from phi_jax import cli
from phi_jax.config import split, take
from phi_jax.errors import EXIT_PEER_LOST, EXIT_PREEMPTED
from phi_jax.parallel import processes

LAUNCH = ROOT / "launch"
MANIFEST = LAUNCH / "gke.yaml"
SWEEP = LAUNCH / "gke_sweep.yaml"
SCRIPTS = [p for p in sorted(LAUNCH.iterdir()) if p.is_file() and not p.suffix]
DISRUPTED = {"type": "DisruptionTarget", "status": "True"}  # the schema of JobSet 0.9.1 requires a status
GOES_ON = {EXIT_PREEMPTED, EXIT_PEER_LOST}


def stand_in(folder, name, body):
    """A program of that name for a script to call."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (folder / name).chmod(0o755)


def start(script, folder, *arguments, **env):
    """Runs a script, which finds the programs in `folder` before those of the machine."""
    return subprocess.run(
        [LAUNCH / script, *arguments], env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **env},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def assert_trains(arguments, method):
    """They are a command line of `phi-jax` that trains as `method` wants it, on a config of this project."""
    taken, rest = take(arguments)
    options = cli._parser().parse_args(rest)
    assert options.command == "pretrain"
    assert options.distributed == method
    assert options.workdir
    assert options.name
    assert (ROOT / split(taken)[0].partition(":")[0]).is_file()


@pytest.mark.parametrize("path", [*SCRIPTS, MANIFEST, SWEEP], ids=lambda p: p.name)
def test_five_lines_at_most_are_to_be_edited(path):
    marked = [line for line in path.read_text().splitlines() if re.search(r"\S  # EDIT\b", line)]
    assert len(marked) <= 5
    assert marked or path.name == "local"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_bash_and_can_be_executed(path):
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", path], check=True)


def test_local_says_how_it_is_used(tmp_path):
    done = start("local", tmp_path)
    assert done.returncode == 2
    assert "usage: launch/local PROCESSES" in done.stderr


SAYS = """echo "[Gloo] Rank $JAX_PROCESS_ID is connected to 1 peer ranks."
echo 1
echo "to stdout by $JAX_PROCESS_ID"
echo "to stderr by $JAX_PROCESS_ID" >&2
exit $((JAX_PROCESS_ID * ${OTHER:-0} + ${ALL:-0}))"""


@pytest.mark.parametrize(
    ("all_end", "other_ends", "told"), [(0, 0, ""), (1, 0, ""), (0, 9, "process 1: to stderr by 1\n")]
)
def test_of_local_processes_the_first_speaks_and_another_that_ends_otherwise(tmp_path, all_end, other_ends, told):
    stand_in(tmp_path / "bin", "phi-jax", SAYS)
    done = start("local", tmp_path / "bin", "2", "pretrain", ALL=str(all_end), OTHER=str(other_ends))
    assert done.returncode == all_end + other_ends
    assert done.stdout == "to stdout by 0\n"
    assert done.stderr.startswith("to stderr by 0\n")
    assert done.stderr.endswith(told)
    assert ("by 1" in done.stderr) == bool(told)


def test_slurm_reads_every_option():
    """sbatch takes what follows the first command for no more than a comment."""
    lines = (LAUNCH / "slurm").read_text().splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert options
    assert max(options) < first_command


def test_slurm_starts_phi_jax_through_srun(tmp_path):
    stand_in(tmp_path / "bin", "srun", "printf '%s\\n' \"$@\"")
    done = start("slurm", tmp_path / "bin", SLURM_JOB_ID="7")
    assert done.returncode == 0, done.stderr
    options, _, arguments = done.stdout.partition("phi-jax\n")
    assert all(option.startswith("--") for option in options.split())
    assert_trains(arguments.split(), "slurm")


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [*((code, restarts, True) for code in sorted(GOES_ON) for restarts in ("", "99")), (EXIT_PEER_LOST, "100", False),
     *((code, "", False) for code in (0, 1, 2, 137))],
)  # fmt: skip
def test_slurm_requeues_what_goes_on_and_nothing_else(tmp_path, code, restarts, requeued):
    stand_in(tmp_path / "bin", "srun", f"exit {code}")
    stand_in(tmp_path / "bin", "scontrol", 'echo "$@"')
    done = start("slurm", tmp_path / "bin", SLURM_JOB_ID="7", SLURM_RESTART_COUNT=restarts)
    assert done.returncode == code
    assert done.stdout == ("requeue 7\n" if requeued else "")
    assert ("restarted 100 times already" in done.stderr) == (restarts == "100")


def test_slurm_passes_on_that_a_job_could_not_be_requeued(tmp_path):
    stand_in(tmp_path / "bin", "srun", f"exit {EXIT_PREEMPTED}")
    stand_in(tmp_path / "bin", "scontrol", "echo Access denied >&2; exit 1")
    done = start("slurm", tmp_path / "bin", SLURM_JOB_ID="7")
    assert done.returncode == 1
    assert "Access denied" in done.stderr


def test_gke_starts_phi_jax_as_env_wants_it():
    manifest = yaml.safe_load(MANIFEST.read_text())
    (workers,) = manifest["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    settings = {e["name"]: e for e in container["env"]}

    env, count, program, *arguments = container["command"]
    assert (env, program) == ("env", "phi-jax")
    assert_trains(arguments, "env")
    variable, _, pods = count.partition("=")
    assert {variable, *settings} == set(processes._ENVIRONMENT)
    assert int(pods) == job["parallelism"] == job["completions"]
    # Pod 0's name in the headless service that JobSet makes; a job's pods are numbered where it is indexed.
    assert job["completionMode"] == "Indexed"
    set_name = manifest["metadata"]["name"]
    host, _, port = settings["JAX_COORDINATOR_ADDRESS"]["value"].partition(":")
    assert host == f"{set_name}-{workers['name']}-0-0.{set_name}"
    assert port.isdigit()
    assert "job-completion-index" in settings["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]


def test_gke_restarts_what_goes_on_and_fails_on_the_rest():
    spec = yaml.safe_load(MANIFEST.read_text())["spec"]
    first, last = spec["failurePolicy"]["rules"]
    assert (first["action"], first["onJobFailureReasons"]) == ("RestartJobSet", ["PodFailurePolicy"])
    assert last["action"] == "FailJobSet"
    assert "onJobFailureReasons" not in last
    job = spec["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0  # any other code fails the job for another reason
    codes = job["podFailurePolicy"]["rules"][0]
    assert codes["action"] == "FailJob"
    assert codes["onExitCodes"]["operator"] == "In"
    assert set(codes["onExitCodes"]["values"]) == GOES_ON
    assert job["podFailurePolicy"]["rules"][1] == {"action": "FailJob", "onPodConditions": [DISRUPTED]}
    assert codes["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]


def test_gkes_sweep_is_on_the_same_volume_and_makes_again_only_what_was_stopped():
    one, other = (yaml.safe_load(path.read_text())["spec"] for path in (MANIFEST, SWEEP))
    pods = [spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"] for spec in (one, other)]
    for part in ("volumes", "nodeSelector", "restartPolicy", "terminationGracePeriodSeconds"):
        assert pods[0][part] == pods[1][part]
    for part in ("image", "volumeMounts", "resources"):
        assert pods[0]["containers"][0][part] == pods[1]["containers"][0][part]
    job = other["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (1, 1, "Indexed")
    (rule,) = job["podFailurePolicy"]["rules"]  # which needs restartPolicy Never
    assert rule == {"action": "Ignore", "onPodConditions": [DISRUPTED]}
    assert "failurePolicy" not in other


# Exit code of the stages -> of the pod, and whether what was made is named.
@pytest.mark.parametrize(
    ("code", "ends", "named"),
    [(0, 0, True), (1, 0, False), (137, 0, False), (75, EXIT_PREEMPTED, False), (143, 143, False)],
)
def test_a_pod_of_a_sweep_ends_as_jobset_wants_it(tmp_path, code, ends, named):
    stand_in(tmp_path / "bin", "python", f'printf "<%s>" "$@"; [ "$2" = of ] || exit {code}')
    done = run_pod(tmp_path, "-m run 'a b'", "-m of '{\"x\": 1}'")
    assert (done.wait(20), done.stdout.read()) == (ends, "")
    assert (tmp_path / "log.txt").read_text() == "<-m><run><a b>" + '<-m><of><{"x": 1}>' * named


def test_a_pod_that_is_stopped_lets_its_run_save_and_is_made_again(tmp_path):
    saves = f'trap "echo saved; exit {EXIT_PREEMPTED}" TERM; echo began; for n in {{1..400}}; do sleep 0.05; done'
    stand_in(tmp_path / "bin", "python", saves)
    done, log = run_pod(tmp_path, "-m run", "-m of"), tmp_path / "log.txt"
    while not (log.exists() and log.read_text()):
        assert done.poll() is None
    done.terminate()
    assert (done.wait(20), log.read_text()) == (EXIT_PREEMPTED, "began\nsaved\n")


def run_pod(folder, *commands):
    """The process of a pod of SWEEP: what is on the PATH is looked for in folder/bin first."""
    (workers,) = yaml.safe_load(SWEEP.read_text())["spec"]["replicatedJobs"]
    (container,) = workers["template"]["spec"]["template"]["spec"]["containers"]
    return subprocess.Popen(
        [*container["command"], folder / "log.txt", *commands], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
    )  # fmt: skip


@pytest.mark.parametrize("exists", [True, False])
def test_tpu_vm_asks_for_a_tpu_and_starts_phi_jax_on_all_workers(tmp_path, exists):
    calls = tmp_path / "calls"
    stand_in(
        tmp_path / "bin", "gcloud",
        f'printf "%s\\x1f" "$@" >> {calls}; printf "\\x1e" >> {calls}\n'
        f'case "$3 $4" in "tpu-vm describe") exit {0 if exists else 1} ;;\n'
        # The first look finds no request, the ones after it a granted one.
        f'"queued-resources describe") grep -q create {calls} || exit 1; echo ACTIVE ;; esac',
    )  # fmt: skip
    done = start("tpu_vm", tmp_path / "bin")
    assert done.returncode == 0, done.stderr
    made = [call.split("\x1f")[:-1] for call in calls.read_text().split("\x1e")[:-1]]
    asked = ["queued-resources describe", "queued-resources create", "queued-resources describe"]
    assert [" ".join(call[2:4]) for call in made] == [
        "tpu-vm describe", *([] if exists else asked), "tpu-vm scp", "tpu-vm ssh",
    ]  # fmt: skip
    assert all("--worker=all" in call for call in made[-2:])

    # What a worker's shell makes of the command: sudo share=SHARE bash -c SCRIPT NAME ARGUMENTS.
    (command,) = (a.removeprefix("--command=") for a in made[-1] if a.startswith("--command="))
    taken = subprocess.run(
        ["bash", "-c", f'sudo() {{ printf "%s\\x1f" "$@"; }}; {command}'], capture_output=True, text=True, check=True
    ).stdout.split("\x1f")[:-1]
    share, *bash, script, _ = taken[:5]
    assert share.startswith("share=")
    assert bash == ["bash", "-c"]
    subprocess.run(["bash", "-n", "-c", script], check=True)
    (codes,) = re.findall(r"RestartForceExitStatus='(.*)'", script)
    assert {int(c) for c in codes.split()} == GOES_ON
    (ending,) = re.findall(r'phi-jax "\$@" (.*)$', script, re.M)
    assert_trains([*taken[5:], *ending.split()], "tpu")
