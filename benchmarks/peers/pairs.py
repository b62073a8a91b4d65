"""Streams for the peers that pass plain messages, over a connection of their own: by `send` and `receive`.

A stream begins with a message that says which way it goes, how many messages follow, and holds their payload. What goes
up is acknowledged by one message; what comes down is its own.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.peers.base import DOWN, UP, WrongAnswerError, check

Send = Callable[[bytes], object]
Receive = Callable[[], bytes]

_WAYS = {DOWN: b"D", UP: b"U"}


def answer(send: Send, receive: Receive) -> None:
    """The server's side of one stream."""
    order = receive()
    count, payload = int.from_bytes(order[1:5], "little"), order[5:]
    if order[:1] == _WAYS[DOWN]:
        for _ in range(count):
            send(payload)
    else:
        for _ in range(count):
            receive()
        send(order[1:5])


def stream(send: Send, receive: Receive, direction: str, count: int, payload: bytes) -> None:
    """The client's side. Raises WrongAnswerError."""
    ordered = count.to_bytes(4, "little")
    send(_WAYS[direction] + ordered + payload)
    if direction == DOWN:
        for _ in range(count):
            check(len(payload), len(receive()))
        return
    for _ in range(count):
        send(payload)
    if receive() != ordered:
        raise WrongAnswerError("the server has not received what was sent")
