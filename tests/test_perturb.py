"""Perturbed prompts: what changes, what never does, and that the references still pass."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi_jax.evaluation.execution import Sample, execute
from phi_jax.evaluation.perturb import PERTURBATIONS, misspellings, perturb, wording
from phi_jax.evaluation.problems import Problem, load_problems

RATES = st.floats(0, 1)
SEEDS = st.integers(0, 1000)

PROMPT = '''from typing import List

LIMIT = 3


def running_total(numbers: List[int], start: int = 0) -> List[int]:
    """ Given a list of integers, return the sum of all elements up to each position. Keep the order
    of `numbers', and `code spans` too; "keep this string" and 'this one' stay, as do it's, x_mean, version2, MAD,
    a.b.c, C:\\\\new, running_total([1, 2]), [1, two, 3], 3.14 and True. The first total is added to start.

    For example:
    >>> running_total([1, 2, 3])  # numbers from the list
    [1, 3, 6]

    Input: start = 4
    running_total([]) == []
    Otherwise the function returns a new list, in the same order.
    """
'''
REFERENCE = """    totals = []
    for number in numbers:
        start += number
        totals.append(start)
    return totals
"""
TESTS = "def check(candidate):\n    assert candidate([1, 2], 1) == [2, 4]\ncheck(running_total)"


def problem(prompt=PROMPT, reference=REFERENCE, tests=TESTS, entry_point="running_total", **more):
    return Problem("t/0", prompt, tests, entry_point, reference, trusted=prompt, **more)


def passes(changed):
    """Whether the reference passes, in this process."""
    namespace = {}
    exec(changed.setup + "\n" + changed.prompt + changed.reference, namespace)
    exec(changed.tests, namespace)
    return True


def without_docstrings(source):
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    return ast.dump(tree)


@pytest.fixture(scope="module")
def idioms():
    return load_problems("idioms")[1]


# --- All of them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PERTURBATIONS)
@given(RATES, SEEDS)
@settings(max_examples=8)
def test_the_counts_add_up_and_the_draw_is_the_seeds(name, rate, seed):
    problems = [*load_problems("idioms")[1][::4], problem()]
    found = perturb(problems, name, rate=rate, seed=seed)
    assert len(found.problems) + found.unchanged + found.not_applicable == len(problems)
    assert found == perturb(problems, name, rate=rate, seed=seed)
    before = {p.task_id: p for p in problems}
    for changed in found.problems:
        assert changed != before[changed.task_id]
        assert changed.row is before[changed.task_id].row
        ast.parse(changed.prompt + changed.reference)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_rate_0_changes_nothing_and_rate_1_all_it_applies_to(idioms, name):
    nothing, everything = perturb(idioms, name, rate=0), perturb(idioms, name, rate=1)
    assert (nothing.problems, everything.unchanged) == ([], 0)
    assert nothing.not_applicable == everything.not_applicable
    assert len(everything.problems) > 0
    assert PERTURBATIONS[name](problem(), 0, 0) == problem()
    assert PERTURBATIONS[name](problem(), 1, 0) != problem()


def test_every_reference_passes_under_every_perturbation(idioms):
    """In the real sandbox, and with the prompt's trailing newline cut as a model sees it."""
    changed = [p for name in PERTURBATIONS for p in perturb(idioms, name, rate=1, seed=3).problems]
    # The ids repeat; the sandbox is asked with others.
    renamed = [Problem(**{**vars(p), "task_id": f"{p.task_id}/{i}"}) for i, p in enumerate(changed)]
    samples = [Sample(p.task_id, p.reference, p.reference) for p in renamed]
    records = execute(renamed, samples, form="kept", sandbox="full", workers=2, wall_seconds=10)
    assert [r["task_id"] for r in records if not r["passed"]] == []
    assert len(records) > 100


@pytest.mark.parametrize("prompt", ["def f(x):\n", "not python", "def f(x):\n    return x\n", 'x = "text"\n', ""])
def test_prompts_without_a_docstring_are_counted(prompt):
    assert perturb([problem(prompt)], "typos", rate=1).not_applicable == 1
    assert PERTURBATIONS["rename_arguments"](problem(prompt), 1, 0) is None


# --- Wording -------------------------------------------------------------------------------------------------

WORDS = (
    "return",
    "the",
    "list",
    "of",
    "Given",
    "an",
    "with",
    "contains",
    "sum",
    "is",
    "elements",
    "Otherwise,",
    "longest",
)
KEPT = (
    "`code`", "'quoted'", '"text"', "`name'", "x_mean", "version2", "f(x)", "[one,two]", "{key:value}", "3.14", "-1",
    "True", "None", "it's", "MAD", "camelCase", "numbers", "a.b.c", "start=4", "<numerator>/<denominator>", "https://a.b",
)  # fmt: skip


