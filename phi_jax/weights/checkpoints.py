"""Checkpoints of a training run: Orbax, and a digest of everything that is saved.

A save holds three Orbax items: "params", "rest" (optimizer state, step) and "about", a JSON record with the
fingerprint of each leaf and a digest of the record itself. Every reader compares them: a damaged save is skipped with
a line, and the save before it is taken.
"""

import contextlib
import functools
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils.epath import Path, PathLike
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from phi_jax.errors import UserError, one_line
from phi_jax.parallel import processes
from phi_jax.store.artifact import Json, digest_of
from phi_jax.store.json_text import json_text

PyTree = Any
State = dict[str, PyTree]  # "params" and the rest
_LANES = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)  # first digits of pi
_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}  # bytes of an element -> the integer of its bits
_PARAMS = "['params']"  # begins the path of a parameter in a state
_CUT_OFF = ".orbax-checkpoint-tmp"  # in the name of a save that never became whole


# --- Digests -------------------------------------------------------------------------------------------------


def described(tree: PyTree) -> dict[str, str]:
    """Path of each leaf, e.g. "['params']['head']['bias']" -> its dtype and shape, e.g. "float32[96]"."""
    return {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in _leaves(tree)}


def fingerprints(tree: PyTree) -> dict[str, str]:
    """Path of each leaf -> its fingerprint: 128 bits, in hex.

    Four sums, modulo 2^32, over a hash of each element's bits and place. They are taken where the shards lie, and are
    the same however the array is cut, since sums of integers are exact. A change of one element always changes them;
    other damage escapes with a probability of about 2^-128. They do not protect against an adversary.
    Raises TypeError for elements of 8 bytes.
    """
    found = {}
    for path, leaf in _leaves(tree):
        if leaf.dtype.itemsize not in _WORDS:
            raise TypeError(f"{path}: jax would cut its elements of 8 bytes")
        # One leaf after the other: many programs at once, each with an exchange between devices, can block each other.
        found[path] = "".join(f"{int(lane):08x}" for lane in jax.device_get(_sums(leaf)))
    return found


def _leaves(tree: PyTree) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


