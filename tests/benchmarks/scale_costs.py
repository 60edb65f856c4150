"""What a training costs beside its steps: to the first one, for a save, between two, and after the last.

    git worktree add ../before e7fcd4a
    python tests/benchmarks/scale_costs.py --tree now=. before=../before --rounds 3 \
        --out tests/benchmarks/results/scale_costs.json

phi-1's width with two layers and a vocabulary of 12,800 on eight pretended devices of the CPU, contexts of 16 tokens: a
state of 1.8 GB, a step of seconds; --width, --layers and --vocabulary make it smaller. It starts from another
training's weights, as `finetune` does. Each tree is a checkout with its own config, in turn. Then what eight readers at
once read of token shards, what the fingerprint of phi-1's largest array takes on a device as compiled, and all of it
worked out for phi-1 on 8 and 256 devices, with each assumption beside it.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DEVICES = READERS = 8
STEPS, SAVE_EVERY = 6, 3
PHI_1_STATE = 1_418_270_720 * 12  # bytes: parameters and two moments in float32
LARGEST = (24, 2048, 8192)  # phi-1's MLP kernel, all layers of it
# What the figures are worked out with; none of it was measured here.
ASSUMED = {
    "PCIe, bytes/s a device": 20e9,
    "shared disk, bytes/s written or read by one host": 2e9,
    "memory, bytes/s a device (A100)": 2e12,
    "threads that hash on a host": 32,
    "saves of phi-1-base that stay": 5,  # every 6,000 of 24,000 steps, and the last two
}


def changes_of(width, layers, vocabulary):
    """Fields of nano.py:size=micro, which needs no data."""
    return {
        "model.hidden_size": width, "model.intermediate_size": 4 * width, "model.num_heads": width // 64,
        "model.head_dim": 64, "model.rotary_dim": 32, "model.num_layers": layers, "tokenize.seq_len": 16,
        "tokenize.vocab_size": vocabulary, "training.optimizer": "adamw", "training.steps": STEPS,
        "training.global_batch_size": DEVICES, "training.cpu_devices": DEVICES, "training.mesh": (1, -1, 1),
        "training.checkpoint_every": SAVE_EVERY, "training.keep_checkpoints": 2, "training.evaluate_every": 1000,
        "training.validation_batches": 1, "training.skip_spike": 0.0,  # random tokens at this width: spikes all
    }  # fmt: skip


def tokens(workdir, seq_len, records, vocab_size, *config_arguments):
    """Writes tokenize/raw of random tokens, as the config's own would be called."""
    seq_len, records, vocab_size = int(seq_len), int(records), int(vocab_size)
    import numpy as np

    from phi_jax import config, pipeline
    from phi_jax.store import artifact
    from phi_jax.store.digests import PathDigests
    from phi_jax.tokens.shards import SplitWriter, write_metadata

    draft = artifact.open_draft(workdir, "tokenize", "raw", {}, {})
    directory = Path(draft.directory) / "tokens"
    directory.mkdir()
    (Path(draft.directory) / "tokenizer").mkdir()
    splits = {
        split: SplitWriter(directory, split, seq_len=seq_len, dtype=np.dtype(np.uint16), records_per_shard=1000)
        for split in ("train", "validation")
    }
    for name, writer in splits.items():
        count = records if name == "train" else 2 * DEVICES
        writer.add(np.random.default_rng(0).integers(0, vocab_size - 1, count * (seq_len + 1)))
        writer.close()
    write_metadata(splits, vocab_size=vocab_size, end_of_text_id=vocab_size - 1)
    artifact.write_json(Path(draft.directory) / "tokenizer" / "none.json", {})
    draft.add_output("tokens", "tokens")
    draft.add_output("tokenizer", "tokenizer")
    if config_arguments:
        draft.key = pipeline.keys_of(config.load([*config_arguments]), PathDigests(None))["tokenize/raw"]
    return draft.commit()


# --- A training, with a clock ------------------------------------------------------------------------------------


def timed_training(events, *arguments):
    """The command line in this process; writes [what, seconds since 1970] of each event to the file `events`."""
    from phi_jax import cli
    from phi_jax.store.artifact import Draft
    from phi_jax.training import loop
    from phi_jax.training.metrics import Metrics
    from phi_jax.weights import checkpoints

    seen = []

    def clock(owner, name, label):
        inner = getattr(owner, name)

        def timed(*args, **kwargs):
            begin = time.time()
            try:
                return inner(*args, **kwargs)
            finally:
                seen.append((label, begin, time.time()))

        setattr(owner, name, timed)

    clock(loop, "initial_params", "weights")
    clock(loop, "fresh_state", "state")
    clock(loop, "_settle", "first step")
    clock(Metrics, "note", "note")
    clock(checkpoints, "fingerprints", "fingerprints")
    clock(checkpoints.Checkpoints, "save", "save")
    clock(checkpoints.Checkpoints, "wait", "wait")
    clock(Draft, "commit", "commit")
    make = loop.make_train_step

    def make_timed(*args, **kwargs):
        loop.timed_step = make(*args, **kwargs)
        clock(loop, "timed_step", "step")
        return loop.timed_step

    loop.make_train_step = make_timed
    try:
        cli.main(arguments)
    finally:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        Path(events).write_text(json.dumps({"events": seen, "peak": peak, "end": time.time()}))


