"""What each verb and each frame does, case by case. That it holds in any order is for tests/property."""

from __future__ import annotations

import math

import pytest
from ipcd_client.errors import ConfigError, ProtocolError, UsageError
from ipcd_client.frame import codec, events
from ipcd_client.frame import settings as limits
from ipcd_client.frame.codec import Frame
from ipcd_client.frame.connection import Connection, StreamsExhausted
from ipcd_client.frame.settings import Settings
from ipcd_client.frame.verbs import LAST_STREAM
from ipcd_client.testing.pipe import End, frames, join, pair

EXHAUSTED = 8
SMALL = Settings(max_frame=4096)


def opened(caller: End, callee: End, **how: object) -> int:
    """A call that the callee knows."""
    stream_id, buffers = caller.core.open("/s/m", **how)  # type: ignore[arg-type]
    caller.send(buffers)
    (event,) = callee.deliver()
    assert isinstance(event, events.CallOpened)
    return stream_id


def violation(end: End, *buffers: codec.Buffer) -> str:
    """The name of what is wrong with the frames."""
    end.incoming += join(buffers)
    with pytest.raises(ProtocolError) as caught:
        end.deliver()
    return caught.value.violation


def received(end: End, frame: Frame, times: int) -> None:
    for _ in range(times):
        end.core.receive(frame)


# -- hello ----------------------------------------------------------------------------------------


def test_no_call_before_both_hellos() -> None:
    caller, callee = pair(greet=False)
    with pytest.raises(UsageError):
        caller.core.open("/s/m")
    callee.send(callee.core.hello())
    caller.deliver()
    with pytest.raises(UsageError):
        caller.core.open("/s/m")
    ready = [caller.core.ready]
    caller.send(caller.core.hello())
    callee.deliver()
    ready += [caller.core.ready, callee.core.ready]
    assert ready == [False, True, True]
    opened(caller, callee)


def test_hello_is_said_once() -> None:
    caller, _ = pair()
    with pytest.raises(UsageError):
        caller.core.hello()


def test_a_second_hello() -> None:
    caller, callee = pair()
    fresh = Connection(dialer=False, settings=Settings())
    assert violation(caller, *fresh.hello()) == "second-hello"
    assert callee.core.idle


@pytest.mark.parametrize(
    "settings",
    [
        Settings(max_frame=4095),
        Settings(max_frame=1 << 32),
        Settings(initial_window=15),
        Settings(initial_window=(1 << 30) + 1),
        Settings(max_streams=-1),
        Settings(max_streams=1 << 32),
    ],
)
def test_limits_that_no_peer_would_accept(settings: Settings) -> None:
    with pytest.raises(ConfigError):
        Connection(dialer=True, settings=settings).hello()


def test_the_longest_hello_is_taken() -> None:
    wide = Settings(
        max_frame=(1 << 32) - 1, initial_window=1 << 30, max_streams=(1 << 32) - 1, software="\U0001f600" * 1000
    )
    caller, callee = pair(wide, wide)
    assert caller.core.peer.software == "\U0001f600" * 200
    opened(caller, callee)


@pytest.mark.parametrize("payload", [b"\xff\xff\xff", b"\x32\x01\xff", b"", b"\x08\x01" * 3000])
def test_hellos_that_are_none(payload: bytes) -> None:
    caller, _ = pair(greet=False)
    found = violation(caller, *codec.encode(codec.HELLO, 0, payload))
    assert found in {"bad-hello", "no-common-version", "oversized-frame"}


def test_fields_that_are_not_known_are_skipped() -> None:
    caller, callee = pair(greet=False)
    (hello,) = frames(callee.core.hello())
    caller.incoming += join(codec.encode(codec.HELLO, 0, hello.payload + b"\xf8\x07\x01"))
    assert len(caller.deliver()) == 1


@pytest.mark.parametrize("type_", sorted(set(codec.NAMES) - {codec.HELLO, codec.GOAWAY}))
def test_nothing_else_before_hello(type_: int) -> None:
    caller, _ = pair(greet=False)
    assert violation(caller, *codec.encode(type_, 1)) == "no-hello"


