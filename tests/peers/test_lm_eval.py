"""tests/peers/lm_eval: the pass@1 that lm-eval gives is that of `phi-jax evaluate`."""

import itertools
import json
import os

import pytest
from conftest import require
from running import ROOT, phi_jax, python, server
from test_a100_eval_run import BIGRAM, BODY, PROMPTS, bigram_params, problem

from phi_jax.evaluation.problems import load_problems
from phi_jax.tokens import tokenizer
from phi_jax.weights.huggingface import export_model

pytestmark = pytest.mark.peers

WHOLE = "\nf=abs"  # what the model writes behind a docstring: all that MBPP's problems here ask for
MBPP = [
    {
        "task_id": 11 + n,
        "text": f"Write a function that gives {'the size of ' * (n % 3)}a number.",
        "code": "f = abs",
        "test_setup_code": "",
        "test_list": [f"assert f(-{n}) == {n + (n % 3 == 0)}"],
    }
    for n in range(7)
]


@pytest.fixture(scope="module")
def lm_eval(tmp_path_factory):
    """The environment for it."""
    require("torch", "transformers", "datasets", "accelerate", "peft", "lm_eval")
    home = str(tmp_path_factory.mktemp("home"))
    return {
        **os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": home, "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip


def exported(place, texts, prompts, body):
    """A model that writes `body` behind the ends that these prompts have, but for the last of several."""
    trained = tokenizer.train(texts, 330)
    ends = list(dict.fromkeys(trained.encode(prompt.rstrip("\n"))[-1] for prompt in prompts))
    chain = [*trained.encode(body), trained.end_of_text_id]
    assert len({*ends, *chain}) == len(ends) + len(chain), "a token that comes twice would have two successors"
    successors = {**dict.fromkeys(ends[:-1] or ends, chain[0]), **dict(itertools.pairwise(chain))}
    trained.save(place / "tokenizer", max_length=BIGRAM.max_seq_len)
    export_model(
        bigram_params(BIGRAM, successors), BIGRAM, place / "model",
        tokenizer_directory=place / "tokenizer", end_of_text_id=trained.end_of_text_id, dtype="float32",
    )  # fmt: skip
    return place / "model"


@pytest.mark.parametrize(
    ("benchmark", "rows", "body"),
    [("humaneval", [problem(n, prompt) for n, prompt in enumerate(PROMPTS)], BODY), ("mbpp", MBPP, WHOLE)],
)
def test_lm_eval_scores_as_evaluate_does(lm_eval, tmp_path, benchmark, rows, body):
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = [p.prompt for p in load_problems(benchmark, str(problems))[1]]
    export = exported(tmp_path, [*prompts, body * 5], prompts, body)
    phi_jax("evaluate", "--model", export, "--benchmark", benchmark, "--problems", problems, "--out", tmp_path / "ours",
            "--max-new-tokens", 24, "--samples-per-problem", 0)  # fmt: skip
    (ours,) = json.loads((tmp_path / "ours/scores.json").read_text())
    done = python(
        "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={export},dtype=float32",
        "--tasks", f"phi_jax_{benchmark}", "--include_path", ROOT / "tests/peers/lm_eval",
        "--metadata", json.dumps({"problems": str(problems)}), "--gen_kwargs", "max_gen_toks=24",
        "--device", "cpu", "--batch_size", "3", "--output_path", tmp_path / "theirs", "--log_samples",
        env=lm_eval, timeout=300, socket=server(("lm_eval.evaluator", "lm_eval.models.huggingface"), lm_eval),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (results,) = (tmp_path / "theirs").rglob("results_*.json")
    theirs = json.loads(results.read_text())["results"][f"phi_jax_{benchmark}"]
    assert theirs["pass@1,sandbox"] == pytest.approx(ours["value"])
    assert 0 < ours["value"] < 1
    # Not only as many: the same ones.
    (logged,) = (tmp_path / "theirs").rglob("samples_*.jsonl")
    passed = {s["doc"]["task_id"]: s["pass@1"] == 1 for s in map(json.loads, logged.read_text().splitlines())}
    records = [json.loads(line) for line in (tmp_path / "ours/completions.jsonl").read_text().splitlines()]
    assert passed == {r["task_id"]: r["passed"] for r in records}
    assert len({r["completion"] for r in records if r["passed"]}) == 1
    print(f"\n{benchmark}: pass@1 {theirs['pass@1,sandbox']:.3f} by lm-eval, {ours['value']:.3f} by phi-jax")
