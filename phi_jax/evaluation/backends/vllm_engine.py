"""Completions by vLLM, each decoded to its end and cut then.

Never run: written from the signatures of vllm 0.33.0, tested with a stand-in for it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import vllm

from phi_jax.evaluation.backends import Decoded, ExportBackend, seed_of
from phi_jax.evaluation.completion import Plan, Request

AT_ONCE = 1024  # completions asked for at once: vLLM itself decides how many of them are decoded together
os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # torch has opened the GPU by then, and a fork loses it


class Vllm(ExportBackend):
    """An exported directory."""

    def __init__(self, model: Path, plan: Plan, *, dtype: str = "") -> None:
        """Raises UserError as ExportBackend."""
        super().__init__(vllm, model, plan, dtype=dtype)
        # generation_config="vllm": none of the model's own settings, such as a penalty.
        self._llm = vllm.LLM(model=str(model), dtype=self.dtype, max_model_len=self.context, generation_config="vllm")

    def decode(self, requests: Sequence[Request], prompts: Sequence[list[int]]) -> Decoded:
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
            stop_token_ids=[self.tokenizer.end_of_text_id],
        )


open_model = Vllm
