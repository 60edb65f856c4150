"""What live requests and batches have in common: replies, money, and reasons to ask again or to give up."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from phi_jax.errors import UserError
from phi_jax.progress import say
from phi_jax.teacher.budget import Run
from phi_jax.teacher.prices import Price
from phi_jax.teacher.request import Endpoint, Messages, Reply, Request, Status, Usage
from phi_jax.teacher.server.answers import Answer, Failure
from phi_jax.teacher.server.connection import open_client
from phi_jax.teacher.server.dialect import INSTEAD, body_of, correction, fit, refused_parameter

_DOUBTS = 48  # attempts of requests given up one after the other, after which it is not the requests but the server


class Asker:
    """One endpoint: books what its answers cost, makes them replies, and decides which requests are asked again.

    Requests that are given up are held back until another is answered, which shows that they are to blame. Where none
    is answered, the server is to blame: an error ends the run, and they are asked again in the next.
    """

    def __init__(self, endpoint: Endpoint, price: Price, run: Run, *, batch: bool = False) -> None:
        """Raises UserError where the endpoint's API key or address is none."""
        self._endpoint, self._price, self._run, self._journal, self._batch = endpoint, price, run, run.journal, batch
        self._sdk = open_client(endpoint)
        self._refused: set[str] = set()  # parameters that the server refused, which are no longer sent: keys of INSTEAD
        self._tries: Counter[str] = Counter()  # request -> its attempts in this run that count
        self._corrections: dict[str, Messages] = {}  # request -> messages that show what was wrong with its last reply
        self._held: dict[str, Failure] = {}
        self._answered = self._fitted = self._unmetered = False

    def _body(self, request: Request) -> dict[str, Any]:
        """Of the request's next attempt."""
        return body_of(self._endpoint, request, self._corrections.get(request.key, ()), self._refused)

    def _reservation(self, request: Request) -> int:
        """Picodollars that the request's next attempt may cost at most."""
        return self._price.reservation(request, self._corrections.get(request.key, ()), batch=self._batch)

    def _end(self, attempt: int, reservation: int, answer: Answer | Failure) -> None:
        """Ends an attempt at what its answer cost."""
        if isinstance(answer, Failure):
            self._journal.end(attempt, cost=None if answer.lost else 0, reason=answer.reason)
            return
        *_, reason, _, usage = answer
        if usage is None and not self._unmetered:
            self._unmetered = True
            self._say("the server reports no token usage; each reply is booked at its full reservation")
        cost = reservation if usage is None else self._price.cost(usage, batch=self._batch)
        self._journal.end(attempt, cost=cost, usage=usage or Usage(), reason=reason)

    def _take(self, request: Request, answer: Answer) -> Reply | Failure:
        """Makes a paid answer the reply of its request; a Failure where it does not answer it."""
        status, text, reason, model, _ = answer
        if status is Status.POISONED:
            return Failure("failed", reason)
        self._answered = True
        self._give_up_held()
        if request.schema is not None and status is Status.ANSWERED:
            try:
                text = fit(text, request.schema)
                self._fitted = True
            except ValueError as error:
                mode = self._endpoint.json_mode
                if not self._fitted and mode != "text":
                    self._refuse("response_format", f"it does not hold replies to json_mode={mode}")
                self._corrections[request.key] = correction(text, str(error))
                return Failure("unfit", f"the reply does not fit the schema: {error}")
        return self._conclude(request.key, status, text, reason, model or self._endpoint.model)

    def _claim(self, request: Request) -> Reply | Failure | None:
        """Takes the paid batch reply to this request that none has claimed yet; None where there is none."""
        with self._journal.transaction():
            sql = "DELETE FROM arrived WHERE key = ? RETURNING completion"
            for (completion,) in self._journal.write(sql, request.key).fetchall():
                status, text, reason, model = json.loads(completion).values()
                return self._take(request, (Status(status), text, reason, model, None))
        return None

    def _again(self, request: Request, failure: Failure) -> bool:
        """Whether the request is to be asked again after this failure; else it is given up.

        Raises UserError where the server is to blame.
        """
        key, kind = request.key, failure.kind
        if kind == "fatal":
            raise UserError(failure.reason)
        name = refused_parameter(failure.reason) if kind == "refused" else ""
        if name and not self._tries[key + name]:  # it may have been sent before the parameter was known to be refused
            self._tries[key + name] = 1
            self._refuse(name, failure.reason)
            return True
        self._tries[key] += kind != "limited"
        if kind != "unfit":
            self._corrections.pop(key, None)
        if kind != "refused" and self._tries[key] < self._endpoint.attempts:
            return True
        self._held[key] = failure
        if kind == "unfit":  # the server has answered
            self._give_up_held()
        if len(self._held) * self._endpoint.attempts >= _DOUBTS:
            raise self._down(failure)
        return False

    def _finish(self) -> None:
        """No request is left. Raises UserError where none was answered, so that the server is to blame.

        Requests that it refused are to blame where it answered others in an earlier run.
        """
        for failure in self._held.values():
            refused = failure.kind == "refused" and self._journal.has_answers(self._endpoint.model)
            if not (self._answered or refused):
                raise self._down(failure)
        self._give_up_held()

    def _give_up_held(self) -> None:
        for key, failure in self._held.items():
            self._conclude(key, Status.POISONED, "", failure.reason, self._endpoint.model)
        self._held = {}

    def _refuse(self, name: str, why: str) -> None:
        if name not in self._refused:
            self._refused.add(name)
            self._say(f"{INSTEAD[name]} ({why})")

    def _say(self, what: str) -> None:
        say(f"teacher {self._endpoint.name}: {what}")

    def _conclude(self, key: str, status: Status, text: str, reason: str, model: str) -> Reply:
        self._tries.pop(key, None)
        self._corrections.pop(key, None)
        return self._journal.conclude(key, status, text, reason, model)

    def _down(self, failure: Failure) -> UserError:
        name = self._endpoint.name
        return UserError(
            f"teacher {name} ({self._endpoint.base_url}): the server answers no request, the last of {len(self._held)} "
            f"given up with: {failure.reason}; check config.teachers.{name}, put that right and start again: what was "
            "answered is kept"
        )
