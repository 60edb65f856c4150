"""The page: its numbers are report.json's, it fetches nothing, and a browser shows it without complaint."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from phi_jax.report.chart import line_chart
from phi_jax.report.page import page
from phi_jax.report.sections import number, percent


@pytest.fixture(scope="module")
def shown(micro_run):
    html = (micro_run / "report" / "index.html").read_text()
    return (
        json.loads((micro_run / "report" / "report.json").read_text()),
        html,
        unescape(re.sub(r"<[^>]+>", "\n", html)),
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


@pytest.mark.parametrize("points", [[(0, 1.0)], [(0, 2.0), (1, 2.0)], [(0, 8.0), (50, 3.5), (100, 3.4)]])
def test_chart_takes_any_number_of_points(points):
    svg = line_chart([("loss", points)], x_label="step", y_label="loss")
    placed = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)"', svg)[1].split()]
    assert len(placed) == len(points)
    assert all(0 <= x <= 720 and 0 <= y <= 300 for x, y in placed)
    heights = [y for _, y in placed]
    assert heights == sorted(heights)  # losses fall, so the line goes down the page


@pytest.mark.system
@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1300, "light"), (400, "dark"), (1300, "dark")])
def test_in_a_browser(micro_run, tmp_path, width, scheme):
    """Rendered by Chromium: nothing on the console, nothing wider than the window."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs a browser: apt-get install chromium")
    # The page reports its own layout through its title, which --dump-dom shows.
    probe = (
        "<script>addEventListener('load', () => { document.title = 'overflow ' + "
        "(document.documentElement.scrollWidth - innerWidth) + ' ' + getComputedStyle(document.body).backgroundColor; "
        "})</script></body>"
    )
    html = (micro_run / "report" / "index.html").read_text().replace("</body>", probe)
    (tmp_path / "page.html").write_text(html)
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={max(width, 500)},900", "--enable-logging=stderr",
         f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}", "--dump-dom",
         f"file://{tmp_path / 'page.html'}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r"<title>overflow (-?\d+) rgb\((\d+)", done.stdout)
    assert found, done.stdout[:500]
    assert int(found[1]) <= 0
    assert (int(found[2]) < 60) == (scheme == "dark")
