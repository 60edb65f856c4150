"""Diversity: known figures by hand, copies lower all of them, no order shows."""

import gzip
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi_jax.synthesis import diversity
from phi_jax.synthesis.diversity import measure

DISTINCT = [f"distinct_{n}" for n in range(1, 5)]


def unlike(count, words=12, seed=0):
    """Texts that have no word in common."""
    pool = iter(random.Random(seed).sample(range(10**6, 10**7), count * words))
    return [" ".join(str(next(pool)) for _ in range(words)) for _ in range(count)]


def test_by_hand():
    joined = "a b a b\na b c!"
    assert measure(["a b c!", "a b a b"]) == {
        "words": 7,
        "distinct_1": round(3 / 7, 4),
        "distinct_2": 0.6,  # ab ba ab + ab bc: three of five, none from the end of one into the other
        "distinct_3": 1,  # aba bab + abc
        "distinct_4": 1,
        "compression_ratio": round(len(joined) / len(gzip.compress(joined.encode(), mtime=0)), 3),
    }


def test_the_second_copy_of_every_text_compresses_away():
    """Though gzip looks back 32 KiB and the texts are 70 KiB."""
    texts = unlike(30, words=300)
    assert measure(texts * 2)["compression_ratio"] > 1.9 * measure(texts)["compression_ratio"]
    assert all(measure(texts * 2)[name] == 0.5 for name in DISTINCT)


@settings(max_examples=25)
@given(st.lists(st.text(alphabet="ab c\n.é", max_size=40), max_size=12), st.randoms())
def test_order_does_not_matter(texts, rng):
    shuffled = rng.sample(texts, len(texts))
    assert measure(shuffled) == measure(texts)


def test_figures_of_larger_sets_of_the_same_kind_compare(monkeypatch):
    """What is counted is a fixed number of words: ten times as many texts from one source are no less diverse."""
    monkeypatch.setattr(diversity, "WORDS", 2000)
    rng = random.Random(3)
    pool = " ".join(unlike(10, words=20)).split()
    texts = [" ".join(rng.choices(pool, k=100)) for _ in range(400)]
    some, ten_times = measure(texts[:40]), measure(texts)
    assert some["words"] == ten_times["words"] == 2000
    for name in ("distinct_1", "distinct_2", "compression_ratio"):
        assert ten_times[name] == pytest.approx(some[name], rel=0.05)


def test_texts_without_a_word_and_no_texts_at_all():
    assert measure([]) == measure(["", " \n", "?!"]) == dict.fromkeys([*DISTINCT, "compression_ratio"]) | {"words": 0}
    assert measure(["", "word"]) == measure(["word"])