@given(st.lists(st.sampled_from(WORDS + KEPT), min_size=1, max_size=25), SEEDS, RATES)
def test_only_words_are_misspelt_and_at_rate_1_all_of_them(words, seed, rate):
    prompt = f'def f(numbers, start):\n    """{" ".join(words)} """\n'
    shown = problem(prompt, entry_point="f")
    found = PERTURBATIONS["typos"](shown, 1, seed) or shown
    texts = [p.prompt.split('"""')[1].split() for p in (shown, found)]
    assert len(texts[0]) == len(texts[1])
    for before, after in zip(*texts, strict=True):
        assert (before == after) == (before in KEPT or len(before) < 3)
    some = PERTURBATIONS["typos"](shown, rate, seed) or shown
    for before, part, after in zip(texts[0], some.prompt.split('"""')[1].split(), texts[1], strict=True):
        assert part in (before, after)


@given(SEEDS, RATES)
@settings(max_examples=30)
def test_code_examples_quotes_and_names_stay(seed, rate):
    found = PERTURBATIONS["typos"](problem(), rate, seed)
    for piece in (
        "`numbers'", "`code spans`", '"keep this string"', "'this one'", "it's", "x_mean", "version2", "MAD", "a.b.c",
        "C:\\\\new", "running_total([1, 2])", "[1, two, 3]", "3.14", "True", " start.",
        "    >>> running_total([1, 2, 3])  # numbers from the list\n    [1, 3, 6]\n\n    Input: start = 4\n"
        "    running_total([]) == []\n",
    ):  # fmt: skip
        assert piece in found.prompt
    assert without_docstrings(found.prompt) == without_docstrings(PROMPT)
    assert (found.tests, found.reference, found.entry_point) == (TESTS, REFERENCE, "running_total")
    assert passes(found)


@given(SEEDS, st.tuples(RATES, RATES).map(sorted))
@settings(max_examples=30)
def test_a_higher_rate_keeps_what_a_lower_one_changed(seed, rates):
    few, many, words = (PERTURBATIONS["typos"](problem(), rate, seed).prompt.split() for rate in (*rates, 0))
    assert all(b in (a, c) for a, b, c in zip(words, few, many, strict=True))
    assert all(b == c for a, b, c in zip(words, few, many, strict=True) if a != b)


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=12), st.booleans())
def test_a_misspelling_is_one_slip_of_the_hand(word, capital):
    word = word.capitalize() if capital else word
    for found in misspellings(word):
        assert found != word
        assert found[0] == word[0]
        if len(found) == len(word):
            places = [i for i in range(len(word)) if word[i] != found[i]]
            if len(places) == 1:
                assert found[places[0]] in wording()["neighbours"][word[places[0]]]
            else:
                i, j = places
                assert (j - i, found[i], found[j]) == (1, word[j], word[i])
        else:
            shorter, longer = sorted((word, found), key=len)
            assert shorter in {longer[:i] + longer[i + 1 :] for i in range(len(longer))}


def test_a_misspelling_is_none_of_the_names():
    others = {"cats", "ccats", "caats", "catss", "cast"}
    shown = problem(f'def f({", ".join(sorted(others))}):\n    """The cat sat."""\n', entry_point="f")
    found = {PERTURBATIONS["typos"](shown, 1, seed).prompt.split('"""')[1].split()[1] for seed in range(300)}
    assert len(found) > 10
    assert not others & found


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        (
            "Given a list of words, return the longest.",
            {
                f"For {a} given list of words, {verb} the longest."
                for a in ("a", "any")
                for verb in ("give back", "produce and return")
            },
        ),
        ("Return True if x is odd.", {"Return True when x is odd.", "The result is True if x is odd."}),
        (
            "Write a python function to sort a list using a heap.",
            {
                f"{start} sort a list {with_} a heap."
                for start in ("Implement a function to", "Create a function to", "Write code to")
                for with_ in ("with the help of", "by means of")
            },
        ),
        ("returning an undistinctive word", None),
    ],
)
def test_paraphrases_keep_the_meaning(sentence, said):
    shown = problem(f'def f(x):\n    """{sentence}"""\n')
    found = [PERTURBATIONS["paraphrase"](shown, 1, seed) for seed in range(60)]
    assert (None if found[0] is None else {p.prompt.split('"""')[1] for p in found}) == said


# --- Names ---------------------------------------------------------------------------------------------------


def test_the_function_has_a_neutral_name_everywhere():
    found = PERTURBATIONS["rename_function"](problem(), 1, 0)
    assert found.entry_point == "func"
    assert "running_total" not in found.prompt + found.tests + found.trusted
    assert found.prompt == PROMPT.replace("running_total", "func")
    assert found.trusted == found.prompt
    assert passes(found)


def test_a_class_a_taken_name_and_a_helper_of_the_tests():
    prompt = 'class Stack:\n    def size(self):\n        """Size of the Stack."""\n'
    found = PERTURBATIONS["rename_function"](
        problem(prompt, "        return 0\n", "assert Stack().size() == 0", "Stack"), 1, 0
    )
    assert (found.entry_point, found.tests) == ("Thing", "assert Thing().size() == 0")
    assert "class Thing" in found.prompt
    taken = 'def func():\n    return 1\n\ndef f_1(x):\n    """Doc."""\n'
    found = PERTURBATIONS["rename_function"](
        problem(taken, "    return func()\n", "assert f_1(func()) == 1", "f_1"), 1, 0
    )
    assert (found.entry_point, found.tests) == ("func_2", "assert func_2(func()) == 1")
    assert passes(found)


