"""Token sets that are damaged in random ways, and what opening and reading them for a training comes to.

    python fuzz_shards.py DIRECTORY SEED FIRST END

writes a line of JSON for each damage of that range to DIRECTORY/outcomes.jsonl: in a process of its own, because the
readers of shards are C++, which could end it. test_fuzz_shards_sample.py and acceptance/test_fuzz_shards.py differ by
the number of damages only.
"""

import collections
import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np

from phi_jax.errors import UserError
from phi_jax.store import artifact
from phi_jax.tokens.batches import TokenBatches
from phi_jax.tokens.shards import SplitWriter, write_metadata

ROOT = Path(__file__).resolve().parent.parent
SEQ_LEN = 7
DAMAGES = (
    "truncated", "flipped", "overwritten", "extended", "emptied", "missing", "of another run", "of this run", "edited",
)  # fmt: skip


def write_set(root, name, seed, seq_len=SEQ_LEN):
    """A token set as the stage `tokenize` leaves it: two shards and a half to train on, one held out."""
    draft = artifact.open_draft(root, "tokenize", name, {"seed": seed}, {})
    directory = Path(draft.directory) / "tokens"
    directory.mkdir()
    splits = {
        split: SplitWriter(directory, split, seq_len=seq_len, dtype=np.dtype(np.uint16), records_per_shard=8)
        for split in ("train", "validation")
    }
    tokens = np.random.default_rng(seed).integers(0, 500, 30 * (seq_len + 1))
    splits["train"].add(tokens[: 20 * (seq_len + 1)])
    splits["validation"].add(tokens[20 * (seq_len + 1) :][: 5 * (seq_len + 1)])
    for writer in splits.values():
        writer.close()
    write_metadata(splits, vocab_size=512, end_of_text_id=500)
    draft.add_output("tokens", "tokens")
    return draft.commit()


def damage(directory, others, rng):
    """Damages one file of a token set. Returns (file, damage)."""
    files = sorted(p.name for p in directory.iterdir())
    name, kind = rng.choice(files), rng.choice(DAMAGES)
    file, times = directory / name, os.stat(directory / name)
    data = bytearray(file.read_bytes())
    place = rng.randrange(len(data))
    match kind:
        case "truncated":
            file.write_bytes(data[:place])
        case "flipped":
            data[place] ^= 1 << rng.randrange(8)
            file.write_bytes(data)
        case "overwritten":
            data[place : place + 50] = rng.randbytes(len(data[place : place + 50]))
            file.write_bytes(data)
        case "extended":
            file.write_bytes(data + rng.randbytes(rng.choice((1, 100, 70000))))
        case "emptied":
            file.write_bytes(b"")
        case "missing":
            file.unlink()
        case "of another run":
            file.write_bytes((rng.choice(others) / name).read_bytes())
        case "of this run":
            file.write_bytes((directory / rng.choice(files)).read_bytes())
        case "edited" if name.endswith(".json"):
            file.write_text(_edited(data.decode(), rng))
        case "edited":
            file.write_bytes(rng.randbytes(len(data)))
    if file.exists() and rng.random() < 0.5:
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a disk that rots
    return name, kind


def _edited(text, rng):
    """JSON with one value in it replaced."""
    value = json.loads(text)
    places = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(value)
    node, key = rng.choice(places)
    new = rng.choice((None, -1, 0, 1, "7", "", [], {}, 2**70, "x" * 300, 1.5, True, "gone"))
    if new == "gone":
        del node[key]
    else:
        node[key] = new
    return json.dumps(value)


def read(directory):
    """SHA-256 of all that a training reads: shape, vocabulary and the records of both splits."""
    found = hashlib.sha256()
    for split in ("train", "validation"):
        batches = TokenBatches({directory: 1.0}, split=split, global_batch_size=1, seed=1, shuffle=False)
        found.update(repr((batches.seq_len, batches.vocab_size, batches.end_of_text_id)).encode())
        for step in range(batches.num_records):
            found.update(batches.batch(step)[0].tobytes())
    return found.hexdigest()


def outcome(built, right):
    """How a token set, perhaps damaged, is read without a look at its manifest; whether a `check` sees it, and
    one that compares hashes ("verify")."""
    seen = {"check": True, "verify": True}
    for how in seen:
        with contextlib.suppress(UserError):
            built.check(always_hash=how == "verify")
            seen[how] = False
    try:
        result, message = ("right" if read(Path(built.path("tokens"))) == right else "other tokens"), ""
    except UserError as error:
        result, message = "error", str(error)
    except Exception as error:
        result, message = "traceback", f"{type(error).__name__}: {error}"[:500]
    return {"result": result, "message": message, **seen}


def main(root, seed, first, end):
    root = Path(root)
    built = write_set(root / "w", "a", 1)
    others = [Path(write_set(root / "w", name, n, s).path("tokens")) for name, n, s in (("b", 2, 7), ("c", 3, 9))]
    tokens, right = Path(built.path("tokens")), read(Path(built.path("tokens")))
    whole = {file: (file.read_bytes(), os.stat(file).st_mtime_ns) for file in tokens.iterdir()}
    with open(root / "outcomes.jsonl", "a") as file:
        for number in range(first, end):
            name, kind = damage(tokens, others, random.Random(f"{seed} {number}"))
            about = {"number": number, "file": name, "kind": kind}
            file.write(json.dumps({**about, **outcome(built, right)}) + "\n")
            file.flush()
            data, changed_at = whole[tokens / name]
            (tokens / name).write_bytes(data)
            os.utime(tokens / name, ns=(changed_at, changed_at))


def fuzz(root, seed, count):
    """{"outcomes": counts, "failures": damages that ended wrongly} of the damages 0 to count - 1."""
    outcomes, failures, done = collections.Counter(), [], 0
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    while done < count:
        directory = root / str(done)
        directory.mkdir()
        command = [sys.executable, __file__, str(directory), str(seed), str(done), str(count)]
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60 + count)
        found = [json.loads(line) for line in (directory / "outcomes.jsonl").read_text().splitlines()]
        for one in found:
            name, message = one["file"], one["message"]
            outcomes[_judged(one)] += 1
            # What metadata is taken for, another name of a shard say, names the directory at least.
            named = (name if name.endswith(".array_record") else str(directory)) in message
            named = named and "`phi-jax tokenize`" in message
            right = one["result"] == "right" or (one["result"] == "error" and named and "\n" not in message)
            if not (right or (one["result"] == "other tokens" and one["verify"])):
                failures.append(one)
        done += len(found)
        if done < count:
            failures.append({"number": done, "ended": ended.returncode, "said": ended.stderr[-500:]})
            done += 1
    return {"seed": seed, "count": count, "outcomes": dict(outcomes), "failures": failures[:20]}


def _judged(one):
    if one["result"] != "other tokens":
        return {"error": "error that names the file"}.get(one["result"], one["result"])
    return f"other tokens, noticed {'before a stage' if one['check'] else 'by status --verify alone'}"


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
