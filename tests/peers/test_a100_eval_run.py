"""`launch/a100_eval` with transformers on a CPU: the whole command, and its score beside that of `phi-jax evaluate`."""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from running import ROOT

from phi_jax.errors import UserError
from phi_jax.evaluation.commands import evaluate_model
from phi_jax.evaluation.completion import GREEDY, Plan, Request
from phi_jax.model import phi
from phi_jax.parallel import sampler
from phi_jax.tokens import tokenizer
from phi_jax.weights.huggingface import export_model
from phi_jax.weights.models import load_model

pytestmark = pytest.mark.peers

CONFIG = phi.PhiConfig(vocab_size=384, hidden_size=96, intermediate_size=192, num_layers=2, num_heads=4, head_dim=24,
                       rotary_dim=12, max_seq_len=160)  # fmt: skip
BIGRAM = phi.PhiConfig(vocab_size=384, hidden_size=384, intermediate_size=16, num_layers=1, num_heads=8, head_dim=48,
                       rotary_dim=24, max_seq_len=160)  # fmt: skip
BODY = "\n    return x + 2"
NEW = 24  # tokens
# The longest of these need not be the first, nor their lengths equal: a batch of them is padded.
PROMPTS = [
    f"def f{n}({'u, v, w, '[: n % 4 * 3]}x):\n" + f'    """{"Adds. " * (n % 5)}"""\n' * (n % 2) for n in range(12)
]


def problem(n, prompt):
    """One that x + 2 solves, or one that it does not."""
    names = prompt[: prompt.index(")")].count(",") + 1
    call = f"candidate({', '.join('5' * names)})"
    return {"task_id": f"t/{n}", "prompt": prompt, "entry_point": f"f{n}",
            "test": f"def check(candidate):\n    assert {call} == {7 if n % 3 else 8}\n"}  # fmt: skip


def random_params(config, scale):
    """Wide enough that greedy decoding is no loop at once; a norm's scale lies about 1."""
    leaves, tree = jax.tree.flatten(phi.abstract_params(config))
    rng = np.random.default_rng(0)
    params = tree.unflatten([(scale * rng.standard_normal(x.shape)).astype(np.float32) for x in leaves])
    for norm in (params["layers"]["norm"], params["final_norm"]):
        norm["scale"] += 1.0
    return params


def bigram_params(config, successors):
    """A model that knows which token follows which, and next to nothing else: what it writes can be chosen."""
    params = random_params(config, 0.001)
    params["embed"]["tokens"] += np.eye(config.vocab_size, dtype=np.float32)
    for before, after in successors.items():
        params["head"]["kernel"][before, after] += 1.0
    return params


def written(directory, params, config, dtype="float32"):
    """An export of such a model, with a tokenizer trained on the prompts."""
    trained = trained_tokenizer()
    trained.save(directory.parent / "tokenizer", max_length=config.max_seq_len)
    export_model(
        params, config, directory,
        tokenizer_directory=directory.parent / "tokenizer", end_of_text_id=trained.end_of_text_id, dtype=dtype,
    )  # fmt: skip
    return directory


def trained_tokenizer():
    return tokenizer.train([*PROMPTS, BODY * 5], 330)


@pytest.fixture(scope="module")
def random_export(tmp_path_factory):
    return written(tmp_path_factory.mktemp("random") / "model", random_params(CONFIG, 0.12), CONFIG)


@pytest.fixture(scope="module")
def bigram_export(tmp_path_factory):
    """It writes BODY behind the ends that prompts have, but for one of them."""
    trained = trained_tokenizer()
    ends = dict.fromkeys(trained.encode(prompt.rstrip("\n"))[-1] for prompt in PROMPTS)
    assert len(ends) > 1
    chain = [*trained.encode(BODY), trained.end_of_text_id]
    assert len({*ends, *chain}) == len(ends) + len(chain), "a token that comes twice would have two successors"
    successors = {**dict.fromkeys(list(ends)[:-1], chain[0]), **dict(itertools.pairwise(chain))}
    return written(tmp_path_factory.mktemp("bigram") / "model", bigram_params(BIGRAM, successors), BIGRAM)


@pytest.fixture
def backend(transformers):
    """The module hf_transformers, on one thread: so small a model loses by handing work over."""
    import torch

    from phi_jax.evaluation.backends import hf_transformers

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield hf_transformers
    torch.set_num_threads(threads)


