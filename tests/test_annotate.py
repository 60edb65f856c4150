"""Annotate: what the static rubric likes and dislikes, what it cannot be fooled by, and the stage around it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi_jax.config import Config
from phi_jax.corpus import annotate as stage
from phi_jax.corpus import rubric
from phi_jax.corpus.annotate import read_grades
from phi_jax.corpus.rubric import grade
from phi_jax.store import artifact, documents
from phi_jax.store.python_text import from_first_code

LESSON = '''"""Prime numbers, found in two ways."""

import math


def is_prime(number):
    """Returns whether a number has no divisor but one and itself."""
    if number < 2:
        return False
    for divisor in range(2, math.isqrt(number) + 1):
        if number % divisor == 0:
            return False
    return True


def primes_below(limit):
    """Returns all primes below a limit, with the sieve of Eratosthenes."""
    is_candidate = [True] * limit
    primes = []
    for number in range(2, limit):
        if is_candidate[number]:
            primes.append(number)
            for multiple in range(number * number, limit, number):
                is_candidate[multiple] = False
    return primes
'''
SETUP = """from setuptools import setup, find_packages
from . import version

setup(
    name="thing",
    version=version.VERSION,
    packages=find_packages(),
    author="Somebody",
    license="MIT",
    classifiers=["Programming Language :: Python", "License :: OSI Approved :: MIT License"],
    install_requires=["numpy", "scipy"],
)
"""
TABLE = "CODES = {\n" + "".join(f"    {n}: 'name {n}',\n" for n in range(60)) + "}\nLIMIT = 60\nDEFAULT = None\n"
TESTS = """import unittest
import pytest
from thing import add, subtract


class ThingTest(unittest.TestCase):
    limit = 3

    def test_add(self):
        self.assertEqual(add(1, 2), 3)
        self.assertEqual(add(2, 2), 4)
        assert add(0, 0) == 0

    def test_subtract(self):
        self.assertEqual(subtract(3, 2), 1)
        self.assertTrue(subtract(3, 3) == 0)
"""
MINIFIED = "".join(
    f"def {a}(a,b,c):\n if a>b:return {a}(b,a,c)\n d=a*b+c;return d\n" for a in "efghij"
) + "x=[e(1,2,3),f(1,2,3)];y=x;z=y\n"  # fmt: skip
BAD = {"setup": SETUP, "table": TABLE, "tests": TESTS, "minified": MINIFIED}


# --- The rubric ----------------------------------------------------------------------------------------------------


def test_a_lesson_is_better_than_what_teaches_nothing():
    assert grade(LESSON).value > 0.8
    assert max(grade(text).value for text in (SETUP, TABLE, TESTS)) <= 0.3
    assert grade(MINIFIED).value < grade(LESSON).value - 0.15


def test_each_part_sees_what_it_is_named_for():
    lesson = grade(LESSON).parts
    assert lesson["docstrings"] > 0.9
    assert lesson["self_contained"] == 1
    assert grade(SETUP).parts["self_contained"] < 0.5
    assert grade(TABLE).parts["computation"] == 0
    assert grade(TESTS).parts["computation"] < 0.12 < 0.6 < lesson["computation"]
    assert grade(LESSON.replace("import math", "from . import math")).parts["self_contained"] < 0.5
    assert grade("x = 1\n").parts["size"] == 0
    assert grade(LESSON * 100).parts["size"] == 0


def test_the_parts_and_the_weights_make_the_grade():
    assert sum(rubric.WEIGHTS.values()) == pytest.approx(1)
    for text in (LESSON, *BAD.values()):
        given_ = grade(text)
        assert all(0 <= part <= 1 for part in given_.parts.values())
        assert given_.value == pytest.approx(sum(rubric.WEIGHTS[k] * v for k, v in given_.parts.items()), abs=1e-6)


def test_docstrings_never_lower_the_grade():
    lines = [line for line in LESSON.split("\n") if '"""' not in line]
    text = "\n".join(lines)
    values = [grade(text).value]
    for line in ("def is_prime(number):\n", "def primes_below(limit):\n"):
        text = text.replace(line, line + '    """Says at some length what it does and what it returns."""\n')
        values.append(grade(text).value)
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_comments_and_blank_lines_earn_and_cost_nothing():
    commented = "# Copyright\n\n" + LESSON.replace("    return primes", "    # What comes back.\n\n    return primes")
    assert grade(commented) == grade(LESSON)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("print 'old'\n", "does not parse"), ("def f(:\n", "does not parse"), ("a\0b", "does not parse"),
        ("(" * 5000, "does not parse"), ("", "no code"), ("# only\n# comments\n", "no code"),
        ('"""Only prose."""\n', "no code"),
    ],
)  # fmt: skip
def test_what_cannot_be_weighed_gets_nothing_with_a_reason(text, reason):
    assert grade(text) == rubric.Grade(0.0, {}, reason)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_text_raises(text):
    assert 0 <= grade(text).value <= 1


