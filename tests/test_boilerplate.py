# ruff: noqa: E501 (sentences as they are)
"""What LLMs put around a text goes; what the text says, and every fenced block, stays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi_jax.store.markdown import fences
from phi_jax.synthesis.boilerplate import without_boilerplate

CODE = "```python\nprint(1)\n```\n"
OPENINGS = (
    "Sure!", "Certainly!", "Of course.", "Absolutely! ", "Great question!", "Sure thing!",
    "Sure! Here is a section of a textbook on loops:", "Certainly! Here's the textbook section you asked for:\n\n---",
    "Sure, here is what you asked for:", "Here is a short textbook section about Python 3.11 and `list.sort`:",
    "Below is a tutorial that explains closures.", "Certainly, I can help with that.", "I'd be happy to help!",
    "In this section, we will learn how loops work in Python 3.11.", "In this chapter, we'll explore\nhow `a.b` is looked up.",
    "This section covers dictionaries, e.g. counting words!", "Let's dive in!", "Let us get started.",
    "Welcome to this section on loops!", "As an AI language model, I cannot run code.", "SURE! HERE IS A CHAPTER ON SETS.",
)  # fmt: skip
CLOSINGS = (
    "I hope this helps!", "Hope that helps.", "Happy coding!", "Let me know if you have any questions!",
    "Feel free to ask for more.", "If you have any questions, feel free to ask.", "Please let me know what to change.",
    "Would you like me to write the next section?", "Is there anything else I can do?", "Congratulations!",
    "In the next section, we will look at sets.", "This concludes our tour of loops.", "I hope this helps! Happy learning!",
)  # fmt: skip
KEPT = (
    "Sure signs of a bug are hangs.", "Certainly not every loop ends.", "Great care is needed with floats.",
    "Here is how a loop runs.", "Below is the stack.", "In this section of memory, the stack lives.",
    "Okay is a string here: `ok`.", "Definitely typed languages differ.", "Absolute paths begin with a slash.",
    "In this section, we will cover:\n\n- sets\n- maps", "Let us get a list.", "Welcome messages are printed first.",
    "If you want a set, use `set()`.", "Good luck plays no part in `random.seed(0)`: it is a number.",
)  # fmt: skip


@pytest.mark.parametrize("opening", OPENINGS)
def test_openings_go(opening):
    text = f"A loop runs a block again.\n\n{CODE}"
    assert without_boilerplate(f"{opening}\n\n{text}") == text
    assert without_boilerplate(f"# Loops\n\n{opening}\n\n{text}") == f"# Loops\n\n{text}"
    if not opening.endswith("---"):
        assert without_boilerplate(f"{opening} {text}") == text


@pytest.mark.parametrize("closing", CLOSINGS)
def test_closings_go(closing):
    text = f"# Loops\n\n{CODE}\nSo a loop ends."
    assert without_boilerplate(f"{text} {closing}") == text
    assert without_boilerplate(f"{text}\n\n{closing}\n") == f"{text}\n"
    assert without_boilerplate(f"{text}\n\n## Conclusion\n\n{closing}\n") == f"{text}\n"
    assert without_boilerplate(f"{text}\n\n---\n\n{closing}") == text
    assert without_boilerplate(f"# Loops\n\n{CODE}\n{closing}\n") == f"# Loops\n\n{CODE}"


@pytest.mark.parametrize("sentence", KEPT)
def test_what_only_looks_like_it_stays(sentence):
    for text in (f"{sentence}\n\n{CODE}", f"# Loops\n\n{sentence} Then more.\n", f"# Loops\n\n{CODE}\n{sentence}\n"):
        assert without_boilerplate(text) == text


@pytest.mark.parametrize("again", ["# Loops", "## Loops", "**Loops**", "Loops", "## **loops**"])
def test_a_title_that_is_repeated_goes(again):
    assert without_boilerplate(f"# Loops\n\n{again}\n\nA loop.\n\n{CODE}") == f"# Loops\n\nA loop.\n\n{CODE}"


def test_in_the_middle_nothing_is_touched():
    text = f"# T\n\nSets.\n\n{CODE}\nSure! In this section, we will go on. I hope this helps!\n\n{CODE}"
    assert without_boilerplate(text) == text


def test_nothing_but_boilerplate_comes_back_as_it_was():
    assert without_boilerplate("Sure! I hope this helps!") == "Sure! I hope this helps!"
    assert without_boilerplate("") == ""


PIECES = st.sampled_from(
    [*OPENINGS, *CLOSINGS, *KEPT, CODE, "~~~\nSure!\n~~~", "```output\nI hope this helps!\n```", "    indented = 1",
     "# Loops", "## Loops", "**Loops**", "Loops", "---", "- an item", "> quoted", "", " ", "\tx", "Sure!\r"]
)  # fmt: skip
TEXTS = st.lists(st.tuples(PIECES, st.sampled_from(["\n", "\n\n", "\n\n\n"])), max_size=9).map(
    lambda parts: "".join(piece + gap for piece, gap in parts)
)


@settings(max_examples=250, deadline=None)
@given(TEXTS)
def test_once_is_enough(text):
    once = without_boilerplate(text)
    assert without_boilerplate(once) == once
    assert len(once) <= len(text)


@settings(max_examples=250, deadline=None)
@given(TEXTS)
def test_fenced_blocks_are_as_they_were_and_a_text_that_says_something_is_not_emptied(text):
    def raw(text):
        lines = text.split("\n")
        return [lines[f.first : f.first + f.content.count("\n") + 2] for f in fences(text) if f.closed]

    found = without_boilerplate(text)
    assert raw(found) == raw(text)
    assert bool(found.strip()) == bool(text.strip())
    assert set(found.split()) <= set(text.split())
