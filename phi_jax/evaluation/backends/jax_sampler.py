"""Completions by our sampler, on every device of this process."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from phi_jax.errors import UserError
from phi_jax.evaluation.backends import Decoded, TokenBackend
from phi_jax.evaluation.completion import Plan, Request
from phi_jax.model.sampling import Decoding
from phi_jax.parallel import sampler
from phi_jax.weights.models import Loaded, load_model

SLOTS = 32  # completions decoded at once on each device


def open_model(model: Path, plan: Plan, *, slots: int = SLOTS, live_slots: int | None = None) -> JaxBackend:
    """Loads a Hugging Face directory or a training artifact. Raises UserError where there is none."""
    return JaxBackend(load_model(model), plan, slots=slots, live_slots=live_slots)


class JaxBackend(TokenBackend):
    """A model in memory. live_slots: how many of the slots are used, all if None; it changes no completion."""

    def __init__(self, loaded: Loaded, plan: Plan, *, slots: int = SLOTS, live_slots: int | None = None) -> None:
        params, config, tokenizer = loaded
        super().__init__(tokenizer, config.max_seq_len, plan)
        self.settings = {"backend": "jax", "slots": slots}
        self._sampler = sampler.Sampler(
            params, config,
            end_of_text_id=tokenizer.end_of_text_id, max_new_tokens=plan.max_new_tokens,
            slots=slots, live_slots=live_slots,
        )  # fmt: skip

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
        ended = self._sampler.complete(asked, lambda i, tokens: self.has_stopped(requests[i], tokens))
        for i, completion in ended:
            end = [self.tokenizer.end_of_text_id] if completion.stop_reason == "end_of_text" else []
            yield i, [*completion.tokens, *end]


def complete_text(model: str, prompt: str, *, max_new_tokens: int, decoding: Decoding) -> str:
    """The prompt and its completion, as `phi-jax sample` prints them.

    Raises UserError for a prompt that is empty, and for one that does not fit the model's context with what is asked.
    """
    params, config, tokenizer = load_model(Path(model))
    tokens = tokenizer.encode(prompt)
    if not tokens:
        raise UserError("--prompt: empty; give some text to complete")
    room = config.max_seq_len - len(tokens)
    if room < 1:
        raise UserError(f"--prompt: {len(tokens)} tokens fill the model's context of {config.max_seq_len}; shorten it")
    if not 1 <= max_new_tokens <= room:
        raise UserError(
            f"--max-new-tokens {max_new_tokens}: must be from 1 to {room}, since the prompt has {len(tokens)} tokens "
            f"and the model's context {config.max_seq_len}"
        )
    one = sampler.Sampler(
        params, config, end_of_text_id=tokenizer.end_of_text_id, max_new_tokens=max_new_tokens, slots=1
    )
    ((_, completion),) = one.complete([sampler.Request(tokens, decoding=decoding)])
    return prompt + tokenizer.decode(completion.tokens)
