"""Credit of one stream, in bytes. proto/FRAME.md section 5.

A message may be sent while credit is above zero, and may overdraw it once: so a receiver holds at most the
window and one message, and a message needs no cutting to fit. Each message costs `COST` beyond its length, so
that empty messages are bounded too.
"""

from __future__ import annotations

from typing import Final

from ipcd_client.errors import ProtocolError, UsageError

COST: Final = 16
MAX_WINDOW: Final = 1 << 30


class SendWindow:
    """What we may still send."""

    __slots__ = ("credit",)

    def __init__(self, initial: int) -> None:
        self.credit = initial

    def spend(self, size: int) -> None:
        """A message of `size` bytes is sent.

        Raises:
            UsageError: there is no credit; the peer would end the connection.
        """
        if self.credit <= 0:
            raise UsageError(f"a message of {size} bytes with {self.credit} bytes of credit")
        self.credit -= size + COST

    def grant(self, credit: int) -> None:
        """The peer gave `credit` bytes back."""
        self.credit += credit
        if credit == 0 or self.credit > MAX_WINDOW:
            raise ProtocolError(
                "bad-credit", f"{credit} bytes granted, {self.credit} in all, the limit is {MAX_WINDOW}"
            )


class ReceiveWindow:
    """What the peer may still send, and what was read since we last said so."""

    __slots__ = ("credit", "initial", "unread_credit")

    def __init__(self, initial: int) -> None:
        self.initial = initial
        self.credit = initial
        self.unread_credit = 0

    def receive(self, size: int) -> None:
        """A message of `size` bytes has begun to arrive."""
        if self.credit <= 0:
            raise ProtocolError("credit-overrun", f"a message of {size} bytes with {self.credit} bytes of credit")
        self.credit -= size + COST

    def consume(self, size: int) -> int:
        """The application took a message of `size` bytes. The credit to grant now: often 0, as it is
        gathered."""
        return self.give_back(size + COST)

    def give_back(self, credit: int) -> int:
        """The application took messages that had cost `credit`. The credit to grant now."""
        self.unread_credit += credit
        if self.unread_credit * 2 < self.initial:
            return 0
        credit = self.unread_credit
        self.unread_credit = 0
        self.credit += credit
        return credit
