"""What test_teacher.py shows on samples and acceptance/test_teacher_full.py at full size: faults, kills, caps, keys."""

import contextlib
import dataclasses
import random
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path

import asking_run
from asking_run import BATCH_PHASES, LIVE_PHASES, Plan, charged, number_of, replies, start, unaccounted, write_prices
from llm_faults import FAULTS
from llm_server import serving

from phi_jax.errors import UserError
from phi_jax.teacher.journal import Journal
from phi_jax.teacher.request import PICODOLLARS

ARRIVE = tuple(name for name, charge in FAULTS.items() if charge in (0, 2) and name != "reset_before")


def with_faults(directory, count, *, seed, faults=0.3, kinds=tuple(FAULTS), window=50):
    """Asks `count` requests of a server with faults. Returns figures and asserts what must hold of any such run.

    Each request ends answered or with a reason, and the server charged no more than we booked; exactly that where
    `kinds` has only faults whose replies arrive whole.
    """
    timeout = 30.0 if set(kinds) <= set(ARRIVE) else 2.0  # what hangs is to be given up soon
    with serving(faults=faults, seed=seed, kinds=kinds, drip_seconds=0.3) as server:
        plan = Plan(
            str(directory / "journal"), server.base_url, count, window=window, timeout=timeout, dollars=1000.0 * count,
            prices=write_prices(directory / "prices.json"),
        )  # fmt: skip
        with Journal(plan.directory) as journal:
            began = time.monotonic()
            tally = asking_run.ask(plan, journal)
            seconds = time.monotonic() - began
            found, spent, reserved = replies(plan, journal), journal.spent, journal.reserved
        ledger = server.settled()
    struck = Counter(entry["fault"] for entry in ledger if entry["fault"])
    cost = charged(plan, ledger)
    assert not unaccounted(found, count)
    assert sum(tally.counts.values()) == count
    assert reserved == 0
    assert cost <= spent
    if set(kinds) <= set(ARRIVE):
        assert cost == spent
    return {
        "requests": count,
        "faults": faults,
        "asked": len(ledger),
        "faults_struck": dict(sorted(struck.items())),
        "outcomes": dict(sorted(tally.counts.items())),
        "reasons_of_the_poisoned": dict(
            Counter(r.reason.partition(";")[0][:80] for r in found.values() if r.status == "poisoned")
        ),
        "server_dollars": cost / PICODOLLARS,
        "our_dollars": spent / PICODOLLARS,
        "seconds": round(seconds, 1),
    }


def with_kills(directory, kills, *, mode, count, seed):
    """One set of requests, asked by processes of which each but the last is killed at a (phase, times) of `kills`.

    Asserts after each kill that what the server charged is booked or reserved, and at the end that everything is
    answered, and that nothing was asked again once the journal had its reply.
    """
    victim = directory / "victim.json"
    with serving(seed=seed, latency=0.02, batch_seconds=0.3, victim=victim) as server:
        plan = Plan(
            str(directory / "journal"), server.base_url, count, mode=mode, victim=str(victim),
            prices=write_prices(directory / "prices.json"), kinds=("text", "exercise"), dollars=1e6,
        )  # fmt: skip
        had = {}  # number -> entries of the ledger when the journal was first seen to have its reply
        killed = 0  # attempts that a kill left without an answer
        for phase, times in [*kills, ("", 0)]:
            status, out, err = start(dataclasses.replace(plan, phase=phase, times=times))
            if phase:
                assert status == -signal.SIGKILL, f"{phase} did not come {times} times: exit {status}\n{out}{err}"
            else:
                assert status == 0, err
            ledger = server.settled()
            with Journal(plan.directory) as journal:
                cost = charged(plan, ledger)
                assert cost <= journal.spent + journal.reserved, f"after a kill at {phase}"
                booked, found = journal.spent, replies(plan, journal)
            for number in found:
                had.setdefault(number, len(ledger))
            before, killed = killed, left_open(plan)
            assert not phase or mode == "batch" or killed > before, f"a kill at {phase} lost nothing"
    assert not unaccounted(found, count)
    assert len(had) == count
    assert all(reply.status != "poisoned" for reply in found.values())
    again = [e for place, e in enumerate(ledger) if number_of(e) is not None and place >= had[number_of(e)]]
    assert not again, again
    times_asked = Counter(map(number_of, ledger))
    if mode == "batch":  # a batch lives on without us: no request was ever paid twice
        assert all(times_asked[number] == 1 for number in range(count))
        assert cost == booked
    return {
        "mode": mode,
        "requests": count,
        "kills": Counter(phase for phase, _ in kills),
        "attempts_lost_to_kills": killed,
        "requests_asked_more_than_once": sum(times_asked[n] > 1 for n in range(count)),
        "server_dollars": cost / PICODOLLARS,
        "our_dollars": booked / PICODOLLARS,
    }


