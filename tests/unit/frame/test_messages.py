"""Messages: credit, limits, pieces, and descriptors."""

from __future__ import annotations

import pytest
from ipcd_client.errors import UsageError
from ipcd_client.frame import codec, events
from ipcd_client.frame import settings as limits
from ipcd_client.frame.settings import Settings
from ipcd_client.testing.pipe import frames, join, pair
from unit.frame.ends import SMALL, opened, violation


def test_a_message_without_credit() -> None:
    caller, callee = pair(Settings(), Settings(initial_window=100))
    stream_id = opened(caller, callee)
    caller.send(caller.core.message(stream_id, b"x" * 200))
    assert caller.core.credit(stream_id) == 100 - 216
    with pytest.raises(UsageError, match="credit"):
        caller.core.message(stream_id, b"")
    assert callee.deliver() == [events.MessageReceived(stream_id, b"x" * 200, 0, False)]
    callee.send(callee.core.consumed(stream_id, 200))
    assert caller.deliver() == [events.CreditReceived(stream_id)]
    assert caller.core.credit(stream_id) == 100
    caller.core.message(stream_id, b"")


def test_a_peer_that_sends_without_credit() -> None:
    caller, callee = pair(Settings(), Settings(initial_window=16))
    stream_id = opened(caller, callee)
    raw = codec.encode(codec.MESSAGE, stream_id)
    callee.incoming += join(raw)
    assert len(callee.deliver()) == 1
    assert violation(callee, *raw) == "credit-overrun"


@pytest.mark.parametrize("grant", [0, 1, (1 << 30), (1 << 32) - 1])
def test_credit_that_cannot_be(grant: int) -> None:
    caller, callee = pair(Settings(), Settings(initial_window=1 << 30))
    stream_id = opened(caller, callee)
    assert violation(caller, *codec.encode(codec.WINDOW, stream_id, aux=grant)) == "bad-credit"


def test_no_credit_is_given_for_what_will_not_come() -> None:
    caller, callee = pair(Settings(), Settings(initial_window=16))
    stream_id = opened(caller, callee)
    caller.send(caller.core.message(stream_id, b"x", end=True))
    callee.deliver()
    assert callee.core.consumed(stream_id, 1) == []
    assert callee.core.consumed(99, 1) == []


def test_a_message_over_the_limit_costs_only_its_call() -> None:
    caller, callee = pair(Settings(), Settings(max_message=10, max_frame=4096))
    first = opened(caller, callee, message=b"x" * 10)
    caller.send(caller.core.open("/s/m", message=b"x" * 11, end=True)[1])
    caller.send(caller.core.message(first, b"x" * 11))
    caller.send(caller.core.message(first, b"x" * 9000))
    caller.send(caller.core.message(first, b"y" * 10, end=True))
    assert callee.deliver() == [
        events.CallOpened(first + 2, "/s/m", None, (), None, 11, True),
        events.MessageReceived(first, None, 11, False),
        events.MessageReceived(first, None, 9000, False),
        events.MessageReceived(first, b"y" * 10, 0, True),
    ]


def test_an_answer_over_the_limit_costs_only_its_call() -> None:
    caller, callee = pair(Settings(max_message=10), Settings())
    one, two = opened(caller, callee), opened(caller, callee)
    callee.send(callee.core.status(one, 0, message=b"x" * 11))
    callee.send(callee.core.status(two, 0, message=b"x" * 10))
    assert caller.deliver() == [
        events.StatusReceived(one, 0, "", None, (), None, 11),
        events.StatusReceived(two, 0, "", None, (), b"x" * 10, 0),
    ]


def test_no_limit_for_messages() -> None:
    caller, callee = pair(Settings(max_message=-1), Settings(max_message=-1))
    stream_id, buffers = caller.core.open("/s/m", message=b"x" * 9_000_000)
    caller.send(buffers)
    assert [type(event) for event in callee.deliver()] == [events.CallOpened, events.MessageReceived]
    callee.send(callee.core.status(stream_id, 0, message=b"x" * 9_000_000))
    assert [type(event) for event in caller.deliver()] == [events.MessageReceived, events.StatusReceived]


def test_nothing_is_set_aside_for_a_length_that_is_only_announced() -> None:
    caller, callee = pair(Settings(), Settings(max_message=-1))
    stream_id = opened(caller, callee)
    callee.incoming += join(codec.encode(codec.MESSAGE, stream_id, b"x", codec.FIRST | codec.MORE, (1 << 32) - 1))
    assert callee.deliver() == []
    stream = callee.core._streams[stream_id]
    assert stream.pieces is not None
    assert stream.pieces.__sizeof__() < 1000


def test_a_message_that_does_not_fit_with_the_rest_goes_behind() -> None:
    caller, callee = pair(Settings(), SMALL)
    metadata = [("k", "v" * 3000)]
    for size in (4096 - 3000, 4096, 4097, 12_288, 12_289):
        stream_id, buffers = caller.core.open("/s/m", metadata=metadata, message=b"x" * size, end=True)
        assert max(len(frame.payload) for frame in frames(buffers)) <= 4096
        caller.send(buffers)
        first, second = callee.deliver()
        assert first == events.CallOpened(stream_id, "/s/m", None, (("k", "v" * 3000),), None, 0, False)
        assert second == events.MessageReceived(stream_id, b"x" * size, 0, True)


