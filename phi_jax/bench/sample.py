"""`phi-jax bench sample`: tokens a second of the sampler, beside the memory's bandwidth and transformers' generate.

Weights are random, so nothing ends a completion by itself: each is given a length beforehand, the same for both sides.
Also `python -m phi_jax.bench.sample`, which needs only jax and flax (and the peer torch and transformers).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phi_jax.bench.case import SHAPES
from phi_jax.bench.child import run_child, serve
from phi_jax.bench.result import check_out, publish
from phi_jax.bench.rounds import ratio_of
from phi_jax.bench.surroundings import surroundings
from phi_jax.bench.timing import cpu_seconds, cpu_shares

EXAMPLE = "phi-jax bench sample --shape phi_1 --layers 2 --slots 1 32 --peer transformers"
OURS, PEER = "phi_jax.bench.sample", "phi_jax.bench.peer_generate"
# The spread of a trained model's logits, about ten times that of fresh weights: top-p keeps few tokens, not thousands.
HEAD_SCALE = 10.0


@dataclasses.dataclass(frozen=True)
class SampleCase:
    """What is decoded; plain JSON values, since it travels to child processes."""

    name: str
    model: dict[str, Any]  # fields of phi_jax.model.phi.PhiConfig
    slots: int
    problems: int
    samples_per_problem: int
    prompt_tokens: int  # of each prompt
    max_new_tokens: int
    temperature: float
    top_p: float

    def prompts(self) -> list[list[int]]:
        """Random tokens, the same for both sides."""
        import numpy as np

        shape = (self.problems, self.prompt_tokens)
        return np.random.default_rng(0).integers(0, self.model["vocab_size"], shape).tolist()

    def lengths(self) -> list[list[int]]:
        """Tokens of each completion, [problems, samples_per_problem]: geometric, cut at max_new_tokens.

        The mean is a third of max_new_tokens before the cut: most bodies are short, and the longest keeps a batch
        waiting, as in HumanEval.
        """
        import numpy as np

        shape = (self.problems, self.samples_per_problem)
        drawn = np.random.default_rng(1).geometric(3 / self.max_new_tokens, shape)
        return np.minimum(drawn, self.max_new_tokens).tolist()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `run`."""
    add = parser.add_argument
    add("--shape", choices=tuple(SHAPES), default="phi_1", help="of the model (default phi_1)")
    add("--layers", type=int, metavar="L", help="blocks, fewer than the shape has where memory or patience is short")
    add("--dtype", choices=("bfloat16", "float32"), default="float32", help="of weights and cache (default float32)")
    add("--slots", type=int, nargs="+", default=[1, 32, 256], metavar="N", help="measured each (default 1 32 256)")
    add("--problems", type=int, default=4, metavar="N", help="prompts in the workload (default 4)")
    add("--samples-per-problem", type=int, default=20, metavar="N", help="default 20")
    add("--prompt-tokens", type=int, default=180, metavar="N", help="as HumanEval's have (default 180)")
    add("--max-new-tokens", type=int, default=192, metavar="N", help="default 192")
    add("--temperature", type=float, default=0.2, metavar="T", help="default 0.2")
    add("--top-p", type=float, default=0.95, metavar="P", help="default 0.95")
    add("--peer", choices=("transformers",), help="measure that one too, in turns, and print the ratio")
    add("--rounds", type=int, default=3, metavar="N", help="turns with --peer (default 3)")
    add("--out", type=Path, metavar="FILE.json", help="where the result goes")


def run(options: argparse.Namespace, _: Sequence[str] = ()) -> None:
    """Measures, prints the result as JSON and writes it to options.out. Raises UserError for options without sense."""
    check_out(options.out)
    shape = dict(SHAPES[options.shape])
    shape["num_layers"] = options.layers or shape["num_layers"]
    decoding = {name: getattr(options, name) for name in ("problems", "samples_per_problem", "prompt_tokens")}
    decoding |= {name: getattr(options, name) for name in ("max_new_tokens", "temperature", "top_p")}
    cases = [
        SampleCase(name=options.shape, model={**shape, "compute_dtype": options.dtype}, slots=slots, **decoding)
        for slots in options.slots
    ]
    result = measure_all(cases, options.peer, options.rounds)
    publish(result, options.out)


