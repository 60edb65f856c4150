"""Asks a test server in a process of its own, which can be killed at a chosen moment.

    python tests/asking_run.py PLAN.json

PLAN: the fields of `Plan`. Prints {"counts", "found", "spent"}, or exits with 1 and the message of a UserError. Moments
that only this process knows are those of KILLED_HERE; for those that the server sees, this process says in the
file `victim` when the server is to kill it.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pydantic

from phi_jax.errors import UserError
from phi_jax.teacher import asking
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.prices import Endpoint, load_prices
from phi_jax.teacher.request import PICODOLLARS, Request

# The N-th attempt is on disk; its answer is here; that is on disk. Before and behind the N-th change of the journal.
KILLED_HERE = ("begun", "settling", "settled", "writing", "written")
LIVE_PHASES = ("begun", "received", "charged", "sent", "settling", "settled")
BATCH_PHASES = (
    "uploading", "uploaded", "created", "validating", "in_progress", "finalizing", "completed", "reading", "read",
    "begun", "writing", "written",
)  # fmt: skip


class Exercise(pydantic.BaseModel, extra="forbid"):
    code: str
    tests: list[str]


@dataclasses.dataclass
class Plan:
    directory: str  # of the journal
    base_url: str
    count: int  # requests
    mode: str = "live"
    window: int = 20
    batch_requests: int = 5
    timeout: float = 20.0
    attempts: int = 5
    max_tokens: int = 900
    dollars: float = 100.0  # cap
    prices: str = ""  # file of a price table; its entry "metered" is taken
    key_variable: str = ""
    kinds: tuple = ("text", "exercise", "section")  # of the requests, by turns
    phase: str = ""  # to be killed at; "" = not
    times: int = 1  # that the phase has to come
    victim: str = ""  # see llm_server.py --victim

    @property
    def endpoint(self):
        return Endpoint(
            name="writer", model="metered", base_url=self.base_url, key_variable=self.key_variable,
            price=load_prices(self.prices)["metered"],
            mode=self.mode, window=self.window, batch_requests=self.batch_requests, timeout=self.timeout,
            attempts=self.attempts,
        )  # fmt: skip

    def requests(self):
        return (request(n, self.kinds[n % len(self.kinds)], self.max_tokens) for n in range(self.count))

    @property
    def cap(self):
        return round(self.dollars * PICODOLLARS)


def request(number, kind, max_tokens):
    """Its first 16 characters tell it from others, in the server's ledger too."""
    said, schema = f"Request {number:07d}: say something short.", None
    if kind == "exercise":
        said, schema = f"Request {number:07d}: write an exercise, a function named `solve_{number}`.", Exercise
    elif kind == "section":
        said = f"Request {number:07d}: Write a section of a textbook."
    return Request("metered", (("user", said),), max_tokens, temperature=1.0, schema=schema, label=f"tests/{number}")


def number_of(entry):
    """The number of the request that an entry of the ledger is of; None for a probe of the client's."""
    about = entry["about"]
    return int(about[8:15]) if about.startswith("Request ") and about[8:15].isdigit() else None


def write_prices(path, *, input=100, cached=25, output=400, batch_percent=50):
    """A price table with the entry "metered", in dollars per million tokens."""
    entry = {"input": input, "cached_input": cached, "output": output, "batch_percent": batch_percent}
    table = {"as_of": "2026-01-01", "unit": "dollars per million tokens", "models": {"metered": entry}}
    Path(path).write_text(json.dumps(table))
    return str(path)


def charged(plan, ledger):
    """Picodollars of a ledger's entries."""
    price = plan.endpoint.price
    return sum(
        price.cost((e["prompt"], e["completion"], e.get("cached", 0)), batch=e["via"] == "batch") for e in ledger
    )


def ask(plan, journal):
    """`asking.ask` as the plan says."""
    jobs = {plan.endpoint: plan.requests()}
    return asking.ask(jobs, journal, cap=plan.cap, label="asked", total=plan.count)


def replies(plan, journal):
    """Number -> what the journal has of that request, if anything."""
    found = ((number, journal.find(request.key)) for number, request in enumerate(plan.requests()))
    return {number: reply for number, reply in found if reply is not None}


def unaccounted(replies, count):
    """Numbers of the requests that are neither answered nor given up with a reason."""
    return [
        number
        for number in range(count)
        if number not in replies
        or (replies[number].status == "answered") != bool(replies[number].text and not replies[number].reason)
        or (replies[number].status != "answered" and not replies[number].reason)
    ]


def start(plan, **environment):
    """The run of a plan in a process of its own: (exit status, stdout, stderr)."""
    plan_file = Path(plan.directory).with_name(f"{Path(plan.directory).name}.plan.json")
    plan_file.write_text(json.dumps(dataclasses.asdict(plan)))
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, __file__, str(plan_file)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


class Watched(Journal):
    """The journal, ended by SIGKILL at the N-th of one kind of moment."""

    phase, left = "", 0

    def _at(self, phase):
        if phase and phase == self.phase:
            self.left -= 1
            if self.left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    @contextlib.contextmanager
    def transaction(self):
        if self._database.in_transaction:
            with super().transaction():
                yield
            return
        self._at("writing")
        self.concludes = self.begins = False
        with super().transaction():
            yield
            if self.concludes:
                self._at("settling")
        self._at("begun" if self.begins else "settled" if self.concludes else "")
        self._at("written")

    def begin(self, *arguments, **options):
        with self.transaction():
            attempt = super().begin(*arguments, **options)
            self.begins = attempt is not None
        return attempt

    def conclude(self, *arguments):
        with self.transaction():
            self.concludes = True
            return super().conclude(*arguments)


def main(path):
    plan = Plan(**json.loads(Path(path).read_text()))
    if plan.victim and plan.phase and plan.phase not in KILLED_HERE:
        said = {"pid": os.getpid(), "phase": plan.phase, "count": plan.times}
        Path(plan.victim).with_suffix(".new").write_text(json.dumps(said))
        os.replace(Path(plan.victim).with_suffix(".new"), plan.victim)
    with Watched(plan.directory) as journal:
        if plan.phase in KILLED_HERE:
            journal.phase, journal.left = plan.phase, plan.times
        try:
            tally = ask(plan, journal)
        except UserError as error:
            sys.exit(str(error))
        print(json.dumps({"counts": tally.counts, "found": tally.found, "spent": journal.spent}))


if __name__ == "__main__":
    main(sys.argv[1])
