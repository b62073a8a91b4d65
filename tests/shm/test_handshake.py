"""What a peer may say while segments are agreed on, and what it may not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from ipcd_client.errors import WireClosed
from ipcd_client.frame import codec
from ipcd_client.testing.shm_hand import CAPACITY, NONCE, Ends, Hand, begun, receiving
from ipcd_client.testing.wire_tools import message, soon, violation


def accepted(hand: Hand) -> None:
    hand.offer()


def switched(hand: Hand) -> None:
    hand.offer()
    hand.switch()


def in_ring(*frames: list[codec.Buffer], also: int = 0, capacity: int = CAPACITY) -> Callable[[Hand], None]:
    """Publishes frames in a segment. `also`: one more segment is offered before."""

    def script(hand: Hand) -> None:
        ours = receiving(hand, capacity)
        if also:
            hand.offer(also)
            hand.heard()
        data = b"".join(buffer for frame in frames for buffer in frame)
        ours.write(data)
        ours.publish(len(data))
        ours.close()

    return script


def then(*steps: Callable[[Hand], object]) -> Callable[[Hand], None]:
    def script(hand: Hand) -> None:
        for step in steps:
            step(hand)

    return script


def answer(type_: int, by: int = 0, payload: bytes | None = None) -> Callable[[Hand], None]:
    """Answers the wire's offer, or one that is `by` higher."""

    def script(hand: Hand) -> None:
        assert hand.offered is not None
        hand.say(type_, hand.offered[0] + by, hand.nonce if payload is None else payload)

    return script


def says(
    type_: int, number: int = 0, payload: bytes = b"", *, claimed: int = 0, stream: int = 0
) -> Callable[[Hand], None]:
    return lambda hand: hand.say(type_, number, payload, claimed=claimed, stream=stream)


def offers(number: int) -> Callable[[Hand], object]:
    return lambda hand: hand.offer(number)


