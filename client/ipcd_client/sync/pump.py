"""Reads a connection for calls that have callbacks, which nobody may be waiting for.

A thread of its own, that exists only while there are such calls.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING, Final

import grpc

from ipcd_client.frame.settings import RESET_DEADLINE
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ClientCall

if TYPE_CHECKING:
    from ipcd_client.sync.connection import Connection

# A call that is watched while the thread waits already may have an earlier deadline: it is met this late, in seconds,
# at most.
_SLICE: Final = 0.25


class Pump:
    """The watched calls of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._calls: dict[ClientCall, float | None] = {}
        self._running = False

    def watch(self, call: ClientCall, deadline: float | None) -> None:
        """Reads until the call has ended, which the deadline (of time.monotonic()) brings at the latest."""
        with self._lock:
            self._calls[call] = deadline
            if self._running:
                return
            self._running = True
        threading.Thread(target=self._run, name="ipcd-pump", daemon=True).start()

    def _run(self) -> None:
        connection = self._connection
        while True:
            now = monotonic()
            until = None if not self._calls else now + _SLICE
            with self._lock:
                calls = list(self._calls.items())
            for call, deadline in calls:
                if call.code is None and deadline is not None and deadline <= now:
                    details = status.DEADLINE_EXCEEDED
                    connection.end(call, grpc.StatusCode.DEADLINE_EXCEEDED, details, RESET_DEADLINE)
                if call.code is not None:
                    with self._lock:
                        self._calls.pop(call, None)
                elif deadline is not None:
                    until = min(until or deadline, deadline, now + _SLICE)
            with self._lock:
                if not self._calls:
                    self._running = False
                    return
                watched = list(self._calls)
            # The others are told by `progressed`; here it matters only that somebody reads.
            self._wait_for(watched[0], until)

    def _wait_for(self, call: ClientCall, until: float | None) -> None:
        self._connection.wait(call.stream, lambda: call.code is not None, until)
