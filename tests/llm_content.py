"""What the test server (llm_server.py) answers: exercises and sections from the grammar, grades from the rubric.

Grades of solutions (llm_judge.py) it knows by heart.

Everything is a pure function of the prompt and the request's seed. A few answers are bad on purpose, each kind with
the share that SHARES names.
"""

import functools
import hashlib
import json
import random
import re

import llm_judge

from phi_jax.corpus import rubric
from phi_jax.synthesis import grammar
from phi_jax.synthesis.grammar import catalogue, families, grammar_texts

# Of the exercises, sections and grades asked for; the rest is good.
SHARES = {
    "wrong": 0.04,  # an exercise whose test expects another result
    "vacuous": 0.04,  # an exercise whose tests hold for any function
    "copy": 0.04,  # the same text as many others, but for the name
    "output": 0.05,  # a section that says another output than its code prints
    "no_code": 0.02,  # a section of prose alone
    "opening": 0.25,  # a section that begins with a phrase of an assistant
    "grade": 0.2,  # a grade one more or less than the rubric's
}
HARD_FAILS = 0.75  # of the replies on a hard topic
_OPENINGS = (
    "Sure! Here is a section of a textbook on this topic:",
    "Certainly! Below is a textbook section with examples.",
    "In this section, we will learn something new.",
    "Of course! Let's dive in.",
)
_CLOSINGS = ("I hope this helps!", "Let me know if you have any questions.", "Happy coding!")
_PIECE = re.compile(r"[^\W\d_]{1,6}|\d{1,3}|\s+|.", re.DOTALL)


def pieces(text):
    """The server's tokens: each is at least one character, so at least one byte."""
    return _PIECE.findall(text)


def answer(messages, schema, seed, hard=0.0, model=""):
    """The text of the reply to (role, content) pairs; JSON that fits `schema` where that is given.

    hard: share of the curriculum's topics that it mostly fails at. model: who is asked, where that matters.
    """
    prompt = "\n".join(content for _, content in messages)
    rng = random.Random(f"{hashlib.sha256(prompt.encode()).hexdigest()} {seed}")
    failing = _fails_at(prompt, hard) and rng.random() < HARD_FAILS
    named = re.search(r"a function named `(\w+)`", prompt)
    if "BEGIN SOLUTION" in prompt:
        judged = llm_judge.judged(prompt, model, seed)
        return json.dumps({name: judged[name] for name in schema["properties"]} if schema else judged)
    if "Complete this code:" in prompt:
        return llm_judge.completed(prompt, model)
    if "educational value" in prompt:
        grade = _grade(messages, rng)
        return json.dumps(fill(schema, rng, grade)) if schema else f"{grade['reason']} Grade: {grade['grade']}"
    if named:
        exercise = _exercise(named[1], rng, failing)
        if schema:
            return json.dumps(fill(schema, rng, exercise))
        return f"```python\n{exercise['code']}```\n\n```python\n" + "\n".join(exercise["tests"]) + "\n```"
    if "Write a section of a textbook" in prompt:
        text = _section(rng, failing)
    else:
        text = f"The answer to {prompt[:60]!r} is {rng.getrandbits(64)}: " + " ".join(rng.choices(_words(), k=20))
    return json.dumps(fill(schema, rng, {"text": text, "answer": text})) if schema else text


@functools.cache
def _behaviours():
    return list(families.all_behaviours())


def _known(rng):
    """A behaviour whose results differ. Cheaper to have than catalogue.behaviours, which compares them all."""
    while True:
        behaviour = rng.choice(_behaviours())
        outputs = [repr(behaviour.function(*case)) for case in catalogue.fixed_inputs(behaviour.signature)]
        if len(set(outputs)) > 2:
            digest = hashlib.sha256(repr((behaviour.slug, outputs)).encode()).hexdigest()[:16]
            return catalogue.Known(behaviour, tuple(outputs), digest)


@functools.cache
def _words():
    return re.findall(r"[a-z]{3,}", (grammar.__doc__ or "") + (rubric.__doc__ or ""))


def _kind(rng, *kinds):
    """One of `kinds` by its share, else "good"."""
    place = rng.random()
    for kind in kinds:
        place -= SHARES[kind]
        if place < 0:
            return kind
    return "good"


def _fails_at(prompt, hard):
    """Whether the lesson's topic is one of the hard ones, a share `hard` by hash."""
    topic = re.search(r"(?:that practises|a textbook on): (.+)\.$", prompt, re.MULTILINE)
    if topic is None:
        return False
    digest = hashlib.sha256(topic[1].partition(" (")[0].encode()).digest()
    return int.from_bytes(digest[:4]) < hard * 2**32


