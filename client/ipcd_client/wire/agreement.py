"""What the two ends of a `shm` wire agree on: OFFER, ACCEPT, DECLINE and SWITCH of proto/FRAME.md, section 10.

Each end offers segments for what it sends, the next one when the last was answered, and takes or declines what the
other offers. Here is what was offered, accepted and settled. Which segments are in use, and when the frames that follow
go over to the next one, is `shm.py`'s.

Receiving and sending are two threads' (`base.py`). Of the methods, `begin` is for both, `offer` and `pop_accepted` are
for the one that sends, and all that take a frame for the one that receives. What a received ACCEPT means for sending is
handed over in `accepted`, one assignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ipcd_client.errors import ProtocolError
from ipcd_client.frame import codec
from ipcd_client.frame.codec import Frame
from ipcd_client.wire import fds as fdlib
from ipcd_client.wire import segment
from ipcd_client.wire.control import Control
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.segment import Incoming, Outgoing

_REASON_MOST: Final = 1024
# What travels with an offer: the memory and two counters.
_PARTS: Final = 3


def check(frame: Frame) -> None:
    """For a frame of this sort that came over the socket.

    Raises:
        ProtocolError: none of them looks like that.
    """
    if frame.stream:
        raise ProtocolError("bad-segment", f"{codec.SHM_NAMES[frame.type]} on stream {frame.stream}")
    if frame.fds and frame.type != codec.OFFER:
        raise ProtocolError("unexpected-fds", f"{frame.fds} descriptors with {codec.SHM_NAMES[frame.type]}")


class Agreement:
    """Of one end, over the socket `control`."""

    def __init__(self, control: Control) -> None:
        self._control = control
        # on the peer's segments
        self._coming: tuple[int, Incoming] | None = None  # accepted, and not yet switched to
        self._unanswered: tuple[int, int, Sequence[Fd]] | None = None  # an offer that came before that
        self._last_offer = 0
        # on ours
        self._began = False
        self._offered: tuple[int, Outgoing, bytes] | None = None  # and not yet answered
        self.accepted: tuple[int, Outgoing] | None = None  # by the peer, to be switched to
        self._offers = 0
        self.capacity = 0  # of the last one that was offered, in bytes
        self.grows = True  # others than the first may be offered
        # on whether there are any
        self._theirs = self._ours = False  # settled, whichever way
        self.settled = False  # both
        self.why_not = ""  # why this is no shared memory, or not both ways
        self.without = ""  # why this process can have no segments

    def begin(self, capacity: int) -> bool:
        """Offers the first segment, of `capacity` bytes. False if this was called before."""
        if self._began:
            return False
        self._began = True
        self.offer(capacity)
        return True

    @property
    def pending(self) -> bool:
        """The peer has not answered yet: there can be no further offer."""
        return self._offered is not None

    def offer(self, capacity: int) -> None:
        """Offers a segment of `capacity` bytes; says that there will be none, where the first cannot be made."""
        try:
            if self.without:
                raise OSError(self.without)
            outgoing, nonce, parts = segment.create(capacity)
        except OSError as error:
            self.grows = False
            if not self._ours:
                self._decline(0, f"no shared memory: {error.strerror or error}")
                self._settle(ours=True, why=f"this process has no shared memory: {error.strerror or error}")
            return
        self._offers += 1
        self.capacity = capacity
        self._offered = (self._offers, outgoing, nonce)
        self._control.tell(codec.OFFER, self._offers, capacity.to_bytes(4, "little"), parts)

    def pop_accepted(self) -> tuple[int, Outgoing] | None:
        """Number and segment that the peer has accepted, from here on for the caller to use."""
        accepted, self.accepted = self.accepted, None
        return accepted

    def renounce(self, why: str) -> bool:
        """There can be no segments in this process. False: it is too late for that."""
        if self._coming is not None or self.accepted is not None:
            return False
        self.without = why
        return True

    def drop(self) -> None:
        """Lets go of every segment."""
        self._coming = self._unanswered = self._offered = self.accepted = None

    def _decline(self, number: int, why: str) -> None:
        self._control.tell(codec.DECLINE, number, codec.cut(why, _REASON_MOST))

    def _settle(self, *, ours: bool = False, theirs: bool = False, why: str = "") -> None:
        self._ours = self._ours or ours
        self._theirs = self._theirs or theirs
        self.why_not = self.why_not or why
        self.settled = self._ours and self._theirs

    # -- what the peer says -----------------------------------------------------------------------

    def receive(self, frame: Frame) -> None:
        """Takes in OFFER, ACCEPT or DECLINE, and answers.

        Raises:
            ProtocolError: it has no place here.
        """
        if frame.type == codec.OFFER:
            self._on_offer(frame)
        elif frame.type == codec.ACCEPT:
            number, outgoing, nonce = self._answered(frame)
            if frame.payload != nonce:
                raise ProtocolError("bad-segment", f"ACCEPT of segment {number} with the wrong nonce")
            self._settle(ours=True, why=self.without)
            if not self.without:
                self.accepted = (number, outgoing)
        elif frame.aux == 0:  # DECLINE: it makes none
            if self._theirs:
                raise ProtocolError("bad-segment", "DECLINE behind an offer")
            self._settle(theirs=True, why=self._reason(frame))
        else:
            self._answered(frame)
            self.grows = False
            if not self._ours:
                self._settle(ours=True, why=self._reason(frame))

    def switch(self, frame: Frame) -> Incoming:
        """The segment that SWITCH names: what the peer sends from here on is in there. `answer_waiting` is to be called
        when the one before is not in use any more.

        Raises:
            ProtocolError: the peer has no such segment.
        """
        coming, self._coming = self._coming, None
        if frame.payload:
            raise ProtocolError("long-payload", f"SWITCH with {len(frame.payload)} bytes")
        if coming is None or coming[0] != frame.aux or frame.stream or frame.fds:
            raise ProtocolError("bad-segment", f"SWITCH to segment {frame.aux}, which was not offered")
        return coming[1]

    def answer_waiting(self) -> None:
        """Answers an offer that came before SWITCH to the one before."""
        waiting, self._unanswered = self._unanswered, None
        if waiting is not None:
            self._take(*waiting)

    def _reason(self, frame: Frame) -> str:
        return f"{self._control.peer()}: {frame.payload[:_REASON_MOST].decode('utf-8', 'replace')}"

    def _answered(self, frame: Frame) -> tuple[int, Outgoing, bytes]:
        offered, self._offered = self._offered, None
        if offered is None or offered[0] != frame.aux:
            name = codec.SHM_NAMES[frame.type]
            raise ProtocolError("bad-segment", f"{name} of segment {frame.aux}, which was not offered")
        return offered

    def _on_offer(self, frame: Frame) -> None:
        number = frame.aux
        truncated, self._control.truncated = self._control.truncated, False
        fds = self._control.take_fds(0 if truncated else frame.fds)
        # The first one says what is settled; each other comes when the one before was answered.
        if number != self._last_offer + 1 or self._unanswered is not None or (self._theirs and not self._last_offer):
            fdlib.close_all(fds)
            raise ProtocolError("bad-segment", f"OFFER of segment {number} behind {self._last_offer}")
        if len(frame.payload) != 4 or (len(fds) != _PARTS and not truncated):
            fdlib.close_all(fds)
            raise ProtocolError("bad-segment", f"OFFER with {len(frame.payload)} bytes and {len(fds)} descriptors")
        self._last_offer = number
        if truncated or self.without:
            fdlib.close_all(fds)
            self._cannot_take(number, self.without or "no room for more descriptors")
        elif self._coming is not None:
            # Answered when the peer has gone over to that one: so there are never more than these.
            self._unanswered = (number, int.from_bytes(frame.payload, "little"), fds)
        else:
            self._take(number, int.from_bytes(frame.payload, "little"), fds)

    def _take(self, number: int, capacity: int, fds: Sequence[Fd]) -> None:
        try:
            incoming = segment.take(fds, capacity)
        except OSError as error:
            fdlib.close_all(fds)
            self._cannot_take(number, error.strerror or str(error))
            return
        except ProtocolError:
            fdlib.close_all(fds)
            raise
        self._coming = (number, incoming)
        self._settle(theirs=True)
        self._control.tell(codec.ACCEPT, number, incoming.nonce)

    def _cannot_take(self, number: int, why: str) -> None:
        self._decline(number, f"cannot take the shared memory: {why}")
        if not self._theirs:
            self._settle(theirs=True, why=f"this process cannot take the peer's shared memory: {why}")
