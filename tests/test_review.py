"""What becomes of a text: each way to fail has its code and reason, copies go, and what is written adds up."""

import json

import pytest

from phi_jax.config import Config
from phi_jax.store import artifact, documents
from phi_jax.synthesis import review
from phi_jax.synthesis.outputs import KINDS, Fault, declare, judged
from phi_jax.synthesis.review import check, sift

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


def row(text, fault=None, **more):
    return judged({"path": "here/0", "text": text, "source": "writer", "license": "other", **more}, fault)


def exercise(code=GOOD, tests=TESTS, name="add_up_boats", fault=None, **more):
    lesson = json.dumps({"name": name}) if name else None
    return row(code, fault, **{"tests": tests and json.dumps(tests), "lesson": lesson, **more})


def section(text=SECTION):
    return row(text)


EXERCISES = {
    "none": exercise(),
    "none, any name": exercise(name=None),
    "none, without tests": exercise(tests=None),
    "refused": exercise(fault=Fault("refused", "I cannot help with that")),
    "length": exercise(fault=Fault("length", "max_tokens")),
    "filtered": exercise(fault=Fault("filtered", "content filter")),
    "poisoned": exercise(fault=Fault("poisoned", "500 six times")),
    "wrong_form": exercise(GOOD + "\nprint(add_up_boats([1]))\n"),
    "wrong_form, name": exercise(name="add_up_ships"),
    "wrong_form, docstring": exercise("def add_up_boats(values):\n    return sum(values)\n"),
    "unreadable": exercise("def add_up_boats(values:\n"),
    "unreadable, test": exercise(tests=(*TESTS, "assert add_up_boats([1]) = 1")),
    "unreadable, no tests": exercise("def add_up_boats(values:\n", tests=None),
    "wrong_example": exercise(GOOD.replace("    3\n", "    4\n")),
    "wrong_example, no tests": exercise(GOOD.replace("    3\n", "    4\n"), tests=None),
    "does_not_run": exercise("import no_such_module\n" + GOOD),
    "test_fails": exercise(tests=(*TESTS, "assert add_up_boats([1]) == 2")),
    "few_tests": exercise(tests=TESTS[:1]),
    "few_tests, few": exercise(tests=TESTS[:2]),
    "weak_tests": exercise(tests=tuple(f"assert isinstance(add_up_boats([{n}]), int)" for n in range(5))),
    "no_text": exercise(GOOD.replace("Return", "Return \ud83d")),
}
SECTIONS = {
    "none": section(),
    "none, tidied": section(f"Sure! Here is a section of a textbook on sums:\n\n{SECTION}\nI hope this helps!\n"),
    "wrong_form": section("# Sums\n\nA sum is what comes of adding.\n"),
    "unreadable, fence": section(SECTION.rstrip("`\n") + "\n"),
    "unreadable": section(SECTION.replace("total = 0", "total = (")),
    "wrong_output": section(SECTION.replace("\n6\n", "\n7\n")),
    "does_not_run": section(SECTION.replace("print(total)", "print(totals)")),
    "wrong_example": section(SECTION + '\n```python\ndef one():\n    """\n    >>> one()\n    1\n    """\n```\n'),
}


@pytest.mark.parametrize(("kind", "texts"), [("exercises", EXERCISES), ("textbooks", SECTIONS)])
def test_every_way_to_fail_has_its_code(kind, texts):
    rows = check(kind, list(texts.values()), "test", RULES)
    found = {name: row["code"] or "none" for name, row in zip(texts, rows, strict=True)}
    assert found == {name: name.partition(",")[0] for name in texts}
    for row in rows:
        assert (row["reason"] is None) == (row["code"] is None)
        assert "\n" not in (row["reason"] or "")
        assert all(value.encode() for value in row.values() if isinstance(value, str))


