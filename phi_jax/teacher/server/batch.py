"""One endpoint, asked by the Batch API: half the price, within a day; the client may restart while batches run.

Each batch has a plan, a row of the journal's table `batches`, which is in one of four states, each on disk before the
next is begun:

- planned: each of its requests has a reservation, and nothing was sent (no `file`);
- uploaded: the server has its input file (`file`), and perhaps a batch, which carries the plan's name in its metadata;
- open: the server works on it (`batch`);
- ended: each line that the batch brought is booked, and its reply kept until a request claims it.

So a plan that a kill left behind is found again, on the server too, and never made twice. Batches are made in rounds:
as many as may be open at once, then all are awaited.
"""

import collections
import contextlib
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from phi_jax.errors import UserError
from phi_jax.store.artifact import Json
from phi_jax.teacher.budget import Run
from phi_jax.teacher.prices import Endpoint
from phi_jax.teacher.request import Reply, Request, Status
from phi_jax.teacher.server.answers import ENDED, Failure, T, call, clean, one_line, pause, read_batch, read_line
from phi_jax.teacher.server.live import Asker

_OPEN = 8  # batches at once: their requests are held in memory
_POLL = (0.2, 60.0)  # seconds between two looks at the open batches: from, to
_SECONDS, _TRIES = 600.0, 8  # of one call of the Batch API
_PLAN = "phi_jax_plan"  # in a batch's metadata


