"""The page of a sweep: its tables are report.json's, and the paper's; two points compared; a browser shows both."""

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from test_report import in_a_browser, rows_of, text_of

from phi_jax.contamination.prune import MATCHES
from phi_jax.evaluation.comparison import holm, mcnemar
from phi_jax.evaluation.intervals import wilson_interval
from phi_jax.evaluation.problems import Problem
from phi_jax.evaluation.scores import scored
from phi_jax.planning.pipeline_plan import StagePlan
from phi_jax.report import sweep_page
from phi_jax.report.page import percent
from phi_jax.report.tables import PAPER, over_seeds
from phi_jax.store import documents
from phi_jax.store.artifact import open_draft

TASKS = [f"HumanEval/{n}" for n in range(10)]
# Match rates of the exercises with the problems; one of the exercises is not parsed.
RATES = {**dict.fromkeys(TASKS[:4], 0.95), TASKS[4]: 0.85, None: 0.0}
# Point -> what its finetuned model solves. raw, which has seen no exercises, is the same in all.
SOLVED = {
    "match_rate=0,seed=0": {0, 1, 2, 3, 4, 5, 6, 7},
    "match_rate=0,seed=1": {0, 1, 2, 3, 4, 5},
    "match_rate=0.9,seed=0": {0, 1, 8},
    "match_rate=0.9,seed=1": {0, 1, 2, 8, 9},
}


def point_of(place, name, solved):
    """Label -> artifact of a point: what the page reads of it."""
    made = {}

    def make(label, config, facts, **files):
        stage, _, instance = label.partition("/")
        draft = open_draft(place, stage, instance, config, {})
        for output, rows in files.items():
            if output == "matches":
                Path(draft.directory / output).mkdir()
                documents.write_part(draft.directory / output, 0, rows, MATCHES)
            else:
                text = json.dumps(rows) if output == "scores" else "".join(json.dumps(row) + "\n" for row in rows)
                file = output + (".json" if output == "scores" else ".jsonl")
                Path(draft.directory / file).write_text(text)
            draft.add_output(
                output if output in ("metrics", "matches") else file, output if output == "matches" else file
            )
        draft.add_facts(**facts)
        made[label] = draft.commit()

    rate, seed = re.fullmatch("match_rate=(.*),seed=(.)", name).groups()
    pairs = [
        {"id": f"e{n}", "task": task, "words": "", "verdict": "", "match_rate": value}
        for n, (task, value) in enumerate(RATES.items())
    ]
    make("prune/grammar", {"prune": {"match_rate": float(rate)}}, {}, matches=pairs)
    # As Teachers.note has it.
    judges = {
        name: {"prices_as_of": "now", "requests": n, "dollars": d} for name, n, d in (("a", 30, 0.25), ("b", 7, 0))
    }
    note = {"teachers": judges, "dollars": 0.25}
    for model, passed in (("raw", {9}), ("finetuned", solved)):
        told = {"point": name} if model == "finetuned" else {"seed": seed}
        stage = "finetune" if model == "finetuned" else "pretrain"
        losses = [{"step": n, "loss": 4.0 - n, **({"validation_loss": 2.5} if n == 2 else {})} for n in range(3)]
        make(f"{stage}/{model}", told, {"tokens": 1000, "parameters": 91904}, metrics=losses)
        records = [
            {"task_id": task, "decoding": "greedy", "prompt_form": "stripped", "passed": n in passed}
            for n, task in enumerate(TASKS)
        ]
        problems = [Problem(task, "", "", "f") for task in TASKS]
        scores = scored(problems, records, model=model, benchmark="HumanEval")
        about = {"model": model, "benchmark": "HumanEval", "decoding": "greedy", "prompt_form": "stripped"}
        judge = {"judge": "gpt", "prompt": "p", "repeats": 3, "gold_items": 5, "gold_missed": 0}
        judge |= {"status": "published" if model == "finetuned" else "refused", "reasons": []}
        graded = dict.fromkeys(("value", "low", "high")) if model == "raw" else {"value": 0.6, "low": 0.5, "high": 0.7}
        scores.append({**about, "metric": "judge", "problems": 10, "samples": 10, **graded, "judge": judge})
        config = {**told, "evaluate": {"prompt_form": "stripped"}}
        facts = {"benchmark": "HumanEval", "problems": 10, "prompts_too_long": {}, "teachers": note}
        make(f"evaluate/{model}", config, facts, completions=records, scores=scores)
    return made


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    place = tmp_path_factory.mktemp("points")
    return {name: point_of(place / str(n), name, solved) for n, (name, solved) in enumerate(SOLVED.items())}


