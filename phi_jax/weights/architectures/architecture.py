"""What an architecture's files say about our parameters: one map of names, read in both directions.

Idea of a flat map read both ways: torchtitan's state_dict_adapter.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from phi_jax.errors import UserError
from phi_jax.model.phi import PhiConfig, abstract_params
from phi_jax.store.artifact import Json


class Architecture(NamedTuple):
    """A family of published models that our phi computes.

    names: path of our parameter -> name of the tensor that holds it, a format of {layer} where there is one of each
    layer. A parameter without a name is zero when read, and must be zero when written. Several of one name lie in one
    tensor, of equal shapes, one below the other, and then by `rows`: which of all their rows stands at each row of it.
    buffers: names of constants that old checkpoints hold beside the weights. read_config raises UserError for a
    config.json that means another function than phi.forward; its Path is for messages. write_config: what config.json
    says of a shape in the family's own words; huggingface.export_model adds what all families call the same.
    """

    model_type: str  # as config.json calls it
    names: Mapping[str, str]
    buffers: re.Pattern[str]
    read_config: Callable[[Path, Json], PhiConfig]
    write_config: Callable[[PhiConfig], Json]
    rows: Callable[[PhiConfig], np.ndarray] | None = None

    def parts(self, leaves: Mapping[str, Any], config: PhiConfig) -> dict[str, list[np.ndarray]]:
        """Name of each tensor -> the parameters that it holds, each as torch has it: layer by layer, then the rest.

        leaves: path -> numpy array of each parameter, or of those of some tensors; the parts are views of them.
        """
        found: dict[str, list[np.ndarray]] = {}
        for layer in [*range(config.num_layers), None]:
            for path, name in self.names.items():
                if path in leaves and ("{layer}" in name) == (layer is not None):
                    value = leaves[path] if layer is None else leaves[path][layer]
                    found.setdefault(name.format(layer=layer), []).append(_as_torch(path, value))
        return found

    def shapes(self, config: PhiConfig) -> dict[str, tuple[int, ...]]:
        """Name -> shape of each tensor, in the order of `parts`."""
        leaves = flatten_dict(abstract_params(config), sep="/")
        found = self.parts({path: np.broadcast_to(np.int8(0), leaf.shape) for path, leaf in leaves.items()}, config)
        return {name: (len(parts) * len(parts[0]), *parts[0].shape[1:]) for name, parts in found.items()}

    def tensors(self, leaves: Iterable[tuple[str, Any]], config: PhiConfig) -> Iterator[tuple[str, np.ndarray]]:
        """(name, tensor) of each tensor, as soon as the parameters that it holds have come, in whichever order.

        leaves: (path, array) of each parameter. Raises UserError for one that is not zero and has no name.
        """
        waiting: dict[str, np.ndarray] = {}
        for path, leaf in leaves:
            if path not in self.names and np.any(leaf):
                raise UserError(
                    f"{path} is not zero, and a {self.model_type} has no such parameter: it was trained as a phi; "
                    "export it as phi"
                )
            waiting[path] = np.asarray(leaf)
            together = [other for other, name in self.names.items() if name == self.names.get(path)]
            if waiting.keys() >= {*together}:
                for name, parts in self.parts({other: waiting.pop(other) for other in together}, config).items():
                    yield name, np.concatenate(parts)[self.rows(config)] if self.rows and parts[1:] else parts[0]

    def fill(self, parts: list[np.ndarray], tensor: np.ndarray, config: PhiConfig) -> None:
        """Writes a tensor into the parameters that it holds: the inverse of `tensors`."""
        if self.rows and len(parts) > 1:
            tensor = tensor[np.argsort(self.rows(config))]
        for part, value in zip(parts, np.split(tensor, len(parts)), strict=True):
            part[...] = value


def _as_torch(path: str, value: np.ndarray) -> np.ndarray:
    """A view of one layer's parameter, contiguous as it is, in torch's layout.

    Torch's matrices are [out, in], ours [in, out] with heads as an axis of their own; all else has one axis there.
    """
    if path.endswith("kernel"):
        inputs = 2 if path.endswith("out/kernel") else 1  # axes that are summed over: heads and head_dim, or the width
        return value.reshape(int(np.prod(value.shape[:inputs])), -1).T
    return value if path == "embed/tokens" else value.reshape(-1)


# --- config.json -----------------------------------------------------------------------------------------------


def number(value: Any) -> float:
    """A number of JSON as a float. Raises TypeError for what float() would read besides: strings, true and false."""
    if type(value) not in (int, float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def given(config: Json, field: str, default: Any) -> Any:
    """A field's value, or the default where it is absent or null."""
    value = config.get(field)
    return default if value is None else value


def require_sizes(path: Path, config: Json, fields: Sequence[str]) -> None:
    """Raises UserError for the first field that is no whole number from 1."""
    for field in fields:
        value = config.get(field)
        if type(value) is not int or value < 1:
            raise UserError(f"{path}: {field} is {value!r}; it must be a whole number from 1; get a good copy")


# Values of fields that all families have; others make it another function than `phi.forward`.
_ALLOWED = {"tie_word_embeddings": (False,), "embd_pdrop": (0.0,), "quantization_config": ()}


def require_values(path: Path, config: Json, allowed: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises UserError for the first field whose value is none of those allowed; absent or null always is.

    allowed: fields of this family, beside those of all.
    """
    for field, values in {**allowed, **_ALLOWED}.items():
        value = config.get(field)
        if value is not None and value not in values:
            has = f"only {values[0]!r}" if values else "none"
            raise UserError(f"{path}: {field} is {value!r}, the phi model here has {has}; use another model")
