"""The benchmarks `unconventional` and `libraries`: right, strict, readable, and like nothing else.

No test needs more of a candidate than its docstring says; a problem that an honest reader fails is a wrong problem.
"""

import ast
import doctest
import json
import re

import pytest
from likeness import Likeness, fingerprints, program, published
from running import ROOT

from phi_jax.contamination.overlap import GRAM
from phi_jax.evaluation.execution import Sample, execute, shown_prompt
from phi_jax.evaluation.problems import load_problems
from phi_jax.evaluation.stops import body_indent, cut
from phi_jax.store import artifact, documents

SIZES = {"unconventional": 50, "libraries": 10}
LEAST_TESTS = {"unconventional": 8, "libraries": 6}


@pytest.fixture(scope="module", params=SIZES)
def benchmark(request):
    """(name, problems)"""
    return load_problems(request.param)


@pytest.fixture(scope="module")
def all_problems():
    return [p for name in SIZES for p in load_problems(name)[1]]


def passed(problems, completions, form="kept"):
    """task_ids of the completions that pass."""
    samples = [Sample(p.task_id, c, c) for p, c in zip(problems, completions, strict=True)]
    records = execute(problems, samples, form=form, sandbox="full", workers=2, wall_seconds=10)
    return [r["task_id"] for r in records if r["passed"]]


def function_of(problem):
    """The entry point's definition; what else the program has at its top are imports."""
    *imports, function = ast.parse(program(problem)).body
    assert all(isinstance(node, ast.Import | ast.ImportFrom) for node in imports)
    assert isinstance(function, ast.FunctionDef)
    assert function.name == problem.entry_point
    return function


def asserts_of(problem):
    """(the call of the candidate, the literal it is compared with) of each statement of the tests."""
    (check,) = ast.parse(problem.row["test"]).body
    for node in check.body:
        assert isinstance(node, ast.Assert)
        assert isinstance(node.test, ast.Compare)
        assert isinstance(node.test.ops[0], ast.Eq)
        assert isinstance(node.test.left, ast.Call)
        assert ast.unparse(node.test.left.func) == "candidate"
        (expected,) = node.test.comparators
        yield ast.unparse(node.test.left), ast.literal_eval(expected)


# --- Each problem by itself ----------------------------------------------------------------------------------


def test_rows_are_well_formed(benchmark):
    name, problems = benchmark
    fields = {"task_id", "prompt", "entry_point", "canonical_solution", "test"}
    if name == "libraries":
        fields.add("library")
    assert [p.task_id for p in problems] == [f"{name}/{i}" for i in range(SIZES[name])]
    for problem in problems:
        assert set(problem.row) == fields
        ast.parse(problem.prompt)
        assert problem.prompt.endswith('"""\n')
        assert problem.reference.endswith("\n")
        assert max(map(len, program(problem).splitlines())) <= 112
        docstring = ast.get_docstring(function_of(problem))
        assert len(docstring.split("\n\n")[0].splitlines()) == 1, "no summary line"
        if name == "unconventional":
            assert 5 <= len(problem.reference.splitlines()) <= 25


def test_examples_are_true(benchmark):
    for problem in benchmark[1]:
        namespace = {}
        exec(program(problem), namespace)
        test = doctest.DocTestParser().get_doctest(
            namespace[problem.entry_point].__doc__, namespace, problem.task_id, None, None
        )
        assert test.examples
        assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


def test_there_are_enough_tests_besides_the_examples(benchmark):
    name, problems = benchmark
    for problem in problems:
        calls = [call.replace("candidate", problem.entry_point, 1) for call, _ in asserts_of(problem)]
        shown = {
            ast.unparse(ast.parse(example.source))
            for example in doctest.DocTestParser().get_examples(ast.get_docstring(function_of(problem)))
        }
        assert len(set(calls)) == len(calls) >= LEAST_TESTS[name], problem.task_id
        assert len(set(calls) - shown) >= LEAST_TESTS[name] - 1, problem.task_id


def test_every_reference_passes(benchmark):
    problems = benchmark[1]
    assert passed(problems, [p.reference for p in problems]) == [p.task_id for p in problems]


def test_the_cut_leaves_references_whole(benchmark):
    problems = benchmark[1]
    for form, opening in (("kept", ""), ("stripped", "\n")):
        kept = [
            cut(shown_prompt(p.prompt, form), f"{opening}{p.reference}\n\ndef other():\n    pass\n") for p in problems
        ]
        assert [k.rstrip("\n") for k in kept] == [opening + p.reference.rstrip("\n") for p in problems]
    assert len(passed(problems, kept, "stripped")) == len(problems)


