"""Batched completion: which request is decoded in which slot, and when a slot is refilled.

Shapes are static: a device has a fixed number of slots, whatever share of them is live, prompts are padded to the right
up to a power of two (their bucket), one prompt is read at a time, and tokens are decoded in segments of fixed length.
So there is one compilation a bucket, and a completion is the same, bit for bit, whatever stands beside it, in whichever
slot of whichever device it is decoded, and whenever. A draw is keyed by (seed, problem, sample, position).
"""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from phi_jax.errors import UserError
from phi_jax.model import decode, phi
from phi_jax.model.decode import SEGMENT
from phi_jax.model.sampling import METHODS, Chance, Decoding

SMALLEST_BUCKET = 64  # tokens

# Asked between segments with a request and the tokens decoded for it so far: whether it may end here.
Stopped = Callable[["Request", list[int]], bool]


class Request(NamedTuple):
    """One completion to make. (key, sample) keys its draws, so it comes out the same in any company."""

    tokens: Sequence[int]
    prompt: int = 0  # number of the prompt
    sample: int = 0  # number of the sample of that prompt
    decoding: int = 0  # which of the sampler's decodings
    key: int | None = None  # of the prompt, 31 bits, where its number may be another in another run; None: the number


class Completion(NamedTuple):
    """What was decoded, without the end-of-text token."""

    tokens: list[int]
    stop_reason: str  # "end_of_text", "stop" (the caller's test held) or "length"


