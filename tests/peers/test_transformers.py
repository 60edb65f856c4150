"""Against transformers' PhiForCausalLM on torch, fp32: its weights in our model, ours in its, both ways compared.

`pytest tests/peers -s` prints the largest differences.
"""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from phi_jax.model import phi
from phi_jax.parallel.sampler import Request, Sampler
from phi_jax.tokens import tokenizer
from phi_jax.weights.activations import _TEXTS, activation_peaks, float16_overflow
from phi_jax.weights.architectures.phi_names import PHI
from phi_jax.weights.huggingface import export_model, load_directory

pytestmark = pytest.mark.peers

PHI_1 = {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "partial_rotary_factor": 0.5}
PHI_2 = {"hidden_size": 2560, "intermediate_size": 10240, "num_attention_heads": 32, "partial_rotary_factor": 0.4}


def reference_model(transformers, seed=0, **shape):
    """A PhiForCausalLM of random weights, biases and norms included: initial zeros and ones would hide errors."""
    import torch
    from transformers.initialization import no_init_weights

    torch.manual_seed(seed)
    config = transformers.PhiConfig(
        num_key_value_heads=None, max_position_embeddings=2048, bos_token_id=1, eos_token_id=1, **shape
    )
    with no_init_weights():  # drawing 300 M normal numbers would take longest of all
        model = transformers.PhiForCausalLM._from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            width = 0.02 * 3**0.5  # a uniform distribution's, for a standard deviation of 0.02
            parameter.uniform_(-width, width)
            if "norm" in name and name.endswith("weight"):
                parameter.mul_(5).add_(1.0)
    return model


@pytest.mark.parametrize(("name", "shape"), [("phi-1", PHI_1), ("phi-2", PHI_2)])
def test_logits_and_gradients_of_the_published_shapes(transformers, tmp_path, name, shape):
    """Two layers of the real widths. The directory is transformers' own: our export has no part in it."""
    import torch

    model = reference_model(transformers, vocab_size=51200, num_hidden_layers=2, **shape)
    tokens = np.random.default_rng(0).integers(0, 51200, (2, 32))
    model.save_pretrained(tmp_path)
    output = model(torch.tensor(tokens), labels=torch.tensor(tokens), use_cache=False)
    output.loss.backward()
    expected = output.logits.detach().numpy()
    expected_loss = float(output.loss.detach())
    expected_grads = {n: p.grad.numpy() for n, p in model.named_parameters()}
    del model, output

    params, config = load_directory(tmp_path)
    assert (config.num_heads, config.head_dim) == (32, shape["hidden_size"] // 32)
    assert config.rotary_dim == 32
    params = jax.tree.map(jnp.asarray, params)

    def loss_and_logits(params):
        logits = phi.forward(params, tokens.astype(np.int32), config)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], axis=-1)
        return -picked.mean(), logits

    (loss, logits), grads = jax.jit(jax.value_and_grad(loss_and_logits, has_aux=True))(params)
    grads = jax.tree.map(np.asarray, grads)  # numpy compares them faster than a program that is not optimised
    logit_error = float(np.abs(np.asarray(logits) - expected).max())
    assert logit_error < 1e-4
    assert abs(float(loss) - expected_loss) < 1e-5

    worst, worst_relative, seen = 0.0, 0.0, set()
    for tensor, (ours,) in PHI.parts(flatten_dict(grads, sep="/"), config).items():
        theirs = expected_grads[tensor]
        error, size = float(np.abs(ours - theirs).max()), float(np.abs(theirs).max())
        assert size > 0, tensor
        assert error < 1e-3, tensor
        assert error < 1e-3 * size, f"{tensor}: {error} of {size}"
        worst, worst_relative = max(worst, error), max(worst_relative, error / size)
        seen.add(tensor)
    assert seen == set(expected_grads)
    print(
        f"\n{name} widths: logits {logit_error:.2e} of {np.abs(expected).max():.2f}, "
        f"gradients {worst:.2e} absolute, {worst_relative:.2e} of a tensor's largest, {len(seen)} tensors"
    )
    del params, grads, expected_grads
    gc.collect()


