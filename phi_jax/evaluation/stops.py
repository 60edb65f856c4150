"""Where a completion ends. The rule's name stands beside every score."""

import re

# A problem names its rule (problems.py). `dedent` is ours and has no strings; the others end a completion before the
# first of their strings.
STOP_STRINGS = {
    "dedent": (),
    # Chen et al. 2021, section 2
    "human-eval": ("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
    # bigcode-evaluation-harness, tasks/mbpp.py: a whole function is written, so a `def` ends nothing
    "mbpp": ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
}
FENCE = "fence"  # the rule for replies in a chat: the code of the first Markdown fence, else the whole reply
_FENCED = re.compile(r"^[ \t]*```[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_LINE = re.compile(r"[^\n]*\n|[^\n]+")  # as Python's source has lines; str.splitlines also splits at U+2028 and others


def cut(prompt: str, completion: str, rule: str = "dedent") -> str:
    """The completion up to its stop. What is kept stays the same, however much more is decoded.

    `dedent`: up to the first line that is indented less than the body. For a function this stops where human-eval's
    list does, and it also ends a method before the next one. What the prompt's last line goes on with is never cut.
    FENCE: see there. The other rules: up to the first of their strings.
    """
    if rule == FENCE:
        fenced = _FENCED.search(completion)
        return ("" if prompt.endswith("\n") else "\n") + (fenced[1] if fenced else completion)
    if STOP_STRINGS[rule]:
        # The newline that ends a prompt is the prompt's, also where it was stripped and the completion writes it: a
        # first line `class Pair:` is cut in neither form.
        start = int(completion.startswith("\n") and not prompt.endswith("\n"))
        places = [completion.find(string, start) for string in STOP_STRINGS[rule]]
        return completion[: min((place for place in places if place >= 0), default=len(completion))]
    indent = body_indent(prompt)
    kept: list[str] = []
    for number, line in enumerate(_LINE.findall(completion)):
        text = line.expandtabs()
        starts_here = number > 0 or prompt.endswith("\n")
        if starts_here and text.strip() and len(text) - len(text.lstrip()) < indent:
            break
        kept.append(line)
    return "".join(kept)


def body_indent(prompt: str) -> int:
    """Columns that the body to be written is indented by, told from the last line of the prompt."""
    line = (prompt.rstrip().splitlines() or [""])[-1].expandtabs()
    indent = len(line) - len(line.lstrip())
    return indent + 4 if line.endswith(":") else indent
