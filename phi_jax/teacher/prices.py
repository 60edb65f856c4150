"""What a teacher's tokens cost: a dated table in the package, which the user's own replaces name by name."""

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from phi_jax.errors import UserError
from phi_jax.store.rows import opened
from phi_jax.teacher.request import PICODOLLARS, Request, Usage, first_problem

_PACKAGED = Path(__file__).with_name("prices.json")
_MILLION = 10**6

# Tokens that a chat template puts around what is sent, at most. Around a message: ChatML, Llama 3 and Harmony take 3 to
# 6 and the role's name. Around all: a start and the opening of the answer (under 10), the sentence that asks for JSON
# (body_of, 80 bytes), and the default system prompt that some templates add where there is none (Qwen 20 tokens,
# Llama 3 and gpt-oss under 100, Mistral Small, the longest we know, about 700). Orders, from the templates' texts.
_MESSAGE_OVERHEAD = 16
_REQUEST_OVERHEAD = 1024

_Amount = Annotated[Decimal, Field(ge=0, lt=_MILLION)]


class Price(BaseModel, frozen=True):
    """Of one model, in dollars per million tokens. batch_percent: of these, what the Batch API charges."""

    input: _Amount
    output: _Amount
    cached_input: _Amount | None = None  # None: that of `input`
    batch_percent: int = Field(100, ge=0, le=100)
    as_of: str = ""

    def cost(self, usage: Usage, *, batch: bool) -> int:
        """Picodollars, rounded up."""
        cached_input = self.input if self.cached_input is None else self.cached_input
        prompt, completion, cached = usage
        dollars = (prompt - cached) * self.input + cached * cached_input + completion * self.output
        return math.ceil(dollars * (PICODOLLARS // _MILLION) * (self.batch_percent if batch else 100) / 100)

    def reservation(self, request: Request, *, batch: bool) -> int:
        """The most picodollars that one attempt at `request` can cost.

        It holds for tokenizers none of whose tokens stands for less than a byte of the prompt, and servers that keep
        to max_tokens.
        """
        prompt = most_prompt_tokens(request)
        return max(self.cost((prompt, request.max_tokens, cached), batch=batch) for cached in (0, prompt))


class Endpoint(NamedTuple):
    """One teacher: a model behind an OpenAI-compatible server (a section of config.teachers)."""

    name: str  # of its section
    price: Price
    model: str  # as the server calls it
    base_url: str  # e.g. "https://api.openai.com/v1"
    key_variable: str  # environment variable that holds the API key; "" = the server wants none
    mode: str  # "live": chat completions; "batch": the Batch API
    window: int  # live requests in flight at most
    batch_requests: int  # requests of one batch at most
    timeout: float  # seconds that one attempt may take from sending to the reply's last byte
    attempts: int  # of one request until it is given up; a hundred that a rate limit turned away count as one
    json_mode: str = "schema"  # how JSON is asked for: "schema", "object" or "text" (server/dialect.py)


# Of the teacher that `evaluate --server` makes, the command's options; the name of no section of a config.
SERVER = "--server"
_OPTIONS = {"model": "--server-model", "key_variable": "--key-variable", "price_as": "--price-as"}


def option_of(name: str, field: str) -> str:
    """What the user sets a field of a teacher by, for messages."""
    return _OPTIONS.get(field, SERVER) if name == SERVER else f"config.teachers.{name}.{field}"


class _Table(BaseModel):
    unit: Literal["dollars per million tokens"]
    models: dict[str, Price]


def price_of(name: str, model: str, price_as: str, prices: Mapping[str, Price]) -> Price:
    """Of the teacher `name`, by `price_as`, or its model. Raises UserError where there is none: no price is guessed."""
    entry = price_as or model
    if entry not in prices:
        raise UserError(
            f"teacher {name}: no price of {entry!r} in the price table; set {option_of(name, 'price_as')} to an "
            'entry of it ("local" costs nothing), or name a file with one in config.budget.prices'
        )
    return prices[entry]


def load_prices(path: str = "") -> dict[str, Price]:
    """Price by name: the package's table; entries of the user's file `path` replace those of the same name.

    Raises UserError for a file that cannot be read, or an entry that is no price.
    """
    prices: dict[str, Price] = {}
    for file in filter(None, (_PACKAGED, path)):
        with opened(file) as table:
            text = table.read()
        try:
            prices |= _Table.model_validate_json(text).models
        except ValidationError as error:
            raise UserError(
                f'{file}: no price table ({first_problem(error)}); it needs "unit": "dollars per million tokens" and '
                '"models": {name: {input, output, cached_input, batch_percent}}'
            ) from None
    return prices


def most_prompt_tokens(request: Request) -> int:
    """Upper bound of the tokens that a server counts as the prompt.

    A schema counts in the longest form in which a server, or we, may show it to the model: indented, ASCII.
    """
    said = "".join(f"{role}{content}" for role, content in request.messages).encode(errors="surrogatepass")
    shown = "" if request.schema is None else json.dumps(request.schema.model_json_schema(), indent=4)
    return len(said) + len(request.messages) * _MESSAGE_OVERHEAD + _REQUEST_OVERHEAD + len(shown)
