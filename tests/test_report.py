"""The page: its numbers are report.json's, it fetches nothing, and a browser shows it without complaint."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest
from etils import epath
from other_evaluations import PUBLISHED, REFUSED, SOLVED, fully_evaluated, judge_entry
from other_writers import GRADED, WRITTEN, written_by

from phi_jax.config import Config
from phi_jax.evaluation.comparison import holm, mcnemar
from phi_jax.evaluation.judge import judge_table
from phi_jax.evaluation.perturb import PERTURBATIONS
from phi_jax.report import evaluation, libraries, pairs, sections
from phi_jax.report.chart import line_chart
from phi_jax.report.figures import number, percent
from phi_jax.report.page import gather, page
from phi_jax.report.writing import written
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, open_draft
from phi_jax.synthesis import from_files


def text_of(html):
    return unescape(re.sub(r"<[^>]+>", "\n", html))


def lines_of(html):
    return {line.strip() for line in text_of(html).splitlines()}


def page_of(run):
    """(what the report gathers from a work directory, its page)."""
    found = [Artifact.read(path.parent) for path in sorted(run.glob("*/*/manifest.json"))]
    inputs = {artifact.label: artifact for artifact in found}
    data = gather(Config(json.loads((run / "config.json").read_text())), inputs)
    return data, page(data, dict.fromkeys(inputs, 1.0), {"python": "3"})


@pytest.fixture(scope="module")
def shown(micro_run):
    html = (micro_run / "report" / "index.html").read_text()
    return (
        json.loads((micro_run / "report" / "report.json").read_text()),
        html,
        text_of(html),
    )


def test_the_numbers_are_those_of_report_json_and_of_the_artifacts(shown, micro_run):
    data, html, text = shown
    lines = {line.strip() for line in text.splitlines()}
    for score in data["scores"]:
        assert percent(score["value"]) in lines
        assert f"{percent(score['low'])} to {percent(score['high'])}" in lines
    assert data["scores"] == json.loads((micro_run / "evaluate/scores.json").read_text())
    assert set(data["losses"]) == {"pretrain/raw", "pretrain/base", "finetune/finetuned", "finetune/raw+exercises"}
    for label, losses in data["losses"].items():
        metrics = [json.loads(x) for x in (micro_run / label / "metrics.jsonl").read_text().splitlines()]
        assert losses["training"] == [[m["step"], m["loss"]] for m in metrics]
        assert f"last {metrics[-1]['loss']:.3f}, validation {losses['validation'][-1][1]:.3f}" in lines
        taken = [[m["step"], m["validation_pass_at_1"]] for m in metrics if "validation_pass_at_1" in m]
        assert losses["pass_at_1"] == taken
        assert bool(taken) == label.startswith("finetune/")
        for step, share in taken[-1:]:
            assert f"validation pass@1 {percent(share)} at step {step}" in lines
    for label, facts in data["stages"].items():
        assert facts == json.loads((micro_run / label / "manifest.json").read_text())["facts"]
    assert number(data["stages"]["collect/python"]["kept"]) in lines
    for reason, count in list(data["stages"]["collect/python"]["set_aside"].items())[:8]:
        assert f"set aside: {reason}" in lines
        assert number(count) in lines
    facts = data["stages"]["filter/python"]
    assert number(facts["roc_auc"]) in lines
    assert sum(facts["histogram"]) == facts["scored"]
    assert len(re.findall('<rect class="all"', html)) == len(facts["histogram"])


def test_who_wrote_the_training_tokens(shown):
    lines = {line.strip() for line in shown[2].splitlines()}
    assert "100.0 % were written by people" in lines
    assert "25.0 % were written by people, 75.0 % are of generation 1" in lines
    assert "0.0 % were written by people, 100.0 % are of generation 1" in lines


def test_ours_and_the_papers_bars_are_told_apart(shown):
    data, html, text = shown
    measured = html[html.index('class="bars measured"') :]
    measured = measured[: measured.index("</svg>")]
    assert list(dict.fromkeys(s["model"] for s in data["scores"])) == ["raw", "base", "finetuned", "raw+exercises"]
    assert len({s["benchmark"] for s in data["scores"]}) == 2  # and a bar for one of them only
    assert measured.count("<rect") == 4
    assert measured.count('class="whisker"') == 4
    quoted = re.findall(r'class="bars quoted".*?</svg>', html)
    assert [len(re.findall("<rect", q)) for q in quoted] == [3, 3, 3]
    assert "whisker" not in "".join(quoted)
    for group in data["figure_2_1"]["groups"]:
        for value in group["values"]:
            assert re.search(rf"^{value} %( \*)?$", text, re.M)


def test_the_grammars_texts_are_called_so(shown):
    data, html, text = shown
    assert "written by phi_jax's built-in grammar, no LLM" in text
    assert "one grammar wrote the textbooks, the exercises and the test" in text
    assert "a rubric computed from the syntax tree, no LLM" in text
    assert not re.search(r"language models|GPT|Teacher ", text)
    facts = data["stages"]["synthesize/grammar"]
    for kind in ("textbooks", "exercises"):
        for name in ("written", "kept", "set_aside"):
            assert number(facts[kind][name]) in lines_of(html)


# How each figure stands in the table, and the way that is more diverse.
FIGURES = {
    "distinct_1": (number, "higher"), "distinct_2": (number, "higher"), "distinct_3": (number, "higher"),
    "distinct_4": (number, "higher"), "compression_ratio": (number, "lower"), "cosine_distance": (number, "higher"),
    "effective_texts": (number, "higher"), "alike_openings": (percent, "lower"),
}  # fmt: skip


def test_diversity_stands_side_by_side_with_what_it_means(shown):
    data, html, _ = shown
    sets = [data["stages"]["synthesize/grammar"][kind]["diversity"] for kind in ("textbooks", "exercises")]
    table = html[html.index("How diverse the texts are") :].partition("</table>")[0]
    rows = [[text_of(cell).strip() for cell in row.split("</td>")] for row in table.split("<tr>")[2:]]
    for (name, (shown_as, direction)), row in zip(FIGURES.items(), rows, strict=False):
        assert row[0].endswith(f"; {direction} is more diverse")
        assert row[1:3] == [shown_as(found[name]) for found in sets]
    assert [row[1:3] for row in rows if "words looked at" in row[0]] == [[number(s["words"]) for s in sets]]
    assert "Coverage of the curriculum" not in html  # the grammar has none


@pytest.fixture(scope="module")
def rewritten(micro_run, tmp_path_factory):
    return {name: page_of(written_by(name, micro_run, tmp_path_factory.mktemp(name) / "run")) for name in WRITTEN}


def test_texts_of_language_models_are_called_so(rewritten):
    data, html = rewritten["teacher"]
    text, lines = text_of(html), lines_of(html)
    assert "grammar" not in text.lower().replace("/problems.jsonl", "")
    assert "written by language models: gpt-4o-mini-2024-07-18, phi-350m." in text
    assert (
        "the textbooks and exercises were written by gpt-4o-mini-2024-07-18, phi-350m, the paper's by GPT-3.5" in text
    )
    assert {"1,934", "texts by language models"} <= lines  # 1,116 + 818
    for shown in ("1,200", "880", "216", "159", "133", "97", "set aside: near copy", "258", "set aside: a test fails"):
        assert shown in lines
    assert {"textbook.v1 (3f3f3f3f3f3f)", "exercise.v1 (a1a1a1a1a1a1)"} <= lines
    assert {"Teacher writer", "in batches", "1,950", "803,400", "1,248,000", "$12.35", "2026-11-02"} <= lines
    assert {"Teacher ours", "one by one", "504", "$0.00"} <= lines
    assert {"Coverage of the curriculum", "99.2 %", "0.9981", "0.9876", "Files and formats, Graphs"} <= lines
    assert data["samples"][0]["prompt"] in text  # of a benchmark that is a file


def test_grades_of_language_models_are_called_so(rewritten):
    lines = lines_of(rewritten["teacher"][1])
    assert {"gpt-4.1-mini", "grade.v1 (c0c0c0c0c0c0)", "300", "4 length, 6 refused"} <= lines
    assert {number(GRADED["agreement"]["alpha"]), "89.7 %", "0.8123", "mean vote of judge", "4.81", "$0.0312"} <= lines
    assert "share of the score that is comments" in lines
    assert "share of the grade that is comments" not in lines
    assert not any("syntax tree" in line for line in lines)


def test_somebodys_files_are_neither_the_grammars_nor_a_models(rewritten):
    text = text_of(rewritten["files"][1])
    assert "grammar" not in text.lower()
    assert "language models" not in text
    assert "Teacher " not in text
    assert "they came as files" in text
    assert {"1,934", "texts from files"} <= lines_of(rewritten["files"][1])


def test_what_the_stage_leaves_of_files_is_what_the_section_reads(tmp_path):
    file = tmp_path / "mine.jsonl"
    section = "# Sums\n\n```python\nprint(1 + 2)\n```\n\n```output\n{}\n```\n"
    rows = [{"kind": "textbooks", "text": section.format(n)} for n in (3, 4)]
    rows.append({"kind": "exercises", "text": 'def twice(n):\n    """Return 2 n."""\n    return 2 * n\n'})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = {
        "files": [str(file)],
        "license": "MIT",
        "near_copy_threshold": 0.8,
        "sandbox": "full",
        "sandbox_workers": 1,
    }
    draft = open_draft(tmp_path, "synthesize", "files", {}, {})
    from_files.synthesize(Config({"texts": {draft.name: rules}}), {}, draft)
    lines = lines_of(written(draft.commit().facts))
    assert {"texts checked", "kept", "set aside: prints something else", "1 of 1", "distinct words"} <= lines


def test_a_set_without_texts_has_no_figures(shown):
    data, _, _ = shown
    facts = data["stages"]["synthesize/grammar"]
    nothing = {**dict.fromkeys([*FIGURES, "commonest_opening"]), "texts": 0, "sampled": 0, "words": 0}
    stages = {
        **data["stages"],
        "synthesize/grammar": {**facts, "textbooks": {**facts["textbooks"], "diversity": nothing}},
    }
    html = page({**data, "stages": stages}, dict.fromkeys(stages, 1.0), {})
    assert text_of(html).count("nothing to measure") == len(FIGURES) + 1


# --- Evaluations -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full(micro_run, tmp_path_factory):
    return page_of(fully_evaluated(micro_run, tmp_path_factory.mktemp("evaluated") / "run"))


def rows_of(html, title):
    """The cells of the first table behind a title, as text; a cell that spans rows stands in each."""
    found, open_cell, left = [], "", 0
    for row in html[html.index(title) :].partition("</table>")[0].split("<tr>")[1:]:
        cells = row.removesuffix("</tr>").split("</td>")[:-1]
        spans = re.search(r'<td rowspan="(\d+)">', row)
        texts = [" ".join(text_of(cell).split()) for cell in cells]
        if spans:
            open_cell, left = texts[0], int(spans[1])
        elif left > 0:
            texts.insert(0, open_cell)
        left -= 1
        found.append(texts)
    return found[1:]


def test_a_micro_runs_evaluations_are_all_there(shown):
    data, html, _ = shown
    found = data["evaluation"]
    assert (found["main"], found["problems"], found["forms"], found["libraries"]) == ("nano", 8, ["stripped"], None)
    assert found["prompt_forms"] == []
    assert "The newline at a prompt's end</h3>" not in html
    assert "Graded by a judge" not in html
    assert len(found["models"]) == 2 * 6
    assert [row["model"] for row in found["robustness"]] == list(SOLVED)
    assert len(rows_of(html, "<summary>Every score")) == len(data["scores"]) == 4 * 2 * 2
    assert [row[0] for row in rows_of(html, 'class="columns matrix"')] == list(SOLVED)


def test_the_matrix_says_who_does_what(full):
    _, html = full
    rows = {row[0]: row[1:] for row in rows_of(html, 'class="columns matrix"')}
    assert set(rows) == set(SOLVED)
    for model, solved in SOLVED.items():
        for count, cell in zip(solved.values(), rows[model], strict=True):
            assert cell.startswith(percent(count / 8))
    assert rows["finetuned"][0] == "100.0 % 67.6 % to 100.0 %"  # Wilson, 8 of 8
    assert rows["finetuned"][2].endswith("3 prompts too long")
    assert html.count('<span class="failed">3 prompts too long') == 1
    assert "judge" not in {row[2] for row in rows_of(html, "<summary>Every score")}


def test_the_bars_are_of_the_main_benchmark_in_the_first_form(full):
    data, html = full
    bars = {s["model"]: s["value"] for s in evaluation.main_scores(data)}
    assert bars == {model: solved["nano"] / 8 for model, solved in SOLVED.items()}
    measured = html[html.index('class="bars measured"') :].partition("</svg>")[0]
    assert measured.count("<rect") == 4
    assert ">100.0 %</text>" in measured
    assert {s["completions"]["finetuned"]["completion"] for s in data["samples"]} == {"    return 'stripped'"}


def test_models_in_pairs(full):
    data, html = full
    rows = data["evaluation"]["models"]
    assert len(rows) == 3 * 6
    assert [row["p_page"] for row in rows] == holm([row["p"] for row in rows])
    by_pair = {(r["benchmark"], *sorted((r["first_model"], r["second_model"]))): r for r in rows}
    row = by_pair["nano", "finetuned", "raw"]
    assert row["p"] == mcnemar(8, 0) == 2 / 2**8
    assert row["p_page"] == 18 * 2 / 2**8
    shown = {tuple(r[:2]): r[2:] for r in rows_of(html, "Models compared in pairs")}
    assert shown["nano", "finetuned − raw"] == ["+100.0", "+54.1 to +100.0", "", "8 / 0", "0.008", "0.141"]
    assert shown["nano", "base − raw"] == ["+37.5", "−2.7 to +69.4", "", "3 / 0", "0.250", "1.000"]


def test_only_models_on_the_same_problems_are_compared():
    one = {"a": [True], "b": [False]}
    rows = pairs.of_models({"nano": {"x": one, "y": {"a": [True]}, "z": {"a": [False], "b": [False]}}})
    assert [row["p_page"] for row in rows] == [None, 1.0, None]
    shown = rows_of(pairs.models(rows), "Models compared")
    assert shown[0][:3] == ["nano", "x − y", "not the same problems"]
    assert shown[1][:3] == ["nano", "x − z", "+50.0"]
    assert "for the one test of this table" in pairs.models(rows)


def test_both_prompt_forms_side_by_side(full):
    data, html = full
    rows = data["evaluation"]["prompt_forms"]
    assert len(rows) == 3 * 4
    assert [row["p_page"] for row in rows] == holm([row["p"] for row in rows])
    shown = {tuple(r[:2]): r[2:] for r in rows_of(html, "The newline at a prompt's end</h3>")}
    (row,) = (r for r in rows if (r["benchmark"], r["model"]) == ("nano", "finetuned"))
    assert (row["first_form"], row["second_form"]) == ("stripped", "kept")
    assert shown["nano", "finetuned"][:3] == ["100.0 %", "75.0 %", "+25.0"]
    assert shown["nano", "finetuned"][5:7] == ["2 / 0", "0.500"]
    assert shown["nano", "raw"][:3] == ["0.0 %", "0.0 %", "0.0"]


def test_robustness_is_corrected_over_the_page_and_says_what_was_done(full):
    data, html = full
    rows = data["evaluation"]["robustness"]
    tested = [row for row in rows if row["p"] is not None]
    assert (len(rows), len(tested)) == (8, 4)
    assert [row["p_page"] for row in tested] == holm([row["p"] for row in tested])
    assert [row["p_page"] for row in rows if row["p"] is None] == [None] * 4
    shown = {tuple(r[:2]): r[2:] for r in rows_of(html, "Prompts perturbed")}
    assert shown["typos", "finetuned"][:3] == ["4 / 3 / 1", "100.0 % → 0.0 %", "+100.0"]
    assert shown["typos", "finetuned"][5:] == ["4 / 0", "0.125", "0.500"]
    assert shown["rename_arguments", "base"] == ["0 / 7 / 1", "no prompt changed", *["–"] * 6]
    assert "with a chance of 20.0 % at each place, misspells words" in html
    assert set(pairs.MEANINGS) == set(PERTURBATIONS)


def test_an_interval_that_is_not_known_is_no_number():
    row = {
        "perturbation": "typos", "model": "m", "problems": 3, "unchanged": 0, "not_applicable": 0, "rate": 0.5,
        "first": 0.5, "second": 0.5, "drop": 0.0, "low": None, "high": None, "p": 1.0, "p_page": 1.0,
        "first_better": 0, "second_better": 0,
    }  # fmt: skip
    html = pairs.robustness([row], "nano", "stripped")
    assert rows_of(html, "Prompts perturbed")[0][4:6] == ["0.0", "not known"]
    assert '<i style="left' not in html


def test_a_judge_is_shown_and_a_refused_one_has_no_number(full):
    _, html = full
    shown = {row[0]: row[1:] for row in rows_of(html, "Graded by a judge")}
    assert shown["base"] == [
        "nano", "greedy", "stripped", "gpt-4.1 mode paper, judge-paper.v1, 3 repeats", "65.0 % 50.0 % to 80.0 %",
        "1.23 points", "0.789", "0.912", "1 of 40",
    ]  # fmt: skip
    assert shown["raw"][4:] == ["refused 7 of 40 gold items <missed>", "–", "–", "–", "7 of 40"]
    assert "<missed>" not in html


def test_agreement_with_execution_that_is_not_defined_is_said_so():
    judge = {**PUBLISHED["judge"], "execution": {"n": 8, "passed": 0, "point_biserial": None, "auc": None}}
    judge["spread"] = None
    table = judge_table([judge_entry("m", {**PUBLISHED, "judge": judge}), judge_entry("n", REFUSED)])
    (first, second) = rows_of(evaluation.judged(table), "Graded by a judge")
    assert first[6:9] == ["–", "not defined", "not defined"]
    assert second[5].startswith("refused")


def test_which_libraries_the_exercises_import(full):
    data, html = full
    found = data["evaluation"]["libraries"]
    assert found["exercises"] == data["stages"]["decontaminate/nano"]["exercises"]["kept"]
    assert [row["imported"] for row in found["rows"]] == [0] * 10  # the grammar imports none
    assert "10 of the 10 modules are imported by none" in text_of(html)
    shown = rows_of(html, "Libraries that the exercises do without")
    assert dict(zip(sorted(SOLVED), shown[0][2:], strict=True))["finetuned"].startswith("25.0 %")
    assert [shown[1][0], *sorted(shown[1][2:])] == ["calendar", "failed", "failed", "passed", "passed"]
    assert shown[10] == ["sqlite3", "0", *["–"] * 4]  # micro stops after 8 problems


def test_imports_are_counted_once_an_exercise(tmp_path):
    texts = (
        "import calendar\nimport calendar as c\n",
        "def f():\n    from html.parser import HTMLParser\n",
        "import xml.etree.ElementTree as tree, struct\n",
        "from . import calendar\nfrom .struct import pack\n",
        "# import sqlite3\nname = 'import textwrap'\n",
        "import struct\ndef f(:\n",
        "print(1)\n",
    )
    rows = [{**dict.fromkeys(documents.SCHEMA.names, ""), "id": str(n), "text": t} for n, t in enumerate(texts)]
    (tmp_path / "exercises").mkdir()
    documents.write_part(tmp_path / "exercises", 0, rows)
    manifest = {"outputs": {"exercises": {"path": "exercises"}}, "facts": {"exercises": {"bytes": 1}}}
    found = libraries.gather({"m": {"libraries/0": [True]}}, Artifact(epath.Path(tmp_path), manifest))
    assert (found["exercises"], found["unreadable"]) == (7, 1)
    counts = {row["library"]: row["imported"] for row in found["rows"] if row["imported"]}
    assert counts == {"calendar": 1, "html.parser": 1, "xml.etree.ElementTree": 1, "struct": 1}
    assert [row["passed"]["m"] for row in found["rows"]] == [True, *[None] * 9]
    html = libraries.section(found, {"m": {"value": 0.1, "low": 0.02, "high": 0.4}})
    assert "6 of the 10 modules are imported by none of the 7 exercises" in text_of(html)
    assert "1 that name one do not parse and are not counted" in html


def test_pass_at_1_of_validation_is_a_chart_of_its_own():
    run = {"training": [[0, 3.0], [9, 2.0]], "validation": [], "pass_at_1": [[4, 0.25], [9, 0.5]]}
    html = sections.losses({"finetune/a": run, "finetune/b": {**run, "pass_at_1": run["pass_at_1"][:1]}})
    assert html.count("<svg") == 3  # one point is no line
    assert html.count('aria-label="pass@1 (%) by step"') == 1
    assert "validation pass@1 50.0 % at step 9" in html
    assert "validation pass@1 25.0 % at step 4" in html


# --- The rest of the page ------------------------------------------------------------------------------------------


def test_a_sample_shows_prompt_completions_and_verdicts(shown):
    data, _, text = shown
    assert len(data["samples"]) == 8  # all the problems that micro tries
    for sample in data["samples"]:
        assert sample["task_id"] in text
        assert list(sample["completions"]) == ["raw", "base", "finetuned", "raw+exercises"]
        for completion in sample["completions"].values():
            assert completion["result"] in text


def test_files_stand_side_by_side_and_a_reader_can_grade(shown):
    data, _, text = shown
    assert {side: len(files) for side, files in data["files"].items()} == {"kept": 3, "dropped": 3}
    for files in data["files"].values():
        for file in files:
            assert file["path"] in text
            assert f"score {file['score']:.3f}" in text
    assert len(data["reading"]) == 6
    assert all("score" not in file for file in data["reading"])


def test_the_page_fetches_nothing(shown):
    _, html, _ = shown
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|<script|<link(?! rel=\"icon\" href=\"data:)", html)


def test_what_a_model_writes_is_escaped(shown):
    data, _, _ = shown
    evil = '<script>alert("x")</script>'
    record = {"completion": evil, "passed": False, "result": evil}
    samples = [{"task_id": evil, "prompt": evil, "completions": {evil: record}}]
    file = {"path": evil, "source": evil, "score": 0.5, "lines": [evil]}
    reading = [{"path": evil, "source": evil, "lines": 1, "begins": evil}]
    seconds = dict.fromkeys(data["stages"], 1.0)
    data = {**data, "samples": samples, "title": evil, "files": {"kept": [file]}, "reading": reading}
    html = page(data, seconds, {"python": evil})
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 12


def test_what_a_teacher_is_called_and_writes_is_escaped(rewritten):
    data, _ = rewritten["teacher"]
    evil = '<script>alert("x")</script>'
    named = json.loads(json.dumps(data["stages"]).replace("gpt-4o-mini-2024-07-18", "EVIL").replace("Imagine", "EVIL"))
    stages = json.loads(json.dumps(named).replace("EVIL", json.dumps(evil)[1:-1]))
    html = page({**data, "stages": stages}, dict.fromkeys(stages, 1.0), {})
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5


@pytest.mark.parametrize("points", [[(0, 1.0)], [(0, 2.0), (1, 2.0)], [(0, 8.0), (50, 3.5), (100, 3.4)]])
def test_chart_takes_any_number_of_points(points):
    svg = line_chart([("loss", points)], x_label="step", y_label="loss")
    placed = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)"', svg)[1].split()]
    assert len(placed) == len(points)
    assert all(0 <= x <= 720 and 0 <= y <= 300 for x, y in placed)
    heights = [y for _, y in placed]
    assert heights == sorted(heights)  # losses fall, so the line goes down the page


def in_a_browser(html, directory, width, scheme):
    """(pixels that the page is too wide, red of its ground) as Chromium renders it, with nothing on the console."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs a browser: apt-get install chromium")
    # The page reports its own layout through its title, which --dump-dom shows.
    probe = (
        "<script>addEventListener('load', () => { document.title = 'overflow ' + "
        "(document.documentElement.scrollWidth - innerWidth) + ' ' + getComputedStyle(document.body).backgroundColor; "
        "})</script></body>"
    )
    (directory / "page.html").write_text(html.replace("</body>", probe))
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={directory / 'profile'}", f"--window-size={max(width, 500)},900", "--enable-logging=stderr",
         f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}", "--dump-dom",
         f"file://{directory / 'page.html'}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r"<title>overflow (-?\d+) rgb\((\d+)", done.stdout)
    assert found, done.stdout[:500]
    return int(found[1]), int(found[2])


@pytest.mark.system
@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1300, "light"), (400, "dark"), (1300, "dark")])
def test_in_a_browser(shown, tmp_path, width, scheme):
    """Rendered by Chromium: nothing on the console, nothing wider than the window."""
    too_wide, red = in_a_browser(shown[1], tmp_path, width, scheme)
    assert too_wide <= 0
    assert (red < 60) == (scheme == "dark")


@pytest.mark.system
@pytest.mark.parametrize("width", [400, 1300])
def test_in_a_browser_with_all_that_teachers_leave(rewritten, tmp_path, width):
    assert in_a_browser(rewritten["teacher"][1], tmp_path, width, "light")[0] <= 0


@pytest.mark.system
@pytest.mark.parametrize("width", [400, 1300])
def test_in_a_browser_with_all_that_evaluations_leave(full, tmp_path, width):
    assert in_a_browser(full[1], tmp_path, width, "light")[0] <= 0
