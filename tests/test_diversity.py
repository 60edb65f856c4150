"""Diversity: known figures by hand, copies lower all of them, no order shows."""

import gzip
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi_jax.synthesis import curriculum, diversity
from phi_jax.synthesis.diversity import measure

# Which way each figure goes as texts become more alike.
FALLS = ("distinct_1", "distinct_2", "distinct_3", "distinct_4", "cosine_distance", "effective_texts")
RISES = ("compression_ratio", "alike_openings")


def figures(texts):
    return measure(texts, [None] * len(texts))


def unlike(count, words=12, seed=0):
    """Texts that have no word in common."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    pool = iter(rng.sample(range(26**5), count * words))
    return [
        " ".join("".join(letters[n // 26**i % 26] for i in range(5)) for n in (next(pool) for _ in range(words)))
        for _ in range(count)
    ]


def test_by_hand():
    texts = ["a b a b", "a b c!"]
    found = figures(texts)
    assert found["texts"] == found["sampled"] == 2
    assert found["words"] == 7
    assert found["distinct_1"] == round(3 / 7, 4)
    assert found["distinct_2"] == 0.6  # ab ba ab + ab bc: three of five, none from the end of one into the other
    assert found["distinct_3"] == 1  # aba bab + abc
    assert found["distinct_4"] == 1
    joined = "a b a b\na b c!"
    assert found["compression_ratio"] == round(len(joined) / len(gzip.compress(joined.encode(), mtime=0)), 3)
    # TF-IDF: the weight of a and b, which both texts have, is 1; that of c is 1 + ln(3/2).
    rare = 1 + math.log(3 / 2)
    cosine = 2 / math.sqrt(2) / math.sqrt(2 + rare**2)
    assert found["cosine_distance"] == round(1 - cosine, 4)
    high, low = (1 + cosine) / 2, (1 - cosine) / 2  # eigenvalues of [[1, cosine], [cosine, 1]] / 2
    assert found["effective_texts"] == round(math.exp(-high * math.log(high) - low * math.log(low)), 2)
    assert found["alike_openings"] == 0
    assert found["commonest_opening"] == {"words": "a b a b", "share": 0.5}
    assert "coverage" not in found


def test_spread_is_that_of_scikit_learns_truncated_svd(small):
    """Against its own solver, all pairs of cosines and all eigenvalues of their matrix."""
    import numpy as np
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    rng = random.Random(4)
    topics = [text.split() for text in unlike(70, words=30, seed=4)]
    texts = [" ".join(rng.choices(rng.choice(topics), k=20) + rng.choices(topics[0], k=5)) for _ in range(200)]
    weights = TfidfVectorizer(token_pattern=r"\w+").fit_transform(texts)
    vectors = TruncatedSVD(diversity.COMPONENTS, algorithm="arpack").fit_transform(weights)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    found = figures(texts)
    assert found["cosine_distance"] == pytest.approx(1 - cosines[np.triu_indices(200, 1)].mean(), abs=1e-4)
    values = np.linalg.eigvalsh(cosines / 200)
    values = values[values > 1e-12]
    assert found["effective_texts"] == pytest.approx(np.exp(-(values * np.log(values)).sum()), abs=0.01)
    assert 2 < found["effective_texts"] < diversity.COMPONENTS


def test_openings_are_five_words():
    texts = ["One two, three four five: six", "One two three four five seven", "One two three four six", "One"]
    found = figures(texts)
    assert found["alike_openings"] == 0.5
    assert found["commonest_opening"] == {"words": "One two three four five", "share": 0.5}


@pytest.mark.parametrize("count", [2, 5, 40])
def test_texts_with_nothing_in_common_are_as_many_as_they_are(count):
    found = figures(unlike(count))
    assert found["effective_texts"] == count
    assert found["cosine_distance"] == 1
    assert [found[f"distinct_{n}"] for n in (1, 2, 3, 4)] == [1, 1, 1, 1]


@pytest.fixture
def small(monkeypatch):
    """Limits that a test passes in a second."""
    for name, value in (("SAMPLE", 200), ("WORDS", 2000), ("COMPONENTS", 50)):
        monkeypatch.setattr(diversity, name, value)


@pytest.mark.parametrize("count", [1, 3, 300])
def test_one_text_again_and_again_is_one_text(count, small):
    found = figures(unlike(1) * count)
    assert found["effective_texts"] == 1
    assert found["cosine_distance"] == 0
    assert found["alike_openings"] == (1 if count > 1 else 0)
    assert found["sampled"] == min(count, diversity.SAMPLE)
    assert found["distinct_1"] == round(1 / min(count, diversity.WORDS // 12), 4)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), count=st.integers(4, 30), copies=st.integers(2, 20), data=st.data())
def test_copies_lower_every_figure(seed, count, copies, data):
    """So many of the texts, from one that all share some words with, are replaced by copies of another."""
    copies = min(copies, count - 1)
    shared = unlike(1, words=3, seed=seed)[0]
    texts = [f"{text} {shared}" for text in unlike(count, words=20, seed=seed + 1)]
    source = data.draw(st.integers(copies, count - 1))
    before, after = figures(texts), figures([texts[source]] * copies + texts[copies:])
    assert before["words"] == after["words"]
    assert all(after[name] < before[name] for name in FALLS), (before, after)
    assert all(after[name] > before[name] for name in RISES), (before, after)


def test_copies_lower_every_figure_of_a_large_set(small):
    """More texts than components, more than the sample and more words than are looked at."""
    common = unlike(20, words=10, seed=1)
    texts = [f"{text} {common[n % 20]}" for n, text in enumerate(unlike(300, words=10))]
    before, after = figures(texts), figures(texts[:100] + texts[:1] * 200)
    assert before["sampled"] == after["sampled"] == diversity.SAMPLE
    assert before["words"] == after["words"] == diversity.WORDS
    assert all(after[name] < before[name] for name in FALLS), (before, after)
    assert all(after[name] > before[name] for name in RISES), (before, after)
    # The sample holds copies in the set's proportion: one text is two thirds of it.
    assert before["alike_openings"] == 0
    assert 0.6 < after["alike_openings"] < 0.75


def test_the_second_copy_of_every_text_compresses_away():
    """Though gzip looks back 32 KiB and the texts are 54 KiB."""
    texts = unlike(30, words=300)
    assert figures(texts * 2)["compression_ratio"] > 1.9 * figures(texts)["compression_ratio"]


@settings(max_examples=25)
@given(texts=st.lists(st.text(alphabet="ab c\n.é", max_size=40), max_size=12), seed=st.integers(0, 99))
def test_order_does_not_matter(texts, seed):
    plan = list(curriculum.lessons("textbooks", len(texts), 0))
    pairs = list(zip(texts, plan, strict=True))
    random.Random(seed).shuffle(pairs)
    assert measure([t for t, _ in pairs], [lesson for _, lesson in pairs]) == measure(texts, plan)


def test_order_does_not_matter_beyond_the_sample_either(small):
    texts = [f"{a} {b}" for a, b in zip(unlike(500, seed=1), unlike(50, seed=2) * 10, strict=True)]
    assert figures(texts[::-1]) == figures(texts)


def test_figures_of_larger_sets_of_the_same_kind_compare(small):
    """What is counted is a fixed number of words: ten times as many texts from one source are no less diverse."""
    rng = random.Random(3)
    pool = [word for text in unlike(10, words=20) for word in text.split()]
    texts = [" ".join(rng.choices(pool, k=100)) for _ in range(400)]
    some, ten_times = figures(texts[:40]), figures(texts)
    assert some["words"] == ten_times["words"] == diversity.WORDS
    for name in ("distinct_1", "distinct_2", "compression_ratio"):
        assert ten_times[name] == pytest.approx(some[name], rel=0.05)


def test_texts_without_a_word_and_no_texts_at_all():
    nothing = figures([])
    assert nothing["texts"] == nothing["sampled"] == nothing["words"] == 0
    assert all(nothing[name] is None for name in (*FALLS, *RISES, "commonest_opening"))
    assert figures(["", " \n", "?!"]) == {**nothing, "texts": 3}
    assert figures(["", "word"]) == {**figures(["word"]), "texts": 2}


def test_lessons_and_texts_go_together():
    with pytest.raises(ValueError, match="shorter"):
        measure(["a", "b"], [None])


# --- Coverage of the curriculum --------------------------------------------------------------------------------------


def test_rounds_of_the_curriculum_cover_it_evenly():
    plan = list(curriculum.lessons("exercises", 800, 0))
    found = measure([f"text {lesson.name}" for lesson in plan], plan)["coverage"]
    assert found == {
        "lessons": 800, "areas": 1, "topics": 1, "area_evenness": 1, "topic_evenness": 1, "thin_areas": [],
    }  # fmt: skip


def test_what_was_not_taught_shows():
    """Of 400 topics in 40 areas: all ten of one area, two of another twice each, no other."""
    plan = list(curriculum.lessons("textbooks", 400, 0))
    areas = sorted({lesson.area for lesson in plan})
    chosen = [lesson for lesson in plan if lesson.area == areas[0]]
    chosen += [lesson for lesson in plan if lesson.area == areas[1]][:2] * 2
    lessons = [*chosen, None]  # the last text is somebody's own
    found = measure([f"text {n}" for n in range(len(lessons))], lessons)["coverage"]
    assert found["lessons"] == 14
    assert found["areas"] == 2 / 40
    assert found["topics"] == 12 / 400
    entropy = -(10 / 14 * math.log(10 / 14) + 4 / 14 * math.log(4 / 14))
    assert found["area_evenness"] == round(entropy / math.log(40), 4)
    entropy = -(10 / 14 * math.log(1 / 14) + 4 / 14 * math.log(2 / 14))
    assert found["topic_evenness"] == round(entropy / math.log(400), 4)
    assert found["thin_areas"] == areas[2:]


def test_an_area_is_thin_below_half_of_its_share():
    topics = [("a", "1"), ("a", "2"), ("b", "3"), ("c", "4")]
    taught = {("a", "1"): 7, ("b", "3"): 3, ("c", "4"): 2}  # an even share is 4, half of it 2
    assert diversity.coverage(taught, topics)["thin_areas"] == []
    assert diversity.coverage({**taught, ("a", "2"): 1}, topics)["thin_areas"] == ["c"]