FORBIDDEN: Final[dict[str, tuple[Callable[[Hand], None], str]]] = {
    "the second offer first": (then(offers(2)), "bad-segment"),
    "offer 0": (then(offers(0)), "bad-segment"),
    "the same offer twice": (then(offers(1), offers(1)), "bad-segment"),
    "an offer left out": (then(offers(1), offers(3)), "bad-segment"),
    "two offers beyond the one that is taken": (then(offers(1), offers(2), offers(3)), "bad-segment"),
    "an offer behind having none": (then(says(codec.DECLINE), offers(1)), "bad-segment"),
    "an offer on a stream": (says(codec.OFFER, 1, b"\0\x10\0\0", stream=5), "bad-segment"),
    "accept of nothing": (says(codec.ACCEPT, 1, NONCE), "bad-segment"),
    "accept of 0": (answer(codec.ACCEPT, -1), "bad-segment"),
    "accept of the next": (answer(codec.ACCEPT, 1), "bad-segment"),
    "accept with another nonce": (answer(codec.ACCEPT, 0, NONCE), "bad-segment"),
    "accept with half a nonce": (answer(codec.ACCEPT, 0, NONCE[:8]), "bad-segment"),
    "accept with no nonce": (answer(codec.ACCEPT, 0, b""), "bad-segment"),
    "accept twice": (then(answer(codec.ACCEPT), answer(codec.ACCEPT)), "bad-segment"),
    "accept, then decline": (then(answer(codec.ACCEPT), answer(codec.DECLINE)), "bad-segment"),
    "decline, then accept": (then(answer(codec.DECLINE), answer(codec.ACCEPT)), "bad-segment"),
    "decline twice": (then(answer(codec.DECLINE), answer(codec.DECLINE)), "bad-segment"),
    "decline of the next": (answer(codec.DECLINE, 1), "bad-segment"),
    "having none twice": (then(says(codec.DECLINE), says(codec.DECLINE)), "bad-segment"),
    "having none behind an offer": (then(accepted, says(codec.DECLINE)), "bad-segment"),
    "switch before any offer": (says(codec.SWITCH, 1), "bad-segment"),
    "switch to what was not offered": (then(accepted, says(codec.SWITCH, 2)), "bad-segment"),
    "switch to 0": (then(accepted, says(codec.SWITCH, 0)), "bad-segment"),
    "switch twice": (then(switched, says(codec.SWITCH, 1)), "bad-segment"),
    "switch on the socket, from a segment": (then(switched, offers(2), says(codec.SWITCH, 2)), "bad-segment"),
    "switch on a stream": (then(accepted, says(codec.SWITCH, 1, stream=3)), "bad-segment"),
    "switch with a payload": (then(accepted, says(codec.SWITCH, 1, b"x")), "long-payload"),
    "switch with descriptors": (then(accepted, says(codec.SWITCH, 1, claimed=1)), "unexpected-fds"),
    "decline with descriptors": (says(codec.DECLINE, 0, claimed=2), "unexpected-fds"),
    "a call on the socket, behind switch": (then(switched, Hand.message), "bad-segment"),
    "offer in a segment": (in_ring(codec.encode(codec.OFFER, 0, bytes(4), 0, 2)), "bad-segment"),
    "accept in a segment": (in_ring(codec.encode(codec.ACCEPT, 0, NONCE, 0, 1)), "bad-segment"),
    "decline in a segment": (in_ring(codec.encode(codec.DECLINE, 0, b"", 0, 1)), "bad-segment"),
    "switch in a segment, unoffered": (in_ring(codec.encode(codec.SWITCH, 0, b"", 0, 2)), "bad-segment"),
    "switch in a segment, again": (in_ring(codec.encode(codec.SWITCH, 0, b"", 0, 1)), "bad-segment"),
    "an unknown type in a segment": (in_ring([codec.HEADER.pack(0, 0, 20, 0, 0, 0)]), "unknown-type"),
    "garbage in a segment": (in_ring([b"GET / HTTP/1.1\r\n\r\n"]), "unknown-type"),
    "switch in a segment, on a stream": (in_ring(codec.encode(codec.SWITCH, 3, b"", 0, 2), also=2), "bad-segment"),
    "switch in a segment, with a payload": (in_ring(codec.encode(codec.SWITCH, 0, b"x", 0, 2), also=2), "long-payload"),
    "switch in a segment, with descriptors": (
        in_ring(codec.encode(codec.SWITCH, 0, b"", 0, 2, 3), also=2),
        "bad-segment",
    ),
    "a byte behind a switch in a segment": (
        in_ring(codec.encode(codec.SWITCH, 0, b"", 0, 2), [b"x"], also=2),
        "bad-segment",
    ),
    "much behind a switch in a segment": (
        in_ring(codec.encode(codec.SWITCH, 0, b"", 0, 2), message(bytes(50_000)), also=2, capacity=1 << 16),
        "bad-segment",
    ),
    "an oversized frame in a segment": (in_ring([codec.HEADER.pack(2**32 - 1, 1, 3, 0, 0, 0)]), "oversized-frame"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_may_not_be_said(ends: Ends, what: str) -> None:
    wire, hand = ends
    script, name = FORBIDDEN[what]
    begun(hand)
    script(hand)
    assert violation(wire) == name


IN_ORDER: Final[dict[str, tuple[Callable[[Hand], None], list[int]]]] = {
    "nothing": (then(), []),
    "an offer": (accepted, [codec.ACCEPT]),
    "an offer and a switch": (switched, [codec.ACCEPT]),
    "one more offer while one is taken": (then(offers(1), offers(2)), [codec.ACCEPT]),
    "one more offer, both switched to": (
        then(offers(1), offers(2), says(codec.SWITCH, 1)),
        [codec.ACCEPT, codec.ACCEPT],
    ),
    "its offer declined": (answer(codec.DECLINE), []),
    "its offer accepted": (answer(codec.ACCEPT), []),
    "none of the peer's": (says(codec.DECLINE, 0, b"why not"), []),
}


@pytest.mark.parametrize("what", IN_ORDER)
def test_what_may_be_said_and_then_the_end(ends: Ends, what: str) -> None:
    """At each step of agreeing the peer may go: that is seen at once, and nothing is kept (the leak check looks)."""
    wire, hand = ends
    script, answers = IN_ORDER[what]
    begun(hand)
    script(hand)
    hand.heard()
    assert [hand.hear().type for _ in answers] == answers
    hand.close()
    with pytest.raises(WireClosed):
        wire.recv_by(soon())
