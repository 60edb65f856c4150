# ruff: noqa: E501 (programs as they are, one per line)
"""Decontamination: likenesses of held-out problems are found in any set, near misses and what everybody writes stay."""

import ast
import json
import keyword

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi_jax.config import Config
from phi_jax.contamination import decontaminate as stage
from phi_jax.contamination import syntax
from phi_jax.contamination.held_out import LEAST_NODES, NOT_PARSED, REMOVING, WORDS, HeldOut, solutions
from phi_jax.errors import UserError
from phi_jax.evaluation.problems import load_problems
from phi_jax.store import artifact, documents

SQUARES, RUNS, MIX, TALLY = "t/squares", "t/runs", "t/mix", "t/tally"
PROMPTS = {
    SQUARES: ("squares", "numbers", "Return the squares of the even numbers, the largest first."),
    RUNS: ("runs", "text", "Return the longest run of vowels in the text"),
    MIX: ("mix", "a, b", "Mix two numbers."),
    TALLY: (
        "tally", "words",
        "Count the last letters. The tally says of every letter how many of the given words it is the last one of, "
        "words without letters included.",
    ),
}  # fmt: skip
BODIES = {
    SQUARES: "    return sorted([n * n for n in numbers if n % 2 == 0], reverse=True)\n",
    RUNS: (
        '    best = ""\n    run = ""\n    for letter in text:\n'
        '        run = run + letter if letter in "aeiou" else ""\n'
        "        if len(run) > len(best):\n            best = run\n    return best\n"
    ),
    MIX: "    return 3 * (a + b) - a // 7\n",
    TALLY: (
        "    found = {}\n    for word in words:\n        found[word[-1:]] = found.get(word[-1:], 0) + 1\n    return found\n"
    ),
}


def make_problems(**changes):
    rows = []
    for task, (name, parameters, prose) in PROMPTS.items():
        rows.append(
            {
                "task_id": task,
                "prompt": f'def {name}({parameters}):\n    """{prose}\n\n    >>> {name}(...)\n    ...\n    """\n',
                "entry_point": name,
                "canonical_solution": BODIES[task],
                "test": "def check(candidate):\n    pass\n",
                "renderings": ["def other(x):\n    x = [n for n in x if not n % 2]\n    return x[:0] or sorted(x)\n"]
                if task == SQUARES
                else [],
                **changes,
            }
        )
    return rows


