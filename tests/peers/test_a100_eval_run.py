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

from phi_jax.evaluation.completion import Completer, Plan
from phi_jax.evaluation.execution import execute
from phi_jax.evaluation.problems import load_problems
from phi_jax.model import phi
from phi_jax.model.sampler import Request, Sampler
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
def backend(transformers, monkeypatch):
    """The module backend_transformers, on one thread: so small a model loses by handing work over."""
    import torch

    monkeypatch.syspath_prepend(str(ROOT / "launch" / "a100_eval"))
    import backend_transformers

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield backend_transformers
    torch.set_num_threads(threads)


def launch(model, problems, out, *more):
    """README's command with other places, on the CPU."""
    (line,) = re.findall("^launch/a100_eval/run .*", (ROOT / "README.md").read_text(), re.M)
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
    _, benchmark = load_problems(str(problems))
    completer = Completer(bigram_export, Plan(max_new_tokens=NEW, samples_per_problem=0, slots=12))
    samples, _ = completer.complete(benchmark, tmp_path / "parts", "evaluate", prompt_form="stripped")
    ours = execute(benchmark, samples, form="stripped", sandbox="full", workers=2, wall_seconds=10)
    theirs = lines(tmp_path / "out/completions.jsonl")
    fields = ("task_id", "completion", "raw", "stop_reason", "tokens", "decoding", "sample")
    assert [[r[k] for k in fields] for r in theirs] == [[r[k] for k in fields] for r in ours]
    assert {BODY} < {r["completion"] for r in theirs}
    results = lines(tmp_path / "out/scored/samples.jsonl_results.jsonl")
    assert [r["passed"] for r in results] == [r["passed"] for r in ours]
    passed = sum(r["passed"] for r in ours)
    assert 0 < passed < sum(r["completion"] == BODY for r in theirs) < len(ours)
    assert f"pass@1 {passed / len(ours):.3f} [" in done.stdout
    print(f"\n{done.stderr.splitlines()[0]}\n{done.stdout}")


# --- One batch -------------------------------------------------------------------------------------------------


def completer(backend, model, *, temperature=0.0, top_p=0.9, dtype="float32"):
    from complete import Decoding as Choice

    end = tokenizer.Tokenizer.load(model).end_of_text_id
    return backend.Completer(model, dtype, "cpu", Choice(temperature, top_p, NEW, end), 160)


def asked(count=12):
    from complete import Request as Ask

    trained = trained_tokenizer()
    return [Ask(f"t/{n}", 0, p, trained.encode(p), 1000 + n, "dedent") for n, p in enumerate(PROMPTS[:count])]


def never(request, tokens):
    return False


def kept(tokens, end):
    return list(itertools.takewhile(lambda token: token != end, tokens))


def test_a_random_model_writes_what_our_sampler_writes(backend, random_export):
    """Token for token; where one differs, the logits must have been undecided."""
    params, config, trained = load_model(random_export)
    requests = asked()
    sampler = Sampler(params, config, end_of_text_id=trained.end_of_text_id, max_new_tokens=NEW, slots=12)
    completions = dict(sampler.complete([Request(r.tokens, i) for i, r in enumerate(requests)]))
    ours = [completions[i].tokens for i in range(len(requests))]
    theirs = [kept(t, trained.end_of_text_id) for t in completer(backend, random_export).complete(requests, never)]
    assert len({tuple(t) for t in theirs}) == len(requests)
    for request, a, b in zip(requests, ours, theirs, strict=True):
        if a != b:
            place = next(i for i in range(NEW) if a[i : i + 1] != b[i : i + 1])
            top = np.sort(phi.forward(params, np.array([request.tokens + a[:place]]), config)[0, -1])[-2:]
            assert top[1] - top[0] < 1e-4, f"{request.task_id} differs at token {place}"


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_what_stands_beside_it_does_not_change_a_completion(backend, random_export, temperature):
    one = completer(backend, random_export, temperature=temperature)
    requests = asked(6)
    assert len({len(r.tokens) for r in requests}) > 4
    end = tokenizer.Tokenizer.load(random_export).end_of_text_id
    together = [kept(row, end) for row in one.complete(requests, never)]
    assert together == [kept(one.complete([r], never)[0], end) for r in requests]
    assert len({tuple(row) for row in together}) == len(requests)


def test_a_row_that_has_met_its_stop_is_padded_with_the_end(backend, random_export):
    one = completer(backend, random_export)
    requests = asked(3)
    whole = one.complete(requests, never)
    first = one.complete(requests, lambda request, tokens: request is requests[0])
    end = tokenizer.Tokenizer.load(random_export).end_of_text_id
    assert first[0] == whole[0][:16] + [end] * (NEW - 16)
    assert first[1:] == whole[1:]


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
    from phi_jax.errors import UserError

    params = random_params(CONFIG, 0.12)
    params["head"]["kernel"] *= 6e5  # finite in float32 and in the file, but its products are not in float16
    model = written(tmp_path / "model", params, CONFIG)
    assert completer(backend, model).complete(asked(1), never)
    with pytest.raises(UserError, match="not finite in float16; try another --dtype"):
        completer(backend, model, dtype="float16").complete(asked(1), never)


def test_a_missing_tensor_and_a_missing_gpu_are_errors(backend, random_export, tmp_path):
    import torch
    from safetensors.numpy import load_file, save_file

    from phi_jax.errors import UserError

    model = shutil.copytree(random_export, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    del tensors["model.layers.1.mlp.fc1.bias"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"tensor model.layers.1.mlp.fc1.bias is missing"):
        completer(backend, model)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"--device cuda: torch .* sees no GPU; start it on"):
            backend.surroundings("cuda")


def test_the_dtype_of_the_export_is_taken(backend, problems, tmp_path, monkeypatch, capsys):
    import complete

    model = written(tmp_path / "model", random_params(CONFIG, 0.12), CONFIG, "bfloat16")
    command = ["complete.py", "--model", model, "--problems", problems, "--out", tmp_path / "out", "--device", "cpu",
               "--max-new-tokens", NEW, "--temperature", 0.5, "--samples-per-problem", 2]  # fmt: skip
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    complete.main()
    assert ", bfloat16 (as exported), temperature 0.5, top_p 0.95, prompt stripped" in capsys.readouterr().err
    made = lines(tmp_path / "out/completions.jsonl")
    assert [(r["task_id"], r["sample"]) for r in made] == [(f"t/{n}", s) for n in range(12) for s in range(2)]
    assert len({r["raw"] for r in made}) > 18
