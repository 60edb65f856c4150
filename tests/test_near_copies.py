"""Near copies among written texts: the one that goes is within the threshold of the one that stays, in any order."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dedup import edited, jaccard, mixed, prose, row

from phi_jax.errors import UserError
from phi_jax.store import documents
from phi_jax.synthesis.copies import near_copies


def write(directory, rows, cuts=()):
    directory.mkdir(parents=True, exist_ok=True)
    for index, (begin, end) in enumerate(itertools.pairwise([0, *cuts, len(rows)])):
        documents.write_part(directory, index, rows[begin:end])
    return directory


def test_white_space_is_no_difference_and_a_word_in_a_hundred_is_little(tmp_path):
    text = prose(1, 100)
    spaced, changed, other = text.replace(" ", "\n  ", 40), text.replace(text.split()[50], "word"), prose(2, 100)
    rows = [row(t) for t in (text, spaced, changed, other)]
    assert jaccard(text, changed) == 91 / 101  # 5 of 96 n-grams hold the word
    gone = near_copies(write(tmp_path, rows))
    assert rows[3]["id"] not in gone
    ids = {r["id"] for r in rows[:3]}
    assert len(gone) == 2
    assert set(gone) < ids
    assert set(gone.values()) == ids - set(gone)
    # Above its similarity the edited one stays; the same words never do.
    assert set(near_copies(tmp_path, 0.95).items()) < {
        (a["id"], b["id"]) for a, b in itertools.permutations(rows[:2], 2)
    }


def test_rows_of_one_id_are_one_text(tmp_path):
    one, other = row(prose(1), "a.md"), row(prose(2), "b.md")
    assert near_copies(write(tmp_path, [one, {**one, "path": "c.md"}, other], cuts=[1])) == {}


@settings(max_examples=8)
@given(seed=st.integers(0, 999), threshold=st.sampled_from([0.7, 0.8, 0.9]), data=st.data())
def test_what_goes_is_near_what_stays_whatever_the_order_and_the_cut(tmp_path_factory, seed, threshold, data):
    rows = mixed(seed, families=6)
    texts = {r["id"]: r["text"] for r in rows}
    whole = near_copies(write(tmp_path_factory.mktemp("whole"), rows), threshold)
    assert whole
    for gone, kept in whole.items():
        assert kept not in whole
        assert texts[gone].split() == texts[kept].split() or jaccard(texts[gone], texts[kept]) >= threshold
    random.Random(seed).shuffle(rows)
    cut = data.draw(st.integers(0, len(rows)))
    directory = tmp_path_factory.mktemp("cut")
    two = [
        write(directory / name, part, cuts=[len(part) // 2]) for name, part in (("a", rows[:cut]), ("b", rows[cut:]))
    ]
    assert list(near_copies(two, threshold).items()) == list(whole.items())


def test_copies_of_a_text_of_the_other_set_are_found(tmp_path):
    text = prose(3)
    sets = [write(tmp_path / "textbooks", [row(text)]), write(tmp_path / "exercises", [row(edited(text, 0.01, 1))])]
    assert [near_copies(s) for s in sets] == [{}, {}]
    assert len(near_copies(sets)) == 1


def test_sets_without_texts_and_thresholds_out_of_range(tmp_path):
    assert near_copies(write(tmp_path / "empty", [])) == {}
    with pytest.raises(UserError, match=r"no part-\*\.parquet"):
        near_copies(tmp_path)
    with pytest.raises(ValueError, match=r"threshold=0"):
        near_copies(tmp_path / "empty", 0)