def test_a_goaway_before_hello_is_heard() -> None:
    caller, callee = pair(greet=False)
    callee.send(callee.core.goaway(limits.GOAWAY_DENIED, "uid 7 may not be here"))
    assert caller.deliver() == [events.GoAwayReceived(limits.GOAWAY_DENIED, "uid 7 may not be here", ())]
    assert caller.core.going_away


# -- streams --------------------------------------------------------------------------------------


def test_the_dialer_opens_odd_streams_and_the_acceptor_even_ones() -> None:
    dialer, acceptor = pair()
    assert [opened(dialer, acceptor) for _ in range(3)] == [1, 3, 5]
    assert [opened(acceptor, dialer) for _ in range(3)] == [2, 4, 6]


@pytest.mark.parametrize("stream_id", [0, 2, 3, 5])
def test_streams_of_the_wrong_kind_or_used_before(stream_id: int) -> None:
    caller, callee = pair()
    for _ in range(3):
        opened(caller, callee)
    assert violation(callee, *codec.encode(codec.OPEN, stream_id)) == "bad-stream-id"


def test_a_used_stream_is_not_used_again_after_its_end() -> None:
    caller, callee = pair()
    stream_id = opened(caller, callee)
    callee.send(callee.core.status(stream_id, 0))
    caller.deliver()
    assert violation(callee, *codec.encode(codec.OPEN, stream_id)) == "bad-stream-id"


def test_numbers_may_be_left_out() -> None:
    _, callee = pair()
    callee.incoming += join(codec.encode(codec.OPEN, 0xFFFF_FFFF, codec.pack_name("/s/m"), codec.WITH_NAME))
    assert callee.deliver() == [events.CallOpened(0xFFFF_FFFF, "/s/m", None, (), None, 0, False)]
    # What was left out counts as ended.
    callee.incoming += join(codec.encode(codec.MESSAGE, 7, b"late"))
    assert callee.deliver() == []


@pytest.mark.parametrize("dialer", [True, False])
def test_streams_are_exhausted(dialer: bool) -> None:
    one, other = pair()
    caller, callee = (one, other) if dialer else (other, one)
    caller.core._next_stream = LAST_STREAM - (1 if dialer else 2)
    assert opened(caller, callee) <= LAST_STREAM
    if not dialer:
        assert opened(caller, callee) == LAST_STREAM
    with pytest.raises(StreamsExhausted):
        caller.core.open("/s/m")
    assert caller.core._opened == callee.core.accepted


@pytest.mark.parametrize("type_", sorted(set(codec.NAMES) - {codec.HELLO, codec.OPEN, codec.PING, codec.GOAWAY}))
@pytest.mark.parametrize("stream_id", [0, 1, 2, 3, 4, 0xFFFF_FFFF])
def test_frames_of_calls_that_nobody_opened(type_: int, stream_id: int) -> None:
    caller, callee = pair()
    opened(caller, callee)
    if stream_id != 1:
        assert violation(callee, *codec.encode(type_, stream_id)) == "unopened-stream"


@pytest.mark.parametrize("type_", sorted(set(codec.NAMES) - {codec.HELLO, codec.OPEN, codec.PING, codec.GOAWAY}))
def test_late_frames_are_thrown_away_unread(type_: int) -> None:
    caller, callee = pair()
    one = opened(caller, callee)
    two = opened(callee, caller)
    for end in (caller, callee):
        for stream_id in (one, two):
            end.core.reset(stream_id, limits.RESET_CANCEL)
    for end in (caller, callee):
        for stream_id in (one, two):
            end.incoming += join(codec.encode(type_, stream_id, b"\xff\xff", 0, 7))
        assert end.deliver() == []


