"""phi-jax sweep: points, what they share, kills, and the page, on experiments below micro."""

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from running import ROOT, made_in, named_identities, phi_jax

from phi_jax.errors import UserError
from phi_jax.store.digests import PathDigests
from phi_jax.sweeps import gke, jobs, local, points, sweep
from phi_jax.sweeps.points import Hyper, load

CONFIGS = ROOT / "configs" / "sweeps"
# Two models, no filter: a sweep over how one of them is finetuned has data, raw code and its training in common.
FILE = '''"""control: how long raw code's model is finetuned."""

def get_points(h):
    return h.product(
        h.point("", {
            "config": "NANO:size=micro", "models.base": None, "models.finetuned": None,
            "collect.max_files": 60, "training.steps": 8,
            "evaluate.further_benchmarks": (), "evaluate.perturbations": (),
        }),
        h.zip(h.sweep("finetune.steps", (16, 24)), h.sweep("finetune.schedule_steps", (16, 24))),
    )
'''
NAMES = ["steps=16,schedule_steps=16", "steps=24,schedule_steps=24"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "control.py"
    path.write_text(FILE.replace("NANO", str(ROOT / "configs" / "nano.py")))
    return path


def test_points_are_products_zips_and_chains():
    h = Hyper("nano")
    one, two = h.sweep("a.b", (1, 2)), h.sweep("c", (0.5,))
    assert h.product(one, two) == {"b=1,c=0.5": {"a.b": 1, "c": 0.5}, "b=2,c=0.5": {"a.b": 2, "c": 0.5}}
    assert h.zip(one, h.sweep("d", "xy")) == {"b=1,d=x": {"a.b": 1, "d": "x"}, "b=2,d=y": {"a.b": 2, "d": "y"}}
    assert list(h.chain(one, h.point("z", {}))) == ["b=1", "b=2", "z"]
    assert h.product(h.point("", {"a.b": 0}), one)["b=2"] == {"a.b": 2}
    with pytest.raises(ValueError, match="two points are called 'b=1'"):
        h.chain(one, one)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        h.zip(one, two)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "def get_points(h): return h.sweep('training.stepz', (1, 2))",
            "point stepz=1: config.training.stepz: no such",
        ),
        (
            "def get_points(h): return h.sweep('trainings.steps', (1, 2))",
            "config.trainings.steps: there is no section 'trainings'",
        ),
        ("def get_points(h): return h.sweep('training.steps', (1, 'x'))", "point steps=x: config.training.steps='x'"),
        ("def get_points(h): return h.point('a/b', {})", "'a/b' is no name of a point"),
        (
            "def get_points(h): return h.chain(h.point('a', {}), h.point('b', {}))",
            "points a and b: the same experiment",
        ),
        ("x = 1", "it has no get_points(h), so it is no sweep"),
        ("import sys; sys.exit(3)", "SystemExit"),
    ],
)
def test_a_wrong_sweep_is_one_line_and_leaves_nothing(tmp_path, text, told):
    (tmp_path / "nano.py").write_text((ROOT / "configs" / "nano.py").read_text())
    (tmp_path / "phi_1.py").write_text((ROOT / "configs" / "phi_1.py").read_text())
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "wrong.py").write_text(text)
    file = str(tmp_path / "sweeps" / "wrong.py")
    with pytest.raises(UserError) as error:
        jobs.jobs_of(load(["--config", file], "micro"), PathDigests(None))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scale", points.SCALES)
@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.py")))
def test_every_named_sweep_resolves_at_every_scale(tmp_path, name, scale):
    sweep = load(["--config", str(CONFIGS / f"{name}.py")], scale)
    found = jobs.jobs_of(sweep, PathDigests(None))
    assert {point for job in found for point in job.points} == set(sweep.points)
    # What a stage is made of is in its own job, or in one of more points.
    made = {(point, label): job for job in found for label in job.stages for point in job.points}
    for point, config in sweep.points.items():
        for stage in jobs.stages(config):
            for label in stage.inputs.values():
                assert set(made[point, label].points) >= set(made[point, stage.label].points)
    crossed = load(["--config", f"{CONFIGS / name}.py:seeds=2"], scale).points if name != "seeds" else {}
    assert len(crossed) in (0, 2 * len(sweep.points))


def jobset_of(directory, found, template=ROOT / "launch" / "gke_sweep.yaml"):
    """The JobSet of some jobs."""
    gke.write(directory, found, str(template))
    return json.loads((directory / "jobset.json").read_text())


