"""The exercises whose embeddings lie nearest to a problem's (paper, section 5.2: of CodeGen-Mono-350M).

The distance is L2 between normalised vectors, 0 to 2: sqrt(2 - 2 cos). A vector is made by config.filter's rules.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from etils.epath import Path

from phi_jax.config import Config
from phi_jax.parallel.embedder import make_embedder
from phi_jax.store import documents
from phi_jax.weights.models import load_model

NEAREST = 3  # exercises of each part that are kept for a problem
_SCHEMA = pa.schema({"task": pa.string(), "id": pa.string(), "distance": pa.float64()})


def write_nearest(
    directory: Path, parts: Sequence[Path], problems: Mapping[str, str], config: Config, label: str
) -> list[documents.Row]:
    """Writes the NEAREST documents of each part to each problem; returns each problem's nearest: task, id, distance.

    problems: task -> text. config: with the sections prune and filter. Raises UserError where config.prune.model is no
    model.
    """
    params, shape, tokenizer = load_model(config.prune.model)
    embed_tokens = make_embedder(params, shape, config.filter)

    def unit_vectors(texts: Sequence[str]) -> np.ndarray:
        vectors_NxD = embed_tokens(tokenizer.encode_batch(texts)).astype(np.float64)
        return vectors_NxD / np.linalg.norm(vectors_NxD, axis=1, keepdims=True)

    problems_PxD = unit_vectors(list(problems.values()))

    def nearest(number: int) -> Iterator[documents.Row]:
        rows = list(documents.read_part(parts[number], ("id", "text")))
        cosines_PxN = problems_PxD @ unit_vectors([row["text"] for row in rows]).T
        # As far as can be where a text has no token.
        distances_PxN = np.nan_to_num(np.sqrt(np.maximum(2 - 2 * cosines_PxN, 0)), nan=2)
        for task, distances_N in zip(problems, distances_PxN, strict=True):
            for n in np.argsort(distances_N, kind="stable")[:NEAREST].tolist():
                yield {"task": task, "id": rows[n]["id"], "distance": float(distances_N[n])}

    documents.write_parts(directory, len(parts), nearest, _SCHEMA, label=f"{label} embeddings")
    found = sorted(documents.read(directory, _SCHEMA.names), key=lambda row: (-row["distance"], row["id"]))
    return [*{row["task"]: row for row in found}.values()]