def test_a_callee_at_its_limit_refuses() -> None:
    caller, callee = pair(Settings(), Settings(max_streams=2))
    first = [opened(caller, callee) for _ in range(2)]
    with pytest.raises(UsageError, match="max_streams"):
        caller.core.open("/s/m")
    # A caller that does not count.
    callee.incoming += join(codec.encode(codec.OPEN, 5, codec.pack_name("/other"), codec.WITH_NAME, 9))
    assert callee.deliver() == []
    assert frames([bytes(caller.incoming)])[0][:4] == (codec.RESET, 5, 0, limits.RESET_REFUSED)
    caller.incoming.clear()
    callee.send(callee.core.status(first[0], 0))
    caller.deliver()
    # The name that came with the refused one holds, and its late frames are thrown away.
    callee.incoming += join([*codec.encode(codec.MESSAGE, 5, b"x"), *codec.encode(codec.OPEN, 7, b"", 0, 9)])
    assert callee.deliver() == [events.CallOpened(7, "/other", None, (), None, 0, False)]


def test_a_draining_callee_refuses_and_the_rest_goes_on() -> None:
    caller, callee = pair()
    stream_id = opened(caller, callee)
    late_id, late = caller.core.open("/s/m")
    caller.send(late)
    callee.send(callee.core.drain("bye"))
    assert callee.core.drain("again") == []
    assert callee.deliver() == []
    # The refusal behind it is of a call that has ended already.
    assert caller.deliver() == [events.GoAwayReceived(limits.GOAWAY_DRAIN, "bye", (late_id,))]
    assert not caller.core.is_open(late_id)
    with pytest.raises(UsageError, match="no new calls"):
        caller.core.open("/s/m")
    callee.send(callee.core.status(stream_id, 0))
    assert len(caller.deliver()) == 1
    assert caller.core.idle
    assert callee.core.idle


def test_an_end_that_takes_no_calls() -> None:
    caller, callee = pair(Settings(), Settings(accept_calls=False))
    with pytest.raises(UsageError, match="takes no calls"):
        caller.core.open("/s/m")
    opened(callee, caller)
    assert violation(callee, *codec.encode(codec.OPEN, 1, codec.pack_name("/s/m"), codec.WITH_NAME)) == (
        "calls-not-accepted"
    )


def test_only_a_draining_goaway_says_that_calls_were_not_begun() -> None:
    caller, callee = pair()
    stream_id = opened(caller, callee)
    callee.send(callee.core.goaway(limits.GOAWAY_VIOLATION, "bad-ping"))
    assert caller.deliver() == [events.GoAwayReceived(limits.GOAWAY_VIOLATION, "bad-ping", ())]
    assert caller.core.is_open(stream_id)


@pytest.mark.parametrize(("stream_id", "code"), [(2, 0), (3, 0), (5, 0), (1, 1), (0xFFFF_FFFF, 0)])
def test_goaways_that_cannot_be(stream_id: int, code: int) -> None:
    caller, callee = pair()
    opened(caller, callee)
    assert violation(caller, *codec.encode(codec.GOAWAY, stream_id, aux=code)) == "bad-goaway"


# -- names ----------------------------------------------------------------------------------------


def test_a_name_goes_once() -> None:
    caller, callee = pair()
    first, second = caller.core.open("/s/m"), caller.core.open("/s/m")
    assert frames(first[1])[0].flags & codec.WITH_NAME
    assert not frames(second[1])[0].flags & codec.WITH_NAME
    caller.send([*first[1], *second[1]])
    assert [event.method for event in callee.deliver() if isinstance(event, events.CallOpened)] == ["/s/m"] * 2


def test_more_names_than_ids() -> None:
    caller, callee = pair(Settings(), Settings(max_streams=100_000))
    names = [f"/s/{number}" for number in range(limits.MAX_METHOD_ID + 20)]
    for name in names + names[:10] + names[-10:] + names[-1:] * 2:
        _, buffers = caller.core.open(name)
        caller.send(buffers)
        (event,) = callee.deliver()
        assert isinstance(event, events.CallOpened)
        assert event.method == name
    assert len(callee.core._peer_methods) == limits.MAX_METHOD_ID + 1
    assert len(caller.core._method_ids) == limits.MAX_METHOD_ID


def test_an_id_may_be_given_a_new_name() -> None:
    _, callee = pair()
    for number, name in enumerate(("/a", "/b", "/a")):
        callee.incoming += join(codec.encode(codec.OPEN, 2 * number + 1, codec.pack_name(name), codec.WITH_NAME, 3))
        (event,) = callee.deliver()
        assert isinstance(event, events.CallOpened)
        assert event.method == name


