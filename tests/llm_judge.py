"""The graders that the test server plays, by the name of the model that is asked.

They know by heart what the gold set and the built-in problems hold: none of them reads code, so nothing that they say
shows how well a language model grades.
"""

import functools
import hashlib
import json
import random
import re
from pathlib import Path

from phi_jax.evaluation.judge import gold_items
from phi_jax.evaluation.problems import load_problems

GRADES = {"reference": 10, "rewrite": 10, "off_by_one": 5, "empty": 0, "plausible": 3}
WRONG, UNKNOWN = 3, 5  # of the wrong solutions of the built-in problems, and of a solution that is in no table
WILD = ("TODO", "NotImplementedError", "UNGRADABLE")  # in solutions that the model "wild" has no valid grade for
_WRONG_FILE = Path(__file__).with_name("idioms_wrong.jsonl")
_SOLUTION = re.compile(r"^BEGIN SOLUTION (\w+)\n(.*)\nEND SOLUTION \1$", re.DOTALL | re.MULTILINE)


def judged(prompt, model, seed):
    """The fields of a grade, whether it fits the schema or not."""
    solution = _SOLUTION.search(prompt)[2]
    rng = random.Random(f"{hashlib.sha256(solution.encode()).hexdigest()} {seed}")
    grade = known().get(solution.rstrip(), UNKNOWN)
    if model == "lenient":
        grade = 10
    elif model == "noisy":
        grade = min(10, max(0, grade + rng.choice((-1, 0, 1))))
    if model == "broken" or (model == "wild" and any(word in solution for word in WILD)):
        grade = rng.choice((11, -1, 7.5, "ten", None))
    return {"evaluation": f"A solution of {len(solution)} characters.", "grade": grade}


def completed(prompt, model):
    """A chat's answer to evaluation's prompt for a problem of `idioms`; the model "wrong" has none that is right."""
    code = re.search("```python\n(.*?)\n?```", prompt, re.DOTALL)[1]
    (problem,) = (p for p in load_problems("idioms")[1] if p.prompt.rstrip("\n") == code.rstrip("\n"))
    body = "    return None\n" if model == "wrong" else problem.reference
    return f"Here it is:\n\n```python\n{problem.prompt}{body}```\n\nIt does what was asked."


@functools.cache
def known():
    """Program -> its grade."""
    table = {(problem.prompt + completion).rstrip(): GRADES[kind] for problem, kind, completion in gold_items()}
    problems = {p.task_id: p for p in load_problems("idioms")[1]}
    for line in _WRONG_FILE.read_text().splitlines():
        row = json.loads(line)
        table[(problems[row["task_id"]].prompt + row["completion"]).rstrip()] = WRONG
    return table | {(p.prompt + p.reference).rstrip(): 10 for p in problems.values()}
