"""Decoding: greedy against repeated full forward passes, draws against their distribution, rows against neighbours."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from phi_jax.errors import UserError
from phi_jax.model import phi, sampler
from phi_jax.model.sampler import Chance, Completion, Decoding, Request, Sampler, choose

CONFIG = phi.PhiConfig(
    vocab_size=61,
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


@pytest.fixture(scope="module")
def params():
    leaves, tree = jax.tree.flatten(phi.abstract_params(CONFIG))
    rng = np.random.default_rng(1)
    return tree.unflatten([jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32) for x in leaves])


def prompts(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, END, n).tolist() for n in lengths]


def make(params, decoding=None, *, batch_size=4, max_new_tokens=40, end=END):
    return Sampler(
        params, CONFIG,
        end_of_text_id=end, max_new_tokens=max_new_tokens, batch_size=batch_size, decoding=decoding or Decoding(),
    )  # fmt: skip


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
    """Prompts of both buckets, more of them than a batch holds, and a count that is no multiple of a segment."""
    given_prompts = prompts([1, 5, 30, 63, 64, 65, 100, 150, 12, 7])
    completions = list(make(params).complete([Request(p, i) for i, p in enumerate(given_prompts)]))
    assert len(completions) == 10
    for prompt, completion in zip(given_prompts, completions, strict=True):
        assert completion.tokens == full_forward(prompt, 40)
        assert completion.stop_reason == ("length" if len(completion.tokens) == 40 else "end_of_text")


def test_a_prompt_may_fill_the_context(params, full_forward):
    (prompt,) = prompts([CONFIG.max_seq_len - 20])
    (completion,) = make(params, max_new_tokens=20).complete([Request(prompt)])
    assert completion.tokens == full_forward(prompt, 20)


def test_it_stops_at_the_end_of_text(params):
    (prompt,) = prompts([9])
    (free,) = make(params).complete([Request(prompt)])
    # Whichever token comes at place 20 is now the end: what stood before its first occurrence remains.
    end = free.tokens[20]
    (cut,) = make(params, end=end).complete([Request(prompt)])
    assert cut == Completion(free.tokens[: free.tokens.index(end)], "end_of_text")


def test_the_caller_stops_rows_one_by_one(params):
    requests = [Request(p, i) for i, p in enumerate(prompts([9, 10, 11]))]
    free = list(make(params).complete(requests))
    asked = []

    def stopped(request, tokens):
        asked.append((request.prompt, len(tokens)))
        return request.prompt == 1

    got = list(make(params).complete(requests, stopped))
    assert got[0] == free[0]
    assert got[2] == free[2]
    assert got[1] == Completion(free[1].tokens[: sampler.SEGMENT], "stop")
    assert (1, sampler.SEGMENT) in asked
    assert asked.count((1, sampler.SEGMENT)) == 1, "asked again after it had stopped"
    assert not [n for prompt, n in asked if prompt == 1 and n > sampler.SEGMENT]


def test_decoding_ends_when_all_rows_have_ended(params, monkeypatch):
    calls = []
    decode = sampler._decode_segment
    monkeypatch.setattr(sampler, "_decode_segment", lambda *a: calls.append(1) or decode(*a))
    list(make(params).complete([Request(p, i) for i, p in enumerate(prompts([3, 4]))], lambda r, t: True))
    assert len(calls) == 1


def test_equals_go_to_the_lowest_id():
    logits = jnp.array([[0.0, 2.0, 1.0, 2.0], [3.0, 3.0, 3.0, 3.0]])
    keys = jax.random.split(jax.random.key(0), 2)
    np.testing.assert_array_equal(choose(logits, keys, jnp.zeros(2, int), Chance(0.0, 1.0), "greedy"), [1, 0])


# --- A row and its neighbours --------------------------------------------------------------------------------


def test_a_row_does_not_depend_on_its_neighbours(params):
    """Sampled at temperature 1, where a change of the last bit would show: alone, reversed, shuffled, together."""
    requests = [Request(p, i, s) for i, p in enumerate(prompts([4, 40, 64, 66, 90, 8])) for s in range(3)]
    together = dict(zip(map(key, requests), make(params, DRAWN).complete(requests), strict=True))
    assert len({tuple(c.tokens) for c in together.values()}) == len(requests)
    rng = np.random.default_rng(0)
    orders = [[r] for r in requests[::4]] + [requests[::-1], [requests[i] for i in rng.permutation(len(requests))]]
    for order in orders:
        for request, completion in zip(order, make(params, DRAWN).complete(order), strict=True):
            assert completion == together[key(request)]


def key(request):
    return request.prompt, request.sample


def test_logits_of_a_row_are_the_same_bits_beside_any_neighbour(params):
    """What the test above rests on: same shapes, same bits, wherever in the batch a row stands."""
    step = jax.jit(phi.forward_cached, static_argnums=4)
    rows = np.array(prompts([64] * 4, seed=3), np.int32)

    def hidden(batch):
        positions = np.tile(np.arange(64), (4, 1))
        return np.asarray(step(params, batch, positions, phi.empty_cache(CONFIG, 4, 80), CONFIG)[0])

    expected = hidden(rows)
    np.testing.assert_array_equal(hidden(rows[::-1])[::-1], expected)
    np.testing.assert_array_equal(hidden(np.repeat(rows[2:3], 4, axis=0))[0], expected[2])


def test_seed_and_sample_change_the_draws(params):
    (prompt,) = prompts([10])
    (first,) = make(params, DRAWN).complete([Request(prompt, 0, 0)])
    for other, request in (
        (dataclasses.replace(DRAWN, seed=8), Request(prompt, 0, 0)),
        (DRAWN, Request(prompt, 1, 0)),
        (DRAWN, Request(prompt, 0, 1)),
    ):
        assert next(make(params, other).complete([request])).tokens != first.tokens
    assert next(make(params, DRAWN).complete([Request(prompt, 0, 0)])) == first


def test_one_compilation_a_bucket(params):
    """Lengths, seeds and temperatures are inputs of a program, not programs of their own."""
    prefill, decode = sampler._prefill._cache_size(), sampler._decode_segment._cache_size()
    for decoding in (DRAWN, Decoding(0.5, 0.8, 1), Decoding(0.2, 0.95, 2)):
        made = list(make(params, decoding, batch_size=3).complete([Request(p) for p in prompts([1, 20, 64, 65, 128])]))
        assert len(made) == 5
    assert sampler._prefill._cache_size() - prefill == 2
    assert sampler._decode_segment._cache_size() - decode == 2


# --- The distribution ----------------------------------------------------------------------------------------

DRAWS = 20_000  # in one call
draw = jax.jit(choose, static_argnames="method")


def drawn_counts(logits, decoding, position=5):
    """How often each token is drawn, by rows that differ in their key alone."""
    keys = jax.random.split(jax.random.key(decoding.seed), DRAWS)
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (DRAWS, len(logits)))
    chance = Chance(jnp.float32(decoding.temperature), jnp.float32(decoding.top_p))
    tokens = draw(rows, keys, jnp.full(DRAWS, position), chance, decoding.method)
    return np.bincount(np.asarray(tokens), minlength=len(logits))


def nucleus(logits, temperature, top_p):
    """(probabilities after top-p, mass before each token) by sorting in float64."""
    scaled = np.asarray(logits, np.float64) / temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    before = np.empty_like(p)
    before[order] = np.cumsum(p[order]) - p[order]
    kept = np.where(before < top_p, p, 0)
    return kept / kept.sum(), before


@pytest.mark.parametrize("decoding", [Decoding(1.0, seed=1), Decoding(0.6, seed=2), Decoding(0.8, 0.7, seed=3)])
def test_draws_follow_the_distribution(decoding):
    logits = [0.3, -1.2, 2.0, 1.1, 0.0, -0.4, 1.5, 0.9]
    expected, _ = nucleus(logits, decoding.temperature, decoding.top_p)
    seeds = range(10 * decoding.seed, 10 * decoding.seed + 10)
    counts = sum(drawn_counts(logits, dataclasses.replace(decoding, seed=seed)) for seed in seeds)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert possible.sum() == (8 if decoding.top_p == 1 else 3)
    # 200,000 draws, so that a bias of a percent shows; a right sampler fails once in 10,000 choices of seeds.
    assert stats.chisquare(counts[possible], counts.sum() * expected[possible]).pvalue > 1e-4


def test_draws_of_two_positions_are_independent():
    """A key that forgot the position would give the same token at both."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    rows = jnp.zeros((DRAWS, 4))
    chance = Chance(jnp.float32(1), jnp.float32(1))
    first, second = (np.asarray(draw(rows, keys, jnp.full(DRAWS, p), chance, "temperature")) for p in (5, 6))
    table = np.zeros((4, 4))
    np.add.at(table, (first, second), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-4


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    logits=st.lists(st.floats(-6, 6, width=32), min_size=8, max_size=8),
    temperature=st.floats(0.1, 3),
    top_p=st.floats(0.01, 0.999),
    seed=st.integers(0, 2**31 - 1),
)
def test_draws_stay_in_the_nucleus(logits, temperature, top_p, seed):
    counts = drawn_counts(logits, Decoding(temperature, top_p, seed))
    expected, before = nucleus(logits, temperature, top_p)
    settled = np.abs(before - top_p) > 1e-5  # float32 may put the others on either side
    assert counts[settled & (expected == 0)].sum() == 0
    assert (counts[settled & (expected > 0.002)] > 0).all()
    assert counts.sum() == DRAWS


