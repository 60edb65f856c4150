"""Checkpoints of a training run: Orbax behind one door.

A checkpoint holds the state (a tree of arrays) and a small JSON record: the step, the config and the identity of
the data it was trained on. A step that a kill left half-written is not there; one that was damaged later is
skipped, loudly.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from etils import epath

from phi_jax.errors import UserError
from phi_jax.parallel import processes
from phi_jax.progress import say

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

PyTree = Any
# What the best checkpoint may be best by -> whether more is better (1) or less (-1), and the field of config.training
# that says how often it is taken.
BEST_BY = {"validation_loss": (-1, "evaluate_every"), "validation_pass_at_1": (1, "pass_every")}


def state_digest(state: PyTree) -> str:
    """SHA-256 (hex) over path, shape, dtype and bytes of each leaf: two saves differ as files, not in this.

    Leaves that lie on several processes' devices are gathered one after the other; every process must then call it.
    """
    hasher = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            from jax.experimental import multihost_utils

            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        array = np.asarray(leaf)
        hasher.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}\n".encode())
        hasher.update(array.tobytes())  # bfloat16 has no buffer protocol
    return hasher.hexdigest()


class Checkpoints:
    """The checkpoints in one directory. Saves run in the background; leaving the context waits for them.

    With several processes every one of them opens the directory, which they share, and makes the same calls.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        keep: int = 1,
        keep_every: int = 0,
        keep_best: int = 0,
        best_by: str = "validation_loss",
        read_only: bool = False,
    ) -> None:
        """keep: how many of the latest steps stay. keep_every: steps that are multiples of it stay too (0: none).
        keep_best: so many of the best stay too. best_by: a metric of BEST_BY. Raises UserError for another.
        """
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy

        # Orbax logs each save at warning level, and a failed one with a traceback for each leaf; `wait` raises it too.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        _silence_what_wait_raises()
        if best_by not in BEST_BY:
            raise UserError(f"config.training.best_by={best_by!r}: unknown; use one of {', '.join(BEST_BY)}")
        self._best_by = best_by
        self._directory = epath.Path(directory).resolve()
        policies: list[preservation_policy.PreservationPolicy] = [preservation_policy.LatestN(keep)]
        if keep_every:
            policies.append(preservation_policy.EveryNSteps(keep_every))
        if keep_best:
            policies.append(
                preservation_policy.BestN(
                    get_metric_fn=self._goodness,
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        if not read_only and processes.is_leader() and self._directory.exists():
            for path in sorted(self._directory.iterdir()):
                if ".orbax-checkpoint-tmp" in path.name:
                    say(f"warning: checkpoint {path}: its save was cut off; skipped")
        self._manager: ocp.CheckpointManager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                best_fn=self._goodness,  # without it Orbax drops the metrics; what stays is the policies' choice alone
                preservation_policy=None if read_only else preservation_policy.AnyPreservationPolicy(policies),
            ),
        )

    def save(
        self, step: int, state: PyTree, record: dict[str, Any], *, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Starts saving `state` as `step`, in place of one that is there; the arrays may be donated on return.

        metrics: validation figures that were taken at this step.
        """
        import orbax.checkpoint as ocp

        if step in self._manager.all_steps():
            self._manager.wait_until_finished()
            self._manager.delete(step)

        # Orbax casts in silence to the dtype it is asked for, so what was saved is written down beside it.
        about = {"record": record, "leaves": _described(state)}
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)),
            metrics=dict(metrics) if metrics and self._best_by in metrics else None,
        )

    def steps(self) -> list[int]:
        """Steps that were saved whole, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int:
        """The step with the best metric `best_by`, the earliest of equals; call `wait` first.

        Raises UserError where no step has it.
        """
        found = {step: metrics for step in self.steps() if (metrics := self._manager.metrics(step))}
        if not found:
            every = BEST_BY[self._best_by][1]
            raise UserError(
                f"{self._directory}: no checkpoint has a {self._best_by} to be chosen by; set "
                f"config.training.checkpoint_every to a multiple of config.training.{every}, and that to more than 0"
            )
        return max(found, key=lambda step: (self._goodness(found[step]), -step))

    def _goodness(self, metrics: Mapping[str, float]) -> float:
        return BEST_BY[self._best_by][0] * metrics[self._best_by]

    def restore_latest(self, abstract_state: PyTree) -> tuple[int, PyTree, dict[str, Any]] | None:
        """(step, state, record) of the latest step that can be read, or None where there is no step at all.

        abstract_state: ShapeDtypeStructs with the shardings wanted; every leaf's path, shape and dtype must agree.
        A damaged step is removed after a line that names it. Raises UserError where steps exist and none can be
        read, leaving them in place.
        """
        damaged: list[int] = []
        for step in reversed(self.steps()):
            problem = ""
            try:
                state, record = self.restore(step, abstract_state)
            except Exception as error:
                problem = _brief(error)
            # Another process may have met the damage in its part alone.
            if not processes.all_agree(not problem):
                problem = problem or "another process could not read its part"
                say(f"warning: checkpoint {self._directory / str(step)}: cannot be read ({problem}); skipped")
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

    def restore(self, step: int, abstract_state: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """(state, record) of one step. Raises where a leaf cannot be read or differs from `abstract_state`."""
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


def _silence_what_wait_raises() -> None:
    """Of a save that failed `wait` raises the first error alone. TensorStore's other writes end later, each with a
    traceback of its own: they find no event loop, or nobody who asks for their outcome.
    """
    asyncio_logger = logging.getLogger("asyncio")
    if _is_news not in asyncio_logger.filters:
        asyncio_logger.addFilter(_is_news)
    reported = sys.unraisablehook
    if getattr(reported, "__name__", "") == "without_closed_loops":
        return

    def without_closed_loops(found: sys.UnraisableHookArgs) -> None:
        if not (isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == "Event loop is closed"):
            reported(found)

    sys.unraisablehook = without_closed_loops


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not ("exception was never retrieved" in message and "orbax" in message)


def restore_params(
    directory: epath.PathLike, step: int, abstract_params: PyTree, *, change_dtype: bool = False
) -> PyTree:
    """Only the parameters of a step, without reading the optimizer state.

    abstract_params: ShapeDtypeStructs with the shardings wanted. change_dtype: they may be of another dtype than was
    saved, and are cast. Raises UserError where they cannot be read or differ in path, shape or, otherwise, dtype.
    """
    target = {"params": abstract_params}
    # A manager that has restored a whole state refuses to restore a part of one: hence one for this alone.
    with Checkpoints(directory, read_only=True) as checkpoints, _reading(checkpoints, step):
        _check_leaves(_saved_params(checkpoints, step), _described(target), ignore_dtype=change_dtype)
        restored = _restore_part(checkpoints, step, target)
        _check_leaves(_described(restored), _described(target))
    return restored["params"]


@contextlib.contextmanager
def open_params(directory: epath.PathLike, step: int, abstract_params: PyTree) -> Iterator[Callable[[str], np.ndarray]]:
    """A function that reads one parameter of a step, e.g. "layers/mlp/fc1/kernel", as a numpy array of its dtype.

    For a model that need not be in memory whole. Raises UserError as `restore_params` does, here or when a parameter is
    read.
    """
    with Checkpoints(directory, read_only=True) as checkpoints:
        with _reading(checkpoints, step):
            _check_leaves(_saved_params(checkpoints, step), _described({"params": abstract_params}))

        def read(path: str) -> np.ndarray:
            wanted = abstract_params
            for name in path.split("/"):
                wanted = wanted[name]
            target: PyTree = np.broadcast_to(np.zeros((), wanted.dtype), wanted.shape)
            for name in reversed(["params", *path.split("/")]):
                target = {name: target}
            with _reading(checkpoints, step):
                (leaf,) = jax.tree.leaves(_restore_part(checkpoints, step, target))
                _check_leaves({path: _about(leaf)}, {path: _about(wanted)})
            return leaf

        yield read


@contextlib.contextmanager
def _reading(checkpoints: Checkpoints, step: int) -> Iterator[None]:
    """What goes wrong in the block is a UserError that names the step."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"checkpoint {checkpoints._directory / str(step)}: cannot be read ({_brief(error)}); "
            "put back a good copy, or train again"
        ) from error


def _saved_params(checkpoints: Checkpoints, step: int) -> dict[str, str]:
    """Path -> dtype and shape of each parameter as it was saved."""
    import orbax.checkpoint as ocp

    about = checkpoints._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
    return {k: v for k, v in about["leaves"].items() if k.startswith("['params']")}


def _restore_part(checkpoints: Checkpoints, step: int, target: PyTree) -> PyTree:
    import orbax.checkpoint as ocp

    part = ocp.args.PyTreeRestore(
        item=target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
    )
    return checkpoints._manager.restore(step, args=ocp.args.Composite(state=part))["state"]


def _described(tree: PyTree) -> dict[str, str]:
    """Path -> dtype and shape of each leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): _about(leaf) for path, leaf in leaves}


def _about(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _check_leaves(found: dict[str, str], wanted: dict[str, str], *, ignore_dtype: bool = False) -> None:
    """Orbax lets some mismatches pass in silence; this does not."""
    if ignore_dtype:
        found, wanted = ({path: about[about.index("[") :] for path, about in x.items()} for x in (found, wanted))
    for path in sorted(found.keys() | wanted.keys()):
        if found.get(path) != wanted.get(path):
            raise ValueError(f"{path} is {found.get(path, 'absent')}, not {wanted.get(path, 'absent')}")


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
