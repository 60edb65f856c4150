"""`phi_jax.load`, beside transformers and `phi-jax sample`."""

import re

import jax
import numpy as np
import pytest
from flax import nnx
from running import ROOT, python
from running import phi_jax as phi_jax_command

import phi_jax
from phi_jax.errors import UserError
from phi_jax.model.phi import forward

PROMPT = "def total(values):\n"


@pytest.fixture(scope="module")
def directory(micro_run):
    return micro_run / "export" / "finetuned" / "model"


def test_a_model_in_python(directory):
    model = phi_jax.load(directory)
    printed = phi_jax_command("sample", "--model", directory, "--prompt", PROMPT, "--max-new-tokens=9").stdout
    assert printed == PROMPT + model.complete(PROMPT, 9) + "\n"
    assert len({model.complete(PROMPT, 9, temperature=2.0, seed=seed) for seed in range(4)}) > 1

    tokens = model.tokenizer.encode(PROMPT)
    logits = model.logits(tokens)
    assert logits.shape == (len(tokens), model.config.vocab_size)
    assert model.tokenizer.decode([int(logits[-1].argmax())]) == model.complete(PROMPT, 1)

    one, two, none = model.embed([PROMPT, PROMPT * 3, ""], pooling="last")
    assert np.isnan(none).all()
    assert np.abs(one - two).max() > 0
    for wrong, told in (
        (lambda: model.complete(""), "prompt: empty"), (lambda: model.complete(PROMPT, 10**6), "max_new_tokens"),
        (lambda: model.complete(PROMPT, temperature=-1), "temperature"), (lambda: model.logits([]), "tokens"),
        (lambda: model.embed([PROMPT], pooling="max"), "pooling"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=told):
            wrong()


def test_its_module_is_changed_with_flax(directory):
    model = phi_jax.load(directory)
    module = model.module()
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, params, model.params)
    before = model.logits([1, 2])
    module.final_norm.scale[...] *= 2
    doubled = forward(nnx.to_pure_dict(nnx.state(module, nnx.Param)), np.array([[1, 2]]), model.config)
    assert np.abs(doubled[0] - before).max() > 0.1
    np.testing.assert_array_equal(model.logits([1, 2]), before)


@pytest.mark.parametrize("readme", ["README.md", "phi_jax/README.md"])
def test_the_example_of_a_readme_runs(directory, readme):
    (example,) = re.findall(r"^```python\n(.*?)^```", (ROOT / readme).read_text(), re.M | re.S)
    program = "import phi_jax\n" + example.replace("runs/nano/export/finetuned/model", str(directory))
    done = python("-c", program)
    assert done.returncode == 0, done.stderr
    assert "(2, " in done.stdout or re.search(r"nats a token\ncosine -?[01]\.\d{3}\n\d+ parameters", done.stdout)
