"""Contamination at full size: copies of HumanEval's and MBPP's problems among 50,000 exercises. Writes section5.json.

    PHI_JAX_EMBEDDER=runs/nano/export/raw/model pytest tests/acceptance/test_section5.py

The exercises are the grammar's, and functions of the standard library and the installed packages that have a docstring;
none of them was written after a problem. Whatever a method finds among them is listed, to be looked at.
"""

import ast
import functools
import itertools
import json
import os
import platform
import random
import resource
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
from random_model import export_random
from test_contamination import Renamed, names_in

from phi_jax.config import Config
from phi_jax.contamination import match_rate, prune, syntax
from phi_jax.contamination.nearest import write_nearest
from phi_jax.evaluation.perturb import perturb
from phi_jax.evaluation.problems import load_problems
from phi_jax.model.phi import PhiConfig
from phi_jax.parallel.embedder import make_embedder
from phi_jax.store import artifact, documents
from phi_jax.store.python_text import parse
from phi_jax.synthesis.grammar import catalogue, grammar_texts
from phi_jax.tokens.tokenizer import train
from phi_jax.weights.models import load_model

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]

EXERCISES = int(os.environ.get("PHI_JAX_EXERCISES", 50_000))
TIMED = EXERCISES * 176 // 10  # 880,000
PART = 4000
RESULT = Path(__file__).with_name("section5.json")
KINDS = ("exact", "renamed", "reordered", "paraphrased", "json", "commented")
FALSE_ALARMS = 1e-3  # share of the exercises that a distance of embeddings may take for copies


# --- Exercises ------------------------------------------------------------------------------------------------------


def functions_of_people():
    """Functions of installed Python files in random order, with a docstring and at most 60 lines."""
    stdlib, packages = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib"))
    files = [path for path in stdlib.rglob("*.py") if packages not in path.parents] + list(packages.rglob("*.py"))
    for path in random.Random(0).sample(sorted(set(files)), len(set(files))):
        text = path.read_text(errors="replace")
        tree, lines = parse(text) if len(text) < 100_000 else None, text.split("\n")
        for node in tree.body if tree else ():
            documented = isinstance(node, ast.FunctionDef) and ast.get_docstring(node, clean=False)
            if documented and node.end_lineno - node.lineno < 60:
                yield "\n".join(lines[node.lineno - 1 : node.end_lineno]) + "\n"