def left_open(plan):
    """Attempts that the journal found open when it was opened, so that a killed process had left them."""
    with contextlib.closing(sqlite3.connect(Path(plan.directory, "journal.sqlite"))) as database:
        return database.execute("SELECT count(*) FROM attempts WHERE lost AND reason LIKE '%killed%'").fetchone()[0]


def kills_of(mode, count, seed):
    """`count` pairs (phase, times) with each phase among them, in seeded order."""
    rng = random.Random(f"kills {mode} {seed}")
    phases = LIVE_PHASES if mode == "live" else BATCH_PHASES
    chosen = [*phases, *rng.choices(phases, k=count - len(phases))]
    rng.shuffle(chosen)
    most = {"begun": 8, "writing": 25, "written": 25} if mode == "batch" else dict.fromkeys(phases, 8)
    return [(phase, rng.randint(1, most.get(phase, 2))) for phase in chosen]


def with_cap(directory, seed):
    """One run with prices, cap, window and faults by seed; asserts that the server never charged beyond the cap.

    Returns (share of the cap that the server charged, whether the cap ended the run).
    """
    rng = random.Random(f"cap {seed}")
    mode = rng.choice(("live", "live", "batch"))
    prices = {name: round(10 ** rng.uniform(-2, 3), 4) for name in ("input", "output")}
    prices = {
        **prices,
        "cached": prices["input"] * rng.choice((0, 0.1, 0.5, 1)),
        "batch_percent": rng.choice((50, 100)),
    }
    faults = {"faults": rng.choice((0.0, 0.3, 0.6)), "reasoning": rng.choice((0, 0, 50))}
    server_options = {"seed": seed, "drip_seconds": 0.1, "batch_seconds": 0.02, "batch_duplicates": 0.1}
    server_options |= {"batch_expire": rng.choice((0.0, 0.5)), "shape": rng.choice(("openai", "vllm", "llama_cpp"))}
    with serving(**server_options, **faults) as server:
        plan = Plan(
            str(directory / "journal"), server.base_url, rng.randint(5, 40), mode=mode, timeout=0.5,
            window=rng.choice((1, 3, 10, 40)), batch_requests=rng.choice((3, 10, 40)), attempts=3,
            max_tokens=rng.choice((5, 60, 600)), prices=write_prices(directory / "prices.json", **prices),
        )  # fmt: skip
        price = plan.endpoint.price
        most = sum(price.reservation(request, batch=mode == "batch") for request in plan.requests())
        plan.dollars = most * rng.choice((0.02, 0.1, 0.3, 0.7, 1.2)) / PICODOLLARS
        said = ""
        with Journal(plan.directory) as journal:
            try:
                asking_run.ask(plan, journal)
            except UserError as error:
                said = str(error)
            booked = journal.spent + journal.reserved
        cost = charged(plan, server.settled())
    assert not said or "config.budget.max_dollars" in said, said
    assert cost <= booked <= plan.cap
    return cost / plan.cap, bool(said)


def with_key(directory, count):
    """A run whose server knows one key and echoes it in errors, and one with a wrong key; returns what was searched.

    Asserts that neither key is in what the processes print or in any file below `directory`.
    """
    keys = {"right": "sk-planted-7f3a9c51e2d84b06", "wrong": "sk-planted-wrong-51c0ffee88"}
    printed = ""
    with serving(ledger=directory.with_name(f"{directory.name}.ledger"), faults=0.4, seed=3, key=keys["right"],
                 kinds=("echo", "500", "429", "html", "reset_after")) as server:  # fmt: skip
        for name, key in keys.items():
            plan = Plan(
                str(directory / f"journal-{name}"), server.base_url, count, key_variable="PLANTED_KEY", timeout=2.0,
                attempts=2, dollars=1e6, prices=write_prices(directory / "prices.json"),
            )  # fmt: skip
            status, out, err = start(plan, PLANTED_KEY=key, OPENAI_LOG="debug")
            assert status == (0 if name == "right" else 1), err
            printed += out + err
        echoed = sum(entry["fault"] == "echo" for entry in server.settled())
    assert echoed, "the server echoed no key"
    files = [path for path in Path(directory).rglob("*") if path.is_file()]
    for key in keys.values():
        assert key not in printed
        for path in files:
            assert key.encode() not in path.read_bytes(), path
    return {"echoed": echoed, "files": len(files), "bytes_printed": len(printed)}
