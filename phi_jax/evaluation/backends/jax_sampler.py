"""Completions by our sampler, on every device of this process."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from phi_jax.evaluation.backends import Decoded, TokenBackend
from phi_jax.evaluation.completion import Plan, Request
from phi_jax.model.sampling import Decoding
from phi_jax.parallel import sampler
from phi_jax.weights.models import Loaded, load_model

SLOTS = 32  # completions decoded at once on each device


def open_model(model: Path, plan: Plan, *, slots: int = SLOTS) -> JaxBackend:
    """Loads a Hugging Face directory or a training artifact. Raises UserError where there is none."""
    return JaxBackend(load_model(model), plan, slots)


class JaxBackend(TokenBackend):
    """A model in memory. slots: completions decoded at once on each device."""

    def __init__(self, loaded: Loaded, plan: Plan, slots: int = SLOTS) -> None:
        params, config, tokenizer = loaded
        super().__init__(tokenizer, config.max_seq_len, plan)
        self.settings = {"backend": "jax", "slots": slots}
        end = tokenizer.end_of_text_id
        self._sampler = sampler.Sampler(
            params, config, end_of_text_id=end, max_new_tokens=plan.max_new_tokens, slots=slots
        )

    def decode(self, requests: Sequence[Request], prompts: Sequence[list[int]]) -> Decoded:
        """See TokenBackend. What keys a problem's draws is the same wherever it stands in a file."""
        plan = self.plan
        drawn = Decoding(plan.temperature, plan.top_p, plan.seed, plan.top_k)
        asked = [
            sampler.Request(
                tokens, zlib.crc32(r.task_id.encode()) & 0x7FFFFFFF, r.sample, Decoding() if r.is_greedy else drawn
            )
            for r, tokens in zip(requests, prompts, strict=True)
        ]
        for i, completion in self._sampler.complete(asked, lambda i, tokens: self.has_stopped(requests[i], tokens)):
            end = [self.tokenizer.end_of_text_id] if completion.stop_reason == "end_of_text" else []
            yield i, [*completion.tokens, *end]