def test_ids_over_the_limit() -> None:
    _, callee = pair()
    raw = codec.encode(codec.OPEN, 1, codec.pack_name("/s/m"), codec.WITH_NAME, limits.MAX_METHOD_ID + 1)
    assert violation(callee, *raw) == "too-many-methods"


def test_an_id_without_a_name() -> None:
    _, callee = pair()
    assert violation(callee, *codec.encode(codec.OPEN, 1, b"", 0, 0)) == "unknown-method-id"


def test_long_names() -> None:
    caller, callee = pair()
    longest = "/" + "m" * (limits.MAX_NAME - 1)
    caller.send(caller.core.open(longest)[1])
    assert len(callee.deliver()) == 1
    for name in (longest + "m", "x" * 100_000):
        with pytest.raises(UsageError):
            caller.core.open(name)
    raw = codec.encode(codec.OPEN, 3, codec.pack_name(longest + "m"), codec.WITH_NAME)
    assert violation(callee, *raw) == "long-name"


@pytest.mark.parametrize(
    "how",
    [
        {"metadata": [("\u00fc", "v")]},
        {"metadata": [("k", "\ud800")]},
        {"metadata": [("k", "v" * 5000)]},
        {"metadata": [("k", "v" * 5000)], "message": b"m"},
    ],
    ids=["key", "value", "too large", "too large with a message"],
)
def test_a_name_that_did_not_go_is_not_taken_for_known(how: dict[str, object]) -> None:
    caller, callee = pair(Settings(), SMALL)
    with pytest.raises((UsageError, UnicodeEncodeError)):
        caller.core.open("/s/m", **how)  # type: ignore[arg-type]
    assert caller.core.idle
    assert opened(caller, callee) == 1


# -- deadlines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeout", "arrives"),
    [
        (0.0, 0.0),
        (-5.0, 0.0),
        (math.nan, 0.0),
        (1e-7, 0.0),
        (0.25, 0.25),
        (1e9, 1e9),
        (1e300, limits.MAX_TIMEOUT / 1e6),
        (math.inf, limits.MAX_TIMEOUT / 1e6),
    ],
)
def test_time_left(timeout: float, arrives: float) -> None:
    caller, callee = pair()
    caller.send(caller.core.open("/s/m", timeout=timeout)[1])
    (event,) = callee.deliver()
    assert isinstance(event, events.CallOpened)
    assert event.timeout == arrives


def test_more_time_than_anybody_can_wait() -> None:
    import threading

    _, callee = pair()
    sections = codec.pack_name("/s/m") + codec.pack_u64((1 << 64) - 1)
    callee.incoming += join(codec.encode(codec.OPEN, 1, sections, codec.WITH_NAME | codec.WITH_TIMEOUT))
    (event,) = callee.deliver()
    assert isinstance(event, events.CallOpened)
    assert event.timeout is not None
    assert event.timeout < threading.TIMEOUT_MAX


# -- messages and credit --------------------------------------------------------------------------


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


# -- metadata and status --------------------------------------------------------------------------


def entries(count: int, size: int) -> list[tuple[str, str | bytes]]:
    """Metadata of that many entries that count `size` each."""
    return [(f"{number:04}", "v" * (size - 4 - codec.ENTRY_COST)) for number in range(count)]


def test_metadata_over_the_limit_ends_its_call_in_place_of_beginning_it() -> None:
    caller, callee = pair(Settings(), Settings(max_metadata=1000))
    stream_id, buffers = caller.core.open("/s/m", metadata=entries(10, 101))
    caller.send([*buffers, *caller.core.message(stream_id, b"late")])
    assert callee.deliver() == []
    assert callee.core.idle
    (event,) = caller.deliver()
    assert isinstance(event, events.StatusReceived)
    assert event.code == EXHAUSTED
    assert "1010" in event.details
    assert "1000" in event.details
    assert caller.core.idle
    opened(caller, callee, metadata=entries(10, 100))


