"""Near copies among the texts that a teacher wrote, by the machinery of stage `dedup`.

What a copy is, which one stays and why it does not depend on any order: phi_jax/store/near_copies.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from etils import epath

from phi_jax.store.near_copies import Rules, decide, find_pairs


def near_copies(
    source: epath.PathLike | Sequence[epath.PathLike],
    threshold: float = Rules.threshold,
    *,
    ngram: int = Rules.ngram,
    label: str = "near copies",
) -> dict[str, str]:
    """Id of each text that has to go -> id of the one that stays in its place, sorted.

    source: the directory of a document set, or several, which are then looked at as one. A text goes where its words
    are those of one that stays (white space is no word), or where the Jaccard similarity of their sets of word n-grams
    reaches `threshold`, in (0, 1]. Rows of one id are one text: which row of it stays is the caller's choice. label:
    what the progress is called. Raises UserError for a set that cannot be read.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold}: a Jaccard similarity lies in (0, 1]")
    directories = [source] if isinstance(source, (str, os.PathLike)) else source
    found = find_pairs(directories, Rules(threshold, ngram), label=label)
    return {gone: kept for gone, (kept, _) in sorted(decide(found).items())}