def plans(points):
    """2e15 FLOPs and 900 tokens of each training, what judges may take of each evaluation, 2^30 bytes of each stage."""
    trains, evaluates = StagePlan(flops=2e15, tokens=900), StagePlan(requests=40, dollars=0.5)
    planned = {"pretrain": trains, "finetune": trains, "evaluate": evaluates, "prune": StagePlan()}
    return {
        name: {label: dataclasses.replace(planned[label.partition("/")[0]], disk=2**30) for label in made}
        for name, made in points.items()
    }


@pytest.fixture(scope="module")
def sweep(points, tmp_path_factory):
    """(report.json, the page)."""
    entry = {"model": "<model>", "benchmark": "MBPP", "decoding": "greedy", "prompt_form": "chat", "metric": "pass@1"}
    greedy, sampled = ({**entry, "value": v, "low": v - 0.1, "high": v + 0.1, "problems": 9} for v in (0.5, 0.7))
    paper = {"says": "HumanEval pass@1 in % (Table 3)", "rows": {"match_rate=0 finetuned": 50.6, "raw": "17 **"}}
    also = {"server": [greedy, {**sampled, "decoding": "temperature 0.2"}]}
    directory = tmp_path_factory.mktemp("report")
    sweep_page.write(
        directory, "sweep.html.j2", sweep_page.gather("A title", points, "seed", paper, also, plans(points))
    )
    return json.loads((directory / "report.json").read_text()), (directory / "index.html").read_text()


def shown(score):
    return f"{percent(score['value'])} {percent(score['low'])} to {percent(score['high'])}"


def test_seeds_have_an_interval_and_so_have_equal_ones():
    def score(value):
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "problems": 9}

    def interval(*scores):
        found = over_seeds([{"b": one} for one in scores])["b"]
        return found and (round(found["low"], 3), round(found["high"], 3), found["interval"])

    assert interval(score(0.5)) == (0.4, 0.6, "over problems")
    assert interval(score(0.5), score(0.5), score(0.5)) == (0.4, 0.6, "over problems")
    assert interval(score(0.7), score(0.5)) == (0.5, 0.7, "range of two seeds")
    # 0.5 +- t(0.975, 2) * 0.1 / sqrt(3), t = 4.3027
    assert interval(score(0.4), score(0.5), score(0.6)) == (0.252, 0.748, "Student's t, over seeds")
    assert interval(None, {**score(0.5), "value": None}) is None


def test_table_3_divides_the_problems_as_prune_found_them(points, sweep):
    one_seed = {name: made for name, made in points.items() if name.endswith("seed=0")}
    rows = {row["which"]: row for row in sweep_page.table_3(one_seed, "seed")}
    expected = {"similar": (4, 4, 2), "non-similar": (6, 4, 1), "total": (10, 8, 3)}
    for which, (count, whole, pruned) in expected.items():
        assert rows[which]["row"] == "finetuned"
        assert rows[which]["match_rate"] == 0.9
        for kind, passed in (("whole", whole), ("pruned", pruned)):
            score = rows[which][kind]
            assert (score["problems"], score["value"]) == ([count], passed / count)
            assert (score["low"], score["high"]) == wilson_interval(passed / count, count)
    report, html = sweep
    assert [row["which"] for row in report["table_3"]] == list(expected)
    assert report["table_3"][0]["pruned"]["values"] == [0.5, 0.75]
    cells = rows_of(html, "Table 3: finetuned")
    for row, found in zip(report["table_3"], cells, strict=True):
        theirs = PAPER["table_3"]["rows"]["0.9"][row["which"]]
        count = str(expected[row["which"]][0])
        numbers = [str(theirs[0]), *(f"{value:.1f} %" for value in theirs[1:])]
        assert found == ["0.9", row["which"], count, shown(row["whole"]), shown(row["pruned"]), *numbers]


def test_the_tables_are_report_jsons_and_the_papers(sweep):
    report, html = sweep
    rows = report["rows"]
    # raw is the same at both match rates: one row.
    assert [row["row"] for row in rows] == ["match_rate=0 raw", "match_rate=0 finetuned", "match_rate=0.9 finetuned"]
    assert [row["paper"] for row in rows] == ["17 **", "50.6", ""]
    for row, cells in zip(rows, rows_of(html, "</figure>"), strict=True):
        assert cells == [row["row"], "2", "1,000", "2.500", shown(row["scores"]["HumanEval"]), row["paper"]]
    table_1 = rows_of(html, "Table 1: ")
    assert len(table_1) == len(PAPER["table_1"]["rows"]) + 3 + 1
    assert table_1[20] == ["phi-1", "1.3B", "7B", "50.6 %", "55.5 %"]
    assert table_1[22] == ["ours: match_rate=0 finetuned", "91,904", "1,000", shown(rows[1]["scores"]["HumanEval"]), ""]
    assert table_1[24] == ["server <model>", "", "", "", "50.0 % 40.0 % to 60.0 %"]
    table_2 = rows_of(html, "Table 2: ")
    assert len(table_2) == 7 + 2  # raw's was refused
    assert table_2[7] == ["ours: match_rate=0 finetuned", "91,904", "HumanEval", "60.0 % 50.0 % to 70.0 %"]


