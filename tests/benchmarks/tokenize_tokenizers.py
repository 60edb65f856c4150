"""How fast one core turns texts into ids with our tokenizer, beside `tokenizers`.

python tests/benchmarks/tokenize_tokenizers.py --documents DIR --tokenizer Salesforce/codegen-350M-mono
"""

import hashlib
import os
import sys
import sysconfig
import time
from pathlib import Path

TRAINED_ENTRIES, TRAINED_BYTES = 8192, 2_000_000


def ours(**request):
    return _time(lambda tokenizer, texts: tokenizer.encode_batch(texts), **request)


def peer(**request):
    def encode(tokenizer, texts):
        return [e.ids for e in tokenizer.backend.encode_batch_fast(texts, add_special_tokens=False)]

    return _time(encode, **request)


def _time(encode, documents, name, limit):
    from phi_jax.tokens.tokenizer import Tokenizer, train

    if hasattr(os, "sched_setaffinity"):  # one core, for every thread that starts from now on
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    texts = sample(documents, limit)
    tokenizer = Tokenizer.named(name) if name else train(_first(texts, TRAINED_BYTES), TRAINED_ENTRIES)
    ids = encode(tokenizer, texts)  # warms up
    cpu = time.process_time()
    encode(tokenizer, texts)
    cpu = time.process_time() - cpu
    tokens = sum(map(len, ids))
    return {
        "texts": len(texts),
        "tokens": tokens,
        "ids": hashlib.sha256(repr(ids).encode()).hexdigest(),
        "cpu_seconds": cpu,
        "tokens_per_second": tokens / cpu,
    }


def sample(documents, limit):
    """Texts of the lowest hashes, until `limit` bytes: the same ones wherever the documents are the same."""
    files = sorted(Path(documents or sysconfig.get_path("stdlib")).rglob("*.py"))
    texts = {text for file in files if (text := file.read_bytes().decode(errors="replace"))}
    return _first(sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest()), limit)


def _first(texts, limit):
    chosen = []
    for text in texts:
        if limit <= 0:
            break
        chosen.append(text)
        limit -= len(text.encode())
    return chosen


def check_same(figures):
    from phi_jax.errors import UserError

    if len({side["ids"] for side in figures.values()}) > 1:
        raise UserError("the two sides give different ids, so no ratio")


def measure(options):
    from compare import Side, compare

    from phi_jax.errors import UserError

    if not sample(options.documents, 1):
        raise UserError(f"--documents {options.documents}: holds no .py file with text")
    request = {"documents": options.documents, "name": options.tokenizer, "limit": options.bytes}
    sides = {name: Side(f"tokenize_tokenizers:{name}", request) for name in ("ours", "peer")}
    case = {
        "documents": options.documents and Path(options.documents).resolve().name,
        "tokenizer": options.tokenizer and Path(options.tokenizer).name,
        "bytes": options.bytes,
        "python": sys.version.split()[0],
    }
    result = compare(sides, options.rounds, check=check_same)
    return {"case": case, "peer": "tokenizers, encode_batch_fast, one core", **result}


def add_arguments(add):
    add("--documents", metavar="DIR", help="whose .py files are encoded (default: the standard library)")
    add("--tokenizer", metavar="DIR_OR_NAME", help="its files or its name on the Hub (default: learnt on the texts)")
    add("--bytes", type=int, default=4_000_000, metavar="N", help="of texts at most, chosen by hash (default 4000000)")


if __name__ == "__main__":
    from compare import main

    main(add_arguments, measure)
