"""What functions do on the fixed inputs of the held-out problems, found by running them in the sandbox.

Two functions have one behaviour when every result is equal as a test's `==` sees it. What runs is untrusted: it can
hide a likeness of its own or claim one, and, but for functions that reach outside their own variables, which run
alone, nothing else.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import json
import marshal
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from phi_jax.contamination.syntax import BUILTINS, Function, Names, canonical, is_generator, positional
from phi_jax.sandbox import Limits, Program, Sandbox

LIMITS = Limits(wall_seconds=5.0, cpu_seconds=4.0, memory_bytes=512 << 20)
FUNCTION_SECONDS = 0.2  # CPU time of one function on all its inputs; the limits above are for what gets round it
BATCH = 40  # functions in one program
SAFE_MODULES = ("math", "re", "string", "itertools", "functools", "collections", "operator")
_REFUSED = frozenset(("open", "exec", "eval", "compile", "__import__", "input", "breakpoint", "help"))
# What a function can change modules, frames and builtins with that the functions beside it use.
_REACHING_NAMES = frozenset(("setattr", "delattr", "getattr", "globals", "locals", "vars", "__builtins__"))
_REACHING_ATTRIBUTES = ("_", "f_", "tb_", "gi_", "cr_", "ag_")

# Why a function was not run. The last three come from running it.
OTHER_ARGUMENTS = "takes other arguments"
ASYNC = "async"
GENERATOR = "generator"
METHOD = "uses self"
OTHER_NAMES = "needs names from elsewhere"
REFUSED = "opens, evaluates or imports"
DEEP = "nested too deep"
UNDEFINABLE = "raises when defined"
LATE = "timed out"
DIED = "ended its process"

Outcome = tuple[int, ...] | str
"""The held-out answers (numbers) that a function gives, or why it was not run."""


@dataclasses.dataclass(frozen=True)
class Runnable:
    """A function as the sandbox runs it."""

    key: str  # equal for functions that differ in names only
    source: str
    name: str
    arities: tuple[int, ...]
    alone: bool  # reaches outside its own variables, so nothing runs beside it


@dataclasses.dataclass(frozen=True)
class Answers:
    """What the held-out problems answer on their fixed inputs."""

    inputs: tuple[tuple[bytes, ...], ...]  # of each signature: argument lists in marshal's form
    arity: tuple[int, ...]  # of each signature
    digests: tuple[tuple[int, str], ...]  # (signature, digest of the outputs), each once
    tasks: tuple[tuple[str, ...], ...]  # the problems that a digest belongs to


def digest(outputs: Sequence[str]) -> str:
    """Names a behaviour: a hash of the results as `shown` writes them."""
    return hashlib.sha256("\n".join(outputs).encode(errors="surrogatepass")).hexdigest()[:16]


def expected(output: str) -> str:
    """A result that was written down with repr, as `shown` writes it."""
    try:
        return shown(ast.literal_eval(output))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return output


def imports_of(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Names that the top of a text imports from SAFE_MODULES: name -> (what it is, statement)."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in SAFE_MODULES:
                    name = alias.asname or alias.name.partition(".")[0]
                    bound = alias.name if alias.asname else name
                    found[name] = (bound, f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else ""))
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            for alias in node.names:
                if node.module.partition(".")[0] in SAFE_MODULES and alias.name != "*":
                    name = alias.asname or alias.name
                    found[name] = (f"{node.module}.{alias.name}", f"from {node.module} import {alias.name} as {name}")
    return found


def arities_of(function: Function, wanted: Sequence[int]) -> tuple[int, ...]:
    """Those of `wanted` that a call may have as its number of positional arguments, the object left out."""
    args = function.node.args
    if any(default is None for default in args.kw_defaults):
        return ()
    most = len(positional(function.node)) - function.method
    least = most - len(args.defaults)
    if least < 0:
        return ()
    return tuple(n for n in wanted if least <= n and (n <= most or args.vararg is not None))


def runnable(
    function: Function,
    names: Names,
    form: tuple[str, dict[str, str]] | None,
    imports: Mapping[str, tuple[str, str]],
    arities: tuple[int, ...],
    lines: Sequence[str],
) -> Runnable | str:
    """The function ready to run, or why it is not run. A method's unused object must have been taken off before.

    form: its `canonical` form, where it is known. lines: the text it stands in. Raises RecursionError for a very deep
    one.
    """
    node = function.node
    if isinstance(node, ast.AsyncFunctionDef):
        return ASYNC
    free = names.read - names.bound - BUILTINS
    if names.read & _REFUSED or any(m.partition(".")[0] not in SAFE_MODULES for m in names.modules):
        return REFUSED
    if free - imports.keys():
        return OTHER_NAMES
    if names.yields and is_generator(node):
        return GENERATOR
    text, renamed = form or canonical(node, names)
    origins = sorted(f"{renamed.get(name, name)}={imports[name][0]}" for name in free)
    if function.method:
        bare = ast.FunctionDef(name=node.name, args=node.args, body=node.body, decorator_list=[], lineno=1)
        code = ast.unparse(bare)
    else:
        # As it stands, from `def` on: a block of its own takes any indent. Writing it anew would take long.
        code = "\n".join(["if True:"] * (node.col_offset > 0) + list(lines[node.lineno - 1 : node.end_lineno]))
    source = "\n".join(["from __future__ import annotations", *(imports[name][1] for name in sorted(free)), code])
    parts = names.attributes.union(*(imports[name][0].split(".")[1:] for name in free))
    alone = names.assigns_attributes or bool(names.read & _REACHING_NAMES) or any(map(_reaches, parts))
    return Runnable(" ".join([text, *origins]), source, node.name, arities, alone)


def _reaches(attribute: str) -> bool:
    # collections.abc.sys is sys; a list's .copy is just a method.
    return attribute.startswith(_REACHING_ATTRIBUTES) or attribute in sys.stdlib_module_names - {"copy"}


class Observer:
    """Runs functions in the sandbox. Use as a context manager.

    confinement, workers: as in Sandbox. Raises UserError where the machine does not offer the confinement.
    """

    def __init__(self, answers: Answers, *, confinement: str, workers: int) -> None:
        self._answers = answers
        self._sandbox = Sandbox(limits=LIMITS, workers=workers, confinement=confinement)

    def __enter__(self) -> Observer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sandbox.close()

    def observe(self, functions: Sequence[Runnable]) -> dict[str, Outcome]:
        """Key -> outcome. A batch that does not come to its end is halved until the function at fault stands alone."""
        together = [f for f in functions if not f.alone]
        batches = [together[i : i + BATCH] for i in range(0, len(together), BATCH)]
        batches += [[f] for f in functions if f.alone]
        outcomes: dict[str, Outcome] = {}
        while batches:
            verdicts = self._sandbox.run(self._program(batch) for batch in batches)
            halves: list[list[Runnable]] = []
            for batch, verdict in zip(batches, verdicts, strict=True):
                found: Sequence[Outcome] | None = [()] * len(batch) if verdict.passed else None
                if not verdict.passed:
                    found = _reported(verdict.result, len(batch), len(self._answers.digests))
                if found is None and len(batch) == 1:
                    found = [LATE if verdict.result == "timed out" else DIED]
                if found is None:
                    middle = len(batch) // 2
                    halves += [batch[:middle], batch[middle:]]
                else:
                    outcomes.update(zip((f.key for f in batch), found, strict=True))
            batches = halves
        return outcomes

    def _program(self, batch: Sequence[Runnable]) -> Program:
        answers = self._answers
        wanted = {n for f in batch for n in f.arities}
        inputs = {s: cases for s, cases in enumerate(answers.inputs) if answers.arity[s] in wanted}
        functions = [(f.source, f.name, [s for s in inputs if answers.arity[s] in f.arities]) for f in batch]
        expected_by = {key: number for number, key in enumerate(answers.digests) if key[0] in inputs}
        candidate = (
            f"{_SOURCE}\nFUNCTIONS = {functions!r}\nINPUTS = {inputs!r}\n"
            f"def observe(): return _observe(FUNCTIONS, INPUTS, {FUNCTION_SECONDS!r}, shown)\n"
        )
        return Program(candidate, _TESTS.format(expected=expected_by), "observe")


# --- What runs in the sandbox -----------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A result as text, equal for what is equal: True and 1, 2.0 and 2, dictionaries and sets in any order."""
    if isinstance(value, (list, tuple)):
        kind, items = ("list" if isinstance(value, list) else "tuple"), [shown(item) for item in value]
    elif isinstance(value, dict):
        kind, items = "dict", sorted([f"{shown(key)}: {shown(item)}" for key, item in value.items()])
    elif isinstance(value, (set, frozenset)):
        kind, items = "set", sorted([shown(item) for item in value])
    elif isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return repr(int(value))
    else:
        return repr(value)
    return f"{kind}({', '.join(items)})"


