"""Runs what the grammar wrote: every solution, every example, every line that a text says is printed."""

from __future__ import annotations

from collections.abc import Sequence

from phi_jax.progress import Progress
from phi_jax.sandbox import Limits, Sandbox
from phi_jax.synthesis.grammar.catalogue import fixed_inputs
from phi_jax.synthesis.grammar.grammar_texts import Text
from phi_jax.synthesis.llm.run_checks import as_fault, program, said
from phi_jax.synthesis.llm.sandbox_checks import Block
from phi_jax.synthesis.outputs import Fault, chunks

_BATCH = 40  # texts in one program: they are ours, and a start of a process costs more than running a text
_LIMITS = Limits(wall_seconds=10.0, cpu_seconds=5.0)


def run_texts(texts: Sequence[Text], label: str, *, sandbox: str, workers: int) -> list[Fault | None]:
    """For each text None, or why it is set aside: what running it showed.

    A text is right when it runs, gives on the fixed inputs of its behaviour what the behaviour gives, gives what its
    examples state, and prints what it says it prints. sandbox: "full" or "none".
    """
    faults: list[Fault | None] = []
    batches = list(chunks(texts, _BATCH))
    with (
        Sandbox(limits=_LIMITS, workers=workers, confinement=sandbox) as box,
        Progress(label, len(texts), "texts") as bar,
    ):
        calls = (f"[textbook(blocks) for blocks in {list(map(_blocks, batch))!r}]" for batch in batches)
        for batch, verdict in zip(batches, box.run(map(program, calls)), strict=True):
            found = said(verdict)
            faults += [found] * len(batch) if isinstance(found, Fault) else map(as_fault, found)
            bar.advance(len(batch))
    return faults


def _blocks(text: Text) -> list[Block]:
    """The text as a section: the program with what it prints, and a block that prints the results of all calls."""
    inputs = fixed_inputs(text.known.behaviour.signature)
    calls = [*inputs, *(arguments for arguments, _ in text.examples)]
    results = [*text.known.outputs, *(result for _, result in text.examples)]
    check = f"for arguments in {calls!r}:\n    print(repr({text.entry_point}(*arguments)))"
    return [(text.code, [], text.printed), (check, [], "\n".join(results))]
