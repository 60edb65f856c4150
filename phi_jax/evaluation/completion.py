"""Completions of a benchmark's problems by a model, in parts that a killed run goes on from."""

from __future__ import annotations

import dataclasses
import functools
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from phi_jax.errors import UserError
from phi_jax.evaluation.execution import Sample, shown_prompt
from phi_jax.evaluation.problems import Problem
from phi_jax.evaluation.stops import cut, is_complete
from phi_jax.model.phi import Params, PhiConfig
from phi_jax.model.sampler import Completion, Devices, Request, Sampler, SlotPlan
from phi_jax.model.sampling import Decoding
from phi_jax.progress import Progress, say
from phi_jax.store.artifact import write_atomic
from phi_jax.tokens.tokenizer import Tokenizer
from phi_jax.weights.models import load_model

PART = 64  # completions in a file that a killed run finds


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a benchmark is completed."""

    max_new_tokens: int = 64
    slots: int = 32  # completions decoded at once on each device
    live_slots: int | None = None  # so many of these are used, all if None: changes no byte
    samples_per_problem: int = 5  # sampled ones, beside the greedy one; 0 = greedy only
    temperature: float = 0.2
    top_p: float = 0.95
    top_k: int = 0
    seed: int = 0

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """Greedy first, so that the entry a reader meets first is the reproducible one."""
        drawn = Decoding(self.temperature, self.top_p, self.seed, self.top_k)
        return (Decoding(), drawn) if self.samples_per_problem else (Decoding(),)


class Prompts:
    """A benchmark's problems as a model with this tokenizer is shown them, and the completions to make."""

    def __init__(
        self,
        problems: Sequence[Problem],
        plan: Plan,
        tokenizer: Tokenizer,
        context: int,
        *,
        prompt_form: str,
        greedy_only: bool = False,
    ) -> None:
        """context: tokens that the model takes. Raises UserError where max_new_tokens leave no room for a prompt."""
        longest = context - plan.max_new_tokens
        if longest < 1:
            raise UserError(
                f"config.evaluate.max_new_tokens={plan.max_new_tokens}: the model's context of {context} tokens leaves "
                "no room for a prompt"
            )
        self._problems, self._plan, self._tokenizer = problems, plan, tokenizer
        self._shown = [shown_prompt(problem.prompt, prompt_form) for problem in problems]
        tokens = [tokenizer.encode(text) for text in self._shown]
        self.too_long = {i for i, t in enumerate(tokens) if len(t) > longest}
        samples = (1,) if greedy_only else (1, plan.samples_per_problem)
        self.requests = [
            Request(tokens[i], prompt=i, sample=sample, decoding=decoding, key=_key(problems[i].task_id))
            for decoding, count in enumerate(samples)
            for i in range(len(problems))
            for sample in range(count)
        ]

    def complete(self, sampler: Callable[[], Sampler], wanted: Sequence[int]) -> Iterator[tuple[int, Sample]]:
        """(number, sample) of the requests of these numbers, as they end. sampler: called where one is needed."""
        fitting = []
        for number in wanted:
            if self.requests[number].prompt in self.too_long:
                yield number, self._sample(number, Completion([], "prompt too long"))
            else:
                fitting.append(number)
        if fitting:
            requests = [self.requests[number] for number in fitting]
            try:
                for i, completion in sampler().complete(requests, self._is_complete):
                    yield fitting[i], self._sample(fitting[i], completion)
            except ValueError as error:
                raise UserError(f"a prompt cannot be completed: {error}; mend the problems, or the model") from None

    def _is_complete(self, request: Request, decoded: list[int]) -> bool:
        text = self._tokenizer.decode(decoded)
        return is_complete(self._shown[request.prompt], text, self._problems[request.prompt].stop)

    def _sample(self, number: int, completion: Completion) -> Sample:
        request = self.requests[number]
        problem = self._problems[request.prompt]
        raw = self._tokenizer.decode(completion.tokens)
        return Sample(
            task_id=problem.task_id,
            completion=cut(self._shown[request.prompt], raw, problem.stop),
            raw=raw,
            sample=request.sample,
            decoding=str(self._plan.decodings[request.decoding]),
            tokens=len(completion.tokens),
            stop_reason=completion.stop_reason,
        )


