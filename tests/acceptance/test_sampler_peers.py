"""The sampler at full size: beside transformers, and the same samples.jsonl whatever decodes it. Writes
sampler_peers.json, a case at a time.

    pip install -e '.[dev,peers]'
    pytest tests/acceptance/test_sampler_peers.py

Random weights; HumanEval and MBPP lie beside a development checkout. Some ten minutes on two cores.
"""

import datetime
import hashlib
import importlib.util
import json
import os
import platform
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from random_model import export_random
from running import ROOT

sys.path.insert(0, str(ROOT / "tests" / "peers"))
from sampler_peers import END, GREEDY, SETTINGS, SMALL, draws_beside, greedy_beside, versions

from phi_jax.evaluation.problems import load_problems
from phi_jax.model.phi import PhiConfig
from phi_jax.tokens import tokenizer
from phi_jax.tokens.tokenizer import Tokenizer

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        importlib.util.find_spec("transformers") is None, reason="needs transformers: pip install -e '.[peers]'"
    ),
]


def record(case, figures):
    """Puts one case into sampler_peers.json; the others stay."""
    place = Path(__file__).with_name("sampler_peers.json")
    cases = json.loads(place.read_text()) if place.exists() else {}
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "versions": versions(),
    }
    cases[case] = about | figures
    place.write_text(json.dumps(cases, indent=1) + "\n")
    print(case, figures)


def human_eval_file(shared_data):
    return shared_data / "eval" / "HumanEval.jsonl.gz"


def test_greedy_completions_of_humaneval_and_mbpp(shared_data, tmp_path):
    _, problems = load_problems("humaneval", str(human_eval_file(shared_data)))
    problems += load_problems("mbpp", str(shared_data / "eval" / "mbpp.jsonl"))[1]
    assert len(problems) == 164 + 500
    model = export_random(tmp_path / "model", GREEDY, tokenizer=Tokenizer.load(shared_data / "tokenizer"))
    record("greedy", greedy_beside(model, problems, max_new_tokens=40, samples_per_problem=1))


def test_draws_follow_transformers(tmp_path):
    model = export_random(tmp_path / "model", SMALL, end_of_text_id=END)
    record("draws", draws_beside(model, SETTINGS, 20_000))


# --- The same bytes ---------------------------------------------------------------------------------------------------

CONFIG = PhiConfig(
    vocab_size=2048, hidden_size=32, intermediate_size=128, num_layers=2, num_heads=2, head_dim=16, rotary_dim=8,
    max_seq_len=1024,
)  # fmt: skip
EVALUATE = """
import json, sys
import jax
from phi_jax.evaluation.commands import evaluate_model
sys.path.insert(0, "tests")
from running import fewer_slots
model, problems, out, live, devices = sys.argv[1:]
assert jax.local_device_count() == int(devices)
with fewer_slots(int(live)):
    evaluate_model(
        model, "humaneval", out, problems_file=problems, sandbox="full", workers=2,
        max_new_tokens=32, samples_per_problem=5, temperature=0.8, slots=32,
    )
"""


def evaluated(model, problems, out, *, live, devices):
    """Seconds of an evaluation in a process of its own."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", EVALUATE, model, problems, out, str(live), str(devices)],
        cwd=ROOT, env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return round(time.monotonic() - begin, 1)


def digests(out):
    """SHA-256 of samples.jsonl, and of what was decoded, with what was cut off behind the stops."""
    rows = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
    decoded = json.dumps([{k: v for k, v in r.items() if k not in ("passed", "result")} for r in rows])
    samples = (out / "samples.jsonl").read_bytes()
    return {name: hashlib.sha256(x).hexdigest() for name, x in (("samples", samples), ("raw", decoded.encode()))}


def test_samples_are_the_same_bytes(shared_data, tmp_path):
    problems = human_eval_file(shared_data)
    texts = [p.prompt for p in load_problems("humaneval", str(problems))[1]]
    model = export_random(tmp_path / "model", CONFIG, tokenizer=tokenizer.train(texts, 2000))
    runs = []
    for devices, live in ((1, 32), (1, 3), (1, 1), (8, 32), (8, 1)):
        out = tmp_path / f"{devices}-{live}"
        seconds = evaluated(model, problems, out, live=live, devices=devices)
        runs.append({"devices": devices, "live_slots": live, "seconds": seconds, **digests(out)})
        print(runs[-1], flush=True)

    # As a kill leaves it, had it been anywhere: some parts, no results.
    out, rng = tmp_path / "1-32", random.Random(0)
    parts = sorted((out / "parts").rglob("part-*.jsonl"))
    lost = rng.sample(parts, len(parts) // 2)
    for path in (*lost, out / "samples.jsonl", out / "completions.jsonl", out / "scores.json"):
        path.unlink()
    seconds = evaluated(model, problems, out, live=32, devices=1)
    runs.append(
        {"devices": 1, "live_slots": 32, "parts_lost": [len(lost), len(parts)], "seconds": seconds, **digests(out)}
    )

    samples = [json.loads(line) for line in (tmp_path / "1-1" / "samples.jsonl").read_text().splitlines()]
    sizes = [len(s["completion"]) for s in samples]
    record(
        "determinism",
        {
            "problems": len(texts),
            "samples": len(samples),
            "different_completions": len({s["completion"] for s in samples}),
            "characters_each": sum(sizes) / len(sizes),
            "runs": runs,
        },
    )
    assert len(samples) == 6 * 164
    assert len({s["completion"] for s in samples[164:]}) > 0.5 * 5 * 164, "the draws do not differ"
    for name in ("samples", "raw"):
        assert len({run[name] for run in runs}) == 1, name
