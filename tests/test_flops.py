"""FLOPs and parameters from the shape alone, beside a count of what jax really multiplies; chips by name."""

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params
from running import ROOT

from phi_jax import config
from phi_jax.model import phi
from phi_jax.model.flops import num_params, training_flops_per_token
from phi_jax.parallel.chips import CHIPS, chip_named, chip_of
from phi_jax.training.rules import model_shape


def matmul_flops(jaxpr):
    """2 x the multiply-adds of every dot_general in a jaxpr, a loop's body times its turns."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            summed = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += 2 * equation.outvars[0].aval.size * int(jnp.prod(jnp.array(summed)))
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in jaxprs_in_params(equation.params):
            total += turns * matmul_flops(inner)
    return total


@pytest.mark.parametrize(
    ("layers", "width", "heads", "mlp", "vocab", "length"), [(1, 16, 2, 24, 40, 8), (3, 24, 1, 96, 50, 12)]
)
def test_flops_are_those_of_the_matmuls_that_jax_traces(layers, width, heads, mlp, vocab, length):
    shape = phi.PhiConfig(
        vocab_size=vocab, hidden_size=width, intermediate_size=mlp, num_layers=layers,
        num_heads=heads, head_dim=8, rotary_dim=4, max_seq_len=length,
    )  # fmt: skip
    tokens = jax.ShapeDtypeStruct((2, length), jnp.int32)
    traced = jax.make_jaxpr(jax.value_and_grad(lambda p, t: phi.forward(p, t, shape).sum()))(
        phi.abstract_params(shape), tokens
    )
    assert matmul_flops(traced.jaxpr) == 2 * length * training_flops_per_token(shape)
    half_of_attention = 3 * 2 * layers * length * heads * 8
    assert training_flops_per_token(shape, causal=True) == training_flops_per_token(shape) - half_of_attention


@pytest.mark.parametrize(("name", "parameters"), [("phi_1", 1_418_270_720), ("phi_1_small", 356_794_368)])
def test_the_papers_models_have_their_parameters(name, parameters):
    shape = model_shape(config.load(["--config", f"{ROOT}/configs/{name}.py"]))
    assert num_params(shape) == parameters


def test_the_papers_speed_is_the_mfu_that_it_should_be():
    """770 A100-hours for 51B tokens: 54 % of the peak; 57 % if the embedding lookup counts as a matmul."""
    shape = model_shape(config.load(["--config", f"{ROOT}/configs/phi_1.py"]))
    tokens_per_second, peak = 51e9 / (770 * 3600), chip_named("A100-80GB").peak_flops
    flops = training_flops_per_token(shape)
    assert tokens_per_second * flops / peak == pytest.approx(0.536, abs=0.001)
    embedding = 6 * shape.vocab_size * shape.hidden_size
    assert tokens_per_second * (flops + embedding) / peak == pytest.approx(0.57, abs=0.005)
    # llm-foundry's 1.3B, whose head is its embedding: 20,513 tokens/s are published as 59.9 %.
    assert 20_513 * flops / peak == pytest.approx(0.599, abs=0.005)


def test_chips_are_known_by_the_name_jax_gives_them():
    assert chip_of("NVIDIA H100 80GB HBM3").name == "H100"
    assert chip_of("NVIDIA H100 PCIe").peak_flops < chip_of("NVIDIA H100 80GB HBM3").peak_flops
    assert chip_of("TPU v5 lite").name == "v5e"
    assert chip_of("TPU v5").name == "v5p"
    kinds = [kind for chip in CHIPS for kind in chip.device_kinds]
    assert len(kinds) == len(set(kinds))


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA GeForce RTX 4090", "", "H100", "nvidia h100 pcie"])
def test_an_unknown_chip_has_no_peak(kind):
    assert chip_of(kind) is None
