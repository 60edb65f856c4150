"""One endpoint, asked by the Batch API: half the price, within a day, and whoever asks may come and go meanwhile.

A batch is planned before it is made. In the journal stand, in this order and each before the next is begun: the plan
and a reservation of each request in it; the id of the input file; the id of the batch, which carries the plan's name
in its metadata. So a plan that a kill left behind is found again, on the server too, and never made twice. What a
batch brings is booked line by line, a line at most once, and kept until its request is drawn, which may be in
another run.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import json
import secrets
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from phi_jax import progress
from phi_jax.errors import UserError
from phi_jax.teacher import batch_replies, structured
from phi_jax.teacher.batch_api import ENDED, BatchApi, Declined
from phi_jax.teacher.batch_lines import Line, read_line
from phi_jax.teacher.budget import Purse, Stop, Stopped, used_up
from phi_jax.teacher.client import Client
from phi_jax.teacher.completion import one_line
from phi_jax.teacher.failures import Kind
from phi_jax.teacher.journal import LIVE, NOTHING_USED, CapReached, Journal, end, end_all
from phi_jax.teacher.prices import Price
from phi_jax.teacher.request import Endpoint, Reply, Request, Status
from phi_jax.teacher.structured import Rung

if TYPE_CHECKING:
    from openai.types import Batch

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # of a batch, as OpenAI has it
_IN_FLIGHT = 8  # batches: their requests are held in memory
_PART = 200  # requests or lines that are brought into the journal at once
_POLL = (0.2, 60.0)  # seconds between two looks at a batch: from, to
_FAILURES = 6  # batches in a row that the server declines before it does a thing
_DOUBTS = 8  # requests refused, none answered: it is not the requests
_TABLES = (
    """CREATE TABLE IF NOT EXISTS batches (
        plan TEXT PRIMARY KEY, base_url TEXT NOT NULL, model TEXT NOT NULL, limit_as TEXT NOT NULL,
        file TEXT, batch TEXT, ended INTEGER NOT NULL DEFAULT 0
    )""",
    batch_replies.TABLE,
)


async def run(
    endpoint: Endpoint,
    requests: Iterable[Request],
    journal: Journal,
    price: Price,
    *,
    cap: int,
    stop: asyncio.Event,
    on_reply: Callable[[Reply], None],
) -> None:
    """Returns when each request has a reply in the journal, or soon after `stop` is set; open batches stay open then.

    Raises UserError where the cap leaves no room and no batch is open that could leave some, and where the server is
    not reached, or refuses the key, the model, the quota, or every request.
    """
    work = _Run(endpoint, requests, journal, price, cap, stop, on_reply)
    with _declined(endpoint), contextlib.suppress(Stopped):
        async with BatchApi(endpoint, work.sleep) as api:
            await work.all(api)


async def cancel(endpoint: Endpoint, journal: Journal, price: Price) -> int:
    """Cancels the open batches of this endpoint and returns how many there were.

    What they have done is booked and kept for the next run; what they have not done costs nothing.
    """
    work = _Run(endpoint, (), journal, price, 0, asyncio.Event(), lambda reply: None)
    with _declined(endpoint):
        async with BatchApi(endpoint, work.sleep) as api:
            return await work.cancel(api)


def refuse_open(endpoint: Endpoint, journal: Journal) -> None:
    """Raises UserError where batches are open whose requests would be asked, and paid for, a second time."""
    sql = "SELECT 1 FROM attempts WHERE cost IS NULL AND via LIKE 'batch/%' AND model = ? LIMIT 1"
    if journal.read(sql, endpoint.model):
        raise UserError(
            f"teacher {endpoint.name}: batches of an earlier run are still open; go on with "
            f"config.teachers.{endpoint.name}.mode=batch, or end them first with --cancel-batches"
        )


@contextlib.contextmanager
def _declined(endpoint: Endpoint) -> Iterator[None]:
    try:
        yield
    except Declined as error:
        raise UserError(
            f"teacher {endpoint.name} ({endpoint.base_url}): the Batch API declines ({error}); put that right, or set "
            f"config.teachers.{endpoint.name}.mode to live where the server has none"
        ) from None


@dataclasses.dataclass
class _Pending:
    """A request that is drawn and has no outcome yet."""

    request: Request
    key: str
    tries: int = 0  # that came to nothing, in this run
    correction: tuple[tuple[str, str], ...] = ()  # messages that show what was wrong with the last reply


class _Run:
    def __init__(
        self,
        endpoint: Endpoint,
        requests: Iterable[Request],
        journal: Journal,
        price: Price,
        cap: int,
        stop: asyncio.Event,
        on_reply: Callable[[Reply], None],
    ) -> None:
        self._endpoint, self._source, self._journal, self._price = endpoint, iter(requests), journal, price
        self._cap, self._stop, self._on_reply = cap, stop, on_reply
        self._size = min(endpoint.batch_requests, MOST_REQUESTS)
        self._fresh: collections.deque[_Pending] = collections.deque()  # to be planned
        self._waiting: dict[str, dict[str, _Pending]] = {}  # plan -> key -> its requests, as far as drawn
        self._rung: Rung | None = None
        self._limit_as = "max_tokens"
        self._declined = 0  # batches in a row
        self._answered = False
        self._in_flight = _IN_FLIGHT
        self._where = f"teacher {endpoint.name} ({endpoint.base_url})"

    async def all(self, api: BatchApi) -> None:
        self._api = api
        tasks = {asyncio.ensure_future(self._follow(*found)) for found in await self._recover()}
        try:
            while True:
                room = True
                while room and len(tasks) < self._in_flight and (pending := await self._next()):
                    made = await self._submit(pending)
                    room = made is not None
                    if made is not None:
                        tasks.add(asyncio.ensure_future(self._follow(*made)))
                if tasks:
                    done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                elif room:
                    return
                elif self._journal.read("SELECT 1 FROM attempts WHERE via = ? AND cost IS NULL LIMIT 1", LIVE):
                    await self.sleep(1.0)  # live requests of the same run may leave room
                else:
                    raise used_up(self._journal, self._cap, "does not fit")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def cancel(self, api: BatchApi) -> int:
        self._api = api
        found = await self._recover()
        for _, batch in found:
            await api.cancel(batch)
        for plan, batch in found:
            await self._follow(plan, batch)
        return len(found)

    async def sleep(self, seconds: float) -> None:
        """Raises Stopped where the run is to stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        if self._stop.is_set():
            raise Stopped

    # --- Plans -----------------------------------------------------------------------------------------------

    async def _recover(self) -> list[tuple[str, str]]:
        """(plan, batch) of what an earlier run left open. A plan of which no batch was made is closed at no cost."""

        def prepare(database: sqlite3.Connection) -> None:
            for table in _TABLES:
                database.execute(table)

        await self._journal.write(prepare)
        place = (self._endpoint.base_url, self._endpoint.model)
        rows = self._journal.read(
            "SELECT plan, file, batch, ended, limit_as FROM batches WHERE base_url = ? AND model = ? ORDER BY rowid",
            *place,
        )
        found = []
        for plan, file, batch, ended, self._limit_as in rows:
            if ended:
                continue
            # Without a file no batch was asked for. With one it may have been, and be on its way still: not without
            # its file.
            if batch is None and file is not None:
                batch = await self._api.find(plan)
                if batch is None:
                    await self._api.delete(file)
                    batch = await self._api.find(plan)
            if batch is None:
                await self._close(plan, lost=False, reason="the batch was not made")
            else:
                await self._record(plan, batch=batch)
                self._waiting[plan] = {}
                found.append((plan, batch))
        return found

    async def _next(self) -> list[_Pending]:
        """Requests for one more batch."""
        if self._stop.is_set():
            raise Stopped
        while len(self._fresh) < self._size and (drawn := list(itertools.islice(self._source, _PART))):
            await self._sort(drawn)
        return [self._fresh.popleft() for _ in range(min(self._size, len(self._fresh)))]

    async def _sort(self, drawn: list[Request]) -> None:
        """Requests whose reply has arrived already, those that a batch has in flight, and those to be asked."""
        found = [_Pending(request, request.key) for request in drawn]
        keys = json.dumps([pending.key for pending in found])
        among = "key IN (SELECT value FROM json_each(?))"
        # In this order: what is booked between the two is seen as arrived.
        rows = self._journal.read(f"SELECT key, via FROM attempts WHERE cost IS NULL AND {among}", keys)
        flying = {key: via.removeprefix("batch/") for key, via in rows}
        arrived = batch_replies.among(self._journal, [pending.key for pending in found])
        ready = []
        for pending in found:
            plan = flying.get(pending.key, "")
            if pending.key in arrived:
                ready.append(pending)
            elif plan in self._waiting:
                self._waiting[plan][pending.key] = pending
            else:
                self._fresh.append(pending)
        await asyncio.gather(*map(self._interpret, ready))

    async def _submit(self, pending: list[_Pending]) -> tuple[str, str] | None:
        """Makes a batch of as many of these as there is room for under the cap; None if of none.

        The others stay to be planned. Returns (plan, batch).
        """
        plan = secrets.token_hex(16)
        row = (plan, self._endpoint.base_url, self._endpoint.model, self._limit_as)

        def note(database: sqlite3.Connection) -> None:
            database.execute("INSERT INTO batches (plan, base_url, model, limit_as) VALUES (?, ?, ?, ?)", row)

        await self._journal.write(note)
        members: dict[str, _Pending] = {}
        with tempfile.TemporaryFile() as file:
            for start in range(0, len(pending), _PART):
                part = pending[start : start + _PART]
                begun = await self._begin(plan, part, MOST_BYTES - file.tell())
                file.writelines(line for _, line in begun)
                members |= {p.key: p for p, _ in begun}
                if len(begun) < len(part):
                    break
            self._fresh.extendleft(p for p in reversed(pending) if p.key not in members)
            if not members:
                await self._close(plan, lost=False, reason="no room under the cap")
                return None
            name = await self._api.upload(file, f"{plan}.jsonl")
        await self._record(plan, file=name)
        batch = await self._api.create(name, plan)
        await self._record(plan, batch=batch)
        self._waiting[plan] = members
        progress.say(f"teacher {self._endpoint.name}: batch {batch} has {len(members):,} requests")
        return plan, batch

    async def _begin(self, plan: str, part: list[_Pending], room: int) -> list[tuple[_Pending, bytes]]:
        """Reserves what these cost, as far as cap and room (bytes) allow; returns them with their lines."""
        chosen = []
        for pending in part:
            line, reservation = await self._line(pending)
            room -= len(line)
            if room < 0:
                break
            chosen.append((pending, line, reservation))
        outcomes = await asyncio.gather(
            *(self._journal.begin(p.request, most, cap=self._cap, via=f"batch/{plan}") for p, _, most in chosen),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, CapReached):
                raise outcome
        return [(p, line) for (p, line, _), o in zip(chosen, outcomes, strict=True) if isinstance(o, int)]

    async def _line(self, pending: _Pending) -> tuple[bytes, int]:
        """(line of the input file, reservation)."""
        request = pending.request
        rung = Rung.PROMPT if request.schema is None else await self._json_rung()
        asked = dataclasses.replace(request, messages=structured.messages_on(rung, request) + pending.correction)
        body = structured.request_body(asked, rung, limit_as=self._limit_as)
        line = {"custom_id": pending.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(line).encode() + b"\n", self._price.reservation(asked, batch=True)

    async def _json_rung(self) -> Rung:
        if self._rung is None:
            stop = Stop()
            async with Client(self._endpoint, self._price, Purse(self._journal, self._cap, stop), stop) as client:
                self._rung = await client.rung()
        return self._rung

    async def _record(self, plan: str, **columns: str) -> None:
        (name, value), *_ = columns.items()
        await self._journal.write(
            lambda database: database.execute(f"UPDATE batches SET {name} = ? WHERE plan = ?", (value, plan))
        )

    async def _close(self, plan: str, *, lost: bool, reason: str) -> None:
        """Ends the plan and what is open of it."""

        def change(database: sqlite3.Connection) -> None:
            end_all(database, f"batch/{plan}", lost=lost, reason=reason)
            database.execute("UPDATE batches SET ended = 1 WHERE plan = ?", (plan,))

        await self._journal.write(change)

    # --- Batches ---------------------------------------------------------------------------------------------

    async def _follow(self, plan: str, name: str) -> None:
        """Waits for the end of a batch, books what it brought, and puts the rest back to be planned again."""
        delay, most = _POLL
        try:
            while (batch := await self._api.show(name)).status not in ENDED:
                await self.sleep(delay)
                delay = min(most, delay * 1.5)
            lost, reason = not await self._collect(plan, batch), f"the batch ended as {batch.status}"
        except Declined as error:  # batch or file are no longer there
            batch, lost, reason = None, True, f"the batch cannot be read: {error}"
        await self._close(plan, lost=lost, reason=reason)
        left = self._waiting.pop(plan).values()
        if left:
            progress.say(
                f"teacher {self._endpoint.name}: batch {name}: {reason}; {len(left):,} requests are sent again"
            )
        for pending in left:
            if lost:
                await self._retry(pending, reason)
            else:
                self._fresh.append(pending)
        if batch is not None and batch.status == "failed":
            await self._failed(batch)
        else:
            self._declined = 0
            self._in_flight = min(_IN_FLIGHT, self._in_flight + 1)

    async def _failed(self, batch: Batch) -> None:
        """The server declines the batch, for its form or because too much is in its queue already."""
        problems = batch.errors.data if batch.errors and batch.errors.data else []
        reason = "; ".join(one_line(problem.message or problem.code or "") for problem in problems[:2]) or "no reason"
        progress.say(f"teacher {self._endpoint.name}: batch {batch.id} is declined: {reason}")
        if self._waiting:
            self._in_flight = len(self._waiting)
            return
        self._declined += 1
        if self._declined >= _FAILURES:
            raise UserError(f"{self._where}: the server declines batch after batch: {reason}; put that right, or set "
                            f"config.teachers.{self._endpoint.name}.mode to live")  # fmt: skip
        self._size = max(1, self._size // 2)
        await self.sleep(2.0 ** (self._declined - 2))

    # --- What a batch brings ---------------------------------------------------------------------------------

    async def _collect(self, plan: str, batch: Batch) -> bool:
        """Books each line. Returns whether all that the server did is accounted for: what is left then cost nothing."""
        ((limit_as,),) = self._journal.read("SELECT limit_as FROM batches WHERE plan = ?", plan)
        paid: set[str] = set()
        refused: list[tuple[_Pending, str]] = []
        damaged = 0
        for name in filter(None, (batch.output_file_id, batch.error_file_id)):
            with await self._api.content(name) as file:
                texts = filter(bytes.strip, file)
                while part := list(itertools.islice(texts, _PART)):
                    read = [read_line(text, self._endpoint, self._api.key) for text in part]
                    lines = [line for line in read if line is not None]
                    damaged += len(part) - len(lines)
                    paid.update(line.key for line in lines if line.paid)
                    booked = await self._book(plan, lines)
                    drawn = [(self._waiting[plan].pop(x.key), x) for x in booked if x.key in self._waiting[plan]]
                    await asyncio.gather(*(self._interpret(p) for p, x in drawn if x.completion is not None))
                    for pending, failure in ((p, x.failure) for p, x in drawn if x.failure is not None):
                        if failure.kind is Kind.FAILED:
                            await self._retry(pending, failure.reason)
                        elif failure.kind is not Kind.REFUSED:
                            self._fresh.append(pending)
                        elif limit_as == "max_tokens" and "max_completion_tokens" in failure.reason:
                            self._limit_as = "max_completion_tokens"
                            self._fresh.append(pending)
                        else:
                            refused.append((pending, failure.reason))
        if len(refused) >= _DOUBTS and not self._answered:
            raise UserError(
                f"{self._where}: the server answers no request, the last of {len(refused)} refused with: "
                f"{refused[-1][1]}; put that right and start again"
            )
        for pending, reason in refused:
            await self._poison(pending, reason)
        if damaged:
            progress.say(f"teacher {self._endpoint.name}: batch {batch.id}: {damaged:,} lines cannot be read")
        return not damaged and len(paid) >= (batch.request_counts.completed if batch.request_counts else 0)

    async def _book(self, plan: str, lines: list[Line]) -> list[Line]:
        """Ends the attempts that these lines are about, and keeps the completions. Returns those that were open."""

        def change(database: sqlite3.Connection) -> list[Line]:
            return [line for line in lines if self._book_line(database, plan, line)]

        return await self._journal.write(change)

    def _book_line(self, database: sqlite3.Connection, plan: str, line: Line) -> bool:
        sql = "SELECT id, reservation FROM attempts WHERE via = ? AND key = ? AND cost IS NULL"
        found = database.execute(sql, (f"batch/{plan}", line.key)).fetchone()
        if found is None:  # a duplicate, or booked before a kill
            return False
        attempt, reservation = found
        if line.completion is not None:
            usage = line.completion.usage
            cost = reservation if usage is None else self._price.cost(usage, batch=True)
            end(database, attempt, cost=cost, usage=usage or NOTHING_USED, reason=line.completion.reason)
            batch_replies.keep(database, line.key, line.completion)
        elif line.failure is not None:
            end(database, attempt, cost=None if line.paid else 0, reason=line.failure.reason)
        return True

    async def _interpret(self, pending: _Pending) -> None:
        """Of a completion that arrived: the outcome, or another try where it does not fit the schema."""
        self._answered = True
        try:
            reply = await batch_replies.draw(self._journal, self._endpoint, pending.request)
        except batch_replies.Unfit as unfit:
            await self._retry(pending, str(unfit), unfit.correction)
            return
        assert reply is not None
        self._on_reply(reply)

    async def _retry(self, pending: _Pending, reason: str, correction: tuple[tuple[str, str], ...] = ()) -> None:
        pending = dataclasses.replace(pending, tries=pending.tries + 1, correction=correction)
        if pending.tries >= self._endpoint.attempts:
            await self._poison(pending, reason)
        else:
            self._fresh.append(pending)

    async def _poison(self, pending: _Pending, reason: str) -> None:
        attempts, usage, cost = self._journal.history(pending.key)
        reply = Reply(pending.key, Status.POISONED, "", reason, self._endpoint.model, usage, cost, attempts)
        await self._journal.poison(reply)
        self._on_reply(reply)
