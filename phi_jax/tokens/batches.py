"""Token shards -> global batches, a pure function of (seed, step): there is no iterator state to lose.

Several token sets can be mixed by weight.
"""

import bisect
import itertools
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phi_jax.errors import UserError
from phi_jax.tokens.shards import damaged, metadata

_READ_AHEAD = 4  # batches
_READ_THREADS = 4


class TokenBatches:
    """Batches of one split through Grain.

    Each epoch of a token set is a permutation of its records, drawn from the seed; sets are interleaved by weight.
    Batch `step` is records step * global_batch_size and following of what results. A process reads only the rows of
    it that lie on its devices, so that a global batch is the same for every process count.
    """

    def __init__(
        self,
        weights: Mapping[Path, float],
        *,
        split: str,
        global_batch_size: int,
        seed: int,
        rows: Sequence[int] | None = None,
        shuffle: bool = True,
    ) -> None:
        """weights: token directories, with the share of records that each gives. rows: those of a global batch that are
        read here; None = all.

        Raises UserError where shards are missing, damaged or do not go together, or hold less than one global batch.
        """
        import grain

        self.seq_len, self.vocab_size, self.end_of_text_id = _common_shape([*weights])
        self._opened = [_open(directory, split, self.seq_len + 1) for directory in weights]
        self._rows = list(range(global_batch_size) if rows is None else rows)
        self._global_batch_size = global_batch_size
        self.num_records = sum(map(len, self._opened))
        if self.num_records < global_batch_size:
            raise UserError(
                f"{', '.join(map(str, weights))}: split {split} has {self.num_records} records, less than one batch of "
                f"{global_batch_size}; lower global_batch_size in the rules of this training, or collect more text"
            )
        # Record numbers travel with the tokens: they name the data of a bad step and prove an exact resume. Those of
        # the second set go on where those of the first end.
        first, streams = 0, []
        for source in self._opened:
            numbers = grain.MapDataset.range(first, first + len(source)).seed(seed)
            streams.append((numbers.shuffle() if shuffle else numbers).repeat())
            first += len(source)
        self._numbers = grain.MapDataset.mix(streams, weights=[*weights.values()])

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(tokens int32 [rows, seq_len + 1], record numbers int64 [rows]) of this process's rows at `step`.

        Raises UserError where a shard cannot be read.
        """
        begin = int(step) * self._global_batch_size
        numbers = [int(self._numbers[begin + row]) for row in self._rows]
        return np.array([self._record(number) for number in numbers], np.int32), np.array(numbers, np.int64)

    def _record(self, number: int) -> np.ndarray:
        for source in self._opened:
            if number < len(source):
                try:
                    return source[number]["tokens"].reshape(self.seq_len + 1)
                except Exception as error:
                    split = source.dataset_info.splits[source.split]
                    shard = bisect.bisect_right([*itertools.accumulate(split.shard_lengths)], number)
                    raise damaged(split.filepaths[shard], error) from error
            number -= len(source)
        raise IndexError(number)

    def record_numbers(self, step: int) -> list[int]:
        """The record numbers of the whole global batch; reads no shard."""
        begin = step * self._global_batch_size
        return [int(self._numbers[begin + row]) for row in range(self._global_batch_size)]

    def iterate(self, first_step: int, end: int) -> Generator[tuple[np.ndarray, np.ndarray]]:
        """The batches of the steps first_step..end-1, read ahead by threads; close the iterator to stop them."""
        import grain

        options = grain.ReadOptions(num_threads=_READ_THREADS, prefetch_buffer_size=_READ_AHEAD)
        steps = grain.MapDataset.range(first_step, max(first_step, end))
        iterator = iter(steps.map(self.batch).to_iter_dataset(options))
        try:
            yield from iterator
        finally:
            iterator.close()


def _common_shape(directories: Sequence[Path]) -> tuple[int, int, int]:
    """(seq_len, vocab_size, end_of_text_id) of token sets that are to be mixed."""
    shapes = [(about["seq_len"], about["vocab_size"], about["end_of_text_id"]) for about in map(metadata, directories)]
    for directory, shape in zip(directories, shapes, strict=True):
        if shape != shapes[0]:
            raise UserError(
                f"{directory}: seq_len, vocabulary and end of text {shape} differ from {shapes[0]} of "
                f"{directories[0]}; tokenize both with the same tokenizer and config.tokenize.seq_len"
            )
    return shapes[0]


def _open(directory: Path, split: str, record: int) -> Any:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(directory))
        if builder.info.features["tokens"].shape != (record,):
            raise ValueError(f"records of {record} tokens are not what it holds")
        if split in builder.info.splits:
            return builder.as_data_source(split)
    except Exception as error:  # of many kinds: of TFDS, of protobuf, of the parsers below them
        raise damaged(f"{directory}: dataset_info.json, features.json or tokens.json", error) from None
    raise UserError(
        f"{directory}: split {split} holds nothing, the texts are too few; add some or change "
        "config.tokenize.validation_fraction, and rebuild with `phi-jax tokenize`"
    )
