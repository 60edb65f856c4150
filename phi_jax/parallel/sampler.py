"""Batched completion over a mesh: which request is decoded in which slot, and when a slot is refilled.

Each part of the mesh along (data, fsdp), a device below, has slots of its own; weights are cut along tensor.

Shapes are static: a device has a fixed number of slots, whatever share of them is live, prompts are padded to the right
up to a power of two (their bucket), one prompt is read at a time, and tokens are decoded in segments of fixed length.
So there is one compilation a bucket, and a completion is the same, bit for bit, whatever stands beside it, in whichever
slot of whichever device it is decoded, and whenever. A draw is keyed by (seed, problem, sample, position).
"""

from __future__ import annotations

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
from phi_jax.model.sampling import METHODS, Chance, Decoding
from phi_jax.parallel import mesh as meshes

SMALLEST_BUCKET = 64  # tokens
# What a slot does in a segment: the fields of decode.Slots behind the first, then those of Chance.
_SLOT = np.dtype([
    ("fresh", bool), ("offset", np.int32), ("seed", np.uint32), ("prompt", np.int32), ("sample", np.int32),
    ("temperature", np.float32), ("top_p", np.float32), ("top_k", np.int32),
])  # fmt: skip

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


class SlotPlan(NamedTuple):
    """How many completions a device decodes at once. Only `total` and `samples_per_prompt` shape the programs, and so
    may change last bits.
    """

    total: int = 32  # slots of each device
    live: int | None = None  # so many of these are used; all if None
    samples_per_prompt: int = 1  # requests of a prompt that come together, about: decides how many slots share it


class Programs(NamedTuple):
    """What runs on the devices, compiled when it first meets a shape. Each donates the state."""

    admit: Callable[[decode.Weights, decode.State, decode.Admission], decode.State]
    decode_segment: Callable[[decode.Weights, decode.State, decode.Slots], tuple[jax.Array, decode.State]]


@functools.lru_cache(maxsize=16)
def programs(config: phi.PhiConfig, method: str, mesh: Mesh) -> Programs:
    """The programs of a model of this shape; each device computes what it would alone."""
    rows, whole = PartitionSpec(meshes.BATCH_AXES), PartitionSpec()

    def program(function: Callable[..., Any]) -> Callable[..., Any]:
        apart = jax.shard_map(
            function, mesh=mesh, in_specs=(whole, rows, rows), out_specs=rows, axis_names=set(meshes.BATCH_AXES),
            check_vma=False,
        )  # fmt: skip
        return jax.jit(apart, donate_argnums=1, out_shardings=meshes.batch_sharding(mesh))

    return Programs(
        program(functools.partial(decode.admit, config=config)),
        program(functools.partial(decode.decode_segment, config=config, method=method)),
    )


class Sampler:
    """Completes prompts with one model, in the slots of each device.

    params: as abstract_params(config) describes them. max_new_tokens: length of a completion at most; the
    end-of-text token is not counted. mesh: of this process's devices; None: all of them apart. While its tensor axis is
    1, it changes no bit. Raises UserError for sizes that leave nothing to do, or that tensor cuts into no equal parts.
    """

    def __init__(
        self,
        params: phi.Params,
        config: phi.PhiConfig,
        *,
        end_of_text_id: int,
        max_new_tokens: int,
        decodings: Sequence[Decoding] = (Decoding(),),
        slots: SlotPlan = SlotPlan(),  # noqa: B008 - a tuple
        mesh: Mesh | None = None,
    ) -> None:
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
        self._decodings = tuple(decodings)
        self._mesh = meshes.make_mesh((-1, 1, 1), jax.local_devices()) if mesh is None else mesh
        self._devices = meshes.batch_ways(self._mesh)
        self._shared = slots_of_a_prompt(slots.total, slots.samples_per_prompt)
        self._groups = slots.total // self._shared  # of each device
        self.programs = programs(config, max((d.method for d in self._decodings), key=METHODS.index), self._mesh)
        self._weights = _weights(params, config, self._mesh)

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
                state = self.programs.admit(self._weights, state, admission)
            busy = [slot for group in groups for slot in group.fill(requests)]
            if not busy:
                return
            tokens, state = self.programs.decode_segment(self._weights, state, self._slots(groups))
            new = np.asarray(tokens)
            for slot in busy:
                reason = self._extend(slot, new[slot.group, slot.number].tolist(), stopped)
                if reason:
                    yield slot.index, Completion(slot.decoded, reason)
                    slot.request = None

    def _empty_groups(self) -> list[_Group]:
        """Every device's groups, with their live slots."""
        live = [min(self._shared, max(0, self._live_slots - g * self._shared)) for g in range(self._groups)]
        return [_Group(number, count) for number, count in enumerate(live * self._devices)]

    def _empty_state(self, bucket: int) -> decode.State:
        groups, own_length = self._devices * self._groups, -(-self._max_new_tokens // SEGMENT) * SEGMENT
        empty = functools.partial(decode.empty_state, self._config, groups, self._shared, bucket, own_length)
        return jax.jit(empty, out_shardings=meshes.batch_sharding(self._mesh))()

    def _admissions(self, groups: Sequence[_Group], queue: _Queue, bucket: int) -> Iterator[decode.Admission]:
        """Prompts for the groups that have nothing more to do, one a device at a time."""
        given: list[list[_Group]] = [[] for _ in range(self._devices)]
        for group in sorted(groups, key=lambda group: group.number % self._groups):  # each device's first, then ...
            if group.is_idle and queue.give(group, groups):
                given[group.number // self._groups].append(group)
        for admitted in itertools.zip_longest(*given):
            tokens = np.full((self._devices, bucket), self._end_of_text_id % self._config.vocab_size, np.int32)
            lengths, numbers = np.ones((2, self._devices), np.int32)
            for device, group in enumerate(admitted):
                if group is not None:
                    tokens[device, : len(group.prompt)] = group.prompt
                    lengths[device], numbers[device] = len(group.prompt), group.number % self._groups
            yield decode.Admission(tokens, lengths, numbers, np.array([group is not None for group in admitted]))

    def _slots(self, groups: Sequence[_Group]) -> decode.Slots:
        """What each slot does in the next segment, as arrays."""
        slots = np.zeros((len(groups), self._shared), _SLOT)
        for slot in (slot for group in groups for slot in group.slots):
            if (request := slot.request) is not None:
                how = self._decodings[request.decoding]
                key = request.prompt if request.key is None else request.key
                slots[slot.group, slot.number] = (
                    not slot.decoded, len(slot.decoded), how.seed, key, request.sample,
                    how.temperature, how.top_p, how.top_k,
                )  # fmt: skip
        lengths = np.array([len(group.prompt) for group in groups], np.int32)
        fields = [slots[name] for name in _SLOT.names or ()]
        return decode.Slots._make([lengths, *fields[:5], Chance._make(fields[5:])])

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


def _weights(params: phi.Params, config: phi.PhiConfig, mesh: Mesh) -> decode.Weights:
    """`decode.weights_of` the parameters, whole along (data, fsdp), however the parameters lie."""
    meshes.check_tensor(mesh, config, "num_heads", "intermediate_size", "vocab_size")
    shardings = meshes.parameter_shardings(decode.weight_axes(config), mesh)
    return jax.jit(decode.weights_of, static_argnums=1, out_shardings=shardings)(params, config)


def _bucket(length: int) -> int:
    """The smallest power of two, from SMALLEST_BUCKET on, that holds `length` tokens."""
    return max(SMALLEST_BUCKET, 1 << (length - 1).bit_length())