@pytest.mark.parametrize(
    ("text", "code"),
    [("# a\n\n  # b\nx = 1\n", "x = 1\n"), ("x = 1  # a\n", "x = 1  # a\n"), ("# all\n", ""), ("", "")],
)
def test_a_text_from_its_first_code_on(text, code):
    assert from_first_code(text) == code


# --- The stage -----------------------------------------------------------------------------------------------------

COUNT = 50


@pytest.fixture
def collected(tmp_path):
    draft = artifact.open_draft(tmp_path / "w", "collect", "python", {}, {})
    texts = [LESSON.replace("limit", f"limit_{n}") for n in range(10)] + [
        text + f"\nnumber = {n}\n" for n in range(9) for text in BAD.values()
    ]
    texts += ["print 'old'\n", "def f(:\n", "# only a comment\n", "# another\n"]
    assert len(texts) == COUNT
    directory = draft.directory / "documents"
    directory.mkdir()
    rows = [
        {"id": documents.document_id(t), "text": t, "source": "s", "path": f"{n}.py", "license": None, "language": "x"}
        for n, t in enumerate(texts)
    ]
    documents.write_part(directory, 0, rows[:30])
    documents.write_part(directory, 1, rows[30:])
    documents.add_output(draft, "documents")
    return draft.commit()


def open_draft(tmp_path, collected, name="python", **rules):
    chosen = Config({"annotate": {"grader": "static", "max_files": 0, "high_share": 0.2, **rules}})
    return chosen, artifact.open_draft(tmp_path / "w", "annotate", name, chosen.to_dict(), {"documents": collected})


def annotate(tmp_path, collected, name="python", **rules):
    chosen, draft = open_draft(tmp_path, collected, name, **rules)
    stage.annotate(chosen, {"documents": collected}, draft)
    return draft.commit()


def test_every_file_has_a_grade_and_the_best_are_high(tmp_path, collected):
    built = annotate(tmp_path, collected)
    rows = read_grades(built)
    texts = {row["id"]: row["text"] for row in documents.read(collected.path("documents"))}
    assert {row["id"] for row in rows} == texts.keys()
    assert {texts[row["id"]].startswith('"""Prime') for row in rows if row["label"] == "high"} == {True}
    for row in rows:
        assert row["grade"] == grade(texts[row["id"]]).value
    facts = built.facts
    assert (facts["grader"], facts["graded"], facts["high"]) == ("static", COUNT, 10)
    assert facts["reasons"] == {"does not parse": 2, "no code": 2}


def test_the_sample_is_by_hash_and_grows_with_its_size(tmp_path, collected):
    few = annotate(tmp_path, collected, name="few", max_files=10)
    more = annotate(tmp_path, collected, name="more", max_files=20)
    ids = [{row["id"] for row in read_grades(built)} for built in (few, more)]
    assert [len(i) for i in ids] == [10, 20]
    assert ids[0] < ids[1]


def test_a_killed_run_goes_on_where_it_was(tmp_path, collected, monkeypatch):
    whole = annotate(tmp_path, collected)
    (tmp_path / "w" / "annotate" / "python").rename(tmp_path / "whole")
    seen = []

    def slow(text):
        seen.append(text)
        if len(seen) == 40:
            raise KeyboardInterrupt
        return grade(text)

    monkeypatch.setattr(rubric, "grade", slow)
    with pytest.raises(KeyboardInterrupt):
        annotate(tmp_path, collected)
    again = annotate(tmp_path, collected)
    assert len(seen) == 40 + COUNT - 30  # the first of two parts, of 30 files, was written
    assert again.identity == whole.identity


def test_files_of_an_equal_grade_are_labelled_alike(tmp_path, collected, monkeypatch):
    monkeypatch.setattr(
        rubric, "grade", lambda text: rubric.Grade(float("def" in text), dict.fromkeys(rubric.WEIGHTS, 0))
    )
    built = annotate(tmp_path, collected)
    rows = read_grades(built)
    assert {(row["grade"], row["label"]) for row in rows} == {(1.0, "high"), (0.0, "low")}