def write_problems(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def hits_of(held_out, text):
    """What takes a text out."""
    return {reason: tasks for reason, tasks in held_out.inspect(text).items() if reason in REMOVING}


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    return HeldOut(write_problems(tmp_path_factory.mktemp("problems") / "p.jsonl", make_problems()))


# --- What is found, and what is not ---------------------------------------------------------------------------

RENAMED = "def f(xs: list[int]) -> list[int]:\n    'Other words.'\n    return sorted([y * y for y in xs if y % 2 == 0], reverse=True)\n"
SAID = "# Here we return the squares\n#   of the even numbers, the largest first.\nx = 1\n"
SOLUTION = (
    "def g(numbers, k=0):\n    # return sorted([n * n for n in numbers if n % 2 == 0], reverse=True)\n    return k\n"
)
PROSE = "# letter how many of the given words it is the last one of\n"
LIKENESSES = {
    "renamed": (RENAMED, {"same syntax": [SQUARES]}),
    "the sentence in a comment": (SAID, {"same text": [SQUARES]}),
    "the sentence quoted in Markdown": ("# Task\n\n> Return the squares of the even\n> numbers, the largest first.\n", {"same text": [SQUARES]}),
    "the sentence in a JSON string": (json.dumps({"a": 'say "Return the squares\nof the even numbers, the largest first."'}), {"same text": [SQUARES]}),
    "the solution in a comment": (SOLUTION, {"same text": [SQUARES]}),
    "the sentence without a full stop": ('"""Return the longest run of vowels in the text"""\n', {"same text": [RUNS]}),
    "13 words of prose": (PROSE, {"same text": [TALLY]}),
    "in text that is no Python 3": (f"print 'x'\n{SAID}", {"same text": [SQUARES]}),
    "another rendering": ("def f(q):\n    q = [z for z in q if not z % 2]\n    return q[:0] or sorted(q)\n", {"same syntax": [SQUARES]}),
    "a method without its object": ("class A:\n    def f(self, p, q):\n        return 3 * (p + q) - p // 7\n", {"same syntax": [MIX]}),
    "a static method": ("class A:\n    @staticmethod\n    def f(p, q):\n        return 3 * (p + q) - p // 7\n", {"same syntax": [MIX]}),
    "inside a function": ("def g():\n    def f(p, q):\n        return 3 * (p + q) - p // 7\n    return f\n", {"same syntax": [MIX]}),
    "under an if": ("if True:\n    def f(p, q):\n\t    return 3 * (p + q) - p // 7\n", {"same syntax": [MIX]}),
    "the block of a textbook": (f"# A heading\n\n```python\n{RENAMED}```\n\nIt prints:\n\n```output\n[1, 4)\n```\n", {"same syntax": [SQUARES]}),
    "the block in a list": ("1. First\n\n   ~~~py\n" + "".join(f"   {line}\n" for line in RENAMED.splitlines()) + "   ~~~\n", {"same syntax": [SQUARES]}),
}  # fmt: skip
NEAR_MISSES = {
    "another constant": RENAMED.replace("% 2", "% 3"),
    "another operator": RENAMED.replace("y * y", "y + y"),
    "another order": RENAMED.replace(", reverse=True", ""),
    "a longer sentence": "# Return the longest run of vowels in the text that is given.\n",
    "a short sentence": "# Mix two numbers.\n",
    "a part of the sentence": "# Return the squares of the even numbers, the smallest first.\n",
    "a part of a solution": "def f(a, b):\n    return 3 * (a + b) - a // 7 + 1\n",
    "12 words of prose": PROSE.replace(" of\n", "\n"),
    "nested too deep": "def f(a): return " + " + ".join("a" * 1500),
    "empty": "",
}  # fmt: skip


@pytest.mark.parametrize("name", LIKENESSES)
def test_likenesses_are_found(held_out, name):
    text, expected = LIKENESSES[name]
    assert hits_of(held_out, text) == expected


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses_are_not(held_out, name):
    assert hits_of(held_out, NEAR_MISSES[name]) == {}


def test_thirteen_words_are_counted_where_they_are_no_evidence(held_out):
    assert held_out.inspect(PROSE, prose=False) == {WORDS: [TALLY]}
    assert held_out.inspect(SAID, prose=False) == {"same text": [SQUARES]}
    assert held_out.inspect(f"print 'x'\n{SAID}") == {"same text": [SQUARES], NOT_PARSED: []}


def test_what_everybody_writes_is_no_evidence(tmp_path):
    """Neither a solution below the least size, nor its words alone, nor a sentence that two problems share."""
    said = "Add the two given numbers to each other."
    small, large = "    return a + b\n", "    return 3 * (a + b) - a // 7\n"
    rows = [
        {"task_id": f"t/{n}", "prompt": f'def f(a, b):\n    """{said}"""\n', "entry_point": "f",
         "canonical_solution": body, "test": ""}
        for n, body in enumerate((small, large))
    ]  # fmt: skip
    held_out = HeldOut(write_problems(tmp_path / "p.jsonl", rows))
    assert list(held_out.fingerprints.values()) == [["t/1"]]
    assert hits_of(held_out, f"def plus(x, y):\n{small}".replace("a", "x").replace("b", "y")) == {}
    assert hits_of(held_out, f"# {said}\n") == {}
    rows[0]["canonical_solution"] = "    return ' '.join(lines)\n"
    short = HeldOut(write_problems(tmp_path / "short.jsonl", rows[:1]))
    assert hits_of(short, "def shown(lines):\n    lines = list(lines)\n    return ' '.join(lines)\n") == {}
    assert hits_of(held_out, f"def g(a, b):\n{large}") == {
        "same syntax": ["t/1"],
        "same text": ["t/1"],
    }


def test_the_least_size_counts_arguments_and_operators():
    (function,) = syntax.functions(ast.parse("@d\ndef f(a, b: int):\n    'Doc.'\n    return a + b\n"))
    assert syntax.fingerprint(function)[1] == 9 < LEAST_NODES


# --- Fingerprints ---------------------------------------------------------------------------------------------

SOURCES = [
    "".join((f"def {name}({parameters}):\n", BODIES[task])) for task, (name, parameters, _) in PROMPTS.items()
] + [
    "def f(a, *b, c=1, **d):\n    g = lambda x, y=a: x + y * c\n    return [g(x) for x in b if x in d] + [x - 1 for x in b]\n",
    "def f(xs):\n    import math as m\n    try:\n        with xs as q:\n            return m.sqrt(q.real) or -q\n"
    "    except (ValueError, KeyError) as e:\n        raise TypeError(e) from None\n    finally:\n        del xs\n",
    "def f(n):\n    match n:\n        case [p, *rest] if p > 1:\n            return rest\n        case {'k': v, **more}:\n"
    "            return v + len(more)\n        case _ as other:\n            return not other\n",
    "def f(n):\n    def inner(k: int = 2):\n        nonlocal n\n        n += k\n        return n and k\n    class C:\n"
    "        z: int = 3\n    return {q: inner(q) for q in range(n)}, C.z, (w := n) < w\n",
]  # fmt: skip
NAMES = st.from_regex(r"[a-z]{1,6}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))


def fingerprint(source):
    (*_, function) = [f for f in syntax.functions(ast.parse(source)) if f.col_offset == 0]
    return syntax.fingerprint(function)[0]


def names_in(tree):
    """Names that the function of the tree assigns, defines or imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            continue
        fields = ("asname",) if isinstance(node, ast.alias) else ("id", "arg", "name", "rest")
        if not isinstance(node, ast.keyword):
            found |= {getattr(node, field) for field in fields if isinstance(getattr(node, field, None), str)}
    return found


class Renamed(ast.NodeTransformer):
    def __init__(self, names):
        self.names = names

    def generic_visit(self, node):
        for field in ("id", "arg", "name", "asname", "rest"):
            name = getattr(node, field, None)
            if isinstance(name, str) and name in self.names and not isinstance(node, ast.keyword):
                if isinstance(node, ast.alias) and field == "name":
                    continue
                setattr(node, field, self.names[name])
        if isinstance(node, ast.Global | ast.Nonlocal):
            node.names = [self.names.get(n, n) for n in node.names]
        return super().generic_visit(node)


@settings(max_examples=40)
@given(st.sampled_from(SOURCES), st.data())
def test_a_fingerprint_does_not_see_names(source, data):
    tree = ast.parse(source)
    bound = sorted(names_in(tree))
    taken = st.lists(NAMES, min_size=len(bound), max_size=len(bound), unique=True)
    new = data.draw(taken.filter(lambda names: not any(n in source for n in names)))
    renamed = ast.unparse(Renamed(dict(zip(bound, new, strict=True))).visit(tree))
    assert fingerprint(renamed) == fingerprint(source)


OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.Pow,
    ast.Eq: ast.NotEq, ast.Gt: ast.GtE, ast.Lt: ast.LtE, ast.In: ast.NotIn, ast.Or: ast.And, ast.And: ast.Or,
    ast.Not: ast.UAdd, ast.USub: ast.Invert,
}  # fmt: skip


@settings(max_examples=60)
@given(st.sampled_from(SOURCES), st.data())
def test_a_fingerprint_sees_operators_and_constants(source, data):
    tree = ast.parse(source)
    places = [
        (node, field, getattr(node, field))
        for node in ast.walk(tree)
        for field in ("op", "ops", "value")
        if getattr(node, field, None) is not None and isinstance(node, ast.expr | ast.AugAssign)
        if field != "value" or (isinstance(node, ast.Constant) and type(node.value) is int)
    ]
    node, field, old = data.draw(st.sampled_from(places))
    if field == "ops":
        new = [OPERATORS[type(old[0])](), *old[1:]]
    else:
        new = old + 1 if field == "value" else OPERATORS[type(old)]()
    setattr(node, field, new)
    assert fingerprint(ast.unparse(tree)) != fingerprint(source)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("def f(x):\n    return x", "@g\ndef h(y: int) -> str:\n    'Doc.'\n    return y", True),
        ("def f(x):\n    y: int = x\n    z: int\n    return y", "def f(x):\n    y = x\n    return y", True),
        ("def f(list):\n    return len(list)", "def f(xs):\n    return len(xs)", True),
        ("def f(a):\n    return [x for x in a], [x for x in a]", "def f(a):\n    return [x for x in a], [y for y in a]", True),
        ("def f(a):\n    return g(a)", "def f(a):\n    return h(a)", True),
        ("def f(a, b):\n    return a - b", "def f(a, b):\n    return b - a", False),
        ("def f(a):\n    return len(a)", "def f(a):\n    return sum(a)", False),
        ("def f(a):\n    return a.x", "def f(a):\n    return a.y", False),
        ("def f(a):\n    return 1", "def f(a):\n    return True", False),
        ("def f(a):\n    return 'a'", "def f(a):\n    return b'a'", False),
        ("def f(a):\n    return a", "async def f(a):\n    return a", False),
        ("def f(a, b):\n    return a", "def f(a, *, b):\n    return a", False),
        ("def f(a):\n    return a(k=1)", "def f(a):\n    return a(j=1)", False),
    ],
)  # fmt: skip
def test_what_a_fingerprint_sees(one, other, same):
    assert (fingerprint(one) == fingerprint(other)) is same


# --- Benchmarks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"canonical_solution": None}, "t/runs has no canonical_solution"),
        ({"renderings": ["x = 1"]}, "t/runs: no function in its solution or a rendering"),
    ],
)
def test_problems_that_cannot_be_compared_with_are_named(tmp_path, change, message):
    rows = make_problems()
    rows[1].update(change)
    with pytest.raises(UserError, match=message):
        HeldOut(write_problems(tmp_path / "p.jsonl", rows))


def test_the_function_that_the_tests_call_is_the_solution_and_not_a_helper_in_it(tmp_path):
    code = "def far(xs):\n    def near(y):\n        return y\n    return [near(x) for x in xs]\n"
    row = {"task_id": 11, "text": "Copy a list.", "code": code, "test_list": ["assert far([1]) == [1]"]}
    file = write_problems(tmp_path / "mbpp.jsonl", [row])
    assert [f.name for problem in load_problems(file)[1] for f in solutions(file, problem)] == ["far"]


def test_the_problems_of_humaneval_are_found_in_their_own_code(shared_data):
    file = str(shared_data / "eval" / "HumanEval.jsonl.gz")
    held_out = HeldOut(file)
    assert held_out.untold == ["HumanEval/23"]  # "Return length of given string", return len(string)
    large = {task for tasks in held_out.fingerprints.values() for task in tasks}
    assert len(held_out.tasks) - len(large) == 21
    for problem in load_problems(file)[1]:
        hits = hits_of(held_out, problem.prompt + problem.reference)
        assert (problem.task_id in hits.get("same syntax", ())) == (problem.task_id in large)


FORMS = {
    "docstring": 'def f(x):\n    """{}\n    """\n    return x\n',
    "comment": "# {}\n",
    "Markdown": "## A task\n\n> {}\n\n```python\nx = 1\n```\n",
}


def test_the_problems_of_mbpp_are_found_by_their_text(shared_data):
    """One sentence stands in two problems and is no evidence."""
    file = shared_data / "eval" / "mbpp.jsonl"
    held_out = HeldOut(str(file))
    assert held_out.untold == []
    rows = {f"MBPP/{row['task_id']}": row for row in map(json.loads, file.read_text().splitlines())}
    some = [task for n, task in enumerate(held_out.tasks) if n % 5 == 0 or task == "MBPP/347"]

    def missed(text_of):
        hits = {task: hits_of(held_out, text_of(rows[task])) for task in some}
        return [task for task, found in hits.items() if task not in {t for tasks in found.values() for t in tasks}]

    for form in FORMS.values():
        assert missed(lambda row, form=form: form.format(row["text"])) == ["MBPP/347"]
    assert missed(lambda row: json.dumps({"text": row["text"]})) == ["MBPP/347"]
    assert missed(lambda row: row["code"].replace("\r\n", "\n")) == []
    # Where only the lines can tell: a solution in a string of JSON or Python, or typed into a session.
    assert missed(lambda row: json.dumps({"answer": row["code"].replace("\r\n", "\n")})) == []
    assert missed(lambda row: f"x = {row['code']!r}\n") == []
    assert missed(lambda row: "".join(f"... {line}\n" for line in row["code"].splitlines())) == []


# --- The stage ------------------------------------------------------------------------------------------------

PLANTED = {"renamed": RENAMED, "said": SAID}
WITH_BEHAVIOUR = documents.SCHEMA.append(pa.field("behaviour", pa.string()))


def write_set(directory, texts, schema=documents.SCHEMA):
    rows = [
        {"id": documents.document_id(text), "text": text, "source": "made here", "path": name, "license": None,
         "language": "python", "behaviour": "b"}
        for name, text in texts.items()
    ]  # fmt: skip
    directory.mkdir()
    for index, start in enumerate(range(0, len(rows), 5)):
        part = [{name: row[name] for name in schema.names} for row in rows[start : start + 5]]
        documents.write_part(directory, index, part, schema)


def sources(tmp_path, *, written_by="grammar"):
    """Inputs of the stage: textbooks and exercises, and the problems that the grammar holds out."""
    draft = artifact.open_draft(tmp_path / "w", "synthesize", written_by, {}, {})
    for name in ("textbooks", "exercises"):
        write_set(
            draft.directory / name, {**NEAR_MISSES, **PLANTED, "prose": PROSE, "own": f"x = '{name}'\n"}, WITH_BEHAVIOUR
        )
        documents.add_output(draft, name)
    write_problems(draft.directory / "problems.jsonl", make_problems())
    draft.add_output("problems", "problems.jsonl")
    draft.add_facts(written_by=written_by)
    written = draft.commit()
    return {"documents": written, "problems": written}


def decontaminate(tmp_path, inputs, name="grammar", problems="nano"):
    draft = artifact.open_draft(tmp_path / "w", "decontaminate", name, {}, inputs)
    stage.decontaminate(Config({"decontaminate": {"problems": problems}}), inputs, draft)
    return draft.commit()


def removed(built):
    rows = documents.read(built.path("findings"), ("set", "path", "reason", "tasks"))
    return sorted((r["set"], r["path"], r["reason"], *r["tasks"]) for r in rows if r["reason"] in REMOVING)


def content(built):
    return {name: o["sha256"] for name, o in built.manifest["outputs"].items() if o["kind"] != "log"}


def test_planted_contamination_is_removed_from_every_set(tmp_path):
    inputs = sources(tmp_path)
    built = decontaminate(tmp_path, inputs)
    assert removed(built) == sorted(
        (name, path, reason, SQUARES)
        for name in ("textbooks", "exercises")
        for path, reason in (("renamed", "same syntax"), ("said", "same text"))
    )
    for name in ("textbooks", "exercises"):
        source = inputs["documents"].path(name)
        expected = [r for r in documents.read(source, ("path", "text")) if r["path"] not in PLANTED]
        assert list(documents.read(built.path(name), ("path", "text"))) == expected
        assert pq.read_schema(documents.parts(built.path(name))[0]).equals(WITH_BEHAVIOUR)
        facts = built.facts[name]
        assert (facts["documents"], facts["kept"], facts["removed"]) == (len(expected) + 2, len(expected), 2)
        assert facts["hits"] == {"same syntax": 1, "same text": 1}
        assert (facts["not_parsed"], facts["share_13_words"]) == (0, 1)
    assert (built.facts["problems"], built.facts["written_by"]) == (4, "grammar")


def test_thirteen_words_are_evidence_unless_the_grammar_wrote_both(tmp_path):
    built = decontaminate(tmp_path, sources(tmp_path, written_by="writer:1"))
    assert ("textbooks", "prose", "same text", TALLY) in removed(built)
    file = write_problems(tmp_path / "benchmark.jsonl", make_problems())
    inputs = sources(tmp_path)
    built = decontaminate(tmp_path, {"documents": inputs["documents"]}, "file", file)
    assert ("textbooks", "prose", "same text", TALLY) in removed(built)


def test_after_a_kill_it_is_the_same(tmp_path, monkeypatch):
    inputs = sources(tmp_path)
    built = decontaminate(tmp_path, inputs)
    # A killed run: some parts are whole, one has its texts and no findings yet.
    draft = artifact.open_draft(tmp_path / "w", "decontaminate", "killed", {}, inputs)
    for path in sorted(built.directory.glob("*/*")):
        target = draft.directory / path.relative_to(built.directory)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    documents.part_path(draft.directory / "findings", 1).unlink()
    inspected = []
    inspect = HeldOut.inspect
    monkeypatch.setattr(HeldOut, "inspect", lambda *a, **k: inspected.append(a[1]) or inspect(*a, **k))
    again = decontaminate(tmp_path, inputs, "killed")
    assert (content(again), again.facts) == (content(built), built.facts)
    second = documents.read_part(documents.parts(inputs["documents"].path("textbooks"))[1], ("text",))
    assert inspected[-5:] == [row["text"] for row in second]
    assert len(inspected) == 5 + len(PROMPTS)
