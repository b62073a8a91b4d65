"""What a received frame means. One frame gives at most one event.

A large message is a bytearray that nobody else has.
"""

from __future__ import annotations

from typing import NamedTuple

from ipcd_client.frame.codec import Payload

Received = tuple[tuple[str, str | bytes], ...]


class CallOpened(NamedTuple):
    """The peer calls. `timeout` is in seconds, None for no deadline. `oversize` is the length of a first
    message that is over the limit and was thrown away (`message` is then None)."""

    stream: int
    method: str
    timeout: float | None
    metadata: Received
    message: Payload | None
    oversize: int
    end: bool


# The same, without names.
Opened = tuple[int, str, float | None, Received, Payload | None, int, bool]


class HeadersReceived(NamedTuple):
    """Initial metadata of a call that we made."""

    stream: int
    metadata: Received


class MessageReceived(NamedTuple):
    """One whole message; None with `oversize` set where it was over the limit and was thrown away."""

    stream: int
    message: Payload | None
    oversize: int
    end: bool


class SendClosed(NamedTuple):
    """The caller sends no further message."""

    stream: int


class StatusReceived(NamedTuple):
    """A call that we made has ended. `headers` is None where initial metadata came before, or is empty."""

    stream: int
    code: int
    details: str
    headers: Received | None
    trailing: Received
    message: Payload | None
    oversize: int


class ResetReceived(NamedTuple):
    """The peer gave the call up. `code` is one of RESET_*."""

    stream: int
    code: int
    reason: str


class CreditReceived(NamedTuple):
    """More may be sent on the stream."""

    stream: int


class HelloReceived(NamedTuple):
    """The peer's limits are known: calls may be made."""

    version: int
    software: str


class PongReceived(NamedTuple):
    """Our ping was answered."""

    payload: bytes


class GoAwayReceived(NamedTuple):
    """The peer takes no new calls here. With a code other than GOAWAY_DRAIN it has closed the connection.

    `refused`: streams that we opened and the peer has not begun. They have ended."""

    code: int
    reason: str
    refused: tuple[int, ...]


Event = (
    CallOpened
    | HeadersReceived
    | MessageReceived
    | SendClosed
    | StatusReceived
    | ResetReceived
    | CreditReceived
    | HelloReceived
    | PongReceived
    | GoAwayReceived
)
