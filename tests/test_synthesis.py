"""The grammar: behaviours told apart by running them, held out before a word is written, every text executed."""

import dataclasses
import json
from collections import Counter

import pytest
from running import MICRO

from phi_jax import config
from phi_jax.sandbox import Program, Sandbox
from phi_jax.store import documents
from phi_jax.synthesis import diversity, grammar, verify
from phi_jax.synthesis.families import all_behaviours


@pytest.fixture(scope="module")
def known():
    return grammar.behaviours(120)


@pytest.fixture(scope="module")
def split(known):
    return grammar.held_out(known, 10)


def test_two_thousand_behaviours_and_no_family_above_a_tenth(known):
    assert len(known) >= 2000
    families = Counter(k.behaviour.family for k in known)
    assert max(families.values()) <= len(known) / 10
    assert {kind for k in known for kind in k.behaviour.signature} == {
        "int", "str", "list[int]", "list[str]", "dict[str,int]",
    }  # fmt: skip


def test_no_two_behaviours_give_the_same_on_the_fixed_inputs(known):
    seen = set()
    for k in known:
        cases = grammar.fixed_inputs(k.behaviour.signature)
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


def test_the_same_on_every_call(known):
    again = grammar.behaviours(120)
    assert [k.digest for k in again] == [k.digest for k in known]
    assert [grammar.exercise(k, 3).code for k in again[:50]] == [grammar.exercise(k, 3).code for k in known[:50]]


def test_every_family_writes_texts_that_run(split):
    """Each combination of every family once, in both forms of its code: the sandbox finds nothing wrong."""
    by_family = {}
    for k in split[0]:
        by_family.setdefault(k.behaviour.family, []).append(k)
    chosen = [k for ks in by_family.values() for k in ks[:12]]
    texts = [grammar.exercise(k, 0) for k in chosen] + [grammar.textbook_section(k, n) for k in chosen for n in (0, 1)]
    assert any("for " in t.code and "append" in t.code for t in texts)
    assert verify.run_texts(texts, "texts", sandbox="full", workers=2) == [None] * len(texts)


def test_what_is_wrong_is_set_aside_and_its_neighbours_are_not(split):
    good = [grammar.exercise(k, 0) for k in split[0][:5]]
    section = grammar.textbook_section(split[0][5], 0)
    wrong = [
        dataclasses.replace(good[0], code=good[1].code, entry_point=good[1].entry_point),  # another behaviour
        dataclasses.replace(good[0], code=good[0].code.replace("return", "retrun")),  # does not parse
        dataclasses.replace(good[0], examples=((good[0].examples[0][0], "'no'"),)),  # an example that is not so
        dataclasses.replace(section, printed="something else\n"),
    ]
    verdicts = verify.run_texts([*good, *wrong, section], "texts", sandbox="full", workers=2)
    assert verdicts[:5] == [None] * 5
    assert verdicts[-1] is None
    assert all(v and v.startswith("failed: ") for v in verdicts[5:9]), verdicts


def test_references_pass_their_hidden_tests_and_nothing_passes_all(split):
    problems = [grammar.problem(k) for k in split[1]]
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
        problem = grammar.problem(k)
        examples = [line for line in problem["prompt"].splitlines() if ">>>" in line]
        assert len(examples) == 2
        calls = {f"{problem['entry_point']}({', '.join(map(grammar.quoted, case))})" for case in problem["inputs"]}
        assert not {line.strip().removeprefix(">>> ") for line in examples} & calls


def test_pieces_are_written_once():
    sentences = Counter((b.family, b.sentence) for b in all_behaviours())
    assert sentences.most_common(1)[0][1] == 1


def test_no_held_out_behaviour_is_written_about(micro_run):
    directory = micro_run / "synthesize" / "grammar"
    held_out = {json.loads(line)["behaviour"] for line in (directory / "problems.jsonl").read_text().splitlines()}
    facts = json.loads((directory / "manifest.json").read_text())["facts"]
    assert facts["written_by"] == "grammar"
    assert facts["held_out"] == len(held_out)
    for kind in ("textbooks", "exercises"):
        rows = list(documents.read(directory / kind, ("behaviour", "source", "path", "text")))
        assert len(rows) == facts[kind]["kept"]
        assert not {r["behaviour"] for r in rows} & held_out
        assert {r["source"] for r in rows} == {"grammar"}
        assert facts[kind]["diversity"] == diversity.measure(r["text"] for r in rows)
        assert sum(facts[kind]["reasons"].values()) == facts[kind]["set_aside"]
        assert facts[kind]["written"] == facts[kind]["kept"] + facts[kind]["set_aside"]


def test_an_unknown_teacher_is_named(tmp_path):
    from phi_jax.errors import UserError
    from phi_jax.synthesis.synthesize import synthesize

    with pytest.raises(UserError, match=r"config\.synthesize\.teacher='gpt'"):
        synthesize(config.load([*MICRO, "--config.synthesize.teacher=gpt"]), {}, None)
