"""Token shards: a TFDS dataset with ArrayRecord inside, TensorFlow never imported.

A split is one stream of tokens, cut into records of seq_len + 1; what remains after the last whole record is dropped
and counted.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phi_jax.errors import UserError, one_line
from phi_jax.store.artifact import Json, atomic_path, write_json

# Without a group size of 1, a random read decodes its neighbours too: 8.0k records/s against 1.5k.
_WRITER_OPTIONS = "group_size:1,zstd:3"
_FILE_TEMPLATE = "{SPLIT}-{SHARD_INDEX}.{FILEFORMAT}"
_METADATA = "tokens.json"


class SplitWriter:
    """Cuts the stream of one split into shards of `records_per_shard` records of seq_len + 1 tokens.

    A record is written as soon as it is whole: what is held does not grow with the stream. Shards that are there are
    kept, being a function of the stream.
    """

    def __init__(self, directory: Path, split: str, *, seq_len: int, dtype: np.dtype, records_per_shard: int) -> None:
        import tensorflow_datasets as tfds

        self.directory, self._split, self.dtype = Path(directory), split, dtype
        self.record = seq_len + 1
        self._records_per_shard = records_per_shard
        # BYTES, since a plain integer tensor goes through varints: a fifth larger, several times slower.
        tensor = tfds.features.Tensor(shape=(self.record,), dtype=dtype.type, encoding=tfds.features.Encoding.BYTES)
        self.features = tfds.features.FeaturesDict({"tokens": tensor})
        self.shards: list[int] = []  # records of each
        self._rest = np.empty(0, dtype)  # of the stream, less than a record
        self._documents = 0
        self._shard = contextlib.ExitStack()
        self._writer: Any  # of the last shard; None where the shard was there

    def shard_path(self, number: int) -> Path:
        """Where a shard lies."""
        return self.directory / f"{self._split}-{number:05d}.array_record"

    def add(self, ids: Sequence[int]) -> None:
        """Adds a document's tokens, its <|endoftext|> among them."""
        self._documents += 1
        self._rest = np.append(self._rest, np.asarray(ids, self.dtype))
        while len(self._rest) >= self.record:
            record, self._rest = np.split(self._rest, [self.record])
            if not sum(self.shards) % self._records_per_shard:
                self._next_shard()
            if self._writer:
                self._writer.write(self.features.serialize_example({"tokens": record}))
            self.shards[-1] += 1

    def close(self) -> dict[str, int]:
        """Ends the last shard. Returns {"documents", "tokens", "records", "dropped_tokens"}."""
        self._shard.close()
        records, dropped = sum(self.shards), len(self._rest)
        return {
            "documents": self._documents,
            "tokens": records * self.record + dropped,
            "records": records,
            "dropped_tokens": dropped,
        }

    def _next_shard(self) -> None:
        from array_record.python import array_record_module

        self._shard.close()
        path, self._writer = self.shard_path(len(self.shards)), None
        self.shards.append(0)
        if not path.exists():
            temporary = self._shard.enter_context(atomic_path(path))
            self._writer = array_record_module.ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)
            self._shard.callback(self._writer.close)


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
