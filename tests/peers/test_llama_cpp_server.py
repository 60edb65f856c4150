"""A model of ours as teacher: an export under llama-cpp-python's OpenAI-compatible server, asked as any other is.

So small a model writes nothing worth keeping: what is tested is that each request ends, is counted, and is not asked
again, by a server that is not ours.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import require
from running import ROOT, phi_jax

pytestmark = pytest.mark.peers

KEY = "sk-planted-4b1d2f86c0"
TEXTBOOKS, EXERCISES = 5, 3


@pytest.fixture(scope="module")
def server(micro_run, tmp_path_factory):
    """-> (base_url, file of the server's log)."""
    require("llama_cpp", "uvicorn", "fastapi", "sse_starlette", "starlette_context", "pydantic_settings")
    root = tmp_path_factory.mktemp("llama")
    phi_jax("export", "--checkpoint", micro_run / "finetune/finetuned", "--out", root / "model", "--gguf")
    (file,) = (root / "model").glob("*.gguf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (root / "server.log").open("w")
    process = subprocess.Popen(
        [
            sys.executable, "-m", "llama_cpp.server", "--model", file, "--model_alias", "ours", "--port", str(port),
            "--n_ctx", "4096", "--n_threads", "1", "--n_threads_batch", "1", "--chat_format", "chatml",
            "--api_key", KEY,
        ],
        stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        base_url = f"http://127.0.0.1:{port}/v1"
        for _ in range(600):
            assert process.poll() is None, (root / "server.log").read_text()
            try:
                request = urllib.request.Request(f"{base_url}/models", headers={"Authorization": f"Bearer {KEY}"})
                urllib.request.urlopen(request).close()
                break
            except OSError:
                time.sleep(0.1)
        yield base_url, root / "server.log"
    finally:
        process.terminate()
        process.wait()
        log.close()


def completions(log):
    return len(re.findall(r'"POST /v1/chat/completions', log.read_text()))


def test_an_export_of_ours_is_a_teacher_like_any_other(server, tmp_path):
    base_url, log = server
    workdir = tmp_path / "w"
    fields = {
        "teachers.writer.model": "ours",
        "teachers.writer.base_url": base_url,
        "teachers.writer.key_variable": "PHI_JAX_TEST_KEY",
        "teachers.writer.price_as": "local",
        "teachers.writer.mode": "live",
        "teachers.writer.window": 2,
        "teachers.writer.attempts": 2,
        "texts.teacher.textbook_requests": TEXTBOOKS,
        "texts.teacher.exercise_requests": EXERCISES,
        "texts.teacher.max_tokens": 24,
        "texts.teacher.sandbox_workers": 1,
    }
    command = ["synthesize", "--config", ROOT / "configs/phi_1.py", "--workdir", workdir]
    command += [f"--config.{field}={value}" for field, value in fields.items()]
    done = phi_jax(*command, env={"PHI_JAX_TEST_KEY": KEY})
    manifest = json.loads((workdir / "synthesize/teacher/manifest.json").read_text())
    facts = manifest["facts"]
    writer = facts["teachers"]["writer"]
    outcomes = ("answered", "refused", "filtered", "length", "poisoned")
    assert writer["requests"] == sum(writer[status] for status in outcomes)
    assert writer["requests"] >= TEXTBOOKS + EXERCISES
    assert writer["answered"] + writer["length"] > 0
    assert writer["prompt_tokens"] > writer["completion_tokens"] > 0
    assert writer["dollars"] == 0
    for kind, asked in (("textbooks", TEXTBOOKS), ("exercises", EXERCISES)):
        assert facts[kind]["kept"] + facts[kind]["set_aside"] >= asked

    # Again, with the artifact gone: nothing is asked, and the same comes out.
    asked = completions(log)
    assert asked >= writer["requests"] - writer["poisoned"]
    (workdir / "synthesize/teacher").rename(tmp_path / "first")
    again = phi_jax(*command, env={"PHI_JAX_TEST_KEY": KEY})
    assert completions(log) == asked
    assert json.loads((workdir / "synthesize/teacher/manifest.json").read_text())["identity"] == manifest["identity"]

    for text in (done.stdout, done.stderr, again.stdout, again.stderr):
        assert KEY not in text
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 5
    assert not [p for p in files if KEY.encode() in p.read_bytes()]
    assert os.environ.get("PHI_JAX_TEST_KEY") is None