def test_plausible_wrong_answers_fail(benchmark):
    name, problems = benchmark
    rows = [json.loads(line) for line in (ROOT / "tests" / f"{name}_wrong.jsonl").read_text().splitlines()]
    assert [row["task_id"] for row in rows] == [p.task_id for p in problems]
    for problem, row in zip(problems, rows, strict=True):
        assert fingerprints(problem.prompt + row["completion"]) != fingerprints(program(problem))
    assert passed(problems, [row["completion"] for row in rows]) == []


def test_empty_answers_fail(benchmark):
    bodies = ["pass", "return 0", "return None"]
    pairs = [(p, " " * body_indent(p.prompt) + body + "\n") for body in bodies for p in benchmark[1]]
    assert passed(*zip(*pairs, strict=True)) == []


# --- Libraries -----------------------------------------------------------------------------------------------


def imported(tree):
    """Modules that a program imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_each_problem_has_a_library_of_its_own_and_uses_it():
    problems = load_problems("libraries")[1]
    assert len({p.row["library"] for p in problems}) == len(problems)
    for problem in problems:
        (statement, _) = ast.parse(problem.prompt).body  # what is tested is the use, not to know the import
        assert list(imported(statement)) == [problem.row["library"]]
        names = {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
        used = {node.id for node in ast.walk(ast.parse(program(problem))) if isinstance(node, ast.Name)}
        assert names <= used


def test_no_exercise_of_the_grammar_imports_them_and_no_lesson_names_them(micro_run):
    libraries = {p.row["library"] for p in load_problems("libraries")[1]}
    exercises = artifact.find(micro_run, "synthesize", "grammar").path("exercises")
    texts = [row["text"] for row in documents.read(exercises)]
    assert len(texts) > 50
    assert libraries.isdisjoint(name for text in texts for name in imported(ast.parse(text)))
    curriculum = (ROOT / "phi_jax" / "synthesis" / "llm" / "curriculum.json").read_text()
    assert [name for name in sorted(libraries) if re.search(rf"\b{name}\b", curriculum)] == []


# --- Like nothing else ---------------------------------------------------------------------------------------


def test_nothing_in_common_with_humaneval_and_mbpp(all_problems, shared_data):
    ours = Likeness(all_problems)
    texts = dict(published(shared_data))
    assert len(texts) == 164 + 974
    assert {name: found for name, text in texts.items() if (found := ours.found(text))} == {}


def test_nothing_in_common_with_the_grammars_texts_and_the_other_benchmark(all_problems, micro_run):
    ours = Likeness(all_problems)
    written = artifact.find(micro_run, "synthesize", "grammar")
    texts = [row["text"] for name in ("exercises", "textbooks") for row in documents.read(written.path(name))]
    texts += [program(p) for p in load_problems("idioms")[1]]
    assert len(texts) > 100
    assert [found for text in texts if (found := ours.found(text))] == []


def test_no_two_problems_are_alike(all_problems):
    """Two different numbers differ in a binary digit: after six halvings each two problems have been apart."""
    assert len(all_problems) <= 64
    for digit in range(6):
        halves = [], []
        for number, problem in enumerate(all_problems):
            halves[number >> digit & 1].append(problem)
        ours = Likeness(halves[0])
        assert {p.task_id: found for p in halves[1] if (found := ours.found(program(p)))} == {}


def test_a_copy_would_be_found(all_problems):
    """Code with other names and another docstring; 13 words of the docstring, but not 12."""
    ours = Likeness(all_problems)
    for problem in all_problems[::7]:
        tree = ast.parse(program(problem))
        function = function_of(problem)
        bound = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and type(node.ctx) is ast.Store}
        bound |= {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id in bound:
                node.id += "_2"
            elif isinstance(node, ast.arg):
                node.arg += "_2"
        tree.body[-1].name = "solve"
        tree.body[-1].body[0].value.value = "Do it."
        assert ours.found(ast.unparse(tree)) == [(problem.task_id, "a syntax tree")]
        words = re.findall(r"\w+", ast.get_docstring(function).split("\n\n")[1])
        said, less = (f'def solve(x):\n    """{" ".join(words[:count])}"""\n' for count in (GRAM, GRAM - 1))
        assert (problem.task_id, f"{GRAM} words") in ours.found(said)
        assert ours.found(less) == []
