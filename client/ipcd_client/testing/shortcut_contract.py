"""The part of the wires' contract that is about shortcuts: whoever takes them sees the same frames.

What a kind has is in its factory's `shortcuts`; a wire without one has to say so in the way of `wire.base`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from ipcd_client.errors import ProtocolError, WireClosed
from ipcd_client.frame.codec import HEADER_SIZE, LARGE, Frame
from ipcd_client.testing.pair_contract import Ends, PairContract
from ipcd_client.testing.wire_tools import LIMIT, Worker, fill, message, pass_on, raw, soon, transfer
from ipcd_client.wire.base import Wire


def glanced(wire: Wire) -> bytes | None:
    """What a glance gives, once something has come."""
    assert wire.poll(LIMIT)
    return wire.glance()


def recv_glancing(wire: Wire) -> Frame | None:
    """`recv`, by a reader that glances first, and has no use for what it sees."""
    seen = wire.glance()
    if seen is not None:
        assert seen
        wire.put_back(seen)
    return wire.recv()


def recv_until_drained(wire: Wire, receive: Callable[[Wire], Frame | None]) -> list[Frame]:
    """What a reader takes that polls again as soon as it may."""
    assert wire.poll(LIMIT), "something is here, and nothing tells of it"
    frames = []
    while (frame := receive(wire)) is not None:
        frames.append(frame)
        if wire.drained:
            break
    return frames


def bunches(chance: random.Random) -> list[list[bytes]]:
    """Payloads that are sent one behind the other before anybody reads: a few small ones, or a large one among them."""
    sizes = [0, 1, 40, 3000, LARGE, 3 * LARGE]
    return [[chance.randbytes(chance.choice(sizes)) for _ in range(chance.choice([1, 1, 2, 5]))] for _ in range(100)]


class ShortcutContract(PairContract):
    """`peek`, `glance`, `put_back`, `drained` and `quick`."""

    @pytest.fixture
    def at_rest(self, ends: Ends) -> Ends:
        """Two ends over which a frame has gone each way, so that they are where they stay."""
        for wires in (ends, ends[::-1]):
            transfer(*wires, [b"first"])
            assert wires[1].recv() is None
        return ends

    # -- peek -------------------------------------------------------------------------------------

    def test_peek_tells_of_what_comes(self, at_rest: Ends) -> None:
        one, other = at_rest
        for _ in range(3):
            assert not other.peek(0)
            one.send(message(b"news"))
            assert other.poll(LIMIT)
            assert other.peek(0)
            assert other.recv_by(soon()).payload == b"news"
            assert other.recv() is None
        assert not other.peek(0)

    @pytest.mark.parametrize("end", ["other.shutdown", "other.abort", "one.close"])
    def test_peek_tells_of_the_end(self, at_rest: Ends, end: str) -> None:
        one, other = at_rest
        whose, how = end.split(".")
        with Worker(lambda: other.poll(LIMIT)) as waiting:
            getattr({"one": one, "other": other}[whose], how)()
        assert waiting.join() is True
        assert other.peek(0)

    # -- glance -----------------------------------------------------------------------------------

    def test_a_glance_gives_what_has_come(self, at_rest: Ends) -> None:
        one, other = at_rest
        for size in (0, 1, 1000):
            one.send(message(bytes(size), 7))
            seen = glanced(other)
            assert seen == (raw(bytes(size), 7) if "glance" in self.factory.shortcuts else None)
            if seen is not None:
                assert other.recv() is None  # it was taken
                other.put_back(seen)
            one.send(message(b"behind", 8))
            assert glanced(other) is None  # as the first is held
            frame = other.recv_by(soon())
            assert (frame.stream, frame.payload) == (7, bytes(size))
            assert other.recv_by(soon()).payload == b"behind"
            assert other.recv() is None

    def test_a_glance_at_nothing(self, at_rest: Ends) -> None:
        one, other = at_rest
        assert other.glance() is None
        one.send(message(b"later"))
        assert other.recv_by(soon()).payload == b"later"

    def test_a_glance_passes_nothing_that_is_held(self, at_rest: Ends) -> None:
        one, other = at_rest
        halves = raw(b"halves", 1)
        for at in (3, HEADER_SIZE, len(halves) - 1):
            one.send([halves[:at]])
            assert other.poll(LIMIT)
            assert other.recv() is None
            one.send([halves[at:], *message(b"behind", 2)])
            assert other.poll(LIMIT)
            assert other.glance() is None
            assert other.recv_by(soon()).payload == b"halves"
            assert recv_glancing(other) == Frame(3, 2, 0, 0, 0, b"behind")

    def test_what_is_put_back_is_judged(self, at_rest: Ends) -> None:
        one, other = at_rest
        one.send([b"GET / HTTP/1.1\r\n\r\n"])
        seen = glanced(other)
        if seen is not None:
            other.put_back(seen)
        with pytest.raises(ProtocolError):
            other.recv_by(soon())

    def test_a_glance_leaves_the_end_to_recv(self, at_rest: Ends) -> None:
        one, other = at_rest
        one.send(message(b"last"))
        one.close()
        frame = recv_glancing(other)
        while frame is None:
            assert other.poll(LIMIT)
            frame = recv_glancing(other)
        assert frame.payload == b"last"
        for _ in range(2):
            assert glanced(other) is None
        with pytest.raises(WireClosed):
            other.recv_by(soon())

    # -- drained ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("receive", [lambda wire: wire.recv(), recv_glancing], ids=["recv", "glance"])
    def test_who_polls_when_it_is_drained_misses_nothing(
        self, at_rest: Ends, receive: Callable[[Wire], Frame | None]
    ) -> None:
        one, other = at_rest
        number = 0
        for bunch in bunches(random.Random(5)):
            received: list[Frame] = []
            for payload in bunch:
                number += 1
                one.send(message(payload, number))
            while len(received) < len(bunch):
                if one.backlog:
                    one.flush()
                received += recv_until_drained(other, receive)
            assert [frame.payload for frame in received] == bunch
            assert received[-1].stream == number

    def test_drained_saves_asking_for_more(self, at_rest: Ends) -> None:
        one, other = at_rest
        one.send(message(b"alone"))
        assert other.recv_by(soon()).payload == b"alone"
        assert other.drained == ("drained" in self.factory.shortcuts)
        one.send([*message(b"one of two"), *message(b"the other")])
        assert other.recv_by(soon()).payload == b"one of two"
        assert not other.drained
        assert other.recv_by(soon()).payload == b"the other"

    # -- quick ------------------------------------------------------------------------------------

    def test_the_quick_way_is_there_while_nothing_waits(self, at_rest: Ends) -> None:
        one, other = at_rest
        has = "quick" in self.factory.shortcuts
        assert (one.quick is not None) == has
        count = fill(one)
        assert one.quick is None
        for number in range(count):
            assert pass_on(one, other).stream == number + 1
        one.send(message(b"at rest again"))
        assert (one.quick is not None) == has
        one.abort()
        assert one.quick is None

    def test_frames_keep_their_order_whichever_way_they_go(self, at_rest: Ends) -> None:
        one, other = at_rest
        chance = random.Random(9)
        quickly = number = 0
        deadline = soon()
        expected: list[tuple[int, bytes]] = []
        received: list[tuple[int, bytes]] = []
        while number < 2000 or len(received) < number:
            assert time.monotonic() < deadline
            if number < 2000:
                number += 1
                payload = chance.randbytes(chance.choice([0, 10, 200, 5000, LARGE]))
                expected.append((number, payload))
                frame = message(payload, number)
                quick = one.quick if len(frame) == 1 else None
                if quick is None:
                    one.send(frame)
                else:
                    before = quick.total
                    size = quick.put(bytes(frame[0]))
                    assert size in (0, len(frame[0]))
                    assert quick.total == one.sent == before + size
                    if size:
                        quickly += 1
                    else:
                        one.send(frame)
            elif one.backlog:
                one.flush()
            if number == 2000 or chance.random() < 0.2:
                while (got := other.recv()) is not None:
                    received.append((got.stream, bytes(got.payload)))
        assert received == expected
        assert (quickly > 100) == ("quick" in self.factory.shortcuts)

    def test_the_quick_way_takes_all_or_nothing(self, at_rest: Ends) -> None:
        one, other = at_rest
        quick = one.quick
        if quick is None:
            assert "quick" not in self.factory.shortcuts
            return
        frame = raw(bytes(1000))
        count = 0
        while size := quick.put(frame):
            assert size == len(frame)
            count += 1
        assert count
        assert one.quick is quick  # as there is no backlog
        assert not one.send([frame])
        for _ in range(count + 1):
            assert pass_on(one, other).payload == bytes(1000)
