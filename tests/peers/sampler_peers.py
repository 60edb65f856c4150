"""One export in transformers and in our sampler: greedy completions of a benchmark, draws and their distribution."""

import collections
import contextlib
import dataclasses
import importlib.metadata

import numpy as np
from same_model import TIE
from scipy import stats

from phi_jax.evaluation.backends.jax_sampler import JaxBackend
from phi_jax.evaluation.completion import Plan, requests_of
from phi_jax.evaluation.completion import Request as Asked
from phi_jax.model.phi import PhiConfig
from phi_jax.model.sampling import Decoding
from phi_jax.parallel.sampler import Request, Sampler
from phi_jax.weights.huggingface import load_directory
from phi_jax.weights.models import load_model

PACKAGES = ("transformers", "torch", "jax", "numpy", "scipy", "tokenizers")


@contextlib.contextmanager
def one_thread():
    """So small a model loses more to handing work over than torch's other threads gain."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def versions():
    return {name: importlib.metadata.version(name) for name in PACKAGES}


# --- Greedy -----------------------------------------------------------------------------------------------------------

# phi-1's vocabulary and rotary share in a small body. One prompt of MBPP is longer than phi-1's own context: MBPP/493,
# 2,326 of CodeGen's tokens.
GREEDY = PhiConfig(
    vocab_size=51200, hidden_size=64, intermediate_size=256, num_layers=3, num_heads=4, head_dim=16, rotary_dim=8,
    max_seq_len=4096,
)  # fmt: skip


class Endless(Asked):
    """One that stops nowhere."""

    def has_stopped(self, text):
        return False


def greedy_beside(directory, problems, *, max_new_tokens, samples_per_problem):
    """What transformers and the sampler of `phi-jax evaluate` write greedily behind the prompts of problems.

    samples_per_problem: drawn ones that stand in slots beside the greedy ones. Fails where the two part and
    transformers was decided, where the prompts make no difference, or where decoding shows only loops.
    """
    params, config, tokenizer = load_model(directory)
    plan = Plan(max_new_tokens=max_new_tokens, samples_per_problem=samples_per_problem, temperature=0.8)
    requests = [Endless(*r) for r in requests_of(problems, plan, "stripped")]
    prompts = [tokenizer.encode(request.shown) for request in requests]
    made = dict(JaxBackend((params, config, tokenizer), plan).decode(requests, prompts))
    prompts = prompts[: len(problems)]  # the greedy ones
    assert all(request.is_greedy for request in requests[: len(problems)])

    reference = their_greedy(directory, prompts, max_new_tokens)
    parted, ended, closest = [], 0, float("inf")
    for number, (theirs, gaps) in enumerate(reference):
        end = tokenizer.end_of_text_id
        ours = made[number]
        theirs = theirs[: theirs.index(end) + 1] if end in theirs else theirs
        ended += theirs[-1] == end
        length = min(len(theirs), len(ours))
        place = next((i for i in range(length) if theirs[i] != ours[i]), length)
        closest = min([closest, *gaps[:place]])
        if ours != theirs:
            assert place < length, f"{problems[number].task_id} ends at {len(ours)}, not at {len(theirs)}"
            parted.append({"task_id": problems[number].task_id, "token": place, "gap": gaps[place]})
            assert gaps[place] < TIE, f"{problems[number].task_id} parts at token {place}, gap {gaps[place]}"
    texts = [tuple(tokens) for tokens, _ in reference]
    found = {
        "prompts": len(problems),
        "prompt_tokens": [min(map(len, prompts)), max(map(len, prompts))],
        "tokens_each": max_new_tokens,
        "identical": len(problems) - len(parted),
        "parted_at_ties": parted,
        "tie": TIE,
        "smallest_gap_decided_alike": closest,
        "ended_by_end_of_text": ended,
        "different_tokens": len({token for text in texts for token in text}),
        "different_completions": len(set(texts)),
        "drawn_beside_each": samples_per_problem,
    }
    assert found["different_completions"] > 0.95 * len(problems), "the prompts do not matter"
    assert found["different_tokens"] > 4 * len(problems), "the loops of a random model prove little"
    assert len(parted) <= max(1, len(problems) // 20)
    return found


def their_greedy(directory, prompts, count):
    """[(tokens, gaps between the two highest logits)] of generate; prompts of one length share a batch, unpadded.

    The mask is given: generate takes whatever equals pad_token_id for padding else, and CodeGen's 0 is "!".
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    by_length = collections.defaultdict(list)
    for number, prompt in enumerate(prompts):
        by_length[len(prompt)].append(number)
    found = {}
    with one_thread():
        for length, numbers in by_length.items():
            tokens = torch.tensor([prompts[number] for number in numbers])
            output = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=count,
                eos_token_id=None, pad_token_id=0, output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
            top = torch.stack([torch.topk(logits, 2).values for logits in output.logits], dim=1)
            for row, number in enumerate(numbers):
                gaps = (top[row, :, 0] - top[row, :, 1]).tolist()
                found[number] = (output.sequences[row, length:].tolist(), gaps)
    return [found[number] for number in range(len(prompts))]


# --- Draws ------------------------------------------------------------------------------------------------------------

