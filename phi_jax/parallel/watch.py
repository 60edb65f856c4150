"""The watchdog of a long stage: sees SIGTERM, and peers that died or hang, while the main thread is inside XLA.

A compile takes minutes and a collective with a dead peer may never return; Python's signal handlers wait for both.
"""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from typing import Any, NoReturn, Self

from phi_jax.errors import EXIT_FAILED, EXIT_PEER_LOST, EXIT_PREEMPTED, Preempted, UserError, one_line
from phi_jax.parallel import processes
from phi_jax.progress import note, say

_BEAT_SECONDS = 1.0
_ALIVE = "phi_jax/alive"  # in the store: a directory with an entry for each process
_NOTICE = "RECEIVED_PREEMPTION_NOTICE"  # in the store: set by jax when any process got SIGTERM


class Watch:
    """Watches one stage; use as a context manager in the main thread.

    While `can_save` is false, SIGTERM ends all processes at once with EXIT_PREEMPTED. While it is true, the loop asks
    `should_stop` after each step, and saves. So it does at the first Ctrl-C where there is one process.
    """

    def __init__(self, label: str, *, peer_timeout: float) -> None:
        """peer_timeout: seconds without a heartbeat of another process, after which this process names it and ends
        with EXIT_PEER_LOST; at least 5.
        """
        self.asked_to_stop = False
        self.can_save = False  # the loop's to set: from its first step on, until everything is saved
        self._label, self._timeout = label, peer_timeout
        self.phase = "setting up"  # the loop's to set: what it does now, for the line that names a process that hangs
        self._ended = threading.Event()
        self._peers = [number for number in range(processes.count()) if number != processes.index()]
        self._store_silence = 0.0  # seconds since the store last answered

    def should_stop(self, step: int) -> bool:
        """True at the step at which all processes are to save and stop, since one of them got SIGTERM.

        step: steps taken so far; every process must call this after every step.
        """
        if not processes.is_connected():
            return self.asked_to_stop
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    # --- Life ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        tasks = [self._beat, self._check_store]  # SIGTERM is then noted by jax itself, in C++
        if not processes.is_connected():
            tasks = [self._wait_for_signal]
            self._reading, self._writing = socket.socketpair()
            self._writing.setblocking(False)
            self._old_handlers = {
                number: signal.signal(number, handler)
                for number, handler in {signal.SIGTERM: lambda *_: None, signal.SIGINT: self._interrupt}.items()
                if signal.getsignal(number) != signal.SIG_IGN  # as SIGINT is behind a script's &
            }
            # The C-level handler writes the signal's number here even while the main thread is inside XLA.
            self._old_wakeup = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for task in tasks:
            threading.Thread(target=task, daemon=True).start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, (UserError, Preempted)) and self._peers:
            # A collective fails at once when a peer dies, before its silence is long enough to be sure. If a peer is
            # lost, `_beat` ends this process with a line that names it.
            note(f"{self._label}: process {processes.index()}: {one_line(error)}; asking the others")
            time.sleep(self._timeout + 5 * _BEAT_SECONDS)
        self._ended.set()
        if not processes.is_connected():
            signal.set_wakeup_fd(self._old_wakeup)
            for number, handler in self._old_handlers.items():
                signal.signal(number, handler)
            self._writing.close()

    def _wait_for_signal(self) -> None:
        while received := self._reading.recv(64):  # empty once the other end is closed
            if signal.SIGTERM in received:
                self._stop()

    def _interrupt(self, *_: object) -> None:
        if not self.can_save or self.asked_to_stop:
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGTERM)  # a handler must not print while the main thread does

    def _stop(self) -> None:
        if not self.can_save:
            processes.tell_end(EXIT_PREEMPTED, "was asked to stop")
            self._end("asked to stop while there was nothing to save", EXIT_PREEMPTED)
        if not self.asked_to_stop:
            self.asked_to_stop = True
            note(f"{self._label}: asked to stop; saving at the end of this step")

    def _end(self, why: str, code: int) -> NoReturn:
        if code != EXIT_PEER_LOST:
            processes.let_others_read()
        remedy = "" if code == EXIT_FAILED else "; run the same command again to go on"
        say(f"phi-jax: {self._label}: process {processes.index()}: {why}{remedy}")
        os._exit(code)  # the main thread may be inside XLA for ever

    # --- Peers -----------------------------------------------------------------------------------------------

    # Silence is counted in beats of this process: where it stood still itself, the others are not late.

    def _beat(self) -> None:
        """Sends heartbeats and looks for those of the others. Blocks where the store does not answer."""
        beats, store = 0, processes.store()
        silence = dict.fromkeys(self._peers, 0.0)
        last: dict[int, list[Any]] = {}
        while not self._ended.wait(_BEAT_SECONDS):
            with contextlib.suppress(Exception):  # `_check_store` sees that no answer came
                beats += 1
                about = f"on {socket.gethostname()}, last seen {self.phase}"
                store.key_value_set(f"{_ALIVE}/{processes.index()}", json.dumps([beats, about]), allow_overwrite=True)
                found = {int(k.rpartition("/")[2]): json.loads(v) for k, v in store.key_value_dir_get(_ALIVE)}
                self._store_silence = 0.0
                for peer in self._peers:
                    heard = found.get(peer, [0, "never heard of"])
                    silence[peer] = silence[peer] + _BEAT_SECONDS if heard == last.get(peer) else 0.0
                    last[peer] = heard
                    if silence[peer] > self._timeout:
                        self._end(f"process {peer} ({heard[1]}) sent no heartbeat for {silence[peer]:.0f} s; "
                                  "it crashed or hangs", EXIT_PEER_LOST)  # fmt: skip
                if (told := processes.told_end()) is not None:
                    self._end(f"process {told['process']} {told['message']}", told["code"])
                if processes.find(_NOTICE) is not None:
                    self._stop()

    def _check_store(self) -> None:
        while not self._ended.wait(_BEAT_SECONDS):
            self._store_silence += _BEAT_SECONDS
            if self._store_silence > self._timeout:
                self._end(f"process 0, which keeps the store, has not answered for {self._store_silence:.0f} s; "
                          "it crashed or hangs", EXIT_PEER_LOST)  # fmt: skip
