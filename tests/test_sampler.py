"""Decoding: greedy against repeated full forward passes, draws against their distribution, slots against neighbours."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import devices, fewer_slots, python
from scipy import stats

from phi_jax.errors import UserError
from phi_jax.model import phi
from phi_jax.model.sampling import Decoding, Draws, choose
from phi_jax.parallel import sampler
from phi_jax.parallel.sampler import Completion, Request, Sampler

CONFIG = phi.PhiConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=2,
    head_dim=16,
    rotary_dim=8,
    max_seq_len=192,
)
END = 60
DRAWN = Decoding(temperature=1.0, top_p=0.9, seed=7)


def some_params():
    leaves, tree = jax.tree.flatten(phi.abstract_params(CONFIG))
    rng = np.random.default_rng(1)
    return tree.unflatten([jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32) for x in leaves])


@pytest.fixture(scope="module")
def params():
    return some_params()


def prompts(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, END, n).tolist() for n in lengths]


def make(params, *, max_new_tokens=40, end=END, slots=4, **options):
    return Sampler(params, CONFIG, end_of_text_id=end, max_new_tokens=max_new_tokens, slots=slots, **options)


def complete(sampler, requests, *stopped):
    """The completions in the order of the requests."""
    made = dict(sampler.complete(requests, *stopped))
    assert sorted(made) == list(range(len(requests)))
    return [made[i] for i in range(len(requests))]


@pytest.fixture(scope="module")
def full_forward(params):
    """Greedy decoding without a cache: the whole sequence again for every token."""
    run = jax.jit(lambda tokens, last: phi.forward(params, tokens, CONFIG)[0, last])

    def complete(prompt, count):
        tokens = list(prompt)
        for _ in range(count):
            padded = np.zeros((1, CONFIG.max_seq_len), np.int32)
            padded[0, : len(tokens)] = tokens
            tokens.append(int(np.argmax(run(padded, len(tokens) - 1))))
            if tokens[-1] == END:
                return tokens[len(prompt) : -1]
        return tokens[len(prompt) :]

    return complete


# --- Greedy --------------------------------------------------------------------------------------------------


def test_greedy_equals_repeated_full_forward(params, full_forward):
    """Prompts of three buckets, more of them than there are slots, and a count that is no multiple of a segment."""
    given_prompts = prompts([1, 5, 30, 63, 64, 65, 100, 150, 12, 7])
    completions = complete(make(params), [Request(p, i) for i, p in enumerate(given_prompts)])
    for prompt, completion in zip(given_prompts, completions, strict=True):
        assert completion.tokens == full_forward(prompt, 40)
        assert completion.stop_reason == ("length" if len(completion.tokens) == 40 else "end_of_text")


def test_slots_that_begin_at_different_times_go_on_greedily(params):
    """At every place, of two prompts that two slots hold each, with slots that begin a segment apart."""
    from phi_jax.model import decode

    rng = np.random.default_rng(4)
    lengths = np.array([9, 9, 33, 33])
    texts = rng.integers(0, 64, (4, 90))
    admit = jax.jit(decode.admit, static_argnums=3)
    run = jax.jit(decode.decode_segment, static_argnums=3)
    full = jax.jit(lambda tokens: phi.forward(params, tokens, CONFIG))
    weights = decode.weights_of(params, CONFIG)
    caches = decode.empty_caches(CONFIG, 4, 64 + 48)
    for first in (0, 2):
        prompt = np.zeros((1, 64), np.int32)
        prompt[0, : lengths[first]] = texts[first, : lengths[first]]
        texts[first + 1, : lengths[first]] = texts[first, : lengths[first]]
        caches = admit(weights, caches, decode.Prompt(prompt, np.arange(4) // 2 == first // 2), CONFIG)

    starts = np.array([0, 16, 16, 0])  # of the slots, in decoded tokens of the whole test
    for begun in range(0, 48, decode.SEGMENT):
        places = lengths + np.maximum(begun - starts, 0)  # of the tokens that come next
        last = texts[np.arange(4), places - 1]
        tokens, caches = run(weights, caches, decode.Slots(last, places - 1, draws(Decoding(), 4)), CONFIG)
        for slot in np.flatnonzero(begun >= starts):
            texts[slot, places[slot] : places[slot] + decode.SEGMENT] = tokens[slot]
            expected = full(texts[slot][None])[0]
            found = expected[places[slot] - 1 : places[slot] - 1 + decode.SEGMENT]
            np.testing.assert_array_equal(np.argmax(found, -1), tokens[slot])


def test_a_prompt_may_fill_the_context(params, full_forward):
    (prompt,) = prompts([CONFIG.max_seq_len - 20])
    (completion,) = complete(make(params, max_new_tokens=20), [Request(prompt)])
    assert completion.tokens == full_forward(prompt, 20)


def test_it_stops_at_the_end_of_text(params):
    (prompt,) = prompts([9])
    (free,) = complete(make(params), [Request(prompt)])
    # Whichever token comes at place 20 is now the end: what stood before its first occurrence remains.
    end = free.tokens[20]
    (cut,) = complete(make(params, end=end), [Request(prompt)])
    assert cut == Completion(free.tokens[: free.tokens.index(end)], "end_of_text")


def test_the_caller_stops_slots_one_by_one(params):
    requests = [Request(p, i) for i, p in enumerate(prompts([9, 10, 11]))]
    free = complete(make(params), requests)
    asked = []

    def stopped(index, tokens):
        asked.append((index, len(tokens)))
        return index == 1

    got = complete(make(params), requests, stopped)
    assert got[0] == free[0]
    assert got[2] == free[2]
    assert got[1] == Completion(free[1].tokens[: sampler.SEGMENT], "stop")
    assert [n for index, n in asked if index == 1] == [sampler.SEGMENT], "asked again after it had stopped"


def test_slots_are_refilled_at_once(params):
    """Twelve completions of which every other one stops after a segment, in four slots."""
    made = make(params, max_new_tokens=48, end=64)
    segments = []
    admit, decode_segment = made.programs
    made.programs = admit, lambda *a: segments.append(1) or decode_segment(*a)
    requests = [Request(p, i) for i, p in enumerate(prompts([9] * 12))]
    done = list(made.complete(requests, lambda index, tokens: index % 2 == 0))
    assert [len(c.tokens) for _, c in sorted(done)] == [16, 48] * 6
    assert [i for i, _ in done[:2]] == [0, 2]  # those that end first come first
    assert len(segments) < 9  # what four at a time would take


def test_slots_stay_with_the_prompt_that_they_have_read(params):
    made = make(params, slots=8)
    read = []
    admit, decode_segment = made.programs
    made.programs = (lambda *a: read.append(a[2].is_for_R.sum()) or admit(*a)), decode_segment
    requests = [Request(p, i, s, DRAWN) for i, p in enumerate(prompts([9, 20, 12, 31])) for s in range(16)]
    assert len({tuple(c.tokens) for c in complete(made, requests)}) > 50
    assert read[:4] == [2, 2, 2, 2]
    assert len(read) <= 8  # slots that have nothing more to do help the others


def test_a_narrow_model_is_decoded_in_its_dtype(params):
    """bfloat16: greedy tokens are those of the full forward pass in bfloat16, but at near ties."""
    narrow = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
    full = jax.jit(lambda tokens: phi.forward(params, tokens, narrow)[0])
    decoder = Sampler(params, narrow, end_of_text_id=64, max_new_tokens=20, slots=4)
    for i, completion in decoder.complete([Request(p, i) for i, p in enumerate(prompts([5, 40, 64]))]):
        prompt = prompts([5, 40, 64])[i]
        text = np.zeros((1, CONFIG.max_seq_len), np.int32)
        text[0, : len(prompt) + 20] = prompt + completion.tokens
        logits = np.asarray(full(text))[len(prompt) - 1 : len(prompt) + 19]
        chosen = np.take_along_axis(logits, np.array(completion.tokens)[:, None], -1)[:, 0]
        assert (logits.max(-1) - chosen < 0.1).all()
        assert (logits.argmax(-1) == completion.tokens).mean() > 0.8


def test_equals_go_to_the_lowest_id():
    logits = jnp.array([[0.0, 2.0, 1.0, 2.0], [3.0, 3.0, 3.0, 3.0]])
    np.testing.assert_array_equal(choose(logits, jnp.zeros(2, int), draws(Decoding(), 2)), [1, 0])


def draws(decoding, rows):
    """Rows that differ in their sample alone."""
    d = decoding
    return Draws(np.full(rows, d.seed, np.uint32), np.zeros(rows, np.int32), np.arange(rows, dtype=np.int32),
                 *(jnp.full(rows, x) for x in (d.temperature, d.top_p, d.top_k)))  # fmt: skip


# --- A slot and its neighbours -------------------------------------------------------------------------------

REQUESTS = [
    Request(p, i, s, DRAWN if s else Decoding())
    for i, p in enumerate(prompts([4, 40, 64, 66, 90, 8]))
    for s in range(5)
]


SHORT = [r for r in REQUESTS if len(r.tokens) <= 64]


def texts(params, requests=REQUESTS, **options):
    """(prompt, sample) -> completion."""
    made = make(params, slots=8, **options)
    return {requests[i][1:3]: completion for i, completion in made.complete(requests)}


def test_a_completion_does_not_depend_on_its_neighbours(params):
    """At temperature 1, where a change of the last bit would show: in other orders, other slots, fewer of them."""
    together = texts(params)
    assert len({tuple(c.tokens) for c in together.values()}) > 20
    rng = np.random.default_rng(0)
    for live in (1, 3, 8):
        with fewer_slots(live):
            assert texts(params, [REQUESTS[i] for i in rng.permutation(len(REQUESTS))]) == together
    assert texts(params, REQUESTS[7:8]) == {REQUESTS[7][1:3]: together[REQUESTS[7][1:3]]}


ON_DEVICES = """
import json, sys
sys.path[:0] = ["tests", "."]
from test_sampler import SHORT, some_params, texts
made = texts(some_params(), SHORT)
print(json.dumps(sorted((*k, c.tokens, c.stop_reason) for k, c in made.items())))
"""


def test_the_number_of_devices_changes_no_bit(params):
    expected = sorted([*k, c.tokens, c.stop_reason] for k, c in texts(params, SHORT).items())
    done = python("-c", ON_DEVICES, env=devices(4))
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == expected


def test_seed_prompt_and_sample_change_the_draws(params):
    (prompt,) = prompts([10])
    again, first, *others = complete(make(params), [
        Request(prompt, 0, 0, DRAWN), Request(prompt, 0, 0, DRAWN), Request(prompt, 1, 0, DRAWN),
        Request(prompt, 0, 1, DRAWN), Request(prompt, 0, 0, dataclasses.replace(DRAWN, seed=8)),
    ])  # fmt: skip
    assert again == first
    assert len({tuple(c.tokens) for c in (first, *others)}) == 4


def test_one_compilation_a_bucket(params):
    """Lengths, seeds, temperatures and how many slots are used are inputs of a program, not programs of their own."""
    made = make(params, slots=5)
    admit, decode_segment = (program._cache_size() for program in made.programs)
    for number, decoding in enumerate((DRAWN, Decoding(0.5, 0.8, 1, top_k=9), Decoding())):
        again = make(params, slots=5)
        assert again.programs is made.programs
        with fewer_slots(1 + number):
            complete(again, [Request(p, decoding=decoding) for p in prompts([1, 20, 64, 65, 128])])
    assert [program._cache_size() for program in made.programs] == [admit + 2, decode_segment + 2]


# --- The distribution ----------------------------------------------------------------------------------------

DRAWS = 20_000  # in one call
draw = jax.jit(choose)


def drawn_counts(logits, decoding, position=5):
    """How often each token is drawn, by rows that differ in their sample alone."""
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (DRAWS, len(logits)))
    tokens = draw(rows, jnp.full(DRAWS, position), draws(decoding, DRAWS))
    return np.bincount(np.asarray(tokens), minlength=len(logits))


def nucleus(logits, decoding):
    """(probabilities after top-k and top-p, mass before each token) by sorting in float64."""
    scaled = np.asarray(logits, np.float64) / decoding.temperature
    p = np.exp(scaled - scaled.max())
    if decoding.top_k:
        p[np.argsort(-p, kind="stable")[decoding.top_k :]] = 0
    p /= p.sum()
    top_p = decoding.top_p
    order = np.argsort(-p, kind="stable")
    before = np.empty_like(p)
    before[order] = np.cumsum(p[order]) - p[order]
    least = p[(before < top_p) & (p > 0)].min()
    kept = np.where(p >= least, p, 0)  # whatever is as probable as the last one stays too
    return kept / kept.sum(), before


@pytest.mark.parametrize(
    ("decoding", "possible"),
    [
        (Decoding(1.0, seed=1), 8),
        (Decoding(0.6, seed=2), 8),
        (Decoding(0.8, 0.7, seed=3), 3),
        (Decoding(1.5, seed=4, top_k=5), 5),
        (Decoding(1.5, 0.6, seed=5, top_k=5), 3),
    ],
)
def test_draws_follow_the_distribution(decoding, possible):
    logits = [0.3, -1.2, 2.0, 1.1, 0.0, -0.4, 1.5, 0.9]
    expected, _ = nucleus(logits, decoding)
    seeds = range(10 * decoding.seed, 10 * decoding.seed + 10)
    counts = sum(drawn_counts(logits, dataclasses.replace(decoding, seed=seed)) for seed in seeds)
    assert counts[expected == 0].sum() == 0
    assert (expected > 0).sum() == possible
    # 200,000 draws, so that a bias of a percent shows; a right sampler fails once in 10,000 choices of seeds.
    kept = expected > 0
    assert stats.chisquare(counts[kept], counts.sum() * expected[kept]).pvalue > 1e-4


@pytest.mark.parametrize(
    "decoding",
    [Decoding(1.0, 0.95, seed=6), Decoding(0.3, 0.9, seed=7), Decoding(1.0, seed=8, top_k=300), Decoding(2.0, seed=9)],
)
def test_draws_from_a_vocabulary_of_several_blocks(decoding):
    """Flat ones and a steep one."""
    logits = np.random.default_rng(1).standard_normal(1000)
    expected, before = nucleus(logits, decoding)
    counts = drawn_counts(logits, decoding)
    settled = np.abs(before - decoding.top_p) > 1e-4
    assert counts[settled & (expected == 0)].sum() == 0
    often = expected * DRAWS > 10
    seen, wanted = (np.append(x[often], x[~often].sum()) for x in (counts, expected * DRAWS))
    kept = wanted > 5
    assert stats.chisquare(seen[kept], wanted[kept] * seen[kept].sum() / wanted[kept].sum()).pvalue > 1e-4


def test_rows_of_one_call_may_be_chosen_in_other_ways():
    """Greedy, drawn, top_k and top_p beside each other give what each gives alone."""
    rng = np.random.default_rng(3)
    logits = jnp.asarray(rng.standard_normal((4, 700)), jnp.float32)
    positions = jnp.arange(4)
    ways = [Decoding(), Decoding(0.9), Decoding(0.9, 0.97), Decoding(1.3, 0.5, top_k=400)]
    apart = [draws(way, 1) for way in ways]
    together = draw(logits, positions, jax.tree.map(lambda *rows: jnp.concatenate(rows), *apart))
    for row, alone in enumerate(apart):
        assert together[row] == draw(logits[row : row + 1], positions[row : row + 1], alone)[0]


def test_draws_of_two_positions_are_independent():
    """A key that forgot the position would give the same token at both."""
    rows = jnp.zeros((DRAWS, 4))
    first, second = (np.asarray(draw(rows, jnp.full(DRAWS, p), draws(Decoding(1.0), DRAWS))) for p in (5, 6))
    table = np.zeros((4, 4))
    np.add.at(table, (first, second), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-4


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    logits=st.lists(st.floats(-6, 6, width=32), min_size=8, max_size=8),
    temperature=st.floats(0.1, 3),
    top_p=st.floats(0.01, 0.999),
    seed=st.integers(0, 2**31 - 1),
)
def test_draws_stay_in_the_nucleus(logits, temperature, top_p, seed):
    decoding = Decoding(temperature, top_p, seed)
    counts = drawn_counts(logits, decoding)
    expected, before = nucleus(logits, decoding)
    settled = np.abs(before - top_p) > 1e-5  # float32 may put the others on either side
    chances = np.exp((np.array(logits) - max(logits)) / temperature)
    settled &= np.abs(chances / chances[expected > 0].min() - 1) > 1e-5
    assert counts[settled & (expected == 0)].sum() == 0
    assert (counts[settled & (expected > 0.002)] > 0).all()
    assert counts.sum() == DRAWS


def test_a_tiny_top_p_is_greedy(params):
    decodings = (Decoding(), Decoding(1.0, 1e-6), Decoding(1.0, top_k=1))
    expected, *others = ([c.tokens for c in complete(make(params), [Request(p, decoding=d) for p in prompts([5, 70])])]
                         for d in decodings)  # fmt: skip
    assert others == [expected, expected]


# --- Mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [Decoding(), DRAWN])
@pytest.mark.parametrize("bias", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error_not_a_token(params, how, bias):
    broken = {**params, "head": {**params["head"], "bias": params["head"]["bias"].at[3].set(bias)}}
    with pytest.raises(UserError, match="logits are not finite: its activations overflow"):
        complete(make(broken), [Request([1, 2], decoding=how)])


@pytest.mark.parametrize(
    ("tokens", "complaint"),
    [
        ([], "prompt 1: 0 tokens"),
        (
            [1] * (CONFIG.max_seq_len - 39),
            "prompt 1: 153 tokens; beside 40 new ones a context of 192 has room for 152, and",
        ),
        ([1, CONFIG.vocab_size], "prompt 1: ids from 1 to 64"),
        ([-1, 2], "prompt 1: ids from -1 to 2"),
    ],
)
def test_a_prompt_that_cannot_be_completed_is_named(params, tokens, complaint):
    with pytest.raises(ValueError, match=complaint):
        next(make(params).complete([Request([1, 2]), Request(tokens)]))


@pytest.mark.parametrize(
    ("make_it", "complaint"),
    [
        (lambda p: Decoding(temperature=-1), "temperature=-1"),
        (lambda p: Decoding(temperature=float("nan")), "temperature=nan"),
        (lambda p: Decoding(1.0, top_p=0), "top_p=0"),
        (lambda p: Decoding(1.0, top_p=1.5), "top_p=1.5"),
        (lambda p: Decoding(1.0, top_k=-1), "top_k=-1"),
        (lambda p: Decoding(1.0, seed=-1), "seed=-1"),
        (lambda p: make(p, slots=0), "slots=0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(params, make_it, complaint):
    with pytest.raises(UserError, match=complaint):
        make_it(params)
