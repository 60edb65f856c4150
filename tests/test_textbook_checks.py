# ruff: noqa: E501 (sections as they are, one per line)
"""Sections that an LLM could write: what their blocks show when they run; none touches another's verdict."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi_jax.sandbox import support
from phi_jax.store.markdown import fences
from phi_jax.synthesis.grammar import catalogue, grammar_texts
from phi_jax.synthesis.llm.run_checks import check
from phi_jax.synthesis.llm.textbooks import Block, blocks, read_section

SANDBOX = "none" if support().missing else "full"


def python(code, output=None, *, language="python", fence="```"):
    """A block of code, and behind it what it prints."""
    text = f"{fence}{language}\n{code}\n{fence}\n"
    return text if output is None else f"{text}\n{fence}output\n{output}\n{fence}\n"


RIGHT = {
    "one namespace": python("x = 3\nprint(x)", "3") + "Then:\n\n" + python("print(x + 1)", "4"),
    "white space at line ends": python("print('a  ')\nprint()\nprint('b')\nprint()", "a\n\nb"),
    "py and tildes": python("print(1)", "1", language="py", fence="~~~"),
    "a longer fence": python("print('''\n```\n''')", "\n```\n", fence="````"),
    "in a list item": "- first\n\n" + "".join(f"    {line}\n" for line in python("if 1:\n    print(2)", "2").splitlines()),
    "text right behind is prose": python("print(1)") + "\n```text\n2\n```\n",
    "text further down is prose": python("print(1)") + "\nSo much for files:\n\n```text\nnotes.txt\n```\n",
    "output further down": python("print(1)") + "\nThis prints:\n\n```output\n1\n```\n",
    "a shell's session is prose": python("print(1)") + "\n```console\n$ python one.py\n1\n```\n",
    "a prompt that is printed": python("print('>>> 1')", ">>> 1"),
    "output of nothing is prose": "```output\nof what?\n```\n" + python("x = 1"),
    "other languages are prose": "```bash\nrm -rf x\n```\n" + python("x = 1") + "```output-ish\nfoo\n```\n",
    "prints and does not say so": python("print(1)"),
    "a session": python(">>> x = 2\n>>> x + 1\n3\n>>> print('a\\n\\nb')\na\n<BLANKLINE>\nb"),
    "a session goes on": python("x = 2") + python(">>> x\n2", language="pycon"),
    "a session that raises": python(">>> int('a')\nTraceback (most recent call last):\n  ...\nValueError: invalid literal for int() with base 10: 'a'"),
    "a session of dots": python(">>> list(range(20)) # doctest: +ELLIPSIS\n[0, 1, ..., 19]"),
    "docstring": python('def f(x):\n    """Next.\n\n    >>> f(1)\n    2\n    """\n    return x + 1'),
    "main guard": python("if __name__ == '__main__':\n    print('main')", "main"),
    "dataclass": python("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nprint(A(1))", "A(x=1)"),
    "output without a label is prose": python("print(1)") + "".join(f"```\n{output}\n```\n" for output in ("2", "apple", "[1, 2]", "two words", "x: 3", "")),
    "a label that is none of ours": python("x = 1") + python("1 / 0", language="plain"),
    "sets print alike": python("print({'b', 'a', 'c'} == {'a', 'b', 'c'})", "True"),
}  # fmt: skip
WRONG = {
    "no code": ("Only prose.\n", "it has no Python block"),
    "not closed": ("# T\n\n```python\nprint(1)\n", "the fence in line 3 is not closed"),
    "an empty block": (python("x = 1") + python(""), "block 2 is empty"),
    "prints something else": (python("print(1)") + python("print(1)", "2"), "block 2 prints '1', not '2'"),
    "prints nothing": (python("x = 1", "1"), "block 1 prints '', not '1'"),
    "does not parse": (python("x = 1") + python("def f(:"), "invalid syntax (block 2, line 1)"),
    "does not compile": (python("return 1"), "block 1 fails: SyntaxError: 'return' outside function (<text>, line 1)"),
    "raises": (python("x = 1\nx / 0"), "block 1 fails: ZeroDivisionError: division by zero"),
    "an address": (python("raise ValueError(object())"), "block 1 fails: ValueError: <object object at 0x...>"),
    "another namespace": (python("print(y)"), "block 1 fails: NameError: name 'y' is not defined"),
    "input": (python("x = 1") + python("name = input('Name? ')"), "block 2 fails: RuntimeError: input(): lost sys.stdin"),
    "standard input": (python("import sys\nfor line in sys.stdin:\n    pass"), "block 1 fails: TypeError: 'NoneType' object is not iterable"),
    "a session": (python(">>> 1 + 1\n3"), "block 1: the example '1 + 1' gives '2', not '3'"),
    "a session that raises": (python(">>> 1 / 0\n0"), "block 1: the example '1 / 0' gives 'ZeroDivisionError: division by zero', not '0'"),
    "a session that does not": (python(">>> 1\nTraceback (most recent call last):\nValueError"), "block 1: the example '1' gives '1', not 'ValueError'"),
    "docstring": (python('def f(x):\n    """\n    >>> f(1)\n    3\n    """\n    return x + 1'), "block 1: the example 'f(1)' gives '2', not '3'"),
    "the order of a set": (python("print(list({'pear', 'fig', 'plum', 'kiwi'}))", "['pear', 'kiwi', 'plum', 'fig']"), "with sets in another order: block 1 prints \"['fig', 'plum', 'pear', 'kiwi']\", not \"['pear', 'kiwi', 'plum', 'fig']\""),
    **{f"labelled {label}": (python("x = 1 / 0", language=label), "block 1 fails: ZeroDivisionError: division by zero") for label in ("py3", "python3", "ipython", "pycon", "python-repl", "")},
    **{f"a session labelled {label}": (python(">>> 1 + 1\n3", language=label), "block 1: the example '1 + 1' gives '2', not '3'") for label in ("console", "text", "doctest", "python-console", "repl", "shell", "")},
    "a session below its command": (python("$ python\n>>> 1 + 1\n3", language="console"), "block 1: the example '1 + 1' gives '2', not '3'"),
    "an unlabelled call": (python("print(y)", language=""), "block 1 fails: NameError: name 'y' is not defined"),
}  # fmt: skip
HOSTILE = {
    "endless": (python("while True:\n    pass"), "block 1 fails: it takes too long"),
    "endless and deaf": (python("while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"), None),
    "sleeps": (python("import time\ntime.sleep(10 ** 6)"), "block 1 fails: it takes too long"),
    "leaves": (python("import sys\nsys.exit(0)"), "block 1 fails: SystemExit: 0"),
    "ends the process": (python("import os\nos._exit(0)"), "the candidate's process ended (exit status 0)"),
    "kills itself": (python("import ctypes\nctypes.string_at(0)"), "the candidate's process ended (signal SIGSEGV)"),
    "eats memory": (python("x = []\nwhile True:\n    x.append(bytes(10 ** 8))"), "block 1 fails: MemoryError"),
    "prints verdicts": (python("import os\nprint('passed')\nos.write(3, b'\\0' * 8)\n1 / 0"), None),
    "patches what judges it": (python("import candidate\ncandidate._same = candidate.report = lambda *a, **k: 1 / 0\nraise KeyError"), None),
}  # fmt: skip


@pytest.fixture(scope="module")
def verdicts():
    """Of all the sections above, hostile ones between the others."""
    texts = [*RIGHT.values(), *(text for text, _ in HOSTILE.values()), *(text for text, _ in WRONG.values())]
    found = check(texts, read_section, "sections", sandbox=SANDBOX, workers=2)
    return dict(zip(texts, found, strict=True))


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_kept(verdicts, name):
    assert verdicts[RIGHT[name]] is None


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_has_its_reason(verdicts, name):
    text, reason = WRONG[name]
    assert verdicts[text].reason == reason


@pytest.mark.parametrize("name", HOSTILE)
def test_who_attacks_is_set_aside_alone(verdicts, name):
    text, reason = HOSTILE[name]
    found = verdicts[text]
    assert "\n" not in found.reason
    assert reason in (None, found.reason)


@pytest.mark.skipif(SANDBOX == "none", reason="unconfined, a process may fork")
def test_a_fork_bomb_does_not_fork():
    bomb = python("import os\nwhile True:\n    os.fork()")
    (fault,) = check([bomb], read_section, "bomb", sandbox="full", workers=1)
    assert fault.reason == "block 1 fails: BlockingIOError: [Errno 11] Resource temporarily unavailable"


def test_the_grammars_sections_as_markdown_pass_and_with_another_output_do_not():
    known = catalogue.held_out(catalogue.behaviours(120), 10)[0][:20]
    texts = [grammar_texts.textbook_section(k, 0) for k in known]
    right = [python(t.code, t.printed) for t in texts]
    wrong = [python(t.code, f"{t.printed}and more") for t in texts]
    found = check([*right, *wrong], read_section, "sections", sandbox=SANDBOX, workers=2)
    assert found[: len(right)] == [None] * len(right)
    assert all(fault.code == "wrong_output" for fault in found[len(right) :])


LINES = st.lists(
    st.sampled_from(["```python", "```", "~~~", "~~~py", "```output", "    ```", "````", "x = 1", "", "prose", "- a"]),
    max_size=14,
)


@settings(max_examples=200, deadline=None)
@given(LINES)
def test_fences_do_not_overlap_and_hold_what_lies_between_them(lines):
    text = "\n".join(lines)
    found = fences(text)
    # Behind each block: what the fences and the lines between them take.
    ends = [fence.first + 1 + fence.content.count("\n") + fence.closed for fence in found]
    assert all(end <= following.first for end, following in zip(ends, found[1:], strict=False))
    assert all(fence.closed or end == len(text.split("\n")) for fence, end in zip(found, ends, strict=True))
    outside = set(range(len(lines))) - {n for f, end in zip(found, ends, strict=True) for n in range(f.first, end)}
    assert not any(lines[number].lstrip().startswith(("```", "~~~")) for number in outside)


@given(st.text(st.characters(blacklist_characters="\n\r", codec="utf-8"), max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_block_is_found_as_it_was_written(line):
    code = f"x = 1\nabout = {line!r}\n"
    assert blocks(f"# T\n\n```python\n{code}```\n\n```output\n{line}\n```\n") == [Block(code, f"{line}\n")]
