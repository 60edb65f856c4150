"""Token shards -> global batches, a pure function of (seed, step): there is no iterator state to lose.

Several token sets can be mixed by weight.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phi_jax.errors import UserError
from phi_jax.tokens.shards import metadata

_READ_AHEAD = 4  # batches
_READ_THREADS = 4


class TokenBatches:
    """Batches of one split through Grain.

    Each epoch of a token set is a permutation of its records, drawn from the seed; sets are interleaved by weight.
    Batch `step` is records step * global_batch_size and following of what results. Of these, process p of N takes the
    rows p, p + N, ..., so the set of records in a global batch is the same for every process count.
    """

    def __init__(
        self,
        sources: Path | Mapping[Path, float],
        *,
        split: str,
        global_batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        shuffle: bool = True,
    ) -> None:
        """sources: a token directory, or several with the share of records that each gives.

        Raises UserError where shards are missing, damaged or do not go together, or hold less than one global batch.
        """
        import grain

        if global_batch_size % process_count:
            raise UserError(
                f"config.training.global_batch_size={global_batch_size} cannot be cut into {process_count} equal parts"
            )
        weights = sources if isinstance(sources, Mapping) else {Path(sources): 1.0}
        self._directories = [Path(d) for d in weights]
        self.seq_len, self.vocab_size = _common_shape(self._directories)
        opened = [_open(directory, split) for directory in self._directories]
        self.num_records: int = sum(map(len, opened))
        if self.num_records < global_batch_size:
            raise UserError(
                f"{self._place}: split {split} has {self.num_records} records, less than one batch of "
                f"{global_batch_size}; lower config.training.global_batch_size, or collect more text"
            )
        # Record ids travel with the tokens: they name the data of a bad step and prove an exact resume. Those of
        # the second set go on where those of the first end.
        first, streams = 0, []
        for source in opened:
            numbers = grain.MapDataset.range(len(source)).seed(seed)
            if shuffle:
                numbers = numbers.shuffle()
            read = functools.partial(_read, source, first)
            streams.append(numbers.repeat().map(read))
            first += len(source)
        mixed = streams[0] if len(streams) == 1 else grain.MapDataset.mix(streams, weights=list(weights.values()))
        rows = mixed[process_index::process_count]
        self._batches = rows.batch(global_batch_size // process_count, drop_remainder=True)

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(tokens int32 [B, seq_len + 1], record numbers int64 [B]) of this process at `step`.

        Raises UserError where a shard cannot be read.
        """
        try:
            tokens, numbers = self._batches[step]
        except Exception as error:
            raise self._damaged(error) from error
        return tokens.astype(np.int32), np.asarray(numbers, np.int64)

    def iterate(self, first_step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches from `first_step` on, read ahead by threads; close the iterator to stop them."""
        import grain

        options = grain.ReadOptions(num_threads=_READ_THREADS, prefetch_buffer_size=_READ_AHEAD)
        iterator = iter(self._batches[first_step:].to_iter_dataset(options))
        try:
            while True:
                try:
                    tokens, numbers = next(iterator)
                except StopIteration:
                    return
                except Exception as error:
                    raise self._damaged(error) from error
                yield tokens.astype(np.int32), np.asarray(numbers, np.int64)
        finally:
            iterator.close()

    @property
    def _place(self) -> str:
        return ", ".join(map(str, self._directories))

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"{self._place}: a shard cannot be read ({' '.join(str(error).split())[:200]}); "
            "rebuild with `phi-jax tokenize`"
        )


def _common_shape(directories: Sequence[Path]) -> tuple[int, int]:
    """(seq_len, vocab_size) of token sets that are to be mixed."""
    shapes = {d: (m["seq_len"], m["vocab_size"]) for d in directories for m in [metadata(d)]}
    for directory, shape in shapes.items():
        if shape != shapes[directories[0]]:
            raise UserError(
                f"{directory}: seq_len and vocabulary {shape} differ from {shapes[directories[0]]} of "
                f"{directories[0]}; tokenize both with the same tokenizer and config.tokenize.seq_len"
            )
    return shapes[directories[0]]


def _open(directory: Path, split: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(directory))
        if split not in builder.info.splits:
            raise UserError(
                f"{directory}: split {split} holds nothing, the texts are too few; add some, or change "
                "config.tokenize.validation_fraction"
            )
        return builder.as_data_source(split)
    except (ValueError, OSError) as error:
        raise UserError(
            f"{directory}: split {split} cannot be opened ({' '.join(str(error).split())[:200]}); "
            "rebuild with `phi-jax tokenize`"
        ) from None


def _read(source: Any, first: int, number: int) -> tuple[np.ndarray, int]:
    return source[number]["tokens"], first + number
