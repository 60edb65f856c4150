"""Completions of a benchmark's problems by a model, in parts that a killed run goes on from.

Whatever the model runs on (backends/), prompts, stops and the cut are these.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from phi_jax.evaluation.execution import Sample, shown_prompt
from phi_jax.evaluation.problems import Problem, whole_rows
from phi_jax.evaluation.stops import cut
from phi_jax.progress import Progress
from phi_jax.store.artifact import Json, write_lines

PART = 64  # completions in a file that a killed run finds
GREEDY = "greedy"  # the decoding whose verdicts models and prompts are compared by
TOO_LONG = "prompt too long"  # for the model's context: a stop reason


class Plan(NamedTuple):
    """How a benchmark is completed: all that decides a completion beside model, problem and backend.

    The ranges are those of config.evaluate (phi_jax/fields.py).
    """

    prompt_form: str = "stripped"  # of execution.PROMPT_FORMS, or "both"
    max_new_tokens: int = 64
    samples_per_problem: int = 5  # sampled ones, beside the greedy one; 0 = greedy only
    temperature: float = 0.2
    top_p: float = 0.95
    top_k: int = 0  # 0 = all tokens
    seed: int = 0

    @property
    def drawn(self) -> str:
        """The sampled completions' decoding, as it stands beside scores."""
        top_k = f", top_k {self.top_k}" if self.top_k else ""
        return f"temperature {self.temperature:g}, top_p {self.top_p:g}{top_k}"


class Request(NamedTuple):
    """One completion to make. (task_id, sample) keys its draws, so it comes out the same in any company."""

    task_id: str
    sample: int  # number of the sample of that problem
    decoding: str  # GREEDY or Plan.drawn
    shown: str  # the prompt as the model sees it
    stop: str  # the rule that ends the completion

    @property
    def is_greedy(self) -> bool:
        """Whether its most probable tokens are taken, instead of draws."""
        return self.decoding == GREEDY

    def has_stopped(self, text: str) -> bool:
        """Whether a completion that is still growing has met its stop."""
        return len(cut(self.shown, text, self.stop)) < len(text)


class Completion(NamedTuple):
    """What a backend made of a request."""

    text: str
    tokens: int = 0
    stop_reason: str = ""  # "end_of_text", "stop", "length", TOO_LONG, or a teacher.request.Status


class Backend(Protocol):
    """A model on something that runs it. settings: JSON, what decides completions beside the Plan."""

    settings: Json

    def complete(self, requests: Sequence[Request], label: str) -> Iterator[tuple[int, Completion]]:
        """(index of the request, completion) as they end, in any order."""


def requests_of(problems: Sequence[Problem], plan: Plan, form: str) -> list[Request]:
    """A greedy completion of each problem, then the sampled ones: the greedy entry of a score stands first."""
    samples = {GREEDY: 1, plan.drawn: plan.samples_per_problem}
    return [
        Request(p.task_id, sample, decoding, shown_prompt(p.prompt, form), p.stop)
        for decoding, count in samples.items()
        for p in problems
        for sample in range(count)
    ]


def complete(requests: Sequence[Request], backend: Backend, directory: Path, label: str) -> list[Sample]:
    """A sample for each request, in their order.

    What is done is written into `directory` in parts, atomically; what a part holds is not done again, and which
    completions share a part changes none. A prompt that is too long for the model is completed by nothing. Raises
    UserError for a part that is damaged.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rows = (row for part in sorted(directory.glob("part-*.jsonl")) for _, row in whole_rows(part))
    done = {row.pop("number"): Sample(**row) for row in rows}
    wanted = [number for number in range(len(requests)) if number not in done]
    part: dict[int, Sample] = {}
    with Progress(label, len(requests), "completions", start=len(done)) as bar:
        for index, completion in backend.complete([requests[n] for n in wanted], label) if wanted else ():
            number = wanted[index]
            request = requests[number]
            done[number] = part[number] = Sample(
                task_id=request.task_id,
                completion=cut(request.shown, completion.text, request.stop),
                raw=completion.text,
                sample=request.sample,
                decoding=request.decoding,
                tokens=completion.tokens,
                stop_reason=completion.stop_reason,
            )
            bar.advance()
            if len(part) == PART or len(done) == len(requests):
                lines = ({"number": n, **vars(sample)} for n, sample in part.items())
                write_lines(directory / f"part-{min(part):05d}.jsonl", lines)
                part = {}
    return [done[number] for number in range(len(requests))]
