"""Batched completion on several devices: which request is decoded in which slot, and when a slot is refilled.

Each device of this process holds the whole weights and has slots of its own.

Shapes are static: a device has a fixed number of slots, whatever share of them is used, prompts are padded to the right
up to a power of two (their bucket), one prompt is read at a time, and tokens are decoded in segments of fixed length.
So there is one compilation a bucket, and a completion is the same, bit for bit, whatever stands beside it, in whichever
slot of whichever device it is decoded, and whenever. A draw is keyed by (seed, prompt, sample, position).
"""

import dataclasses
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from phi_jax.errors import UserError
from phi_jax.model import decode, phi
from phi_jax.model.decode import SEGMENT
from phi_jax.model.sampling import Decoding, Draws
from phi_jax.parallel import mesh as meshes

SMALLEST_BUCKET = 64  # tokens
_IDLE = -1  # index of the request of a slot that has none
# Of a slot's token and position, and of the fields of Draws.
_DTYPES = (np.int32, np.int32, np.uint32, np.int32, np.int32, np.float32, np.float32, np.int32)

Waiting = dict[tuple[int, ...], deque[int]]  # prompt -> indices of its requests
# Asked between segments with a request's index and the tokens decoded for it so far: whether it may end here.
Stopped = Callable[[int, list[int]], bool]


class Request(NamedTuple):
    """One completion to make. (prompt, sample) keys its draws, so it comes out the same in any company."""

    tokens: Sequence[int]
    prompt: int = 0  # a number of the prompt, 31 bits
    sample: int = 0  # number of the sample of that prompt
    decoding: Decoding = Decoding()


class Completion(NamedTuple):
    """What was decoded, without the end-of-text token."""

    tokens: list[int]
    stop_reason: str  # "end_of_text", "stop" (the caller's test held) or "length"


@functools.lru_cache(maxsize=16)
def programs(config: phi.PhiConfig, mesh: Mesh) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """decode.admit and decode.decode_segment of a model of this shape, compiled when they first meet one of arrays.

    Each device computes what it would alone. Both donate the caches.
    """
    rows, whole = PartitionSpec(meshes.BATCH_AXES), PartitionSpec()

    def program(function: Callable[..., Any]) -> Callable[..., Any]:
        apart = jax.shard_map(
            functools.partial(function, config=config), mesh=mesh, in_specs=(whole, rows, rows), out_specs=rows,
            check_vma=False,
        )  # fmt: skip
        return jax.jit(apart, donate_argnums=1, out_shardings=meshes.batch_sharding(mesh))

    return program(decode.admit), program(decode.decode_segment)


@dataclasses.dataclass
class _Slot:
    device: int
    prompt: tuple[int, ...] = ()  # which its cache holds
    index: int = _IDLE  # of the request that it completes
    decoded: list[int] = dataclasses.field(default_factory=list)


