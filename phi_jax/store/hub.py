"""Data sets on the Hugging Face Hub: hf://datasets/OWNER/NAME[@REVISION]/GLOB, as files on this machine.

They are read through the Hub's client, into its own cache: HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE mean what
they mean elsewhere. A connection that breaks off goes on where it was; of a process that is killed, the files that were
whole stay (client 2.4.0). A `*` of the glob matches `/` too. A revision may be a commit, a branch or a tag, whose `/`
is written %2F; without one it is the newest.
"""

import contextlib
import fnmatch
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from phi_jax.errors import UserError, one_line

_FORM = re.compile(r"(hf://datasets/([\w.-]+/[\w.-]+))(?:@([^/]+))?/(.+)")
_pins: dict[str, str] = {}  # source -> the same at its commit, for which a process asks once


def is_hub(source: str) -> bool:
    """Whether a source lies on the Hub."""
    return source.startswith("hf://")


def pin(source: str, known: str = "") -> str:
    """The source with a commit for its revision: `known`, which a run has asked for before, else that of now.

    Raises UserError for what is no data set, and where the Hub does not have it or cannot be reached.
    """
    if known:
        _pins[source] = known
    if source not in _pins:
        place, name, revision, glob = _parts(source)
        if not re.fullmatch("[0-9a-f]{40}", revision):
            from huggingface_hub import HfApi

            with _asking_for_data(source):
                revision = str(HfApi().dataset_info(name, revision=unquote(revision) or None).sha)
        _pins[source] = f"{place}@{revision}/{glob}"
    return _pins[source]


def fetch(source: str, endings: Sequence[str]) -> list[tuple[str, str, Path]]:
    """(hf://datasets/OWNER/NAME@COMMIT, path in the data set, file here) of all that match and have one of the endings.

    Raises UserError as `pin`, and where there is no such file.
    """
    from huggingface_hub import snapshot_download

    place, name, commit, glob = _parts(pin(source))
    with _asking_for_data(source):
        top = Path(snapshot_download(name, repo_type="dataset", revision=commit, allow_patterns=glob))
        paths = sorted(file.relative_to(top).as_posix() for file in top.rglob("*") if file.is_file())
    found = [path for path in fnmatch.filter(paths, glob) if path.lower().endswith(tuple(endings))]
    if not found:
        raise UserError(f"{source}: the data set has no such file in {', '.join(endings)}; mend what follows its name")
    return [(f"{place}@{commit}", path, top / path) for path in found]


def _parts(source: str) -> Sequence[str]:
    """(hf://datasets/OWNER/NAME, OWNER/NAME, revision or "", glob)."""
    form = _FORM.fullmatch(source)
    if form is None:
        raise UserError(f"{source}: no files of the Hub; write hf://datasets/OWNER/NAME[@REVISION]/GLOB")
    return form.groups("")


def _asking_for_data(source: str) -> contextlib.AbstractContextManager[None]:
    return asking(
        f"{source}: not",
        "so commit, licence and terms could not be looked up: check name, revision and network; one that is gated "
        "wants its terms accepted on its page, and HF_TOKEN",
    )


@contextlib.contextmanager
def asking(what: str, remedy: str) -> Iterator[None]:
    """Raises UserError for whatever the Hub's client raises inside: "{what} to be had from ...; {remedy}"."""
    try:
        yield
    except Exception as error:  # the client's own, its HTTP library's, the operating system's
        raise UserError(f"{what} to be had from the Hugging Face Hub ({one_line(error)}); {remedy}") from None
