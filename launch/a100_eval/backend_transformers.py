"""Completions by transformers on torch. Rows do not touch each other: each has its mask, positions and draws."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from phi_jax.errors import UserError

if TYPE_CHECKING:
    from complete import Decoding, Request

BATCH_SIZE = 64  # completions at once, where the user names no number
LOOK_EVERY = 16  # tokens between two looks at the stop rule: each decodes every row again


def surroundings(device: str) -> dict[str, Any]:
    """{"versions", "device"} that completions are made with. Raises UserError where the device is not there."""
    return {
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "device": cuda_device() if device == "cuda" else f"{platform.machine()} CPU, {os.cpu_count()} cores",
    }


def cuda_device() -> str:
    """The name of the GPU. Raises UserError where torch sees none."""
    if not torch.cuda.is_available():
        raise UserError(
            f"--device cuda: torch {torch.__version__} sees no GPU; start it on a machine with one and a driver for "
            f"CUDA {torch.version.cuda or '(this torch is built without)'}, or try a small model with --device cpu"
        )
    return torch.cuda.get_device_name(0)


class Completer:
    """The model on the device. Raises UserError where a weight is missing."""

    def __init__(self, model: Path, dtype: str, device: str, decoding: Decoding, context: int) -> None:
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
            model, dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True
        )
        if report["missing_keys"]:  # transformers draws them at random
            raise UserError(f"{model}: tensor {min(report['missing_keys'])} is missing; see `phi-jax lint {model}`")
        self._model = loaded.to(device).eval()
        self._device = device
        self._end = decoding.end_of_text_id
        # None of the model's own settings, such as a penalty: nothing but what was asked for.
        self._model.generation_config = transformers.GenerationConfig(
            do_sample=False,
            max_new_tokens=decoding.max_new_tokens,
            eos_token_id=self._end,
            pad_token_id=self._end,
        )
        self._decoding = decoding

    def complete(self, requests: Sequence[Request], stopped: Callable[[Request, list[int]], bool]) -> list[list[int]]:
        """The new tokens of each request; the first end-of-text token ends them. One batch."""
        width = max(len(r.tokens) for r in requests)
        # Padded on the left, so that all go on in the same column; `generate` counts positions along the mask.
        ids = torch.tensor([[self._end] * (width - len(r.tokens)) + r.tokens for r in requests])
        mask = torch.tensor([[0] * (width - len(r.tokens)) + [1] * len(r.tokens) for r in requests])
        processors: list[transformers.LogitsProcessor] = [Finite(str(self._model.dtype))]
        if self._decoding.temperature > 0:
            processors += [
                transformers.TemperatureLogitsWarper(self._decoding.temperature),
                transformers.TopPLogitsWarper(self._decoding.top_p),
                Draw([r.seed for r in requests], self._device),
            ]
        try:
            output = self._model.generate(
                input_ids=ids.to(self._device),
                attention_mask=mask.to(self._device),
                logits_processor=transformers.LogitsProcessorList(processors),
                stopping_criteria=transformers.StoppingCriteriaList([Stop(requests, width, self._end, stopped)]),
            )
        except torch.OutOfMemoryError:
            raise UserError(
                f"--batch-size {len(requests)}: the device's memory is full; lower it, and what is done stays done"
            ) from None
        return output[:, width:].tolist()


class Finite(transformers.LogitsProcessor):
    """Raises UserError for logits that are not numbers, of which the largest would be chosen all the same."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype.removeprefix("torch.")

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(scores).all():
            raise UserError(f"--model: its logits are not finite in {self._dtype}; try another --dtype")
        return scores


class Draw(transformers.LogitsProcessor):
    """Gumbel noise, by each row's own seed: the largest of scores + noise is a draw from softmax(scores)."""

    def __init__(self, seeds: Sequence[int], device: str) -> None:
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = torch.stack([torch.empty_like(scores[0]).exponential_(generator=g) for g in self._generators])
        return scores - noise.log()


class Stop(transformers.StoppingCriteria):
    """Ends a row once its completion has met the stop rule."""

    def __init__(
        self, requests: Sequence[Request], width: int, end: int, stopped: Callable[[Request, list[int]], bool]
    ) -> None:
        self._requests, self._width, self._end, self._stopped = requests, width, end, stopped
        self._done = [False] * len(requests)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        if (input_ids.shape[1] - self._width) % LOOK_EVERY == 0:
            for row, tokens in enumerate(input_ids[:, self._width :].tolist()):
                if not self._done[row]:
                    self._done[row] = self._end in tokens or self._stopped(self._requests[row], tokens)
        return torch.tensor(self._done, device=input_ids.device)
