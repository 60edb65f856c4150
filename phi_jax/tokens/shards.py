"""Token shards: a TFDS dataset with ArrayRecord inside, TensorFlow never imported.

A split is one stream of tokens, cut into records of seq_len + 1; what remains after the last whole record is dropped
and counted.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from phi_jax.errors import UserError, one_line
from phi_jax.store.artifact import Json, atomic_path, write_json

# Without a group size of 1, a random read decodes its neighbours too: 8.0k records/s against 1.5k.
_WRITER_OPTIONS = "group_size:1,zstd:3"
_FILE_TEMPLATE = "{SPLIT}-{SHARD_INDEX}.{FILEFORMAT}"
_METADATA = "tokens.json"


class SplitWriter:
    """Cuts the stream of one split into shards of `records_per_shard` records of seq_len + 1 tokens.

    Shards that are there are kept, being a function of the stream.
    """

    def __init__(self, directory: Path, split: str, *, seq_len: int, dtype: np.dtype, records_per_shard: int) -> None:
        import tensorflow_datasets as tfds

        self.directory, self._split, self.dtype = Path(directory), split, dtype
        self.record = seq_len + 1
        self._shard_tokens = self.record * records_per_shard
        # BYTES, since a plain integer tensor goes through varints: a fifth larger, several times slower.
        tensor = tfds.features.Tensor(shape=(self.record,), dtype=dtype.type, encoding=tfds.features.Encoding.BYTES)
        self.features = tfds.features.FeaturesDict({"tokens": tensor})
        self.shards: list[int] = []  # records of each
        self._buffer: list[np.ndarray] = []
        self._buffered = self._documents = 0

    def shard_path(self, number: int) -> Path:
        """Where a shard lies."""
        return self.directory / f"{self._split}-{number:05d}.array_record"

    def add(self, ids: Sequence[int]) -> None:
        """Adds a document's tokens, its <|endoftext|> among them."""
        self._documents += 1
        self._buffer.append(np.asarray(ids, self.dtype))
        self._buffered += len(ids)
        while self._buffered >= self._shard_tokens:
            tokens = np.concatenate(self._buffer)
            self._write_shard(tokens[: self._shard_tokens])
            self._buffer = [tokens[self._shard_tokens :]]
            self._buffered -= self._shard_tokens

    def close(self) -> dict[str, int]:
        """Writes the last shard. Returns {"documents", "tokens", "records", "dropped_tokens"}."""
        dropped = self._buffered % self.record
        if self._buffered >= self.record:
            self._write_shard(np.concatenate(self._buffer)[: self._buffered - dropped])
        records = sum(self.shards)
        tokens = records * self.record + dropped
        return {"documents": self._documents, "tokens": tokens, "records": records, "dropped_tokens": dropped}

    def _write_shard(self, tokens: np.ndarray) -> None:
        from array_record.python import array_record_module

        path = self.shard_path(len(self.shards))
        self.shards.append(len(tokens) // self.record)
        if path.exists():
            return
        with atomic_path(path) as temporary:
            writer = array_record_module.ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)
            for record in tokens.reshape(-1, self.record):
                writer.write(self.features.serialize_example({"tokens": record}))
            writer.close()


def write_metadata(writers: Mapping[str, SplitWriter], *, vocab_size: int, end_of_text_id: int) -> None:
    """Makes a directory of shards a TFDS dataset, and says what its tokens are. writers: closed, by split."""
    import tensorflow_datasets as tfds

    first = next(iter(writers.values()))
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=writer.shards,
            num_bytes=sum(writer.shard_path(i).stat().st_size for i in range(len(writer.shards))),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=writer.directory,
                dataset_name="tokens",
                split=split,
                filetype_suffix="array_record",
                template=_FILE_TEMPLATE,
            ),
        )
        for split, writer in writers.items()
        if writer.shards
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=first.directory,
        features=first.features,
        split_infos=infos,
        filename_template=_FILE_TEMPLATE,
        check_data=False,
    )
    about = {"dtype": first.dtype.name, "vocab_size": vocab_size, "end_of_text_id": end_of_text_id}
    write_json(first.directory / _METADATA, {"seq_len": first.record - 1, **about})


def metadata(directory: Path) -> Json:
    """{"seq_len", "dtype", "vocab_size", "end_of_text_id"} of a token directory. Raises UserError where none is."""
    path = Path(directory) / _METADATA
    if not path.is_file():
        raise UserError(f"{path}: no such file; build token shards with `phi-jax tokenize`")
    try:
        about = json.loads(path.read_text())
        if any(type(about[name]) is not int or about[name] < 0 for name in ("seq_len", "vocab_size", "end_of_text_id")):
            raise ValueError("no whole numbers")
        return about
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from None


def damaged(place: Path | str, error: Exception) -> UserError:
    """What is to be said of a file of token shards that cannot be read, whatever a library raised."""
    return UserError(
        f"{place}: cannot be read ({type(error).__name__}: {one_line(error)}); remove its stage's directory and "
        "rebuild with `phi-jax tokenize`"
    )
