"""Decoding on one device: weights laid out for it, the caches of its slots, and the two programs that fill them.

A slot completes one prompt at a time, whose keys and values it holds in front of those of what it decodes. Letters as
in phi.py, and: R slots of a device, P positions of a prompt's bucket, C positions of a slot's cache.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from phi_jax.model import phi
from phi_jax.model.sampling import AnyArray, Draws, choose

SEGMENT = 16  # tokens decoded between two looks at the stop strings

Weights = dict[str, Any]
# Keys [R, H, K, C] and values [R, H, C, K] of a layer. The axis that a product keeps is last: up to five times as fast
# on a CPU as the other order.
Cache = dict[str, Array]
Caches = list[Cache]
Carry = tuple[Array, Array, Caches]


class Slots(NamedTuple):
    """Where the slots of a device stand, all [R]."""

    tokens: AnyArray  # int32; the last token of the prompt, or the one that was decoded last
    positions: AnyArray  # int32; its place
    draws: Draws  # of what comes behind it


class Prompt(NamedTuple):
    """A prompt for slots of a device."""

    tokens_1xP: AnyArray  # int32; what stands behind the prompt is padding, which no token of the prompt sees
    is_for_R: AnyArray  # bool; which slots are to complete it


def weights_of(params: phi.Params, config: phi.PhiConfig) -> Weights:
    """The parameters in the compute dtype, each layer's apart and each matrix [out, in].

    Nothing is left to be cast, cut out of a stack or transposed at each token: on a CPU the rows of a small batch meet
    such a matrix up to four times as fast (tests/benchmarks/NOTES.md).
    """

    def matrix(linear: phi.Params, *axes: int) -> Weights:
        return {
            "kernel": linear["kernel"].transpose(axes).astype(config.dtype),
            "bias": linear["bias"].astype(config.dtype),
        }

    def layer(number: int) -> Weights:
        stacked = jax.tree.map(lambda x: x[number], params["layers"])
        heads, mlp = stacked["attention"], stacked["mlp"]
        qkv = [matrix(heads[name], 1, 2, 0) for name in "qkv"]
        return {
            "norm": stacked["norm"],
            "qkv": jax.tree.map(lambda *parts: jnp.stack(parts), *qkv),  # [3, H, K, D] and [3, H, K]
            "out": matrix(heads["out"], 2, 0, 1),  # [D, H, K]
            "fc1": matrix(mlp["fc1"], 1, 0),  # [F, D]
            "fc2": matrix(mlp["fc2"], 1, 0),  # [D, F]
        }

    return {
        "embed": params["embed"]["tokens"].astype(config.dtype),
        "layers": [layer(number) for number in range(config.num_layers)],
        "final_norm": params["final_norm"],
        "head": {**matrix(params["head"], 1, 0), "bias": params["head"]["bias"]},  # [V, D]
    }


def empty_caches(config: phi.PhiConfig, slots: int, length: int) -> Caches:
    """Of slots that hold nothing yet, C = length."""
    heads, width = config.num_heads, config.head_dim
    shapes = {"k": (slots, heads, width, length), "v": (slots, heads, length, width)}
    return [{name: jnp.zeros(shape, config.dtype) for name, shape in shapes.items()} for _ in range(config.num_layers)]


def admit(weights: Weights, caches: Caches, prompt: Prompt, config: phi.PhiConfig) -> Caches:
    """Reads a prompt into the caches of some slots."""
    tokens_P = jnp.asarray(prompt.tokens_1xP[0])
    positions_P = jnp.arange(len(tokens_P))
    read: Caches = []

    def attend(layer: int, q_PxHxK: Array, k_PxHxK: Array, v_PxHxK: Array) -> Array:
        read.append({"k": k_PxHxK.transpose(1, 2, 0), "v": v_PxHxK.swapaxes(0, 1)})
        return _attend("hkc,hck", q_PxHxK, read[layer], positions_P)

    def put(old: Array, new: Array) -> Array:
        padding = [(0, wide - narrow) for wide, narrow in zip(old.shape[1:], new.shape, strict=True)]
        return jnp.where(prompt.is_for_R[:, None, None, None], jnp.pad(new, padding), old)

    _hidden(weights, tokens_P, positions_P, attend, config)
    return jax.tree.map(put, caches, read)


def decode_segment(weights: Weights, caches: Caches, slots: Slots, config: phi.PhiConfig) -> tuple[Array, Caches]:
    """(the next SEGMENT tokens of each slot, int32 [R, SEGMENT]; the caches after them)."""

    def decode(carry: Carry, _: None) -> tuple[Carry, Array]:
        tokens_R, positions_R, caches = carry
        written: Caches = []

        def attend(layer: int, q_RxHxK: Array, k_RxHxK: Array, v_RxHxK: Array) -> Array:
            written.append(_appended(caches[layer], k_RxHxK, v_RxHxK, positions_R))
            return _attend("rhkc,rhck", q_RxHxK, written[layer], positions_R)

        logits_RxV = _logits(weights, _hidden(weights, tokens_R, positions_R, attend, config))
        positions_R = positions_R + 1
        tokens_R = choose(logits_RxV, positions_R, slots.draws)
        return (tokens_R, positions_R, written), tokens_R

    start = (jnp.asarray(slots.tokens), jnp.asarray(slots.positions), caches)
    (_, _, caches), tokens_SxR = jax.lax.scan(decode, start, length=SEGMENT)
    return tokens_SxR.T, caches


# --- The parts --------------------------------------------------------------------------------------------------------


def _hidden(
    weights: Weights,
    tokens_R: Array,
    positions_R: Array,
    attend: Callable[[int, Array, Array, Array], Array],
    config: phi.PhiConfig,
) -> Array:
    """Output of the final LayerNorm, [R, D], of rows that only `attend`(layer, q, k, v) lets see each other."""
    x_RxD = weights["embed"][tokens_R]
    cos_sin = phi.rotary(positions_R, config)
    for number, layer in enumerate(weights["layers"]):
        normed_RxD = phi.layer_norm(layer["norm"], x_RxD, config)
        qkv = _product("thkd,rd->thkr", layer["qkv"]["kernel"], normed_RxD) + layer["qkv"]["bias"]
        q_RxHxK, k_RxHxK = (phi.rotate(qkv[:, part], cos_sin, config) for part in (0, 1))
        heads_RxHxK = attend(number, q_RxHxK, k_RxHxK, qkv[:, 2])
        inner_RxF = jax.nn.gelu(_dense(layer["fc1"], normed_RxD), approximate=True)
        out_RxD = _product("dhk,rhk->dr", layer["out"]["kernel"], heads_RxHxK) + layer["out"]["bias"]
        x_RxD = x_RxD + out_RxD + _dense(layer["fc2"], inner_RxF)
    return phi.layer_norm(weights["final_norm"], x_RxD, config)


def _product(spec: str, kernel: Array, x: Array, **options: Any) -> Array:
    """einsum(spec, kernel, x), whose rows come last, with its rows first.

    The kernel is the left factor: on a CPU few rows take up to half of the time that they take there (NOTES.md).
    The barrier keeps XLA from exchanging the two.
    """
    return jnp.moveaxis(jax.lax.optimization_barrier(jnp.einsum(spec, kernel, x, **options)), -1, 0)


def _dense(weights: Weights, x_RxI: Array) -> Array:
    return _product("oi,ri->or", weights["kernel"], x_RxI) + weights["bias"]


def _logits(weights: Weights, hidden_RxD: Array) -> Array:
    """[R, V] float32."""
    head = weights["head"]
    return _product("vd,rd->vr", head["kernel"], hidden_RxD, preferred_element_type=jnp.float32) + head["bias"]


def _appended(cache: Cache, k_RxHxK: Array, v_RxHxK: Array, positions_R: Array) -> Cache:
    """A layer's cache with new keys and values at each slot's place."""
    slots = jnp.arange(len(k_RxHxK))
    k, v = cache["k"].at[slots, :, :, positions_R], cache["v"].at[slots, :, positions_R]
    return {"k": k.set(k_RxHxK, unique_indices=True), "v": v.set(v_RxHxK, unique_indices=True)}


def _attend(axes: str, q_RxHxK: Array, cache: Cache, positions_R: Array) -> Array:
    """Heads [R, H, K] of queries that see what the cache holds up to their positions.

    axes: of the cache's keys and values, "hkc,hck", with an "r" before each where every row has a cache of its own.
    """
    keys, values = axes.split(",")
    q_RxHxK = q_RxHxK * q_RxHxK.shape[-1] ** -0.5
    logits_RxHxC = jnp.einsum(f"rhk,{keys}->rhc", q_RxHxK, cache["k"], preferred_element_type=jnp.float32)
    is_seen_RxC = jnp.arange(logits_RxHxC.shape[-1]) <= positions_R[:, None]
    shares_RxHxC = jax.nn.softmax(jnp.where(is_seen_RxC[:, None], logits_RxHxC, -jnp.inf), axis=-1)
    return jnp.einsum(f"rhc,{values}->rhk", shares_RxHxC.astype(q_RxHxK.dtype), cache["v"])
