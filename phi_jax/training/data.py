"""What a run is trained on and what its validation loss is taken on, laid over its mesh."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.parallel.mesh import batch_sharding, batch_ways, local_rows, make_mesh
from phi_jax.store.artifact import Inputs
from phi_jax.tokens.batches import TokenBatches
from phi_jax.training.rules import check_batch
from phi_jax.weights.models import tokenizer_of


class Data:
    """The batches of a mixture of token sets."""

    def __init__(self, config: Config, rules: Config, inputs: Inputs, mixture: Sequence[tuple[str, float]]) -> None:
        """mixture: (name of an input, its share of the records).

        Raises UserError where the sets have different tokenizers, or the batch does not fit the mesh.
        """
        self.batch_size: int = rules.global_batch_size
        self.mesh = make_mesh(rules.mesh)
        check_batch(rules, batch_ways(self.mesh))
        self._rows = local_rows(self.mesh, self.batch_size)
        sets = [(inputs[name], share) for name, share in mixture]
        self.tokens = sets[0][0]
        for other, _ in sets:
            if tokenizer_of(other) != tokenizer_of(self.tokens):
                raise UserError(
                    f"{other.label}: its tokenizer is not that of {self.tokens.label}; tokenize both with the same one"
                )
        self.tokenizer = Path(self.tokens.path("tokenizer"))
        self.identities = {name: inputs[name].identity for name, _ in mixture}
        by_people = sum(share for tokens, share in sets if tokens.facts.get("written_by") == "people")
        self.people_share = round(by_people / sum(share for _, share in sets), 6)

        shares = {Path(tokens.path("tokens")): share for tokens, share in sets}
        self.train = TokenBatches(
            shares, split="train", global_batch_size=self.batch_size, seed=config.seed, rows=self._rows
        )
        # Held-out records come one by one: there may be fewer than a batch of them.
        self._held_out = TokenBatches(shares, split="validation", global_batch_size=1, seed=config.seed, shuffle=False)
        self._validated = _each_once(self._held_out, rules.validation_batches * self.batch_size)
        self.document_end = self.train.end_of_text_id if rules.document_masks else None

    def place(self, tokens_RxT1: Any) -> jax.Array:
        """This process's rows as a part of the global batch [B, seq_len + 1]."""
        shape = (self.batch_size, tokens_RxT1.shape[1])
        return jax.make_array_from_process_local_data(batch_sharding(self.mesh), tokens_RxT1, shape)

    def validation_loss(self, eval_step: jax.stages.Wrapped, params: Any) -> jax.Array:
        """Mean loss [] over config.training.validation_batches batches of held-out records, each record once."""
        total: Any = 0.0
        # The last batch is filled up with rows of -1. No loss is added for them, but each loss is divided by all rows.
        padding = np.full((1, self.train.seq_len + 1), -1, np.int32)
        for begin in range(0, len(self._validated), self.batch_size):
            positions = self._validated[begin : begin + self.batch_size]
            rows = [self._held_out.batch(positions[row])[0] if row < len(positions) else padding for row in self._rows]
            loss = eval_step(params, self.place(np.concatenate(rows)))
            total = jax.block_until_ready(total) + loss  # no more than two batches ahead of the devices
        return total / (len(self._validated) / self.batch_size)


def _each_once(records: TokenBatches, most: int) -> list[int]:
    """Positions in an endless stream of single records at which the first `most` different records stand."""
    found: dict[int, int] = {}
    position = 0
    while len(found) < min(most, records.num_records):
        (number,) = records.record_numbers(position)
        found.setdefault(number, position)
        position += 1
    return list(found.values())
