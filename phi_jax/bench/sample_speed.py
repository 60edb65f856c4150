"""`phi-jax bench sample`: tokens a second of the sampler with a config's model, at several numbers of slots.

Weights are random, so nothing ends a completion by itself: each is given a length beforehand.
"""

import argparse
import time
from collections.abc import Sequence

from phi_jax.bench.result import publish
from phi_jax.bench.train_speed import case_of
from phi_jax.config import load
from phi_jax.store.artifact import Json

# The spread of a trained model's logits, about ten times that of fresh weights: top-p keeps few tokens, not thousands.
HEAD_SCALE = 10.0


def run(options: argparse.Namespace, config_arguments: Sequence[str]) -> None:
    """Measures, prints the result as JSON and writes it to options.out. Raises UserError for slots without sense."""
    model = case_of(load(config_arguments))["model"]
    work = work_of(model)
    publish(lambda: {**work, "figures": [measure(model, work, slots) for slots in options.slots]}, options.out)


def work_of(model: Json) -> Json:
    """What is decoded: about HumanEval's prompts, completions and decoding, as far as the context takes them."""
    part = model["max_seq_len"] // 4
    return {
        "problems": 4, "samples_per_problem": 20, "prompt_tokens": min(180, part), "max_new_tokens": min(192, part),
        "temperature": 0.2, "top_p": 0.95,
    }  # fmt: skip


def workload(vocab_size: int, work: Json) -> tuple[list[list[int]], list[list[int]]]:
    """Random prompts [problems][prompt_tokens], and tokens of each completion [problems][samples_per_problem].

    Lengths are geometric with a mean of a third of max_new_tokens, cut there: most bodies are short, and the longest
    keeps a batch waiting, as in HumanEval.
    """
    import numpy as np

    problems, random = work["problems"], np.random.default_rng(0)
    prompts = random.integers(0, vocab_size, (problems, work["prompt_tokens"]))
    drawn = random.geometric(3 / work["max_new_tokens"], (problems, work["samples_per_problem"]))
    return prompts.tolist(), np.minimum(drawn, work["max_new_tokens"]).tolist()


def measure(model: Json, work: Json, slots: int) -> Json:
    """Tokens a second of the whole workload in so many slots, in this process."""
    import jax

    from phi_jax.model import phi
    from phi_jax.model.sampling import Decoding
    from phi_jax.parallel.sampler import Request, Sampler

    config = phi.PhiConfig(**model)
    params = phi.init_params(config, jax.random.key(0))
    params["head"]["kernel"] *= HEAD_SCALE
    sampler = Sampler(
        params, config, end_of_text_id=config.vocab_size, max_new_tokens=work["max_new_tokens"], slots=slots
    )
    prompts, lengths = workload(config.vocab_size, work)
    decoding = Decoding(work["temperature"], work["top_p"])
    requests = [Request(p, i, s, decoding) for i, p in enumerate(prompts) for s in range(work["samples_per_problem"])]
    wanted = [length for row in lengths for length in row]
    list(sampler.complete(requests[:2], lambda i, tokens: True))  # compiles
    start = time.perf_counter()
    list(sampler.complete(requests, lambda i, tokens: len(tokens) >= wanted[i]))
    seconds = time.perf_counter() - start
    tokens = sum(wanted)
    return {"slots": slots, "tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}