# Points that share in one way, and in two: seeds of each teacher, teachers of each seed.
@pytest.mark.parametrize("name", ["learning_rate.py", "teacher.py:seeds=5"])
def test_a_jobset_has_the_jobs_in_their_order(tmp_path, name):
    import yaml

    found = jobs.jobs_of(load(["--config", str(CONFIGS / name)], "nano"), PathDigests(None))
    written, template = jobset_of(tmp_path, found), yaml.safe_load((ROOT / "launch" / "gke_sweep.yaml").read_text())
    entries = written["spec"].pop("replicatedJobs")
    (pattern,) = template["spec"].pop("replicatedJobs")
    assert written == template
    assert [entry.pop("name") for entry in entries] == [f"job-{n}" for n in range(len(found))]
    before = []  # of each job, all that have ended when it starts
    for number, (job, entry) in enumerate(zip(found, entries, strict=True)):
        after = entry.pop("dependsOn", None)
        assert (after is None) == (number == 0)  # an empty list is refused too
        assert len(after or ()) <= 5
        assert {need["status"] for need in after or ()} <= {"Complete"}
        last = [int(need["name"].removeprefix("job-")) for need in after or ()]
        assert all(other < number for other in last)
        before.append({*last}.union(*(before[other] for other in last)))
        assert before[number] >= jobs.needed_by(found, number)
        # What may not run at once does not.
        assert before[number] >= {n for n in range(number) if found[n].points[0] == job.points[0]}
        assert before[number] >= {n for n in range(number) if found[n].asks_teachers and job.asks_teachers}
        (container,) = entry["template"]["spec"]["template"]["spec"]["containers"]
        log, *commands = container.pop("args")
        assert log == f"{tmp_path}/points/{job.points[0]}/log.txt"
        run, settle = map(shlex.split, commands)
        assert run[:3] == ["-m", "phi_jax.cli", "run"]
        assert run[-1].split(",") == list(job.stages)
        assert settle[:3] == ["-m", "phi_jax.sweeps.jobs", str(tmp_path)]
        assert jobs.Job(**json.loads(settle[3])) == dataclasses.replace(job, points=list(job.points))
        assert entry == {key: value for key, value in pattern.items() if key != "name"}


def test_pods_make_what_is_not_whole_and_one_that_fails_stops_only_what_needs_it(tmp_path):
    """Two stages, in the order of dependsOn; tests/acceptance/test_gke_sweep.py has all of them, and a preemption."""
    text = FILE.replace("NANO", str(ROOT / "configs" / "nano.py")).replace('max_files": 60', 'max_files": 20')
    (tmp_path / "near.py").write_text(re.sub(r"h\.zip\(.*\)", 'h.sweep("dedup.threshold", (0.7, 0.8))', text))
    chosen, directory = load(["--config", str(tmp_path / "near.py")], "micro"), tmp_path / "S"
    found = [
        dataclasses.replace(
            job, stages={k: v for k, v in job.stages.items() if k in ("collect/python", "dedup/python")}
        )
        for job in jobs.jobs_of(chosen, PathDigests(None))
    ]
    jobs.write_configs(directory, chosen.points)
    one, other = (directory / "points" / name for name in chosen.points)

    def pods(jobset):
        """Name -> exit code."""
        path, codes = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}", {}
        for entry in jobset["spec"]["replicatedJobs"]:
            assert all(codes[need["name"]] == 0 for need in entry.get("dependsOn", ()))
            (container,) = entry["template"]["spec"]["template"]["spec"]["containers"]
            command = [*container["command"], *container["args"]]
            codes[entry["name"]] = subprocess.call(command, cwd=ROOT, env={**os.environ, "PATH": path})
        return codes

    jobset = jobset_of(directory, found)
    (other / "dedup").touch()
    assert pods(jobset) == {"job-0": 0, "job-1": 0, "job-2": 0}  # JobSet would stop all for any other
    assert f"{other}/dedup/python.partial: Not a directory" in jobs.last_line(other)
    assert {*named_identities(one)} == {"collect/python", "dedup/python"}
    (other / "dedup").unlink()
    jobset = jobset_of(directory, found)
    (other / "collect").rename(tmp_path / "lost")
    assert pods(jobset) == {"job-2": 0}
    assert "dedup/python needs collect/python, which is not in" in jobs.last_line(other)
    (tmp_path / "lost").rename(other / "collect")
    assert pods(jobset) == {"job-2": 0}
    assert named_identities(one)["collect/python"] == named_identities(other)["collect/python"]
    assert stages_done(directory) == {"collect/python": 1, "dedup/python": 2}


