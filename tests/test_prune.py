"""Pruning as in the paper's section 5: match rates, what is taken out at which, the nearest by embedding, the page."""

import ast
import itertools
import json

import numpy as np
import pytest
from random_model import export_random
from running import MICRO
from test_contamination import (
    BODIES,
    PROMPTS,
    PROSE,
    RENAMED,
    RUNS,
    SAID,
    SQUARES,
    TALLY,
    make_problems,
    write_problems,
    write_set,
)

from phi_jax import config, graph
from phi_jax.config import Config
from phi_jax.contamination import match_rate, syntax
from phi_jax.contamination import prune as stage
from phi_jax.contamination.match_rate import Matcher
from phi_jax.errors import UserError
from phi_jax.model.embed import embed
from phi_jax.model.phi import PhiConfig
from phi_jax.store import artifact, documents
from phi_jax.store.digests import PathDigests
from phi_jax.tokens.tokenizer import train
from phi_jax.weights.models import load_model


def functions(source):
    return list(syntax.functions(ast.parse(source)))


def rate(one, other):
    """The match rate of two sources, whatever it is."""
    return Matcher([("t", functions(one)[0])]).rates(functions(other)[:1], 0.0)["t"]


# --- Match rates ----------------------------------------------------------------------------------------------------

MEAN = "def mean(xs):\n    total = 0\n    for x in xs:\n        total += x\n    return total / len(xs)\n"


@pytest.mark.parametrize(
    ("other", "changed"),
    [
        (MEAN.replace("total", "sum").replace("xs", "list").replace("mean", "f"), 0),  # builtins' names, but bound
        ("@cache\ndef mean(xs: list) -> float:\n    'Doc.'\n    # Comment.\n" + MEAN.partition("\n")[2], 0),
        (MEAN.replace("+=", "-="), 1),
        (MEAN.replace("len", "max"), 1),
        (MEAN.replace("total = 0", "total = False"), 1),
        (MEAN.replace("len(xs)", "total"), 2),  # three nodes are one
        (MEAN.replace("    return", "    print(total)\n    return"), 4),
    ],
)
def test_a_match_rate_counts_the_nodes_that_differ(other, changed):
    nodes = (
        20  # def, arguments, xs; =, total, 0; for, x, xs; +=, total, add, x; return, binary, total, div, call, len, xs
    )
    longer = max(nodes, len(match_rate._nodes(functions(other)[0])))
    assert len(match_rate._nodes(functions(MEAN)[0])) == nodes
    assert rate(MEAN, other) == rate(other, MEAN) == 1 - changed / longer


def edit_distance(one, other):
    row = list(range(len(other) + 1))
    for i, a in enumerate(one):
        row, above = [i + 1], row
        for j, b in enumerate(other):
            row.append(min(above[j] + (a != b), above[j + 1] + 1, row[j] + 1))
    return row[-1]


def test_match_rates_are_those_of_the_plain_algorithm():
    sources = [f"def f({parameters}):\n{BODIES[task]}" for task, (_, parameters, _) in PROMPTS.items()] + [
        MEAN,
        RENAMED,
    ]
    written = [match_rate._nodes(functions(source)[0]) for source in sources]
    for (a, one), (b, other) in itertools.product(zip(sources, written, strict=True), repeat=2):
        assert rate(a, b) == pytest.approx(1 - edit_distance(one, other) / max(len(one), len(other)), abs=1e-12)


def test_the_highest_rate_of_functions_and_references_counts_from_the_lowest_on():
    matcher = Matcher([("a", functions(MEAN)[0]), ("b", functions(RENAMED)[0]), ("a", functions(RENAMED)[0])])
    inside = "class A:\n    def g(self):\n        pass\n    " + RENAMED.replace("\n", "\n    ")
    assert matcher.rates(functions(inside), 0.95) == {"a": 1.0, "b": 1.0}
    one_of_twenty = MEAN.replace("+=", "-=")
    assert matcher.rates(functions(one_of_twenty), 0.95) == {"a": 0.95}
    assert matcher.rates(functions(one_of_twenty), 0.951) == matcher.rates([], 0.5) == {}