def measure_all(cases: Sequence[SampleCase], peer: str | None, rounds: int) -> dict[str, Any]:
    """{"surroundings", "steady": a segment of each case beside the ceiling, "workload": the largest ratio's rounds}.

    The workload, so many samples of each problem, is decoded in the slots of the case nearest to the number of samples.
    """
    steady = []
    for case in cases:
        steady.append(run_child(OURS, case, what="steady"))
        found = steady[-1]
        print(
            f"{case.slots} slots: {found['tokens_per_second']:.1f} tokens/s, {100 * found['share_of_ceiling']:.0f} % "
            "of what reading weights and caches allows",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    case = min(cases, key=lambda c: abs(c.slots - c.samples_per_problem))
    result = {
        "surroundings": surroundings(),
        "steady": steady,
        "case": {**vars(case), "head_scale": HEAD_SCALE, "tokens": sum(map(sum, case.lengths()))},
    }
    if peer is None:
        return result | {"rounds": [{"ours": run_child(OURS, case, what="workload")}]}
    pairs = []
    for number in range(rounds):
        sides = {"ours": OURS, "peer": PEER}
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        figures = {side: run_child(sides[side], case, what="workload") for side in order}
        pairs.append({side: figures[side] for side in sides})
        speeds = (f"{side} {pairs[-1][side]['tokens_per_second']:.1f}" for side in sides)
        print(f"round {number + 1}: {', '.join(speeds)} tokens/s", file=sys.stderr, flush=True)
    ratio = ratio_of(pairs)
    print(
        f"ours / transformers generate at {case.samples_per_problem} samples a problem: {ratio['median']:.2f} "
        f"({ratio['low']:.2f} to {ratio['high']:.2f}), {len(ratio['undisturbed'])} rounds undisturbed",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    return result | {"peer": "transformers PhiForCausalLM.generate, a problem a call", "ratio": ratio, "rounds": pairs}


# --- In a process of its own ------------------------------------------------------------------------------------------


def measure(case: SampleCase, *, what: str) -> dict[str, Any]:
    """The figures of one side. what: "steady" or "workload"."""
    import jax

    from phi_jax.model import phi
    from phi_jax.model.sampler import Request, Sampler
    from phi_jax.model.sampling import Decoding

    config = phi.PhiConfig(**case.model)
    params = phi.init_params(config, jax.random.key(0))
    params["head"]["kernel"] *= HEAD_SCALE
    sampler = Sampler(
        params, config,
        end_of_text_id=config.vocab_size, max_new_tokens=case.max_new_tokens,
        decodings=(Decoding(case.temperature, case.top_p),), slots=case.slots,
        samples_per_prompt=case.samples_per_problem,
    )  # fmt: skip
    if what == "steady":
        return _steady(case, config, sampler)
    prompts, lengths = case.prompts(), case.lengths()
    requests = [Request(p, i, s) for i, p in enumerate(prompts) for s in range(case.samples_per_problem)]
    warm = [Request(p, i, s) for i, p in enumerate(prompts[:1]) for s in range(2)]
    list(sampler.complete(warm, lambda request, tokens: True))
    before, start = cpu_seconds(), time.perf_counter()
    for i, completion in sampler.complete(requests, lambda r, tokens: len(tokens) >= lengths[r.prompt][r.sample]):
        if len(completion.tokens) < lengths[requests[i].prompt][requests[i].sample]:
            raise RuntimeError(f"request {i} ended before its length")
    seconds = time.perf_counter() - start
    tokens = sum(map(sum, lengths))
    return {
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "device_kind": jax.devices()[0].device_kind,
        **cpu_shares(before, cpu_seconds()),
    }


def _steady(case: SampleCase, config: Any, sampler: Any) -> dict[str, Any]:
    """All slots live and half way: the time of a decode step, beside that of reading what it has to read.

    Read at each step are the weights (of the embedding only the rows of the tokens), each group's prompt and each
    slot's own cache. The ceiling is that number of bytes at the bandwidth measured here.
    """
    import jax
    import numpy as np

    from phi_jax.model import decode
    from phi_jax.model.sampler import SMALLEST_BUCKET, slots_of_a_prompt
    from phi_jax.model.sampling import Chance

    shared = slots_of_a_prompt(case.slots, case.samples_per_problem)
    groups = case.slots // shared
    bucket = max(SMALLEST_BUCKET, 1 << (case.prompt_tokens - 1).bit_length())
    own = -(-case.max_new_tokens // decode.SEGMENT) * decode.SEGMENT
    state = decode.empty_state(config, groups, shared, bucket, own)
    shape = (groups, shared)
    slots = decode.Slots(
        np.full(groups, case.prompt_tokens, np.int32), np.zeros(shape, bool), np.full(shape, own // 2, np.int32),
        np.zeros(shape, np.uint32), np.zeros(shape, np.int32), np.arange(case.slots, dtype=np.int32).reshape(shape),
        Chance(
            np.full(shape, case.temperature, np.float32), np.full(shape, case.top_p, np.float32),
            np.zeros(shape, np.int32),
        ),
    )  # fmt: skip
    weights, program = sampler.weights, sampler.programs.decode_segment
    tokens, state = program(weights, state, slots)
    jax.block_until_ready(tokens)
    times = []
    before = cpu_seconds()
    for _ in range(5):
        start = time.perf_counter()
        tokens, state = program(weights, state, slots)
        jax.block_until_ready(tokens)
        times.append((time.perf_counter() - start) / decode.SEGMENT)
    shares = cpu_shares(before, cpu_seconds())
    read = sum(x.nbytes for x in jax.tree.leaves(weights)) - weights["embed"].nbytes
    read += sum(x.nbytes for x in jax.tree.leaves((state.prompts, state.own)))
    bandwidth = _bandwidth()
    step = sorted(times)[len(times) // 2]
    return {
        "slots": case.slots,
        "slots_of_a_prompt": shared,
        "step_seconds": step,
        "step_seconds_best": min(times),
        "tokens_per_second": case.slots / step,
        "bytes_per_step": read,
        "bytes_per_second": bandwidth,
        "ceiling_tokens_per_second": case.slots * bandwidth / read,
        "share_of_ceiling": read / bandwidth / step,
        **shares,
    }


def _bandwidth() -> float:
    """Bytes a second that the device reads: the best of several sums and products with a vector, over an array that no
    cache holds.
    """
    import jax
    import jax.numpy as jnp

    array = jnp.ones((1 << 12, 1 << 16), jnp.float32)  # 1 GiB
    vector = jnp.ones(array.shape[1], jnp.float32)
    best = float("inf")
    for read in (jax.jit(lambda a, v: a.sum(-1)), jax.jit(lambda a, v: a @ v)):
        read(array, vector).block_until_ready()
        for _ in range(10):
            start = time.perf_counter()
            read(array, vector).block_until_ready()
            best = min(best, time.perf_counter() - start)
    return array.nbytes / best


if __name__ == "__main__":
    serve(measure, SampleCase)