def _observe(
    functions: Sequence[tuple[str, str, Sequence[int]]],
    inputs: Mapping[int, Sequence[bytes]],
    seconds: float,
    shown: Callable[[Any], str],
) -> list[tuple[int, int, str]]:
    """(function, signature, digest of the outputs), with "late" or "undefinable" for a digest where there is none."""
    import hashlib
    import marshal
    import signal

    class Late(BaseException):
        pass

    expired = []

    def ring(*_: Any) -> None:
        expired.append(True)
        raise Late

    def outputs(function: Callable[..., Any], cases: Sequence[bytes]) -> list[str]:
        lines = []
        for case in cases:
            try:
                lines.append(shown(function(*loads(case))))
            except Late:
                raise
            except BaseException as error:
                lines.append(type(error).__name__)
        return lines

    # Taken now: what runs below may change any module.
    loads, sha256, timer, clock = marshal.loads, hashlib.sha256, signal.setitimer, signal.ITIMER_PROF
    signal.signal(signal.SIGPROF, ring)
    found = []
    for number, (source, name, signatures) in enumerate(functions):
        expired.clear()
        digests = []
        problem = ""
        try:
            # It rings again and again: a function may catch the first.
            timer(clock, seconds, 0.05)
            try:
                namespace: dict[str, Any] = {"__name__": "text"}
                exec(compile(source, "<text>", "exec", 0, True), namespace)
                for signature in signatures:
                    lines = outputs(namespace[name], inputs[signature])
                    text = "\n".join(lines).encode("utf-8", "surrogatepass")
                    digests.append((number, signature, sha256(text).hexdigest()[:16]))
            finally:
                timer(clock, 0.0)
        except Late:
            problem = "late"
        except BaseException:
            problem = "undefinable"
        if expired:
            problem = "late"
        found += [(number, 0, problem)] if problem else digests
    return found


