"""The sampler beside transformers on few prompts and few draws; at full size: acceptance/test_sampler_peers.py."""

import dataclasses

import pytest
from random_model import export_random
from sampler_peers import END, GREEDY, SETTINGS, SMALL, draws_beside, greedy_beside

from phi_jax.evaluation.problems import load_problems
from phi_jax.tokens import tokenizer

pytestmark = pytest.mark.peers


def test_greedy_completions_of_benchmarks(transformers, shared_data, tmp_path):
    _, human_eval = load_problems("humaneval", str(shared_data / "eval" / "HumanEval.jsonl.gz"))
    _, mbpp = load_problems("mbpp", str(shared_data / "eval" / "mbpp.jsonl"))
    problems = human_eval[::14] + mbpp[::42]
    assert len(problems) == 24
    codec = tokenizer.train([p.prompt for p in human_eval + mbpp], 2000)
    config = dataclasses.replace(GREEDY, vocab_size=2048)
    model = export_random(tmp_path / "model", config, tokenizer=codec)
    print(greedy_beside(model, problems, max_new_tokens=40, samples_per_problem=0))


def test_draws_follow_transformers(transformers, tmp_path):
    model = export_random(tmp_path / "model", SMALL, end_of_text_id=END)
    chosen = ("temperature 0.8", "temperature 0.8, top_p 0.9", "temperature 0.8, top_k 5")
    draws_beside(model, {name: SETTINGS[name] for name in chosen}, 4000)
