"""`phi-jax plan --pipeline` and the figures of a sweep's dry run, against arithmetic by hand; nothing is compiled."""

import re

import pytest
from llm_server import serving
from running import MICRO, ROOT

from phi_jax import cli, config, graph, pipeline
from phi_jax.corpus import taught_grades
from phi_jax.errors import UserError
from phi_jax.planning.hardware import parse_hardware
from phi_jax.planning.pipeline_plan import lines, make_plans
from phi_jax.sweeps import points, sweep
from phi_jax.synthesis.llm import prompts
from phi_jax.synthesis.llm.curriculum import lessons

PHI_1 = ["--config", f"{ROOT}/configs/phi_1.py"]
# Multiply-adds of a token: 24 blocks of 4 D^2 + 2 D F, the head; and attention to 2,048 positions, q k and weights v.
WEIGHTS = 24 * (4 * 2048 * 2048 + 2 * 2048 * 8192) + 2048 * 51_200
FORWARD = 2 * (WEIGHTS + 2 * 24 * 2048 * 2048)
PRETRAINING, FINETUNING = 24_000 * 1024 * 2048, 6000 * 256 * 2048  # tokens
FLOPS = {
    "pretrain": 3 * FORWARD * PRETRAINING,
    "finetune": 3 * FORWARD * FINETUNING,
    "filter": FORWARD * 35_000_000 * 1024,
    "evaluate": 10 * FORWARD * 164 * (4 + 4) * 512,  # four benchmarks, four perturbations of the first
}


def plans_of(arguments, workdir=""):
    chosen = config.load(arguments)
    return make_plans(chosen, graph.stages(chosen), str(workdir))


def test_tokens_and_flops_of_phi_1_are_those_of_arithmetic_by_hand():
    assert (WEIGHTS, FORWARD) == (1_312_817_152, 3_028_287_488)
    plans = plans_of(PHI_1)
    tokens = {label: round(plan.tokens) for label, plan in plans.items()}
    assert tokens["collect/python"] == tokens["decontaminate/raw"] == tokens["tokenize/raw"] == 35_000_000_000
    assert tokens["filter/python"] == tokens["tokenize/filtered"] == 6_000_000_000
    assert tokens["tokenize/teacher.textbooks"] == 861_910_000  # 87.95 % of 700,000, 1,400 tokens each
    assert tokens["tokenize/teacher.exercises"] == 180_297_500  # 87.95 % of 1,000,000, 205 tokens each; paper: 180M
    assert round(plans["tokenize/teacher.exercises"].documents) == 879_500  # paper: 879.5K
    assert tokens["pretrain/raw"] == tokens["pretrain/base"] == 50_331_648_000
    assert tokens["finetune/finetuned"] == 3_145_728_000
    computed = {label: plan.flops for label, plan in plans.items() if plan.flops}
    assert computed == {
        label: pytest.approx(FLOPS[label.partition("/")[0]])
        for label in plans
        if label.startswith(("pretrain", "finetune", "filter", "evaluate"))
    }
    assert FLOPS["pretrain"] == pytest.approx(4.5726e20, rel=1e-4)
    # Six saves of 12 bytes a parameter: two of the latest, three kept for good, one that is being written.
    assert plans["pretrain/base"].disk == 6 * 12 * 1_418_270_720
    assert plans["export/base"].disk == 2 * 1_418_270_720
    assert plans["tokenize/raw"].disk == 70e9


def test_hours_and_dollars_of_devices_are_those_of_arithmetic_by_hand():
    plans = plans_of(PHI_1)
    table = lines(plans, parse_hardware("8xA100-80GB"), 0.4)
    hours = 4.5726e20 / (0.4 * 312e12) / 3600
    assert f"{hours:,.0f}" == "1,018"
    row = next(line for line in table if line.startswith("pretrain/base"))
    assert row.split()[5:7] == ["1,017.8", "2,544"]  # $2.50 an hour
    assert "paper: phi-1-base's 51B took 770 A100-hours" in row
    whole = 2 * FLOPS["pretrain"] + 2 * FLOPS["finetune"] + FLOPS["filter"] + 4 * FLOPS["evaluate"]
    hours = whole / (0.4 * 312e12) / 3600
    assert (
        f"in all: {hours:,.1f} device-hours, {hours / 8:,.1f} h on 8xA100-80GB, ${2.5 * hours:,.0f}; 1,800,000 "
        in table[-1]
    )
    assert len(table) == 1 + len(plans) + 3
    assert all(line.splitlines()[1].strip() for line in table[1:-3])  # each with what its figures follow from
    hours = whole / (0.2 * 1979e12 / 2) / 3600
    assert (
        f"{hours:,.1f} device-hours, {hours / 16:,.1f} h on 16xH100@3.5, ${3.5 * hours:,.0f}"
        in lines(plans, parse_hardware("16xH100@3.5"), 0.2)[-1]
    )
    assert "dollars unknown" in lines(plans, parse_hardware("8xH200"), 0.4)[-1]
    assert ", below $1; 0 requests, $0; " in lines(plans_of(MICRO), parse_hardware("8xA100-80GB"), 0.4)[-1]
    with pytest.raises(UserError, match=r"--mfu 0\.0: must be above 0"):
        lines(plans, parse_hardware("8xH200"), 0.0)


