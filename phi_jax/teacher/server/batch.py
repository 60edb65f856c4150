"""One endpoint, asked by the Batch API: half the price, within a day; the client may restart while batches run.

A batch is planned before it is made. In the journal stand, in this order and each before the next is begun: the plan
with a reservation of each of its requests; the id of the input file; the id of the batch, which carries the plan's name
in its metadata. So a plan that a kill left behind is found again, on the server too, and never made twice. Each line
that a batch brings is booked once, and its reply kept until a request claims it, which may be in another run.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import operator
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from phi_jax.errors import UserError
from phi_jax.progress import say
from phi_jax.teacher.budget import Budget
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.prices import Price
from phi_jax.teacher.request import Endpoint, Reply, Request, Status
from phi_jax.teacher.server.answers import Completion, Failure, one_line, read_line
from phi_jax.teacher.server.connection import Connection, Declined
from phi_jax.teacher.server.dialect import Dialect
from phi_jax.teacher.server.outcomes import Asked, Outcomes

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

T = TypeVar("T")

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # of a batch, as OpenAI has it
_OPEN = 8  # batches at once: their requests are held in memory
_POLL = (0.2, 60.0)  # seconds between two looks at the open batches: from, to
_ENDED = ("completed", "failed", "expired", "cancelled")
_PLAN = "phi_jax_plan"  # in a batch's metadata


def refuse_open(endpoint: Endpoint, journal: Journal, own: Collection[str] = ()) -> None:
    """Raises UserError where batches are open whose requests would be asked, and paid for, a second time.

    own: plans that the caller goes on with.
    """
    sql = "SELECT plan FROM batches WHERE NOT ended AND file IS NOT NULL AND model = ?"
    if {plan for (plan,) in journal.read(sql, endpoint.model)} - set(own):
        raise UserError(
            f"teacher {endpoint.name}: batches of an earlier run are still open; go on with "
            f"config.teachers.{endpoint.name}.mode=batch and their base_url, or end them first with --cancel-batches"
        )


class Batches:
    """The batches of one endpoint.

    Raises UserError where the server is not reached, or refuses the key, the model, the quota, the Batch API or every
    request.
    """

    def __init__(self, endpoint: Endpoint, price: Price, budget: Budget) -> None:
        self._endpoint, self._budget, self._journal = endpoint, budget, budget.journal
        self._connection = Connection(endpoint)
        self._outcomes = Outcomes(endpoint, price, budget.journal, batch=True)
        self._size = min(endpoint.batch_requests, MOST_REQUESTS)
        self._most_open = _OPEN
        self._fresh: collections.deque[Asked] = collections.deque()  # to be planned
        self._open: dict[str, str] = {}  # plan -> batch
        self._members: dict[str, list[Asked]] = {}  # plan -> its requests, as far as drawn

    async def ask(self, requests: Iterable[Request], on_outcome: Callable[[str, Status], None]) -> None:
        """Returns when each request has a reply in the journal; on_outcome is told of each (key, status).

        Raises UserError where the cap leaves no room and nothing is under way that could leave some, Stopped where the
        run is to stop: open batches stay open then.
        """
        self._source, self._on_outcome = iter(requests), on_outcome
        async with self._session():
            refuse_open(self._endpoint, self._journal, self._open)
            delay = _POLL[0]
            while True:
                room = True
                while room and len(self._open) < self._most_open and self._draw():
                    room = await self._submit()
                ended = await self._look()
                if self._open:
                    delay = _POLL[0] if ended else min(_POLL[1], delay * 1.5)
                    await self._budget.sleep(delay)
                elif not room and not ended:
                    await self._budget.wait_for_room("does not fit")
                elif not ended:
                    break
        self._outcomes.finish()

    async def cancel(self) -> int:
        """Cancels the open batches and returns how many there were.

        What they have done is booked and kept for the next run; what they have not done costs nothing.
        """
        async with self._session():
            count = len(self._open)
            for batch in self._open.values():
                if (await self._call("batches.retrieve", batch)).status not in (*_ENDED, "cancelling"):
                    await self._call("batches.cancel", batch)
            while self._open:
                await self._look()
                await self._budget.sleep(_POLL[0])
        return count

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[None]:
        """Connects, and finds what an earlier run left open."""
        try:
            async with self._connection:
                await self._recover()
                yield
        except Declined as error:
            raise UserError(
                f"teacher {self._endpoint.name} ({self._endpoint.base_url}): the Batch API declines ({error}); put "
                f"that right, or set config.teachers.{self._endpoint.name}.mode to live where the server has none"
            ) from None
        finally:
            self._budget.under_way -= len(self._open)

    # --- Plans -----------------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        """Finds what an earlier run left open. A plan of which no batch was made is closed at no cost."""
        rows = self._journal.read(
            "SELECT plan, file, batch, ended, limit_as FROM batches WHERE model = ? AND (base_url = ? OR file IS NULL) "
            "ORDER BY base_url = ?, rowid",
            self._endpoint.model, self._endpoint.base_url, self._endpoint.base_url,
        )  # fmt: skip
        for plan, *_, ended, refused in rows:
            self._outcomes.dialect = Dialect(self._endpoint, refused)
            if not ended:
                self._track(plan, [])
        for plan, file, batch, ended, _ in rows:
            if not ended:
                # Without a file no batch was asked for.
                batch = batch or (file and await self._find_or_forbid(plan, file))
                if batch:
                    self._made(plan, batch)
                else:
                    self._close(plan, lost=False, reason="the batch was not made")

    async def _find_or_forbid(self, plan: str, file: str) -> str | None:
        """The batch that an earlier run asked for, if the server has it; else none can be made any more.

        What was asked for may be on its way still, but nothing comes of it once the file is gone.
        """
        batch = await self._insist(lambda sdk: _find(sdk, plan))
        if batch is None:
            with contextlib.suppress(Declined):  # the file is not there
                await self._call("files.delete", file)
            batch = await self._insist(lambda sdk: _find(sdk, plan))
        return batch

    def _draw(self) -> bool:
        """Draws requests for one more batch, and says whether there are any."""
        self._budget.check()
        while len(self._fresh) < self._size and (request := next(self._source, None)) is not None:
            rows = self._journal.read("SELECT via FROM attempts WHERE key = ? AND cost IS NULL", request.key)
            plan = rows[0][0].removeprefix("batch/") if rows else ""
            if plan in self._open:
                self._members[plan].append(Asked(request))
            else:
                self._conclude(Asked(request), None)
        return bool(self._fresh)

    async def _submit(self) -> bool:
        """Makes a batch of as many of the fresh requests as there is room for under the cap; False if of none."""
        plan = secrets.token_hex(16)
        lines = self._plan(plan)
        if not lines:
            return False
        file = (f"{plan}.jsonl", b"".join(lines))
        name = (await self._call("files.create", file=file, purpose="batch")).id
        self._record(plan, "file", name)
        batch = await self._create(name, plan)
        self._made(plan, batch)
        say(f"teacher {self._endpoint.name}: batch {batch} has {len(lines):,} requests")
        return True

    def _plan(self, plan: str) -> list[bytes]:
        """Notes the plan and reserves what its requests cost, as far as cap and sizes allow. Returns its lines."""
        lines: list[bytes] = []
        members: list[Asked] = []
        room, dialect = MOST_BYTES, self._outcomes.dialect
        with self._journal.transaction():
            while self._fresh and len(lines) < self._size:
                asked = self._fresh[0]
                body = dialect.body(asked.request, asked.correction)
                line = {"custom_id": asked.request.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
                data = json.dumps(line).encode() + b"\n"
                room -= len(data)
                if lines and room < 0:
                    break
                most = self._outcomes.reservation(asked)
                if self._journal.begin(asked.request, most, cap=self._budget.cap, via=f"batch/{plan}") is None:
                    break
                lines.append(data)
                members.append(self._fresh.popleft())
            if lines:
                self._journal.write(
                    "INSERT INTO batches (plan, base_url, model, limit_as) VALUES (?, ?, ?, ?)",
                    plan, self._endpoint.base_url, self._endpoint.model, dialect.refused,
                )  # fmt: skip
                self._track(plan, members)
        return lines

    def _track(self, plan: str, members: list[Asked]) -> None:
        self._open[plan], self._members[plan] = "", members
        self._budget.under_way += 1

    def _made(self, plan: str, batch: str) -> None:
        self._record(plan, "batch", batch)
        self._open[plan] = batch

    def _record(self, plan: str, column: str, value: str) -> None:
        self._journal.write(f"UPDATE batches SET {column} = ? WHERE plan = ?", value, plan)

    def _close(self, plan: str, *, lost: bool, reason: str) -> list[Asked]:
        """Ends the plan and what is open of it. Returns its requests, as far as drawn."""
        with self._journal.transaction():
            self._journal.end_all(f"batch/{plan}", lost=lost, reason=reason)
            self._journal.write("UPDATE batches SET ended = 1 WHERE plan = ?", plan)
        del self._open[plan]
        self._budget.under_way -= 1
        return self._members.pop(plan)

    # --- Calls -----------------------------------------------------------------------------------------------

    async def _insist(self, send: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
        return await self._connection.insist(send, self._budget.sleep)

    async def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """What the client's method of this name returns, e.g. "batches.retrieve"."""
        return await self._insist(lambda sdk: operator.attrgetter(name)(sdk)(*arguments, **options))

    async def _create(self, file: str, plan: str) -> str:
        """Makes the batch of this plan, or finds the one that a call without an answer made; returns its id."""
        sent = False

        async def create(sdk: AsyncOpenAI) -> str:
            nonlocal sent
            if sent and (made := await _find(sdk, plan)) is not None:
                return made
            sent = True
            batch = await sdk.batches.create(
                completion_window="24h",
                endpoint="/v1/chat/completions",
                input_file_id=file,
                metadata={_PLAN: plan},
                extra_headers={"Idempotency-Key": plan},
            )
            return batch.id

        return await self._insist(create)

    # --- What a batch brings ---------------------------------------------------------------------------------

    async def _look(self) -> bool:
        """Whether a batch has ended. What it brought is booked then, and the rest is to be planned again."""
        ended = False
        for plan, name in list(self._open.items()):
            batch: Batch | None = None
            failures: dict[str, Failure] = {}
            lost = True
            try:
                batch = await self._call("batches.retrieve", name)
                if batch.status not in _ENDED:
                    continue
                lost, failures = await self._collect(plan, batch)
                reason = f"the batch ended as {batch.status}"
            except Declined as error:  # batch or file are no longer there
                reason = f"the batch cannot be read: {error}"
            ended = True
            ((sent,),) = self._journal.read("SELECT limit_as FROM batches WHERE plan = ?", plan)
            members = self._close(plan, lost=lost, reason=reason)
            unnamed = Failure("failed" if lost else "limited", reason)
            before = len(self._fresh)
            # The answered ones first: they show whether the server or the other requests are to blame.
            for asked in sorted(members, key=lambda asked: asked.request.key in failures):
                self._conclude(asked, failures.get(asked.request.key, unnamed), sent)
            if again := len(self._fresh) - before:
                say(f"teacher {self._endpoint.name}: batch {name}: {reason}; {again:,} requests are sent again")
            self._adapt(batch)
        return ended

    async def _collect(self, plan: str, batch: Batch) -> tuple[bool, dict[str, Failure]]:
        """Books each line. Returns whether what is left may have been charged for, and why requests failed."""
        paid: set[str] = set()
        failures: dict[str, Failure] = {}
        for name in filter(None, (batch.output_file_id, batch.error_file_id)):
            texts = (await self._call("files.content", name)).content.splitlines()
            lines = [line for text in texts if (line := read_line(text, self._endpoint, self._connection.key))]
            self._book(plan, lines)
            failures |= {key: answer for key, answer in lines if isinstance(answer, Failure)}
            paid |= {key for key, answer in lines if isinstance(answer, Completion) or answer.lost}
        completed = batch.request_counts.completed if batch.request_counts else MOST_REQUESTS
        return len(paid) < completed, failures

    def _book(self, plan: str, lines: list[tuple[str, Completion | Failure]]) -> None:
        """Ends the attempts that these lines are about, and keeps the completions until they are claimed."""
        sql = "SELECT id, reservation FROM attempts WHERE via = ? AND key = ? AND cost IS NULL"
        with self._journal.transaction():
            for key, answer in lines:
                for attempt, reservation in self._journal.read(sql, f"batch/{plan}", key):
                    self._outcomes.end(attempt, reservation, answer)
                    if isinstance(answer, Completion):
                        completion = json.dumps(dataclasses.asdict(answer))
                        self._journal.write("INSERT OR REPLACE INTO arrived VALUES (?, ?)", key, completion)

    def _conclude(self, asked: Asked, failure: Failure | None, sent: str = "") -> None:
        """Takes the batch reply to the request; where there is none, it is planned again or given up.

        failure: why there is none; None = it was not asked. sent: Dialect.refused when it was planned.
        """
        key, outcome = asked.request.key, self._outcomes.claim(asked.request)
        if isinstance(outcome, Reply):
            self._on_outcome(key, outcome.status)
            return
        failure = outcome or failure
        if failure is None or self._outcomes.again(asked, failure, sent):
            self._fresh.append(asked)
        else:
            self._on_outcome(key, Status.POISONED)

    def _adapt(self, batch: Batch | None) -> None:
        """A batch that the server declines, say because too much is in its queue, waits until others have ended.

        Raises UserError where none is open that could end.
        """
        self._most_open = min(_OPEN, self._most_open + 1)
        if batch is not None and batch.status == "failed":
            problems = batch.errors.data if batch.errors and batch.errors.data else []
            said = "; ".join(problem.message or problem.code or "" for problem in problems[:2])
            place = f"config.teachers.{self._endpoint.name}"
            declined = (
                f"teacher {self._endpoint.name} ({self._endpoint.base_url}): the server declines batch {batch.id}: "
                f"{one_line(said, self._connection.key) or 'no reason'}"
            )
            if not self._open:
                raise UserError(f"{declined}; put that right, lower {place}.batch_requests, or set {place}.mode=live")
            say(declined)
            self._most_open = len(self._open)


async def _find(sdk: AsyncOpenAI, plan: str) -> str | None:
    """The id of the batch of this plan, if the server has one."""
    async for batch in sdk.batches.list(limit=100):
        if (batch.metadata or {}).get(_PLAN) == plan:
            return batch.id
    return None
