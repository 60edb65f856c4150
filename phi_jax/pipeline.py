"""Runs the stages of an experiment (graph.py) in a work directory, and says how each of them stands.

A stage runs when its key differs from that of the artifact that is there, or an input has another identity. So
finished stages are skipped, a killed one goes on, and a changed field runs again only what depends on it.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from etils.epath import Path, PathLike

from phi_jax import preflight
from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.graph import DISTRIBUTED, Stage, models_of, split_label, stages
from phi_jax.parallel import compilations, processes
from phi_jax.progress import at_work, note, say
from phi_jax.store import artifact
from phi_jax.store.artifact import Artifact, Fields, Json
from phi_jax.store.digests import PathDigests

if TYPE_CHECKING:
    from phi_jax.teacher.teachers import Teachers

_LINE = "{:27} {:41} {:>9}"  # a stage, what it made, how long it took: 79 columns
_TOLD = {
    "steps": "{:,} steps", "loss": "loss {:.3f}", "tokens": "{:,} tokens", "step": "step {}",
    "entries": "{:,} entries", "problems": "{:,} problems", "parameters": "{:,} parameters",
}  # fmt: skip
_ANEW = "made anew"  # in the place of an identity
WHOLE, STALE, RUNNING, INTERRUPTED, MISSING = "whole", "stale", "running", "interrupted", "missing"


class Standing(NamedTuple):
    """How one stage stands: WHOLE, STALE (reason: what changed), RUNNING (in another process), INTERRUPTED (where it
    stopped, and what changed since it began) or MISSING.
    """

    stage: Stage
    state: str
    reason: str
    artifact: Artifact | None

    @property
    def due(self) -> bool:
        """Whether a run would run the stage."""
        return self.state != WHOLE


# --- Running ----------------------------------------------------------------------------------------------------------


def run(config: Config, workdir: PathLike, *, only: Iterable[Stage] | None = None, again: Collection[str] = ()) -> None:
    """Runs the stages that are not whole, in order; `only` names some, whose inputs must then be whole.

    again: stages ("collect") that are made anew though they are whole. With several processes
    (parallel/processes.py), which share the work directory, all of them make the same call. Raises UserError; finished
    stages stay. A KeyboardInterrupt says where it came.
    """
    processes.keep_freed_memory()
    chosen = stages(config) if only is None else tuple(only)
    digests, new = PathDigests(workdir), not Path(workdir).is_dir()
    with contextlib.ExitStack() as held:

        def look() -> list[bool]:
            if not new:  # what another run is making says nothing
                held.enter_context(artifact.locked(workdir))
            return [found.due for found in outlook(config, workdir, chosen, digests, again)]

        def begin() -> None:
            Path(workdir).mkdir(parents=True, exist_ok=True)
            if new:
                held.enter_context(artifact.locked(workdir))
            artifact.write_json(Path(workdir) / "config.json", config.to_dict())
            say(f"{due.count(False)} of {len(due)} stages are whole")

        due = processes.on_leader(look)
        preflight.check(config, workdir, list(itertools.compress(chosen, due)))
        processes.on_leader(begin)
        if any(stage.runs_jax() for stage in itertools.compress(chosen, due)):
            compilations.keep_compilations(workdir)
        for stage in chosen:
            try:
                _run_stage(stage, config, Path(workdir), digests, again=stage.stage in again)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f" in {stage.label}") from None
        processes.on_leader(lambda: _publish_scores(config, Path(workdir)))


def dry_run(
    config: Config, workdir: PathLike, *, only: Iterable[Stage] | None = None, again: Collection[str] = ()
) -> tuple[list[Standing], list[str]]:
    """(how each stage stands, what the checks before the first stage have found) of what `run` would do.

    Runs nothing and writes nothing. Raises UserError as `run` does before its first stage.
    """
    standings = outlook(config, workdir, stages(config) if only is None else only, PathDigests(workdir), again)
    return standings, preflight.check(config, workdir, [found.stage for found in standings if found.due])


def _run_stage(stage: Stage, config: Config, workdir: Path, digests: PathDigests, *, again: bool) -> None:
    if processes.count() > 1 and stage.stage not in DISTRIBUTED:
        raise UserError(f"{stage.label} runs in one process; only {', '.join(DISTRIBUTED)} take --distributed")
    opened = processes.on_leader(lambda: _open_stage(stage, config, workdir, digests, again=again))
    if opened is None:
        return
    with processes.failing_together():
        inputs = _inputs_of(stage, workdir)
        values = stage.config_of(config).to_dict()
        draft = artifact.join_draft(workdir, stage.stage, stage.name, values, inputs, decides=opened["decides"])
        if {**_agreed(draft), "decides": stage.decides(config, digests)} != opened:
            raise UserError(
                f"{stage.label}: process {processes.index()} has another config or other inputs than process 0; "
                "start all of them with the same command"
            )
        stage.run(config, inputs, draft)
    processes.on_leader(lambda: _commit(draft))
    processes.give_memory_back()


def _agreed(draft: artifact.Draft) -> Json:
    """What all processes of a run must have in common."""
    return {"decides": draft.decides, "key": draft.key, "config": artifact.digest_of(draft.config)}


def _open_stage(stage: Stage, config: Config, workdir: Path, digests: PathDigests, *, again: bool) -> Json | None:
    """None where there is nothing to do; else its draft lies open in the work directory, and `_agreed` of it."""
    inputs = _inputs_of(stage, workdir)
    decides = stage.decides(config, digests)
    digests.save()
    existing = artifact.find(workdir, stage.stage, stage.name)
    if existing is not None and not again and not _changes(existing.manifest, stage, decides, workdir, {}):
        return None
    for source in inputs.values():
        source.check()
    values = stage.config_of(config).to_dict()
    draft = artifact.open_draft(workdir, stage.stage, stage.name, values, inputs, decides=decides, again=again)
    if not artifact.is_object_store(workdir):
        (workdir / ".lock").write_text(stage.label)  # for `status`
    at_work(f"{stage.label}: {'going on from what an interrupted run left' if draft.resumed else 'starting'}")
    return _agreed(draft)


def _changes(before: Fields, stage: Stage, decides: Fields, workdir: PathLike, due: Mapping[str, str]) -> list[str]:
    """What differs from what a manifest or a draft was made of. due: labels of the inputs that are made anew first."""
    inputs = {}
    for name, label in stage.inputs.items():
        source = artifact.find(workdir, *split_label(label), settle=False)
        identity = _ANEW if label in due else source.identity if source else "missing"
        inputs[name] = {"artifact": label, "identity": identity}
    return artifact.drift(before, json.loads(artifact.canonical_json(decides)), inputs)


def _inputs_of(stage: Stage, workdir: Path) -> dict[str, Artifact]:
    return {name: _input(stage, label, workdir, settle=True) for name, label in stage.inputs.items()}


def _input(stage: Stage, label: str, workdir: PathLike, *, settle: bool = False) -> Artifact:
    source = artifact.find(workdir, *split_label(label), settle=settle)
    if source is None:
        raise UserError(
            f"{stage.label} needs {label}, which is not in {workdir}; run `phi-jax run`, which makes all, or first "
            f"`phi-jax {split_label(label)[0]}`"
        )
    return source


def _commit(draft: artifact.Draft) -> None:
    done = draft.commit()
    say(_LINE.format(draft.label, _made(done), f"{done.manifest['seconds']:,.1f} s"))
    if reasons := done.facts.get("set_aside"):  # of `collect`, the most frequent first
        note(f"set aside: {', '.join(f'{count:,} {reason}' for reason, count in reasons.items())}")
    note(f"identity {done.identity[:12]}", detail=True)


def _made(done: Artifact) -> str:
    """What an artifact holds and how many of it, texts first, as far as it fits: 120 textbooks, 480 exercises."""
    outputs = sorted(done.manifest["outputs"].items(), key=lambda output: output[1]["kind"] != "documents")
    told = [
        f"{about['rows']:,} {name.replace('_', ' ')}"
        for name, about in outputs
        if about["kind"] != "log" and about.get("rows") and name not in ("tokens", "findings")
    ]
    told += [form.format(done.facts[name]) for name, form in _TOLD.items() if done.facts.get(name)]
    while len(line := ", ".join(told)) > 41:
        told.pop()
    return line


def evaluated(config: Config, workdir: PathLike) -> list[Artifact]:
    """The evaluation of every model that has one."""
    found = (artifact.find(workdir, "evaluate", name, settle=False) for name in models_of(config))
    return [a for a in found if a is not None]


def _publish_scores(config: Config, workdir: Path) -> None:
    """`W/evaluate/scores.json`: the scores of every model that has been evaluated, in one list."""
    if whole := evaluated(config, workdir):
        from phi_jax.evaluation.evaluate import combined_scores

        artifact.write_json(workdir / "evaluate" / "scores.json", combined_scores(whole))


# --- Status -----------------------------------------------------------------------------------------------------------


def status(config: Config, workdir: PathLike, *, verify: bool) -> list[Standing]:
    """How each stage stands in `workdir` under `config`. Changes nothing.

    verify: the hash of every file is compared with the manifest; a file that differs makes its artifact STALE.
    """
    digests = PathDigests(workdir)
    return [_standing(stage, stage.decides(config, digests), workdir, {}, verify=verify) for stage in stages(config)]


def keys_of(config: Config, digests: PathDigests) -> dict[str, str]:
    """Label -> key of every stage: known before anything runs."""
    keys = dict[str, str]()
    for stage in stages(config):
        inputs = {name: keys[label] for name, label in stage.inputs.items()}
        keys[stage.label] = artifact.artifact_key(stage.stage, stage.decides(config, digests), inputs)
    return keys


def outlook(
    config: Config, workdir: PathLike, chosen: Iterable[Stage], digests: PathDigests, again: Collection[str]
) -> list[Standing]:
    """As `status`, but a stage is whole only where its inputs are: none that a run of the chosen stages makes anew.

    Changes nothing. Raises UserError where an input that none of them makes is missing or stale, and where a run would
    lose checkpoints.
    """
    found, due, keys, chosen = [], dict[str, str](), keys_of(config, digests), list(chosen)
    made = {stage.label for stage in chosen}
    for stage in stages(config):
        if stage.label not in made:
            continue
        decides = stage.decides(config, digests)
        for label in sorted({*stage.inputs.values()} - made):
            if _input(stage, label, workdir).key != keys[label]:
                raise UserError(
                    f"{stage.label} needs {label}, and the one in {workdir} was made under another config (the last "
                    "run's is config.json there); `phi-jax status` with this one says what differs: undo that, or make "
                    "it again first"
                )
        standing = _standing(stage, decides, workdir, due)
        if stage.stage in again:
            standing = standing._replace(state=STALE, reason="asked for anew")
        if standing.due:
            due[stage.label] = keys[stage.label]
            partial = artifact.partial_of(artifact.locate(workdir, stage.stage, stage.name))
            left = artifact.read_draft(partial)
            since = _changes(left, stage, decides, workdir, due)
            # What is made anew may come out as it was; another key never does.
            if left.get("key") != due[stage.label] or any(not change.endswith(_ANEW) for change in since):
                artifact.refuse_to_lose(stage.label, partial, since)
        found.append(standing)
    return found


def _standing(
    stage: Stage, decides: Fields, workdir: PathLike, due: Mapping[str, str], *, verify: bool = False
) -> Standing:
    found = artifact.find(workdir, stage.stage, stage.name, settle=False)
    changed = _changes(found.manifest, stage, decides, workdir, due) if found else []
    if found and verify:
        try:
            found.check(always_hash=True)
        except UserError as error:
            changed.append(str(error))
    if found and not changed:
        return Standing(stage, WHOLE, "", found)
    partial = artifact.partial_of(artifact.locate(workdir, stage.stage, stage.name))
    if partial.exists():
        step = artifact.last_checkpoint(partial)
        since = _changes(artifact.read_draft(partial), stage, decides, workdir, due)
        at = "" if step is None else f" at step {step}"
        reason = f"stopped{at}; since it began: {'; '.join(since)}" if since else f"goes on{at}"
        reason += f"; replaces the one that differs in: {'; '.join(changed)}" if changed else ""
        return Standing(stage, RUNNING if stage.label == artifact.running(workdir) else INTERRUPTED, reason, found)
    return Standing(stage, STALE if found else MISSING, "; ".join(changed), found)


def saved_config(workdir: PathLike) -> Config:
    """The config of the last run in `workdir`. Raises UserError where there was none."""
    path = Path(workdir) / "config.json"
    if not path.exists():
        raise UserError(f"--workdir {os.fspath(workdir)}: no run there yet; start one with `phi-jax run`")
    return Config(json.loads(path.read_text()))


# --- Stages that ask language models ----------------------------------------------------------------------------------


def pilot(config: Config, workdir: PathLike, stage: Stage, requests: int) -> list[str]:
    """Makes, pays and checks the first requests of a stage that asks teachers; says what all of them will be like.

    Their replies stay in the journal, and beside it what share of them passed; nothing else is written. Raises
    UserError for a stage that asks nobody.
    """
    from phi_jax.teacher.journal import journal_directory
    from phi_jax.teacher.pilot import lines, share_file

    if requests < 2:
        raise UserError(f"--pilot {requests}: too few requests to tell anything; use 200")
    if not stage.asks_teachers():
        raise UserError(f"--pilot: {stage.label} asks no language model, so it costs nothing")
    preflight.check(config, workdir, [stage])
    module = importlib.import_module(stage.function.partition(":")[0])
    Path(workdir).mkdir(parents=True, exist_ok=True)
    with artifact.locked(workdir):
        seen = module.pilot(stage.config_of(config), _inputs_of(stage, workdir), workdir, requests)
        journal = journal_directory(config, workdir)
        artifact.write_json(share_file(journal, stage.name), 1 - seen["rejected"].total() / len(seen["costs"]))
    return lines(stage.label, **seen)


def retry_poisoned(config: Config, workdir: PathLike, stage: Stage) -> int:
    """Takes the requests that were given up out of the journal's poison queue, so that the stage asks them again.

    Says why they were given up, and returns their number. Raises UserError for a stage that asks nobody.
    """
    with _teachers(config, workdir, stage) as teachers:
        reasons = Counter(reply.reason for reply in teachers.journal.poisoned())
        for reason, count in reasons.most_common():
            note(f"{stage.label}: {count:,} given up before: {reason}")
        return teachers.journal.retry_given_up()


def cancel_batches(config: Config, workdir: PathLike, stage: Stage) -> int:
    """Cancels what the Batch API still works on for a stage's teachers, and keeps what it has done; returns how many
    batches. Raises UserError for a stage that asks nobody.
    """
    with _teachers(config, workdir, stage) as teachers:
        return teachers.cancel_batches()


def _teachers(config: Config, workdir: PathLike, stage: Stage) -> Teachers:
    from phi_jax.teacher import teachers

    if not stage.asks_teachers():
        raise UserError(f"{stage.label} asks no language model: it has neither a poison queue nor batches")
    return teachers.Teachers(stage.config_of(config), workdir)