class Devices:
    """The device that jax takes if nothing is said. parallel/sampler_mesh.py has devices of a mesh."""

    count = 1  # devices that have slots of their own

    def weights(self, params: phi.Params, config: phi.PhiConfig) -> decode.Weights:
        """`decode.weights_of` the parameters, where the programs want them."""
        return _weights(params, config)

    def empty(self, make: Callable[[int], decode.State]) -> decode.State:
        """`make(count)`, every array cut along its first axis over the devices."""
        return make(1)

    def program(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function(weights, state, what)` jitted for each device's part of state and what; the state is donated."""
        return jax.jit(function, donate_argnums=1)


_weights = jax.jit(decode.weights_of, static_argnums=1)
ONE_DEVICE = Devices()


class SlotPlan(NamedTuple):
    """How many completions a device decodes at once. Only `total` and `samples_per_prompt` shape the programs, and so
    may change last bits.
    """

    total: int  # slots of each device
    live: int | None = None  # so many of these are used; all if None
    samples_per_prompt: int = 1  # requests of a prompt that come together, about: decides how many slots share it


class Programs(NamedTuple):
    """What runs on the devices. A model of another `method` or on other devices has its own."""

    admit: Callable[[decode.Weights, decode.State, decode.Admission], decode.State]
    decode_segment: Callable[[decode.Weights, decode.State, decode.Slots], tuple[jax.Array, decode.State]]


@functools.lru_cache(maxsize=16)
def programs(config: phi.PhiConfig, method: str, devices: Devices) -> Programs:
    """The two programs, compiled when they first meet a shape."""
    return Programs(
        devices.program(functools.partial(decode.admit, config=config)),
        devices.program(functools.partial(decode.decode_segment, config=config, method=method)),
    )


class Sampler:
    """Completes prompts with one model, in the slots of each device.

    params: as abstract_params(config) describes them. max_new_tokens: length of a completion at most; the
    end-of-text token is not counted. slots: a plan, or the number of slots of each device. Raises UserError for sizes
    that leave nothing to do.
    """

    def __init__(
        self,
        params: phi.Params,
        config: phi.PhiConfig,
        *,
        end_of_text_id: int,
        max_new_tokens: int,
        decodings: Sequence[Decoding] = (Decoding(),),
        slots: SlotPlan | int = 32,
        devices: Devices = ONE_DEVICE,
    ) -> None:
        if isinstance(slots, int):
            slots = SlotPlan(slots)
        self._live_slots = slots.total if slots.live is None else slots.live
        if slots.total < 1:
            raise UserError(f"slots={slots.total}: must be at least 1")
        if not 0 < self._live_slots <= slots.total:
            raise UserError(f"live slots={slots.live}: must be from 1 to slots={slots.total}")
        if not 0 < max_new_tokens < config.max_seq_len:
            raise UserError(
                f"max_new_tokens={max_new_tokens}: must be from 1 to {config.max_seq_len - 1}, so that a prompt fits "
                f"the model's context of {config.max_seq_len} beside them"
            )
        self._config, self._end_of_text_id, self._max_new_tokens = config, end_of_text_id, max_new_tokens
        self._decodings, self._devices = tuple(decodings), devices
        self._shared = slots_of_a_prompt(slots.total, slots.samples_per_prompt)
        self._groups = slots.total // self._shared
        method = max((d.method for d in self._decodings), key=METHODS.index)
        self.programs = programs(config, method, devices)
        self.load(params)

    def load(self, params: phi.Params) -> None:
        """Takes other weights of the same shape."""
        self.weights = self._devices.weights(params, self._config)

    def complete(
        self, requests: Sequence[Request], stopped: Stopped = lambda request, tokens: False
    ) -> Iterator[tuple[int, Completion]]:
        """Yields (index of the request, its completion) as they end.

        stopped: true ends the completion early (what was decoded past the stop is the caller's to cut). Requests of
        different buckets are decoded one bucket after the other: hand over many at once. Raises ValueError, before
        anything is computed, for a prompt that is empty, that is too long for the model's context together with
        max_new_tokens, or that holds an id outside the vocabulary.
        """
        for request in requests:
            self._check(request)
        by_bucket: dict[int, list[int]] = {}
        for i, request in enumerate(requests):
            by_bucket.setdefault(_bucket(len(request.tokens)), []).append(i)
        for bucket, indices in by_bucket.items():
            yield from self._complete_bucket(bucket, requests, indices, stopped)

    def _check(self, request: Request) -> None:
        longest = self._config.max_seq_len - self._max_new_tokens
        if not 0 < len(request.tokens) <= longest:
            raise ValueError(
                f"prompt {request.prompt}: {len(request.tokens)} tokens; with {self._max_new_tokens} new ones "
                f"a context of {self._config.max_seq_len} takes 1 to {longest}"
            )
        if not 0 <= min(request.tokens) <= max(request.tokens) < self._config.vocab_size:
            raise ValueError(
                f"prompt {request.prompt}: ids from {min(request.tokens)} to {max(request.tokens)}, "
                f"the vocabulary has 0 to {self._config.vocab_size - 1}; is it another model's tokenizer?"
            )

    def _complete_bucket(
        self, bucket: int, requests: Sequence[Request], indices: Sequence[int], stopped: Stopped
    ) -> Iterator[tuple[int, Completion]]:
        groups = self._empty_groups()
        state = self._empty_state(bucket)
        queue = _Queue(requests, indices)
        while True:
            for admission in self._admissions(groups, queue, bucket):
                state = self.programs.admit(self.weights, state, admission)
            busy = [slot for group in groups for slot in group.fill(requests)]
            if not busy:
                return
            tokens, state = self.programs.decode_segment(self.weights, state, self._slots(groups))
            new = np.asarray(tokens)
            for slot in busy:
                reason = self._extend(slot, new[slot.group, slot.number].tolist(), stopped)
                if reason:
                    yield slot.index, Completion(slot.decoded, reason)
                    slot.request = None

    def _empty_groups(self) -> list[_Group]:
        """Every device's groups, with their live slots."""
        live = [min(self._shared, max(0, self._live_slots - g * self._shared)) for g in range(self._groups)]
        return [_Group(number, count) for number, count in enumerate(live * self._devices.count)]

    def _empty_state(self, bucket: int) -> decode.State:
        own_length = -(-self._max_new_tokens // SEGMENT) * SEGMENT
        return self._devices.empty(
            lambda devices: decode.empty_state(self._config, devices * self._groups, self._shared, bucket, own_length)
        )

    def _admissions(self, groups: Sequence[_Group], queue: _Queue, bucket: int) -> Iterator[decode.Admission]:
        """Prompts for the groups that have nothing more to do, one a device at a time."""
        waiting = deque(group for group in groups if group.is_idle)
        while waiting:
            tokens = np.full((self._devices.count, bucket), self._end_of_text_id % self._config.vocab_size, np.int32)
            lengths, numbers = np.ones((2, self._devices.count), np.int32)
            wanted = np.zeros(self._devices.count, bool)
            for group in list(waiting):
                device, number = divmod(group.number, self._groups)
                if wanted[device]:
                    continue
                waiting.remove(group)
                if not queue.give(group, groups):
                    continue
                tokens[device, : len(group.prompt)] = group.prompt
                lengths[device], numbers[device], wanted[device] = len(group.prompt), number, True
            if wanted.any():
                yield decode.Admission(tokens, lengths, numbers, wanted)

    def _slots(self, groups: Sequence[_Group]) -> decode.Slots:
        """What each slot does in the next segment, as arrays."""
        shape = (len(groups), self._shared)
        fresh, offsets = np.zeros(shape, bool), np.zeros(shape, np.int32)
        seeds, prompts, samples = (np.zeros(shape, dtype) for dtype in (np.uint32, np.int32, np.int32))
        chance = Chance(*(np.zeros(shape, dtype) for dtype in (np.float32, np.float32, np.int32)))
        for slot in (slot for group in groups for slot in group.slots):
            request, place = slot.request, (slot.group, slot.number)
            if request is None:
                continue
            fresh[place], offsets[place] = not slot.decoded, len(slot.decoded)
            decoding = self._decodings[request.decoding]
            seeds[place], prompts[place], samples[place] = decoding.seed, _key(request), request.sample
            for values, value in zip(chance, (decoding.temperature, decoding.top_p, decoding.top_k), strict=True):
                values[place] = value
        lengths = np.array([len(group.prompt) for group in groups], np.int32)
        return decode.Slots(lengths, fresh, offsets, seeds, prompts, samples, chance)

    def _extend(self, slot: _Slot, new: list[int], stopped: Stopped) -> str:
        """Appends a segment; returns why the completion has ended, or an empty string."""
        assert slot.request is not None
        for token in new:
            if token == self._end_of_text_id:
                return "end_of_text"
            slot.decoded.append(token)
            if len(slot.decoded) == self._max_new_tokens:
                return "stop" if stopped(slot.request, slot.decoded) else "length"
        return "stop" if stopped(slot.request, slot.decoded) else ""


@dataclasses.dataclass
class _Slot:
    group: int
    number: int
    request: Request | None = None
    index: int = 0  # of the request
    decoded: list[int] = dataclasses.field(default_factory=list)


class _Group:
    """Slots that complete one prompt, and its requests that wait for one of them."""

    def __init__(self, number: int, live: int) -> None:
        self.number = number
        self.slots = [_Slot(number, n) for n in range(live)]
        self.prompt: Sequence[int] = ()
        self.waiting: deque[int] = deque()

    @property
    def is_idle(self) -> bool:
        return bool(self.slots) and not self.waiting and all(slot.request is None for slot in self.slots)

    def fill(self, requests: Sequence[Request]) -> list[_Slot]:
        """Gives free slots what waits; the slots that have something to do."""
        for slot in self.slots:
            if slot.request is None and self.waiting:
                slot.index = self.waiting.popleft()
                slot.request, slot.decoded = requests[slot.index], []
        return [slot for slot in self.slots if slot.request is not None]


class _Queue:
    """Prompts that no group has yet, each with its requests."""

    def __init__(self, requests: Sequence[Request], indices: Sequence[int]) -> None:
        by_prompt: dict[tuple[int, ...], deque[int]] = {}
        for i in indices:
            by_prompt.setdefault(tuple(requests[i].tokens), deque()).append(i)
        self._prompts = deque(by_prompt.items())

    def give(self, group: _Group, groups: Sequence[_Group]) -> bool:
        """A prompt for an idle group: the next one, else half of what waits in the group where most does."""
        if self._prompts:
            group.prompt, group.waiting = self._prompts.popleft()
            return True
        fullest = max(groups, key=lambda g: len(g.waiting))
        if len(fullest.waiting) <= len(fullest.slots):
            return False  # reading the prompt once more would cost more than it gains
        group.prompt = fullest.prompt
        group.waiting = deque(fullest.waiting.pop() for _ in range(len(fullest.waiting) // 2))
        return True


def slots_of_a_prompt(slots: int, samples_per_prompt: int) -> int:
    """How many of the slots share a prompt's cache: the largest power of two that divides `slots` and whose square is
    at most samples_per_prompt. More would read the cache more seldom, and stand idle longer for a prompt's last sample.
    """
    shared = 1
    while slots % (2 * shared) == 0 and (2 * shared) ** 2 <= samples_per_prompt:
        shared *= 2
    return shared


def _key(request: Request) -> int:
    return request.prompt if request.key is None else request.key


def _bucket(length: int) -> int:
    """The smallest power of two, from SMALLEST_BUCKET on, that holds `length` tokens."""
    return max(SMALLEST_BUCKET, 1 << (length - 1).bit_length())
