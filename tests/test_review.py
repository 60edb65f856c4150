"""What becomes of a text: each way to fail has its reason and group, copies go, and what is written adds up."""

import json

import pytest

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store import artifact, documents
from phi_jax.synthesis import review
from phi_jax.synthesis.curriculum import lessons
from phi_jax.synthesis.review import Desk, Submission, group, judge

RULES = Config({"near_copy_threshold": 0.8, "sandbox": "full", "sandbox_workers": 2})
GOOD = '''def add_up_boats(values: list[int]) -> int:
    """Return the sum of the values; 0 for none.

    >>> add_up_boats([1, 2])
    3
    """
    total = 0
    for value in values:
        total += value
    return total
'''
OTHER = '''def spell_backwards(text: str) -> str:
    """Return the letters of a text in opposite order, last one first.

    >>> spell_backwards("ab")
    'ba'
    """
    return text[::-1]
'''
TESTS = (
    "assert add_up_boats([]) == 0",
    "assert add_up_boats([4]) == 4",
    "assert add_up_boats([1, -2, 5]) == 4",
    "assert add_up_boats([2, 2]) == 4",
    "assert add_up_boats([7, 10, 3]) == 20",
)
SECTION = """# Sums

A loop adds one value after the other to what was there.

```python
total = 0
for value in [1, 2, 3]:
    total += value
print(total)
```

```output
6
```
"""


def exercise(code=GOOD, tests=TESTS, name="add_up_boats", **more):
    return Submission("exercises/0", code, "writer", "other", tests=tests, name=name, **more)


def section(text=SECTION, **more):
    return Submission("textbooks/0", text, "writer", "other", **more)


EXERCISES = {
    "none": exercise(),
    "none, any name": exercise(name=None),
    "none, without tests": exercise(tests=None),
    "refused": exercise(problem="refused: I cannot help with that"),
    "cut off": exercise(problem="cut off: max_tokens"),
    "filtered": exercise(problem="filtered: content filter"),
    "no answer": exercise(problem="no answer: 500 six times"),
    "another form": exercise(GOOD + "\nprint(add_up_boats([1]))\n"),
    "another form, name": exercise(name="add_up_ships"),
    "another form, docstring": exercise("def add_up_boats(values):\n    return sum(values)\n"),
    "cannot be read": exercise("def add_up_boats(values:\n"),
    "cannot be read, test": exercise(tests=(*TESTS, "assert add_up_boats([1]) = 1")),
    "cannot be read, no tests": exercise("def add_up_boats(values:\n", tests=None),
    "an example is wrong": exercise(GOOD.replace("    3\n", "    4\n")),
    "an example is wrong, no tests": exercise(GOOD.replace("    3\n", "    4\n"), tests=None),
    "does not run": exercise("import no_such_module\n" + GOOD),
    "a test fails": exercise(tests=(*TESTS, "assert add_up_boats([1]) == 2")),
    "no tests to speak of": exercise(tests=()),
    "no tests to speak of, few": exercise(tests=TESTS[:2]),
    "tests notice too little": exercise(tests=tuple(f"assert isinstance(add_up_boats([{n}]), int)" for n in range(5))),
    "no text": exercise(GOOD.replace("Return", "Return \ud83d")),
}
SECTIONS = {
    "none": section(),
    "none, tidied": section(f"Sure! Here is a section of a textbook on sums:\n\n{SECTION}\nI hope this helps!\n"),
    "another form": section("# Sums\n\nA sum is what comes of adding.\n"),
    "another form, fence": section(SECTION.rstrip("`\n") + "\n"),
    "cannot be read": section(SECTION.replace("total = 0", "total = (")),
    "prints something else": section(SECTION.replace("\n6\n", "\n7\n")),
    "does not run": section(SECTION.replace("print(total)", "print(totals)")),
    "an example is wrong": section(SECTION + '\n```python\ndef one():\n    """\n    >>> one()\n    1\n    """\n```\n'),
}


@pytest.mark.parametrize(("kind", "texts"), [("exercises", EXERCISES), ("textbooks", SECTIONS)])
def test_every_way_to_fail_has_its_group(kind, texts):
    rows = judge(kind, list(texts.values()), "test", RULES)
    found = {name: group(row["reason"]) if row["reason"] else "none" for name, row in zip(texts, rows, strict=True)}
    assert found == {name: name.partition(",")[0] for name in texts}
    for row in rows:
        row["text"].encode()
        assert row["reason"] is None or "\n" not in row["reason"]


def test_an_unknown_reason_is_counted_too():
    assert group("something that nobody thought of") == "another reason"