_SOURCE = "from __future__ import annotations\n" + inspect.getsource(shown) + inspect.getsource(_observe)
_TESTS = """
expected = {expected!r}
found = []
for number, signature, digest in observe():
    if digest in ("late", "undefinable"):
        found.append("%d%s" % (number, digest[0]))
    elif (signature, digest) in expected:
        found.append("%d:%d" % (number, expected[signature, digest]))
assert not found, "%d reported %s" % (len(found), " ".join(found))
"""
_REPORT = re.compile(r"failed: (\d+) reported ((?:\d+(?:[lu]|:\d+) ?)+)")


def _reported(result: str, functions: int, answers: int) -> list[Outcome] | None:
    """The outcomes that a failed run tells of; None where it failed for another reason or could not tell them all."""
    match = _REPORT.fullmatch(result)
    if match is None:
        return None
    items = match[2].split()
    hits: list[list[int]] = [[] for _ in range(functions)]
    problems: dict[int, str] = {}
    for item in items:
        if item[-1] in "lu":
            number, problems[int(item[:-1])] = int(item[:-1]), LATE if item[-1] == "l" else UNDEFINABLE
        else:
            number, answer = map(int, item.split(":"))
            if number >= functions or answer >= answers:
                return None
            hits[number].append(answer)
        if number >= functions:
            return None
    if len(items) != int(match[1]):
        return None
    return [problems.get(number, tuple(hit)) for number, hit in enumerate(hits)]


def marshalled(arguments: Sequence[Any]) -> bytes:
    """Arguments as bytes, of which every call gets a copy of its own."""
    return marshal.dumps(list(arguments), 2)


def encoded(outcomes: Mapping[str, Outcome]) -> str:
    """Outcomes as JSON."""
    return json.dumps(
        {key: outcome if isinstance(outcome, str) else list(outcome) for key, outcome in outcomes.items()}
    )


def decoded(text: str) -> dict[str, Outcome]:
    """What `encoded` wrote."""
    return {key: value if isinstance(value, str) else tuple(value) for key, value in json.loads(text).items()}


def members(answers: Answers, outcome: Outcome) -> Iterator[str]:
    """The problems whose answers a function gives."""
    for number in outcome if not isinstance(outcome, str) else ():
        yield from answers.tasks[number]