class Batches(Asker):
    """The batches of one endpoint.

    Raises UserError where the server is not reached, or refuses the key, the model, the quota, the Batch API or every
    request.
    """

    def __init__(self, endpoint: Endpoint, run: Run) -> None:
        super().__init__(endpoint, run)
        self._free = self._sdk.with_options(max_retries=_TRIES)  # for calls that cost nothing and may be repeated
        self._failures: dict[str, Failure] = {}  # request -> why a batch brought it no reply

    async def ask(self, requests: Iterable[Request], on_outcome: Callable[[str, Status], None]) -> None:
        """Returns when each request has a reply in the journal; on_outcome is told of each (key, status).

        Raises UserError where the cap leaves no room for another request, Preempted where the run is to stop: open
        batches stay open then.
        """
        source, unanswered = iter(requests), list[Request]()

        def is_left(request: Request) -> bool:
            """Whether the request is to be sent. Else its outcome is told."""
            outcome = self._claim(request) or self._failures.pop(request.key, None)
            if outcome is None or (isinstance(outcome, Failure) and self._again(request, outcome)):
                return True
            on_outcome(request.key, outcome.status if isinstance(outcome, Reply) else "poisoned")
            return False

        async with self._session():
            self._refuse_open()
            while True:
                await self._await_open()
                # The answered ones first: they show whether the server or the other requests are to blame.
                unanswered.sort(key=lambda request: request.key in self._failures)
                unanswered = [request for request in unanswered if is_left(request)]
                room = self._endpoint.batch_requests * _OPEN - len(unanswered)
                unanswered += itertools.islice(filter(is_left, source), room)
                if not unanswered:
                    return self._finish()
                fresh = collections.deque(unanswered)
                while len(self._open) < _OPEN and await self._submit(fresh):
                    self._run.check()
                if not self._open:
                    raise self._run.no_room("does not fit")

    async def cancel(self) -> int:
        """Cancels the open batches and returns how many there were.

        What they have done is booked and kept for the next run; what they have not done costs nothing.
        """
        async with self._session():
            count = len(self._open)
            for batch in self._open.values():
                if (await self._look_at(batch))["status"] not in (*ENDED, "cancelling"):
                    await self._call(self._free.batches.cancel(batch))
            await self._await_open()
        return count

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[None]:
        """Connects, and finds what an earlier run left open. A plan of which no batch was made ends at no cost."""
        sql = "SELECT plan, file, batch FROM batches WHERE NOT ended AND model = ? AND (base_url = ? OR file IS NULL)"
        try:
            async with self._sdk:
                for plan, file, batch in self._journal.read(sql, self._endpoint.model, self._endpoint.base_url):
                    if found := batch or (file and await self._find_or_forbid(plan, file)):
                        self._record(plan, "batch", found)
                    else:
                        self._close(plan, lost=False, reason="the batch was not made")
                yield
        except Failure as error:
            raise self._no_batches(error) from None

    async def _call(self, sent: Awaitable[T]) -> T:
        """What a call of the client returns. Raises Failure where it is refused, UserError where it is not answered."""
        answer = await call(self._endpoint, sent, _SECONDS)
        if isinstance(answer, Failure):
            raise answer if answer.kind == "refused" else self._no_batches(answer)
        return answer

    def _no_batches(self, failure: Failure) -> UserError:
        place = f"config.teachers.{self._endpoint.name}"
        return UserError(
            failure.reason
            if failure.kind == "fatal"
            else f"teacher {self._endpoint.name} ({self._endpoint.base_url}): the Batch API declines or gives no "
            f"answer ({failure.reason}); check {place}.base_url, or set {place}.mode to live where the server has "
            "none, and start again to go on where this stopped"
        )

    # --- From planned to open --------------------------------------------------------------------------------

    async def _submit(self, fresh: collections.deque[Request]) -> bool:
        """Makes a batch of as many requests as there is room for under the cap, and takes them; False if of none."""
        plan = secrets.token_hex(16)
        lines = self._plan(plan, fresh)
        if not lines:
            return False
        sent = self._free.files.create(file=(f"{plan}.jsonl", b"".join(lines)), purpose="batch")
        file = str(getattr(await self._call(sent), "id", ""))
        self._record(plan, "file", file)
        batch = await self._create(plan, file)
        self._record(plan, "batch", batch)
        self._say(f"batch {batch} has {len(lines):,} requests")
        return True

    def _plan(self, plan: str, fresh: collections.deque[Request]) -> list[bytes]:
        """Notes a plan and reserves each of its requests, in one transaction; returns the lines of its file."""
        lines: list[bytes] = []
        with self._journal.transaction():
            while fresh and len(lines) < self._endpoint.batch_requests:
                request = fresh[0]
                body, most = self._next(request)
                line = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
                if self._journal.begin(request, most, cap=self._run.cap, via=f"batch/{plan}") is None:
                    break
                lines.append(json.dumps(line).encode() + b"\n")
                fresh.popleft()
            if lines:
                sql = "INSERT INTO batches (plan, base_url, model, limit_as) VALUES (?, ?, ?, '')"
                self._journal.write(sql, plan, self._endpoint.base_url, self._endpoint.model)
        return lines

    async def _create(self, plan: str, file: str) -> str:
        """Makes the batch, or finds the one that a call without an answer made; returns its id."""
        times = 0
        while True:
            times += 1
            wanted = {"completion_window": "24h", "endpoint": "/v1/chat/completions", "input_file_id": file}
            sent = self._sdk.post("/batches", cast_to=object, body={**wanted, "metadata": {_PLAN: plan}})
            said = await call(self._endpoint, sent, _SECONDS)
            made = said if isinstance(said, Failure) else read_batch(said, self._key, new=True)
            if not isinstance(made, Failure):
                return made["id"]
            if made.kind in ("refused", "fatal") or times == _TRIES:
                raise self._no_batches(made)
            await self._run.sleep(pause(made, times))
            if found := await self._call(self._find(plan)):
                return found
            if made.kind == "void":  # it may have been made, and is not made again
                raise self._no_batches(made)

    async def _find_or_forbid(self, plan: str, file: str) -> str | None:
        """The batch that an earlier run asked for, if the server has it; else none can be made any more.

        What was asked for may be on its way still, but nothing comes of it once the file is gone.
        """
        if found := await self._call(self._find(plan)):
            return found
        with contextlib.suppress(Failure):  # the file is not there
            await self._call(self._free.files.delete(file))
        return await self._call(self._find(plan))

    async def _find(self, plan: str) -> str | None:
        """The id of the batch of this plan, if the server has one."""
        async for batch in self._free.batches.list(limit=100):
            metadata = getattr(batch, "metadata", None)
            if isinstance(metadata, dict) and metadata.get(_PLAN) == plan:
                return batch.id
        return None

    async def _look_at(self, name: str) -> Json:
        """The batch of this id. Raises as _call, and UserError where the server describes none."""
        batch = read_batch(await self._call(self._free.get(f"/batches/{name}", cast_to=object)), self._key)
        if isinstance(batch, Failure):
            raise self._no_batches(batch)
        return batch

    def _record(self, plan: str, column: str, value: str) -> None:
        """The file or the batch of a plan. From its batch on, the plan is open."""
        value = clean(str(value), self._key)
        self._journal.write(f"UPDATE batches SET {column} = ? WHERE plan = ?", value, plan)
        if column == "batch":
            self._open[plan] = value

    # --- From open to ended ----------------------------------------------------------------------------------

    async def _await_open(self) -> None:
        """Returns when no batch is open, and all that they brought is booked.

        Those that the server declines, say since too much is in its queue, are made again in the next round. Raises
        UserError where it declines all of them.
        """
        delay, most = _POLL
        count, declined = len(self._open), 0
        while self._open:
            for plan, name in list(self._open.items()):
                try:
                    batch = await self._look_at(name)
                    if batch["status"] not in ENDED:
                        continue
                    lost = await self._collect(plan, batch)
                    declined += batch["status"] == "failed"
                    problem = json.dumps(batch["errors"]) if batch.get("errors") else ""
                    reason = one_line(f"batch {name} ended as {batch['status']} {problem}", self._key)
                except Failure as error:
                    lost, reason = True, f"batch {name} cannot be read: {error.reason}"
                self._close(plan, lost=lost, reason=reason)
            if self._open:
                await self._run.sleep(delay)
                delay = min(most, delay * 1.5)
        if declined and declined == count:
            place = f"config.teachers.{self._endpoint.name}"
            raise UserError(f"{reason}; put that right, lower {place}.batch_requests, or set {place}.mode=live")

    async def _collect(self, plan: str, batch: Json) -> bool:
        """Books what a batch brought. Returns whether what is left may have been charged for."""
        paid: set[str] = set()
        for name in filter(None, (batch.get("output_file_id"), batch.get("error_file_id"))):
            paid |= self._book(plan, (await self._call(self._free.files.content(str(name)))).content)
        counts = batch.get("request_counts")
        completed = counts.get("completed") if isinstance(counts, dict) else None
        return type(completed) is not int or len(paid) < completed

    def _book(self, plan: str, content: bytes) -> set[str]:
        """Ends the attempts that the lines of a file are about, and keeps the paid answers until they are claimed.

        Returns the keys of the plan's requests that may have been charged for.
        """
        sql = "SELECT id, cost FROM attempts WHERE via = ? AND key = ?"
        paid = set[str]()
        with self._journal.transaction():
            for line in content.splitlines():
                key, answer = read_line(line, self._endpoint, self._key)
                for attempt, cost in self._journal.read(sql, f"batch/{plan}", key):
                    if isinstance(answer, Failure):
                        self._failures[key] = answer
                    if not isinstance(answer, Failure) or answer.lost:
                        paid.add(key)
                    if cost is not None:  # booked before
                        continue
                    self._end(attempt, answer)
                    if not isinstance(answer, Failure):
                        kept = json.dumps(dict(zip(("status", "text", "reason", "model"), answer, strict=False)))
                        self._journal.write("INSERT OR REPLACE INTO arrived VALUES (?, ?)", key, kept)
        return paid

    def _close(self, plan: str, *, lost: bool, reason: str) -> None:
        """Ends the plan and what is open of it: as lost, or at no cost."""
        with self._journal.transaction():
            rest = self._journal.end_all(f"batch/{plan}", lost=lost, reason=reason)
            self._journal.write("UPDATE batches SET ended = 1 WHERE plan = ?", plan)
        self._failures |= dict.fromkeys(rest, Failure("failed" if lost else "limited", reason))
        self._open.pop(plan, None)
        if rest:
            self._say(f"{reason}; {len(rest):,} of its requests have no reply")