@pytest.mark.parametrize(
    "text", ["a: [", "spec: {replicatedJobs: []}", "spec: {replicatedJobs: [{name: a}]}", "", "[]", "\0"]
)
def test_a_manifest_that_is_no_jobset_is_one_line(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        jobset_of(tmp_path, [], tmp_path / "mine.yaml")
    assert f"--manifest {tmp_path / 'mine.yaml'}: no JobSet like launch/gke_sweep.yaml" in str(error.value)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["mine.yaml"]


SCORE = {"model": "m", "benchmark": "b", "metric": "pass@1", "value": 0.5, "low": 0.4, "high": 0.6}


WRONG = [("benchmark", 3), ("value", "0.5"), ("low", None)]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[", "3", "[3]", '{"model": "m"}', "\ud800"),
        *(json.dumps([SCORE, {**SCORE, name: value}]) for name, value in WRONG),
        json.dumps([{name: value for name, value in SCORE.items() if name != "metric"}]),
    ],
)
def test_damaged_scores_beside_a_sweep_are_one_line(tmp_path, text):
    place = tmp_path / "also" / "server"
    place.mkdir(parents=True)
    refused = {**SCORE, "metric": "judge", "value": None, "low": None, "high": None}  # not in Table 1
    (place / "scores.json").write_text(json.dumps([SCORE, refused]))
    assert sweep._also(tmp_path) == {"server": [SCORE, refused]}
    (place / "scores.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError) as error:
        sweep._also(tmp_path)
    told = rf"{place}/scores.json: not scores of `phi-jax evaluate --out`, .* \(\w+: .+\); evaluate again, or .*"
    assert re.fullmatch(told, str(error.value))


def test_damaged_scores_stop_a_sweep_before_its_first_job(tmp_path, file):
    place = tmp_path / "S" / "also" / "server"
    place.mkdir(parents=True)
    (place / "scores.json").write_text("{}[")
    with pytest.raises(UserError, match=r"scores\.json: not scores .*JSONDecodeError"):
        sweep.run(load(["--config", str(file)], "micro"), str(tmp_path / "S"), 1, "local", "")
    assert os.listdir(tmp_path / "S") == ["also"]


def stages_done(sweep_directory):
    """Label -> how often it was made, by the logs of all points."""
    text = "".join(log.read_text() for log in sweep_directory.glob("points/*/log.txt"))
    return Counter(made_in(text))


def test_the_sweep_of_the_readme_has_nine_points(tmp_path):
    text = re.search(r"^```python\n(.*?)^```", (ROOT / "configs" / "README.md").read_text(), re.MULTILINE | re.DOTALL)[
        1
    ]
    (tmp_path / "mine.py").write_text(text.replace("/path/to", str(ROOT)))
    sweep = load(["--config", str(tmp_path / "mine.py")], "nano")
    assert len(sweep.points) == 9
    assert sweep.points["num_layers=6,learning_rate=0.009"].to_dict()["training"]["learning_rate"] == 0.009
    assert [len(job.points) for job in jobs.jobs_of(sweep, PathDigests(None))] == [9] + 9 * [1]


@pytest.mark.parametrize(
    ("named", "parallel", "shares"),
    [("0,1,2,3", 2, [["0", "1"], ["2", "3"]]), ("GPU-ab,GPU-cd", 2, [["GPU-ab"], ["GPU-cd"]]), ("", 2, [[], []])],
)
def test_gpus_are_divided_by_number_and_by_name(monkeypatch, named, parallel, shares):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert local._divided(local._gpus(), parallel, "GPUs") == shares


def test_gpus_that_cannot_be_divided_are_one_line(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with pytest.raises(UserError, match="--parallel 2: 3 GPUs cannot be divided equally"):
        local._divided(local._gpus(), 2, "GPUs")


@pytest.mark.timeout(600)
def test_a_killed_sweep_goes_on_and_makes_nothing_twice(tmp_path, file):
    directory = tmp_path / "S"
    command = ["sweep", "--config", str(file), "--workdir", str(directory), "--parallel", "2"]
    dry = phi_jax(*command, "--dry-run")
    assert "2 points ask for" in dry.stdout
    assert not directory.exists()
    killed = subprocess.Popen([sys.executable, "-m", "phi_jax.cli", *command], cwd=ROOT)
    shared = directory / "points" / NAMES[0]
    while not (shared / "pretrain" / "raw.partial" / "checkpoints").exists():
        assert killed.poll() is None
        time.sleep(0.05)
    refused = phi_jax(*command, check=False)
    assert refused.returncode == 1
    assert "another phi-jax is running there" in refused.stderr
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    # A point that fails stops only what needs it, and is named with its log.
    in_the_way = directory / "points" / NAMES[1] / "finetune"
    in_the_way.touch()
    failed = phi_jax(*command, check=False)
    assert failed.returncode == 1
    assert f"1 of 3 jobs failed; first {NAMES[1]}: exit code 1; {in_the_way.parent / 'log.txt'}: " in failed.stderr
    assert NAMES[0] in failed.stdout or (directory / "points" / NAMES[0] / "report").exists()
    in_the_way.unlink()
    done = phi_jax(*command)
    made = stages_done(directory)
    kept = {os.path.realpath(path) for path in directory.glob("store/*/*")}
    assert made.total() == len(kept)  # each once, though the points ask for more
    assert made["pretrain/raw"] == made["collect/python"] == 1
    assert made["finetune/raw+exercises"] == made["report"] == 2
    # A point is a work directory like any other.
    standing = phi_jax("status", "--workdir", shared, "--verify").stdout
    assert set(re.findall(r"^\S+\s+(\w+)", standing, re.MULTILINE)) == {"whole"}
    one, other = (named_identities(directory / "points" / name) for name in NAMES)
    assert {label for label in one if one[label] == other[label]} >= {"pretrain/raw", "tokenize/raw", "evaluate/raw"}
    assert one["finetune/raw+exercises"] != other["finetune/raw+exercises"]
    # The table, the page and report.json say the same.
    report = json.loads((directory / "report" / "report.json").read_text())
    # The first row of raw stands for both points.
    assert [row["row"] for row in report["rows"]] == [f"{NAMES[0]} raw", *(f"{name} raw+exercises" for name in NAMES)]
    page = (directory / "report" / "index.html").read_text()
    for row in report["rows"]:
        scores = json.loads((directory / "points" / row["points"][0] / "evaluate" / "scores.json").read_text())
        (found,) = (
            s for s in scores
            if [s[name] for name in ("model", "metric", "decoding", "benchmark")]
            == [row["model"], "pass@1", "greedy", "nano"]
        )  # fmt: skip
        assert row["scores"]["nano"]["values"] == [found["value"]]
        assert row["row"] in page
        assert row["row"] in done.stdout
    seconds = [json.loads(p.read_text())["seconds"] for p in directory.glob("store/*/*/manifest.json")]
    assert sum(row["seconds"] for row in report["stages"]) == pytest.approx(sum(seconds), abs=0.1)
    # What is planned of a training is what it does.
    trained = [row for row in report["stages"] if row["stage"] == "finetune"]
    assert [row["planned"]["tokens"] for row in trained] == [row["tokens"] for row in trained] > [0]
    compared = phi_jax("sweep", "--workdir", directory, "--compare", *NAMES)
    assert "finetune.steps 16 -> 24\n" in compared.stdout
    two = json.loads((directory / "report" / "..".join(NAMES) / "report.json").read_text())
    assert list(two["losses"]) == ["finetune/raw+exercises"]
    assert [test["group"] for test in two["tests"]] == ["nano, raw+exercises"]
    wrong = phi_jax("sweep", "--workdir", directory, "--compare", NAMES[0], "steps=17", check=False)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
    assert f"--compare steps=17: no such point in {directory}; there are: {', '.join(NAMES)}" in wrong.stderr
    # Of a sweep that is whole there is nothing to write for Kubernetes but the page.
    again = phi_jax(*command, "--launcher", "gke")
    assert stages_done(directory) == made
    assert again.stdout == done.stdout
    assert "3 of 3 jobs are whole" in again.stderr
    assert not (directory / "jobset.json").exists()
    # What no point needs goes when it is asked for, and only that.
    file.write_text(file.read_text().replace("(16, 24)", "(16,)"))
    assert "removed: 0" not in phi_jax(*command, "--prune").stdout
    assert not (directory / "points" / NAMES[1]).exists()
    assert named_identities(directory / "points" / NAMES[0]) == one


def test_a_point_run_by_hand_leaves_what_others_share(tmp_path, file):
    """Another config in a point's directory takes its link away, not what the link names."""
    from phi_jax.store import artifact
    from phi_jax.sweeps.shared import Shared

    shared = Shared(tmp_path)
    inputs: dict = {}
    for point in "ab":
        shared.point(point).mkdir(parents=True)
    draft = artifact.open_draft(shared.point("a"), "collect", "python", {"x": 1}, inputs)
    (draft.directory / "out").write_text("text")
    draft.add_output("out", "out")
    key = draft.commit().key
    assert all(shared.settle(point, "collect/python", key) for point in "ab")
    another = artifact.open_draft(shared.point("a"), "collect", "python", {"x": 2}, inputs)
    (another.directory / "out").write_text("other")
    another.add_output("out", "out")
    another.commit()
    assert (shared.point("b") / "collect" / "python" / "out").read_text() == "text"
    assert (shared.point("a") / "collect" / "python" / "out").read_text() == "other"
    assert shared.settle("a", "collect/python", key)
    assert (shared.point("a") / "collect" / "python" / "out").read_text() == "text"
    assert len(list(tmp_path.glob("store/collect/*"))) == 2
