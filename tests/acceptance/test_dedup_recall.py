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

import pytest
from near_pairs import all_pairs, edited, grams
from running import MICRO

from phi_jax import config
from phi_jax.config import Config
from phi_jax.corpus.collect import collect
from phi_jax.corpus.dedup import dedup
from phi_jax.store import artifact, documents

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

FILES, EDITED = 5000, 1000
RULES = Config({"dedup": {"threshold": 0.8, "ngram": 5, "num_perm": 128, "bands": 21, "against": ()}})


def real_files(tmp_path):
    """Rows of 5,000 files of the standard library and the installed packages, those of the lowest ids."""
    rules = {**config.load(MICRO).to_dict()["collect"], "max_files": 0}
    draft = artifact.open_draft(tmp_path / "w", "collect", "raw", {}, {})
    collect(Config({"collect": rules}), {}, draft)
    rows = sorted(documents.read(draft.commit().path("documents"), documents.SCHEMA.names), key=lambda r: r["id"])
    assert len(rows) >= FILES, f"only {len(rows)} files are installed here"
    return rows[:FILES]


def run(workdir, rows):
    """(seconds, artifact of dedup) of the stage on these rows in this order."""
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
    return time.monotonic() - begin, draft.commit()


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
    seconds, built = run(tmp_path / "one", rows)
    gibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    # --- All pairs: of those at or above the threshold no two may stay -----------------------------------------------
    ids = [row["id"] for row in rows]
    gone = clusters(built)
    tried, hits, real_tried = {}, {}, 0
    near_ones = {}
    for i, j, similarity in all_pairs([row["text"] for row in rows]):
        if similarity >= 0.8:
            near_ones.setdefault(i, []).append((j, similarity))
            near_ones.setdefault(j, []).append((i, similarity))
        band = f"{int(similarity * 20 + 1e-9) / 20:.2f}"
        tried[band] = tried.get(band, 0) + 1
        hits[band] = hits.get(band, 0) + (ids[i] in gone or ids[j] in gone)
        real_tried += similarity >= 0.8 and i < FILES and j < FILES
    near = [band for band in tried if float(band) >= 0.8]
    pairs, recalled = sum(tried[b] for b in near), sum(hits[b] for b in near)

    # --- The same choice by brute force: longest first, each against all that stay ------------------------------------
    def visit(i):
        return -len(" ".join(rows[i]["text"].split()).encode()), ids[i]

    brute, stays = {}, set()
    for i in sorted(range(len(rows)), key=visit):
        if others := [(-score, visit(j), j) for j, score in near_ones.get(i, ()) if j in stays]:
            brute[ids[i]] = ids[min(others)[2]]
        else:
            stays.add(i)
    both = brute.keys() & gone.keys()

    # --- What was dropped, by plain sets ---------------------------------------------------------------------------
    texts = dict(zip(ids, (row["text"] for row in rows), strict=True))
    stay = {row["id"] for row in documents.read(built.path("documents"), ("id",))}
    far = 0
    for identifier, drop in gone.items():
        a, b = grams(texts[identifier]), grams(texts[drop["kept"]])
        far += (
            drop["kept"] not in stay or len(a & b) / len(a | b) < 0.8 or drop["similarity"] != len(a & b) / len(a | b)
        )

    # --- The same set in another order ------------------------------------------------------------------------------
    _, again = run(tmp_path / "two", rng.sample(rows, len(rows)))
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
        "pairs_at_or_above_threshold": pairs,
        "of_those_between_real_files": int(real_tried),
        "pairs_of_which_one_was_dropped": recalled / pairs,
        "dropped_by_brute_force": len(brute),
        "recall": len(both) / len(brute),
        "precision": len(both) / len(gone),
        "for_the_same_one": sum(gone[i]["kept"] == brute[i] for i in both) / len(both),
        "recall_expected_at_the_threshold": round(1 - (1 - 0.8**6) ** 21, 4),
        "pairs_by_similarity": {b: {"pairs": tried[b], "one_dropped_or_both": hits[b]} for b in sorted(tried)},
        "dropped": len(gone),
        "dropped_not_near_the_one_kept": int(far),
        "same_clusters_shuffled": same,
    }
    Path(__file__).with_name("dedup.json").write_text(json.dumps(result, indent=2) + "\n")
    assert recalled / pairs >= 0.95
    assert min(len(both) / len(brute), len(both) / len(gone)) >= 0.95
    assert far == 0
    assert same
    assert stay | set(gone) == set(ids)
