"""The options of `synthesize` and `annotate` that are the teacher's: what was given up is asked again, batches end."""

import json
import os
import re
import subprocess
import sys

import pytest
from llm_server import serving
from running import MICRO, ROOT, phi_jax

KEY = {"OPENAI_API_KEY": "sk-planted-commands"}


def arguments(server, workdir, **fields):
    """Of `phi-jax` for 17 lessons by phi_1.py's own teacher."""
    fields = {
        "teachers.writer.base_url": server.base_url,
        "texts.teacher.share": 0.00001,
        "texts.teacher.sandbox_workers": 2,
        "budget.max_dollars": 5.0,
        **fields,
    }
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    return ["synthesize", "--config", ROOT / "configs/phi_1.py", "--workdir", workdir, *words]


def command(server, workdir, *options, **fields):
    return phi_jax(*arguments(server, workdir, **fields), *options, env=KEY)


def writer(workdir):
    return json.loads((workdir / "synthesize/teacher/manifest.json").read_text())["facts"]["teachers"]["writer"]


def test_what_was_given_up_is_asked_again(tmp_path):
    live = {"teachers.writer.mode": "live", "teachers.writer.attempts": 1}
    with serving(faults=0.4, kinds=["500"], seed=3) as server:
        command(server, tmp_path, **live)
        first = writer(tmp_path)
        assert 0 < first["poisoned"] < first["requests"]
        asked = len(server.ledger())
        again = command(server, tmp_path, **live)  # poisoned stays poisoned, and whole stays whole
        assert again.stderr == "1 of 1 stages are whole\n"
        assert len(server.ledger()) == asked
    with serving() as server:
        done = command(server, tmp_path, "--retry-poisoned", **live)
        assert f"synthesize/teacher: asked again: {first['poisoned']} requests" in done.stdout
        assert f"{first['poisoned']} given up before: HTTP 500" in done.stderr
        assert writer(tmp_path)["poisoned"] == 0
        about = [entry["about"] for entry in server.ledger()]
        assert len(about) <= first["poisoned"] + 17  # those, and second tries of texts that fail


def test_batches_are_ended(tmp_path):
    with serving(batch_seconds=3.0) as server:
        words = [sys.executable, "-m", "phi_jax.cli", *map(str, arguments(server, tmp_path))]
        asking = subprocess.Popen(words, cwd=ROOT, env={**os.environ, **KEY}, stderr=subprocess.PIPE, text=True)
        assert any(re.search("batch .* has 17 requests", line) for line in asking.stderr)
        asking.kill()
        asking.communicate()
        done = command(server, tmp_path, "--cancel-batches")
        assert done.stdout == "synthesize/teacher: batches cancelled: 1\n"
        assert not (tmp_path / "synthesize/teacher").exists()


@pytest.mark.parametrize("option", ["--retry-poisoned", "--cancel-batches", "--pilot=20"])
def test_the_grammar_has_neither_queue_nor_batches_nor_price(option, tmp_path):
    done = phi_jax("synthesize", *MICRO, "--workdir", tmp_path, option, check=False)
    assert done.returncode == 1
    assert "asks no language model" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pilot_of_one_tells_nothing(tmp_path):
    done = phi_jax("synthesize", "--config", ROOT / "configs/phi_1.py", "--workdir", tmp_path, "--pilot=1", check=False)
    assert done.returncode == 1
    assert "--pilot 1: too few requests to tell anything; use 200" in done.stderr
