"""The export of a run beside transformers on torch CPU, float32: logits, greedy completions, token ids."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest

from phi_jax.model import phi
from phi_jax.parallel.sampler import Request, Sampler
from phi_jax.store import documents
from phi_jax.weights.models import load_model

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def export(micro_run, tmp_path_factory):
    return shutil.copytree(micro_run / "export/base/model", tmp_path_factory.mktemp("export") / "model")


@pytest.fixture(scope="module")
def texts(micro_run):
    return [row["text"] for row in documents.read(micro_run / "collect/python/documents")]


@pytest.fixture(scope="module")
def model(transformers, export):
    """In transformers; on one thread, since so small a model loses more to handing work over than it gains."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield transformers.AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32).eval()
    torch.set_num_threads(threads)


def test_the_export_of_a_run_gives_equal_logits_on_50_prompts(model, export, texts):
    import torch

    params, config, tokenizer = load_model(export)
    forward = jax.jit(functools.partial(phi.forward, config=config))
    rng = np.random.default_rng(0)
    worst = 0.0
    for text in texts[:50]:
        ids = tokenizer.encode(text)[: int(rng.integers(1, config.max_seq_len + 1))]
        theirs = model(torch.tensor([ids])).logits.detach().numpy()
        padded = np.zeros((1, config.max_seq_len), np.int32)  # one compilation; what is behind changes nothing before
        padded[0, : len(ids)] = ids
        ours = np.asarray(forward(params, padded))[:, : len(ids)]
        worst = max(worst, float(np.abs(theirs - ours).max()))
    print(f"50 prompts: logits differ by at most {worst:.2e}")
    assert worst < 1e-4


def test_greedy_completions_are_equal_or_part_at_a_tie(model, export, texts):
    import torch

    params, config, tokenizer = load_model(export)
    rng = np.random.default_rng(1)
    prompts = [tokenizer.encode(t)[: int(rng.integers(1, 65))] for t in texts[:50]]
    sampler = Sampler(params, config, end_of_text_id=tokenizer.end_of_text_id, max_new_tokens=60, slots=16)
    ties = []
    completions = dict(sampler.complete([Request(p, i) for i, p in enumerate(prompts)]))
    for number, prompt in enumerate(prompts):
        ours = completions[number]
        theirs = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
            max_new_tokens=60, pad_token_id=0,
        )[0, len(prompt):].tolist()  # fmt: skip
        if theirs and theirs[-1] == tokenizer.end_of_text_id:
            theirs.pop()
        if theirs == ours.tokens:
            continue
        split = next(i for i, (a, b) in enumerate(zip([*theirs, -1], [*ours.tokens, -1], strict=False)) if a != b)
        logits = model(torch.tensor([prompt + theirs[:split]])).logits[0, -1]
        top = torch.topk(logits, 2).values
        ties.append((split, float(top[0] - top[1])))
        assert ties[-1][1] < 1e-4, f"differs at token {split}, where the top two logits are {ties[-1][1]} apart"
    print(f"greedy: {50 - len(ties)} of 50 identical, ties {ties}")


def test_token_ids_are_equal_on_1000_documents(transformers, export, texts, tmp_path):
    theirs = transformers.AutoTokenizer.from_pretrained(export)
    _, _, tokenizer = load_model(export)
    pieces = [line for text in texts for line in (text[i : i + 2000] for i in range(0, len(text), 2000))][:1000]
    pieces += ["\t\t\tx", " " * 40 + "y", "\n" * 5, "é漢字 \x00", "a" + " " * 31 + "b" + "\t" * 12]
    assert len(pieces) >= 1000
    assert sum(theirs(p)["input_ids"] == tokenizer.encode(p) for p in pieces) == len(pieces)
    assert theirs.eos_token_id == tokenizer.end_of_text_id
    assert json.loads((export / "generation_config.json").read_text())["eos_token_id"] == tokenizer.end_of_text_id
