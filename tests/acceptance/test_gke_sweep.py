"""`phi-jax sweep --launcher gke`: what JobSet would do with the manifest, done here, comes to what `local` comes to.

    pytest tests/acceptance/test_gke_sweep.py

No cluster: a loop below starts each pod's command when the jobs that it depends on have ended, makes a pod again that
ended with another code than 0, and knows no more of a sweep. One job fails, and one is preempted. With jsonschema
installed and JOBSET_CRD naming JobSet's config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml, the manifest is
compared with that schema, too. The figures go to tests/acceptance/gke_sweep.json.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from running import ROOT, made_in, named_identities, phi_jax, sweep_of_finetunings

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

RESULT = Path(__file__).with_name("gke_sweep.json")
ONE, OTHER = "steps=16,schedule_steps=16", "steps=24,schedule_steps=24"


class Cluster:
    """As much of JobSet 0.9 as a sweep needs. codes: job -> exit codes of its pods, in their order."""

    def __init__(self, jobset):
        self.jobs = {entry["name"]: entry for entry in jobset["spec"]["replicatedJobs"]}
        self.waiting, self.running, self.codes = [*self.jobs], {}, {name: [] for name in self.jobs}

    def turn(self):
        """Starts what may start; looks at what runs. Whether anything is left."""
        for name, pod in [*self.running.items()]:
            if pod.poll() is not None:
                self.codes[name].append(pod.returncode)
                del self.running[name]
                if pod.returncode:
                    assert len(self.codes[name]) <= 6
                    self.start(name)
        for name in [*self.waiting]:
            needs = [need["name"] for need in self.jobs[name].get("dependsOn", ())]
            if all(self.codes[other][-1:] == [0] for other in needs):
                self.waiting.remove(name)
                self.start(name)
        return self.waiting or self.running

    def start(self, name):
        (container,) = self.jobs[name]["template"]["spec"]["template"]["spec"]["containers"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        command = [*container["command"], *container["args"]]
        self.running[name] = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PATH": path})

    def run(self):
        while self.turn():
            time.sleep(0.1)
        return self.codes


def compared_with_the_schema(jobset):
    """Raises jsonschema.ValidationError; unknown fields are errors. Returns what it was compared with, or None."""
    if "JOBSET_CRD" not in os.environ:
        return None
    jsonschema = pytest.importorskip("jsonschema")
    (version,) = (
        v for v in yaml.safe_load(Path(os.environ["JOBSET_CRD"]).read_text())["spec"]["versions"]
        if jobset["apiVersion"].endswith(v["name"])
    )  # fmt: skip

    def strict(node):
        if isinstance(node, list):
            return [*map(strict, node)]
        if not isinstance(node, dict):
            return node
        found = {key: strict(value) for key, value in node.items()}
        if node.get("x-kubernetes-int-or-string"):
            found["type"] = ["integer", "string"]
        return {"additionalProperties": False, **found} if "properties" in node else found

    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.Draft7Validator(schema).validate(jobset)
    return os.path.basename(os.environ["JOBSET_CRD"])


def test_what_jobset_runs_comes_to_what_local_comes_to(tmp_path):
    (tmp_path / "preempted.py").write_text(sweep_of_finetunings(60, (16, 24)))
    sweep = ["sweep", "--config", str(tmp_path / "preempted.py"), "--workdir"]
    plain, directory = tmp_path / "local", tmp_path / "gke"
    phi_jax(*sweep, plain)
    manifest, written = ["--launcher", "gke"], directory / "jobset.json"

    first = phi_jax(*sweep, directory, *manifest)
    assert f"0 of 3 jobs are whole\nthe others: kubectl create -f {written}; " in first.stderr
    assert not (directory / "store").exists()
    jobset = json.loads(written.read_text())
    schema = compared_with_the_schema(jobset)
    (directory / "points" / OTHER / "finetune").touch()  # in the way of one job
    cluster = Cluster(jobset)
    steps = directory / "points" / ONE / "pretrain" / "raw.partial" / "metrics.jsonl"
    while not (steps.exists() and len(steps.read_text().splitlines()) > 20):
        assert cluster.turn()
        time.sleep(0.05)
    cluster.running["job-0"].terminate()  # as a preemption does
    codes = cluster.run()
    assert codes == {"job-0": [75, 0], "job-1": [0], "job-2": [0]}  # the one that failed, too

    second = phi_jax(*sweep, directory, *manifest)
    log = directory / "points" / OTHER / "log.txt"
    assert f"2 of 3 jobs are whole\nthe others: kubectl create -f {written}; " in second.stderr
    assert re.search(rf"^{OTHER}: job-2, \d+ stages; so far {log}: phi-jax: error: .*finetune", second.stderr, re.M)
    assert ONE in second.stdout  # the table of what is whole
    (left,) = json.loads(written.read_text())["spec"]["replicatedJobs"]
    assert left["name"] == "job-2"
    assert "dependsOn" not in left
    (directory / "points" / OTHER / "finetune").unlink()
    # What a job needs is lost: it says so, and the set goes on.
    lost = directory / "points" / OTHER / "tokenize"
    lost.rename(tmp_path / "away")
    assert Cluster(json.loads(written.read_text())).run() == {"job-2": [0]}
    assert "needs" in log.read_text().splitlines()[-1]
    (tmp_path / "away").rename(lost)
    assert Cluster(json.loads(written.read_text())).run() == {"job-2": [0]}

    third = phi_jax(*sweep, directory, *manifest)
    assert "3 of 3 jobs are whole" in third.stderr
    assert third.stdout.splitlines()[:-1] == phi_jax(*sweep, plain).stdout.splitlines()[:-1]
    logs = "".join(path.read_text() for path in directory.glob("points/*/log.txt"))
    made = Counter(made_in(logs))
    kept = len(list(directory.glob("store/*/*")))
    assert made.total() == kept == len(list(plain.glob("store/*/*")))
    for name in (ONE, OTHER):
        one, other = (named_identities(place / "points" / name) for place in (plain, directory))
        assert one == other
        assert len(one) == 16
    figures = {
        "schema": schema,
        "exit codes of the pods of each job": codes,
        "went on from step": [int(n) for n in re.findall(r"resumed from the checkpoint of step (\d+)", logs)],
        "artifacts": made.total(),
        "made twice": made.total() - kept,
        "other identities than local's": 0,
    }
    assert len(figures["went on from step"]) == 1
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
