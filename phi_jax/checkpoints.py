"""Checkpoints of a training run: Orbax behind one door.

A checkpoint holds the state (a tree of arrays) and a small JSON record: the step, the config and the identity of
the data it was trained on. A step that a kill left half-written is not there; one that was damaged later is
skipped, loudly.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from etils import epath

from phi_jax.errors import UserError
from phi_jax.progress import say

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

PyTree = Any


def state_digest(state: PyTree) -> str:
    """SHA-256 (hex) over path, shape, dtype and bytes of each leaf: two saves differ as files, not in this."""
    hasher = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = np.asarray(leaf)
        hasher.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}\n".encode())
        hasher.update(np.ascontiguousarray(array).data)
    return hasher.hexdigest()


class Checkpoints:
    """The checkpoints in one directory. Saves run in the background; leaving the context waits for them."""

    def __init__(self, directory: epath.PathLike, *, keep: int = 1, read_only: bool = False) -> None:
        """keep: how many of the latest steps stay."""
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy

        # Orbax logs each save at warning level, and a failed one with a traceback for each leaf; `wait` raises it too.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        _ignore_closed_loops()
        self._directory = epath.Path(directory).resolve()
        self._manager: ocp.CheckpointManager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                preservation_policy=None if read_only else preservation_policy.LatestN(keep),
            ),
        )

    def save(self, step: int, state: PyTree, record: dict[str, Any]) -> None:
        """Starts saving `state` as `step`; the arrays may be donated as soon as this returns."""
        import orbax.checkpoint as ocp

        # Orbax casts in silence to the dtype it is asked for, so what was saved is written down beside it.
        about = {"record": record, "leaves": _described(state)}
        self._manager.save(
            step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about))
        )

    def steps(self) -> list[int]:
        """Steps that were saved whole, ascending."""
        return sorted(self._manager.all_steps())

    def restore_latest(self, abstract_state: PyTree) -> tuple[int, PyTree, dict[str, Any]] | None:
        """(step, state, record) of the latest step that can be read, or None where there is no step at all.

        abstract_state: ShapeDtypeStructs with the shardings wanted; every leaf's path, shape and dtype must agree.
        A damaged step is removed after a line that names it. Raises UserError where steps exist and none can be
        read, leaving them in place.
        """
        damaged: list[int] = []
        for step in reversed(self.steps()):
            try:
                state, record = self._restore(step, abstract_state)
            except Exception as error:
                say(f"warning: checkpoint {self._directory / str(step)}: cannot be read ({_brief(error)}); skipped")
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

    def _restore(self, step: int, abstract_state: PyTree) -> tuple[PyTree, dict[str, Any]]:
        import orbax.checkpoint as ocp

        about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        _check_leaves(about["leaves"], _described(abstract_state))
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        state = self._manager.restore(step, args=args)["state"]
        _check_leaves(_described(state), about["leaves"])
        return state, about["record"]

    def wait(self) -> None:
        """Blocks until every save that was started is on disk; raises what went wrong with it."""
        self._manager.wait_until_finished()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Exiting without waiting loses the save in flight.
        self._manager.close()


def _ignore_closed_loops() -> None:
    """Of a save that failed, TensorStore's other writes end later and find no event loop: a traceback each."""
    reported = sys.unraisablehook
    if getattr(reported, "__name__", "") == "without_closed_loops":
        return

    def without_closed_loops(found: sys.UnraisableHookArgs) -> None:
        if not (isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == "Event loop is closed"):
            reported(found)

    sys.unraisablehook = without_closed_loops


def restore_params(directory: epath.PathLike, step: int, abstract_params: PyTree) -> PyTree:
    """Only the parameters of a step, without reading the optimizer state.

    abstract_params: ShapeDtypeStructs with the shardings wanted. Raises UserError where they cannot be read or differ
    in path, shape or dtype.
    """
    import orbax.checkpoint as ocp

    target = {"params": abstract_params}
    # A manager that has restored a whole state refuses to restore a part of one: hence one for this alone.
    with Checkpoints(directory, read_only=True) as checkpoints:
        try:
            about = checkpoints._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
            saved = {k: v for k, v in about["leaves"].items() if k.startswith("['params']")}
            _check_leaves(saved, _described(target))
            part = ocp.args.PyTreeRestore(
                item=target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=True,
            )
            restored = checkpoints._manager.restore(step, args=ocp.args.Composite(state=part))["state"]
            _check_leaves(_described(restored), saved)
        except Exception as error:
            raise UserError(
                f"checkpoint {checkpoints._directory / str(step)}: cannot be read ({_brief(error)}); "
                "put back a good copy, or train again"
            ) from error
    return restored["params"]


def _described(tree: PyTree) -> dict[str, str]:
    """Path -> dtype and shape of each leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _check_leaves(found: dict[str, str], wanted: dict[str, str]) -> None:
    """Orbax lets some mismatches pass in silence; this does not."""
    for path in sorted(found.keys() | wanted.keys()):
        if found.get(path) != wanted.get(path):
            raise ValueError(f"{path} is {found.get(path, 'absent')}, not {wanted.get(path, 'absent')}")


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
