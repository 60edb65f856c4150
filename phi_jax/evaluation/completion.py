"""Completions of a benchmark's problems by a model, in parts that a killed run goes on from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phi_jax.artifact import write_atomic
from phi_jax.errors import UserError
from phi_jax.evaluation.execution import Sample, shown_prompt
from phi_jax.evaluation.problems import Problem
from phi_jax.evaluation.stops import cut, is_complete
from phi_jax.interchange.export import load_model
from phi_jax.model.sampler import Decoding, Request, Sampler
from phi_jax.progress import Progress, say

if TYPE_CHECKING:
    from phi_jax.tokens.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a benchmark is completed."""

    prompt_form: str = "stripped"
    max_new_tokens: int = 64
    batch_size: int = 32
    samples_per_problem: int = 5  # sampled ones, beside the greedy one; 0 = greedy only
    temperature: float = 0.2
    top_p: float = 0.95
    seed: int = 0


def complete_problems(
    model: Path, problems: Sequence[Problem], plan: Plan, parts_directory: Path, label: str
) -> tuple[list[Sample], int]:
    """(samples, prompts set aside): a greedy sample of each problem, then the sampled ones.

    Each batch is written to a part of its own, atomically; a part that is there is not made again. A prompt that
    is too long for the model's context is completed by nothing, and counted.
    """
    params, config, tokenizer = load_model(model)
    parts_directory.mkdir(parents=True, exist_ok=True)
    longest = config.max_seq_len - plan.max_new_tokens
    if longest < 1:
        raise UserError(
            f"config.evaluate.max_new_tokens={plan.max_new_tokens}: the model's context of {config.max_seq_len} "
            "tokens leaves no room for a prompt"
        )
    shown = [shown_prompt(p.prompt, plan.prompt_form) for p in problems]
    tokens = [tokenizer.encode(text) for text in shown]
    too_long = {i for i, t in enumerate(tokens) if len(t) > longest}
    if too_long:
        say(
            f"warning: {len(too_long)} of {len(problems)} prompts have more than {longest} tokens; they count as failed"
        )

    # --- Greedy first, so that the entry a reader meets first is the reproducible one -------------------------------
    jobs: list[tuple[Decoding, Request]] = []
    greedy = Decoding(seed=plan.seed)
    drawn = Decoding(plan.temperature, plan.top_p, plan.seed)
    for decoding, count in ((greedy, 1), (drawn, plan.samples_per_problem)):
        for i in range(len(problems)):
            jobs += [(decoding, Request(tokens[i], i, s)) for s in range(count)]

    # Prompts of like length share a batch, since the sampler pads them alike; the order is put back after.
    order = sorted(range(len(jobs)), key=lambda i: (i >= len(problems), len(jobs[i][1].tokens), i))
    made_in_order: list[Sample] = []
    with Progress(label, len(jobs), "completions") as bar:
        for number, start in enumerate(range(0, len(jobs), plan.batch_size)):
            batch = [jobs[i] for i in order[start : start + plan.batch_size]]
            part = parts_directory / f"part-{number:05d}.jsonl"
            if not part.exists():
                made = []
                for decoding in dict.fromkeys(d for d, _ in batch):
                    sampler = Sampler(
                        params, config,
                        end_of_text_id=tokenizer.end_of_text_id, max_new_tokens=plan.max_new_tokens,
                        batch_size=plan.batch_size, decoding=decoding,
                    )  # fmt: skip
                    requests = [r for d, r in batch if d == decoding]
                    made += _complete(sampler, tokenizer, problems, shown, requests, str(decoding), too_long)
                write_atomic(part, "".join(json.dumps(dataclasses.asdict(s)) + "\n" for s in made))
            made_in_order += [Sample(**json.loads(line)) for line in part.read_text().splitlines()]
            bar.advance(len(batch))
    samples = [sample for _, sample in sorted(zip(order, made_in_order, strict=True), key=lambda pair: pair[0])]
    return samples, len(too_long)


def _complete(
    sampler: Sampler, tokenizer: Tokenizer, problems: Sequence[Problem], shown: Sequence[str],
    requests: Sequence[Request], decoding: str, too_long: set[int],
) -> list[Sample]:  # fmt: skip
    fitting = [r for r in requests if r.prompt not in too_long]

    def stopped(request: Request, decoded: list[int]) -> bool:
        return is_complete(shown[request.prompt], tokenizer.decode(decoded))

    keys = [(r.prompt, r.sample) for r in fitting]
    completions = dict(zip(keys, sampler.complete(fitting, stopped), strict=True))
    samples = []
    for request in requests:
        completion = completions.get((request.prompt, request.sample))
        raw = tokenizer.decode(completion.tokens) if completion else ""
        samples.append(
            Sample(
                task_id=problems[request.prompt].task_id,
                completion=cut(shown[request.prompt], raw),
                raw=raw,
                sample=request.sample,
                decoding=decoding,
                tokens=len(completion.tokens) if completion else 0,
                stop_reason=completion.stop_reason if completion else "prompt too long",
            )
        )
    return samples


def complete_text(model: str, prompt: str, *, max_new_tokens: int, temperature: float, seed: int) -> str:
    """The prompt and its completion, as `phi-jax sample` prints them.

    Raises UserError for a prompt that does not fit the model's context.
    """
    params, config, tokenizer = load_model(model)
    sampler = Sampler(
        params, config,
        end_of_text_id=tokenizer.end_of_text_id, max_new_tokens=max_new_tokens, batch_size=1,
        decoding=Decoding(temperature=temperature, seed=seed),
    )  # fmt: skip
    try:
        completion = next(sampler.complete([Request(tokenizer.encode(prompt))]))
    except ValueError as error:
        raise UserError(f"--prompt: {error}; shorten it, or lower --max-new-tokens") from None
    return prompt + tokenizer.decode(completion.tokens)
