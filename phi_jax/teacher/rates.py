"""How fast a server may be asked: learnt from its rate headers, and from what it turns away.

Nothing here waits or talks: `delay` says how long to wait, `take` counts a request that goes out, and the other
methods are told what came back. Time is passed in, in seconds of a monotonic clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import math
import re
import time
from collections.abc import Callable, Mapping

LONGEST_WAIT = 3600.0  # seconds; a server that asks for more is asked again after this
_HORIZON = 1.0  # seconds over which answers and refusals are averaged
_HEADROOM = 1.5  # requests sent for each that is answered, where refusals show no other limit
_STRAYS = 2.0  # refusals a second that say nothing yet
_SLOWEST = 2.0  # requests a second, however many are refused
_MEMORY = 10.0  # seconds for which the pace stays bounded after refusals showed a limit
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the reply asks to wait: retry-after-ms, or retry-after in seconds or as an HTTP date, or the reset
    of what x-ratelimit-remaining-* says is used up.

    now: seconds since 1970. None where it asks nothing that can be read.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if (number := _number(text)) is not None:
            return min(number * unit, LONGEST_WAIT)
        if name == "retry-after" and text:
            with contextlib.suppress(ValueError, OverflowError):
                wait = email.utils.parsedate_to_datetime(text).timestamp() - now
                return min(max(wait, 0.0), LONGEST_WAIT)
    resets = [
        read_reset(headers.get(f"x-ratelimit-reset-{kind}", ""))
        for kind in ("requests", "tokens")
        if _number(headers.get(f"x-ratelimit-remaining-{kind}", "")) == 0
    ]
    return max((min(reset, LONGEST_WAIT) for reset in resets if reset is not None), default=None)


def read_reset(text: str) -> float | None:
    """Seconds of an x-ratelimit-reset-* header: "1s", "6m0s", "20ms", or plain seconds. None for another form."""
    text = text.strip()
    if (number := _number(text)) is not None:
        return number if number < 1e8 else None  # more is a date, and the server's clock is not ours
    pieces = _DURATION.findall(text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in pieces)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


@dataclasses.dataclass
class _Bucket:
    """What the server says is left of one resource (requests or tokens), and how fast it comes back."""

    level: float = math.inf
    limit: float = math.inf
    rate: float = 0.0  # a second
    full_at: float = math.inf  # when all is there again, by the server's word
    at: float = 0.0

    def now(self, now: float) -> float:
        if now >= self.full_at:
            return self.limit
        return min(self.limit, self.level + self.rate * max(0.0, now - self.at))

    def take(self, amount: float, now: float) -> None:
        self.level, self.at = self.now(now) - amount, now
        if now >= self.full_at:
            self.full_at = math.inf

    def delay(self, amount: float, now: float) -> float:
        amount = min(amount, self.limit)  # a request beyond the limit is the server's to refuse
        missing = amount - self.now(now)
        if missing <= 0:
            return 0.0
        by_rate = missing / self.rate if self.rate > 0 else math.inf
        return min(by_rate, max(self.full_at - now, 0.0), LONGEST_WAIT)

    def learn(self, limit: float, remaining: float, reset: float, in_flight: float, now: float) -> None:
        """in_flight: what was sent and may not yet be counted in `remaining`."""
        self.limit, self.level, self.at = max(limit, 1.0), min(remaining, limit) - in_flight, now
        self.full_at = now + reset
        # "reset" is when all is there again. Limits are a minute's; those of a day come back more slowly.
        self.rate = limit / 60
        if reset > 0 and limit > remaining:
            self.rate = min(self.rate, (limit - remaining) / reset)


class _Average:
    """Events a second, over about the last _HORIZON seconds."""

    def __init__(self) -> None:
        self._value, self._at = 0.0, 0.0

    def add(self, now: float) -> None:
        self._value, self._at = self.at(now) + 1 / _HORIZON, now

    def at(self, now: float) -> float:
        return self._value * math.exp(-max(0.0, now - self._at) / _HORIZON)


class Rates:
    """The pace of one endpoint.

    Where the server sends x-ratelimit-* headers, requests and tokens are spent from what it says is left. Where it
    only turns requests away, as many are sent as it answers and half as many more, so that the pace stays near the
    limit and rises again with it; a refusal now and then, which says nothing of the pace, slows nothing. A retry-after
    holds all requests back where refusals are more than a stray one, else only the one it was said to.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests, self._tokens = _Bucket(), _Bucket()
        self._answers, self._refusals = _Average(), _Average()
        self._in_flight = 0
        self._tokens_in_flight = 0
        self._bounded_until = -math.inf
        self._held_until = -math.inf
        self._next = -math.inf  # when the bounded pace allows the next request

    def delay(self, tokens: int) -> float:
        """Seconds until a request of that many tokens (prompt and completion, at most) may go out; 0 = now."""
        now = self._clock()
        paced = self._next - now if self._pace(now) < math.inf else 0.0
        spare = max(self._requests.delay(1, now), self._tokens.delay(tokens, now))
        return max(0.0, self._held_until - now, paced, spare)

    def take(self, tokens: int) -> None:
        """A request goes out."""
        now = self._clock()
        self._requests.take(1, now)
        self._tokens.take(tokens, now)
        self._next = max(self._next, now) + 1 / self._pace(now)
        self._in_flight += 1
        self._tokens_in_flight += tokens

    def done(self, tokens: int) -> None:
        """A request that went out came back, in whatever way; once for each `take`, before what it taught."""
        self._in_flight -= 1
        self._tokens_in_flight -= tokens

    def answered(self, headers: Mapping[str, str]) -> None:
        """A reply that no limit turned away."""
        now = self._clock()
        self._answers.add(now)
        self._learn(headers, now)

    def refused(self, headers: Mapping[str, str], wait: float | None) -> None:
        """A reply of status 429; wait: its retry-after."""
        now = self._clock()
        self._refusals.add(now)
        self._learn(headers, now)
        if self._refusals.at(now) > max(_STRAYS, (_HEADROOM - 1) * self._answers.at(now)):
            self._bounded_until = now + _MEMORY
            self._held_until = max(self._held_until, now + (wait or 0.0))

    def _pace(self, now: float) -> float:
        """Requests a second."""
        if now >= self._bounded_until:
            return math.inf
        return max(_SLOWEST, _HEADROOM * self._answers.at(now))

    def _learn(self, headers: Mapping[str, str], now: float) -> None:
        for bucket, kind, in_flight in (
            (self._requests, "requests", self._in_flight),
            (self._tokens, "tokens", self._tokens_in_flight),
        ):
            limit = _number(headers.get(f"x-ratelimit-limit-{kind}", ""))
            remaining = _number(headers.get(f"x-ratelimit-remaining-{kind}", ""))
            reset = read_reset(headers.get(f"x-ratelimit-reset-{kind}", ""))
            if limit is not None and remaining is not None and reset is not None:
                bucket.learn(limit, remaining, reset, in_flight, now)
