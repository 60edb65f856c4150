"""Our sampler beside transformers' generate, a problem a call, on the workload of `phi-jax bench sample`.

    python tests/benchmarks/sample_generate.py --config configs/phi_1.py --set model.num_layers=2

Needs pip install -e '.[peers]'.
"""

import time


def ours(model, work, slots):
    from phi_jax.bench.sample_speed import measure

    return measure(model, work, slots)


def peer(model, work, slots):
    """A row that has its length is done; the call ends with the last one. slots: ours alone."""
    import os

    import torch
    import transformers
    from train_transformers import phi_model

    from phi_jax.bench.sample_speed import HEAD_SCALE, workload

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = phi_model(model, "sdpa", device).eval()
    with torch.no_grad():
        net.lm_head.weight *= HEAD_SCALE
    net = net.to(getattr(torch, model["compute_dtype"]))

    class Lengths(transformers.StoppingCriteria):
        def __init__(self, lengths):
            self._ends = torch.tensor(lengths, device=device) + work["prompt_tokens"]

        def __call__(self, input_ids, scores, **_):
            return input_ids.shape[1] >= self._ends

    def generate(prompt, lengths):
        ids = torch.tensor([prompt], device=device)
        made = net.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=work["temperature"],
            top_p=work["top_p"], top_k=0, num_return_sequences=len(lengths), max_new_tokens=work["max_new_tokens"],
            eos_token_id=None, pad_token_id=0, stopping_criteria=transformers.StoppingCriteriaList([Lengths(lengths)]),
        )  # fmt: skip
        assert made.shape[1] - len(prompt) == max(lengths)

    prompts, lengths = workload(model["vocab_size"], work)
    with torch.inference_mode():
        generate(prompts[0], [4] * work["samples_per_problem"])
        start = time.perf_counter()
        for prompt, wanted in zip(prompts, lengths, strict=True):
            generate(prompt, wanted)
        seconds = time.perf_counter() - start
    tokens = sum(map(sum, lengths))
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}


def measure(options):
    from compare import Side, compare

    from phi_jax.bench.sample_speed import work_of
    from phi_jax.bench.train_speed import case_of
    from phi_jax.config import load

    config = load(["--config", options.config, *(f"--config.{change}" for change in options.set)])
    model = case_of(config)["model"]
    arguments = {"model": model, "work": work_of(model), "slots": options.slots}
    sides = {name: Side(f"sample_generate:{name}", arguments) for name in ("ours", "peer")}
    peer = "transformers PhiForCausalLM.generate, a problem a call"
    return {"case": arguments, "peer": peer, **compare(sides, options.rounds)}


def add_arguments(add):
    add("--config", default="configs/nano.py", metavar="FILE.py[:ARG]", help="whose model is sampled")
    add("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="of the config: model.num_layers=2")
    add("--slots", type=int, default=32, metavar="N", help="of our sampler (default 32)")


if __name__ == "__main__":
    from compare import main

    main(add_arguments, measure)