def test_initial_metadata_over_the_limit_ends_its_call() -> None:
    caller, callee = pair(Settings(max_metadata=1000), Settings())
    stream_id = opened(caller, callee)
    callee.send(callee.core.headers(stream_id, entries(10, 101)))
    callee.send(callee.core.message(stream_id, b"late"))
    (event,) = caller.deliver()
    assert isinstance(event, events.StatusReceived)
    assert event.code == EXHAUSTED
    assert [type(event) for event in callee.deliver()] == [events.ResetReceived]
    assert caller.core.idle
    assert callee.core.idle


@pytest.mark.parametrize("which", ["headers", "trailing"])
def test_metadata_over_the_limit_in_the_status(which: str) -> None:
    caller, callee = pair(Settings(max_metadata=1000), Settings())
    for count, code in ((10, 0), (11, EXHAUSTED)):
        stream_id = opened(caller, callee)
        metadata = tuple(entries(count, 100))
        callee.send(callee.core.status(stream_id, 0, message=b"m", **{which: metadata}))  # type: ignore[arg-type]
        (event,) = caller.deliver()
        assert isinstance(event, events.StatusReceived)
        assert event.code == code
        assert (getattr(event, which) or ()) == (metadata if code == 0 else ())
    assert caller.core.idle


@pytest.mark.parametrize("key", [b"", b"K", b"k\n", b"\xc3\xbc", b"a b", b":path"])
def test_keys_that_may_not_be(key: bytes) -> None:
    _, callee = pair()
    block = b"\x01\x00" + len(key).to_bytes(2, "little") + b"\x00" * 4 + key
    sections = codec.pack_name("/s/m") + codec.with_length(block)
    raw = codec.encode(codec.OPEN, 1, sections, codec.WITH_NAME | codec.WITH_METADATA)
    assert violation(callee, *raw) == "bad-metadata"


def test_many_entries_that_are_not_there_cost_nothing() -> None:
    _, callee = pair()
    sections = codec.pack_name("/s/m") + codec.with_length(b"\xff\xff")
    callee.incoming += join(codec.encode(codec.OPEN, 1, sections, codec.WITH_NAME | codec.WITH_METADATA))
    assert callee.deliver() == []  # over the limit by its count alone
    assert frames([bytes(callee.peer.incoming)])[0].type == codec.STATUS


def test_metadata_that_fits_in_no_frame() -> None:
    caller, callee = pair(SMALL, SMALL)
    large = [("k", "v" * 5000)]
    with pytest.raises(UsageError, match="do not fit"):
        caller.core.open("/s/m", metadata=large)
    stream_id = opened(caller, callee)
    with pytest.raises(UsageError, match="do not fit"):
        callee.core.headers(stream_id, large)
    callee.send(callee.core.status(stream_id, 0, trailing=large, message=b"m"))
    (event,) = caller.deliver()
    assert isinstance(event, events.StatusReceived)
    assert event.code == EXHAUSTED
    assert "do not fit" in event.details


def test_long_details_are_cut_between_characters() -> None:
    caller, callee = pair()
    for details in ("x" * 5_000_000, "\u20ac" * 3000):
        stream_id = opened(caller, callee)
        callee.send(callee.core.status(stream_id, 2, details))
        (event,) = caller.deliver()
        assert isinstance(event, events.StatusReceived)
        assert details.startswith(event.details)
        assert limits.MAX_DETAILS - 3 <= len(event.details.encode()) <= limits.MAX_DETAILS


def test_an_answer_that_does_not_fit_with_the_rest_goes_before() -> None:
    caller, callee = pair(SMALL, SMALL)
    stream_id = opened(caller, callee)
    callee.send(callee.core.status(stream_id, 0, headers=[("h", "1")], trailing=[("t", "2")], message=b"x" * 4090))
    assert caller.deliver() == [
        events.HeadersReceived(stream_id, (("h", "1"),)),
        events.MessageReceived(stream_id, b"x" * 4090, 0, False),
        events.StatusReceived(stream_id, 0, "", None, (("t", "2"),), None, 0),
    ]


