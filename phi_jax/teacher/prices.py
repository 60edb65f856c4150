"""What a teacher's tokens cost: a dated table in the package, which the user's own replaces name by name."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_jax.errors import UserError
from phi_jax.teacher.request import PICODOLLARS, Endpoint, Messages, Request, Usage

if TYPE_CHECKING:
    from pydantic import BaseModel

_PACKAGED = Path(__file__).with_name("prices.json")
_UNIT, _TOKENS = "dollars per million tokens", 10**6

# Tokens that a chat template puts around what is sent, at most. Around a message: ChatML, Llama 3 and Harmony take 3 to
# 6 and the role's name. Around all: a start and the opening of the answer (under 10), the sentence that asks for JSON
# (body_of, 80 bytes), and the default system prompt that some templates add where there is none (Qwen 20 tokens,
# Llama 3 and gpt-oss under 100, Mistral Small, the longest we know, about 700). Orders, from the templates' texts.
_MESSAGE_OVERHEAD = 16
_REQUEST_OVERHEAD = 1024


@dataclasses.dataclass(frozen=True)
class Price:
    """Of one model: picodollars a token. batch_percent: of these, what the Batch API charges."""

    input: int
    cached_input: int
    output: int
    batch_percent: int
    as_of: str

    def cost(self, usage: Usage, *, batch: bool) -> int:
        """Picodollars, rounded up."""
        fresh = usage.prompt - usage.cached
        full = fresh * self.input + usage.cached * self.cached_input + usage.completion * self.output
        return self._discounted(full, batch)

    def reservation(self, request: Request, correction: Messages = (), *, batch: bool) -> int:
        """The most that one attempt at `request` can cost. correction: messages that are sent behind its own.

        It holds for tokenizers none of whose tokens stands for less than a byte of the prompt, and servers that keep
        to max_tokens.
        """
        prompt = most_prompt_tokens(request, correction) * max(self.input, self.cached_input)
        return self._discounted(prompt + request.max_tokens * self.output, batch)

    def _discounted(self, full: int, batch: bool) -> int:
        return -(-full * self.batch_percent // 100) if batch else full


def price_of(endpoint: Endpoint, prices: Mapping[str, Price]) -> Price:
    """By `price_as`, or the model's name. Raises UserError where there is no such entry: no price is guessed."""
    name = endpoint.price_as or endpoint.model
    if name not in prices:
        raise UserError(
            f"teacher {endpoint.name}: no price of {name!r} in the price table; set config.teachers.{endpoint.name}"
            '.price_as to an entry of it ("local" costs nothing), or name a file with one in config.budget.prices'
        )
    return prices[name]


def load_prices(path: str = "") -> dict[str, Price]:
    """Price by name: the package's table; entries of the user's file `path` replace those of the same name.

    Raises UserError for a file that cannot be read, or an entry that is no price.
    """
    return _read(_PACKAGED) | (_read(Path(path)) if path else {})


def most_prompt_tokens(request: Request, correction: Messages = ()) -> int:
    """Upper bound of the tokens that a server counts as the prompt."""
    messages = request.messages + correction
    said = sum(len(f"{role}{content}".encode(errors="surrogatepass")) + _MESSAGE_OVERHEAD for role, content in messages)
    return said + _REQUEST_OVERHEAD + (0 if request.schema is None else _schema_bytes(request.schema))


@functools.cache
def _schema_bytes(schema: type[BaseModel]) -> int:
    """In the longest form in which a server, or we, may show the schema to the model: indented, ASCII."""
    return len(json.dumps(schema.model_json_schema(), indent=4))


def _read(path: Path) -> dict[str, Price]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
        if table["unit"] != _UNIT:
            raise ValueError(f"its unit is {table['unit']!r}")
        as_of = str(table.get("as_of", ""))
        return {name: _price(f"models.{name}", entry, as_of) for name, entry in table["models"].items()}
    except OSError as error:
        raise UserError(
            f"{path}: the price table cannot be read ({error.strerror}); see config.budget.prices"
        ) from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(
            f'{path}: no price table ({error}); it needs "unit": "{_UNIT}" and "models": {{name: {{input, output, '
            "cached_input, batch_percent}}, with numbers from 0 up, and percent in whole numbers to 100"
        ) from None


def _price(place: str, entry: Any, as_of: str) -> Price:
    amounts = [entry["input"], entry.get("cached_input", entry["input"]), entry["output"]]
    percent = entry.get("batch_percent", 100)
    numbers = all(type(amount) in (int, Decimal) and Decimal(amount).is_finite() for amount in amounts)
    if not (numbers and all(0 <= a < _TOKENS for a in amounts) and type(percent) is int and 0 <= percent <= 100):
        raise ValueError(f"{place} holds no price")
    fresh, cached, output = (math.ceil(Decimal(amount) * PICODOLLARS / _TOKENS) for amount in amounts)
    return Price(fresh, cached, output, percent, str(entry.get("as_of", as_of)))
