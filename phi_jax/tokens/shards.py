"""Stage `tokenize`: documents -> token shards, a TFDS dataset with ArrayRecord inside, TensorFlow never imported.

A split is one stream, its documents in order, each followed by <|endoftext|> (paper, section 2.3), cut into records of
seq_len + 1 tokens; what remains after the last whole record is dropped and counted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.progress import Progress, say
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft, atomic_path, write_atomic, write_json
from phi_jax.tokens.generations import counted
from phi_jax.tokens.tokenizer import Tokenizer, train

SPLITS = ("train", "validation")
# Without a group size of 1, a random read decodes its neighbours too: 8.0k records/s against 1.5k.
_WRITER_OPTIONS = "group_size:1,zstd:3"
_FILE_TEMPLATE = "{SPLIT}-{SHARD_INDEX}.{FILEFORMAT}"
_METADATA = "tokens.json"
_ENCODE_BATCH = 256  # documents encoded at once


def is_held_out(identifier: str, fraction: float) -> bool:
    """Whether a document belongs to the validation split: a function of its content alone (but see `_held_out`)."""
    return _place(identifier) < fraction


def _place(identifier: str) -> float:
    """From 0 to 1. The id is hashed again, since `collect` may have sampled by the very hash that the id is."""
    return int(hashlib.sha256(f"validation {identifier}".encode()).hexdigest()[:8], 16) / 2**32


def tokenize(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `tokenize`: inputs {"documents", optionally "tokenizer"} -> outputs "tokenizer" and "tokens", directories.

    Where "documents" holds several sets, the stage instance's name says which becomes tokens. The tokenizer is that of
    the input, or the one that the config names, or learnt on all sets that "documents" holds.
    """
    rules = config.tokenize
    source, total_bytes = documents.document_set(inputs["documents"], draft.name)

    tokenizer, vocab_size = _tokenizer(rules, inputs, draft)

    # --- The shards -----------------------------------------------------------------------------------------
    directory = Path(draft.directory) / "tokens"
    directory.mkdir(exist_ok=True)
    dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
    writer = ShardWriter(directory, rules.seq_len, dtype, max(1, rules.shard_tokens // (rules.seq_len + 1)))
    records: dict[str, list[int]] = {}
    facts: dict[str, Any] = {}
    held_out = _held_out(source, rules.validation_fraction, tokenizer, rules.seq_len + 1)
    for split in SPLITS:
        generations: Counter[int | None] = Counter()
        with Progress(f"{draft.label} {split}", total_bytes, "B") as bar:
            stream = _encoded(source, split == "validation", held_out, tokenizer, bar, generations)
            totals = writer.write_split(split, stream)
        totals["generations"] = counted(generations)
        records[split] = totals.pop("shards")
        facts[split] = totals
    if not records["train"]:
        raise UserError(
            f"the documents hold {facts['train']['tokens']} tokens beside the {facts['validation']['tokens']} of the "
            f"validation split, less than one record of {rules.seq_len + 1}; "
            "collect more, or lower config.tokenize.seq_len"
        )
    writer.write_metadata(records)
    write_json(
        directory / _METADATA,
        {
            "seq_len": rules.seq_len,
            "dtype": dtype.name,
            "vocab_size": vocab_size,
            "end_of_text_id": tokenizer.end_of_text_id,
        },
    )

    tokens = sum(facts[s]["tokens"] for s in SPLITS)
    draft.add_output("tokenizer", "tokenizer")
    draft.add_output("tokens", "tokens", tokens=tokens, rows=sum(sum(r) for r in records.values()))
    draft.add_facts(
        vocab_size=vocab_size,
        tokenizer_entries=tokenizer.vocab_size,
        tokenizer_core=tokenizer.core,
        tokens=tokens,
        bytes_per_token=round(total_bytes / tokens, 3),
        **facts,
    )


def _tokenizer(rules: Config, inputs: Mapping[str, Artifact], draft: Draft) -> tuple[Tokenizer, int]:
    """(the tokenizer, whose files lie in the draft then; entries that a model's embedding and head have for it).

    The latter is config.tokenize.vocab_size for one that the config names, which may be padded, as the paper's is.
    """
    directory = Path(draft.directory) / "tokenizer"
    sets = [o for o in inputs["documents"].manifest["outputs"].values() if o["kind"] == "documents"]
    if "tokenizer" in inputs:
        origin = f"of {inputs['tokenizer'].label}"
    else:
        origin = rules.tokenizer or f"learnt on {len(sets)} sets of documents"
    if not (directory / "tokenizer_config.json").exists():  # the last of its files
        if "tokenizer" in inputs:
            _copy_tokenizer(Path(inputs["tokenizer"].path("tokenizer")), directory)
        elif rules.tokenizer:
            Tokenizer.named(rules.tokenizer).save(directory, max_length=rules.seq_len)
        else:
            directories = [inputs["documents"].directory / o["path"] for o in sets]
            sample = [text for d in directories for text in _sample_texts(d, rules.train_bytes)]
            train(sample, rules.vocab_size).save(directory, max_length=rules.seq_len)
    tokenizer = Tokenizer.load(directory)
    if tokenizer.vocab_size > rules.vocab_size:
        raise UserError(
            f"config.tokenize.vocab_size={rules.vocab_size}: the tokenizer {origin} has more entries, "
            f"{tokenizer.vocab_size}; make it that or more"
        )
    why = f" ({tokenizer.why_not_tiktoken})" if tokenizer.why_not_tiktoken else ""
    say(f"{draft.label}: tokenizer {origin}, {tokenizer.vocab_size:,} entries, computed by {tokenizer.core}{why}")
    return tokenizer, rules.vocab_size if rules.tokenizer else tokenizer.vocab_size


def _copy_tokenizer(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    names = sorted((p.name for p in source.iterdir()), key=lambda name: name == "tokenizer_config.json")
    for name in names:
        write_atomic(target / name, (source / name).read_bytes())


def _sample_texts(source: Any, limit: int) -> Iterator[str]:
    """Documents of the lowest ids, a uniform sample, until `limit` bytes; learnt from in that order."""
    sizes = sorted((row["id"], len(row["text"].encode())) for row in documents.read(source))
    chosen: set[str] = set()
    for identifier, size in sizes:
        if limit <= 0:
            break
        chosen.add(identifier)
        limit -= size
    texts = {row["id"]: row["text"] for row in documents.read(source) if row["id"] in chosen}
    return (texts[identifier] for identifier in sorted(chosen))


def _held_out(source: Any, fraction: float, tokenizer: Tokenizer, record: int) -> Callable[[str], bool]:
    """Tells by its id whether a document belongs to the validation split.

    Those below `fraction`; where they do not fill one record, as a share of few documents may not, the next ones by
    place until it is full. A fraction of 0 is none.
    """
    missing = record
    for row in documents.read(source):
        if is_held_out(row["id"], fraction):
            missing -= _length(row, tokenizer)
            if missing <= 0:
                break
    if missing <= 0 or fraction == 0:
        return lambda identifier: is_held_out(identifier, fraction)
    places = sorted((_place(row["id"]), row["id"], _length(row, tokenizer)) for row in documents.read(source))
    added: set[str] = set()
    for place, identifier, length in places:
        if place >= fraction and missing > 0:
            added.add(identifier)
            missing -= length
    return lambda identifier: is_held_out(identifier, fraction) or identifier in added


def _length(row: documents.Row, tokenizer: Tokenizer) -> int:
    """Tokens of a document, its <|endoftext|> among them."""
    return len(tokenizer.encode(row["text"])) + 1


def _encoded(
    source: Any,
    validation: bool,
    held_out: Callable[[str], bool],
    tokenizer: Tokenizer,
    bar: Progress,
    generations: Counter[int | None],
) -> Iterator[tuple[str, list[int]]]:
    """(document id, tokens with <|endoftext|> behind them) of one split, in order; adds the tokens to `generations`."""
    column = documents.GENERATION.name
    batch: list[documents.Row] = []

    def flush() -> Iterator[tuple[str, list[int]]]:
        encoded = tokenizer.encode_batch([row["text"] for row in batch])
        for row, ids in zip(batch, encoded, strict=True):
            ids.append(tokenizer.end_of_text_id)
            generations[row[column]] += len(ids)
            yield row["id"], ids
        bar.advance(sum(len(row["text"].encode()) for row in batch))
        batch.clear()

    for row in documents.read(source, defaults={column: 0}):
        if held_out(row["id"]) == validation:
            batch.append(row)
            if len(batch) == _ENCODE_BATCH:
                yield from flush()
    yield from flush()


class ShardWriter:
    """Cuts streams of documents into shards of `records_per_shard` records of seq_len + 1 tokens."""

    def __init__(self, directory: Path, seq_len: int, dtype: np.dtype, records_per_shard: int) -> None:
        self._directory = Path(directory)
        self._record = seq_len + 1
        self._dtype = dtype
        self._records_per_shard = records_per_shard
        self._features = _features(self._record, dtype)

    def write_split(self, split: str, stream: Iterable[tuple[str, list[int]]]) -> dict[str, Any]:
        """Writes the shards of a split; those that are there are kept, being a function of the stream.

        Returns {"shards": records in each, "documents", "tokens", "dropped_tokens"}.
        """
        shard_tokens = self._record * self._records_per_shard
        shards: list[int] = []
        buffer: list[np.ndarray] = []
        buffered = total = 0
        begun = 0
        for _, ids in stream:
            begun += 1
            buffer.append(np.asarray(ids, self._dtype))
            buffered += len(ids)
            total += len(ids)
            while buffered >= shard_tokens:
                tokens = np.concatenate(buffer)
                self._write_shard(split, len(shards), tokens[:shard_tokens])
                shards.append(self._records_per_shard)
                buffer, buffered = [tokens[shard_tokens:]], buffered - shard_tokens
        rest = np.concatenate(buffer) if buffer else np.empty(0, self._dtype)
        records = len(rest) // self._record
        if records:
            self._write_shard(split, len(shards), rest[: records * self._record])
            shards.append(records)
        return {
            "shards": shards,
            "documents": begun,
            "tokens": total,
            "records": sum(shards),
            "dropped_tokens": len(rest) - records * self._record,
        }

    def _write_shard(self, split: str, number: int, tokens: np.ndarray) -> None:
        from array_record.python import array_record_module

        path = shard_path(self._directory, split, number)
        if path.exists():
            return
        with atomic_path(path) as temporary:
            writer = array_record_module.ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)
            for record in tokens.reshape(-1, self._record):
                writer.write(self._features.serialize_example({"tokens": record}))
            writer.close()

    def write_metadata(self, records: Mapping[str, list[int]]) -> None:
        """What makes the directory a TFDS dataset: features.json and dataset_info.json."""
        import tensorflow_datasets as tfds

        infos = [
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=lengths,
                num_bytes=sum(shard_path(self._directory, split, i).stat().st_size for i in range(len(lengths))),
                filename_template=tfds.core.ShardedFileTemplate(
                    data_dir=self._directory,
                    dataset_name="tokens",
                    split=split,
                    filetype_suffix="array_record",
                    template=_FILE_TEMPLATE,
                ),
            )
            for split, lengths in records.items()
            if lengths
        ]
        tfds.folder_dataset.write_metadata(
            data_dir=self._directory,
            features=self._features,
            split_infos=infos,
            filename_template=_FILE_TEMPLATE,
            check_data=False,
        )


def _features(record: int, dtype: np.dtype) -> Any:
    import tensorflow_datasets as tfds

    # BYTES, since a plain integer tensor goes through varints: a fifth larger, several times slower.
    tensor = tfds.features.Tensor(shape=(record,), dtype=dtype.type, encoding=tfds.features.Encoding.BYTES)
    return tfds.features.FeaturesDict({"tokens": tensor})


def shard_path(directory: Path, split: str, number: int) -> Path:
    """Where a shard lies."""
    return Path(directory) / f"{split}-{number:05d}.array_record"


def metadata(directory: Path) -> dict[str, Any]:
    """{"seq_len", "dtype", "vocab_size", "end_of_text_id"} of a token directory. Raises UserError where none is."""
    path = Path(directory) / _METADATA
    if not path.is_file():
        raise UserError(f"{path}: no such file; build token shards with `phi-jax tokenize`")
    return json.loads(path.read_text())
