"""Two connection cores joined in memory: frames of one become events of the other, with no wire and no thread."""

from __future__ import annotations

from collections.abc import Sequence

from ipcd_client.frame import events
from ipcd_client.frame.codec import Buffer, Decoder, Frame
from ipcd_client.frame.connection import Connection
from ipcd_client.frame.settings import Settings

UNLIMITED = 1 << 32


def join(buffers: Sequence[Buffer]) -> bytes:
    """The bytes that would be sent."""
    return b"".join(buffers)


def frames(buffers: Sequence[Buffer]) -> list[Frame]:
    """The frames that a verb made. They must be whole."""
    decoder = Decoder(UNLIMITED)
    decoder.feed(join(buffers))
    found = []
    while (frame := decoder.next()) is not None:
        found.append(frame)
    assert not decoder.partial
    return found


class End:
    """A core, and the bytes under way to it."""

    def __init__(self, *, dialer: bool, settings: Settings) -> None:
        self.core = Connection(dialer=dialer, settings=settings)
        self.decoder = Decoder(settings.max_frame)
        self.incoming = bytearray()
        self.peer: End = self

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Puts them on the way to the peer."""
        self.peer.incoming += join(buffers)

    def deliver(self, count: int | None = None) -> list[events.Event]:
        """Takes in the next `count` bytes that are under way, or all; the events that they gave. Answers are put
        on their way."""
        size = len(self.incoming) if count is None else min(count, len(self.incoming))
        self.decoder.feed(bytes(self.incoming[:size]))
        del self.incoming[:size]
        happened = []
        while (frame := self.decoder.next()) is not None:
            event = self.core.receive(frame)
            self.send(self.core.outbox)
            self.core.outbox.clear()
            if event is not None:
                happened.append(event)
        return happened


def pair(dialer: Settings | None = None, acceptor: Settings | None = None, *, greet: bool = True) -> tuple[End, End]:
    """Dialer and acceptor. With `greet` both hellos have passed."""
    one = End(dialer=True, settings=dialer or Settings())
    other = End(dialer=False, settings=acceptor or Settings())
    one.peer, other.peer = other, one
    if greet:
        for end in (one, other):
            end.send(end.core.hello())
        for end in (one, other):
            end.deliver()
    return one, other
