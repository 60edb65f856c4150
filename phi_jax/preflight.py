"""What can be known of a run before its first stage: `run` checks it then, and `run --dry-run` does nothing else.

A stage's own check is named by the graph (Stage.check) and stands in its room: paths, and fields that must go together.
What stages share is checked here. A check raises UserError; most give lines that say what was found.
"""

import os
import pkgutil
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from phi_jax import fields
from phi_jax.config import Config
from phi_jax.errors import UserError, one_line
from phi_jax.graph import TRAININGS, Stage
from phi_jax.parallel import processes
from phi_jax.store import artifact

_LARGE = {"pretrain": "checkpoints", "finetune": "checkpoints", "export": "exports"}
_GIB = 2**30


def check(config: Config, workdir: os.PathLike | str, due: Sequence[Stage]) -> list[str]:
    """Makes every check for the stages that are to run; returns what they found. Changes nothing.

    With several processes all of them make the same call. Raises UserError for the first thing that is wrong.
    """
    processes.set_cpu_devices(config.training.cpu_devices)
    found = processes.on_leader(lambda: check_without_devices(config, os.fspath(workdir), due))
    return [*found, *_devices(config, due)]


def check_without_devices(config: Config, workdir: str, due: Sequence[Stage]) -> list[str]:
    """As `check`, in one process, and without what would hold its devices."""
    _check_directory(workdir)
    _check_lengths(config, due)
    return [*_own(config, due), *_sandbox(config, due), *_budget(config, workdir, due), *_disk(config, workdir, due)]


def _own(config: Config, due: Sequence[Stage]) -> Iterator[str]:
    """The stages' own checks; one that reads the same sections for several stages is made once."""
    for stage in {(stage.check, stage.sections): stage for stage in due if stage.check}.values():
        yield from pkgutil.resolve_name(stage.check)(config, stage.name) or ()


def _check_lengths(config: Config, due: Sequence[Stage]) -> None:
    """A completion leaves room for a prompt."""
    for name in sorted({stage.stage for stage in due if stage.check} & {"select", "evaluate"}):
        longest, context = getattr(config, name).max_new_tokens, config.tokenize.seq_len
        if longest >= context:
            raise UserError(
                f"config.{name}.max_new_tokens={longest}: config.tokenize.seq_len={context} leaves no room for a "
                "prompt; lower it"
            )


def _check_directory(workdir: str) -> None:
    if not workdir:
        raise UserError("--workdir is empty; name a directory, which is created where needed")
    place = artifact.existing(workdir)
    if not artifact.is_object_store(workdir) and not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        why = f"{place} is a file" if place.is_file() else f"{place} cannot be written to"
        raise UserError(f"--workdir {workdir}: {why}; name a directory, which is created where needed")


def _sandbox(config: Config, due: Sequence[Stage]) -> Iterator[str]:
    """One known program runs under each confinement that is asked for."""
    asked = dict[str, str]()
    for stage in due:
        for path, value in fields.leaves(stage.config_of(config).to_dict()):
            if path.endswith(".sandbox") and (stage.stage != "select" or stage.check):
                asked.setdefault(value, path)
    for confinement, path in asked.items():
        from phi_jax.sandbox import Program, Sandbox, support

        try:
            with Sandbox(confinement=confinement) as box:
                list(box.run([Program("", "", None)]))
        except UserError as error:
            raise UserError(f"config.{path}={confinement!r}: {error}") from None
        yield f"sandbox: {confinement}: a known program passes; {support().description}"


def _budget(config: Config, workdir: str, due: Sequence[Stage]) -> Iterator[str]:
    """The teachers, their keys and prices, and what the cap leaves of what the journal has booked."""
    asked = dict.fromkeys(s for stage in due for s in stage.sections if s.startswith("teachers."))
    if not asked:
        return
    from phi_jax.teacher.budget import dollars
    from phi_jax.teacher.journal import journal_directory, look
    from phi_jax.teacher.request import PICODOLLARS
    from phi_jax.teacher.server.answers import api_key
    from phi_jax.teacher.teachers import known

    endpoints = known(config.only([*asked, "budget"])).values()
    for endpoint in endpoints:
        api_key(endpoint)
    if not any(endpoint.price.input or endpoint.price.output for endpoint in endpoints):
        yield "budget: the teachers cost nothing"
        return
    cap = round(config.budget.max_dollars * PICODOLLARS)
    sums = "coalesce(sum(cost), 0), coalesce(sum(iif(cost IS NULL, reservation, 0)), 0)"
    booked = look(journal_directory(config, workdir), f"SELECT {sums}, (SELECT count(*) FROM replies) FROM attempts")
    spent, reserved, replies = booked[0] if booked else (0, 0, 0)
    if not (cap or replies):
        raise UserError(f"config.budget.max_dollars={config.budget.max_dollars:g}: no request can be paid; raise it")
    yield f"budget: {dollars(spent)} spent, {dollars(reserved)} reserved of {dollars(cap)}; {replies:,} replies there"


def _disk(config: Config, workdir: str, due: Sequence[Stage]) -> Iterator[str]:
    """What the stages will write that is large and known beforehand: checkpoints, exports."""
    if artifact.is_object_store(workdir):
        return
    needed = Counter[str]()
    for stage in due:
        if kind := _LARGE.get(stage.stage):
            # Here: it loads jax, without which a run that skips all takes half the time.
            from phi_jax.planning.pipeline_plan import written_bytes

            left = artifact.partial_of(artifact.locate(workdir, stage.stage, stage.name))
            there = sum(file.stat().st_size for file in Path(left).rglob("*") if file.is_file())
            needed[kind] += max(0, written_bytes(stage, config) - there)
    free, total = shutil.disk_usage(artifact.existing(workdir)).free, sum(needed.values())
    parts = ", ".join(f"{kind} {size / _GIB:.3g}" for kind, size in needed.items())
    if total > free:
        raise UserError(
            f"--workdir {workdir}: its disk has {free / _GIB:.3g} GiB left, and the stages will write about "
            f"{total / _GIB:.3g} GiB ({parts}); free some, name a work directory elsewhere, or lower "
            "config.training.keep_checkpoints"
        )
    yield f"disk: {free / _GIB:.3g} GiB left, about {total / _GIB:.3g} GiB to be written ({parts or 'nothing large'})"


def _devices(config: Config, due: Sequence[Stage]) -> Iterator[str]:
    """The mesh fits the devices, the batch the mesh, and the kernel is there."""
    if not any(stage.runs_jax() for stage in due):
        return
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        raise UserError(
            f"jax finds no device ({one_line(error)}); correct the environment variable JAX_PLATFORMS, or leave it out"
        ) from None
    yield f"devices: {len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    for stage in due:
        if stage.stage in TRAININGS:
            from phi_jax.model.attention import check_kernel_on
            from phi_jax.parallel.mesh import batch_ways, check_cut, make_mesh
            from phi_jax.training.rules import check_batch, model_shape, rules_of

            plan, rules, shape = getattr(config.models, stage.name), rules_of(config, stage.name), model_shape(config)
            mesh = make_mesh(rules.mesh, devices)
            check_batch(rules, batch_ways(mesh), f"config.{plan.rules}")
            check_kernel_on(shape.attention, devices[0].platform)
            check_cut(mesh, shape)
            yield (
                f"{stage.label}: mesh {dict(mesh.shape)}, attention {shape.attention}, {shape.compute_dtype}, "
                f"{rules.global_batch_size} sequences a step in {rules.microbatches} parts"
            )
