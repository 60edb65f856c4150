"""A thread that sees what the main thread cannot while it is inside XLA: SIGTERM, and peers that died or hang.

A compile takes minutes and a collective with a dead peer may never return; Python's signal handlers wait for both.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import threading
import time
from types import TracebackType
from typing import Any, NoReturn

from phi_jax.errors import EXIT_FAILED, EXIT_PEER_LOST, EXIT_PREEMPTED, Preempted, UserError
from phi_jax.parallel import processes
from phi_jax.progress import say

_BEAT_SECONDS = 1.0
_KEY = "phi_jax/alive"
_LEAVE = "phi_jax/leave"


class Watch:
    """Watches one training run; use as a context manager in the main thread.

    Before `started` and after `finished` the run has nothing to save, and SIGTERM ends it at once with EXIT_PREEMPTED,
    on all processes; in between SIGTERM only sets `asked_to_stop`, and the loop saves and leaves at a step that all
    agree on.
    """

    def __init__(self, label: str, *, peer_timeout: float) -> None:
        """peer_timeout: seconds without a sign of life from another process after which this one ends with
        EXIT_PEER_LOST and a line that names it.
        """
        if peer_timeout < 5 * _BEAT_SECONDS:
            raise UserError(
                f"config.training.peer_timeout={peer_timeout}: seconds; must be at least {5 * _BEAT_SECONDS:.0f}"
            )
        self.asked_to_stop = False
        self._label = label
        self._timeout = peer_timeout
        self.has_started = False
        self._has_finished = False
        self._phase = "setting up"
        self._ended = threading.Event()
        self._peers: dict[int, _Peer] = {}
        self._answered = time.monotonic()  # when the store last answered

    def started(self) -> None:
        """The first step is done: from now on there is something to save."""
        self.has_started = True

    def finished(self) -> None:
        """Everything is saved."""
        self._has_finished = True

    def phase(self, name: str) -> None:
        """What the main thread does now, for the line that names a hanging process."""
        self._phase = name

    # --- Life ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Watch:
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        self._old_handler = signal.signal(signal.SIGTERM, lambda *_: None)
        # The C-level handler writes the signal's number here even while the main thread is inside XLA.
        self._old_wakeup = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        threads = [threading.Thread(target=self._watch_signals, daemon=True)]
        if processes.count() > 1:
            threads += [threading.Thread(target=f, daemon=True) for f in (self._beat, self._judge)]
        for thread in threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, (UserError, Preempted)) and processes.count() > 1:
            # A collective fails at once when a peer dies, before the peer's silence is long enough to be sure of. If
            # one is lost, `_judge` ends this process with a line that names it.
            say(f"{self._label}: process {processes.index()}: {' '.join(str(error).split())[:160]}; asking the others")
            time.sleep(self._timeout + 5 * _BEAT_SECONDS)
        self._ended.set()
        signal.set_wakeup_fd(self._old_wakeup)
        signal.signal(signal.SIGTERM, self._old_handler)
        self._writing.close()

    def _watch_signals(self) -> None:
        while not self._ended.is_set():
            if not select.select([self._reading], [], [], _BEAT_SECONDS)[0]:
                continue
            with contextlib.suppress(OSError):
                received = self._reading.recv(64)
                if not received:
                    return
                if signal.SIGTERM in received and not self.asked_to_stop:
                    self.asked_to_stop = True
                    if not self.has_started or self._has_finished:
                        self._leave("asked to stop while there was nothing to save")
                    say(f"{self._label}: asked to stop; saving at the end of this step")

    def _leave(self, why: str) -> NoReturn:
        if processes.count() > 1:
            with contextlib.suppress(Exception):
                processes.store().key_value_set(_LEAVE, str(processes.index()), allow_overwrite=True)
        self._end(f"process {processes.index()}: {why}", EXIT_PREEMPTED)

    def _end(self, why: str, code: int) -> NoReturn:
        if code != EXIT_PEER_LOST and processes.count() > 1 and processes.is_leader():
            time.sleep(processes.LEADER_STAYS_SECONDS)
        remedy = "" if code == EXIT_FAILED else "; run the same command again to go on"
        say(f"phi-jax: {self._label}: {why}{remedy}")
        os._exit(code)  # the main thread may be inside XLA for ever

    # --- Peers -----------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        """Leaves signs of life and collects those of the others. Blocks where the store does not answer."""
        me = processes.index()
        beats = 0
        while not self._ended.wait(_BEAT_SECONDS):
            with contextlib.suppress(Exception):  # `_judge` sees that no answer came
                beats += 1
                about = json.dumps({"beats": beats, "phase": self._phase, "host": socket.gethostname()})
                processes.store().key_value_set(f"{_KEY}/{me}", about, allow_overwrite=True)
                now = time.monotonic()
                for key, value in processes.store().key_value_dir_get(_KEY):
                    self._peers.setdefault(int(key.rpartition("/")[2]), _Peer()).heard(json.loads(value), now)
                self._answered = now
                leaver = _try_get(_LEAVE)
                if leaver is not None and int(leaver) != me:
                    self._end(f"process {me}: process {leaver} was asked to stop", EXIT_PREEMPTED)
                told = _try_get(processes.FAILED)
                if told is not None and (failed := json.loads(told))["process"] != me:
                    self._end(f"process {me}: process {failed['process']} failed: {failed['message']}", EXIT_FAILED)

    def _judge(self) -> None:
        me = processes.index()
        begin = last = time.monotonic()
        while not self._ended.wait(_BEAT_SECONDS):
            now = time.monotonic()
            if now - last > 3 * _BEAT_SECONDS:  # it was this process that stood still: the others' beats are not late
                begin = self._answered = now
                for peer in self._peers.values():
                    peer.at = now
            last = now
            if now - self._answered > self._timeout:
                what = self._peers[0].about if 0 in self._peers else "never heard of"
                self._end(f"process {me}: process 0 ({what}) has not answered for {self._timeout:.0f} s; it is dead or "
                          "hangs", EXIT_PEER_LOST)  # fmt: skip
            for number in range(processes.count()):
                found = self._peers.get(number)
                silent = now - (found.at if found else begin)
                if number != me and silent > self._timeout:
                    what = found.about if found else "never heard of"
                    self._end(f"process {me}: process {number} ({what}) has given no sign of life for "
                              f"{silent:.0f} s; it is dead or hangs", EXIT_PEER_LOST)  # fmt: skip


class _Peer:
    """What is known of another process."""

    def __init__(self) -> None:
        self._beats = -1
        self.at = time.monotonic()  # when it was last heard of
        self.about = ""

    def heard(self, message: dict[str, Any], now: float) -> None:
        if message["beats"] != self._beats:
            self._beats, self.at = message["beats"], now
            self.about = f"on {message['host']}, last seen {message['phase']}"


def _try_get(key: str) -> str | None:
    try:
        return processes.store().key_value_try_get(key)
    except Exception:  # absent: jaxlib raises its own type
        return None


class Votes:
    """Whether any process wants to stop, asked at every step and answered one step later, so that nothing waits.

    All processes read the same answers at the same steps: they stop after the same one.
    """

    def __init__(self, mesh: Any) -> None:
        self._last: Any = False
        if processes.count() == 1:
            return
        import jax
        import jax.numpy as jnp
        from jax.sharding import NamedSharding, PartitionSpec

        from phi_jax.parallel.mesh import replicated

        self._devices = mesh.devices.size
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._any = jax.jit(jnp.max, out_shardings=replicated(mesh))

    def cast(self, wish: bool) -> bool:
        """Hands in this process's wish; the answer to the one before."""
        answer = bool(self._last)
        if processes.count() == 1:
            self._last = wish
            return answer or wish  # alone, nothing has to be agreed
        import jax
        import numpy as np

        ballots = np.full(self._devices, wish, np.int32)
        self._last = self._any(
            jax.make_array_from_callback((self._devices,), self._sharding, lambda index: ballots[index])
        )
        return answer