def in_tree(tree, *command):
    """One of the commands of this file's end, by a checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"PYTHONPATH": str(Path(tree).resolve()), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, __file__, *command], env=environment, check=True, cwd=tree)


def trained(tree, workdir, arguments):
    """Figures of a training by a checkout, in a process of its own."""
    events = workdir / "events.json"
    begin = time.time()
    in_tree(tree, "timed", str(events), "pretrain", *arguments, "--name", "raw", "--workdir", str(workdir))
    found = json.loads(events.read_text())
    spans = {}
    for label, start, end in found["events"]:
        spans.setdefault(label, []).append((start, end))

    def last(label):
        start, end = spans.get(label, [(0.0, 0.0)])[-1]
        return round(end - start, 2)

    # Between what `note` returns from, the wait for the step before, and the next step's dispatch.
    gaps = [step[0] - note[1] for note, step in zip(spans["note"], spans["step"][1:], strict=False)]
    between_saves = [gap for number, gap in enumerate(gaps, 1) if number % SAVE_EVERY and number > 1]
    return {
        "seconds": {
            "from the command to the first step's dispatch": round(spans["step"][0][0] - begin, 2),
            "of it, other training's weights": last("weights"),
            "of it, fresh state": last("state"),
            "from the command to the end of the first step": round(spans["first step"][0][1] - begin, 2),
            "stall of the first save, which compiles": round(spans["save"][0][1] - spans["save"][0][0], 2),
            "stall of the last save": last("save"),
            "of it, fingerprints": round(spans["fingerprints"][-1][1] - spans["fingerprints"][-1][0], 2),
            "wait for the last save": last("wait"),
            "manifest, with the hash of every file": last("commit"),
            "from the last step's dispatch to the end": round(found["end"] - spans["step"][-1][1], 2),
        },
        "host_gap_milliseconds": [round(1000 * gap, 2) for gap in between_saves],
        "peak_memory_bytes": found["peak"],
    }


def fingerprint_program(tree):
    """{"temporary_bytes" of a device, "exchanges"} of the fingerprint of phi-1's largest array, fsdp 8; compiled."""
    script = f"""
import json, jax, re
jax.config.update("jax_num_cpu_devices", {DEVICES})
from jax.sharding import NamedSharding, PartitionSpec
from phi_jax.parallel.mesh import make_mesh
from phi_jax.weights import checkpoints
sharding = NamedSharding(make_mesh((1, -1, 1)), PartitionSpec(None, "fsdp", "tensor"))
leaf = jax.ShapeDtypeStruct({LARGEST}, "float32", sharding=sharding)
step = checkpoints._sums.lower(leaf).compile()
text = step.as_text()
kinds = sorted(set(re.findall("(all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\\\\(", text)))
print(json.dumps({{"temporary_bytes": step.memory_analysis().temp_size_in_bytes, "exchanges": kinds}}))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(tree).resolve()), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


# --- Readers -----------------------------------------------------------------------------------------------------


def read(directory, number, seconds):
    """Reads one of READERS equal parts of global batches of 1,024, one after the other; prints records/s."""
    from phi_jax.tokens.batches import TokenBatches

    rows = range(1024 * int(number) // READERS, 1024 * (int(number) + 1) // READERS)
    batches = TokenBatches({Path(directory): 1.0}, split="train", global_batch_size=1024, seed=0, rows=rows)
    stream = batches.iterate(0, 10**6)
    next(stream)
    begin, count = time.time(), 0
    while time.time() - begin < float(seconds):
        count += len(next(stream)[0])
    stream.close()
    print(count / (time.time() - begin))


def readers(scratch):
    made = tokens(scratch / "records", 2048, 2048, 51_200)
    command = [sys.executable, __file__, "read", str(made.path("tokens"))]
    running = [
        subprocess.Popen([*command, str(number), "6"], stdout=subprocess.PIPE, text=True) for number in range(READERS)
    ]
    rates = [float(process.communicate()[0]) for process in running]
    return {"readers": READERS, "records_per_second_in_all": round(sum(rates)), "tokens_of_a_record": 2049}


# --- Worked out --------------------------------------------------------------------------------------------------


def worked_out(now, programs, loading, rate):
    """Seconds for phi-1's state of 17 GB; mesh (1, 8, 1) on one host, (32, 8, 1) on 32 hosts of eight.

    rate: bytes/s that one thread hashes.
    """
    pcie, disk, memory, threads, stay = ASSUMED.values()
    compiled = json.loads((ROOT / "tests" / "acceptance" / "plan_gpu.json").read_text())
    case = "phi_1.py:hardware=8xa100 on 8xA100-80GB microbatches=16"
    bound, found = compiled[case]["bound of a step, seconds"]["step"], {}
    for devices in (8, 256):
        hosts = devices // 8
        found[f"{devices} devices"] = {
            "save: copy to the host, which stalls": round(PHI_1_STATE / devices / pcie, 3),
            "save: fingerprints, which stall": round(PHI_1_STATE / 8 / memory, 4),
            "save: written beside the steps": round(PHI_1_STATE / hosts / disk, 1),
            "end: hash of the files that stay, one thread": round(stay * PHI_1_STATE / rate, 1),
            "end: hash of the files that stay, threads of one host": round(
                stay * PHI_1_STATE / min(disk, threads * rate), 1
            ),
            "step, at least": round(bound / hosts, 2),
            "records/s that a host needs": round(1024 / bound, 1),
        }
    return {
        "assumed": ASSUMED,
        "measured here": {"hash, bytes/s of a thread": round(rate), "readers": loading, "fingerprint": programs},
        "seconds": found,
        "why": "fsdp cuts the state in 8 and data repeats it, so every device sums an eighth; replicas share out what "
        "is copied and written (Orbax: use_replica_parallel); a step's bound falls with the devices, at an equal batch",
        "gap between steps, milliseconds, while the devices compute the step in flight": now["host_gap_milliseconds"],
    }


def hash_rate(scratch):
    """Bytes/s of one thread, from memory's cache of the disk."""
    from phi_jax.store.artifact import file_digest

    file = scratch / "large"
    file.write_bytes(os.urandom(2**28))
    file_digest(file)
    begin = time.perf_counter()
    file_digest(file)
    return 2**28 / (time.perf_counter() - begin)


