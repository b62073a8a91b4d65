"""A stream of a daemon's answers, read by a thread, that is opened again when the daemon has gone and is back."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Protocol

import grpc

from ipcd_client.errors import IpcdError
from ipcd_client.primitives.errors import from_status
from ipcd_client.primitives.flags import delays, lasting, unusable

# Seconds that a thread has to end in.
_END = 5.0


class Followed(Protocol):
    """What is followed. All but `open` is called by the thread that reads."""

    def open(self, opened: Callable[[Any], None]) -> None:
        """Opens the stream, tells `opened` of the call as soon as it is made, and reads its first answer.

        Raises:
            IpcdError: it cannot be.
        """

    def come(self, reply: Any) -> bool:
        """Another answer. False: there is to be no other."""

    def broken(self) -> None:
        """The stream has broken. It is opened again."""

    def failed(self, error: IpcdError) -> None:
        """It cannot be."""


class Follower:
    """Follows from now on, until it is closed.

    Raises:
        IpcdError: as `Followed.open`.
    """

    def __init__(self, followed: Followed, name: str) -> None:
        self._followed = followed
        self._process = os.getpid()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._call: Any = None
        followed.open(self._opened)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _opened(self, call: Any) -> None:
        with self._lock:
            self._call = call
            closing = self._closing.is_set()
        if closing:
            call.cancel()

    def _run(self) -> None:
        try:
            while True:
                try:
                    for reply in self._call:
                        if not self._followed.come(reply):
                            return
                except grpc.RpcError as error:
                    told: Any = error
                    failure = from_status(told.code(), told.details() or "")
                    if self._closing.is_set():
                        return
                    if lasting(failure):
                        self._followed.failed(failure)
                        return
                self._followed.broken()
                if not self._again():
                    return
        finally:
            # It holds its connection as long as somebody holds it.
            with self._lock:
                call, self._call = self._call, None
            call.cancel()

    def _again(self) -> bool:
        for delay in delays():
            if self._closing.wait(delay):
                return False
            try:
                self._followed.open(self._opened)
            except IpcdError as error:
                if lasting(error):
                    self._followed.failed(error)
                    return False
            except Exception as error:  # noqa: BLE001  whoever waits is to be told, whatever it is
                self._followed.failed(unusable(error))
                return False
            else:
                return True
        return False

    def cancel(self) -> None:
        """Ends it, soon. From any thread; in another process, where its thread is not, nothing happens."""
        if self._process != os.getpid():
            return
        with self._lock:
            self._closing.set()
            call = self._call
        if call is not None:
            call.cancel()

    def close(self) -> None:
        """Ends it."""
        self.cancel()
        if self._thread is not threading.current_thread():
            self._thread.join(_END)
