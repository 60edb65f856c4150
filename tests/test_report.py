"""The page: its numbers are report.json's, it fetches nothing, and a browser shows it without complaint."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest
from other_writers import GRADED, WRITTEN, written_by

from phi_jax.artifact import Artifact, open_draft
from phi_jax.config import Config
from phi_jax.report.chart import line_chart
from phi_jax.report.figures import number, percent
from phi_jax.report.page import gather, page
from phi_jax.report.writing import written
from phi_jax.synthesis.given import given


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
    assert [s["model"] for s in data["scores"] if s["decoding"] == "greedy"] == [
        "raw", "base", "finetuned", "raw+exercises",
    ]  # fmt: skip
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
    given(Config({"synthesize": rules}), {}, draft)
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
