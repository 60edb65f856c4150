"""Stages `tokenize/tokenizer` and `tokenize/<set>`: documents -> a tokenizer, and documents -> token shards.

A split's stream is its documents in order, each followed by <|endoftext|> (paper, section 2.3).
"""

import bisect
import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from etils import epath

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.progress import Progress, note
from phi_jax.store import documents
from phi_jax.store.artifact import Draft, Inputs, write_atomic
from phi_jax.store.cores import spread, workers
from phi_jax.tokens.data_card import data_card
from phi_jax.tokens.shards import SplitWriter, write_metadata
from phi_jax.tokens.tokenizer import Tokenizer, train

_ENCODE_BATCH = 256  # documents encoded at once


def check(config: Config, name: str) -> None:
    """Raises UserError where config.tokenize.tokenizer is not to be had, or has too many entries. Fetches nothing."""
    rules = config.tokenize
    if rules.tokenizer and (found := Tokenizer.at_hand(rules.tokenizer)):
        _check_size(rules, rules.tokenizer, found)


def _check_size(rules: Config, origin: str, tokenizer: Tokenizer) -> None:
    if tokenizer.vocab_size > rules.vocab_size:
        raise UserError(
            f"config.tokenize.vocab_size={rules.vocab_size}: the tokenizer {origin} has more entries, "
            f"{tokenizer.vocab_size}; make it that or more"
        )


def make_tokenizer(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `tokenize/tokenizer` -> output "tokenizer", a directory.

    It is the one that config.tokenize.tokenizer names, or learnt on the sets that config.tokenize.learn_on names, in
    their order. inputs: the artifact of each set, by the set's name. Raises UserError for a tokenizer that cannot be
    had, or that has more entries than config.tokenize.vocab_size.
    """
    rules = config.tokenize
    if rules.tokenizer:
        origin, tokenizer = rules.tokenizer, Tokenizer.named(rules.tokenizer)
    else:
        origin = f"learnt on {', '.join(rules.learn_on)}"
        sets = [inputs[name].path(output_of(name)) for name in rules.learn_on]
        texts = itertools.chain.from_iterable(_sample_texts(path, rules.train_bytes) for path in sets)
        tokenizer = train(texts, rules.vocab_size)
    _check_size(rules, origin, tokenizer)
    _, why = tokenizer.fast
    core = f"{tokenizer.core} ({why})" if why else tokenizer.core
    note(f"{draft.label}: tokenizer {origin}, {tokenizer.vocab_size:,} entries, computed by {core}", detail=True)
    tokenizer.save(Path(draft.directory) / "tokenizer", max_length=rules.seq_len)
    draft.add_output("tokenizer", "tokenizer")
    draft.add_facts(origin=origin, entries=tokenizer.vocab_size, core=tokenizer.core)


def tokenize(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `tokenize/<set>`: inputs {"documents", "tokenizer"} -> outputs "tokenizer" (a copy) and "tokens"; CARD.md.

    Raises UserError for documents that do not fill one record of each split.
    """
    rules, fraction = config.tokenize, config.tokenize.validation_fraction
    source = inputs["documents"].path(output_of(draft.name))
    # A copy of the tokenizer: with it, a training needs one input for each set.
    tokenizer_directory = Path(draft.directory) / "tokenizer"
    shutil.copytree(inputs["tokenizer"].path("tokenizer"), tokenizer_directory, dirs_exist_ok=True)
    tokenizer = Tokenizer.load(tokenizer_directory)
    # A given tokenizer's embedding and head may be padded, as the paper's are.
    vocab_size = rules.vocab_size if rules.tokenizer else tokenizer.vocab_size
    dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)

    directory = Path(draft.directory) / "tokens"
    directory.mkdir(exist_ok=True)
    splits = {
        split: SplitWriter(
            directory, split, seq_len=rules.seq_len, dtype=dtype,
            records_per_shard=max(1, rules.shard_tokens // (rules.seq_len + 1)),
        )
        for split in ("train", "validation")
    }  # fmt: skip
    text_bytes = documents.totals(source).bytes
    texts, of_source = Counter[tuple](), Counter[tuple]()  # by source and licence: how many, tokens
    with Progress(draft.label, text_bytes, "B") as bar:
        rows = documents.read(source, ("id", "text", "source", "license"))
        batches, others = itertools.tee(iter(lambda: list(itertools.islice(rows, _ENCODE_BATCH)), []))
        texts_of = ([row["text"] for row in batch] for batch in others)
        # In this process a batch is shared out over threads.
        encoded = spread(tokenizer.encode_batch, texts_of, workers(1), label=draft.label)
        for batch, tokens_of in zip(batches, encoded, strict=True):
            for row, ids in zip(batch, tokens_of, strict=True):
                split = "validation" if is_held_out(row["id"], fraction) else "train"
                splits[split].add([*ids, tokenizer.end_of_text_id])
                origin = row["source"], row["license"] or "not named"
                texts[origin] += 1
                of_source[origin] += len(ids) + 1
            bar.advance(sum(len(row["text"].encode()) for row in batch))
    facts = {name: writer.close() for name, writer in splits.items()}
    for name in ("train", *(["validation"] if fraction else [])):
        if not facts[name]["records"]:
            remedy = "raise config.tokenize.validation_fraction" if name != "train" else "lower config.tokenize.seq_len"
            raise UserError(
                f"{draft.label}: the documents of the split {name} hold less than one record of {rules.seq_len + 1} "
                f"tokens; collect more, or {remedy}"
            )
    write_metadata(splits, vocab_size=vocab_size, end_of_text_id=tokenizer.end_of_text_id)

    tokens = sum(counts["tokens"] for counts in facts.values())
    draft.add_output("tokenizer", "tokenizer")
    draft.add_output("tokens", "tokens", tokens=tokens, rows=sum(counts["records"] for counts in facts.values()))
    told = {
        "written_by": inputs["documents"].facts["written_by"],
        "vocab_size": vocab_size,
        "tokens": tokens,
        "bytes_per_token": round(text_bytes / tokens, 3),
        "sources": [[*origin, texts[origin], count] for origin, count in of_source.most_common()],
        **facts,
    }
    draft.add_facts(**told)
    write_atomic(draft.directory / "CARD.md", data_card(draft.label, told, inputs["documents"]))


def output_of(name: str) -> str:
    """The output that holds a set's documents: "raw" -> "documents", "teacher.textbooks" -> "textbooks"."""
    return name.rpartition(".")[2] if "." in name else "documents"


def is_held_out(identifier: str, fraction: float) -> bool:
    """Whether a document belongs to the validation split: a function of its content alone."""
    return documents.uniform(identifier, "validation") < fraction


def _sample_texts(source: epath.PathLike, limit: int) -> Iterator[str]:
    """Documents of the lowest ids, a uniform sample, until `limit` bytes; learnt from in that order."""
    chosen: list[tuple[str, str, int]] = []  # (id, text, bytes), sorted
    total = 0
    for row in documents.read(source):
        if total < limit or row["id"] < chosen[-1][0]:
            size = len(row["text"].encode())
            bisect.insort(chosen, (row["id"], row["text"], size))
            total += size
            while total - chosen[-1][2] >= limit:
                total -= chosen.pop()[2]
    return (text for _, text, _ in chosen)
