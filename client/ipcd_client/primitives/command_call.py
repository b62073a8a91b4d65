"""One run over a call of grpc's: a thread reads what comes, for all who use it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import grpc

from ipcd_client.errors import IpcdError, UsageError
from ipcd_client.pb.ipcd.v1 import command_pb2 as pb
from ipcd_client.pb.ipcd.v1 import command_pb2_grpc
from ipcd_client.primitives.command_state import Called
from ipcd_client.primitives.errors import Lost, from_status
from ipcd_client.primitives.waiting import unanswered


class RunCall:
    """`start`, then whatever; `cancel` when nobody needs it any more. Every method may be called from any thread.

    A thread of its own, since a program that only waits, or only reads one of the outputs, has to see the others
    too, and as none can wait for a call and for something else.
    """

    def __init__(self, channel: grpc.Channel, request: pb.RunRequest, release: Callable[[], None]) -> None:
        self._channel = channel
        self._release = release
        self._process = os.getpid()
        self._called = Called(request)
        lock = threading.RLock()
        self._news = threading.Condition(lock)
        self._sending = threading.Condition(lock)  # there may be something to send
        self._failure: Exception | None = None
        self._over = False
        self._call: Any = None
        self._thread = threading.Thread(target=self._read, name="ipcd-command-run", daemon=True)

    @property
    def pid(self) -> int:
        """On the offerer's machine."""
        return self._called.pid

    @property
    def reason(self) -> str:
        """Why the offerer ended it; empty where it did not."""
        return self._called.reason

    def start(self, timeout: float | None) -> None:
        """Returns once it has been started.

        Raises:
            PrimitiveError, NotAllowed, CallFailed: it was not.
        """
        try:
            self._call = command_pb2_grpc.CommandStub(self._channel).Run(self._requests())
            self._thread.start()
        except BaseException:
            self._end(None)
            self.abandon()
            self._release()
            raise
        try:
            self.until(lambda called: called.pid or called.returncode is not None, timeout)
        except BaseException as error:
            self.cancel()
            if isinstance(error, TimeoutError) and not isinstance(error, IpcdError):
                raise unanswered(timeout) from None
            raise

    def until(self, ready: Callable[[Called], Any], timeout: float | None = None) -> Any:
        """What `ready` gives, once that is true; it is asked again after each change, and may take or give.

        Raises:
            TimeoutError: not within so many seconds.
            PrimitiveError, NotAllowed, CallFailed: the call has ended, and it is not.
        """
        self._check_process()
        limit = None if timeout is None else monotonic() + timeout
        with self._news:
            while True:
                result = ready(self._called)
                # It may have taken, which is credit, or given.
                self._sending.notify()
                if result:
                    return result
                if self._over:
                    raise self._failure or Lost("the run's call has ended before the run")
                left = None if limit is None else limit - monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError
                self._news.wait(left)

    def act(self, act: Callable[[Called], Any]) -> Any:
        """What `act` gives, now."""
        self._check_process()
        with self._news:
            result = act(self._called)
            self._sending.notify()
            self._news.notify_all()
            return result

    def poll(self) -> int | None:
        """What it has returned; None while it runs.

        Raises:
            PrimitiveError, NotAllowed, CallFailed: the call has ended before it.
        """
        self._check_process()
        with self._news:
            if self._called.returncode is None and self._over:
                raise self._failure or Lost("the run's call has ended before the run")
            return self._called.returncode

    def cancel(self) -> None:
        """Ends the call, which ends the run where it has not ended."""
        self.abandon()
        if self._thread.is_alive():
            self._thread.join()

    def abandon(self) -> None:
        """The same, not waiting for the end."""
        if self._call is not None and self._process == os.getpid():
            self._call.cancel()

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise UsageError(f"the run is one of process {self._process}, of which this is a fork")

    def _requests(self) -> Iterator[pb.RunRequest]:
        while True:
            with self._sending:
                while (request := self._called.outgoing()) is None and not (self._over or self._called.over):
                    self._sending.wait()
            if request is None:
                return
            yield request

    def _read(self) -> None:
        failure: Exception | None = None
        try:
            for reply in self._call:
                with self._news:
                    self._called.replied(reply)
                    self._sending.notify()
                    self._news.notify_all()
        except grpc.RpcError as error:
            state: Any = error
            failure = from_status(state.code(), state.details() or "")
        except IpcdError as error:
            self.abandon()
            failure = error
        finally:
            self._end(failure)
            self._release()

    def _end(self, failure: Exception | None) -> None:
        with self._news:
            self._failure, self._over = failure, True
            self._sending.notify()
            self._news.notify_all()
