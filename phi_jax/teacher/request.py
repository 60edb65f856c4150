"""What a teacher is asked and what came of it."""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from phi_jax.store.artifact import digest_of

PICODOLLARS = 10**12  # in a dollar; money is counted in whole picodollars, so that sums are exact

Messages = tuple[tuple[str, str], ...]  # (role, content)


@dataclasses.dataclass(frozen=True)
class Request:
    """One request to one model.

    Its key is the hash of model, parameters and prompt: what it is journalled by. The server's address, its JSON mode
    and `label` are no part of it.
    """

    model: str
    messages: Messages
    max_tokens: int  # of the completion, reasoning included; what may be paid at most follows from it
    temperature: float
    seed: int = 0  # tells apart several replies to the same prompt; sent as `seed`
    # The JSON object that is wanted; None = free text. It forbids other fields and has no defaults, for strict modes.
    schema: type[BaseModel] | None = None
    label: str = ""  # what it is for, for people: "exercises/123"

    @functools.cached_property
    def key(self) -> str:
        """SHA-256, hex."""
        return digest_of(
            [
                self.model,
                {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed},
                None if self.schema is None else _form(self.schema),
                [list(message) for message in self.messages],
            ]
        )


@functools.cache
def _form(schema: type[BaseModel]) -> list[Any]:
    """Name and fields. pydantic's JSON Schema may change with its version, and every key would change with it."""
    fields = ([name, str(field.annotation), str(field.metadata)] for name, field in schema.model_fields.items())
    return [schema.__name__, *fields]


def first_problem(error: ValidationError) -> str:
    """One line."""
    wrong = error.errors(include_url=False, include_context=False, include_input=False)[0]
    told = f"{'.'.join(map(str, wrong['loc'])) or 'object'}: {wrong['msg']}"
    return " ".join(told.encode(errors="replace").decode().split())[:300]


# What came of a request. Each but "poisoned" is a reply that was paid for and is never asked for again.
Status = Literal[
    "answered",
    "refused",  # the model declines
    "filtered",  # the server's content filter cut it
    "length",  # max_tokens or the context ended it
    "poisoned",  # given up after `attempts`, or after an error that another attempt does not mend
]
STATUSES: tuple[Status, ...] = get_args(Status)

# Tokens as a server reports them: of the prompt, of the completion with its reasoning, and those of the prompt that
# were cached.
Usage = tuple[int, int, int]


class Reply(NamedTuple):
    """What came of the request with this key. For a request with a schema, `text` is JSON that the schema accepts."""

    key: str
    status: Status
    text: str  # "" where poisoned
    reason: str  # why it is not answered; "" where it is
    model: str  # as the server names what answered; "" where it did not say
    prompt: int  # tokens, of all attempts whose replies arrived
    completion: int  # tokens, with reasoning
    cached: int  # tokens, a part of prompt
    cost: int  # picodollars of all attempts, the lost ones at their full reservation
    attempts: int
