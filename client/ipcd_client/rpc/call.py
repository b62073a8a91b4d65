"""A call at its two ends, as state machines: events in, facts out.

Pure; both faces drive these. `ClientCall` is the caller's end, `ServerCall` the callee's. A driver feeds each
with the events of its stream (`handle`), under whatever lock it uses, and looks at the fields afterwards.
"""

from __future__ import annotations

from collections import deque
from functools import cached_property
from typing import Any

import grpc

from ipcd_client.frame import events
from ipcd_client.frame.codec import Payload
from ipcd_client.frame.settings import RESET_CANCEL, RESET_DEADLINE, RESET_REFUSED
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc import status


class ClientCall:
    """The caller's end.

    `code` is None while the call runs. Once it is set, nothing changes but `messages`, which may still be
    taken: what came before an OK is delivered, what came before an error is too, as grpcio does.
    """

    stream = 0
    code: grpc.StatusCode | None = None
    details = ""
    initial_metadata: md.Metadata | None = None
    trailing_metadata: md.Metadata = ()
    sent_at = 0  # what the wire had been given when the call was opened, in bytes
    refused = False  # never reached a handler: may be tried elsewhere
    cut = False  # ended in another way than by the server's status
    responded = False  # initial metadata or a message came: what the program has seen cannot be taken back
    user: Any = None  # whoever drives this call
    ungiven = 0  # credit of messages that were taken, not yet given back

    def __init__(self, method: str, limit: int) -> None:
        self.method = method
        self.limit = limit  # of a received message in bytes, for the error's text
        # (message, its cost in credit): what came with the status costs none
        self.messages: deque[tuple[Payload, int]] = deque()

    @cached_property
    def fds(self) -> deque[Any]:
        """Descriptors that came with messages. Few calls have any."""
        return deque()

    @property
    def done(self) -> bool:
        """The call has ended."""
        return self.code is not None

    def handle(self, event: events.Event) -> None:
        """Takes an event of this call's stream."""
        if self.code is not None:
            return
        kind = type(event)
        if kind is events.StatusReceived:
            self._on_status(event)  # type: ignore[arg-type]
        elif kind is events.MessageReceived:
            self.responded = True
            if self.initial_metadata is None:
                self.initial_metadata = ()
            if event.message is not None:  # type: ignore[union-attr]
                self.messages.append((event.message, len(event.message)))  # type: ignore[union-attr]
            else:
                self._too_large(event.oversize)  # type: ignore[union-attr]
        elif kind is events.HeadersReceived:
            self.responded = True
            self.initial_metadata = md.received(event.metadata)  # type: ignore[union-attr]
        elif kind is events.ResetReceived:
            self._on_reset(event)  # type: ignore[arg-type]

    def _on_status(self, event: events.StatusReceived) -> None:
        if event.headers is not None or event.message is not None or event.oversize:
            self.responded = True
        if event.headers:
            self.initial_metadata = md.received(event.headers)
        elif self.initial_metadata is None:
            self.initial_metadata = ()
        if event.trailing:
            self.trailing_metadata = md.received(event.trailing)
        if event.oversize:
            self._too_large(event.oversize)
            return
        if event.message is not None:
            self.messages.append((event.message, -1))
        self.details = event.details
        self.code = status.CODES.get(event.code, grpc.StatusCode.UNKNOWN)

    def _on_reset(self, event: events.ResetReceived) -> None:
        if event.code == RESET_REFUSED:
            self.refused = True
            full = "max_streams" in event.reason
            code = grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.UNAVAILABLE
            self.fail(code, f"the server did not take the call: {event.reason}")
        elif event.code == RESET_DEADLINE:
            self.fail(grpc.StatusCode.DEADLINE_EXCEEDED, status.DEADLINE_EXCEEDED)
        else:
            self.fail(grpc.StatusCode.CANCELLED, event.reason or "the server cancelled the call")

    def _too_large(self, size: int) -> None:
        self.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, status.received_too_large(size, self.limit))

    def succeed(self, message: bytes) -> None:
        """Ends the call well, with an answer and nothing else."""
        self.messages.append((message, -1))
        self.initial_metadata = ()
        self.code = grpc.StatusCode.OK

    def fail(self, code: grpc.StatusCode, details: str) -> bool:
        """Ends the call on this side. False if it has ended already."""
        if self.code is not None:
            return False
        if self.initial_metadata is None:
            self.initial_metadata = ()
        self.cut = True
        self.details = details
        self.code = code
        return True

    def spoil(self, code: grpc.StatusCode, details: str) -> None:
        """Fails a call that the server has ended, because of what the caller makes of its answer."""
        self.messages.clear()
        self.cut = True
        self.details = details
        self.code = code


class LimitedCall(ClientCall):
    """Whose responses have a limit of their own, below that of the connection."""

    def handle(self, event: events.Event) -> None:
        if isinstance(event, (events.MessageReceived, events.StatusReceived)) and event.message is not None:
            size = len(event.message)
            if size > self.limit:
                event = event._replace(message=None, oversize=size)
        super().handle(event)

    def succeed(self, message: bytes) -> None:
        if len(message) > self.limit:
            self._too_large(len(message))
        else:
            super().succeed(message)


class ServerCall:
    """The callee's end.

    The request side is `messages` and `requests_ended`; the reply side is what the handler has set.
    `cancelled` says why nobody waits for the reply any more, None while somebody does. `finished`: the status
    was sent.
    """

    cancelled: str | None = None
    finished = False
    headers: tuple[tuple[str, str | bytes], ...] = ()
    headers_sent = False
    code: grpc.StatusCode | None = None
    details = ""
    trailing: tuple[tuple[str, str | bytes], ...] = ()
    user: Any = None
    ungiven = 0

    def __init__(self, opened: events.Opened, limit: int) -> None:
        self.stream, self.method, self.timeout, self.metadata, message, self.oversize, self.requests_ended = opened
        self.limit = limit
        self.messages: deque[tuple[Payload, int]] = deque()
        if message is not None:
            self.messages.append((message, -1))

    @cached_property
    def fds(self) -> deque[Any]:
        """Descriptors that came with messages. Few calls have any."""
        return deque()

    @property
    def active(self) -> bool:
        """Somebody waits for the reply."""
        return self.cancelled is None and not self.finished

    def handle(self, event: events.Event) -> None:
        """Takes an event of this call's stream."""
        if isinstance(event, events.MessageReceived):
            if event.message is not None:
                self.messages.append((event.message, len(event.message)))
            else:
                self.oversize = event.oversize
            self.requests_ended = event.end
        elif isinstance(event, events.SendClosed):
            self.requests_ended = True
        elif isinstance(event, events.ResetReceived):
            if event.code == RESET_DEADLINE:
                self.cancel("the caller's deadline passed")
            elif event.code == RESET_CANCEL:
                self.cancel("the caller cancelled the call")
            else:
                self.cancel(event.reason or "the caller gave the call up")

    def cancel(self, why: str) -> bool:
        """Nobody waits for the reply any more. False if that was so already."""
        if not self.active:
            return False
        self.cancelled = why
        return True

    def sends_headers(self, headers: tuple[tuple[str, str | bytes], ...]) -> None:
        """The handler sends initial metadata now.

        Raises:
            ValueError: it was sent before; as grpcio does.
        """
        if self.headers_sent:
            raise ValueError("Initial metadata no longer allowed!")
        self.headers_sent = True
        self.headers = headers
