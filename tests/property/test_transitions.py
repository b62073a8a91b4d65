"""Every state with every frame: what the tables allow happens, for whoever sends it; all else is an error."""

from __future__ import annotations

import itertools

import pytest
from ipcd_client.errors import ProtocolError, UsageError
from ipcd_client.frame import codec
from ipcd_client.frame.codec import Frame
from ipcd_client.frame.settings import RESET_CANCEL
from ipcd_client.frame.stream import REPLY, REQUEST, Half, Stream, advance
from ipcd_client.testing.pipe import End, join, pair

TYPES = sorted(codec.NAMES)
REQUESTS = (Half.OPEN, Half.CLOSED)
REPLIES = (Half.AWAITING, Half.OPEN)  # a reply that is CLOSED has no stream any more


@pytest.mark.parametrize(
    ("by_caller", "half", "type_", "end"),
    list(itertools.product([True, False], Half, TYPES, [True, False])),
)
def test_the_table_is_all_that_is_allowed(by_caller: bool, half: Half, type_: int, end: bool) -> None:
    table = REQUEST if by_caller else REPLY
    for sending in (True, False):
        stream = Stream(1, True, 100, 100)
        stream.request = stream.reply = half
        after = table.get((half, type_, end))
        if after is not None:
            advance(stream, by_caller, type_, end, sending=sending)
            assert (stream.request if by_caller else stream.reply) is after
            assert (stream.reply if by_caller else stream.request) is half
        else:
            with pytest.raises(UsageError if sending else ProtocolError) as caught:
                advance(stream, by_caller, type_, end, sending=sending)
            assert stream.request is stream.reply is half
            if isinstance(caught.value, ProtocolError):
                assert caught.value.violation == "bad-transition"


def in_state(request: Half, reply: Half) -> tuple[End, End]:
    """Caller and callee with a call in that state, on stream 1."""
    caller, callee = pair()
    caller.send(caller.core.open("/s/m", end=request is Half.CLOSED)[1])
    callee.deliver()
    if reply is Half.OPEN:
        callee.send(callee.core.headers(1, ()))
        caller.deliver()
    return caller, callee


STREAM_TYPES = [codec.MESSAGE, codec.CLOSE_SEND, codec.HEADERS, codec.STATUS, codec.RESET, codec.WINDOW]
STATES = list(itertools.product(REQUESTS, REPLIES))


@pytest.mark.parametrize(("request_half", "reply_half"), STATES)
@pytest.mark.parametrize("to_callee", [True, False])
@pytest.mark.parametrize("type_", STREAM_TYPES)
@pytest.mark.parametrize("end", [True, False])
def test_a_connection_receives_what_the_table_allows(
    request_half: Half, reply_half: Half, to_callee: bool, type_: int, end: bool
) -> None:
    if end and type_ != codec.MESSAGE:
        return
    caller, callee = in_state(request_half, reply_half)
    receiver = callee if to_callee else caller
    table, half = (REQUEST, request_half) if to_callee else (REPLY, reply_half)
    allowed = type_ in (codec.RESET, codec.WINDOW) or (half, type_, end or type_ == codec.CLOSE_SEND) in table
    payload = codec.with_length(codec.encode_metadata(())) if type_ == codec.HEADERS else b""
    frame = Frame(type_, 1, codec.END if end else 0, 1 if type_ == codec.WINDOW else 0, 0, payload)
    if allowed:
        assert receiver.core.receive(frame) is not None
        assert receiver.core.is_open(1) == (type_ not in (codec.STATUS, codec.RESET))
    else:
        with pytest.raises(ProtocolError) as caught:
            receiver.core.receive(frame)
        assert caught.value.violation == "bad-transition"


@pytest.mark.parametrize(("request_half", "reply_half"), STATES)
@pytest.mark.parametrize("by_caller", [True, False])
@pytest.mark.parametrize("verb", ["message", "last message", "close_send", "headers", "status", "reset"])
def test_a_connection_sends_what_the_peer_may_receive(
    request_half: Half, reply_half: Half, by_caller: bool, verb: str
) -> None:
    """A verb either sends what the peer takes, or nothing, or says that it may not."""
    caller, callee = in_state(request_half, reply_half)
    sender, receiver = (caller, callee) if by_caller else (callee, caller)
    core = sender.core
    verbs = {
        "message": lambda: core.message(1, b"m"),
        "last message": lambda: core.message(1, b"m", end=True),
        "close_send": lambda: core.close_send(1),
        "headers": lambda: core.headers(1, [("k", "v")]),
        "status": lambda: core.status(1, 0, headers=[("k", "v")]),
        "reset": lambda: core.reset(1, RESET_CANCEL),
    }
    try:
        buffers = verbs[verb]()
    except UsageError:
        assert core.is_open(1)
        return
    receiver.incoming += join(buffers)
    assert len(receiver.deliver()) == (1 if buffers else 0)
    assert core.is_open(1) == receiver.core.is_open(1)