class Sampler:
    """Completes prompts with one model, in the slots of each device.

    params: as abstract_params(config) describes them. max_new_tokens: length of a completion at most; the
    end-of-text token is not counted. slots: completions that a device decodes at once; another number may change last
    bits. Raises UserError for a number of slots that leaves nothing to do.
    """

    def __init__(
        self,
        params: phi.Params,
        config: phi.PhiConfig,
        *,
        end_of_text_id: int,
        max_new_tokens: int,
        slots: int = 32,
    ) -> None:
        if slots < 1:
            raise UserError(f"slots={slots}: must be at least 1")
        self._config, self._end_of_text_id, self._max_new_tokens = config, end_of_text_id, max_new_tokens
        self._mesh = meshes.make_mesh((-1, 1, 1), jax.local_devices())
        self._devices, self._slots = self._mesh.size, slots
        self.programs = programs(config, self._mesh)
        everywhere = jax.device_put(params, meshes.replicated(self._mesh))
        self._weights = jax.jit(decode.weights_of, static_argnums=1)(everywhere, config)

    def complete(
        self, requests: Sequence[Request], stopped: Stopped = lambda index, tokens: False
    ) -> Iterator[tuple[int, Completion]]:
        """Yields (index of the request, its completion) as they end.

        stopped: true ends the completion early (what was decoded past the stop is the caller's to cut). Requests of
        different buckets are decoded one bucket after the other: hand over many at once. Raises ValueError, before
        anything is computed, for a prompt that is empty, that is too long for the model's context together with
        max_new_tokens, or that holds an id outside the vocabulary; UserError for logits that are not finite.
        """
        by_bucket: dict[int, Waiting] = {}
        for i, request in enumerate(requests):
            self._check(i, request.tokens)
            bucket = max(SMALLEST_BUCKET, 1 << (len(request.tokens) - 1).bit_length())  # a power of two that holds it
            prompts = by_bucket.setdefault(bucket, {})
            prompts.setdefault(tuple(request.tokens), deque()).append(i)
        for bucket, prompts in by_bucket.items():
            yield from self._complete_bucket(bucket, requests, prompts, stopped)

    def _check(self, index: int, tokens: Sequence[int]) -> None:
        longest = self._config.max_seq_len - self._max_new_tokens
        if not 0 < len(tokens) <= longest:
            raise ValueError(
                f"prompt {index}: {len(tokens)} tokens; beside {self._max_new_tokens} new ones "
                f"a context of {self._config.max_seq_len} has room for {longest}, and 1 is needed"
            )
        if not 0 <= min(tokens) <= max(tokens) < self._config.vocab_size:
            raise ValueError(
                f"prompt {index}: ids from {min(tokens)} to {max(tokens)}, "
                f"the vocabulary has 0 to {self._config.vocab_size - 1}; is it another model's tokenizer?"
            )

    def _complete_bucket(
        self, bucket: int, requests: Sequence[Request], waiting: Waiting, stopped: Stopped
    ) -> Iterator[tuple[int, Completion]]:
        """waiting: is emptied."""
        # Each device's first slot, then each one's second, ...
        slots = {d * self._slots + n: _Slot(d) for n in range(self._slots) for d in range(self._devices)}
        length = bucket + -(-self._max_new_tokens // SEGMENT) * SEGMENT
        empty = functools.partial(decode.empty_caches, self._config, self._devices * self._slots, length)
        caches = jax.jit(empty, out_shardings=meshes.batch_sharding(self._mesh))()
        admit, decode_segment = self.programs
        while True:
            for prompt in self._prompts(slots, waiting, bucket):
                caches = admit(self._weights, caches, prompt)
            busy = {number: slot for number, slot in slots.items() if slot.index != _IDLE}
            if not busy:
                return
            tokens, caches = decode_segment(self._weights, caches, self._rows(busy, requests))
            new = np.asarray(tokens)
            for number, slot in busy.items():
                if reason := self._extend(slot, new[number].tolist(), stopped):
                    yield slot.index, Completion(slot.decoded, reason)
                    slot.index = _IDLE

    def _prompts(self, slots: dict[int, _Slot], waiting: Waiting, bucket: int) -> Iterator[decode.Prompt]:
        """Gives free slots a request, and yields the prompts that they are to read for it, one a device at a time.

        A slot goes on with the prompt that it holds; else it takes the one of which most requests wait.
        """
        to_read: list[dict[tuple[int, ...], list[int]]] = [{} for _ in range(self._devices)]
        for number, slot in slots.items():
            if slot.index == _IDLE and waiting:
                if slot.prompt not in waiting:
                    slot.prompt = max(waiting, key=lambda prompt: len(waiting[prompt]))
                    to_read[slot.device].setdefault(slot.prompt, []).append(number)
                slot.index, slot.decoded = waiting[slot.prompt].popleft(), []
                if not waiting[slot.prompt]:
                    del waiting[slot.prompt]
        for turn in itertools.zip_longest(*(prompts.items() for prompts in to_read), fillvalue=((), [])):
            tokens = np.zeros((self._devices, bucket), np.int32)
            is_for = np.zeros(self._devices * self._slots, bool)
            for device, (prompt, numbers) in enumerate(turn):
                tokens[device, : len(prompt)] = prompt
                is_for[numbers] = True
            yield decode.Prompt(tokens, is_for)

    def _rows(self, busy: dict[int, _Slot], requests: Sequence[Request]) -> decode.Slots:
        """Where each slot stands, as arrays; those of slots that do nothing count for nothing."""
        rows: list[tuple[float, ...]] = [(0,) * len(_DTYPES)] * (self._devices * self._slots)
        for number, slot in busy.items():
            tokens, prompt, sample, how = requests[slot.index]
            rows[number] = (
                (slot.decoded or tokens)[-1], len(tokens) + len(slot.decoded) - 1, how.seed, prompt, sample,
                how.temperature, how.top_p, how.top_k,
            )  # fmt: skip
        token, position, *draws = map(np.array, zip(*rows, strict=True), _DTYPES)
        return decode.Slots(token, position, Draws(*draws))

    def _extend(self, slot: _Slot, new: list[int], stopped: Stopped) -> str:
        """Appends a segment; returns why the completion has ended, or an empty string."""
        for token in new[: self._max_new_tokens - len(slot.decoded)]:
            if token == self._end_of_text_id:
                return "end_of_text"
            if token < 0:
                raise UserError("the model's logits are not finite: its activations overflow; take other weights")
            slot.decoded.append(token)
        if stopped(slot.index, slot.decoded):
            return "stop"
        return "length" if len(slot.decoded) == self._max_new_tokens else ""
