"""Every command of the READMEs runs, with the micro config in place of nano and a temporary directory for runs/.

A paid teacher is the tests' own server, asked for a tenth as many texts. The first finds a run that is done: the
fixture made it from nothing. That on a user's own files ends with the model of filtered code and textbooks.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from llm_server import serving
from readme_commands import READMES, blocks, commands
from running import ROOT, server

# Of a run on one's own files: what depends on them, up to the first model that is trained on the filter's choice. What
# stands behind it, two finetunings and their selections and scores, is the same as in the fixture's run.
OWN = (
    "synthesize/grammar,collect/python,dedup/python,decontaminate/raw,annotate/python,decontaminate/grammar,"
    "tokenize/tokenizer,tokenize/raw,pretrain/raw,filter/python,tokenize/filtered,tokenize/grammar.textbooks,"
    "pretrain/base"
)
SETUP = ("python3 -m venv", "pip install")  # what the two commands install is there already: these tests run in it


def test_there_are_two_commands_first():
    first, second = blocks()[:2]
    assert re.fullmatch(
        r"python3 -m venv \.venv && \. \.venv/bin/activate && pip install -e \. && +"
        r"phi-jax run --config configs/nano\.py --workdir runs/nano",
        first,
    )
    assert second == "pip install -e '.[dev]' && pytest -n 2 --dist loadfile"
    assert "readme_commands.py second" in (ROOT / ".ci" / "run").read_text()


def test_every_command_runs(micro_run, tmp_path):
    shutil.copytree(micro_run, tmp_path / "runs" / "nano")
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    wrapper = bin_directory / "phi-jax"
    client = shlex.join([sys.executable, "-I", "-S", f"{ROOT}/tests/fork_server.py", "python", server()])
    wrapper.write_text(f'#!/bin/sh\nexec {client} -m phi_jax.cli "$@"\n')
    wrapper.chmod(0o755)
    env = {**os.environ, "PATH": f"{bin_directory}:{os.environ['PATH']}"}
    ran = []
    with serving() as teacher:
        env["OPENAI_API_KEY"] = "sk-planted-readme"
        run_all(ran, tmp_path, env, teacher.base_url)
    assert len(ran) >= 4
    assert any("nano (8 problems)" in out for out in ran)
    assert any("idioms pass@1" in out for out in ran)
    assert any("runs/exported: errors: 0, warnings: 0\n" in out for out in ran)
    assert any(re.search(r"^evaluate/base +whole", out, re.M) for out in ran)
    assert any(re.search(r"pilot of 20 of 170 requests cost \$0\.0", out) for out in ran)


def run_all(ran, tmp_path, env, base_url):
    """Appends what each command printed."""
    for number, block in enumerate(blocks()):
        if number == 1:  # pytest itself
            continue
        script = block.split("pip install -e . && ")[-1]
        script = script.replace("configs/nano.py", "configs/nano.py:size=micro").replace("runs/", f"{tmp_path}/runs/")
        script = script.replace("share=0.001", f"share=0.0001 --config.teachers.writer.base_url={base_url}")
        script = script.replace("--pilot 200", "--pilot 20")
        script = script.replace("validation_fraction=0.2", f"validation_fraction=0.2 --only {OWN}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, capture_output=True, text=True, env=env
        )
        if done.returncode:
            pytest.fail(f"{script}\n{done.stdout}{done.stderr}")
        ran.append(done.stdout)


def test_nothing_is_left_to_guess():
    assert len(READMES[0].read_text().splitlines()) <= 150
    for readme in READMES:
        text = readme.read_text()
        assert "@@" not in text
        for path in re.findall(r"`((?:configs|launch|tests|phi_jax)/[\w./]+)`", text):
            assert (ROOT / path).exists(), f"{readme}: {path}"
        for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
            linked = readme.parent / path if path else readme
            assert linked.exists(), f"{readme}: {path}"
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.M) if anchor else ()
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert not anchor or anchor in anchors, f"{readme}: {path}#{anchor}"
    assert Path(ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
    assert len(commands()) >= 6
