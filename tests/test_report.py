"""The page: its numbers are report.json's, it fetches nothing, and a browser shows it without complaint."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest
from report_inputs import MODELS, SOLVED, inputs_of

from phi_jax.config import Config
from phi_jax.evaluation.comparison import holm, mcnemar
from phi_jax.report import charts, evaluation
from phi_jax.report.page import gather, page, percent, probability, report, signed
from phi_jax.report.tables import PAPER
from phi_jax.store.artifact import Artifact, open_draft

CONFIG = Config({"report": {"title": "A title", "samples": 6, "files_to_grade": 5}})


def text_of(html):
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def rows_of(html, title):
    """The cells of the first table behind a title, as text."""
    table = html[html.index(title) :].partition("</table>")[0]
    rows = [row.split("</td>")[:-1] for row in table.split("<tr>")[2:]]
    return [[text_of(cell) for cell in row] for row in rows]


def page_of(data):
    return page(data, dict.fromkeys(data["stages"], 1.0), {"python": "3"})


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    data = gather(CONFIG, inputs_of(tmp_path_factory.mktemp("full")))
    return data, page_of(data)


# --- The stage ----------------------------------------------------------------------------------------------------


def test_a_micro_runs_numbers_are_those_of_its_artifacts(micro_run):
    data = json.loads((micro_run / "report" / "report.json").read_text())
    html = (micro_run / "report" / "index.html").read_text()
    text = text_of(html)
    assert data["evaluation"]["scores"] == json.loads((micro_run / "evaluate/scores.json").read_text())
    for score in data["evaluation"]["scores"]:
        assert f"{percent(score['low'])} to {percent(score['high'])}" in text
    assert set(data["trained"]) == set(MODELS)
    for trained in data["trained"].values():
        metrics = [json.loads(x) for x in (micro_run / trained["label"] / "metrics.jsonl").read_text().splitlines()]
        assert trained["losses"]["training"] == [[m["step"], m["loss"]] for m in metrics]
        assert f"last {metrics[-1]['loss']:.3f}" in text
    for label, facts in data["stages"].items():
        assert facts == json.loads((micro_run / label / "manifest.json").read_text())["facts"]
        assert all(name.replace("_", " ") in text for name in facts)
    assert len(data["samples"]) == 8  # all the problems that micro tries
    assert len(data["reading"]) == 6
    assert "Here one grammar wrote the textbooks, the exercises and the test." in text


def test_the_stage_writes_the_same_bytes_for_the_same_numbers(tmp_path):
    inputs = inputs_of(tmp_path, full=False)
    written = []
    for name in ("", "again"):
        draft = open_draft(tmp_path / "w", "report", name, {}, {})
        report(CONFIG, inputs, draft)
        built = draft.commit()
        written.append([built.path(output).read_bytes() for output in ("page", "report")])
    assert written[0] == written[1]
    assert Artifact.read(built.directory).manifest["outputs"]["page"]["kind"] == "log"


# --- What a reader looks for first ----------------------------------------------------------------------------------


def test_the_first_sentence_says_what_can_be_told_apart(full, tmp_path):
    data, html = full
    none = "No two models can be told apart on idioms. No two models can be told apart on libraries."
    solved = "finetuned solves 100.0 %, raw+exercises 75.0 %, base 37.5 % and raw 0.0 %"
    of = f"Of nano's 8 problems, {solved}"
    assert f"{of}. No two models can be told apart on nano. {none}" in text_of(html)
    assert html.index("</svg>") < html.index('class="lead"') < html.index("<details")
    better = {**data["evaluation"], "models": [{**r, "p_page": r["p"]} for r in data["evaluation"]["models"]]}
    text = text_of(page_of({**data, "evaluation": better}))
    assert (
        "raw and base, base and finetuned, base and raw+exercises, finetuned and raw+exercises cannot be told apart on "
        f"nano. {none}" in text
    )
    every = {**better, "models": [{**r, "p_page": 0.049} for r in better["models"]]}
    assert evaluation.told_apart(every) == []
    text = text_of(page_of({**data, "evaluation": every}))
    assert f"{of}; on this benchmark any two models can be told apart. " in text
    assert "told apart on" not in text


def test_the_terminal_gets_one_small_table(full):
    assert evaluation.table(full[0]["evaluation"]) == [
        "pass@1, greedy, prompts stripped, 95 % intervals",
        "                nano (8 problems)       idioms (8 problems)     libraries (8 problems)",
        "raw               0.0 % [ 0.0,  32.4]    12.5 % [ 2.2,  47.1]     0.0 % [ 0.0,  32.4]",
        "base             37.5 % [13.7,  69.4]    25.0 % [ 7.1,  59.1]    12.5 % [ 2.2,  47.1]",
        "finetuned       100.0 % [67.6, 100.0]    50.0 % [21.5,  78.5]    25.0 % [ 7.1,  59.1]",
        "raw+exercises    75.0 % [40.9,  92.9]     0.0 % [ 0.0,  32.4]     0.0 % [ 0.0,  32.4]",
        *(f"No two models can be told apart on {benchmark}." for benchmark in ("nano", "idioms", "libraries")),
    ]


def test_the_papers_bars_stand_beside_the_models_that_it_knows(full):
    first, svg = re.findall(r"<svg .*?</svg>", full[1], re.DOTALL)[:2]
    for chart in (first, svg):
        assert "<title>pass@1: nano: 8 problems" in chart
        assert all(f">{model}</text>" in chart for model in SOLVED)
        assert ">pass@1 (% of problems)</text>" in chart
        assert ">37.5 (13.7 to 69.4)</text>" in chart
    assert ">from 25.0 % filtered, 75.0 % grammar.textbooks</text>" in first
    for group, values in PAPER["figure_2_1"]["groups"].items():
        assert svg.count(f" ({group})</text>") == len(values) == 3
        for value in values.values():
            assert f">{value} ({group})</text>" in svg
    assert svg.count("var(--accent)") == 4
    assert svg.count("stroke-dasharray: 3") == sum(
        "*" in value for values in PAPER["figure_2_1"]["groups"].values() for value in values.values()
    )


def test_who_wrote_what_a_model_learned_from_is_said(full, tmp_path):
    rows = dict(rows_of(full[1], "<th>trained on</th>"))
    grammar = "grammar.textbooks (the built-in grammar, no LLM)"
    assert rows["base"] == f"25.0 % filtered (people) , 75.0 % {grammar}"
    assert "base is CodeTextbook;" in text_of(full[1])
    assert rows["raw+exercises"] == "raw, then 100.0 % grammar.exercises (the built-in grammar, no LLM)"
    assert "one grammar wrote" in text_of(full[1])
    data = gather(CONFIG, inputs_of(tmp_path, writer="writer:0.8,ours:0.2", full=False))
    text = text_of(page_of(data))
    assert "language models: writer:0.8,ours:0.2" in text
    assert "one grammar wrote" not in text


# --- Evaluations ----------------------------------------------------------------------------------------------------


def test_the_matrix_says_who_solves_what(full):
    rows = {row[0]: row[1:] for row in rows_of(full[1], 'class="columns matrix"')}
    assert set(rows) == set(SOLVED)
    for model, solved in SOLVED.items():
        for count, cell in zip(solved.values(), rows[model], strict=True):
            assert cell.startswith(percent(count / 8))
    assert rows["finetuned"][0] == "100.0 % 67.6 % to 100.0 %"  # Wilson, 8 of 8
    assert rows["finetuned"][2].endswith("3 prompts too long")
    assert full[1].count("3 prompts too long") == full[1].count("counts as failed") == 1
    assert len(rows_of(full[1], "<summary>Every score")) == 4 * 3 * 2


def test_models_in_pairs(full):
    data, html = full
    rows = data["evaluation"]["models"]
    assert len(rows) == 3 * 6
    assert [row["p_page"] for row in rows] == holm([row["p"] for row in rows])
    row = next(r for r in rows if (r["group"], r["one"], r["other"]) == ("nano", "raw", "finetuned"))
    assert row["p"] == mcnemar(8, 0) == 2 / 2**8
    assert row["p_page"] == 18 * 2 / 2**8
    shown = {tuple(r[:2]): r[2:] for r in rows_of(html, "<summary>Not told apart: 18 pairs")}
    assert len(shown) == 18
    cells = ["0.0 %, 100.0 %", "−100.0", "−100.0 to −48.4", "", "0 / 8"]
    assert shown["nano", "raw − finetuned"] == [*cells, "0.141"]
    better = [{**r, "p_page": r["p"]} for r in rows]
    html = page_of({**data, "evaluation": {**data["evaluation"], "models": better}})
    apart = {tuple(r[:2]): r[2:] for r in rows_of(html, "Models in pairs")}
    assert list(apart) == [("nano", "raw − finetuned"), ("nano", "raw − raw+exercises")]
    assert apart["nano", "raw − finetuned"] == [*cells, "0.008"]
    assert len(rows_of(html, "<summary>Not told apart: 16 pairs")) == 16


def test_robustness_is_corrected_over_the_page(full):
    data, html = full
    rows = data["evaluation"]["robustness"]
    tested = [row for row in rows if row["p"] is not None]
    assert (len(rows), len(tested)) == (8, 4)
    assert [row["p_page"] for row in tested] == holm([row["p"] for row in tested])
    shown = {r[0]: r[1:] for r in rows_of(html, "Prompts perturbed")}
    assert list(shown) == ["base", "finetuned", "raw+exercises"]
    assert shown["finetuned"] == ["no prompt changed", "+100.0 +16.8 to +100.0 100.0 → 0.0 %; p = 0.500"]
    text = text_of(html)
    assert "model rename_arguments 0 of 8 problems typos (20.0 % of places) 4 of 8 problems base" in text
    assert "raw: no problem solved, as it is or perturbed (rename_arguments, typos)." in text


def test_a_judge_is_shown_and_a_refused_one_has_no_number(full):
    shown = {row[0]: row[3:] for row in rows_of(full[1], "Graded by a judge")}
    assert shown["base"] == [
        "gpt-4.1 judge_paper.v1, 3 repeats", "65.0 % 50.0 % to 80.0 %", "1 of 40",
    ]  # fmt: skip
    assert shown["raw"][1:] == ["refused 7 of 40 gold items <missed>", "7 of 40"]


# --- The rest of the page -------------------------------------------------------------------------------------------


def test_a_sample_shows_prompt_completions_and_verdicts(full):
    data, html = full
    assert [s["task_id"] for s in data["samples"][:3]] == [
        "nano/3",
        "nano/4",
        "nano/5",
    ]  # two of four models solve them
    assert len(data["samples"]) == 6
    for sample in data["samples"]:
        assert sample["prompt"].splitlines()[0] in unescape(html)
        assert set(sample["completions"]) == set(SOLVED)
    assert "failed: no" in html


def test_the_first_three_samples_stand_open_and_the_rest_is_folded(full):
    data, html = full
    shown, folds = html.partition("<details")[::2]
    tasks = [sample["task_id"] for sample in data["samples"]]
    assert [f"<h3>{task}</h3>" in shown for task in tasks] == 3 * [True] + 3 * [False]
    assert all(f"<h3>{task}</h3>" in folds for task in tasks[3:])
    sections = re.findall(
        r'<details class="fold"><summary><h2>.+</h2> <span class="muted">(.+)</span></summary>\n<div id="(.+)">', html
    )
    assert len(sections) == html.count('class="fold"') == 14
    assert {target[1:] for target in re.findall(r'<a href="(.*?)">', html)} <= {id for _, id in sections}
    says = {id: text_of(line) for line, id in sections}
    assert says["samples"] == "3 more problems"
    assert says["perturbed"] == "a cost of up to +100.0 points: finetuned, typos, 4 problems"
    assert says["pairs"] == "0 of 18 told apart, p below 0.05, corrected"


def test_files_to_grade_come_without_scores_and_licences(full):
    data, html = full
    assert len(data["reading"]) == 5
    assert all(set(file) == {"id", "source", "path", "text"} for file in data["reading"])
    assert all(file["text"].startswith("def f") for file in data["reading"])
    assert "f0.py" not in {file["path"] for file in data["reading"]}  # it has no score
    assert {"kept.py", "dropped.py"} <= set(text_of(html).split())


def test_the_filter_is_shown_with_its_calibration_and_the_files_at_its_threshold(full):
    html = full[1][full[1].index("<h2>The filter") :].partition("<h2>")[2].partition("<h2>")[0]
    text = text_of(html)
    assert "ROC AUC, cross-validated: forest 0.812, linear 0.700" in text
    assert "<title>share graded high (0 to 1) by score (0 to 1)</title>" in html
    assert ">n = 92 graded files</text>" in html
    assert "Files at each dot, from the left: 31, 31, 30." in text
    assert "just above 0.5001 above.py made here x = 1" in text
    assert "just below 0.4999 below.py made here x = 1" in text


def test_facts_are_lines_of_a_table_and_long_tables_are_cut(full):
    facts = {"kept": 1234567, "by_source": {f"s{n}": n for n in range(12)}, "reasons": [], "rows": [1], "on": True}
    html = page_of({**full[0], "stages": {"s": facts}})
    cells = re.findall(r"<td>(.*?)</td><td class=.number.>(.*?)</td>", html.partition("<h3>s</h3>")[2])
    rows = dict(cells[: cells.index(("on", "True")) + 1])
    assert rows["kept"] == "1,234,567"
    assert rows["by source: s9"] == "9"
    assert rows["by source: 2 more"] == rows["rows"] == "in report.json"
    assert rows["reasons"] == "none"
    assert len(rows) == 15
    assert [signed(d) for d in (-0.125, 0.0001, 0.5)] == ["−12.5", "0.0", "+50.0"]
    assert [probability(p) for p in (0.04321, 0.0001)] == ["0.043", "< 0.001"]


def test_the_page_fetches_nothing(full):
    assert not re.search(
        r"(src|href)=\"(?!data:|#)|url\(\"?http|@import|<script|<link(?! rel=\"icon\" href=\"data:)", full[1]
    )
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]+"', "", full[1])


def test_what_a_model_writes_is_escaped(full):
    evil = '<script>alert("x")</script>'
    named = json.loads(json.dumps(full[0]).replace("raw+exercises", "EVIL").replace("made here", "EVIL"))
    data = json.loads(json.dumps(named).replace("EVIL", json.dumps(evil)[1:-1]))
    record = {"completion": evil, "passed": False, "result": evil}
    data |= {"title": evil, "samples": [{"task_id": evil, "prompt": evil, "completions": {evil: record}}]}
    html = page(data, dict.fromkeys(data["stages"], 1.0), {"python": evil})
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 12


@pytest.mark.parametrize("points", [[(0, 1.0)], [(0, 2.0), (1, 2.0)], [(0, 8.0), (50, 3.5), (100, 3.4)]])
def test_a_chart_takes_any_number_of_points_in_the_pages_colours(points):
    svg = charts.lines({"training": points, "validation": points[-1:]}, "loss")
    assert ">loss</text>" in svg
    assert ">optimizer step</text>" in svg
    assert "<title>loss by optimizer step</title>" in svg
    assert svg.startswith('<svg viewBox="')
    assert svg == charts.lines({"training": points, "validation": points[-1:]}, "loss")
    assert not re.search(r"#0[1-5]0|<metadata|<style|DejaVu|id=\"(figure|axes|matplotlib)", svg)
    assert {"var(--accent)", "var(--accent-2)", "var(--rule)"} <= set(re.findall(r"var\(--[a-z0-9-]+\)", svg))


def in_a_browser(html, directory, width, scheme, link=""):
    """(pixels that the page is too wide with every section open, red of its ground, how many a link to it opens).

    As Chromium renders it, with nothing on the console.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs a browser: apt-get install chromium")
    # The page reports its own layout through its title, which --dump-dom shows.
    probe = (
        "<script>addEventListener('load', () => { const opened = document.querySelectorAll('details[open]').length; "
        "document.querySelectorAll('details').forEach(d => d.open = true); document.title = 'overflow ' + "
        "(document.documentElement.scrollWidth - innerWidth) + ' ' + getComputedStyle(document.body).backgroundColor + "
        "' opened ' + opened; })</script></body>"
    )
    (directory / "page.html").write_text(html.replace("</body>", probe))
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={directory / 'profile'}", f"--window-size={max(width, 500)},900", "--enable-logging=stderr",
         f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}", "--dump-dom",
         f"file://{directory / 'page.html'}{link}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r"<title>overflow (-?\d+) rgb\((\d+).* opened (\d+)<", done.stdout)
    assert found, done.stdout[:500]
    return [int(group) for group in found.groups()]


@pytest.mark.system
@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1300, "light"), (400, "dark"), (1300, "dark")])
def test_in_a_browser(full, tmp_path, width, scheme):
    """Rendered by Chromium: nothing on the console, nothing wider than the window; a link opens what it points to."""
    link = "#pairs" if width == 1300 else ""
    too_wide, red, opened = in_a_browser(full[1], tmp_path, width, scheme, link)
    assert too_wide <= 0
    assert (red < 60) == (scheme == "dark")
    assert opened == bool(link)