# --- The stage ------------------------------------------------------------------------------------------------------

NEAR = "def pick(values):\n    return sorted([v + v for v in values if v // 2 == 0])\n"
TEXTS = {
    "renamed": RENAMED, "near": NEAR, "said": SAID, "prose": PROSE, "own": "def f(q):\n    return q\n",
    "broken": f"def f(:\n# {PROSE}", "quoted": json.dumps({"a": BODIES[RUNS]}), "two": f"{RENAMED}\n{SAID}",
}  # fmt: skip


def prune(tmp_path, rules, name="given"):
    if not (tmp_path / "w" / "decontaminate").exists():
        draft = artifact.open_draft(tmp_path / "w", "decontaminate", "given", {}, {})
        write_set(draft.directory / "exercises", TEXTS)
        documents.add_output(draft, "exercises")
        draft.add_facts(written_by="x")
        draft.commit()
        write_problems(tmp_path / "p.jsonl", make_problems())
    inputs = {"documents": artifact.find(tmp_path / "w", "decontaminate", "given")}
    rules = {"problems": str(tmp_path / "p.jsonl"), "match_rate": 0.0, "model": ""} | rules
    chosen = Config({"prune": rules, "filter": {"embed_tokens": 48, "pooling": "mean", "batch_size": 2}})
    stage.check(chosen, name)
    draft = artifact.open_draft(tmp_path / "w", "prune", name, rules, inputs)
    stage.prune(chosen, inputs, draft)
    return draft.commit()


def paths(tmp_path):
    given = artifact.find(tmp_path / "w", "decontaminate", "given").path("exercises")
    return {row["id"]: row["path"] for row in documents.read(given, ("id", "path"))}


def test_exercises_go_from_the_match_rate_on(tmp_path):
    near = rate(RENAMED, NEAR)
    assert 0.8 < near < 0.85
    for tau, gone in ((0.0, set()), (0.95, {"renamed", "two"}), (near, {"renamed", "two", "near"})):
        built = prune(tmp_path, {"match_rate": tau}, f"at{len(gone)}")
        kept = [row["path"] for row in documents.read(built.path("exercises"), ("path",))]
        assert kept == [path for path in TEXTS if path not in gone]
        assert [built.facts[name] for name in ("documents", "kept", "not_parsed")] == [8, 8 - len(gone), 1]
        # Of what came in, whatever goes.
        assert built.facts["exercises_at"] == {"0.95": 2, "0.9": 2, "0.85": 2, "0.8": 3}
        assert built.facts["problems_at"] == {tau: [SQUARES] for tau in ("0.95", "0.9", "0.85", "0.8")}


def test_every_pair_that_matters_has_a_verdict_and_a_place_on_the_page(tmp_path):
    built = prune(tmp_path, {})
    named = paths(tmp_path)
    columns = ("id", "task", "match_rate", "words", "verdict")
    found = {(named[r["id"]], r["task"]): r for r in documents.read(built.path("matches"), columns)}
    told = {pair: (r["match_rate"], r["words"], r["verdict"]) for pair, r in found.items()}
    words = "13 words of a docstring"
    assert told == {
        ("renamed", SQUARES): (1.0, "", "similar at 0.95"),
        ("near", SQUARES): (pytest.approx(rate(RENAMED, NEAR)), "", "similar at 0.8"),
        ("said", SQUARES): (0, "same text", "same text"),
        ("prose", TALLY): (0, words, words),
        ("quoted", RUNS): (0, "same text", "same text"),
        ("broken", TALLY): (0, words, words),
        ("broken", None): (0, "", "not parsed"),
        ("two", SQUARES): (1.0, "same text", "similar at 0.95"),
    }
    page = built.path("page").read_text()
    for pair, row in found.items():
        on_page = f'data-task="{row["task"]}" data-id="{row["id"]}"' in page
        # Of a task the one of the highest match rate, with words in common and without.
        assert on_page == (pair not in (("near", SQUARES), ("said", SQUARES), ("prose", TALLY), ("broken", None))), pair
    assert "match rate 1.000" in page
    assert "https://" not in page


