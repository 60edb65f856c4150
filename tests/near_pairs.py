"""Near copies by brute force: the Jaccard similarity of all pairs of texts, and texts edited to be near others."""

import numpy as np
import scipy.sparse


def grams(text):
    words = text.split()
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def edited(text, rng):
    """The text with words renamed, a block of lines cut out, or lines put in, so that Jaccard lies in 0.6 to 1."""
    lines = text.split("\n")
    share = rng.uniform(0, 0.4)
    kind = rng.choice(["rename", "cut", "insert"])
    if kind == "rename":  # a word is in five n-grams
        rate = 1 - (1 - share / (2 - share)) ** 0.2
        return "\n".join(
            " ".join(f"{w}_{rng.randrange(99)}" if w and rng.random() < rate else w for w in line.split(" "))
            for line in lines
        )
    size = int(share * len(lines))
    begin = rng.randrange(len(lines) - size)
    if kind == "cut":
        return "\n".join(lines[:begin] + lines[begin + size :])
    return "\n".join([*lines[:begin], *(f"v{rng.random()} = f(x, {i})" for i in range(size)), *lines[begin:]])


def all_pairs(texts, low=0.6):
    """(first, second, Jaccard) of every pair that reaches `low`, by brute force."""
    sets = [np.unique(np.array([hash(g) for g in grams(t)], dtype=np.int64)) for t in texts]
    sizes = np.array([len(s) for s in sets])
    _, columns = np.unique(np.concatenate(sets), return_inverse=True)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    table = scipy.sparse.csr_matrix((np.ones(len(columns), dtype=np.int32), columns, starts))
    other = table.T.tocsr()
    for begin in range(0, len(texts), 250):
        common = (table[begin : begin + 250] @ other).toarray()
        jaccard = common / (sizes[begin : begin + 250, None] + sizes[None, :] - common)
        for i, j in zip(*np.nonzero(jaccard >= low), strict=True):
            if begin + i < j:
                yield int(begin + i), int(j), float(jaccard[i, j])
