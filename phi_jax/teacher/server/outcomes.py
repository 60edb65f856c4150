"""What comes of the requests to one endpoint, live and in batches alike: replies, money, and reasons to give up."""

from __future__ import annotations

import dataclasses
import json

from phi_jax.errors import UserError
from phi_jax.progress import say
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.prices import Price
from phi_jax.teacher.request import Endpoint, Messages, Reply, Request, Status, Usage
from phi_jax.teacher.server.answers import Completion, Failure, usable
from phi_jax.teacher.server.dialect import Dialect

_DOUBTS = 48  # attempts of requests given up one after the other, after which it is not the requests but the server


@dataclasses.dataclass
class Asked:
    """A request that has no outcome yet."""

    request: Request
    tries: int = 0  # attempts in this run that count
    correction: Messages = ()  # messages that show what was wrong with the last reply


class Outcomes:
    """Books what answers cost, makes them replies, and decides who is asked again.

    Requests that are given up are held back until another is answered, which shows that they are to blame. Where none
    is answered, the server is to blame: an error ends the run, and they are asked again in the next.
    """

    def __init__(self, endpoint: Endpoint, price: Price, journal: Journal, *, batch: bool) -> None:
        self._endpoint, self._price, self._journal, self._batch = endpoint, price, journal, batch
        self.dialect = Dialect(endpoint)
        self._held: dict[str, Failure] = {}
        self._answered = self._said_unmetered = False

    def reservation(self, asked: Asked) -> int:
        """Picodollars that the next attempt may cost at most."""
        return self._price.reservation(asked.request, asked.correction, batch=self._batch)

    def end(self, attempt: int, reservation: int, answer: Completion | Failure) -> None:
        """Ends an attempt at what its answer cost."""
        if isinstance(answer, Failure):
            self._journal.end(attempt, cost=None if answer.lost else 0, reason=answer.reason)
            return
        cost, usage = reservation, answer.usage or Usage()
        if answer.usage is not None:
            cost = self._price.cost(usage, batch=self._batch)
        elif not self._said_unmetered:
            self._said_unmetered = True
            name = self._endpoint.name
            say(f"teacher {name}: the server reports no token usage; each reply is booked at its full reservation")
        self._journal.end(attempt, cost=cost, usage=usage, reason=answer.reason)

    def take(self, request: Request, answer: Completion) -> Reply | Failure:
        """Makes a paid completion the reply of its request; a Failure where it is no answer to it."""
        text = usable(request, answer)
        if answer.status is not Status.POISONED:
            for key, failure in self._held.items():
                self._give_up(key, failure)
            self._held = {}
            self._answered = True
            self.dialect.note_fit(request, Status.POISONED if isinstance(text, Failure) else answer.status)
        if isinstance(text, Failure):
            return text
        model = answer.model or self._endpoint.model
        return self._journal.conclude(request.key, answer.status, text, answer.reason, model)

    def claim(self, request: Request) -> Reply | Failure | None:
        """Takes the paid batch reply to this request that none has claimed yet; None where there is none."""
        rows = self._journal.read("SELECT completion FROM arrived WHERE key = ?", request.key)
        if not rows:
            return None
        found = json.loads(rows[0][0])
        with self._journal.transaction():
            self._journal.write("DELETE FROM arrived WHERE key = ?", request.key)
            return self.take(request, Completion(**{**found, "status": Status(found["status"]), "usage": None}))

    def again(self, asked: Asked, failure: Failure, sent: str) -> bool:
        """Whether the request is to be asked again after this failure; else it is given up.

        sent: `dialect.refused` when it was sent. Raises UserError where the server is to blame.
        """
        if failure.kind == "fatal":
            raise UserError(failure.reason)
        if failure.kind == "refused" and self.dialect.learn(failure.reason, sent):
            return True
        asked.tries += failure.kind != "limited"
        asked.correction = failure.correction
        if failure.kind != "refused" and asked.tries < self._endpoint.attempts:
            return True
        if failure.kind == "unfit":  # the server has answered
            self._give_up(asked.request.key, failure)
            return False
        self._held[asked.request.key] = failure
        if len(self._held) * self._endpoint.attempts >= _DOUBTS:
            raise self._down(failure)
        return False

    def finish(self) -> None:
        """No request is left. Raises UserError where the last ones failed because of the server.

        Requests that it refused are to blame where it ever answered others.
        """
        for key, failure in self._held.items():
            refused = failure.kind == "refused" and self._journal.has_answers(self._endpoint.model)
            if failure.kind == "unreached" or not (self._answered or refused):
                raise self._down(failure)
            self._give_up(key, failure)

    def _give_up(self, key: str, failure: Failure) -> None:
        self._journal.conclude(key, Status.POISONED, "", failure.reason, self._endpoint.model)

    def _down(self, failure: Failure) -> UserError:
        name = self._endpoint.name
        said = (
            f"the server answers no request, the last of {len(self._held)} given up with: {failure.reason}; what was "
            "answered is kept, so put that right and start again"
        )
        if failure.kind == "unreached":
            said = (
                f"cannot be reached ({failure.reason}); check config.teachers.{name}.base_url and that the server "
                "runs, then start again"
            )
        return UserError(f"teacher {name} ({self._endpoint.base_url}): {said}")
