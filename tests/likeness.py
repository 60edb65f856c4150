"""What a problem of ours has in common with other texts: words in a row, a sentence, a solution, a syntax tree."""

import json

from phi_jax.contamination import syntax
from phi_jax.contamination.overlap import GRAM, Wording
from phi_jax.evaluation.problems import load_problems
from phi_jax.store.python_text import parse


def fingerprints(text):
    """Of every function of a Python text: its tree modulo names."""
    tree = parse(text)
    assert tree is not None, text
    return {syntax.fingerprint(f)[0] for f in syntax.functions(tree)}


class Likeness:
    """The problems' words and trees, indexed for looking them up."""

    def __init__(self, problems):
        self._wording = Wording(problems)
        self._trees = {}
        for problem in problems:
            for tree in fingerprints(program(problem)):
                self._trees.setdefault(tree, problem.task_id)

    def found(self, text):
        """[(task_id, what the text has in common with it)]"""
        overlap = self._wording.overlap(text)
        trees = sorted(fingerprints(text) & self._trees.keys())
        return [
            *((task, "a sentence or the solution") for task in sorted(overlap.said)),
            *((task, f"{GRAM} words") for task in sorted(overlap.prompts)),
            *((self._trees[tree], "a syntax tree") for tree in trees),
        ]


def program(problem):
    return problem.prompt + problem.reference


def published(shared_data):
    """(name, text) of each problem of HumanEval and of all 974 of MBPP, with solution and tests."""
    for problem in load_problems(str(shared_data / "eval" / "HumanEval.jsonl.gz"))[1]:
        yield problem.task_id, f"{program(problem)}\n{problem.tests}"
    for line in (shared_data / "eval" / "mbpp.jsonl").read_text().splitlines():
        row = json.loads(line)
        comment = "".join(f"# {line}\n" for line in row["text"].splitlines())
        yield f"MBPP/{row['task_id']}", "\n".join([comment, row["code"].replace("\r\n", "\n"), *row["test_list"]])
