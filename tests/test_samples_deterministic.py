"""samples.jsonl through `phi-jax evaluate`'s own code: the same bytes for any number of live slots and devices, in any
order of the requests, and after a kill.
"""

import json
import random

import pytest
from random_model import export_random
from running import devices, fewer_slots, python

from phi_jax.evaluation import completion
from phi_jax.evaluation.backends import open_backend
from phi_jax.evaluation.commands import evaluate_model
from phi_jax.evaluation.completion import Plan, complete, requests_of
from phi_jax.evaluation.problems import load_problems
from phi_jax.model.phi import PhiConfig
from phi_jax.tokens import tokenizer

CONFIG = PhiConfig(vocab_size=320, hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2, head_dim=16,
                   rotary_dim=8, max_seq_len=128)  # fmt: skip
# At such a temperature a change of the last bit would show somewhere.
PLAN = {"max_new_tokens": 32, "samples_per_problem": 5, "temperature": 0.8}
VERBS = ("sum", "product", "length", "first", "last", "smallest", "largest")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    trained = tokenizer.train([row["prompt"] for row in rows()], 300)
    return export_random(tmp_path_factory.mktemp("random") / "model", CONFIG, tokenizer=trained)


def rows():
    """Problems whose prompts share a bucket; their rule of stops cuts little of what a random model writes."""
    return [
        {
            "task_id": f"few/{verb}",
            "prompt": f"def f(x):\n    # the {verb}\n",
            "entry_point": "f",
            "test": "def check(f):\n    assert f([1]) == 1\n",
            "stop": "mbpp",
        }
        for verb in VERBS
    ]


def written(directory, given):
    file = directory / "few.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in given))
    return file


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    return written(tmp_path_factory.mktemp("problems"), rows())


def evaluated(model, problems, out, **changes):
    """(samples.jsonl, completions.jsonl) of an evaluation, as bytes."""
    evaluate_model(str(model), None, str(out), problems_file=str(problems), **{**PLAN, **changes})
    return files(out)


def files(out):
    return tuple((out / name).read_bytes() for name in ("samples.jsonl", "completions.jsonl"))


@pytest.fixture(scope="module")
def expected(model, problems, tmp_path_factory):
    """Of all 32 slots of one device."""
    samples, completions = evaluated(model, problems, tmp_path_factory.mktemp("expected") / "out")
    texts = [json.loads(line)["completion"] for line in samples.splitlines()]
    assert len(texts) == 6 * len(VERBS)
    assert len(set(texts[len(VERBS) :])) == 5 * len(VERBS), "the draws do not differ, so they prove nothing"
    return samples, completions


def test_fewer_slots_write_the_same_bytes(model, problems, expected, tmp_path):
    with fewer_slots(1):
        assert evaluated(model, problems, tmp_path / "out") == expected


ON_DEVICES = """
import json, sys
sys.path[:0] = ["tests", "."]
from pathlib import Path
from test_samples_deterministic import evaluated, fewer_slots
import jax
assert jax.local_device_count() == 8
model, problems, out = sys.argv[1:]
with fewer_slots(3):
    evaluated(model, problems, Path(out))
"""


def test_eight_devices_write_the_same_bytes(model, problems, expected, tmp_path):
    """In a process of its own, which compiles for itself: what a machine with other devices would do."""
    done = python("-c", ON_DEVICES, model, problems, tmp_path / "out", env=devices(8))
    assert done.returncode == 0, done.stderr[-3000:]
    assert files(tmp_path / "out") == expected


def test_the_order_of_the_requests_changes_nothing(model, problems, expected):
    plan = Plan(**PLAN)
    backend = open_backend("jax", model, plan)
    requests = requests_of(load_problems(None, str(problems))[1], plan, "stripped")
    raw = [json.loads(line)["raw"] for line in expected[1].splitlines()]
    numbers = list(range(len(requests)))
    random.Random(0).shuffle(numbers)
    made = {numbers[i]: c.text for i, c in backend.complete([requests[n] for n in numbers], "")}
    assert made == dict(enumerate(raw))


def test_the_order_of_the_problems_changes_no_completion(model, problems, expected, tmp_path):
    shuffled = rows()
    random.Random(2).shuffle(shuffled)
    _, completions = evaluated(model, written(tmp_path, shuffled), tmp_path / "out")
    before, after = (
        {(r["task_id"], r["decoding"], r["sample"]): r for r in map(json.loads, lines.splitlines())}
        for lines in (expected[1], completions)
    )
    assert list(after) != list(before)
    assert after == before


def test_an_evaluation_that_lost_parts_comes_out_the_same(model, problems, tmp_path, monkeypatch):
    """As after a kill, with whichever parts are left, and in fewer slots than before."""
    monkeypatch.setattr(completion, "PART", 4)
    plan, parts = Plan(**PLAN), tmp_path / "parts"
    requests = requests_of(load_problems(None, str(problems))[1], plan, "stripped")
    whole = complete(requests, open_backend("jax", model, plan), parts, "whole")
    written_parts = sorted(parts.iterdir())
    assert len(written_parts) == -(-6 * len(VERBS) // 4)
    rng = random.Random(3)
    for part in rng.sample(written_parts, 6):
        part.unlink()
    left = {part: part.read_bytes() for part in parts.iterdir()}
    with fewer_slots(5):
        resumed = complete(requests, open_backend("jax", model, plan), parts, "on")
    assert resumed == whole
    assert {part: part.read_bytes() for part in left} == left, "a part that was there has been written over"
