"""Dedup at full size: 5,000 real files and 1,000 edited ones beside the Jaccard of all pairs. Writes dedup.json.

    pytest tests/acceptance/test_dedup_recall.py

The similarity of all 18 million pairs comes from a sparse matrix product over the files' n-grams as Python sees them;
the rows that were dropped are compared once more by plain sets.
"""

import datetime
import json
import os
import platform
import random
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from running import MICRO

from phi_jax import config
from phi_jax.config import Config
from phi_jax.corpus.collect import collect
from phi_jax.corpus.dedup import dedup
from phi_jax.store import artifact, documents
from phi_jax.store.near_copies import Rules, find_pairs
from phi_jax.store.ngrams import jaccard

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

FILES, EDITED = 5000, 1000
RULES = Config({"dedup": {"threshold": 0.8, "ngram": 5, "num_perm": 128, "bands": 21}})


def grams(text):
    words = text.split()
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def real_files(tmp_path):
    """Rows of 5,000 files of the standard library and the installed packages, those of the lowest ids."""
    rules = {**config.load(MICRO).to_dict()["collect"], "max_files": 0}
    draft = artifact.open_draft(tmp_path / "w", "collect", "raw", {}, {})
    collect(Config({"collect": rules}), {}, draft)
    rows = sorted(documents.read(draft.commit().path("documents"), documents.SCHEMA.names), key=lambda r: r["id"])
    assert len(rows) >= FILES, f"only {len(rows)} files are installed here"
    return rows[:FILES]


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


def near_pairs(found):
    """{ids: similarity} of all pairs of `found` that reach the threshold."""
    pairs = {(int(a), int(b)) for bucket in found.buckets for i, b in enumerate(bucket) for a in bucket[:i]}
    scores = {pair: float(jaccard(found.grams[pair[0]], [found.grams[pair[1]]])[0]) for pair in pairs}
    return {frozenset((found.ids[a], found.ids[b])): score for (a, b), score in scores.items() if score >= 0.8}


def run(workdir, rows):
    """(seconds, artifact of dedup, directory of its input) of the stage on these rows in this order."""
    (workdir / "in").mkdir(parents=True)
    for index, begin in enumerate(range(0, len(rows), 1000)):
        documents.write_part(workdir / "in", index, rows[begin : begin + 1000])
    given = artifact.open_draft(workdir, "collect", "", {}, {})
    (workdir / "in").rename(Path(given.directory) / "documents")
    documents.add_output(given, "documents")
    given.add_facts(written_by="people")
    whole = given.commit()
    draft = artifact.open_draft(workdir, "dedup", "", {}, {"documents": whole})
    begin = time.monotonic()
    dedup(RULES, {"documents": whole}, draft)
    return time.monotonic() - begin, draft.commit(), whole.path("documents")


def clusters(built):
    columns = ("id", "kept", "kind", "similarity", "source", "path")
    return {r["id"]: r for r in documents.read(built.path("duplicates"), columns)}


def test_recall_clusters_and_order(tmp_path):
    real = real_files(tmp_path)
    rng = random.Random(0)
    made = [
        {**row, "text": text, "id": documents.document_id(text), "path": f"edited/{row['path']}"}
        for row, text in ((row, edited(row["text"], rng)) for row in rng.sample(real, EDITED))
    ]
    rows = list({row["id"]: row for row in [*real, *made]}.values())
    seconds, built, directory = run(tmp_path / "one", rows)
    gibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    # --- Recall over all pairs at or above the threshold ----------------------------------------------------------
    found = find_pairs([directory], Rules(**RULES.dedup.to_dict()))
    verified = near_pairs(found)
    ids = [row["id"] for row in rows]
    words = [found.copies.get(identifier, identifier) for identifier in ids]
    tried, hits, wrong, real_tried = {}, {}, 0, 0
    for i, j, similarity in all_pairs([row["text"] for row in rows]):
        band = f"{int(similarity * 20 + 1e-9) / 20:.2f}"
        hit = words[i] == words[j] or frozenset((words[i], words[j])) in verified
        if words[i] != words[j] and hit:
            wrong += verified[frozenset((words[i], words[j]))] != similarity
        tried[band] = tried.get(band, 0) + 1
        hits[band] = hits.get(band, 0) + hit
        real_tried += similarity >= 0.8 and i < FILES and j < FILES
    near = [band for band in tried if float(band) >= 0.8]
    pairs, recalled = sum(tried[b] for b in near), sum(hits[b] for b in near)

    # --- What was dropped, by plain sets ---------------------------------------------------------------------------
    texts, gone = dict(zip(ids, (row["text"] for row in rows), strict=True)), clusters(built)
    stay = {row["id"] for row in documents.read(built.path("documents"), ("id",))}
    far = 0
    for identifier, drop in gone.items():
        a, b = grams(texts[identifier]), grams(texts[drop["kept"]])
        far += (
            drop["kept"] not in stay or len(a & b) / len(a | b) < 0.8 or drop["similarity"] != len(a & b) / len(a | b)
        )

    # --- The same set in another order ------------------------------------------------------------------------------
    _, again, _ = run(tmp_path / "two", rng.sample(rows, len(rows)))
    same = clusters(again) == gone and all(
        again.manifest["outputs"][name]["sha256"] == built.manifest["outputs"][name]["sha256"]
        for name in ("documents", "duplicates")
    )
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": {"cores": os.cpu_count(), "system": platform.platform()},
        "versions": artifact.versions(),
        "git_revision": artifact.git_revision(),
        "rules": RULES.dedup.to_dict(),
        "files": {"real": FILES, "edited": len(rows) - FILES, "bytes": sum(len(t.encode()) for t in texts.values())},
        "seconds": round(seconds, 1),
        "peak_gibibytes": round(gibibytes, 2),
        "facts": built.facts,
        "texts_with_the_words_of_another": len(found.copies),
        "pairs_at_or_above_threshold": pairs,
        "of_those_between_real_files": int(real_tried),
        "recall": recalled / pairs,
        "recall_expected_at_the_threshold": round(1 - (1 - 0.8**6) ** 21, 4),
        "pairs_by_similarity": {b: {"pairs": tried[b], "found": hits[b]} for b in sorted(tried)},
        "verified_pairs_with_another_similarity": int(wrong),
        "dropped": len(gone),
        "dropped_not_near_the_one_kept": int(far),
        "same_clusters_shuffled": same,
    }
    Path(__file__).with_name("dedup.json").write_text(json.dumps(result, indent=2) + "\n")
    assert recalled / pairs >= 0.95
    assert wrong == far == 0
    assert same
    assert stay | set(gone) == set(ids)
