"""What a field of config.json means to us, it means to transformers: the same logits, or we refuse it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from config_fields import CASES, FIELDS
from published import CODEGEN, PHI, codegen_shapes, phi_shapes, random_tensors
from safetensors.numpy import save_file

from phi_jax.errors import UserError
from phi_jax.model import phi
from phi_jax.weights.huggingface import load_directory

pytestmark = pytest.mark.peers

TOKENS = np.random.default_rng(0).integers(0, 320, (1, 12)).astype(np.int32)
PUBLISHED = {"phi": (PHI, phi_shapes), "codegen": (CODEGEN, codegen_shapes)}


@pytest.mark.parametrize(("architecture", "name"), [("phi", "PhiConfig"), ("codegen", "CodeGenConfig")])
def test_no_field_is_left_out_of_the_table(transformers, architecture, name):
    known = {field for fields in FIELDS[architecture].values() for field in fields}
    theirs = getattr(transformers, name)
    assert {field.name for field in dataclasses.fields(theirs)} - known == set()
    assert set(theirs().to_dict()) | set(theirs.attribute_map) <= known | {"model_type"}


def theirs(transformers, directory):
    """Logits, or None where transformers does not load such a model whole."""
    import torch

    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        with torch.no_grad():
            logits = model.eval()(torch.tensor(TOKENS), use_cache=False, return_dict=True).logits.numpy()
    except Exception:
        return None
    return None if any(report.values()) else logits


def test_every_field_is_read_refused_or_without_effect(transformers, tmp_path):
    transformers.utils.logging.set_verbosity_error()
    forward, seen = jax.jit(phi.forward, static_argnames="config"), {}
    differ = []
    for architecture, (config, shapes) in PUBLISHED.items():
        save_file(
            {name: 0.2 * x for name, x in random_tensors(shapes(config), dtype=np.float32).items()},
            tmp_path / "model.safetensors", metadata={"format": "pt"},
        )  # fmt: skip
        usual = {**config, "bos_token_id": 1, "eos_token_id": 1}
        (tmp_path / "config.json").write_text(json.dumps(usual))
        before = theirs(transformers, tmp_path)
        for of, does, field, value in CASES:
            if of != architecture:
                continue
            (tmp_path / "config.json").write_text(json.dumps({**usual, field: value}))
            case = (of, field, value)
            try:
                params, shape = load_directory(tmp_path)
            except UserError:
                assert does != "passed over", case
                seen[does, "refused"] = seen.get((does, "refused"), 0) + 1
                continue
            ours = np.asarray(forward(params, TOKENS, config=shape))
            expected = theirs(transformers, tmp_path)
            outcome = "equal"
            if expected is None:  # e.g. an epsilon of 1, where it takes 1.0 alone; what we pass over must be the usual
                outcome, expected = "transformers fails", ours if does == "read" else before
            if not np.allclose(ours, expected, atol=2e-4):
                differ.append(case)
            seen[does, outcome] = seen.get((does, outcome), 0) + 1
    print(seen)
    assert differ == []
    assert seen["read", "equal"] > 30
    assert seen["refused", "refused"] > 60