def test_a_tiny_top_p_is_greedy(params):
    requests = [Request(p, i) for i, p in enumerate(prompts([5, 70]))]
    assert list(make(params, Decoding(1.0, 1e-6)).complete(requests)) == list(make(params).complete(requests))


# --- Mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "complaint"),
    [
        ([], "prompt 3: 0 tokens"),
        ([1] * (CONFIG.max_seq_len - 39), "prompt 3: 153 tokens; with 40 new ones a context of 192 takes 1 to 152"),
        ([1, CONFIG.vocab_size], "prompt 3: ids from 1 to 61"),
        ([-1, 2], "prompt 3: ids from -1 to 2"),
    ],
)
def test_a_prompt_that_cannot_be_completed_is_named(params, tokens, complaint):
    with pytest.raises(ValueError, match=complaint):
        next(make(params).complete([Request([1, 2]), Request(tokens, 3)]))


@pytest.mark.parametrize(
    ("make_it", "complaint"),
    [
        (lambda p: Decoding(temperature=-1), "temperature=-1"),
        (lambda p: Decoding(temperature=float("nan")), "temperature=nan"),
        (lambda p: Decoding(1.0, top_p=0), "top_p=0"),
        (lambda p: Decoding(1.0, top_p=1.5), "top_p=1.5"),
        (lambda p: make(p, batch_size=0), "batch_size=0"),
        (lambda p: make(p, max_new_tokens=0), "max_new_tokens=0"),
        (lambda p: make(p, max_new_tokens=192), "max_new_tokens=192"),
    ],
)
def test_settings_that_mean_nothing_are_refused(params, make_it, complaint):
    with pytest.raises(UserError, match=complaint):
        make_it(params)