# --- Our export in transformers ------------------------------------------------------------------------------

SMALL = phi.PhiConfig(
    vocab_size=640,
    hidden_size=96,
    intermediate_size=384,
    num_layers=3,
    num_heads=4,
    head_dim=24,
    rotary_dim=12,
    max_seq_len=256,
)
END = 600  # the vocabulary goes on after it, as phi-1's padded one does
NEW = 64  # tokens


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(our parameters, directory), with weights wide enough that greedy decoding does not fall into a loop at once."""
    leaves, tree = jax.tree.flatten(phi.abstract_params(SMALL))
    rng = np.random.default_rng(0)
    params = tree.unflatten([(0.12 * rng.standard_normal(x.shape)).astype(np.float32) for x in leaves])
    for norm in (params["layers"]["norm"], params["final_norm"]):
        norm["scale"] += 1.0
    directory = tmp_path_factory.mktemp("export") / "model"
    export_model(params, SMALL, directory, tokenizer_directory=None, end_of_text_id=END)
    return params, directory


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(1)
    lengths = np.concatenate([[1, 2, 63, 64, 65, 128, 192], rng.integers(3, 190, 43)])
    return [rng.integers(0, END, n).tolist() for n in lengths]


@pytest.fixture(scope="module")
def theirs(transformers, exported):
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model loses more to handing work over than it gains
    model, report = transformers.AutoModelForCausalLM.from_pretrained(exported[1], output_loading_info=True)
    assert not any(report.values()), report  # nothing missing, unexpected, mismatched
    assert type(model).__name__ == "PhiForCausalLM"
    assert (model.config.bos_token_id, model.config.eos_token_id) == (END, END)
    assert model.generation_config.eos_token_id == END
    yield model.float().eval()
    torch.set_num_threads(threads)


def test_our_export_gives_the_same_logits(theirs, exported, prompts):
    import torch

    forward = jax.jit(phi.forward, static_argnames="config")
    worst = largest = 0.0
    for prompt in prompts:
        padded = np.zeros((1, SMALL.max_seq_len), np.int32)  # one compilation; what is behind changes nothing before
        padded[0, : len(prompt)] = prompt
        ours = np.asarray(forward(exported[0], padded, config=SMALL))[0, : len(prompt)]
        with torch.no_grad():
            reference = theirs(torch.tensor([prompt])).logits[0].numpy()
        worst, largest = max(worst, float(np.abs(ours - reference).max())), max(largest, np.abs(reference).max())
    print(f"\n{len(prompts)} prompts: logits {worst:.2e} of {largest:.2f}")
    assert len(prompts) == 50
    assert worst < 1e-4


def test_our_export_decodes_the_same_tokens(theirs, exported, prompts):
    """64 greedy tokens a prompt; where one differs, the reference must have been undecided, and it is listed."""
    import torch

    sampler = Sampler(
        exported[0], SMALL,
        end_of_text_id=END, max_new_tokens=NEW, slots=16,
    )  # fmt: skip
    completions = dict(sampler.complete([Request(p, i) for i, p in enumerate(prompts)]))
    undecided, distinct, ended = [], set(), 0
    for number, prompt in enumerate(prompts):
        completion = completions[number]
        with torch.no_grad():
            output = theirs.generate(
                torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False, pad_token_id=END,
                output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        reference = output.sequences[0, len(prompt) :].tolist()
        ours = completion.tokens + [END] * (completion.stop_reason == "end_of_text")
        ended += completion.stop_reason == "end_of_text"
        distinct.add(tuple(reference))
        if ours != reference:
            place = next(i for i in range(NEW) if ours[i : i + 1] != reference[i : i + 1])
            top = torch.topk(output.logits[place][0], 2).values
            undecided.append((number, place, float(top[0] - top[1])))
            assert undecided[-1][2] < 1e-4, f"prompt {number} differs at token {place}, gap {undecided[-1][2]}"
    tokens = len({token for completion in distinct for token in completion})
    print(
        f"\n50 prompts, {tokens} different tokens, {ended} ended early; differences (prompt, place, gap): {undecided}"
    )
    assert len(distinct) > 40, "the prompts do not matter"
    assert tokens > 100, "the loops of a random model prove little"
    assert len(undecided) <= 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_exports_load_in_their_dtype(transformers, exported, tmp_path, dtype):
    import torch

    export_model(
        exported[0],
        SMALL,
        tmp_path / "m",
        tokenizer_directory=None,
        end_of_text_id=END,
        dtype=dtype,
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert model.dtype == getattr(torch, dtype)
    expected = PHI.parts(flatten_dict(load_directory(tmp_path / "m")[0], sep="/"), SMALL)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.float().numpy(), expected[name][0], err_msg=name)


@pytest.mark.parametrize(
    ("constants", "reaches"),
    [
        ({}, ""),
        ({"layers/attention/q/bias": 60, "layers/attention/k/bias": 40}, ""),  # 57,600 and what comes to it
        ({"layers/attention/q/bias": 340, "layers/attention/k/bias": 340}, "queries times keys 2.8e+06"),
        ({"layers/mlp/fc2/bias": 30000}, "residual 9e+04"),
        ({"layers/attention/out/bias": 4e4, "layers/mlp/fc2/bias": 4e4}, "residual 2.4e+05, attention and MLP 8e+04"),
        ({"head/bias": 65000, "final_norm/scale": 1000}, "logits"),
    ],
)
def test_what_is_said_to_overflow_float16_does(transformers, tokens640, tmp_path, constants, reaches):
    """In eager attention; and what passes does not."""
    import torch

    rng = np.random.default_rng(0)
    leaves = flatten_dict(phi.abstract_params(SMALL), sep="/")
    for path, leaf in leaves.items():
        leaves[path] = (0.05 * rng.standard_normal(leaf.shape) + path.endswith("scale")).astype(np.float32)
        leaves[path][...] = constants.get(path, leaves[path])
    export_model(
        leaves.items(), SMALL, tmp_path / "m",
        tokenizer_directory=tokens640[0], end_of_text_id=END, dtype="float16",
    )  # fmt: skip
    said = float16_overflow(activation_peaks(tmp_path / "m"))
    assert said.startswith(reaches)
    assert bool(said) == bool(reaches)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", dtype=torch.float16, attn_implementation="eager"
    )
    with torch.no_grad():
        logits = [model(torch.tensor([tokens640[1].encode(text)[:64]])).logits for text in _TEXTS]
    assert all(bool(x.isfinite().all()) for x in logits) == (not reaches)


@pytest.fixture(scope="module")
def tokens640(tmp_path_factory):
    """(directory, tokenizer)."""
    trained = tokenizer.train(["def f(x):\n    return [i * i for i in range(x)]\n" * 20], SMALL.vocab_size)
    trained.save(directory := tmp_path_factory.mktemp("tokenizer"), max_length=SMALL.max_seq_len)
    return directory, trained


def test_the_tokenizer_comes_along(transformers, exported, tmp_path):
    text = "def f(x):\n    return [i * i for i in range(x)]\n\n\nclass A:\n\tdef g(self):\n\t\treturn 'é'\n"
    trained = tokenizer.train([text * 20], 320)
    trained.save(tmp_path / "tokenizer", max_length=SMALL.max_seq_len)
    export_model(
        exported[0], SMALL, tmp_path / "m",
        tokenizer_directory=tmp_path / "tokenizer", end_of_text_id=trained.end_of_text_id,
    )  # fmt: skip
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    assert loaded(text)["input_ids"] == trained.encode(text)
    assert loaded.decode(trained.encode(text)) == text
    assert loaded.eos_token_id == trained.end_of_text_id
    assert loaded.model_max_length == SMALL.max_seq_len