def test_the_first_sentence_is_the_figures(sweep):
    text = text_of(sweep[1].partition("<details")[0])
    said = "match_rate=0 finetuned solves most, 70.0 %, and match_rate=0 raw least, 10.0 %"
    assert f"Of HumanEval's 10 problems, {said}; where intervals overlap, the figure tells no two apart" in text


def test_the_papers_bars_stand_beside_ours_and_unverified_ones_are_dashed(sweep):
    svg = re.search(r"<svg .*?</svg>", sweep[1], re.DOTALL)[0]
    for text in ("match_rate=0", "match_rate=0.9", "raw, n = 2 seeds", "finetuned, n = 2 seeds", "17 **", "50.6"):
        assert f">{text}</text>" in svg
    assert svg.count("stroke-dasharray: 3") == 1


def test_what_points_share_is_planned_and_spent_once(points, sweep):
    report, html = sweep
    once = {(a.label, a.key): a for made in points.values() for a in made.values()}
    counts = Counter(label.partition("/")[0] for label, _ in once)
    assert counts == {"prune": 2, "pretrain": 2, "finetune": 4, "evaluate": 6}
    assert Counter(row["stage"] for row in report["stages"]) == counts
    for row, a in zip(report["stages"], once.values(), strict=True):
        judged, trained = row["stage"] == "evaluate", row["stage"] in ("pretrain", "finetune")
        assert row["stage"] == a.manifest["stage"]
        assert row["seconds"] == a.manifest["seconds"]
        assert row["disk"] == sum(file["bytes"] for file in a.manifest["files"].values()) > 0
        assert row["tokens"] == trained * 1000
        assert [teacher["requests"] for teacher in row["teachers"]] == judged * [30, 7]
        planned = row["planned"]
        assert (planned["flops"], planned["tokens"], planned["disk"]) == (trained * 2e15, trained * 900, 2**30)
    rows = {cells[0]: cells[1:] for cells in rows_of(html, "Planned and spent")}
    seconds = sum(row["seconds"] for row in report["stages"] if row["stage"] == "finetune")
    assert [*rows] == [*counts, "all"]
    assert rows["finetune"][:5] == [f"{seconds / 3600:.3f}", "8.000", "3,600 / 4,000", "", ""]
    assert rows["evaluate"][1:5] == ["", "", "240 / 222", "3.00 / 1.50"]
    assert rows["all"][1:] == ["12.000", "5,400 / 6,000", "240 / 222", "3.00 / 1.50", "14.000 / 0.000"]


@pytest.fixture(scope="module")
def compared(points, tmp_path_factory):
    names = ["match_rate=0,seed=0", "match_rate=0.9,seed=0"]
    configs = [{"prune": {"match_rate": rate}, "seed": 0} for rate in (0.0, 0.9)]
    directory = tmp_path_factory.mktemp("compared")
    data = sweep_page.compare(names, configs, [points[name] for name in names])
    sweep_page.write(directory, "compare.html.j2", data)
    return data, (directory / "index.html").read_text()


def test_two_points_are_compared_on_the_same_problems(compared):
    data, html = compared
    assert data["differences"] == ["prune.match_rate 0.0 -> 0.9"]
    (test,) = data["tests"]  # raw is the same in both
    assert (test["group"], test["first_better"], test["second_better"]) == ("HumanEval, finetuned", 6, 1)
    assert [test["p_page"]] == holm([mcnemar(6, 1)])
    (cells,) = rows_of(html, "<h2>Scores")
    assert cells[:4] == ["HumanEval, finetuned", "A − B", "80.0 %, 30.0 %", "+50.0"]
    assert list(data["losses"]) == ["finetune/finetuned"]
    for name in ("training A", "training B", "validation A", "validation B"):
        assert f">{name}, n = {3 if name < 'v' else 1}</text>" in html
    assert "HumanEval, finetuned: 80.0 % and 30.0 % of 10 problems, A - B = +50.0" in sweep_page.compared(data)[-1]


@pytest.mark.system
@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1300, "light"), (400, "dark"), (1300, "dark")])
def test_in_a_browser(sweep, compared, tmp_path, width, scheme):
    for number, (_, html) in enumerate((sweep, compared)):
        (tmp_path / str(number)).mkdir()
        too_wide, red, _ = in_a_browser(html, tmp_path / str(number), width, scheme)
        assert too_wide <= 0
        assert (red < 60) == (scheme == "dark")