def test_headers_behind_a_message_are_not_sent_again() -> None:
    caller, callee = pair()
    stream_id = opened(caller, callee)
    callee.send(callee.core.message(stream_id, b"m"))
    callee.send(callee.core.status(stream_id, 0, headers=[("h", "1")]))
    assert caller.deliver()[-1] == events.StatusReceived(stream_id, 0, "", None, (), None, 0)


def test_verbs_of_an_ended_call_send_nothing() -> None:
    caller, callee = pair()
    stream_id = opened(caller, callee)
    caller.core.reset(stream_id, limits.RESET_CANCEL)
    core = caller.core
    assert core.message(stream_id, b"m") == core.close_send(stream_id) == core.headers(stream_id, ()) == []
    assert core.status(stream_id, 0) == core.reset(stream_id, 1) == core.consumed(stream_id, 1) == []
    assert core.credit(stream_id) > 0
    assert not core.is_open(stream_id)


# -- pings ----------------------------------------------------------------------------------------


def test_a_ping_is_answered() -> None:
    one, other = pair()
    one.send(one.core.ping(b"abcdefgh"))
    assert other.deliver() == []
    assert one.deliver() == [events.PongReceived(b"abcdefgh")]


@pytest.mark.parametrize(("stream_id", "payload"), [(1, b"12345678"), (0, b""), (0, b"1234567"), (0, b"123456789")])
def test_pings_that_are_none(stream_id: int, payload: bytes) -> None:
    one, _ = pair()
    assert violation(one, *codec.encode(codec.PING, stream_id, payload)) == "bad-ping"


def test_a_peer_that_never_reads_its_answers() -> None:
    one, _ = pair()
    with pytest.raises(ProtocolError) as caught:
        received(one, Frame(codec.PING, 0, 0, 0, 0, b"12345678"), 1_000_000)
    assert caught.value.violation == "unread-answers"
    assert len(one.core.outbox) == limits.MAX_ANSWERS


# -- descriptors ----------------------------------------------------------------------------------


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


# -- after a violation ----------------------------------------------------------------------------


def test_the_first_violation_stays() -> None:
    caller, callee = pair()
    stream_id = opened(caller, callee)
    assert violation(callee, *codec.encode(codec.PING, 0)) == "bad-ping"
    core = callee.core
    for frame in (Frame(codec.MESSAGE, stream_id, 0, 0, 0, b""), Frame(codec.HELLO, 5, 0, 0, 0, b"")):
        with pytest.raises(ProtocolError) as caught:
            core.receive(frame)
        assert caught.value.violation == "bad-ping"


def test_the_same_error_again_and_again_does_not_grow() -> None:
    caller, _ = pair()
    depths = []
    for _ in range(50):
        with pytest.raises(ProtocolError) as caught:
            caller.core.receive(Frame(codec.GOAWAY, 1, 0, 0, 0, b""))
        depths.append(len(caught.traceback))
    assert max(depths) < 10


def test_payloads_where_none_may_be() -> None:
    for type_ in (codec.CLOSE_SEND, codec.WINDOW):
        caller, callee = pair()
        stream_id = opened(caller, callee)
        assert violation(callee, *codec.encode(type_, stream_id, b"x", aux=1)) == "long-payload"
    for type_, end in ((codec.OPEN, 1), (codec.STATUS, 0)):
        ends = pair()
        opened(*ends)
        stream_id = 3 if type_ == codec.OPEN else 1
        assert violation(ends[end], *codec.encode(type_, stream_id, b"x")) == "long-payload"
    ends = pair()
    opened(*ends)
    assert violation(ends[0], *codec.encode(codec.HEADERS, 1, b"\x02\x00\x00\x00\x00\x00x")) == "long-payload"


def test_reasons_are_cut() -> None:
    caller, callee = pair()
    stream_id = opened(caller, callee)
    (frame,) = frames(caller.core.reset(stream_id, 1, "\u20ac" * 1000))
    assert len(frame.payload) <= limits.MAX_REASON
    callee.incoming += join(codec.encode(codec.RESET, stream_id, b"\xff" * 5000, aux=77))
    (event,) = callee.deliver()
    assert event == events.ResetReceived(stream_id, 77, "\ufffd" * limits.MAX_REASON)
