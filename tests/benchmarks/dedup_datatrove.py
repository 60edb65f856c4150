"""Dedup beside datatrove's MinHash on the same files: bytes a second, and recall and precision against brute force.

    python tests/benchmarks/dedup_datatrove.py --peer-python V/bin/python --rounds 3 \
        --out tests/benchmarks/results/dedup_datatrove.json

V: an environment with `pip install datatrove spacy tokenizers "xxhash<4" regex orjson pyarrow` (datatrove 0.10.1 gives
xxhash texts, which 4 refuses), which need not have phi_jax. Without --peer-python ours runs alone. The files are those
of the lowest ids, of --documents or of what is installed here, and a fifth more that are edited from them, so that
there are near copies; --files makes them fewer. Both read Parquet parts, on all cores, with 21 bands of 6 hashes of 5
words, and write what stays and what goes; the time of both holds the start of their processes. datatrove takes words in
lower case without punctuation, as spaCy cuts them, and compares no texts; recall and precision are by our words, as
they stand in the text. The bar is 5 times its bytes a second (median of the rounds), the aim 10. Its workers are
children of a fork server, so `cpu_others_share` counts them as others, and no round as undisturbed: look at our side's.
"""

import importlib.metadata
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

BANDS, WIDTH = 21, 6


def ours(directory, size):
    with tempfile.TemporaryDirectory(dir=Path(directory).parent) as scratch:
        return _figures(size, *_ours(directory, scratch))


def peer(directory, size):
    with tempfile.TemporaryDirectory(dir=Path(directory).parent) as scratch:
        found = _figures(size, *_peer(directory, scratch))
    return {**found, "versions": {name: importlib.metadata.version(name) for name in ("datatrove", "spacy", "numpy")}}


def _figures(size, seconds, dropped):
    return {"seconds": seconds, "bytes_per_second": size / seconds, "dropped": sorted(dropped)}


def _ours(directory, scratch):
    from phi_jax.config import Config
    from phi_jax.corpus.dedup import dedup
    from phi_jax.store import artifact, documents

    rules = {"threshold": 0.8, "ngram": 5, "num_perm": BANDS * WIDTH, "bands": BANDS, "against": ()}
    given = artifact.open_draft(scratch, "collect", "", {}, {})
    shutil.copytree(directory, Path(given.directory) / "documents")
    documents.add_output(given, "documents")
    given.add_facts(written_by="people")
    whole = given.commit()
    draft = artifact.open_draft(scratch, "dedup", "", {}, {"documents": whole})
    begin = time.perf_counter()
    dedup(Config({"dedup": rules}), {"documents": whole}, draft)
    seconds = time.perf_counter() - begin
    return seconds, [row["id"] for row in documents.read(draft.directory / "duplicates", ("id",))]


def _peer(directory, scratch):
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig(n_grams=5, num_buckets=BANDS, hashes_per_bucket=WIDTH)
    reader = ParquetReader(directory, glob_pattern="*.parquet")
    removed = JsonlWriter(f"{scratch}/removed", compression=None)
    kept = JsonlWriter(f"{scratch}/kept", compression=None)
    parts = len(list(Path(directory).glob("*.parquet")))
    stages = [
        (parts, [reader, MinhashDedupSignature(f"{scratch}/signatures", config)]),
        (BANDS, [MinhashDedupBuckets(f"{scratch}/signatures", f"{scratch}/buckets", config=config)]),
        (1, [MinhashDedupCluster(f"{scratch}/buckets", f"{scratch}/clusters", config=config)]),
        (parts, [reader, MinhashDedupFilter(f"{scratch}/clusters", exclusion_writer=removed), kept]),
    ]
    begin = time.perf_counter()
    for number, (tasks, pipeline) in enumerate(stages):
        LocalPipelineExecutor(
            pipeline, tasks=tasks, workers=min(tasks, os.cpu_count()), logging_dir=f"{scratch}/logs/{number}"
        ).run()
    seconds = time.perf_counter() - begin
    left = [json.loads(line)["id"] for file in Path(scratch, "kept").iterdir() for line in file.open()]
    gone = [json.loads(line)["id"] for file in Path(scratch, "removed").iterdir() for line in file.open()]
    if set(left) & set(gone) or not left:
        raise ValueError(f"{len(left)} kept and {len(gone)} removed")
    return seconds, gone


def measure(options):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from compare import Side, compare, interpreter_of
    from near_pairs import all_pairs, edited

    from phi_jax.errors import UserError
    from phi_jax.store import documents

    real = real_rows(options.documents)
    if len(real) < options.files:
        raise UserError(f"--files {options.files}: there are {len(real)} documents")
    real = sorted(real, key=lambda row: row["id"])[: options.files]
    rng = random.Random(0)
    made = [row | {"text": edited(row["text"], rng)} for row in rng.sample(real, len(real) // 5)]
    made = [row | {"id": documents.document_id(row["text"]), "path": f"edited/{row['path']}"} for row in made]
    rows = list({row["id"]: row for row in [*real, *made]}.values())
    rng.shuffle(rows)
    size = sum(len(row["text"].encode()) for row in rows)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch, "documents")
        for index, begin in enumerate(range(0, len(rows), 500)):
            documents.write_part(directory, index, rows[begin : begin + 500])
        request = {"directory": str(directory), "size": size}
        sides = {"ours": Side("dedup_datatrove:ours", request)}
        if interpreter_of(options.peer_python):
            sides["peer"] = Side("dedup_datatrove:peer", request, options.peer_python)
        result = compare(sides, options.rounds, speed="bytes_per_second")
    pairs = [(rows[i]["id"], rows[j]["id"]) for i, j, _ in all_pairs([row["text"] for row in rows], 0.8)]
    for name in sides:
        for figures in result["rounds"]:
            figures[name] |= against_brute_force(set(figures[name].pop("dropped")), pairs)
    case = {"files": len(rows), "edited": len(made), "bytes": size, "cores": os.cpu_count(), "near_pairs": len(pairs)}
    return {"case": case, "peer": "datatrove, MinHash, local executor", "bar": 5, **result}


def real_rows(directory):
    """Documents of a set, or else of the standard library and the packages that nano collects."""
    from running import MICRO

    from phi_jax import config
    from phi_jax.config import Config
    from phi_jax.corpus.collect import collect
    from phi_jax.store import artifact, documents

    with tempfile.TemporaryDirectory() as scratch:
        if directory is None:
            rules = {**config.load(MICRO).to_dict()["collect"], "max_files": 0}
            draft = artifact.open_draft(scratch, "collect", "raw", {}, {})
            collect(Config({"collect": rules}), {}, draft)
            directory = draft.commit().path("documents")
        return list(documents.read(directory, documents.SCHEMA.names))


def against_brute_force(dropped, pairs):
    """recall: of the pairs whose Jaccard similarity is 0.8 or more, those of which not both stay. precision: of what
    was dropped, what is such a pair with something that stays.
    """
    covered = sum(bool({*pair} & dropped) for pair in pairs)
    right = {one for a, b in pairs for one, other in ((a, b), (b, a)) if one in dropped and other not in dropped}
    return {"dropped": len(dropped), "recall": covered / len(pairs), "precision": len(right) / len(dropped)}


def add_arguments(add):
    add("--documents", metavar="DIR", help="Parquet parts of documents, as `collect` writes them (default: installed)")
    add("--files", type=int, default=5000, metavar="N", help="of the lowest ids; a fifth more are edited ones")
    add("--peer-python", metavar="PY", help="interpreter of an environment that has datatrove")


if __name__ == "__main__":
    from compare import main

    main(add_arguments, measure)