MBPP = '"""Write a function to find the largest item of a list.\nassert largest_of([1, 2]) == 2\n"""\n'


def test_a_prompt_that_is_text_and_asserts():
    code = "def step(x):\n\treturn x\r\ndef largest_of(xs):\r\n\treturn step(max(xs))"
    shown = Problem("1", MBPP, "assert largest_of([1, 2]) == 2", None, code, setup="import math")
    found = PERTURBATIONS["rename_function"](shown, 1, 0)
    assert found.entry_point is None
    assert found.prompt == MBPP.replace("largest_of", "func")
    assert found.tests == "assert func([1, 2]) == 2"
    assert passes(found)
    assert PERTURBATIONS["rename_arguments"](shown, 1, 0) is None
    found = PERTURBATIONS["typos"](shown, 1, 0)
    assert found.prompt.split("\n")[1] == "assert largest_of([1, 2]) == 2"
    assert found.prompt != MBPP
    assert passes(found)


@pytest.mark.parametrize(
    ("reference", "tests"),
    [
        ("    return word\n", "assert word(2, word=3) == 2"),
        ("    inner = lambda word: word\n    return inner(word=word)\n", "assert word(2) == 2"),
        ("    import word\n    return word\n", "assert word(2) == 2"),
        ("    return f'{word}'\n", "assert word(2) == '2'"),
        ("    return (\n", "word"),
        ("    return word\n", "this is no Python word("),
    ],
)
def test_a_renaming_that_could_mean_something_else_is_not_made(reference, tests):
    shown = problem('def word(word):\n    """Doc."""\n', reference, tests, "word")
    assert PERTURBATIONS["rename_function"](shown, 1, 0) is None
    assert PERTURBATIONS["rename_arguments"](shown, 1, 0) is None


def test_names_change_in_the_code_of_a_docstring_and_words_stay():
    prompt = (
        "def pick(lst_1, value, list: list = list, n=3):\n"
        '    """Pick value if it is in lst_1, as `value` or pick(value); not repick(1).\n'
        "    Shown: lst_1 = [1] and value = 'value', with n <= 3.\n\n"
        '    >>> pick([2, 1], value, "value")\n'
        '    """\n'
    )
    reference = "    return value if 'value' and value.real in lst_1 and list else list(lst_1)  # value\n"
    shown = problem(prompt, reference, "value = [4]\nassert pick(value, 4) == 4", "pick")
    found = PERTURBATIONS["rename_arguments"](shown, 1, 0)
    assert found.prompt == (
        "def pick(p, q, list: list = list, n=3):\n"
        '    """Pick value if it is in p, as `q` or pick(q); not repick(1).\n'
        "    Shown: p = [1] and q = 'value', with n <= 3.\n\n"
        '    >>> pick([2, 1], q, "value")\n'
        '    """\n'
    )
    assert found.reference == "    return q if 'value' and q.real in p and list else list(p)  # value\n"
    assert passes(found)
    found = PERTURBATIONS["rename_function"](shown, 1, 0)
    assert found.prompt == prompt.replace("pick(", "func(").replace("refunc", "repick")


@pytest.mark.parametrize(
    "reference",
    [
        "    def word():\n        return 2\n    return word()\n",
        "    try:\n        pass\n    except OSError as word:\n        pass\n    return word\n",
        "    def inner():\n        nonlocal word\n        word += 1\n        return word - 1\n    return inner()\n",
        "    return max([word, 0], key=lambda word: word)\n\n\ndef word():\n    return 3\n",
    ],
)
def test_arguments_that_are_bound_once_more_are_renamed_there_too(reference):
    shown = problem('def f(word):\n    """Doc."""\n', reference, "assert f(2) == 2", "f")
    found = PERTURBATIONS["rename_arguments"](shown, 1, 0)
    assert found.prompt.startswith("def f(p):")
    assert "word" not in found.reference
    assert passes(found)


def test_doubtful_escapes_are_read_without_a_word(recwarn):
    prompt = 'def f_1(word):\n    """Return whether \\w is without end."""\n'
    for name in PERTURBATIONS:
        found = PERTURBATIONS[name](problem(prompt, "    return word\n", "assert f_1('\\w')", "f_1"), 1, 0)
        assert found is not None
        assert "\\w" in found.prompt
    assert [str(w.message) for w in recwarn] == []


def test_characters_beyond_ascii_do_not_shift_the_places():
    prompt = (
        'é = "ü"\ndef f_1(word, größe=é):\n    """Länge “word” → the größe of it."""; é\n    """Return the word."""\n'
    )
    shown = problem(prompt, "    ö = 'ü', word, größe; return ö\n", "assert f_1(2)[1:] == (2, 'ü')", "f_1")
    for name in PERTURBATIONS:
        found = PERTURBATIONS[name](shown, 1, 1)
        assert found is not None
        assert passes(found)