def measure(options):
    trees = dict(text.split("=", 1) for text in options.tree)
    changes = changes_of(options.width, options.layers, options.vocabulary)
    fields = [f"--config.{name}={value}" for name, value in changes.items()]
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        scratch, trainings = Path(name), {}
        first = scratch / "first"

        def train(tree, workdir, *more):
            arguments = ["--config", f"{Path(tree).resolve()}/configs/nano.py:size=micro", *fields, *more]
            if not (workdir / "tokenize").exists():
                sizes = (str(changes["tokenize.seq_len"]), "100", str(options.vocabulary))
                in_tree(tree, "tokens", str(workdir), *sizes, *arguments)
            return trained(tree, workdir, arguments)

        train(next(iter(trees.values())), first, "--config.training.steps=1")
        start = f"--config.training.initial_checkpoint={first / 'pretrain' / 'raw'}"
        for number in range(options.rounds):
            for label, tree in [*trees.items()][:: 1 if number % 2 == 0 else -1]:
                workdir = scratch / label
                trainings.setdefault(label, []).append(train(tree, workdir, start))
                shutil.rmtree(workdir / "pretrain")
                trainings.setdefault(f"{label}, compiled before", []).append(train(tree, workdir, start))
                shutil.rmtree(workdir)
        programs = {label: fingerprint_program(tree) for label, tree in trees.items()}
        loading, rate = readers(scratch), hash_rate(scratch)
    now = trainings[next(iter(trees))][-1]
    return {
        "case": {"devices": DEVICES, "changes of nano.py:size=micro": changes},
        "trainings, a round each": trainings,
        "medians, seconds": {
            label: {name: statistics.median(one["seconds"][name] for one in rounds) for name in rounds[0]["seconds"]}
            for label, rounds in trainings.items()
        },
        "worked out for phi-1": worked_out(now, programs, loading, rate),
    }


def add_arguments(add):
    add("--tree", nargs="+", required=True, metavar="LABEL=DIR", help="checkouts; the first is what is worked out")
    add("--scratch", metavar="DIR", help="where 10 GB lie meanwhile (default: the system's place)")
    add("--width", type=int, default=2048, metavar="N", help="of the model, a multiple of 512 (default 2048, phi-1's)")
    add("--layers", type=int, default=2, metavar="N", help="blocks (default 2)")
    add("--vocabulary", type=int, default=12_800, metavar="N", help="entries (default 12800)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["timed"]:
        timed_training(*sys.argv[2:])
    elif sys.argv[1:2] == ["tokens"]:
        tokens(*sys.argv[2:])
    elif sys.argv[1:2] == ["read"]:
        read(*sys.argv[2:])
    else:
        from compare import main

        main(add_arguments, measure)