class Completer:
    """Completes benchmarks with the model at a place, on every device of this process."""

    def __init__(self, model: Path, plan: Plan) -> None:
        """Loads the model. Raises UserError where there is none."""
        self._params, self._config, self._tokenizer = load_model(model)
        self.plan = plan

    def complete(
        self,
        problems: Sequence[Problem],
        parts_directory: Path,
        label: str,
        *,
        prompt_form: str,
        greedy_only: bool = False,
    ) -> tuple[list[Sample], int]:
        """(samples, prompts set aside): a greedy sample of each problem, then the sampled ones.

        What is done is written in parts, atomically; what a part holds is not done again, and which completions share a
        part changes none. A prompt that is too long for the model's context is completed by nothing, and counted.
        """
        prompts = Prompts(
            problems, self.plan, self._tokenizer, self._config.max_seq_len,
            prompt_form=prompt_form, greedy_only=greedy_only,
        )  # fmt: skip
        if prompts.too_long:
            say(
                f"{label}: warning: {len(prompts.too_long)} of {len(problems)} prompts do not fit the model's context "
                f"of {self._config.max_seq_len} beside {self.plan.max_new_tokens} new tokens; they count as failed"
            )
        parts_directory.mkdir(parents=True, exist_ok=True)
        parts = sorted(parts_directory.glob("part-*.jsonl"))
        last = int(parts[-1].stem.removeprefix("part-")) if parts else -1
        done = {number: sample for part in parts for number, sample in _read_part(part)}
        wanted = [number for number in range(len(prompts.requests)) if number not in done]
        unwritten: list[tuple[int, Sample]] = []
        with Progress(label, len(prompts.requests), "completions", start=len(done)) as bar:
            for number, sample in prompts.complete(lambda: self._sampler, wanted):
                done[number] = sample
                unwritten.append((number, sample))
                bar.advance()
                if len(unwritten) == PART or len(done) == len(prompts.requests):
                    last += 1
                    path = parts_directory / f"part-{last:05d}.jsonl"
                    write_atomic(path, "".join(_line(*numbered) for numbered in unwritten))
                    unwritten = []
        return [done[number] for number in range(len(prompts.requests))], len(prompts.too_long)

    @functools.cached_property
    def _sampler(self) -> Sampler:
        from phi_jax.parallel.sampler_mesh import all_devices

        return make_sampler(self._params, self._config, self._tokenizer, self.plan, all_devices())


def make_sampler(params: Params, config: PhiConfig, tokenizer: Tokenizer, plan: Plan, devices: Devices) -> Sampler:
    """The sampler that completes prompts by `plan`."""
    return Sampler(
        params, config,
        end_of_text_id=tokenizer.end_of_text_id, max_new_tokens=plan.max_new_tokens, decodings=plan.decodings,
        slots=SlotPlan(plan.slots, plan.live_slots, 1 + plan.samples_per_problem),
        devices=devices,
    )  # fmt: skip


def _key(task_id: str) -> int:
    """What keys a problem's draws: the same wherever it stands in a file, and whatever stands beside it."""
    return zlib.crc32(task_id.encode()) & 0x7FFFFFFF


def _line(number: int, sample: Sample) -> str:
    return json.dumps({"number": number, **dataclasses.asdict(sample)}) + "\n"


def _read_part(part: Path) -> Iterator[tuple[int, Sample]]:
    for line in part.read_text().splitlines():
        row = json.loads(line)
        yield row.pop("number"), Sample(**row)


def complete_text(model: str, prompt: str, *, max_new_tokens: int, decoding: Decoding) -> str:
    """The prompt and its completion, as `phi-jax sample` prints them.

    Raises UserError for a prompt that does not fit the model's context.
    """
    params, config, tokenizer = load_model(model)
    sampler = Sampler(
        params, config,
        end_of_text_id=tokenizer.end_of_text_id, max_new_tokens=max_new_tokens, decodings=(decoding,), slots=1,
    )  # fmt: skip
    try:
        ((_, completion),) = sampler.complete([Request(tokenizer.encode(prompt))])
    except ValueError as error:
        raise UserError(f"--prompt: {error}; shorten it, or lower --max-new-tokens") from None
    return prompt + tokenizer.decode(completion.tokens)