def test_a_batch_costs_half_of_what_live_requests_cost():
    batch = plans_of(PHI_1)
    live = plans_of([*PHI_1, "--config.teachers.writer.mode=live", "--config.teachers.grader.mode=live"])
    # 700,000 of 350 + 1,400 tokens and 1,000,000 of 400 + 450 at $0.50 and $1.50 a million; 100,000 of 1,550 + 60 at
    # $30 and $60.
    assert live["synthesize/teacher"].dollars == pytest.approx(0.7 * (350 * 0.5 + 1400 * 1.5) + 400 * 0.5 + 450 * 1.5)
    assert live["annotate/python"].dollars == pytest.approx(0.1 * (1550 * 30 + 60 * 60))
    for label, plan in live.items():
        assert batch[label].dollars == pytest.approx(plan.dollars / 2)
        assert (batch[label].requests, batch[label].tokens) == (plan.requests, plan.tokens)
    few = plans_of([*PHI_1, "--config.collect.max_files=60", "--config.annotate.votes=2"])["annotate/python"]
    assert (few.requests, few.dollars) == (120, pytest.approx(120 * 0.0501 / 2))
    halves = plans_of(
        [*PHI_1, "--config.texts.teacher.writer=writer:0.5,grader:0.5", "--config.teachers.grader.mode=live"]
    )
    assert halves["synthesize/teacher"].requests == 1_700_000
    # The grader's tokens cost sixty times the writer's in prompts, forty times in replies.
    dear = 0.7 * (350 * 30 + 1400 * 60) + 400 * 30 + 450 * 60
    assert halves["synthesize/teacher"].dollars == pytest.approx(batch["synthesize/teacher"].dollars / 2 + dear / 2)


def test_prompts_are_as_long_as_assumed():
    """A token is taken to be four bytes. The file that is graded comes on top; so does an exercise's schema."""
    for kind, tokens in (("textbooks", 350), ("exercises", 400)):
        sent = "".join(content for lesson in lessons(kind, 20, 0) for _, content in prompts.messages(lesson))
        assert 0.8 < len(sent) / 20 / 4 / tokens < 1.1
    assert 0.8 < len(taught_grades.TEMPLATE.read_text()) / 4 / 550 < 1.1


def test_a_grammar_gives_what_nobody_knows_before():
    plans = plans_of(MICRO)
    assert sum(plan.dollars + plan.requests for plan in plans.values()) == 0
    assert "not known before" in plans["synthesize/grammar"].says
    assert plans["collect/python"].documents == 400


@pytest.mark.parametrize(
    ("devices", "peak", "dollars"),
    [("8xA100-80GB", 312, 2.5), ("8xH100", 989.5, 3.95), ("v5e:4x4", 197, 1.2), ("v5p:2x2x4", 459, 4.2)],
)
def test_a_sweep_counts_what_its_points_share_once(tmp_path, devices, peak, dollars):
    chosen = points.load(["--config", str(ROOT / "configs/sweeps/optimizer.py")], "paper")
    said, found = sweep.dry_run(chosen, str(tmp_path / "S"), 1, devices), []
    with pytest.raises(UserError, match="the-stack-python: no such file"):  # after all that could be said
        found.extend(iter(lambda: next(said), None))
    # Of 54 stages ten are shared, among them those that ask teachers; the trainings of both points differ.
    assert found[-1].startswith("dry run: 2 points ask for 54 stages, 44 of them different, 8 trainings to run;")
    own = 2 * FLOPS["pretrain"] + 2 * FLOPS["finetune"] + FLOPS["filter"] + 4 * FLOPS["evaluate"]
    hours = 2 * own / (0.4 * peak * 1e12) / 3600
    assert f"in all: {hours:,.1f} device-hours, " in found[-2]
    assert f" on {devices}, ${dollars * hours:,.0f}; 1,800,000 requests, $3,739; disk " in found[-2]
    assert not list(tmp_path.iterdir())


def test_a_pilot_says_what_requests_are_like(tmp_path, monkeypatch, capsys):
    """Tokens of the server's own ledger, and the share that passed, in the place of what is assumed."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-plan")
    with serving() as server:
        told = [
            "budget.max_dollars=5",
            "texts.teacher.sandbox_workers=2",
            f"teachers.writer.base_url={server.base_url}",
        ]
        chosen = config.load([*PHI_1, *(f"--config.{field}" for field in told)])
        said = pipeline.pilot(chosen, tmp_path, graph.select(chosen, "synthesize", "teacher")[0], 8)
        asked = [entry for entry in server.ledger() if entry["prompt"]]
    rejected = float(re.search(r"rejected +([\d.]+)%", "\n".join(said))[1]) / 100
    before = {path: path.read_bytes() for path in (tmp_path / "teacher").iterdir()}
    plan = plans_of(PHI_1, tmp_path)["synthesize/teacher"]
    assert "measured on 3)" in plan.says
    assert "measured on 5)" in plan.says
    assert plan.documents == pytest.approx(1_700_000 * (1 - rejected), rel=1e-3)
    cost = {"textbooks": 0.0, "exercises": 0.0}  # of the pilot, in dollars, by batch
    for entry in asked:
        kind = "textbooks" if "section of a textbook" in entry["about"] else "exercises"
        cost[kind] += (entry["prompt"] * 0.5 + entry["completion"] * 1.5) / 1e6 / 2
    assert plan.dollars == pytest.approx(700_000 / 3 * cost["textbooks"] + 1_000_000 / 5 * cost["exercises"])
    with pytest.raises(SystemExit) as done:
        cli.main(["plan", *PHI_1, "--pipeline", "--workdir", str(tmp_path), "--devices", "v5e:4x4"])
    shown = capsys.readouterr().out
    assert done.value.code == 0
    assert f"measured on 5), {1 - rejected:.1%} pass" in shown
    assert "h on v5e:4x4, $" in shown
    assert before == {path: path.read_bytes() for path in (tmp_path / "teacher").iterdir()}