def test_the_nearest_by_embedding_are_those_of_all_pairs(tmp_path):
    tokenizer = train([*TEXTS.values(), *BODIES.values()], 320)
    shape = PhiConfig(
        vocab_size=320, hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2, head_dim=8, rotary_dim=4,
        max_seq_len=64,
    )  # fmt: skip
    model = export_random(tmp_path / "model", shape, tokenizer=tokenizer)
    built = prune(tmp_path, {"model": str(model)})
    named = paths(tmp_path)
    found = list(documents.read(built.path("nearest"), ("task", "id", "distance")))

    params, shape, _ = load_model(model)

    def unit(text):
        ids = np.array([tokenizer.encode(text)[:48]], np.int32)
        vector = np.asarray(embed(params, ids, np.array([ids.shape[1]], np.int32), shape, "mean"), np.float64)[0]
        return vector / np.linalg.norm(vector)

    texts = {row["task_id"]: row["prompt"] + row["canonical_solution"] for row in make_problems()}
    vectors = {path: unit(text) for path, text in TEXTS.items()}
    order = list(TEXTS)
    for task, text in texts.items():
        far = {path: np.linalg.norm(vector - unit(text)) for path, vector in vectors.items()}
        expected = [
            path for part in (order[:5], order[5:]) for path in sorted(part, key=far.__getitem__)[:3]
        ]  # a part holds five
        rows = [row for row in found if row["task"] == task]
        assert [named[row["id"]] for row in rows] == expected
        np.testing.assert_allclose([row["distance"] for row in rows], [far[path] for path in expected], atol=1e-5)
        nearest = min(rows, key=lambda row: row["distance"])
        assert f"distance of embeddings {nearest['distance']:.3f}" in built.path("page").read_text()


# --- The graph ------------------------------------------------------------------------------------------------------


def keys(**fields):
    chosen = config.load([*MICRO, *(f"--config.prune.{name}={value}" for name, value in fields.items())])
    found, digests = {}, PathDigests(None)
    for made in graph.stages(chosen):
        inputs = {name: found[label] for name, label in made.inputs.items()}
        found[made.label] = artifact.artifact_key(made.stage, made.decides(chosen, digests), inputs)
    return found


def test_a_match_rate_makes_only_what_is_behind_the_exercises_anew():
    off, one, other = keys(), keys(problems="nano", match_rate=0.9), keys(problems="nano", match_rate=0.8)
    assert "prune/grammar" not in off
    assert {label.partition("/")[2] for label in one if one[label] != other[label]} == {
        "grammar", "grammar.exercises", "finetuned", "raw+exercises", "",
    }  # fmt: skip
    assert {label for label in off if off[label] != one[label]} == {
        label for label in one if one[label] != other[label]
    } - {"prune/grammar"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"match_rate": 0.9}, 'config.prune.problems="": with no problems nothing is pruned'),
        ({"problems": "gone.jsonl"}, "benchmark gone.jsonl: neither built in"),
        ({"problems": "idioms", "model": "gone"}, "gone/config.json"),
        ({"match_rate": 1.5}, "config.prune.match_rate=1.5: must be a number, at least 0 and at most 1"),
    ],
)
def test_what_cannot_be_pruned_is_said_first(fields, message):
    chosen = config.load([*MICRO, *(f"--config.prune.{name}={value}" for name, value in fields.items())])
    with pytest.raises(UserError) as refused:
        stage.check(chosen, next(made.name for made in graph.stages(chosen) if made.stage == "prune"))
    assert message in str(refused.value)
