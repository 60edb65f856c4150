"""The peer of `bench sample`: transformers' generate on the same prompts, lengths and decoding, a problem a call."""

from __future__ import annotations

import time
from typing import Any

from phi_jax.bench.child import serve
from phi_jax.bench.peer_transformers import phi_model
from phi_jax.bench.sample import HEAD_SCALE, SampleCase
from phi_jax.bench.surroundings import usable_cores
from phi_jax.bench.timing import cpu_seconds, cpu_shares


def measure(case: SampleCase, *, what: str) -> dict[str, Any]:
    """The figures of the peer on the workload. A row that has its length is done; the call ends with the last one."""
    import torch
    import transformers

    assert what == "workload"
    torch.set_num_threads(usable_cores())
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = phi_model(case.name, case.model, "sdpa", device).eval()
    with torch.no_grad():
        model.lm_head.weight *= HEAD_SCALE
    model = model.to(getattr(torch, case.model["compute_dtype"]))

    class Lengths(transformers.StoppingCriteria):
        def __init__(self, lengths: list[int]) -> None:
            self._ends = torch.tensor(lengths, device=device) + case.prompt_tokens

        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            return input_ids.shape[1] >= self._ends

    def generate(prompt: list[int], lengths: list[int]) -> int:
        ids = torch.tensor([prompt], device=device)
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=case.temperature, top_p=case.top_p,
            top_k=0, num_return_sequences=len(lengths), max_new_tokens=case.max_new_tokens, eos_token_id=None,
            pad_token_id=0, stopping_criteria=transformers.StoppingCriteriaList([Lengths(lengths)]),
        )  # fmt: skip
        return made.shape[1] - len(prompt)

    with torch.inference_mode():
        generate(case.prompts()[0], [4] * case.samples_per_problem)
        before, start = cpu_seconds(), time.perf_counter()
        for prompt, lengths in zip(case.prompts(), case.lengths(), strict=True):
            if generate(prompt, lengths) != max(lengths):
                raise RuntimeError("the peer did not decode as far as its longest completion")
        seconds = time.perf_counter() - start
    tokens = sum(map(sum, case.lengths()))
    return {
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "device_kind": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        **cpu_shares(before, cpu_seconds()),
    }


if __name__ == "__main__":
    serve(measure, SampleCase)
