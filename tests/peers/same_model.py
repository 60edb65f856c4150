"""One model in transformers and in ours: how far logits are apart, and where greedy decoding parts."""

import functools
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from running import python
from transformers4 import transformers_4_environment, transformers_server

from phi_jax.model import phi
from phi_jax.parallel.sampler import Request, Sampler
from phi_jax.weights.huggingface import load_directory

TIE = 1e-4  # of the two highest logits: less than what float32 leaves undecided between two implementations
VERSIONS = ("5", "4")


def transformers_model(version, *arguments):
    """Runs transformers_model.py under transformers 5 or 4."""
    environment = transformers_4_environment() if version == "4" else {**os.environ, "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("transformers_model.py")
    done = python(script, *arguments, env=environment, socket=transformers_server(environment))
    assert done.returncode == 0, done.stderr[-3000:]


def logit_difference(version, directory, tokens_BxT, scratch):
    """(largest difference, largest logit) of a directory's model, float32, transformers of a version beside ours."""
    np.save(scratch / "tokens.npy", tokens_BxT)
    transformers_model(version, "logits", directory, scratch / "tokens.npy", scratch / f"logits{version}.npy")
    theirs = np.load(scratch / f"logits{version}.npy")
    params, config = load_directory(directory)
    ours = np.asarray(jax.jit(functools.partial(phi.forward, config=config))(params, jnp.asarray(tokens_BxT)))
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max()), float(np.abs(theirs).max())


def greedy_differences(version, directory, prompts, count, scratch):
    """[(prompt, place, gap of the reference's two highest logits)] where `count` greedy tokens part; prints them.

    Fails where they part and the reference was decided, where the prompts make no difference, or where decoding
    shows only loops.
    """
    (scratch / "prompts.json").write_text(json.dumps(prompts))
    transformers_model(version, "greedy", directory, scratch / "prompts.json", count, scratch / "greedy.json")
    reference = json.loads((scratch / "greedy.json").read_text())
    assert reference["transformers"].startswith(version)
    params, config = load_directory(directory)
    never = config.vocab_size  # no token ends a text: random weights mean none
    sampler = Sampler(
        jax.tree.map(jnp.asarray, params), config,
        end_of_text_id=never, max_new_tokens=count, slots=16,
    )  # fmt: skip
    ours_by_prompt = dict(sampler.complete([Request(p, i) for i, p in enumerate(prompts)]))
    parted = []
    for number, (theirs, gaps) in enumerate(zip(reference["tokens"], reference["gaps"], strict=True)):
        ours = ours_by_prompt[number]
        assert len(theirs) == len(ours.tokens) == count
        if theirs != ours.tokens:
            place = next(i for i in range(count) if theirs[i] != ours.tokens[i])
            parted.append((number, place, gaps[place]))
            assert gaps[place] < TIE, f"prompt {number} parts at token {place}, gap {gaps[place]}"
    distinct = {tuple(t) for t in reference["tokens"]}
    tokens = {token for t in distinct for token in t}
    print(f"transformers {reference['transformers']}: {len(prompts)} prompts x {count} greedy tokens, "
          f"{len(tokens)} different tokens, parted at ties (prompt, place, gap): {parted}")  # fmt: skip
    assert len(distinct) > 0.8 * len(prompts), "the prompts do not matter"
    assert len(tokens) > min(100, 4 * len(prompts)), "the loops of a random model prove little"
    assert len(parted) <= max(1, len(prompts) // 20)
    return parted
