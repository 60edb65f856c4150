"""The teachers that a config names, with the journal and the budget that they share: what stages ask through.

A stage asks first, `ask`, which brings a reply to each of its requests into the journal, and then goes through its
requests in their order, `reply`. So what it writes is a function of the journal, whatever came when.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store.artifact import Json
from phi_jax.store.documents import uniform
from phi_jax.teacher import asking
from phi_jax.teacher.budget import Run
from phi_jax.teacher.journal import Journal, journal_directory
from phi_jax.teacher.prices import Endpoint, load_prices, price_of
from phi_jax.teacher.request import PICODOLLARS, STATUSES, Reply, Request
from phi_jax.teacher.server.batch import Batches

Requests = Callable[[], Iterable[Request]]
Shares = dict[Endpoint, float]  # of the requests; they sum to 1


def parse_shares(spec: str) -> dict[str, float]:
    """Teacher's name -> its share of the requests: "writer" or "writer:0.8,ours:0.2". The shares sum to 1.

    Raises UserError for a text of another form.
    """
    parts, shares = [part.strip().partition(":") for part in spec.split(",")], dict[str, float]()
    with contextlib.suppress(ValueError):
        shares = {name: float(weight or 1) for name, _, weight in parts if name}
    if len(shares) < len(parts) or not all(0 < weight < float("inf") for weight in shares.values()):
        raise UserError(
            f"teacher {spec!r}: must read like 'writer' or 'writer:0.8,ours:0.2', each name once, weights above 0"
        )
    return {name: weight / sum(shares.values()) for name, weight in shares.items()}


def endpoint_of(shares: Shares, number: int) -> Endpoint:
    """The teacher of request `number`: by hash, so that one more request moves no other to another teacher."""
    place = bisect.bisect(list(itertools.accumulate(shares.values())), uniform(str(number), "teacher of"))
    return list(shares)[min(place, len(shares) - 1)]


class Teachers(contextlib.ExitStack):
    """See the module. Use as a context manager: it holds the journal against other processes."""

    def __init__(self, config: Config, workdir: os.PathLike | str, *, live: bool = False) -> None:
        """From config.teachers and config.budget, with the journal of journal_directory.

        live: for a pilot, which cannot wait for a batch. Raises UserError for fields without sense, and where another
        process holds the journal.
        """
        super().__init__()
        self._known = known(config)
        if live:
            self._known = {name: one._replace(mode="live") for name, one in self._known.items()}
        self.journal = self.enter_context(Journal(journal_directory(config, workdir)))
        self.cap = round(config.budget.max_dollars * PICODOLLARS)  # on all that was ever booked in this journal
        self._chosen: dict[str, Endpoint] = {}  # by model
        self._asked: list[Requests] = []

    def shares(self, spec: str) -> Shares:
        """The teachers of "writer" or "writer:0.8,ours:0.2". Raises UserError for two of one model."""
        shares: Shares = {}
        for name, weight in parse_shares(spec).items():
            endpoint = self._known[name]
            other = self._chosen.setdefault(endpoint.model, endpoint)
            if other != endpoint:
                raise UserError(
                    f"config.teachers: {other.name} and {name} are both the model {endpoint.model!r}; replies are "
                    "journalled by model, so give the servers different model names"
                )
            shares[endpoint] = weight
        return shares

    def ask(self, requests: Requests, label: str, total: int) -> Run:
        """Brings a reply to each of the requests into the journal; those that have one cost nothing.

        requests: gives them anew, in the same order, each time it is called. Raises as asking.ask.
        """
        self._asked.append(requests)
        jobs = {endpoint: _of_model(model, requests()) for model, endpoint in self._chosen.items()}
        return asking.ask(jobs, self.journal, cap=self.cap, label=label, total=total)

    def cancel_batches(self) -> int:
        """Cancels what the Batch API still works on, of all teachers; keeps what it has done. Returns how many."""
        run = Run(self.journal, self.cap)
        return sum(
            asyncio.run(Batches(endpoint, run).cancel())
            for endpoint in self._known.values()
            if endpoint.mode == "batch"
        )

    def reply(self, request: Request) -> Reply:
        """What came of a request. Raises KeyError where it was not asked."""
        found = self.journal.find(request.key)
        if found is None:
            raise KeyError(f"request {request.key} has no reply in the journal")
        return found

    def note(self) -> Json:
        """For an artifact's facts, over all requests that were asked for through this object: by teacher the model,
        its price list, requests by what came of them, tokens and dollars.
        """
        counts: dict[str, Counter[str]] = {model: Counter() for model in self._chosen}
        for requests in self._asked:
            for request in requests():
                reply = self.reply(request)
                counts[request.model].update(
                    {
                        reply.status: 1,
                        "requests": 1,
                        "picodollars": reply.cost,
                        "prompt_tokens": reply.prompt,
                        "completion_tokens": reply.completion,
                    }
                )
        names = (*STATUSES, "requests", "prompt_tokens", "completion_tokens")
        teachers = {
            endpoint.name: {
                "model": model,
                "mode": endpoint.mode,
                "prices_as_of": endpoint.price.as_of,
                **{name: counts[model][name] for name in names},
                "dollars": counts[model]["picodollars"] / PICODOLLARS,
            }
            for model, endpoint in self._chosen.items()
        }
        return {"teachers": teachers, "dollars": sum(c["picodollars"] for c in counts.values()) / PICODOLLARS}


def known(config: Config) -> dict[str, Endpoint]:
    """The teachers in config.teachers, by name; opens nothing.

    Raises UserError for one without sense, or whose model has no price: what would otherwise show when the stage's turn
    comes, hours into a run.
    """
    prices, endpoints = load_prices(config.budget.prices), {}
    _, _, *fields = Endpoint._fields  # name and price are no fields of the config
    for name in config.teachers.to_dict():
        rules = getattr(config.teachers, name)
        price = price_of(name, rules.model, rules.price_as, prices)
        endpoint = endpoints[name] = Endpoint(name, price, **{field: getattr(rules, field) for field in fields})
        if not endpoint.base_url.startswith(("http://", "https://")):
            raise UserError(
                f"config.teachers.{name}.base_url={endpoint.base_url!r}: must begin with http:// or https://"
            )
    return endpoints


def _of_model(model: str, requests: Iterable[Request]) -> Iterator[Request]:
    return (request for request in requests if request.model == model)
