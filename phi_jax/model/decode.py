"""Decoding on one device: weights laid out for it, the caches of slots, and the two programs that fill them.

A device has G groups of N slots. The slots of a group complete the same prompt, whose keys and values they share; each
has a cache of its own for what it decodes. Letters as in phi.py, and: G groups, N slots of a group, P positions of a
prompt's bucket, C positions of a slot's own cache. Attention over a shared prompt is a product of matrices instead of N
products of a matrix and a vector, as in Hydragen (Juravsky et al. 2024).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from phi_jax.model import phi
from phi_jax.model.sampling import Array, Chance, choose

SEGMENT = 16  # tokens decoded between two looks at the stop strings

Weights = dict[str, Any]
# Keys and values of a layer: of the prompts [G, H, K, P] and [G, H, P, K], of the slots [G, N, H, K, C] and
# [G, N, H, C, K]. The axis that a product keeps is last: up to five times as fast on a CPU as the other order.
LayerCache = dict[str, jax.Array]


class State(NamedTuple):
    """What the slots of a device hold between two programs; donated to each."""

    prompts: tuple[LayerCache, ...]
    own: tuple[LayerCache, ...]
    first_logits_GxV: jax.Array  # float32, of the token after each group's prompt
    logits_GxNxV: jax.Array  # float32, of the token that each slot decodes next


class Slots(NamedTuple):
    """What the slots are to do in a segment; all [G, N] but the first."""

    lengths_G: Array  # int32, tokens of each group's prompt
    fresh: Array  # bool: begins its completion
    offsets: Array  # int32, tokens decoded before this segment
    seeds: Array  # uint32; with the next two, what keys the draws
    prompts: Array  # int32
    samples: Array  # int32
    chance: Chance


class Admission(NamedTuple):
    """A prompt for one group; every array has the length 1 along its first axis, which devices are cut along."""

    tokens_1xP: Array  # int32; what stands behind `length` is padding, which no token of the prompt sees
    length_1: Array  # int32
    group_1: Array  # int32, of the device's groups
    wanted_1: Array  # bool; false: nothing is admitted, and the state stays as it is


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


def weight_axes(config: phi.PhiConfig) -> Weights:
    """The tree of `weights_of` as tuples of logical axis names; the width is whole, though training cuts it."""
    matrix = {
        "qkv": {"kernel": ("whole", "heads", "head_dim", "whole"), "bias": ("whole", "heads", "head_dim")},
        "out": {"kernel": ("whole", "heads", "head_dim"), "bias": ("whole",)},
        "fc1": {"kernel": ("mlp", "whole"), "bias": ("mlp",)},
        "fc2": {"kernel": ("whole", "mlp"), "bias": ("whole",)},
    }
    norm = {"scale": ("whole",), "bias": ("whole",)}
    return {
        "embed": ("whole", "whole"),
        "layers": [{"norm": norm, **matrix} for _ in range(config.num_layers)],
        "final_norm": norm,
        "head": {"kernel": ("vocab", "whole"), "bias": ("vocab",)},
    }


def empty_state(config: phi.PhiConfig, groups: int, slots: int, prompt_length: int, own_length: int) -> State:
    """Slots that hold nothing yet: `groups` of `slots` each."""
    heads, width = config.num_heads, config.head_dim

    def cache(length: int, *rows: int) -> tuple[LayerCache, ...]:
        shapes = {"k": (*rows, heads, width, length), "v": (*rows, heads, length, width)}
        return tuple(
            {name: jnp.zeros(shape, config.dtype) for name, shape in shapes.items()} for _ in range(config.num_layers)
        )

    return State(
        prompts=cache(prompt_length, groups),
        own=cache(own_length, groups, slots),
        first_logits_GxV=jnp.zeros((groups, config.vocab_size), jnp.float32),
        logits_GxNxV=jnp.zeros((groups, slots, config.vocab_size), jnp.float32),
    )


def admit(weights: Weights, state: State, prompt: Admission, config: phi.PhiConfig) -> State:
    """Reads a prompt into the caches of one group."""
    tokens_P, length, group, wanted = (x[0] for x in prompt)
    positions_P = jnp.arange(len(tokens_P))
    mask_PxP = positions_P[:, None] >= positions_P
    prompts: list[LayerCache] = []

    def attend(layer: int, q_PxHxK: jax.Array, k_PxHxK: jax.Array, v_PxHxK: jax.Array) -> jax.Array:
        prompts.append({"k": k_PxHxK.transpose(1, 2, 0), "v": v_PxHxK.swapaxes(0, 1)})
        logits_HxPxP = jnp.einsum("qhk,shk->hqs", _scaled(q_PxHxK), k_PxHxK, preferred_element_type=jnp.float32)
        shares_HxPxP = jax.nn.softmax(jnp.where(mask_PxP, logits_HxPxP, _NEVER), axis=-1)
        return jnp.einsum("hqs,shk->qhk", shares_HxPxP.astype(config.dtype), v_PxHxK)

    hidden_PxD = _hidden(weights, tokens_P, positions_P, attend, config)
    logits_V = _logits(weights, hidden_PxD[length - 1][None])[0]

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(old, jnp.where(wanted, new, old[group]), group, axis=0)

    return state._replace(
        prompts=jax.tree.map(put, state.prompts, tuple(prompts)),
        first_logits_GxV=put(state.first_logits_GxV, logits_V),
    )


def decode_segment(
    weights: Weights, state: State, slots: Slots, config: phi.PhiConfig, method: str
) -> tuple[jax.Array, State]:
    """(SEGMENT tokens of each slot, [G, N, SEGMENT] int32; the state after them). method: see sampling.Decoding."""
    groups, count, _ = state.logits_GxNxV.shape
    lengths_R = jnp.repeat(slots.lengths_G, count)
    keys_R = row_keys(*(x.reshape(-1) for x in (slots.seeds, slots.prompts, slots.samples)))
    chance = jax.tree.map(lambda x: x.reshape(-1), slots.chance)
    before_GxP = jnp.arange(state.prompts[0]["v"].shape[2]) < slots.lengths_G[:, None]
    logits_GxNxV = jnp.where(slots.fresh[..., None], state.first_logits_GxV[:, None], state.logits_GxNxV)

    def decode(
        carry: tuple[jax.Array, tuple[LayerCache, ...]], step: jax.Array
    ) -> tuple[tuple[jax.Array, tuple[LayerCache, ...]], jax.Array]:
        logits_RxV, own = carry
        offsets_GxN = jnp.asarray(slots.offsets) + step
        positions_R = lengths_R + offsets_GxN.reshape(-1)
        token_R = choose(logits_RxV, keys_R, positions_R, chance, method)
        written: list[LayerCache] = []

        def attend(layer: int, q_RxHxK: jax.Array, k_RxHxK: jax.Array, v_RxHxK: jax.Array) -> jax.Array:
            q, k, v = (x.reshape(groups, count, *x.shape[1:]) for x in (q_RxHxK, k_RxHxK, v_RxHxK))
            written.append(_appended(own[layer], k, v, offsets_GxN))
            heads_GxNxHxK = _attend(_scaled(q), state.prompts[layer], written[layer], before_GxP, offsets_GxN)
            return heads_GxNxHxK.reshape(q_RxHxK.shape).astype(config.dtype)

        logits_RxV = _logits(weights, _hidden(weights, token_R, positions_R, attend, config))
        return (logits_RxV, tuple(written)), token_R

    start = (logits_GxNxV.reshape(groups * count, -1), state.own)
    (logits_RxV, own), tokens_SxR = jax.lax.scan(decode, start, jnp.arange(SEGMENT))
    tokens_GxNxS = tokens_SxR.T.reshape(groups, count, SEGMENT)
    return tokens_GxNxS, state._replace(own=own, logits_GxNxV=logits_RxV.reshape(logits_GxNxV.shape))


def row_keys(seeds_R: Array, prompts_R: Array, samples_R: Array) -> jax.Array:
    """A key for each row, of its seed and its prompt's and sample's numbers alone."""

    def of_row(seed: Array, prompt: Array, sample: Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), prompt), sample)

    return jax.vmap(of_row)(seeds_R, prompts_R, samples_R)


# --- The parts --------------------------------------------------------------------------------------------------------

_NEVER = jnp.finfo(jnp.float32).min  # the logit of a position that is not seen


def _hidden(
    weights: Weights,
    tokens_R: jax.Array,
    positions_R: jax.Array,
    attend: Callable[[int, jax.Array, jax.Array, jax.Array], jax.Array],
    config: phi.PhiConfig,
) -> jax.Array:
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


def _product(spec: str, kernel: jax.Array, x: jax.Array, **options: Any) -> jax.Array:
    """einsum(spec, kernel, x), whose rows come last, with its rows first.

    The kernel is the left factor: on a CPU few rows take up to half of the time that they take as left factor (notes).
    The barrier keeps XLA from exchanging the two.
    """
    return jnp.moveaxis(jax.lax.optimization_barrier(jnp.einsum(spec, kernel, x, **options)), -1, 0)


def _dense(weights: Weights, x_RxI: jax.Array) -> jax.Array:
    return _product("oi,ri->or", weights["kernel"], x_RxI) + weights["bias"]


def _logits(weights: Weights, hidden_RxD: jax.Array) -> jax.Array:
    """[R, V] float32."""
    head = weights["head"]
    return _product("vd,rd->vr", head["kernel"], hidden_RxD, preferred_element_type=jnp.float32) + head["bias"]


def _scaled(q: jax.Array) -> jax.Array:
    return q * q.shape[-1] ** -0.5


def _appended(cache: LayerCache, k_GxNxHxK: jax.Array, v_GxNxHxK: jax.Array, offsets_GxN: jax.Array) -> LayerCache:
    """The slots' own caches with new keys and values at each slot's place."""
    groups, slots = jnp.indices(offsets_GxN.shape)
    k, v = cache["k"].at[groups, slots, :, :, offsets_GxN], cache["v"].at[groups, slots, :, offsets_GxN]
    return {
        "k": k.set(k_GxNxHxK, mode="drop", unique_indices=True),
        "v": v.set(v_GxNxHxK, mode="drop", unique_indices=True),
    }


def _attend(
    q_GxNxHxK: jax.Array, prompt: LayerCache, own: LayerCache, before_GxP: jax.Array, offsets_GxN: jax.Array
) -> jax.Array:
    """Heads [G, N, H, K] float32 of queries that see their group's prompt and what their slot has decoded."""
    einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    dtype = own["v"].dtype
    seen_GxNxC = jnp.arange(own["v"].shape[3]) <= offsets_GxN[..., None]
    q_GxHxNxK = q_GxNxHxK.swapaxes(1, 2)
    prompt_logits_GxHxNxP = einsum("ghnk,ghkp->ghnp", q_GxHxNxK, prompt["k"])
    prompt_logits_GxHxNxP = jnp.where(before_GxP[:, None, None], prompt_logits_GxHxNxP, _NEVER)
    own_logits_GxNxHxC = einsum("gnhk,gnhkc->gnhc", q_GxNxHxK, own["k"])
    own_logits_GxNxHxC = jnp.where(seen_GxNxC[:, :, None], own_logits_GxNxHxC, _NEVER)
    peak_GxNxH = jnp.maximum(prompt_logits_GxHxNxP.max(-1).swapaxes(1, 2), own_logits_GxNxHxC.max(-1))
    prompt_weights_GxHxNxP = jnp.exp(prompt_logits_GxHxNxP - peak_GxNxH.swapaxes(1, 2)[..., None])
    own_weights_GxNxHxC = jnp.exp(own_logits_GxNxHxC - peak_GxNxH[..., None])
    total_GxNxH = prompt_weights_GxHxNxP.sum(-1).swapaxes(1, 2) + own_weights_GxNxHxC.sum(-1)
    of_prompt_GxHxNxK = einsum("ghnp,ghpk->ghnk", prompt_weights_GxHxNxP.astype(dtype), prompt["v"])
    of_own_GxNxHxK = einsum("gnhc,gnhck->gnhk", own_weights_GxNxHxC.astype(dtype), own["v"])
    return (of_prompt_GxHxNxK.swapaxes(1, 2) + of_own_GxNxHxK) / total_GxNxH[..., None]
