"""The grammar: behaviours told apart by running them, held out before a word is written, every text executed."""

import ast
import dataclasses
import hashlib
import json
import re
from collections import Counter
from textwrap import dedent

import pytest

from phi_jax.config import Config
from phi_jax.evaluation import perturb
from phi_jax.sandbox import Program, Sandbox
from phi_jax.store import artifact, documents
from phi_jax.synthesis.grammar import catalogue, from_grammar, grammar_texts
from phi_jax.synthesis.grammar.families import all_behaviours
from phi_jax.synthesis.grammar.from_grammar import run_texts

RULES = {
    "family_cap": 6, "held_out_one_in": 10, "sections_per_behaviour": 1, "exercises_per_behaviour": 4,
    "writer": "grammar", "sandbox": "full", "sandbox_workers": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def known():
    return catalogue.behaviours(120)


@pytest.fixture(scope="module")
def split(known):
    return catalogue.held_out(known, 10)


def test_two_thousand_behaviours_and_no_family_above_a_tenth(known):
    assert len(known) >= 2000
    families = Counter(k.behaviour.family for k in known)
    assert max(families.values()) <= len(known) / 10
    assert {kind for k in known for kind in k.behaviour.signature} == {
        "int", "str", "list[int]", "list[str]", "dict[str,int]",
    }  # fmt: skip
    sentences = Counter((b.family, b.sentence) for b in all_behaviours())
    assert sentences.most_common(1)[0][1] == 1


def test_behaviours_are_what_they_were():
    """What every behaviour says and gives, as it was when each had a function beside its code that said the same."""
    told = "".join(
        k.digest + b.family + b.slug + b.sentence + dedent(b.body) + dedent(b.loop) + repr(k.outputs)
        for k in catalogue.behaviours(10**9)
        for b in [k.behaviour]
    )
    assert hashlib.sha256(told.encode()).hexdigest() == (
        "a3bab0921499848d985e9f79fc2d1ea288576d91d172a27f565afc1118bb0b9d"
    )


def test_the_benchmark_is_what_it_was(split):
    """Prompts, hidden tests and split: however the texts change, scores before and after are of the same problems."""
    problems = json.dumps([grammar_texts.problem(k) for k in split[1]])
    assert hashlib.sha256(problems.encode()).hexdigest()[:16] == "6d7857aedc28e079"


def test_texts_are_what_they_were(split):
    """A change of the grammar's texts is a change of nano's results."""
    texts = [
        write(k, 1).code for write in (grammar_texts.textbook_section, grammar_texts.exercise) for k in split[0][::10]
    ]
    assert hashlib.sha256("".join(texts).encode()).hexdigest()[:16] == "ab5bb9e65d49acd1"


def test_exercises_do_not_hang_on_names_and_words(split):
    """Every behaviour is asked in several ways, all of which mean the same: run_texts executes them."""
    exercises = [[grammar_texts.exercise(k, number) for number in range(8)] for k in split[0][::10]]
    kinds = Counter()
    for k, found in zip(split[0][::10], exercises, strict=True):
        functions = [ast.parse(text.code).body[0] for text in found]
        assert len({ast.get_docstring(f).split(">>>")[0] for f in functions}) > len(found) // 2
        for text, function in zip(found, functions, strict=True):
            names = [argument.arg for argument in function.args.args]
            assert len({*names}) == len(names) == len(k.behaviour.signature)
            stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            assert stored.isdisjoint(names) or k.behaviour.family == "number chains"
            words = re.findall(r"\w+", ast.get_docstring(function).split(">>>")[0])
            kinds["function renamed"] += text.entry_point != k.behaviour.slug
            kinds["parameter not named"] += names[0] not in words
            kinds["letter"] += len(names[0]) == 1
    share = {kind: count / (8 * len(exercises)) for kind, count in kinds.items()}
    assert all(0.05 < found < 0.5 for found in share.values()), share
    # What evaluation's perturbation calls a function is no name of an exercise.
    assert not {text.entry_point for found in exercises for text in found} & {*perturb.FUNCTIONS}


def test_no_two_behaviours_give_the_same_on_the_fixed_inputs(known):
    seen = set()
    for k in known:
        cases = catalogue.fixed_inputs(k.behaviour.signature)
        assert len(cases) == 20
        results = [k.behaviour.function(*case) for case in cases]
        # As == sees them, told apart without the module that the grammar does it with.
        outputs = (
            k.behaviour.signature,
            repr([sorted(map(repr, r.items())) if type(r) is dict else r for r in results]),
        )
        assert outputs not in seen
        seen.add(outputs)


def test_one_in_ten_is_held_out_of_every_family(known, split):
    taught, tested = split
    assert not {k.digest for k in taught} & {k.digest for k in tested}
    assert len(taught) + len(tested) == len(known)
    assert len(tested) >= 150
    counts = Counter(k.behaviour.family for k in known)
    for family, number in Counter(k.behaviour.family for k in tested).items():
        assert number == -(-counts[family] // 10)


def test_every_family_writes_texts_that_run(split):
    """Each combination of every family once, in both forms of its code: the sandbox finds nothing wrong."""
    by_family = {}
    for k in split[0]:
        by_family.setdefault(k.behaviour.family, []).append(k)
    chosen = [k for ks in by_family.values() for k in ks[:12]]
    texts = [grammar_texts.exercise(k, 0) for k in chosen] + [
        grammar_texts.textbook_section(k, n) for k in chosen for n in (0, 1)
    ]
    assert any("for " in t.code and "append" in t.code for t in texts)
    assert run_texts(texts, "texts", Config(RULES)) == [None] * len(texts)


def test_what_is_wrong_is_set_aside_and_its_neighbours_are_not(split):
    good = [grammar_texts.exercise(k, 0) for k in split[0][:5]]
    section = grammar_texts.textbook_section(split[0][5], 0)
    wrong = [
        dataclasses.replace(good[0], code=good[1].code, entry_point=good[1].entry_point),  # another behaviour
        dataclasses.replace(good[0], code=good[0].code.replace("return", "retrun")),  # does not parse
        dataclasses.replace(good[0], examples=((good[0].examples[0][0], "'no'"),)),  # an example that is not so
        dataclasses.replace(section, printed="something else\n"),
    ]
    faults = run_texts([*good, *wrong, section], "texts", Config(RULES))
    codes = [fault and fault.code for fault in faults]
    assert codes == [None] * 5 + ["wrong_output", "does_not_run", "wrong_output", "wrong_output", None]


def test_references_pass_their_hidden_tests_and_nothing_passes_all(split):
    problems = [grammar_texts.problem(k) for k in split[1]]
    assert len({p["task_id"] for p in problems}) == len(problems)

    def program(p, body):
        return Program(candidate=p["prompt"] + body, tests=f"{p['test']}\ncheck({p['entry_point']})",
                       entry_point=p["entry_point"], trusted=p["prompt"])  # fmt: skip

    others = [problems[-1]["canonical_solution"], *(p["canonical_solution"] for p in problems[:-1])]
    with Sandbox(workers=2) as box:
        right = list(box.run([program(p, p["canonical_solution"]) for p in problems]))
        wrong = list(box.run([program(p, body) for p, body in zip(problems, others, strict=True)]))
        loops = [p for p in problems if p["renderings"]]
        looped = list(box.run([
            Program(candidate=p["renderings"][0], tests=f"{p['test']}\ncheck({p['entry_point']})",
                    entry_point=p["entry_point"])
            for p in loops
        ]))  # fmt: skip
    assert all(v.passed for v in right), [v.result for v in right if not v.passed]
    assert all(v.passed for v in looped)
    assert not any(v.passed for v in wrong)


def test_examples_are_none_of_the_hidden_tests(split):
    for k in split[1]:
        problem = grammar_texts.problem(k)
        examples = [line for line in problem["prompt"].splitlines() if ">>>" in line]
        assert len(examples) == 2
        cases = catalogue.fixed_inputs(k.behaviour.signature)
        calls = {f"{problem['entry_point']}({', '.join(map(grammar_texts.quoted, case))})" for case in cases}
        assert not {line.strip().removeprefix(">>> ") for line in examples} & calls


def build(workdir, **rules):
    draft = artifact.open_draft(workdir, "synthesize", "grammar", {}, {})
    from_grammar.synthesize(Config({"texts": {"grammar": RULES | rules}}), {}, draft)
    return draft.commit()


def rows_of(built, kind):
    return list(documents.read(built.path(kind), from_grammar.SCHEMA.names))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("grammar"))


def test_no_held_out_behaviour_is_written_about_and_all_adds_up(built):
    problems, validation = (
        [json.loads(line) for line in built.path(name).read_text().splitlines()] for name in ("problems", "validation")
    )
    assert validation == problems[-(len(problems) // 5) :]
    held_out = {problem["behaviour"] for problem in problems}
    assert built.facts["written_by"] == "grammar"
    assert built.facts["held_out"] == len(held_out)
    for kind in ("textbooks", "exercises"):
        rows, facts = rows_of(built, kind), built.facts[kind]
        assert facts["kept"] == len(rows)
        assert not {r["behaviour"] for r in rows} & held_out
        assert {r["source"] for r in rows} == {"grammar"}
        aside = list(documents.read(built.path("set_aside") / kind, ("path", "code", "reason", "text")))
        assert facts["reasons"] == dict(Counter(row["code"] for row in aside))
        assert facts["set_aside"] == len(aside)


def test_copies_of_a_text_go_and_a_killed_stage_goes_on(built, tmp_path, monkeypatch):
    """Cut into small parts, and killed between two: the same texts; those written twice stay once."""
    monkeypatch.setattr(from_grammar, "_TEXTS_PER_PART", 300)
    ran = []

    def run_once(texts, *arguments, **options):
        if len(ran) == 2:
            ran.append(0)
            raise KeyboardInterrupt
        ran.append(len(texts))
        return run_texts(texts, *arguments, **options)

    monkeypatch.setattr(from_grammar, "run_texts", run_once)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path)
    again = build(tmp_path)
    assert all(rows_of(again, kind) == rows_of(built, kind) for kind in ("textbooks", "exercises"))
    exercises = rows_of(built, "exercises")
    assert sum(ran) == len(exercises) + len(rows_of(built, "textbooks"))
    assert len({row["text"] for row in exercises}) == len(exercises)
