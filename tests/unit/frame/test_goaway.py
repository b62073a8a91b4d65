"""A GOAWAY that drains says how far the callee has come."""

from __future__ import annotations

import pytest
from ipcd_client.errors import ProtocolError
from ipcd_client.frame import codec, events
from ipcd_client.frame.connection import Connection
from ipcd_client.frame.settings import GOAWAY_DRAIN, GOAWAY_VIOLATION, Settings


def decoded(buffers: list[codec.Buffer]) -> list[codec.Frame]:
    decoder = codec.Decoder(1 << 20)
    decoder.feed(b"".join(buffers))
    frames = []
    while (frame := decoder.next()) is not None:
        frames.append(frame)
    return frames


def greeted() -> tuple[Connection, Connection]:
    caller, callee = Connection(dialer=True, settings=Settings()), Connection(dialer=False, settings=Settings())
    (hello,) = decoded(caller.hello())
    (answer,) = decoded(callee.hello())
    callee.receive(hello)
    caller.receive(answer)
    return caller, callee


def test_calls_behind_a_drain_were_never_begun() -> None:
    caller, callee = greeted()
    seen, opening = caller.open("/m")
    callee.receive(decoded(opening)[0])
    late = [caller.open("/m") for _ in range(2)]
    (goaway,) = decoded(callee.drain("stopping"))
    event = caller.receive(goaway)
    assert event == events.GoAwayReceived(GOAWAY_DRAIN, "stopping", (late[0][0], late[1][0]))
    assert caller.is_open(seen)
    assert not caller.is_open(late[0][0])
    # The callee answers the late ones all the same, which the caller does not mind.
    for _, buffers in late:
        callee.receive(decoded(buffers)[0])
    for frame in decoded(callee.outbox):
        assert caller.receive(frame) is None
    callee_status = decoded(callee.status(seen, 0))
    assert isinstance(caller.receive(callee_status[0]), events.StatusReceived)


def test_calls_are_refused_in_the_order_in_which_they_were_opened() -> None:
    caller, _ = greeted()
    first, _ = caller.open("/m")
    plain = caller.open_plain("/m", b"", None)
    assert plain is not None
    last, _ = caller.open("/m")
    event = caller.receive(codec.Frame(codec.GOAWAY, 0, 0, GOAWAY_DRAIN, 0, b""))
    assert isinstance(event, events.GoAwayReceived)
    assert event.refused == (first, plain[0], last)


@pytest.mark.parametrize(("stream", "code"), [(3, GOAWAY_DRAIN), (2, GOAWAY_DRAIN), (1, GOAWAY_VIOLATION)])
def test_bad_goaway(stream: int, code: int) -> None:
    caller, _ = greeted()
    caller.open("/m")
    with pytest.raises(ProtocolError, match="bad-goaway"):
        caller.receive(codec.Frame(codec.GOAWAY, stream, 0, code, 0, b""))
