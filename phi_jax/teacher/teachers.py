"""The teachers that a config names, with the journal and the budget that they share: what stages ask through.

A stage asks first, `ask`, which brings a reply to each of its requests into the journal, and then goes through its
requests in their order, `reply`. So what it writes is a function of the journal, whatever came when.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.teacher import asking
from phi_jax.teacher.budget import Run
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.prices import Price, load_prices, price_of
from phi_jax.teacher.request import PICODOLLARS, Endpoint, Reply, Request, Status
from phi_jax.teacher.server.batch import Batches

Requests = Callable[[], Iterable[Request]]


def parse_shares(spec: str) -> dict[str, float]:
    """Teacher's name -> its share of the requests: "writer" or "writer:0.8,ours:0.2". The shares sum to 1.

    Raises UserError for a text of another form.
    """
    shares: dict[str, float] = {}
    parts = spec.split(",")
    for part in parts:
        name, _, weight = part.strip().partition(":")
        with contextlib.suppress(ValueError):
            shares[name] = float(weight or 1)
        if not name or not 0 < shares.get(name, 0) < float("inf"):
            raise UserError(f"teacher {spec!r}: must read like 'writer' or 'writer:0.8,ours:0.2', with weights above 0")
    if len(shares) < len(parts):
        raise UserError(f"teacher {spec!r}: names one teacher twice; give each once")
    return {name: weight / sum(shares.values()) for name, weight in shares.items()}


@dataclasses.dataclass(frozen=True)
class Shares:
    """Which teacher gets which request."""

    endpoints: tuple[Endpoint, ...]
    weights: tuple[float, ...]  # sum to 1

    def endpoint(self, number: int) -> Endpoint:
        """Of request `number`: by hash, so that one more request moves no other to another teacher."""
        position = int.from_bytes(hashlib.sha256(f"teacher of {number}".encode()).digest()[:8]) / 2**64
        for endpoint, weight in zip(self.endpoints, self.weights, strict=True):
            position -= weight
            if position < 0:
                return endpoint
        return self.endpoints[-1]


class Teachers:
    """See the module. Use as a context manager: it holds the journal against other processes."""

    def __init__(
        self, endpoints: dict[str, Endpoint], journal: Journal, prices: dict[str, Price], cap: int, live: bool
    ) -> None:
        """cap: picodollars, on all that was ever booked in this journal. live: no teacher is asked in batches."""
        self._known, self.journal, self.prices, self.cap, self._live = endpoints, journal, prices, cap, live
        self._chosen: dict[str, Endpoint] = {}  # by model
        self._asked: list[Requests] = []

    @classmethod
    def of(cls, config: Config, workdir: os.PathLike | str, *, live: bool = False) -> Teachers:
        """From config.teachers and config.budget. The journal lies in W/teacher, or where config.budget.journal says.

        live: for a pilot, which cannot wait for a batch. Raises UserError for fields without sense, and where another
        process holds the journal.
        """
        directory = config.budget.journal or os.path.join(os.fspath(workdir), "teacher")
        endpoints, prices = _known(config)
        return cls(endpoints, Journal(directory), prices, round(config.budget.max_dollars * PICODOLLARS), live)

    def __enter__(self) -> Teachers:
        return self

    def __exit__(self, *error: object) -> None:
        self.journal.close()

    def shares(self, spec: str) -> Shares:
        """The teachers of "writer" or "writer:0.8,ours:0.2". Raises UserError for one that config.teachers lacks."""
        weights = parse_shares(spec)
        for name in weights:
            if name not in self._known:
                there = ", ".join(self._known) or "none"
                raise UserError(f"teacher {name!r}: no section config.teachers.{name}; there are: {there}")
            endpoint = self._known[name]
            other = self._chosen.setdefault(endpoint.model, endpoint)
            if other != endpoint:
                raise UserError(
                    f"config.teachers: {other.name} and {name} are both the model {endpoint.model!r}; replies are "
                    "journalled by model, so give the servers different model names"
                )
        return Shares(tuple(self._known[name] for name in weights), tuple(weights.values()))

    def ask(self, requests: Requests, label: str, total: int) -> Run:
        """Brings a reply to each of the requests into the journal; those that have one cost nothing.

        requests: gives them anew, in the same order, each time it is called. Raises as asking.ask.
        """
        self._asked.append(requests)
        jobs = {
            dataclasses.replace(endpoint, mode="live") if self._live else endpoint: _of_model(model, requests())
            for model, endpoint in self._chosen.items()
        }
        return asking.ask(jobs, self.journal, self.prices, cap=self.cap, label=label, total=total)

    def cancel_batches(self) -> int:
        """Cancels what the Batch API still works on, of all teachers; keeps what it has done. Returns how many."""
        run = Run(self.journal, self.cap)
        return sum(
            asyncio.run(Batches(endpoint, price_of(endpoint, self.prices), run).cancel())
            for endpoint in self._known.values()
            if endpoint.mode == "batch"
        )

    def planned_cost(self, request: Request, reply: Reply) -> int:
        """Picodollars of a reply if it came as its teacher's section says: the batch price though it was asked live."""
        endpoint = self._chosen[request.model]
        if self._live and endpoint.mode == "batch":
            return price_of(endpoint, self.prices).cost(reply.usage, batch=True)
        return reply.cost

    def reply(self, key: str) -> Reply:
        """What came of the request with this key. Raises KeyError where it was not asked."""
        found = self.journal.find(key)
        if found is None:
            raise KeyError(f"request {key} has no reply in the journal")
        return found

    def replies(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Reply]]:
        """Each request with what came of it, in their order."""
        return ((request, self.reply(request.key)) for request in requests)

    def note(self) -> dict[str, Any]:
        """For an artifact's facts, over all requests that were asked for through this object: by teacher the model,
        its price list, requests by what came of them, tokens and dollars.
        """
        counts: dict[str, Counter[str]] = {model: Counter() for model in self._chosen}
        for requests in self._asked:
            for request, reply in self.replies(requests()):
                counts[request.model].update(
                    {
                        reply.status.value: 1,
                        "requests": 1,
                        "picodollars": reply.cost,
                        "prompt_tokens": reply.usage.prompt,
                        "completion_tokens": reply.usage.completion,
                    }
                )
        names = (*map(str, Status), "requests", "prompt_tokens", "completion_tokens")
        teachers = {
            endpoint.name: {
                "model": model,
                "mode": endpoint.mode,
                "prices_as_of": price_of(endpoint, self.prices).as_of,
                **{name: counts[model][name] for name in names},
                "dollars": counts[model]["picodollars"] / PICODOLLARS,
            }
            for model, endpoint in self._chosen.items()
        }
        return {"teachers": teachers, "dollars": sum(c["picodollars"] for c in counts.values()) / PICODOLLARS}


def check(config: Config) -> None:
    """Raises UserError for a teacher or a budget without sense, and a model without a price; opens nothing.

    What would otherwise show when the stage's turn comes, hours into a run.
    """
    endpoints, prices = _known(config)
    for endpoint in endpoints.values():
        price_of(endpoint, prices)


def _known(config: Config) -> tuple[dict[str, Endpoint], dict[str, Price]]:
    endpoints = {}
    fields = [field.name for field in dataclasses.fields(Endpoint) if field.name != "name"]
    for name in config.teachers.to_dict():
        rules, place = getattr(config.teachers, name), f"config.teachers.{name}"
        endpoint = endpoints[name] = Endpoint(name, **{field: getattr(rules, field) for field in fields})
        if not endpoint.base_url.startswith(("http://", "https://")):
            raise UserError(f"{place}.base_url={endpoint.base_url!r}: must begin with http:// or https://")
        if not endpoint.model:
            raise UserError(f"{place}.model is empty; name the model as its server calls it")
    return endpoints, load_prices(config.budget.prices)


def _of_model(model: str, requests: Iterable[Request]) -> Iterator[Request]:
    return (request for request in requests if request.model == model)