def _exercise(name, rng, failing):
    """{"code", "tests"} of a function with this name."""
    kind = "wrong" if failing else _kind(rng, "wrong", "vacuous", "copy")
    rng = random.Random(0) if kind == "copy" else rng
    known = _known(rng)
    text = grammar_texts.exercise(known, rng.randrange(1000))
    code = re.sub(rf"\b{re.escape(text.entry_point)}\b", name, text.code)
    cases = list(zip(catalogue.fixed_inputs(known.behaviour.signature), known.outputs, strict=True))
    # Different results first: a test that a constant passes shows little.
    telling = list({output: (arguments, output) for arguments, output in cases}.values())[-6:]
    calls = [(f"{name}({', '.join(map(grammar_texts.quoted, arguments))})", output) for arguments, output in telling]
    tests = [f"assert {call} == {output}" for call, output in calls]
    if kind == "wrong":
        tests[0] = f"assert {calls[0][0]} == {calls[1][1]}"
    elif kind == "vacuous":
        tests = [f"assert callable({name})", f"assert {calls[0][0]} == {calls[0][0]}"]
    return {"code": code, "tests": tests}


def _section(rng, failing):
    """Markdown: prose, a function, calls of it and what they print."""
    kind = "output" if failing else _kind(rng, "output", "no_code", "copy")
    rng = random.Random(0) if kind == "copy" else rng
    known = _known(rng)
    text = grammar_texts.textbook_section(known, rng.randrange(1000))
    _, prose, program = text.code.split('"""', 2)
    function, _, calls = program.strip("\n").partition("\nprint(")
    calls = re.sub(r"  # .*", "", f"print({calls}")
    printed = text.printed if kind != "output" else f"{rng.randrange(1000)}\n{text.printed}"
    title, _, body = prose.strip().partition("\n\n")
    parts = [f"## {title.rstrip('.')}", body.strip()]
    if kind == "no_code":
        parts.append("Think about how you would write it before you read on.")
    else:
        parts.append(f"```python\n{function.rstrip()}\n```")
        parts.append(f"Calling it shows what it does.\n\n```python\n{calls}\n```\n\n```output\n{printed.rstrip()}\n```")
    if rng.random() < SHARES["opening"]:
        parts.insert(0, rng.choice(_OPENINGS))
        parts.append(rng.choice(_CLOSINGS))
    return "\n\n".join(parts) + "\n"


def _grade(messages, rng):
    """{"grade", "reason"} of the file in the last message, or of all of it."""
    said = next(content for role, content in reversed(messages) if role == "user")
    marked = re.search(r"^BEGIN FILE (\w+)\n(.*)^END FILE \1$", said, re.DOTALL | re.MULTILINE)
    found = rubric.grade(marked[2] if marked else said)
    grade = round(10 * found.value)
    if rng.random() < SHARES["grade"]:
        grade = min(10, max(0, grade + rng.choice((-1, 1))))
    best = max(found.parts, key=lambda part: found.parts[part])
    return {"grade": grade, "reason": found.reason or f"What speaks for it most: {best.replace('_', ' ')}."}


# --- JSON schemas ---------------------------------------------------------------------------------------------


def fill(schema, rng, known):
    """A value that fits `schema` (what pydantic writes of plain models); properties of these names from `known`."""
    return _value(schema, schema.get("$defs", {}), rng, known)


def _value(schema, defs, rng, known):
    if "$ref" in schema:
        return _value(defs[schema["$ref"].rsplit("/", 1)[1]], defs, rng, known)
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "const" in schema:
        return schema["const"]
    if "anyOf" in schema:
        return _value(schema["anyOf"][0], defs, rng, known)
    kind = schema.get("type")
    if kind == "object":
        properties = schema.get("properties", {})
        return {
            name: known[name] if _fits(known.get(name), part) else _value(part, defs, rng, {})
            for name, part in properties.items()
        }
    if kind == "array":
        count = max(schema.get("minItems", 0), 2)
        return [_value(schema.get("items", {"type": "string"}), defs, rng, known) for _ in range(count)]
    if kind == "integer":
        low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        return rng.randint(low, schema.get("maximum", low + 10))
    if kind == "number":
        low = schema.get("minimum", 0)
        return round(rng.uniform(low, schema.get("maximum", low + 1)), 3)
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "null":
        return None
    return " ".join(rng.choices(_words(), k=4))


def _fits(value, schema):
    kinds = {"string": str, "integer": int, "number": (int, float), "array": list, "object": dict}
    return value is not None and isinstance(value, kinds.get(schema.get("type"), ()))


def schema_in(prompt):
    """The last JSON schema of an object that stands in a prompt, or None."""
    decoder, found, place = json.JSONDecoder(), None, prompt.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(prompt, place)
        except ValueError:
            place = prompt.find("{", place + 1)
            continue
        if isinstance(value, dict) and isinstance(value.get("properties"), dict):
            found = value
        place = prompt.find("{", end)
    return found
