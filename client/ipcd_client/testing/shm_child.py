"""The other end of a `shm` wire, in a process of its own: python -m ipcd_client.testing.shm_child BEHAVIOUR FD...

Each behaviour comes to a certain step, says so on the standard output, and then does nothing any more.
"""

from __future__ import annotations

import random
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from ipcd_client.frame import codec
from ipcd_client.testing.shm_hand import CAPACITY, Hand, RawSegment
from ipcd_client.testing.wire_tools import MAX_FRAME, message, raw
from ipcd_client.wire import segment
from ipcd_client.wire.segment import Incoming
from ipcd_client.wire.shm import ShmWire

READY: Final = b"!"
# Frames that were published whole, where a behaviour goes on to half a one.
WHOLE: Final = 5
# Bytes of each message of `flip`.
FLIPPED: Final = 1000


def _frames(count: int) -> bytes:
    return b"".join(raw(b"whole", number + 1) for number in range(count))


def silent(hand: Hand) -> None:
    """Has not said anything."""


def offered(hand: Hand) -> None:
    """Has offered, and not been answered."""
    hand.offer()


def half_an_offer(hand: Hand) -> None:
    """The descriptors are sent, and half of the frame."""
    _, _, parts = segment.create(CAPACITY)
    (frame,) = codec.encode(codec.OFFER, 0, CAPACITY.to_bytes(4, "little"), 0, 1, 3)
    hand.send_with(bytes(frame)[:10], parts)


def accepted(hand: Hand) -> None:
    """Has accepted what was offered to it."""
    hand.hear_of(codec.OFFER)
    hand.accept()


def declined(hand: Hand) -> None:
    """Has declined what was offered to it."""
    hand.hear_of(codec.OFFER)
    hand.say(codec.DECLINE, 1)


def switched(hand: Hand) -> None:
    """Has offered, and switched to that, and published nothing."""
    _sending(hand, b"")


def offered_another(hand: Hand) -> None:
    """Has switched, and offered a second segment."""
    _sending(hand, b"")
    hand.offer(2, 2 * CAPACITY)
    hand.hear_of(codec.ACCEPT)


def in_a_header(hand: Hand) -> None:
    """Has published whole frames, and half a header."""
    _sending(hand, _frames(WHOLE) + raw(b"half")[:7])


def in_a_message(hand: Hand) -> None:
    """Has published whole frames, and half a message."""
    _sending(hand, _frames(WHOLE) + raw(b"half" * 100)[:200])


def unpublished(hand: Hand) -> None:
    """Has published whole frames, and written one more."""
    ours = _sending(hand, _frames(WHOLE))
    ours.write(_frames(1), len(_frames(WHOLE)))


def taking_nothing(hand: Hand) -> None:
    """Has accepted, and never reads."""
    _receiving(hand)


def giving_nothing_back(hand: Hand) -> None:
    """Has accepted, and read once, and told nobody."""
    incoming = _receiving(hand)
    decoder = codec.Decoder(MAX_FRAME)
    while decoder.next() is None:
        incoming.read(decoder)


def flip(hand: Hand, *, everywhere: bool = False) -> None:
    """Sends frames of FLIPPED bytes, and goes on to change what it has sent, until the peer closes."""
    chance = random.Random(FLIPPED)
    ours = _sending(hand, b"")
    frame = raw(bytes(FLIPPED))
    size = len(frame)
    at, room = 0, CAPACITY
    while not hand.socket.poll(0):
        if room < size:
            room += ours.given_back()
        else:
            end = at + size
            ours.write(frame[: CAPACITY - at], at)
            ours.write(frame[CAPACITY - at :], 0)
            room -= size
            ours.publish(size)
            at = end % CAPACITY
        for _ in range(20):
            _change(ours, chance, (at - size) % CAPACITY, size, everywhere)


def _change(ours: RawSegment, chance: random.Random, at: int, size: int, everywhere: bool) -> None:
    """One byte of the frame that begins there."""
    begin = 0 if everywhere and chance.random() < 0.05 else codec.HEADER_SIZE
    ours.memory[(at + chance.randrange(begin, size)) % CAPACITY] = chance.randrange(256)


def flip_payloads(hand: Hand) -> None:
    """Changes payloads, at any time."""
    flip(hand)


def flip_everything(hand: Hand) -> None:
    """Changes headers, too."""
    flip(hand, everywhere=True)


def _sending(hand: Hand, published: bytes) -> RawSegment:
    ours = RawSegment()
    hand.offer(1, CAPACITY, ours.parts)
    while hand.hear().type != codec.ACCEPT:
        pass
    hand.switch()
    ours.write(published)
    if published:
        ours.publish(len(published))
    return ours


def _receiving(hand: Hand) -> Incoming:
    hand.hear_of(codec.OFFER)
    incoming = hand.accept()
    while hand.hear().type != codec.SWITCH:
        pass
    return incoming


BEHAVIOURS: Final[dict[str, Callable[[Hand], object]]] = {
    each.__name__.replace("_", " "): each
    for each in (
        silent,
        offered,
        half_an_offer,
        accepted,
        declined,
        switched,
        offered_another,
        in_a_header,
        in_a_message,
        unpublished,
        taking_nothing,
        giving_nothing_back,
    )
}
FLIPPING: Final[dict[str, Callable[[Hand], object]]] = {
    "flip payloads": flip_payloads,
    "flip everything": flip_everything,
}


@contextmanager
def spawned(behaviour: str, count: int = 1) -> Iterator[tuple[list[ShmWire], subprocess.Popen[bytes]]]:
    """`count` wires here, their other ends in one process."""
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(count)]
        wires = [ShmWire(ours, peer="the other process", first=CAPACITY) for ours, _ in pairs]
        for wire in wires:
            wire.max_frame = MAX_FRAME
            stack.callback(wire.abort)
        numbers = [theirs.fileno() for _, theirs in pairs]
        process = subprocess.Popen(
            [sys.executable, "-m", "ipcd_client.testing.shm_child", behaviour, *map(str, numbers)],
            pass_fds=numbers,
            stdout=subprocess.PIPE,
        )
        stack.enter_context(process)
        stack.callback(process.kill)
        for _, theirs in pairs:
            theirs.close()
        yield wires, process


def reached(wire: ShmWire, process: subprocess.Popen[bytes], *, talking: bool = False) -> list[codec.Frame]:
    """Lets the wire take part until the process has come to its step: the frames that came. `talking`: it has frames to
    send, too."""
    assert process.stdout is not None
    told = select.poll()
    told.register(process.stdout, select.POLLIN)
    frames = []
    while not told.poll(0):
        frame = wire.recv()
        if frame is not None:
            frames.append(frame)
            continue
        wire.poll(None, also=process.stdout.fileno())
        if talking and wire.recv() is None:
            wire.send(message(b"talk"))
    assert process.stdout.read(len(READY)) == READY
    return frames


def main(behaviour: str, *numbers: str) -> None:
    """Until it is killed, or of those that flip, until the wires are closed."""
    for number in numbers:
        hand = Hand(socket.socket(fileno=int(number)))
        if behaviour in FLIPPING:
            FLIPPING[behaviour](hand)
            hand.close()
            continue
        BEHAVIOURS[behaviour](hand)
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
