"""`phi-jax bench tokenize`: how fast one core turns texts into ids, beside `tokenizers` in the same process."""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_jax.bench.result import check_out, publish
from phi_jax.bench.rounds import ratio_of
from phi_jax.bench.surroundings import surroundings
from phi_jax.bench.timing import cpu_seconds, cpu_shares
from phi_jax.errors import UserError

if TYPE_CHECKING:
    from phi_jax.tokens.tokenizer import Tokenizer

EXAMPLE = "phi-jax bench tokenize --tokenizer Salesforce/codegen-350M-mono"
_TRAINED_ENTRIES, _TRAINED_BYTES = 8192, 2_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `run`."""
    add = parser.add_argument
    add("--documents", type=Path, metavar="FILE_OR_DIR",
        help="a directory of .py files, a .parquet or a .jsonl (default: the standard library)")  # fmt: skip
    add("--tokenizer", metavar="DIR_OR_NAME", help="its files or its name on the Hub (default: learnt on the texts)")
    add("--bytes", type=int, default=4_000_000, metavar="N", help="of texts at most, chosen by hash (default 4000000)")
    add("--rounds", type=int, default=5, metavar="N", help="turns of each (default 5)")
    add("--out", type=Path, metavar="FILE.json", help="where the result goes")


def run(options: argparse.Namespace, _: Sequence[str] = ()) -> None:
    """Measures, prints the result as JSON and writes it to options.out.

    Raises UserError for options without sense and what loading a tokenizer raises, RuntimeError for unequal ids.
    """
    for name in ("bytes", "rounds"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least 1")
    check_out(options.out)
    _take_one_core()
    result = measure(options.documents, options.tokenizer, options.bytes, options.rounds)
    publish(result, options.out)
    ratio = result["ratio"]
    print(
        f"{result['case']['core']} / tokenizers: {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f} over "
        f"{options.rounds} rounds, {len(ratio['undisturbed'])} of them undisturbed)",
        file=sys.stderr,
    )


def _take_one_core() -> None:
    """For this process and every thread it starts from now on."""
    os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def measure(documents: Path | None, name: str | None, limit: int, rounds: int) -> dict[str, Any]:
    """{"surroundings", "case", "peer", "ratio", "rounds"}: `rounds` times the same texts by each, in turns.

    ratio: ours / peer's tokens in a second of this process's CPU time; see rounds.ratio_of.
    """
    from phi_jax.tokens.tokenizer import Tokenizer, train

    texts = _sample(documents, limit)
    size = sum(len(text.encode()) for text in texts)
    if name is None:
        tokenizer = train(_first(texts, _TRAINED_BYTES), _TRAINED_ENTRIES)
    else:
        tokenizer = Tokenizer.named(name)
    sides: dict[str, Callable[[], list[list[int]]]] = {
        "ours": lambda: tokenizer.encode_batch(texts),
        "peer": lambda: [
            e.ids for e in tokenizer.backend.encode_batch_fast(texts, add_special_tokens=False)
        ],
    }  # fmt: skip
    _check_equal(tokenizer, sides)
    pairs = []
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        figures = {side: _time(sides[side], size) for side in order}
        pairs.append({side: figures[side] for side in sides})
        speeds = (f"{side} {pairs[-1][side]['tokens_per_second'] / 1e6:.2f}" for side in sides)
        print(f"round {number + 1}: {', '.join(speeds)} million tokens/s", file=sys.stderr, flush=True)
    return {
        "surroundings": surroundings(("tiktoken", "tokenizers")),
        "case": {
            "documents": documents.name if documents else f"standard library of Python {platform.python_version()}",
            "texts": len(texts),
            "bytes": size,
            "tokens": pairs[0]["ours"]["tokens"],
            "tokenizer": _published(name),
            "entries": tokenizer.vocab_size,
            "core": tokenizer.core,
            "why_not_tiktoken": tokenizer.why_not_tiktoken,
            "cores": 1,
        },
        "peer": "tokenizers, encode_batch_fast",
        "ratio": ratio_of(pairs),
        "rounds": pairs,
    }


def _check_equal(tokenizer: Tokenizer, sides: dict[str, Callable[[], list[list[int]]]]) -> None:
    """Both sides once, as warm-up too."""
    if sides["ours"]() != sides["peer"]():
        raise RuntimeError(f"bench tokenize: {tokenizer.core} and tokenizers give different ids, so no ratio")


def _time(encode: Callable[[], list[list[int]]], size: int) -> dict[str, Any]:
    before, wall, cpu = cpu_seconds(), time.perf_counter(), time.process_time()
    ids = encode()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    tokens = sum(map(len, ids))
    return {
        "tokens": tokens,
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "tokens_per_second": tokens / cpu,
        "bytes_per_second": size / cpu,
        **cpu_shares(before, cpu_seconds()),
    }


def _sample(documents: Path | None, limit: int) -> list[str]:
    """Texts of the lowest hashes, until `limit` bytes: the same ones wherever the documents are the same."""
    texts = sorted(_texts(documents), key=lambda text: hashlib.sha256(text.encode()).digest())
    if not texts:
        raise UserError(f"--documents {documents}: holds no text; name .py files, a .parquet or a .jsonl")
    return _first(texts, limit)


def _first(texts: Sequence[str], limit: int) -> list[str]:
    chosen: list[str] = []
    for text in texts:
        if limit <= 0:
            break
        chosen.append(text)
        limit -= len(text.encode())
    return chosen


def _texts(documents: Path | None) -> Iterator[str]:
    from phi_jax.corpus.sources import list_files, read_rows, standard_library

    if documents is not None and not documents.exists():
        raise UserError(f"--documents {documents}: no such file or directory")
    tables: dict[str, Any] = {}
    for raw in standard_library() if documents is None else list_files(str(documents)):
        if raw.row < 0:
            text = Path(raw.file).read_bytes().decode(errors="replace")
        else:
            row = next(tables.setdefault(raw.file, read_rows(Path(raw.file))))
            text = row["text"] if row else ""
        if text:
            yield text


def _published(name: str | None) -> str:
    """Results are published: a machine's paths do not belong into them."""
    if name is None:
        return "learnt on the texts"
    return Path(name).resolve().name if Path(name).exists() else name
