"""How fast `filter` embeds files with codegen-350M's shape and random weights, and what 35 million files would take.

python tests/benchmarks/embedding_speed.py --rounds 1 --out tests/benchmarks/results/embedding_cpu.json

Measured is what the stage does with a part: tokens of the texts from their first code on, and a vector of each. The
hours are computed: the FLOPs of a file of the sample with its padding, at a share of the peak that is assumed; so they
are those of a pool whose files are as long as the standard library's (the paper's have 1,000 tokens in the mean). On
two cores 200 files of 1,024 tokens at most take 15 to 30 minutes a round; --files and --embed-tokens make it smaller.
"""

import dataclasses
import statistics
import sysconfig
import time
from pathlib import Path

FILES = 35_000_000  # of the paper's pool (section 2.1)
HARDWARE = ("A100-80GB", "H100", "v5e")
# Shares of the bfloat16 peak, assumed. What is imported computes in float32, whose peak (TF32) is half on these GPUs.
MFU = {"bfloat16": 0.4, "float32 (TF32)": 0.2}
CONTEXTS = (256, 1024)  # values of config.filter.embed_tokens for which FLOPs are told; 1024 is phi_1.py's
ENTRIES, LEARNT_BYTES = 8192, 2_000_000  # of a BPE learnt on the texts, where no tokenizer is named


def shape():
    """codegen-350M-mono's config.json, as phi_jax reads it."""
    from phi_jax.model.phi import PhiConfig

    return PhiConfig(
        vocab_size=51_200, hidden_size=1024, intermediate_size=4096, num_layers=20, num_heads=16, head_dim=64,
        rotary_dim=32, max_seq_len=2048,
    )  # fmt: skip


def ours(documents, files, tokenizer, **rules):
    import jax

    from phi_jax.config import Config
    from phi_jax.corpus.filter import make_embed
    from phi_jax.model.phi import init_params
    from phi_jax.parallel.embedder import bucket

    texts, encoder = _sample(documents, files, tokenizer)
    params = jax.block_until_ready(jax.jit(init_params, static_argnums=0)(shape(), jax.random.key(0)))
    embed = make_embed(params, shape(), encoder, Config({**rules, "pooling": "mean"}))
    lengths = _lengths(texts, encoder)
    by_bucket = {bucket(length, rules["embed_tokens"]): text for length, text in zip(lengths, texts, strict=True)}
    begin = time.perf_counter()
    embed(list(by_bucket.values()))  # compiles, once for each
    warm = time.perf_counter()
    vectors, _ = embed(texts)
    seconds = time.perf_counter() - warm
    assert vectors.shape == (files, shape().hidden_size)
    work = _work(lengths, rules["embed_tokens"])
    return {
        "device": f"{jax.local_device_count()} x {jax.devices()[0].device_kind}",
        "files": files,
        "seconds": seconds,
        "first_batches_seconds": warm - begin,  # one batch of each length, compiled
        "files_per_second": files / seconds,
        "flops_per_second": files * work["flops"] / seconds,
    }


def _sample(documents, files, tokenizer):
    """(texts of the lowest hashes, what encodes them)."""
    from tokenize_tokenizers import sample

    from phi_jax.errors import UserError
    from phi_jax.store.python_text import from_first_code
    from phi_jax.tokens.tokenizer import Tokenizer, train

    texts = [text for text in sample(documents, 10**12) if from_first_code(text)][:files]
    if len(texts) < files:
        raise UserError(f"--documents: holds {len(texts)} .py files with code, not {files}")
    if tokenizer:
        return texts, Tokenizer.named(tokenizer)
    return texts, train(sample(documents, LEARNT_BYTES), ENTRIES)


def _lengths(texts, encoder):
    from phi_jax.store.python_text import from_first_code

    return [len(ids) for ids in encoder.encode_batch([from_first_code(text) for text in texts])]


def _work(lengths, longest):
    """Of a file in the mean: its tokens, the tokens that are computed for it, and the FLOPs of these; and what these
    would be without batches by length, all padded to the longest.
    """
    from phi_jax.model.flops import training_flops_per_token
    from phi_jax.parallel.embedder import bucket

    def flops(length):  # forward alone, without the head over the vocabulary
        return length * training_flops_per_token(dataclasses.replace(shape(), vocab_size=1, max_seq_len=length)) / 3

    padded = [bucket(length, longest) for length in lengths]
    return {
        "tokens": sum(min(length, longest) for length in lengths) / len(lengths),
        "padded_tokens": sum(padded) / len(lengths),
        "flops": sum(map(flops, padded)) / len(lengths),
        "flops_if_all_were_padded_to_the_longest": flops(longest),
    }


def measure(options):
    from compare import Side, compare

    from phi_jax.model.flops import num_params
    from phi_jax.parallel.chips import chip_named

    rules = {"embed_tokens": options.embed_tokens, "batch_size": options.batch_size}
    request = {"documents": options.documents, "files": options.files, "tokenizer": options.tokenizer}
    result = compare({"ours": Side("embedding_speed:ours", request | rules)}, options.rounds, speed="files_per_second")
    texts, encoder = _sample(**request)
    work = {context: _work(_lengths(texts, encoder), context) for context in CONTEXTS}
    rate = statistics.median(one["ours"]["files_per_second"] for one in result["rounds"])
    return {
        "case": {
            "shape": "codegen-350M, random weights",
            "parameters": num_params(shape()),
            "documents": Path(options.documents or sysconfig.get_path("stdlib")).resolve().name,
            "tokenizer": options.tokenizer or f"a BPE of {ENTRIES} entries, learnt on the texts",
            **rules,
        },
        "a_file_by_embed_tokens": work,
        "device_hours_of_35_million_files": {
            f"{name}, {dtype} at {mfu:.0%} of its peak": {
                f"embed_tokens={context}": round(FILES * work[context]["flops"] / mfu / peak / 3600, 1)
                for context in CONTEXTS
            }
            for name, peak in ((name, chip_named(name).peak_flops) for name in HARDWARE)
            for dtype, mfu in MFU.items()
            if name != "v5e" or dtype == "bfloat16"  # a TPU multiplies float32 in bfloat16 where nothing else is asked
        },
        "hours_of_35_million_files_on_this_machine": round(FILES / rate / 3600),
        **result,
    }


def add_arguments(add):
    add("--documents", metavar="DIR", help="whose .py files are embedded (default: the standard library)")
    add("--files", type=int, default=200, metavar="N", help="chosen by hash (default 200)")
    add("--tokenizer", metavar="DIR_OR_NAME", help="its files or its name on the Hub (default: learnt on the texts)")
    add("--embed-tokens", type=int, default=1024, metavar="N", help="first tokens of a file (default 1024, phi_1.py's)")
    add("--batch-size", type=int, default=4, metavar="N", help="files at once on a device (default 4)")


if __name__ == "__main__":
    from compare import main

    main(add_arguments, measure)