@functools.cache
def exercises():
    """EXERCISES different texts: half of them the grammar's."""
    known = catalogue.behaviours(120)
    written = (grammar_texts.exercise(k, number).code for number in range(40) for k in known)
    texts = dict.fromkeys(itertools.islice(functions_of_people(), EXERCISES // 2))
    people = len(texts)
    while len(texts) < EXERCISES:
        texts[next(written)] = None
    return list(texts), people


# --- Copies ---------------------------------------------------------------------------------------------------------


def reordered(tree):
    """Two statements one after the other that share no name change places; None where there are none."""

    def names(node):
        return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | names_in(node)

    simple = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Import, ast.ImportFrom, ast.FunctionDef)
    for function in syntax.functions(tree):
        for place in range(len(function.body) - 1):
            one, other = function.body[place : place + 2]
            if isinstance(one, simple) and isinstance(other, simple) and not names(one) & names(other):
                function.body[place : place + 2] = [other, one]
                return ast.unparse(tree) + "\n"
    return None


def copies(problems):
    """(kind, task, text) of every copy that can be made."""
    paraphrased = {p.task_id: p for p in perturb(problems, "paraphrase", rate=1.0).problems}
    for n, problem in enumerate(problems):
        text = f"{problem.prompt}{problem.reference}".replace("\r\n", "\n")
        host = exercises()[0][n]
        tree = parse(text)
        bound = sorted(names_in(tree))
        made = {
            "exact": text,
            "renamed": ast.unparse(Renamed({name: f"v{i}" for i, name in enumerate(bound)}).visit(parse(text))) + "\n",
            "reordered": reordered(tree),
            "json": json.dumps({"prompt": problem.prompt, "solution": problem.reference}) + "\n",
            "commented": "".join(f"# {line}\n" for line in text.splitlines()) + "\n" + host,
        }
        if problem.task_id in paraphrased:
            made["paraphrased"] = f"{paraphrased[problem.task_id].prompt}{problem.reference}"
        yield from ((kind, problem.task_id, made[kind]) for kind in KINDS if made.get(kind))


def write(directory, texts):
    """The ids of the texts, which are written as documents."""
    directory.mkdir(parents=True)
    rows = [
        {"id": documents.document_id(text), "text": text, "source": "x", "path": "x", "license": None,
         "language": "python"}
        for text in texts
    ]  # fmt: skip
    for index, start in enumerate(range(0, len(rows), PART)):
        documents.write_part(directory, index, rows[start : start + PART])
    return [row["id"] for row in rows]


# --- What is found --------------------------------------------------------------------------------------------------


def matches_of(directory, likeness, target):
    """(seconds, the rows that the stage writes)."""
    parts, kept, begin = documents.parts(directory), target.with_name("kept"), time.monotonic()
    kept.mkdir()
    find = functools.partial(prune._prune, parts, kept, likeness, 0.0)
    documents.write_parts(target, len(parts), find, prune.MATCHES, label="section5", apart=parts)
    return time.monotonic() - begin, list(documents.read(target, prune.MATCHES.names))


def said_of(row):
    """The methods that find a pair."""
    rate = row["match_rate"]
    words = row["words"].split(", ") if row["words"] else []
    return [f"match rate {tau}" for tau in prune.TAUS if rate >= tau] + words


METHODS = [*(f"match rate {tau}" for tau in prune.TAUS), prune.SAME_WORDS, prune.SAME_TEXT]


def false_positives(rows, texts):
    """What is found among the exercises: counts by method, and every kind of pair, to be looked at."""
    counts, seen = dict.fromkeys(METHODS, 0), {}
    exercises_of = {method: set() for method in METHODS}
    for row in rows:
        if row["task"] is None or row["id"] not in texts:
            continue
        for method in said_of(row):
            exercises_of[method].add(row["id"])
        function = next(iter(syntax.functions(parse(texts[row["id"]]))), None)
        body = ast.unparse(function.body[1:]) if function else texts[row["id"]]
        about = seen.setdefault((row["task"], row["verdict"]), {"exercises": 0, "rate": 0, "bodies": {}})
        about["exercises"] += 1
        about["rate"] = max(about["rate"], row["match_rate"])
        about["bodies"][body[:200]] = None
    counts = {method: len(found) for method, found in exercises_of.items()}
    return counts, [
        {
            "task": task,
            "verdict": verdict,
            **about,
            "bodies": list(about["bodies"])[: 10 if about["rate"] >= 0.95 else 1],
        }
        for (task, verdict), about in sorted(seen.items())
    ]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    """(config of a model, texts -> normalised vectors). Without PHI_JAX_EMBEDDER the model's weights are random."""
    model = os.environ.get("PHI_JAX_EMBEDDER")
    if model is None:
        shape = PhiConfig(
            vocab_size=1024, hidden_size=64, intermediate_size=256, num_layers=2, num_heads=4, head_dim=16,
            rotary_dim=8, max_seq_len=256,
        )  # fmt: skip
        tokenizer = train(exercises()[0][:4000], 1024)
        model = export_random(tmp_path_factory.mktemp("model") / "random", shape, tokenizer=tokenizer)
    rules = {"embed_tokens": 128, "pooling": "mean", "batch_size": 8}
    params, shape, tokenizer = load_model(model)
    embed = make_embedder(params, shape, Config(rules))

    def unit_vectors(texts):
        parts = [embed(tokenizer.encode_batch(texts[n : n + 1000])) for n in range(0, len(texts), 1000)]
        found = np.concatenate(parts)
        return found / np.linalg.norm(found, axis=1)[:, None]

    return Config({"prune": {"model": str(model)}, "filter": rules}), unit_vectors


@pytest.fixture(scope="module")
def vectors(embedder):
    """Of a fifth of the exercises."""
    return embedder[1](random.Random(4).sample(exercises()[0], EXERCISES // 5))


def distances(of_problems, of_texts):
    """[problems, texts]: the norm of each difference, which is another way than that of nearest.py."""
    return np.stack([np.linalg.norm(of_texts - vector, axis=1) for vector in of_problems])


@pytest.mark.parametrize("benchmark", ["HumanEval.jsonl.gz", "mbpp.jsonl"])
def test_recall_by_kind_and_method(benchmark, shared_data, tmp_path, embedder, vectors):
    texts, people = exercises()
    file = str(shared_data / "eval" / benchmark)
    _, problems = load_problems(file)
    planted = list(copies(problems))
    ids = write(tmp_path / "exercises", [*texts, *(text for _, _, text in planted)])
    likeness = prune.Likeness(file)
    seconds, rows = matches_of(tmp_path / "exercises", likeness, tmp_path / "matches")
    found = {}
    for row in rows:
        found.setdefault((row["id"], row["task"]), set()).update(said_of(row))

    config, unit_vectors = embedder
    of_problems = unit_vectors(list(likeness.texts.values()))
    limit = float(np.quantile(distances(of_problems, vectors).min(0), FALSE_ALARMS))
    near = distances(of_problems, unit_vectors([text for _, _, text in planted])) < limit
    place = {task: n for n, task in enumerate(likeness.texts)}
    recall = {}
    for n, (kind, task, _) in enumerate(planted):
        counts = recall.setdefault(kind, {"copies": 0, **dict.fromkeys([*METHODS, "embedding", "any"], 0)})
        methods = found.get((ids[len(texts) + n], task), set()) | ({"embedding"} if near[place[task], n] else set())
        for method in [*methods, "copies", *(["any"] if methods else [])]:
            counts[method] += 1
    among, listed = false_positives(rows, dict(zip(ids[: len(texts)], texts, strict=True)))
    result = {
        "exercises": {"people's": people, "the grammar's": len(texts) - people},
        "planted": len(planted),
        "seconds": round(seconds, 1),
        "recall": {kind: recall[kind] for kind in KINDS},
        "exercises_found": {**among, "embedding": f"{FALSE_ALARMS:.1%}, which the distance was chosen for"},
        "embedding": {
            "model": Path(config.prune.model).parent.name,
            "distance_below": round(limit, 4),
            "brute_force": nearest_by_brute_force(tmp_path, embedder, likeness.texts, planted),
        },
        "to_be_looked_at": listed,
    }
    note(benchmark, result)
    for kind in ("exact", "renamed", "paraphrased"):
        assert recall[kind]["match rate 0.95"] == recall[kind]["copies"]
    # Two swapped statements of three nodes each are six edits; in a function of 20 nodes that is 0.7.
    assert recall["reordered"]["match rate 0.8"] >= 0.8 * recall["reordered"]["copies"]
    for kind in ("json", "commented"):
        assert recall[kind][prune.SAME_TEXT] >= 0.95 * recall[kind]["copies"]


def nearest_by_brute_force(tmp_path, embedder, problems, planted):
    """How the stage's nearest of 3,000 exercises compare with all pairs."""
    config, unit_vectors = embedder
    rng = random.Random(3)
    some = rng.sample(exercises()[0], min(2000, EXERCISES)) + [text for _, _, text in rng.sample(planted, 500)]
    ids = write(tmp_path / "sample", some)
    write_nearest(tmp_path / "nearest", documents.parts(tmp_path / "sample"), problems, config, "section5")
    all_pairs = distances(unit_vectors(list(problems.values())), unit_vectors(some))
    place, column = {task: n for n, task in enumerate(problems)}, {identifier: n for n, identifier in enumerate(ids)}
    chosen, error = {}, 0.0
    for row in documents.read(tmp_path / "nearest", ("task", "id", "distance")):
        chosen.setdefault(row["task"], []).append(row["distance"])
        error = max(error, abs(all_pairs[place[row["task"]], column[row["id"]]] - row["distance"]))
    missed = max(np.abs(np.sort(all_pairs[place[task]])[:3] - found).max() for task, found in chosen.items())
    assert len(chosen) == len(problems)
    assert max(error, missed) < 1e-3
    return {"pairs": all_pairs.size, "largest_error": float(error), "three_nearest_differ_by": float(missed)}


# --- Match rates by brute force, and in time --------------------------------------------------------------------------


def edit_distance(one, other):
    row = list(range(len(other) + 1))
    for i, a in enumerate(one):
        above, row = row, [i + 1]
        for j, b in enumerate(other):
            row.append(min(above[j] + (a != b), above[j + 1] + 1, row[j] + 1))
    return row[-1]


def test_match_rates_are_those_of_brute_force(shared_data):
    file = str(shared_data / "eval" / "HumanEval.jsonl.gz")
    problems = random.Random(1).sample(load_problems(file)[1], 40)
    references = {p.task_id: next(prune.solutions(file, p)) for p in problems}
    matcher = match_rate.Matcher(references.items())
    texts = random.Random(2).sample(exercises()[0], 200) + [text for _, _, text in copies(problems)]
    pairs = found = 0
    for text in texts:
        functions = list(syntax.functions(parse(text)))
        rates = matcher.rates(functions, 0.8)
        for task, reference in references.items():
            expected = 0.0
            for function in functions:
                one, other = match_rate._nodes(function), match_rate._nodes(reference)
                expected = max(expected, 1 - edit_distance(one, other) / max(len(one), len(other)))
            pairs += 1
            found += expected >= 0.8
            assert rates.get(task, 0) == pytest.approx(expected if expected >= 0.8 else 0, abs=1e-9), (task, text)
    note("brute_force", {"pairs": pairs, "at_0.8": found, "that_differ": 0})


def match_rates_only(parts, likeness, number):
    """As `prune._prune`, without words, and nothing is written of the exercises."""
    rows = documents.read_part(parts[number], ("id", "text"))
    return [
        {"id": row["id"], "task": task, "match_rate": rate, "words": "", "verdict": ""}
        for row in rows
        if (tree := parse(row["text"]))
        for task, rate in likeness.matcher.rates(syntax.functions(tree), 0.8).items()
    ]


def test_880_000_exercises_and_164_problems_in_two_minutes(shared_data, tmp_path):
    likeness = prune.Likeness(str(shared_data / "eval" / "HumanEval.jsonl.gz"))
    texts, _ = exercises()
    write(tmp_path / "exercises", (texts[n % len(texts)] for n in range(TIMED)))
    parts, used = documents.parts(tmp_path / "exercises"), resource.getrusage(resource.RUSAGE_CHILDREN)
    begin, make = time.monotonic(), functools.partial(match_rates_only, parts, likeness)
    documents.write_parts(tmp_path / "matches", len(parts), make, prune.MATCHES, label="match rates", apart=parts)
    wall, now = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    timed = {"seconds": round(wall, 1), "cpu_seconds": round(cpu, 1), "load": os.getloadavg()[0]}
    characters = sum(map(len, texts)) / len(texts)
    note("time", {"exercises": TIMED, "problems": 164, "characters": round(characters), **timed})
    # What two cores take that do nothing else: other work on this machine is not held against it.
    assert cpu / 2 < 120


def note(name, found):
    """Writes what was found into section5.json."""
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "versions": artifact.versions()}
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if EXERCISES == 50_000:
        RESULT.write_text(json.dumps({**before, "machine": machine, name: found}, indent=1) + "\n")
    else:
        print(json.dumps(found, indent=1))
