"""The problems of `unconventional` and `libraries` against all mutants of their references, and against every text that
the grammar can write. Writes unconventional.json.

    pytest tests/acceptance/test_unconventional_full.py
"""

import ast
import datetime
import json
from pathlib import Path

import pytest
from likeness import Likeness, program
from test_unconventional import SIZES, imported

from phi_jax.evaluation.execution import program as program_to_run
from phi_jax.evaluation.problems import load_problems
from phi_jax.sandbox import Limits, Sandbox
from phi_jax.synthesis.grammar import catalogue, grammar_texts
from phi_jax.synthesis.llm import run_checks
from phi_jax.synthesis.llm.mutations import mutants, trivial_bodies
from phi_jax.synthesis.llm.run_checks import OTHER_HASH_SEED

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

RESULT = Path(__file__).with_name("unconventional.json")
ALL = 10**6  # mutants of one reference, and behaviours of one family
LIMITS = Limits(wall_seconds=60, cpu_seconds=30)

# Mutants that give what the reference gives for every input, with the reason. All others have to fail.
EQUIVALENT = {
    ("unconventional/45", "points = dict.fromkeys(standing, 1)"): "one point more for everybody changes no order",
    ("libraries/6", "longest, admitted = -2, False"): "any number below 0 is below every prefix",
}


def tried(problem):
    """(trivial bodies that pass, mutants that are programs, lines of the mutants that pass)"""
    trivial = trivial_bodies(problem.entry_point)
    changed = mutants(program(problem), ALL)
    versions = [f"{program(problem)}\n{code}" for _, code in trivial] + [mutant.code for mutant in changed]
    arguments = (problem.entry_point, program(problem), [problem.tests], versions)
    with Sandbox(limits=LIMITS, workers=1) as box:
        (verdict,) = box.run([run_checks.program(f"exercise{arguments!r}")])
    noticed = run_checks.said(verdict)
    assert len(noticed) == len(trivial) + len(changed), f"{problem.task_id}: {noticed}"
    accepted = [what for (what, _), letter in zip(trivial, noticed, strict=False) if letter is False]
    letters = noticed[len(trivial) :]
    lines = [
        m.code.splitlines()[m.line - 1].strip() for m, letter in zip(changed, letters, strict=True) if letter is False
    ]
    return accepted, len(letters) - letters.count(None), lines


@pytest.fixture(scope="module")
def result():
    """What the tests find, written when the last is done."""
    found = {"date": datetime.date.today().isoformat()}
    yield found
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


def test_the_tests_notice_every_mutant_that_is_not_equivalent(result):
    survivors = set()
    for name in SIZES:
        count = survived = 0
        for problem in load_problems(name)[1]:
            accepted, programs, lines = tried(problem)
            assert accepted == [], problem.task_id
            assert programs > 0
            count += programs
            survived += len(lines)
            survivors |= {(problem.task_id, line) for line in lines}
        result[name] = {"problems": SIZES[name], "mutants": count, "noticed": count - survived}
    result["equivalent"] = [[task, line, EQUIVALENT.get((task, line))] for task, line in sorted(survivors)]
    assert survivors == set(EQUIVALENT)


def test_references_do_not_hang_on_the_order_of_sets():
    problems = [p for name in SIZES for p in load_problems(name)[1]]
    for seed in (OTHER_HASH_SEED, OTHER_HASH_SEED + 1):
        with Sandbox(limits=LIMITS, workers=1, hash_seed=seed) as box:
            verdicts = box.run([program_to_run(p, p.prompt, p.reference) for p in problems])
            assert [p.task_id for p, v in zip(problems, verdicts, strict=True) if not v.passed] == []


def test_nothing_in_common_with_any_text_of_the_grammar(result):
    ours = Likeness([p for name in SIZES for p in load_problems(name)[1]])
    libraries = {p.row["library"] for p in load_problems("libraries")[1]}
    count = 0
    alike = []
    for known in catalogue.behaviours(ALL):
        for number in range(2):
            for write in (grammar_texts.exercise, grammar_texts.textbook_section):
                text = write(known, number).code
                count += 1
                alike += ours.found(text)
                assert libraries.isdisjoint(imported(ast.parse(text)))
    result["grammar_texts"] = count
    assert alike == []
