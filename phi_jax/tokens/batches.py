"""Token shards -> global batches, a pure function of (seed, step): there is no iterator state to lose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from phi_jax.errors import UserError
from phi_jax.tokens.shards import metadata

_READ_AHEAD = 4  # batches
_READ_THREADS = 4


class TokenBatches:
    """Batches of one split through Grain.

    Each epoch is a permutation of the split's records, drawn from the seed; batch `step` is records
    step * global_batch_size and following of the epochs laid end to end. Of these, process p of N takes the rows
    p, p + N, ..., so the set of records in a global batch is the same for every process count.
    """

    def __init__(
        self,
        directory: Path,
        *,
        split: str,
        global_batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        shuffle: bool = True,
    ) -> None:
        """Raises UserError where the shards are missing or damaged, or hold less than one global batch."""
        import grain
        import tensorflow_datasets as tfds

        if global_batch_size % process_count:
            raise UserError(
                f"config.training.global_batch_size={global_batch_size} cannot be cut into {process_count} equal parts"
            )
        described = metadata(Path(directory))
        self.seq_len: int = described["seq_len"]
        self.vocab_size: int = described["vocab_size"]
        self._directory = Path(directory)
        try:
            source = tfds.builder_from_directory(str(directory)).as_data_source(split)
        except (ValueError, OSError) as error:
            raise UserError(
                f"{directory}: split {split} cannot be opened ({' '.join(str(error).split())[:200]}); "
                "rebuild with `phi-jax tokenize`"
            ) from None
        self.num_records: int = len(source)
        if self.num_records < global_batch_size:
            raise UserError(
                f"{directory}: split {split} has {self.num_records} records, less than one batch of "
                f"{global_batch_size}; lower config.training.global_batch_size, or collect more text"
            )
        numbers = grain.MapDataset.range(self.num_records).seed(seed)
        if shuffle:
            numbers = numbers.shuffle()
        # Record ids travel with the tokens: they name the data of a bad step and prove an exact resume.
        rows = numbers.repeat()[process_index::process_count].map(lambda number: (source[number]["tokens"], number))
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

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"{self._directory}: a shard cannot be read ({' '.join(str(error).split())[:200]}); "
            "rebuild with `phi-jax tokenize`"
        )