def launch(model, problems, out, *more):
    """README's command with other places, on the CPU."""
    (line,) = re.findall("^launch/a100_eval/run .*", (ROOT / "phi_jax" / "README.md").read_text(), re.M)
    script, *options = shlex.split(line)
    places = {"--model": model, "--problems": problems, "--out": out}
    given = [word for name in options[::2] for word in (name, places[name])]
    return subprocess.run(
        [ROOT / script, *given, "--device", "cpu", "--max-new-tokens", str(NEW), *more],
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    path = tmp_path_factory.mktemp("problems") / "tiny.jsonl"
    path.write_text("".join(json.dumps(problem(n, prompt)) + "\n" for n, prompt in enumerate(PROMPTS)))
    return path


def test_the_whole_command_scores_as_evaluate_does(transformers, bigram_export, problems, tmp_path):
    done = launch(bigram_export, problems, tmp_path / "out", "--batch-size", "5")
    assert done.returncode == 0, done.stderr
    evaluate_model(
        str(bigram_export), None, str(tmp_path / "ours"),
        problems_file=str(problems), max_new_tokens=NEW, samples_per_problem=0, slots=12,
    )  # fmt: skip
    for name in ("samples.jsonl", "samples.jsonl_results.jsonl", "completions.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()
    rows = lines(tmp_path / "out/completions.jsonl")
    passed = sum(r["passed"] for r in rows)
    assert 0 < passed < sum(r["completion"] == BODY for r in rows) < len(rows)
    assert f"pass@1 {passed / len(rows):.3f} [" in done.stdout
    print(f"\n{done.stderr}\n{done.stdout}")


# --- One batch -------------------------------------------------------------------------------------------------


def opened(backend, model, *, temperature=0.5, dtype="float32"):
    plan = Plan(max_new_tokens=NEW, samples_per_problem=1, temperature=temperature, top_p=0.9)
    return backend.open_model(model, plan, dtype=dtype, device="cpu", batch_size=12)


class Ask(Request):
    """One that stops nowhere."""

    def has_stopped(self, text):
        return False


def asked(count=12, decoding=GREEDY, kind=Ask):
    return [kind(f"t/{n}", 0, decoding, p, "dedent") for n, p in enumerate(PROMPTS[:count])]


def made(backend, requests):
    """The new tokens of each request."""
    prompts = [backend.tokenizer.encode(r.shown) for r in requests]
    rows = dict(backend.decode(requests, prompts))
    return [kept(rows[i], backend.tokenizer.end_of_text_id) for i in range(len(requests))]


def kept(tokens, end):
    return list(itertools.takewhile(lambda token: token != end, tokens))


def test_a_random_model_writes_what_our_sampler_writes(backend, random_export):
    """Token for token; where one differs, the logits must have been undecided."""
    params, config, trained = load_model(random_export)
    requests = asked()
    prompts = [trained.encode(r.shown) for r in requests]
    one = sampler.Sampler(params, config, end_of_text_id=trained.end_of_text_id, max_new_tokens=NEW, slots=12)
    completions = dict(one.complete([sampler.Request(tokens, i) for i, tokens in enumerate(prompts)]))
    ours = [completions[i].tokens for i in range(len(requests))]
    theirs = made(opened(backend, random_export), requests)
    assert len({tuple(t) for t in theirs}) == len(requests)
    for request, tokens, a, b in zip(requests, prompts, ours, theirs, strict=True):
        if a != b:
            place = next(i for i in range(NEW) if a[i : i + 1] != b[i : i + 1])
            top = np.sort(phi.forward(params, np.array([tokens + a[:place]]), config)[0, -1])[-2:]
            assert top[1] - top[0] < 1e-4, f"{request.task_id} differs at token {place}"


def test_what_stands_beside_it_does_not_change_a_completion(backend, random_export):
    one = opened(backend, random_export, temperature=0.8)
    requests = [*asked(6), *asked(6, one.plan.drawn)]
    assert len({len(r.shown) for r in requests}) > 4
    together = made(one, requests)
    assert together == [made(one, [r])[0] for r in requests]
    assert len({tuple(row) for row in together}) == len(requests)


def test_a_row_that_has_met_its_stop_is_padded_with_the_end(backend, random_export):
    one = opened(backend, random_export)
    never = asked(3)
    whole = made(one, never)

    class Stopped(Ask):
        def has_stopped(self, text):
            return True

    first = made(one, [*asked(1, kind=Stopped), *never[1:]])
    assert first == [whole[0][:16], *whole[1:]]


def test_draws_follow_the_probabilities(backend, transformers):
    """Of 6 tokens, top_p 0.9 leaves four; 4,000 rows of other seeds draw them as often as they should."""
    import torch

    scores = torch.tensor([0.4, 0.25, 0.2, 0.1, 0.03, 0.02]).log().repeat(4000, 1) * 2
    for processor in (transformers.TemperatureLogitsWarper(2.0), transformers.TopPLogitsWarper(0.9)):
        scores = processor(None, scores)
    drawn = backend.Draw(range(4000), "cpu")(None, scores).argmax(-1)
    share = np.bincount(drawn, minlength=6) / 4000
    expected = np.array([0.4, 0.25, 0.2, 0.1, 0, 0]) / 0.95
    assert np.abs(share - expected).max() < 0.03  # four standard deviations
    assert share[4:].sum() == 0


def test_logits_that_are_no_numbers_are_an_error(backend, tmp_path):
    params = random_params(CONFIG, 0.12)
    params["head"]["kernel"] *= 6e5  # finite in float32 and in the file, but its products are not in float16
    model = written(tmp_path / "model", params, CONFIG)
    assert made(opened(backend, model), asked(1))
    with pytest.raises(UserError, match="not finite in this dtype; try another --dtype"):
        made(opened(backend, model, dtype="float16"), asked(1))


def test_a_missing_tensor_and_a_missing_gpu_are_errors(backend, random_export, tmp_path):
    import torch
    from safetensors.numpy import load_file, save_file

    model = shutil.copytree(random_export, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    del tensors["model.layers.1.mlp.fc1.bias"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"tensor model.layers.1.mlp.fc1.bias is missing"):
        opened(backend, model)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"--backend transformers: torch .* sees no GPU; start it on"):
            backend.open_model(random_export, Plan())


def test_the_dtype_of_the_export_is_taken(backend, problems, tmp_path):
    model = written(tmp_path / "model", random_params(CONFIG, 0.12), CONFIG, "bfloat16")
    evaluate_model(
        str(model), None, str(tmp_path / "out"), backend="transformers", problems_file=str(problems), device="cpu",
        max_new_tokens=NEW, temperature=0.5, samples_per_problem=2,
    )  # fmt: skip
    assert json.loads((tmp_path / "out/asked.json").read_text())["dtype"] == "bfloat16"
    rows = [r for r in lines(tmp_path / "out/completions.jsonl") if r["decoding"] != GREEDY]
    assert [(r["task_id"], r["sample"]) for r in rows] == [(f"t/{n}", s) for n in range(12) for s in range(2)]
    assert len({r["raw"] for r in rows}) > 18
