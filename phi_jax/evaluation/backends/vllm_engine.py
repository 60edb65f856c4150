"""Completions by vLLM. Never run: written from the signatures of vllm 0.33.0, tested with a stand-in for it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import vllm

from phi_jax.errors import UserError
from phi_jax.evaluation.backends import ExportBackend, seed_of
from phi_jax.evaluation.completion import Plan, Request
from phi_jax.evaluation.stops import STOP_STRINGS, body_indent

AT_ONCE = 1024  # completions asked for at once: vLLM itself decides how many of them are decoded together
LOWEST_TEMPERATURE = 0.01  # vLLM raises a lower one to this (vllm/sampling_params.py)
# At each of these the rule `dedent` cuts a body, so that stopping there changes no completion: it only saves time.
# The rule itself, any line that is indented less, is not to be had as strings. (The first five: Chen et al. 2021.)
DEDENTS = (*STOP_STRINGS["human-eval"], "\n@", "\nassert", "\nfor", "\nfrom", "\nimport")
os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # torch has opened the GPU by then, and a fork loses it


class Vllm(ExportBackend):
    """An exported directory."""

    def __init__(self, model: Path, plan: Plan, *, dtype: str = "") -> None:
        """Raises UserError for a temperature that vLLM would change, and as ExportBackend."""
        super().__init__(vllm, model, plan, dtype=dtype)
        if plan.samples_per_problem and plan.temperature < LOWEST_TEMPERATURE:
            raise UserError(f"--temperature {plan.temperature}: vLLM has none between 0 and {LOWEST_TEMPERATURE}")
        # generation_config="vllm": none of the model's own settings, such as a penalty.
        self._llm = vllm.LLM(model=str(model), dtype=self.dtype, max_model_len=self.context, generation_config="vllm")

    def decode(self, requests: Sequence[Request], prompts: Sequence[list[int]]) -> Iterator[tuple[int, list[int]]]:
        """See TokenBackend."""
        for start in range(0, len(requests), AT_ONCE):
            batch = slice(start, start + AT_ONCE)
            outputs = self._llm.generate(
                [{"prompt_token_ids": prompt} for prompt in prompts[batch]],
                [self._parameters(request) for request in requests[batch]],
                use_tqdm=False,
            )
            yield from enumerate((list(output.outputs[0].token_ids) for output in outputs), start)

    def _parameters(self, request: Request) -> vllm.SamplingParams:
        plan = self.plan
        return vllm.SamplingParams(
            temperature=0.0 if request.is_greedy else plan.temperature,
            top_p=1.0 if request.is_greedy else plan.top_p,
            top_k=0 if request.is_greedy else plan.top_k,
            seed=seed_of(plan, request),
            max_tokens=plan.max_new_tokens,
            stop=stop_strings(request.shown, request.stop),
            stop_token_ids=[self.tokenizer.end_of_text_id],
        )


def stop_strings(shown: str, rule: str) -> list[str]:
    """Strings at which the rule cuts wherever they come first; none where it has no such behind this prompt.

    Behind a prompt without its last newline a rule's own strings would stop too early: a first newline is the prompt's.
    """
    if rule == "dedent":
        return list(DEDENTS) if body_indent(shown) > 0 else []
    return list(STOP_STRINGS[rule]) if shown.endswith("\n") else []


open_model = Vllm