def test_boilerplate_goes_and_is_noted():
    plain, tidied = judge("textbooks", [SECTIONS["none"], SECTIONS["none, tidied"]], "test", RULES)
    assert tidied["text"].strip() == plain["text"].strip() == SECTION.strip()
    assert (plain["boilerplate"], tidied["boilerplate"]) == (False, True)


def test_a_fence_inside_code_without_tests_does_no_harm():
    code = GOOD.replace("Return the sum", "```\n    four ````\n    ```\n    Return the sum")
    (row,) = judge("exercises", [exercise(code, tests=None)], "test", RULES)
    assert row["reason"] is None


def draft_in(path):
    path.mkdir(exist_ok=True)
    return artifact.open_draft(path, "synthesize", "teacher", {}, {})


def reviewed(draft, *turns):
    desk = Desk(draft, "exercises", RULES)
    for turn in turns:
        desk.review(turn, len(turn), lambda submission: submission)
    facts = desk.publish()
    review.clear(draft)
    draft.add_output("set_aside", "set_aside", rows=facts["set_aside"])
    return facts, draft.commit()


def test_copies_go_and_all_adds_up(tmp_path):
    (lesson,) = lessons("exercises", 1, 0)
    long = "\n".join(f"    # step {n}: look at what the loop has done so far" for n in range(30))
    commented = GOOD.replace("    total = 0\n", f"{long}\n    total = 0\n")
    first = [
        exercise(lesson=lesson, teacher="m-1"),
        exercise(commented),
        exercise(commented.replace("step 7", "step seven")),
        exercise(GOOD.replace("    3\n", "    5\n")),
    ]
    second = [exercise(), exercise(OTHER, tests=None, name=None)]
    facts, built = reviewed(draft_in(tmp_path / "w"), first, second)
    assert (facts["written"], facts["kept"], facts["set_aside"]) == (6, 3, 3)
    assert facts["reasons"] == {"an example is wrong": 1, "identical text": 1, "near copy": 1}
    names = [*documents.SCHEMA.names, "lesson", "teacher", "tests"]
    kept = list(documents.read(built.path("exercises"), names))
    assert [row["id"] for row in kept] == [documents.document_id(row["text"]) for row in kept]
    assert sum(len(row["text"].encode()) for row in kept) == facts["bytes"]
    assert json.loads(kept[0]["lesson"])["number"] == 0
    assert (kept[0]["teacher"], kept[0]["language"]) == ("m-1", "python")
    assert json.loads(kept[0]["tests"]) == list(TESTS)
    assert kept[-1]["lesson"] is kept[-1]["teacher"] is kept[-1]["tests"] is None
    aside = list(documents.read(built.directory / "set_aside" / "exercises", ("path", "reason", "text")))
    assert len(aside) == 3
    assert sorted(p.name for p in built.directory.iterdir()) == ["exercises", "manifest.json", "set_aside"]


def test_nothing_kept_is_a_document_set_too(tmp_path):
    facts, built = reviewed(draft_in(tmp_path / "w"), [], [exercise(problem="refused: no")])
    assert (facts["written"], facts["kept"], facts["set_aside"]) == (1, 0, 1)
    assert list(documents.read(built.path("exercises"))) == []


def test_parts_that_are_there_are_not_judged_again(tmp_path, monkeypatch):
    """A run that is cut between two parts goes on with the second; what comes out is the same."""
    monkeypatch.setattr(review, "_TEXTS_PER_PART", 2)
    texts = [exercise(GOOD.replace("the sum", f"the {word} sum"), tests=None) for word in ("first", "second", "third")]

    def cut_short():
        yield from texts[:2]
        raise KeyboardInterrupt

    _, whole = reviewed(draft_in(tmp_path / "whole"), texts)
    desk = Desk(draft_in(tmp_path / "cut"), "exercises", RULES)
    with pytest.raises(KeyboardInterrupt):
        desk.review(cut_short(), 3, lambda submission: submission)

    made = []
    draft = draft_in(tmp_path / "cut")
    assert draft.resumed
    desk = Desk(draft, "exercises", RULES)
    desk.review(texts, 3, lambda submission: made.append(submission) or submission)
    desk.publish()
    review.clear(draft)
    draft.add_output("set_aside", "set_aside", rows=0)
    assert made == texts[2:]
    assert draft.commit().identity == whole.identity


def test_a_threshold_out_of_range_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.synthesize\.near_copy_threshold=1\.5"):
        Desk(draft_in(tmp_path / "w"), "exercises", Config({"near_copy_threshold": 1.5}))