SMALL = PhiConfig(
    vocab_size=24, hidden_size=32, intermediate_size=128, num_layers=2, num_heads=2, head_dim=16, rotary_dim=8,
    max_seq_len=64,
)  # fmt: skip
END = 7  # ends some of the completions within their first tokens
LENGTH = 3  # tokens drawn
PROMPT = [3, 14, 1, 5, 9, 2, 6]
SETTINGS = {
    "temperature 0.8": Decoding(0.8, seed=11),
    "temperature 0.8, top_p 0.9": Decoding(0.8, 0.9, seed=12),
    "temperature 0.8, top_k 5": Decoding(0.8, seed=13, top_k=5),
    "temperature 0.8, top_k 5, top_p 0.9": Decoding(0.8, 0.9, seed=14, top_k=5),
    "temperature 0.2, top_p 0.95": Decoding(0.2, 0.95, seed=15),
}
SIGNIFICANT = 1e-4


def our_counts(directory, decodings, draws):
    """{setting: how often each sequence is drawn}: all settings in one sampler's slots beside each other.

    A quarter of the draws differ from each other in the sample's number alone, the quarters in the prompt's.
    """
    params, config = load_directory(directory)
    sampler = Sampler(params, config, end_of_text_id=END, max_new_tokens=LENGTH, slots=256)
    requests = [
        Request(PROMPT, prompt, sample, decoding)
        for sample in range(draws // 4)
        for prompt in range(4)
        for decoding in decodings.values()
    ]
    counts = {decoding: collections.Counter() for decoding in decodings.values()}
    for i, completion in sampler.complete(requests):
        ended = (END,) * (completion.stop_reason == "end_of_text")
        counts[requests[i].decoding][(*completion.tokens, *ended)] += 1
    return {name: counts[decoding] for name, decoding in decodings.items()}


def chances(model, decoding):
    """{sequence: probability} by transformers' logits and its own processors, in generate's order."""
    import torch
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    warpers = LogitsProcessorList([TemperatureLogitsWarper(decoding.temperature)])
    if decoding.top_k:
        warpers.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1:
        warpers.append(TopPLogitsWarper(decoding.top_p))
    ended, growing = {}, {(): 1.0}
    for _ in range(LENGTH):
        tokens = torch.tensor([[*PROMPT, *begun] for begun in growing])
        with torch.no_grad():
            scores = warpers(tokens, model(tokens, use_cache=False).logits[:, -1].float())
        shares = torch.softmax(scores.double(), dim=-1).numpy()
        grown = {
            (*begun, token): chance * row[token]
            for (begun, chance), row in zip(growing.items(), shares, strict=True)
            for token in np.flatnonzero(row).tolist()
        }
        ended |= {text: chance for text, chance in grown.items() if text[-1] == END}
        growing = {text: chance for text, chance in grown.items() if text[-1] != END}
    return ended | growing


def their_counts(model, decoding, draws):
    """How often each sequence comes out of transformers' generate."""
    import torch

    torch.manual_seed(decoding.seed)
    made = model.generate(
        torch.tensor([PROMPT]), attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long), do_sample=True,
        temperature=decoding.temperature, top_p=decoding.top_p, top_k=decoding.top_k, max_new_tokens=LENGTH,
        num_return_sequences=draws, eos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    texts = made[:, len(PROMPT) :].tolist()
    return collections.Counter(tuple(t[: t.index(END) + 1] if END in t else t) for t in texts)


def p_of(counts, expected):
    """Chi-square of counts against chances; sequences expected fewer than five times count as one."""
    draws = counts.total()
    assert set(counts) <= set(expected), "drawn, though transformers gives it no chance"
    seen = np.array([counts[text] for text in expected])
    wanted = np.array(list(expected.values())) * draws
    often = wanted >= 5
    seen, wanted = (np.append(x[often], x[~often].sum()) for x in (seen, wanted))
    if wanted[-1] < 5:
        seen, wanted = (np.append(x[:-2], x[-2:].sum()) for x in (seen, wanted))
    return float(stats.chisquare(seen, wanted * draws / wanted.sum()).pvalue), len(seen)


def p_of_both(ours, theirs):
    """Two-sample chi-square of counts; sequences seen fewer than ten times in all count as one."""
    seen = np.array([[counts[text] for text in ours | theirs] for counts in (ours, theirs)])
    often = seen.sum(0) >= 10
    table = np.column_stack([seen[:, often], seen[:, ~often].sum(1)])
    return float(stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue)


def draws_beside(directory, settings, draws):
    """{setting: figures} of our draws against transformers' chances and its generate's draws.

    Fails where one of the two tests tells them apart, or where the first could not tell a temperature that is a quarter
    higher.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ours = our_counts(directory, settings, draws)
    found = {}
    for name, decoding in settings.items():
        with one_thread():
            expected = chances(model, decoding)
            theirs = their_counts(model, decoding, draws)
            warmer = chances(model, dataclasses.replace(decoding, temperature=1.25 * decoding.temperature))
        p, kinds = p_of(ours[name], expected)
        found[name] = {
            "draws": ours[name].total(),
            "possible_sequences": len(expected),
            "sequences_counted_apart": kinds,
            "ended_by_end_of_text": sum(n for text, n in ours[name].items() if text[-1] == END),
            "p_against_processors": p,
            "p_against_generate": p_of_both(ours[name], theirs),
            "p_of_generate_against_processors": p_of(theirs, expected)[0],
            "p_against_a_temperature_a_quarter_higher": p_of(ours[name], warmer)[0],
        }
        print(name, found[name])
    for name, figures in found.items():
        assert figures["p_against_processors"] > SIGNIFICANT, name
        assert figures["p_against_generate"] > SIGNIFICANT, name
        assert figures["p_against_a_temperature_a_quarter_higher"] < SIGNIFICANT, f"{name}: too few draws to tell"
    return found