@jax.jit
def _sums(leaf: Array) -> tuple[Array, ...]:
    """One pass and no copy: the four sums are one `reduce` of four operands, which XLA fuses with what makes them."""
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(leaf, _WORDS[leaf.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    hashed, lanes = bits ^ _mix(place), []
    for lane in _LANES:
        hashed = _mix(hashed ^ jnp.uint32(lane))
        lanes.append(hashed)

    zeros = (jnp.uint32(0),) * len(lanes)
    axes = tuple(range(leaf.ndim))
    return tuple(jax.lax.reduce(tuple(lanes), zeros, lambda a, b: tuple(map(jax.lax.add, a, b)), axes))


def _mix(x: Array) -> Array:
    """A bijection of 32 bits in which each bit depends on all (MurmurHash3's fmix32)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


# --- Saves ---------------------------------------------------------------------------------------------------


class _Damaged(Exception):
    """What is wrong with a save."""


class Checkpoints(contextlib.ExitStack):
    """The checkpoints in one directory. Saves run in the background; leaving the context waits for them.

    With several processes every one of them opens the directory, which they share, and makes the same calls.
    """

    def __init__(self, directory: PathLike, *, keep: int = 1, keep_every: int = 0, read_only: bool = False) -> None:
        """keep: how many of the latest steps stay. keep_every: steps that are multiples of it stay too (0: none)."""
        super().__init__()
        _silence_what_wait_raises()
        self._directory = Path(directory).resolve()
        for path in () if read_only else sorted(self._directory.glob(f"*{_CUT_OFF}*")):
            processes.note(f"warning: checkpoint {path}: its save was cut off; skipped")
        options = ocp.CheckpointManagerOptions(
            create=not read_only, read_only=read_only, max_to_keep=keep, keep_period=keep_every or None,
            lightweight_initialize=True,  # else one save's damaged metadata would keep all of them from being read
        )  # fmt: skip
        self._manager = ocp.CheckpointManager(self._directory, options=options)
        # At a preemption Orbax takes the time of the save before, which it has not read, from this one's, and fails.
        self._manager.reached_preemption = lambda _: False
        self.callback(self._manager.close)  # which waits: else the save in flight would be lost

    def save(
        self,
        step: int,
        state: State,
        record: Json,
        *,
        metrics: Mapping[str, float | None] | None = None,
    ) -> None:
        """Starts saving `state` as `step`, which is not there yet; the arrays may be donated on return.

        state: "params" and the rest. record: JSON. metrics: validation figures of this step, null where not finite.
        """
        about = {
            "step": step, "record": record, "metrics": metrics or {},
            "leaves": described(state), "fingerprints": fingerprints(state),
        }  # fmt: skip
        about = json.loads(json_text(about))  # as it is read back: tuples are lists there, and every key a string
        items = {name: ocp.args.PyTreeSave(tree) for name, tree in _items(state).items()}
        items["about"] = ocp.args.JsonSave({**about, "digest": digest_of(about)})
        self._manager.save(step, args=ocp.args.Composite(**items))

    def steps(self) -> list[int]:
        """Steps that were saved whole, ascending."""
        return sorted(self._manager.all_steps())

    def metrics(self, step: int) -> dict[str, float | None]:
        """The validation figures that were saved with a step. Raises UserError where its record is damaged."""
        return self._intact(step)["metrics"]

    def identity(self, step: int) -> str:
        """Hash (hex) over path, dtype, shape and fingerprint of each parameter of a step, whatever the mesh was.

        Raises UserError where its record is damaged.
        """
        about = self._intact(step)
        return digest_of(
            [  # by their paths among the parameters
                {path.removeprefix(_PARAMS): x for path, x in about[part].items() if path.startswith(_PARAMS)}
                for part in ("leaves", "fingerprints")
            ]
        )

    def restore_latest(self, abstract_state: State) -> tuple[int, PyTree, Json] | None:
        """(step, state, record) of the latest intact step, or None where there is no step at all.

        abstract_state: ShapeDtypeStructs with the shardings wanted. A damaged step is named in a line, and removed once
        an earlier one was read. Raises UserError, leaving every step in place, where none is intact and where an intact
        one differs from `abstract_state` in a leaf's path, shape or dtype.
        """
        damaged: list[int] = []
        for step in reversed(self.steps()):
            try:
                state, record = self._read(step, abstract_state)
            except _Damaged as problem:
                processes.note(f"warning: checkpoint {self._path(step)}: {problem}; skipped")
                damaged.append(step)
                continue
            for bad in damaged:
                self._manager.delete(bad)
            return step, state, record
        if damaged:
            raise UserError(
                f"{self._directory}: no checkpoint can be read (steps {', '.join(map(str, damaged))}); put back a "
                "good copy, or remove the directory to train from the start"
            )
        return None

    def restore_params(self, step: int, abstract_params: PyTree) -> PyTree:
        """The parameters of a step in the tree of `abstract_params`; see `each_param`."""
        return unflatten_dict(dict(self.each_param(step, abstract_params)), sep="/")

    def each_param(self, step: int, abstract_params: PyTree) -> Iterator[tuple[str, Any]]:
        """(path such as "layers/mlp/fc1/bias", array) of each parameter of a step, read when it is asked for.

        A numpy array where `abstract_params` has no shardings. Raises UserError where one is damaged, or they differ
        from `abstract_params` in path, shape or dtype.
        """
        for path, leaf in flatten_dict(abstract_params, sep="/").items():
            part = {"params": unflatten_dict({path: leaf}, sep="/")}
            try:
                (found,) = jax.tree.leaves(self._read(step, {"params": abstract_params}, part)[0])
            except _Damaged as problem:
                raise UserError(
                    f"checkpoint {self._path(step)}: {problem}; put back a good copy, or train again"
                ) from None
            yield path, found

    def _read(self, step: int, abstract: State, part: State | None = None) -> tuple[State, Json]:
        """(state, or the part of it, record) of a step.

        Raises _Damaged, and UserError where it is intact and differs from `abstract`.
        """
        problem = ""
        try:
            about = self._about(step)
            self._check_leaves(step, about["leaves"], abstract)
            state = self._restore(step, part or abstract, partial=part is not None)
            arrays = all(isinstance(leaf, Array | np.ndarray) for leaf in jax.tree.leaves(state))
            if described(state) != described(part or abstract) or not arrays:
                raise ValueError("numbers are missing")
            record = about["record"]
        except UserError:
            raise
        except Exception as error:
            problem = _cannot_be_read(error)
        if any(processes.gather(bool(problem))):  # another process may have met the damage in its part alone
            raise _Damaged(problem or "another process cannot read its part")
        for path, found in fingerprints(state).items():
            if found != about["fingerprints"][path]:
                raise _Damaged(f"damaged ({path} is not what was saved)")
        return state, record

    def _check_leaves(self, step: int, saved: dict[str, str], abstract: State) -> None:
        """Orbax casts in silence to what it is asked for; this refuses that."""
        asked = described(abstract)
        kept = [path for path in saved if path.startswith(_PARAMS) or abstract.keys() != {"params"}]
        for path in sorted({*asked, *kept}):
            if asked.get(path) != saved.get(path):
                raise UserError(
                    f"checkpoint {self._path(step)}: {path} is {saved.get(path, 'absent')}, not "
                    f"{asked.get(path, 'absent')}, which the config asks for; go on with the config that it was saved "
                    "with, or in another work directory"
                )

    def _restore(self, step: int, abstract: State, *, partial: bool) -> State:
        arguments = {
            name: ocp.args.PyTreeRestore(
                tree, ocp.checkpoint_utils.construct_restore_args(tree), partial_restore=partial
            )
            for name, tree in _items(abstract).items()
        }
        restored = self._manager.restore(step, args=ocp.args.Composite(**arguments))
        return {"params": restored["params"], **(restored.get("rest") or {})}

    def _about(self, step: int) -> Json:
        about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        if about.pop("digest", "") != digest_of(about):
            raise ValueError("its record is damaged")
        if about["step"] != step:
            raise ValueError(f"it is the save of step {about['step']}")
        return about

    def _intact(self, step: int) -> Json:
        """The record of a step that was saved."""
        self.wait()
        try:
            return self._about(step)
        except Exception as error:
            raise UserError(f"checkpoint {self._path(step)}: {_cannot_be_read(error)}; put back a good copy") from None

    def _path(self, step: int) -> Path:
        return self._directory / str(step)

    def wait(self) -> None:
        """Blocks until every save that was started is on disk; raises what went wrong with it."""
        self._manager.wait_until_finished()


def _cannot_be_read(error: Exception) -> str:
    """Whatever Orbax and TensorStore raise for damaged bytes, in a line."""
    return f"cannot be read ({type(error).__name__}: {one_line(error)})"


def _items(state: State) -> State:
    """Orbax's items of a save: parameters alone can be read without the rest."""
    rest = {name: tree for name, tree in state.items() if name != "params"}
    return {"params": state["params"], **({"rest": rest} if rest else {})}


@functools.cache
def _silence_what_wait_raises() -> None:
    """Of a save that fails, and of one that is damaged, the first error is raised, which is enough.

    Orbax also logs a traceback for each leaf, and TensorStore's other reads and writes end later, with nobody who
    asks for their outcome.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())
    reported = sys.unraisablehook

    def without_tensorstore(found: Any) -> None:
        if not any(text in str(found.exc_value) for text in ("Event loop is closed", "TensorStore")):
            reported(found)

    sys.unraisablehook = without_tensorstore
