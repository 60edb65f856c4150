"""How fast a server may be asked: what headers say, and what is learnt from what is turned away."""

import datetime
import email.utils
import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi_jax.teacher.rates import LONGEST_WAIT, Rates, read_reset, retry_after

NOW = 1_800_000_000.0  # since 1970


def http_date(seconds):
    return email.utils.format_datetime(datetime.datetime.fromtimestamp(seconds, datetime.UTC), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": http_date(NOW + 7)}, 7.0),
        ({"retry-after": http_date(NOW - 7)}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e300"}, LONGEST_WAIT),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"}, 90.0),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "1m30s"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "?"}, None),
        (
            {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s",
             "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "2s"}, 2.0,
        ),
    ],
)  # fmt: skip
def test_what_a_reply_asks_to_wait(headers, seconds):
    assert retry_after(headers, NOW) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1.0), ("6m0s", 360.0), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("12.5", 12.5), ("2m59.56s", 179.56)],
)
def test_when_a_limit_resets(text, seconds):
    assert read_reset(text) == pytest.approx(seconds)


@given(st.text(max_size=12))
def test_headers_of_any_text_are_read_or_passed_over(text):
    for wait in (read_reset(text), retry_after({"retry-after": text}, NOW), retry_after({"retry-after-ms": text}, NOW)):
        assert wait is None or wait >= 0
    rates = Rates(lambda: 5.0)
    rates.take(10)
    rates.done(10)
    rates.answered({f"x-ratelimit-{what}-requests": text for what in ("limit", "remaining", "reset")})
    assert rates.delay(10) >= 0


class Simulated:
    """A server and a window of workers in simulated time: answers `limit` requests a second, turns away the rest."""

    def __init__(self, limit, *, window=64, latency=0.1, headers=False, stray=0.0):
        self.now, self.limit, self.latency, self.headers, self.stray = 0.0, limit, latency, headers, stray
        self.window = window
        self.rates = Rates(lambda: self.now)
        self.left = limit
        self.rng = random.Random(1)
        self.log = []  # (time, answered)
        self.tasks = []  # (time, number, what)
        self.number = 0
        for _ in range(window):
            self._push(0.0, "go")

    def _push(self, when, what):
        self.number += 1
        heapq.heappush(self.tasks, (when, self.number, what))

    def run(self, until):
        last = self.now
        while self.tasks and self.tasks[0][0] < until:
            self.now, _, what = heapq.heappop(self.tasks)
            self.left = min(self.limit, self.left + self.limit * (self.now - last))
            last = self.now
            if what == "go":
                delay = self.rates.delay(100)
                if delay > 0:
                    self._push(self.now + min(delay, 1.0), "go")
                    continue
                self.rates.take(100)
                fits = self.left >= 1 and self.rng.random() >= self.stray
                self.left -= fits
                self._push(self.now + self.latency, (fits, self.left))
            else:
                fits, left = what
                self.rates.done(100)
                self.log.append((self.now, fits))
                if fits:
                    self.rates.answered(self._headers(left))
                    self._push(self.now, "go")
                else:
                    self.rates.refused(self._headers(left), None)
                    self._push(self.now + self.rng.uniform(0, 1.0), "go")
        self.now = until

    def _headers(self, left):
        if not self.headers:
            return {}
        return {
            "x-ratelimit-limit-requests": str(int(self.limit)),
            "x-ratelimit-remaining-requests": str(int(left)),
            "x-ratelimit-reset-requests": f"{(self.limit - left) / self.limit:.3f}s",
        }

    def share(self, begin, end):
        """(answered a second, share turned away) in this time."""
        there = [fits for when, fits in self.log if begin <= when < end]
        return sum(there) / (end - begin), 1 - sum(there) / max(1, len(there))


def test_a_limit_without_headers_is_found_and_left_again():
    server = Simulated(limit=40.0)
    server.run(60.0)
    speed, turned_away = server.share(20.0, 60.0)
    assert speed > 0.8 * 40
    assert turned_away < 0.4
    server.limit = 1e6  # the server recovers, and so does the pace
    server.run(90.0)
    assert server.share(85.0, 90.0)[0] > 0.9 * 64 / 0.1


def test_with_headers_hardly_a_request_is_turned_away():
    server = Simulated(limit=40.0, headers=True)
    server.run(60.0)
    speed, turned_away = server.share(20.0, 60.0)
    assert speed > 0.7 * 40
    assert turned_away < 0.15


def test_stray_refusals_slow_nothing_down():
    server = Simulated(limit=1e6, stray=0.08)
    server.run(20.0)
    free = Simulated(limit=1e6)
    free.run(20.0)
    assert server.share(5.0, 20.0)[0] > 0.6 * free.share(5.0, 20.0)[0]


def test_a_retry_after_holds_back_all_where_refusals_are_many():
    now = 100.0
    rates = Rates(lambda: now)
    for _ in range(10):
        rates.take(1)
        rates.done(1)
        rates.refused({}, 30.0)
    assert rates.delay(1) == pytest.approx(30.0)
    now = 131.0
    assert rates.delay(1) < 5.0


def test_tokens_are_spent_from_what_is_left():
    now = 100.0
    rates = Rates(lambda: now)
    rates.take(10)
    rates.done(10)
    rates.answered(
        {
            "x-ratelimit-limit-tokens": "60000",
            "x-ratelimit-remaining-tokens": "500",
            "x-ratelimit-reset-tokens": "59.5s",
        }
    )
    assert rates.delay(400) == 0
    rates.take(400)
    assert rates.delay(400) == pytest.approx(0.3, abs=0.01)  # 300 missing, at 1000 a second
    now = 160.0
    assert rates.delay(60000) == 0