def test_pieces_end_with_their_message_or_their_call() -> None:
    first, more = codec.FIRST | codec.MORE, codec.MORE
    cases = {
        "FIRST without MORE": [(b"a", codec.FIRST, 2)],
        "FIRST with all of it": [(b"ab", first, 2)],
        "a piece without a first": [(b"a", more, 0)],
        "two firsts": [(b"a", first, 9), (b"b", first, 9)],
        "a first as the last": [(b"a", first, 2), (b"b", codec.FIRST, 2)],
        "an empty first": [(b"", first, 2)],
        "an empty piece": [(b"a", first, 2), (b"", more, 0)],
        "an empty last": [(b"a", first, 2), (b"", 0, 0)],
        "too much": [(b"a", first, 2), (b"bc", 0, 0)],
        "too much before the last": [(b"a", first, 2), (b"bc", more, 0)],
        "too little": [(b"a", first, 3), (b"b", 0, 0)],
        "no last": [(b"a", first, 2), (b"b", more, 0)],
        "MORE and END": [(b"a", first | codec.END, 2)],
        "MORE and END later": [(b"a", first, 3), (b"b", more | codec.END, 0)],
    }
    for name, pieces in cases.items():
        caller, callee = pair()
        stream_id = opened(caller, callee)
        raw = [join(codec.encode(codec.MESSAGE, stream_id, *piece)) for piece in pieces]
        assert violation(callee, *raw) == "bad-pieces", name


@pytest.mark.parametrize("type_", [codec.CLOSE_SEND, codec.STATUS])
def test_a_direction_does_not_end_in_the_middle_of_a_message(type_: int) -> None:
    one, other = pair()
    stream_id = opened(one, other)
    receiver = other if type_ == codec.CLOSE_SEND else one
    raw = [
        *codec.encode(codec.MESSAGE, stream_id, b"a", codec.FIRST | codec.MORE, 2),
        *codec.encode(type_, stream_id),
    ]
    assert violation(receiver, *raw) == "bad-pieces"


def test_a_reset_ends_a_message_in_pieces() -> None:
    caller, callee = pair(Settings(), SMALL)
    stream_id = opened(caller, callee)
    callee.incoming += join(codec.encode(codec.MESSAGE, stream_id, b"a", codec.FIRST | codec.MORE, 2))
    caller.send(caller.core.reset(stream_id, limits.RESET_CANCEL, "enough"))
    assert callee.deliver() == [events.ResetReceived(stream_id, limits.RESET_CANCEL, "enough")]
    assert callee.core.idle


def test_other_calls_go_on_between_pieces() -> None:
    caller, callee = pair(Settings(), SMALL)
    one, two = opened(caller, callee), opened(caller, callee)
    large = frames(caller.core.message(one, b"x" * 9000))
    small = frames(caller.core.message(two, b"y"))
    for frame in (large[0], small[0], *large[1:]):
        callee.incoming += join(codec.encode(frame.type, frame.stream, frame.payload, frame.flags, frame.aux))
    assert callee.deliver() == [
        events.MessageReceived(two, b"y", 0, False),
        events.MessageReceived(one, b"x" * 9000, 0, False),
    ]


def test_descriptors_where_none_may_be() -> None:
    taking = Settings(accept_fds=True)
    for settings, type_, flags in (
        (Settings(), codec.MESSAGE, 0),
        (taking, codec.OPEN, 0),
        (taking, codec.PING, 0),
        (taking, codec.WINDOW, 0),
        (taking, codec.MESSAGE, codec.FIRST | codec.MORE),
    ):
        caller, callee = pair(Settings(), settings)
        stream_id = opened(caller, callee)
        raw = codec.encode(type_, stream_id, b"12345678", flags, 100, fds=1)
        assert violation(callee, *raw) == "unexpected-fds", (type_, flags)


def test_descriptors_with_a_later_piece() -> None:
    caller, callee = pair(Settings(), Settings(accept_fds=True))
    stream_id = opened(caller, callee)
    raw = [
        *codec.encode(codec.MESSAGE, stream_id, b"a", codec.FIRST | codec.MORE, 2),
        *codec.encode(codec.MESSAGE, stream_id, b"b", fds=1),
    ]
    assert violation(callee, *raw) == "unexpected-fds"


def test_a_message_with_descriptors_is_one_frame() -> None:
    caller, callee = pair(Settings(), Settings(max_frame=4096, accept_fds=True))
    stream_id = opened(caller, callee)
    assert frames(caller.core.message(stream_id, b"x" * 4096, fds=2))[0].fds == 2
    with pytest.raises(UsageError, match="do not fit"):
        caller.core.message(stream_id, b"x" * 4097, fds=2)
    assert caller.core.message(stream_id, b"next")
