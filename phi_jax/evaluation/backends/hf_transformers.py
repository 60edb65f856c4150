"""Completions by transformers on torch. Rows do not touch each other: each has its mask, positions and draws."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from phi_jax.errors import UserError
from phi_jax.evaluation.backends import Decoded, ExportBackend, seed_of
from phi_jax.evaluation.completion import Plan, Request

LOOK_EVERY = 16  # tokens between two looks at the stop rule: each decodes every row again


class Transformers(ExportBackend):
    """An exported directory. batch_size: completions at once."""

    def __init__(self, model: Path, plan: Plan, *, dtype: str = "", device: str = "cuda", batch_size: int = 64) -> None:
        """Raises UserError where a weight is missing, and as ExportBackend."""
        super().__init__(transformers, model, plan, dtype=dtype, device=device)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        loaded: Any
        report: Any
        loaded, report = transformers.AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            model, dtype=getattr(torch, self.dtype), local_files_only=True, output_loading_info=True
        )
        if missing := report["missing_keys"]:  # transformers draws them at random
            raise UserError(f"{model}: tensor {min(missing)} is missing; see `phi-jax lint {model}`")
        self._model = loaded.to(device).eval()
        self._device, self._batch_size = device, batch_size
        # None of the model's own settings, such as a penalty: nothing but what was asked for.
        end = self.tokenizer.end_of_text_id
        self._model.generation_config = transformers.GenerationConfig(
            do_sample=False, max_new_tokens=plan.max_new_tokens, eos_token_id=end, pad_token_id=end
        )

    def decode(self, requests: Sequence[Request], prompts: Sequence[list[int]]) -> Decoded:
        """See TokenBackend. Raises UserError where the device's memory is full."""
        for start in range(0, len(requests), self._batch_size):
            batch = slice(start, start + self._batch_size)
            try:
                rows = self._generate(requests[batch], prompts[batch])
            except torch.OutOfMemoryError:
                raise UserError(
                    f"--batch-size {self._batch_size}: the device's memory is full; lower it, and what is done stays "
                    "done"
                ) from None
            yield from enumerate(rows, start)

    def _generate(self, requests: Sequence[Request], prompts: Sequence[list[int]]) -> list[list[int]]:
        """The new tokens of one batch."""
        plan, end, width = self.plan, self.tokenizer.end_of_text_id, max(map(len, prompts))
        # Padded on the left, so that all go on in the same column; `generate` counts positions along the mask.
        ids = torch.tensor([[end] * (width - len(p)) + p for p in prompts], device=self._device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._device)
        # The most probable token stays so under temperature, top-k and top-p: greedy rows may pass through them.
        processors = [
            transformers.TemperatureLogitsWarper(plan.temperature),
            transformers.TopKLogitsWarper(plan.top_k or self._model.config.vocab_size),
            transformers.TopPLogitsWarper(plan.top_p),
            Draw([None if r.is_greedy else seed_of(plan, r) for r in requests], self._device),
        ]

        def stopped(tokens: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
            new = tokens[:, width:]
            look = new.shape[1] % LOOK_EVERY == 0
            rows = zip(requests, new.tolist(), strict=True)
            return torch.tensor([look and self.has_stopped(*row) for row in rows], device=self._device)

        output = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            logits_processor=transformers.LogitsProcessorList(processors),
            stopping_criteria=transformers.StoppingCriteriaList([stopped]),
        )
        return output[:, width:].tolist()


class Draw(transformers.LogitsProcessor):
    """Gumbel noise, by each row's own seed: the largest of scores + noise is a draw from softmax(scores).

    seeds: None for a greedy row, which gets no noise. Raises UserError for logits that are not numbers, of which the
    largest would be chosen all the same.
    """

    def __init__(self, seeds: Sequence[int | None], device: str) -> None:
        self._generators = [None if seed is None else torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not scores.amax(-1).isfinite().all():
            raise UserError("--model: its logits are not finite in this dtype; try another --dtype")
        for row, generator in enumerate(self._generators):
            if generator is not None:
                scores[row] -= torch.empty_like(scores[row]).exponential_(generator=generator).log()
        return scores


open_model = Transformers
