"""The page: its numbers are report.json's, it fetches nothing, and a browser shows it without complaint."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from phi_jax.report.chart import line_chart
from phi_jax.report.page import number, page, percent


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
    metrics = [json.loads(x) for x in (micro_run / "pretrain/base/metrics.jsonl").read_text().splitlines()]
    assert data["loss"] == [[m["step"], m["loss"]] for m in metrics]
    assert f"{data['loss'][-1][1]:.3f}" in lines
    for label, facts in data["stages"].items():
        assert facts == json.loads((micro_run / label / "manifest.json").read_text())["facts"]
    assert number(data["stages"]["collect/python"]["kept"]) in lines
    for reason, count in list(data["stages"]["collect/python"]["set_aside"].items())[:8]:
        assert f"set aside: {reason}" in lines
        assert number(count) in lines
    assert len(re.findall(r"<circle", html)) >= len(data["loss"])


def test_samples_show_prompt_completion_and_verdict(shown):
    data, _, text = shown
    assert len(data["samples"]) == 12
    for sample in data["samples"]:
        assert sample["task_id"] in text
        assert sample["result"] in text


def test_the_page_fetches_nothing(shown):
    _, html, _ = shown
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|<script|<link(?! rel=\"icon\" href=\"data:)", html)


def test_what_a_model_writes_is_escaped(shown):
    data, _, _ = shown
    evil = '<script>alert("x")</script>'
    samples = [{"task_id": data["samples"][0]["task_id"], "completion": evil, "passed": False, "result": evil}]
    seconds = dict.fromkeys(data["stages"], 1.0)
    html = page({**data, "samples": samples, "title": evil}, seconds, {"python": evil})
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 4


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