def test_texts_are_tidied():
    plain, tidied = check("textbooks", [SECTIONS["none"], SECTIONS["none, tidied"]], "test", RULES)
    assert tidied["text"].strip() == plain["text"].strip() == SECTION.strip()
    assert (plain["boilerplate"], tidied["boilerplate"]) == (False, True)
    (windows,) = check("exercises", [exercise("\ufeff" + GOOD.replace("\n", "\r\n"))], "test", RULES)
    assert (windows["text"], windows["code"]) == (GOOD, None)


def draft_in(path):
    path.mkdir(exist_ok=True)
    return artifact.open_draft(path, "synthesize", "teacher", {}, {})


def reviewed(draft, exercises):
    facts = {kind: sift(draft, kind, texts, RULES) for kind, texts in zip(KINDS, ([], exercises), strict=True)}
    declare(draft, written_by="teacher", **facts)
    built = draft.commit()
    return built.facts["exercises"], built


def test_copies_go_and_all_adds_up(tmp_path):
    long = "\n".join(f"    # step {n}: look at what the loop has done so far" for n in range(30))
    commented = GOOD.replace("    total = 0\n", f"{long}\n    total = 0\n")
    texts = [
        exercise(lesson='{"number": 0}', teacher="m-1"),
        exercise(commented),
        exercise(commented.replace("step 7", "step seven")),
        exercise(GOOD.replace("    3\n", "    5\n")),
        exercise(),
        exercise(OTHER, tests=None, name=None),
    ]
    facts, built = reviewed(draft_in(tmp_path / "w"), texts)
    assert (facts["kept"], facts["set_aside"], facts["boilerplate_removed"]) == (3, 3, 0)
    assert facts["reasons"] == {"identical": 1, "near_copy": 1, "wrong_example": 1}
    names = [*documents.SCHEMA.names, "lesson", "teacher", "tests"]
    kept = list(documents.read(built.path("exercises"), names))
    assert [row["id"] for row in kept] == [documents.document_id(row["text"]) for row in kept]
    assert json.loads(kept[0]["lesson"])["number"] == 0
    assert (kept[0]["teacher"], kept[0]["language"]) == ("m-1", "python")
    assert json.loads(kept[0]["tests"]) == list(TESTS)
    assert kept[-1]["lesson"] is kept[-1]["teacher"] is kept[-1]["tests"] is None
    aside = list(documents.read(built.directory / "set_aside" / "exercises", ("path", "code", "reason", "text")))
    assert sorted(row["code"] for row in aside) == sorted(facts["reasons"])
    assert sorted(p.name for p in built.directory.iterdir()) == ["exercises", "manifest.json", "set_aside", "textbooks"]


def test_nothing_kept_is_a_document_set_too(tmp_path):
    facts, built = reviewed(draft_in(tmp_path / "w"), [exercise(fault=Fault("refused", "no"))])
    assert (facts["kept"], facts["set_aside"]) == (0, 1)
    assert list(documents.read(built.path("exercises"))) == []


def test_parts_that_are_there_are_not_judged_again(tmp_path, monkeypatch):
    """A run that is cut between two parts goes on with the second; what comes out is the same."""
    monkeypatch.setattr(review, "_TEXTS_PER_PART", 2)
    texts = [exercise(GOOD.replace("the sum", f"the {word} sum"), tests=None) for word in ("first", "second", "third")]

    class CutShort(list):
        def __iter__(self):
            yield from texts[:2]
            raise KeyboardInterrupt

    _, whole = reviewed(draft_in(tmp_path / "whole"), texts)
    with pytest.raises(KeyboardInterrupt):
        reviewed(draft_in(tmp_path / "cut"), CutShort())

    checked = []
    monkeypatch.setattr(review, "check", lambda kind, texts, *more: checked.extend(texts) or check(kind, texts, *more))
    draft = draft_in(tmp_path / "cut")
    assert draft.resumed
    assert reviewed(draft, texts)[1].identity == whole.identity
    assert checked == texts[2:]
