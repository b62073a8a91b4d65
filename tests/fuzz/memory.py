"""Shared memory, with a peer that changes and counts as it likes."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from typing import Final

from fuzz.frames import FRAME_WORDS, frames, listed
from fuzz.registry import target
from fuzz.script import Script, blocks
from fuzz.wires import MOST, no_leak, null
from hypothesis import strategies as st
from ipcd_client.errors import ProtocolError, UsageError, WireError
from ipcd_client.frame import codec
from ipcd_client.frame.codec import Decoder
from ipcd_client.testing import pipe, shm_hand
from ipcd_client.wire import buffers, segment
from ipcd_client.wire import fds as fdlib
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.segment import Incoming, Outgoing
from ipcd_client.wire.shm import ShmWire

_PAGE: Final = segment.PAGE
_NAME: Final = b"\x04\x00/s/m"


@target(
    "segment",
    st.builds(
        lambda memory, steps: blocks(memory) + b"".join(steps),
        frames,
        st.lists(
            st.builds(
                lambda kind, count: bytes((kind,)) + count.to_bytes(3, "little"),
                st.integers(0, 7),
                st.integers(0, 5000),
            ),
            max_size=8,
        ),
    ),
    words=(
        *FRAME_WORDS,
        b"\x00\x10\x00\x00",
        b"\x01\x00\x10\x00",
        b"\x00\x01\x10\x00",
        b"\x02\x00\x00\x00",
        b"\x03\xff\x0f\x00",
    ),
)
def _segment(data: bytes) -> object:
    """Both ends of a segment whose other end posts any number and changes what lies there."""
    script = Script(data)
    memory = script.block()[:_PAGE]
    # The descriptors stay this function's: each end is lent both.
    with mmap.mmap(-1, _PAGE) as mapping, shm_hand.counter() as filled, shm_hand.counter() as freed:
        mapping[: len(memory)] = memory
        return _counted(script, mapping, filled, freed)


def _counted(script: Script, mapping: mmap.mmap, filled: Fd, freed: Fd) -> object:
    incoming, outgoing = Incoming(mapping, filled, freed), Outgoing(mapping, filled, freed)
    decoder = Decoder(2 * _PAGE, allocate=buffers.take)
    said: list[object] = []
    try:
        for _ in range(MOST):
            if not script:
                break
            kind, count = script.number() & 7, script.number(3)
            if kind in {0, 1} and count:
                os.eventfd_write(filled.fileno(), count)
                if kind == 0:
                    glanced = incoming.glance() if not incoming.ready and not decoder.partial else None
                    if glanced is not None:
                        assert len(glanced) <= _PAGE
                        decoder.feed(glanced)
                while incoming.read(decoder):
                    while (frame := decoder.next()) is not None:
                        said.append(frame.type)
                        buffers.drop()
                    assert 0 <= incoming.ready <= _PAGE
                    assert 0 <= incoming._taken <= _PAGE
                    assert 0 <= incoming._at < _PAGE
            elif kind == 2:
                at = count % _PAGE
                mapping[at : at + 4] = bytes((count >> 16, 0, 0, count & 15))[: _PAGE - at]
            elif kind == 3 and count:
                os.eventfd_write(freed.fileno(), count)
            elif kind == 4:
                said.append(outgoing.put(bytes(count % 2000)))
            elif kind == 5:
                said.append(outgoing.write(memoryview(bytes(count % 9000))))
                outgoing.publish()
            assert 0 <= outgoing.free <= outgoing.capacity
            assert 0 <= outgoing._at < outgoing.capacity
    except ProtocolError as error:
        said.append(listed(error))
    except BlockingIOError:
        said.append("a counter is full")  # of the peer's own doing
    finally:
        buffers.drop()
    return said


def _parts(choice: int) -> list[Fd]:
    """What comes with an OFFER: what should, or not."""
    match choice % 10:
        case 1:
            return []
        case 2:
            return [null(), null(), null()]
        case 3:
            return [shm_hand.memory(_PAGE, seals=0), shm_hand.counter(), shm_hand.counter()]
        case 4:
            return [shm_hand.memory(_PAGE), shm_hand.counter(1), shm_hand.counter()]
        case 5:
            return [shm_hand.memory(_PAGE), shm_hand.counter(0, os.EFD_NONBLOCK | os.EFD_SEMAPHORE), shm_hand.counter()]
        case 6:
            return [shm_hand.memory(_PAGE, allocated=False), shm_hand.counter(), shm_hand.counter()]
        case 7:
            return [shm_hand.memory(_PAGE), shm_hand.counter(0, 0), shm_hand.counter()]
        case 8:
            return [shm_hand.memory(2 * _PAGE, seals=fcntl.F_SEAL_SHRINK), shm_hand.counter()]
        case _:
            pass
    raw = shm_hand.RawSegment(_PAGE)
    parts = raw.parts
    raw.write(pipe.join(codec.encode(codec.OPEN, 1, _NAME, codec.WITH_NAME)))
    if choice % 10 == 9:
        raw.publish(choice)
    raw.close()
    return parts


_STEP: Final = st.builds(
    lambda kind, number, choice: bytes((kind, number, choice)),
    st.integers(0, 7),
    st.integers(0, 3),
    st.integers(0, 255),
)


@target(
    "shm",
    st.lists(_STEP, max_size=10).map(b"".join),
    words=(
        b"\x00\x01\x00",
        b"\x03\x01\x00",
        b"\x01\x01\x01",
        b"\x02\x00\x00",
        b"\x04\x00\x00",
        b"\x05\x00\x00",
        b"\x06\x00\x10",
        b"\x07\x01\x00\x03\x01\x00\x04\x00\x81",
        b"\x05\x00\x00\x01\x01\x01\x06\x00\x10",
    ),
    largest=72,
)
def _shm(data: bytes) -> object:
    """The wire, and a peer that offers, accepts, declines and switches as it likes."""
    with no_leak():
        return _by_hand(Script(data))


def _by_hand(script: Script) -> object:
    wire, hand = shm_hand.wire_and_hand(_PAGE)
    said: list[object] = []
    shared: list[Outgoing] = []
    try:
        assert wire.recv() is None  # it begins
        for _ in range(MOST):
            if not script:
                break
            _step(script, wire, hand, said, shared)
            while (frame := wire.recv()) is not None:
                said.append(frame.type)
    except ProtocolError as error:
        said.append(listed(error))
    except (WireError, UsageError) as error:
        said.append(type(error).__name__)
    finally:
        shared.clear()
        hand.close()
        wire.abort()
        buffers.drop()
    return said


def _step(script: Script, wire: ShmWire, hand: shm_hand.Hand, said: list[object], shared: list[Outgoing]) -> None:
    kind, number, choice = script.number() & 7, script.number(), script.number()
    match kind:
        case 0:
            hand.say(
                codec.OFFER,
                number,
                (_PAGE * (1 + (choice == 255))).to_bytes(4, "little")[: 5 - choice // 64],
                _parts(choice),
            )
        case 1:
            hand.say(codec.ACCEPT, number, hand.nonce if choice & 1 and hand.offered else bytes(choice & 31))
        case 2:
            hand.say(codec.DECLINE, number, b"no" * choice, stream=choice >> 7)
        case 3:
            hand.say(codec.SWITCH, number, bytes(choice >> 7), stream=choice >> 6 & 1)
        case 4 if choice < 128:
            hand.message(bytes(choice))
        case 4:
            for one in shared[-1:]:
                with contextlib.suppress(BlockingIOError, ProtocolError):
                    if choice & 3 == 3:
                        os.eventfd_write(one._filled, choice << (choice & 15))
                    one.write(memoryview(pipe.join(codec.encode(codec.OPEN, choice, _NAME, codec.WITH_NAME))))
                    one.publish()
        case 5:
            with contextlib.suppress(WireError, ProtocolError):
                frame = hand.socket.recv()
                if frame is not None and frame.type == codec.OFFER:
                    if hand.offered is not None:
                        fdlib.close_all(hand.offered[2])
                    fds = hand.socket.take_fds(frame.fds)
                    hand.offered = (frame.aux, int.from_bytes(frame.payload, "little"), fds)
                said.append(("heard", frame and frame.type))
        case 6:
            wire.send(codec.encode(codec.MESSAGE, 1, bytes(choice * 8)))
        case _:
            outgoing = hand.offer(number)
            if outgoing is not None:
                shared.append(outgoing)
