"""One endpoint, asked by the Batch API: half the price, within a day; the client may restart while batches run.

A batch is planned before it is made. In the journal's table `batches` stand, in this order and each before the next is
begun: the plan with a reservation of each of its requests; the id of the input file; the id of the batch, which carries
the plan's name in its metadata. So a plan that a kill left behind is found again, on the server too, and never made
twice. Each line that a batch brings is booked once, and its reply kept until a request claims it, which may be in
another run.
"""

from __future__ import annotations

import collections
import contextlib
import json
import operator
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from phi_jax.errors import UserError
from phi_jax.teacher.budget import Run
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.prices import Price
from phi_jax.teacher.request import Endpoint, Reply, Request, Status
from phi_jax.teacher.server.answers import Answer, Failure, one_line, read_line
from phi_jax.teacher.server.asker import Asker
from phi_jax.teacher.server.connection import api_key, insist
from phi_jax.teacher.server.dialect import INSTEAD

if TYPE_CHECKING:
    from openai.types import Batch

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


class Batches(Asker):
    """The batches of one endpoint.

    Raises UserError where the server is not reached, or refuses the key, the model, the quota, the Batch API or every
    request.
    """

    def __init__(self, endpoint: Endpoint, price: Price, run: Run) -> None:
        super().__init__(endpoint, price, run, batch=True)
        self._size = min(endpoint.batch_requests, MOST_REQUESTS)
        self._most_open = _OPEN
        self._fresh: collections.deque[Request] = collections.deque()  # to be planned
        self._waiting: list[Request] = []  # in an open batch
        self._open: dict[str, str] = {}  # plan -> batch
        self._failures: dict[str, Failure] = {}  # request -> why a batch brought it no reply

    async def ask(self, requests: Iterable[Request], on_outcome: Callable[[str, Status], None]) -> None:
        """Returns when each request has a reply in the journal; on_outcome is told of each (key, status).

        Raises UserError where the cap leaves no room and no batch is open that could leave some, Preempted where the
        run is to stop: open batches stay open then.
        """
        self._source, self._on_outcome = iter(requests), on_outcome
        async with self._session():
            refuse_open(self._endpoint, self._journal, self._open)
            delay = _POLL[0]
            while True:
                while len(self._open) < self._most_open and self._draw() and await self._submit():
                    pass
                if self._fresh and not self._open:
                    raise self._run.no_room("does not fit")
                if not self._open:
                    return self._finish()
                if await self._look():
                    delay = _POLL[0]
                else:
                    await self._run.sleep(delay)
                    delay = min(_POLL[1], delay * 1.5)

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
                if not await self._look():
                    await self._run.sleep(_POLL[0])
        return count

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[None]:
        """Connects, and finds what an earlier run left open."""
        try:
            async with self._sdk:
                await self._recover()
                yield
        except Failure as error:
            raise UserError(
                f"teacher {self._endpoint.name} ({self._endpoint.base_url}): the Batch API declines ({error.reason}); "
                f"put that right, or set config.teachers.{self._endpoint.name}.mode to live where the server has none"
            ) from None

    async def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """What the client's method of this name returns, e.g. "batches.retrieve". Raises Failure where it is refused.

        For calls that may be repeated.
        """
        method = operator.attrgetter(name)(self._sdk)
        return await insist(self._endpoint, lambda: method(*arguments, **options), self._run.sleep)

    # --- Plans -----------------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        """Finds what an earlier run left open. A plan of which no batch was made is closed at no cost."""
        address = self._endpoint.model, self._endpoint.base_url
        sql = "SELECT limit_as FROM batches WHERE model = ? AND base_url = ? ORDER BY rowid DESC LIMIT 1"
        self._refused.update(*(set(said.split()) & set(INSTEAD) for (said,) in self._journal.read(sql, *address)))
        sql = "SELECT plan, file, batch FROM batches WHERE NOT ended AND model = ? AND (base_url = ? OR file IS NULL)"
        for plan, file, batch in self._journal.read(sql, *address):
            # Without a file no batch was asked for.
            if batch := batch or (file and await self._find_or_forbid(plan, file)):
                self._record(plan, "batch", batch)
            else:
                self._close(plan, lost=False, reason="the batch was not made")

    async def _find_or_forbid(self, plan: str, file: str) -> str | None:
        """The batch that an earlier run asked for, if the server has it; else none can be made any more.

        What was asked for may be on its way still, but nothing comes of it once the file is gone.
        """
        batch = await insist(self._endpoint, lambda: self._find(plan), self._run.sleep)
        if batch is None:
            with contextlib.suppress(Failure):  # the file is not there
                await self._call("files.delete", file)
            batch = await insist(self._endpoint, lambda: self._find(plan), self._run.sleep)
        return batch

    async def _find(self, plan: str) -> str | None:
        """The id of the batch of this plan, if the server has one."""
        async for batch in self._sdk.batches.list(limit=100):
            if (batch.metadata or {}).get(_PLAN) == plan:
                return batch.id
        return None

    def _draw(self) -> bool:
        """Draws requests for one more batch, and says whether there are any."""
        self._run.check()
        while len(self._fresh) < self._size and (request := next(self._source, None)) is not None:
            self._settle(request)
        return bool(self._fresh)

    def _settle(self, request: Request) -> None:
        """Takes the batch reply to the request; where there is none, it waits for its batch, is planned or given up."""
        key = request.key
        if self._journal.read("SELECT 1 FROM attempts WHERE key = ? AND cost IS NULL", key):
            self._waiting.append(request)
            return
        failure = self._failures.pop(key, None)
        outcome = self._claim(request) or failure
        if isinstance(outcome, Reply):
            self._on_outcome(key, outcome.status)
        elif outcome is None or self._again(request, outcome):
            self._fresh.append(request)
        else:
            self._on_outcome(key, Status.POISONED)

    async def _submit(self) -> bool:
        """Makes a batch of as many of the fresh requests as there is room for under the cap; False if of none."""
        plan, sent = secrets.token_hex(16), False

        async def create() -> str:
            """Makes the batch, or finds the one that a call without an answer made; returns its id."""
            nonlocal sent
            if sent and (made := await self._find(plan)) is not None:
                return made
            sent = True
            batch = await self._sdk.batches.create(
                completion_window="24h",
                endpoint="/v1/chat/completions",
                input_file_id=file,
                metadata={_PLAN: plan},
                extra_headers={"Idempotency-Key": plan},
            )
            return batch.id

        lines = self._plan(plan)
        if not lines:
            return False
        file = (await self._call("files.create", file=(f"{plan}.jsonl", b"".join(lines)), purpose="batch")).id
        self._record(plan, "file", file)
        batch = await insist(self._endpoint, create, self._run.sleep)
        self._record(plan, "batch", batch)
        self._say(f"batch {batch} has {len(lines):,} requests")
        return True

    def _plan(self, plan: str) -> list[bytes]:
        """Notes a plan and reserves each of its requests, in one transaction; returns the lines of its file."""
        lines: list[bytes] = []
        bytes_left = MOST_BYTES
        with self._journal.transaction():
            while self._fresh and len(lines) < self._size:
                request = self._fresh[0]
                line = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions"}
                data = json.dumps({**line, "body": self._body(request)}).encode() + b"\n"
                bytes_left -= len(data)
                if lines and bytes_left < 0:
                    break
                most = self._reservation(request)
                if self._journal.begin(request, most, cap=self._run.cap, via=f"batch/{plan}") is None:
                    break
                lines.append(data)
                self._waiting.append(self._fresh.popleft())
            if lines:
                self._journal.write(
                    "INSERT INTO batches (plan, base_url, model, limit_as) VALUES (?, ?, ?, ?)",
                    plan, self._endpoint.base_url, self._endpoint.model, " ".join(sorted(self._refused)),
                )  # fmt: skip
        return lines

    def _record(self, plan: str, column: str, value: str) -> None:
        """The file or the batch of a plan. From its batch on, the plan is open."""
        self._journal.write(f"UPDATE batches SET {column} = ? WHERE plan = ?", value, plan)
        if column == "batch":
            self._open[plan] = value

    def _close(self, plan: str, *, lost: bool, reason: str) -> None:
        """Ends the plan and what is open of it: as lost, or at no cost."""
        rest = self._journal.read("SELECT key FROM attempts WHERE via = ? AND cost IS NULL", f"batch/{plan}")
        failure = Failure("failed" if lost else "limited", reason)
        self._failures |= {key: failure for (key,) in rest}
        with self._journal.transaction():
            self._journal.end_all(f"batch/{plan}", lost=lost, reason=reason)
            self._journal.write("UPDATE batches SET ended = 1 WHERE plan = ?", plan)
        self._open.pop(plan, None)
        if rest:
            self._say(f"{reason}; {len(rest):,} of its requests have no reply")

    # --- What a batch brings ---------------------------------------------------------------------------------

    async def _look(self) -> bool:
        """Whether a batch has ended. What it brought is booked then, and the rest is to be planned again."""
        for plan, name in self._open.items():
            batch: Batch | None = None
            try:
                batch = await self._call("batches.retrieve", name)
                if batch.status not in _ENDED:
                    continue
                lost = await self._collect(plan, batch)
                self._close(plan, lost=lost, reason=f"batch {name} ended as {batch.status}")
            except Failure as error:
                self._close(plan, lost=True, reason=f"batch {name} cannot be read: {error.reason}")
            # The answered ones first: they show whether the server or the other requests are to blame.
            waiting, self._waiting = self._waiting, []
            for request in sorted(waiting, key=lambda request: request.key in self._failures):
                self._settle(request)
            if batch and batch.status == "failed":
                self._declined(batch)
            return True
        return False

    async def _collect(self, plan: str, batch: Batch) -> bool:
        """Books each line. Returns whether what is left may have been charged for."""
        paid: set[str] = set()
        for name in filter(None, (batch.output_file_id, batch.error_file_id)):
            texts = (await self._call("files.content", name)).content.splitlines()
            key = api_key(self._endpoint)
            lines = [line for text in texts if (line := read_line(text, self._endpoint, key))]
            self._book(plan, lines)
            self._failures |= {key: answer for key, answer in lines if isinstance(answer, Failure)}
            paid |= {key for key, answer in lines if not isinstance(answer, Failure) or answer.lost}
        return batch.request_counts is None or len(paid) < batch.request_counts.completed

    def _book(self, plan: str, lines: list[tuple[str, Answer | Failure]]) -> None:
        """Ends the attempts that these lines are about, and keeps the paid answers until they are claimed."""
        sql = "SELECT id, reservation FROM attempts WHERE via = ? AND key = ? AND cost IS NULL"
        with self._journal.transaction():
            for key, answer in lines:
                for attempt, reservation in self._journal.read(sql, f"batch/{plan}", key):
                    self._end(attempt, reservation, answer)
                    if not isinstance(answer, Failure):
                        kept = json.dumps(dict(zip(("status", "text", "reason", "model"), answer, strict=False)))
                        self._journal.write("INSERT OR REPLACE INTO arrived VALUES (?, ?)", key, kept)

    def _declined(self, batch: Batch) -> None:
        """Holds the requests of a batch that the server declines until another ends: say too much is in its queue.

        Raises UserError where no other is open.
        """
        problems = batch.errors.data if batch.errors and batch.errors.data else []
        said = "; ".join(problem.message or problem.code or "" for problem in problems[:2])
        declined = f"the server declines batch {batch.id}: {one_line(said, api_key(self._endpoint)) or 'no reason'}"
        self._most_open = len(self._open)
        if not self._open:
            place = f"config.teachers.{self._endpoint.name}"
            raise UserError(f"{declined}; put that right, lower {place}.batch_requests, or set {place}.mode=live")
        self._say(declined)
