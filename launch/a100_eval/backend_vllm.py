"""Completions by vLLM. Never run: written from the signatures of vllm 0.33.0, tested with a stand-in for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import vllm

from phi_jax.errors import UserError
from phi_jax.evaluation.stops import STOP_STRINGS, body_indent

if TYPE_CHECKING:
    from complete import Decoding, Request

BATCH_SIZE = 1024  # completions in a part: vLLM itself decides how many are decoded at once
LOWEST_TEMPERATURE = 0.01  # vLLM raises a lower one to this (vllm/sampling_params.py)
# At each of these the rule `dedent` cuts a body, so that stopping there changes no completion: it only saves time.
# The rule itself, any line that is indented less, is not to be had as strings. (The first five: Chen et al. 2021.)
DEDENTS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n@", "\nassert", "\nfor", "\nfrom", "\nimport")
os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # torch has opened the GPU by then, and a fork loses it


def surroundings(device: str) -> dict[str, Any]:
    """{"versions", "device"} that completions are made with. Raises UserError where torch sees no GPU."""
    if not torch.cuda.is_available():
        raise UserError("--backend vllm: torch sees no GPU; start it on a machine with one, and a driver that fits")
    return {
        "versions": {"vllm": vllm.__version__, "torch": torch.__version__},
        "device": torch.cuda.get_device_name(0),
    }


class Completer:
    """vLLM with the model. Raises UserError for a temperature that vLLM would change."""

    def __init__(self, model: Path, dtype: str, device: str, decoding: Decoding, context: int) -> None:
        if 0 < decoding.temperature < LOWEST_TEMPERATURE:
            raise UserError(f"--temperature {decoding.temperature}: vLLM knows none from 0 to {LOWEST_TEMPERATURE}")
        # generation_config="vllm": none of the model's own settings, such as a penalty.
        self._llm = vllm.LLM(model=str(model), dtype=dtype, max_model_len=context, generation_config="vllm")
        self._decoding = decoding

    def complete(self, requests: Sequence[Request], stopped: Callable[[Request, list[int]], bool]) -> list[list[int]]:
        """The new tokens of each request; the first end-of-text token ends them."""
        outputs = self._llm.generate(
            [{"prompt_token_ids": r.tokens} for r in requests],
            [
                vllm.SamplingParams(
                    temperature=self._decoding.temperature,
                    top_p=self._decoding.top_p,
                    seed=r.seed,
                    max_tokens=self._decoding.max_new_tokens,
                    stop=stop_strings(r.shown, r.stop),
                    stop_token_ids=[self._decoding.end_of_text_id],
                )
                for r in requests
            ],
            use_tqdm=False,
        )
        return [list(output.outputs[0].token_ids) for output in outputs]


def stop_strings(shown: str, rule: str) -> list[str]:
    """Strings at which the rule cuts wherever they come first; none where it has no such behind this prompt.

    Behind a prompt without its last newline a rule's own strings would stop too early: a first newline is the prompt's.
    """
    if rule == "dedent":
        return list(DEDENTS) if body_indent(shown) > 0 else []
    return list(STOP_STRINGS[rule]) if shown.endswith("\n") else []
