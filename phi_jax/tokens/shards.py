"""Token shards: a TFDS dataset with ArrayRecord inside, TensorFlow never imported.

A split is one stream of tokens, cut into records of seq_len + 1; what remains after the last whole record is dropped
and counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phi_jax.errors import UserError
from phi_jax.store.artifact import atomic_path, write_json

# Without a group size of 1, a random read decodes its neighbours too: 8.0k records/s against 1.5k.
_WRITER_OPTIONS = "group_size:1,zstd:3"
_FILE_TEMPLATE = "{SPLIT}-{SHARD_INDEX}.{FILEFORMAT}"
_METADATA = "tokens.json"


class SplitWriter:
    """Cuts the stream of one split into shards of `records_per_shard` records of seq_len + 1 tokens.

    Shards that are there are kept, being a function of the stream.
    """

    def __init__(self, directory: Path, split: str, *, seq_len: int, dtype: np.dtype, records_per_shard: int) -> None:
        self._directory, self._split = Path(directory), split
        self._record = seq_len + 1
        self._dtype = dtype
        self._shard_tokens = self._record * records_per_shard
        self._features = _features(seq_len, dtype)
        self._buffer: list[np.ndarray] = []
        self._buffered = 0
        self.shards: list[int] = []
        """Records of each shard written so far."""
        self.documents = self.tokens = 0

    def add(self, ids: Sequence[int]) -> None:
        """Adds a document's tokens, its <|endoftext|> among them."""
        self.documents += 1
        self.tokens += len(ids)
        self._buffer.append(np.asarray(ids, self._dtype))
        self._buffered += len(ids)
        while self._buffered >= self._shard_tokens:
            tokens = np.concatenate(self._buffer)
            self._write_shard(tokens[: self._shard_tokens])
            self._buffer = [tokens[self._shard_tokens :]]
            self._buffered -= self._shard_tokens

    def close(self) -> dict[str, int]:
        """Writes the last shard. Returns {"documents", "tokens", "records", "dropped_tokens"}."""
        dropped = self._buffered % self._record
        if self._buffered >= self._record:
            self._write_shard(np.concatenate(self._buffer)[: self._buffered - dropped])
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "records": sum(self.shards),
            "dropped_tokens": dropped,
        }

    def _write_shard(self, tokens: np.ndarray) -> None:
        from array_record.python import array_record_module

        path = _shard_path(self._directory, self._split, len(self.shards))
        self.shards.append(len(tokens) // self._record)
        if path.exists():
            return
        with atomic_path(path) as temporary:
            writer = array_record_module.ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)
            for record in tokens.reshape(-1, self._record):
                writer.write(self._features.serialize_example({"tokens": record}))
            writer.close()


def write_metadata(
    directory: Path,
    shards: Mapping[str, Sequence[int]],
    *,
    seq_len: int,
    dtype: np.dtype,
    vocab_size: int,
    end_of_text_id: int,
) -> None:
    """Makes a directory of shards a TFDS dataset, and says what its tokens are. shards: records of each, by split."""
    import tensorflow_datasets as tfds

    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=list(lengths),
            num_bytes=sum(_shard_path(directory, split, i).stat().st_size for i in range(len(lengths))),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=directory,
                dataset_name="tokens",
                split=split,
                filetype_suffix="array_record",
                template=_FILE_TEMPLATE,
            ),
        )
        for split, lengths in shards.items()
        if lengths
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=_features(seq_len, dtype),
        split_infos=infos,
        filename_template=_FILE_TEMPLATE,
        check_data=False,
    )
    about = {"seq_len": seq_len, "dtype": dtype.name, "vocab_size": vocab_size, "end_of_text_id": end_of_text_id}
    write_json(directory / _METADATA, about)


def metadata(directory: Path) -> dict[str, Any]:
    """{"seq_len", "dtype", "vocab_size", "end_of_text_id"} of a token directory. Raises UserError where none is."""
    path = Path(directory) / _METADATA
    if not path.is_file():
        raise UserError(f"{path}: no such file; build token shards with `phi-jax tokenize`")
    return json.loads(path.read_text())


def _features(seq_len: int, dtype: np.dtype) -> Any:
    import tensorflow_datasets as tfds

    # BYTES, since a plain integer tensor goes through varints: a fifth larger, several times slower.
    tensor = tfds.features.Tensor(shape=(seq_len + 1,), dtype=dtype.type, encoding=tfds.features.Encoding.BYTES)
    return tfds.features.FeaturesDict({"tokens": tensor})


def _shard_path(directory: Path, split: str, number: int) -> Path:
    return directory / f"{split}-{number:05d}.array_record"
