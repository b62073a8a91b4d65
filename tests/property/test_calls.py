"""The calls' machines, fed with anything that a connection may report."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.errors import UsageError
from ipcd_client.frame import codec, events
from ipcd_client.frame.settings import RESET_CANCEL, RESET_DEADLINE, RESET_REFUSED
from ipcd_client.rpc import deadline, metadata, status
from ipcd_client.rpc.call import ClientCall, ServerCall
from property import strategies as own

LIMIT = 100

payloads = st.binary(max_size=5)
taken_or_thrown = st.one_of(st.tuples(payloads, st.just(0)), st.tuples(st.none(), st.integers(LIMIT + 1, 1 << 32)))
resets = st.builds(
    events.ResetReceived,
    st.just(1),
    st.sampled_from([RESET_CANCEL, RESET_DEADLINE, RESET_REFUSED, 0, 1 << 31]),
    st.sampled_from(["", "draining", "max_streams of 3 reached", "whatever"]),
)
messages = st.builds(
    lambda message, end: events.MessageReceived(1, message[0], message[1], end), taken_or_thrown, st.booleans()
)
statuses = st.builds(
    lambda code, details, headers, trailing, message: events.StatusReceived(
        1, code, details, headers, trailing, message[0], message[1]
    ),
    st.integers(0, 20),
    st.text(max_size=5),
    st.one_of(st.none(), own.metadata),
    own.metadata,
    st.one_of(st.just((None, 0)), taken_or_thrown),
)
of_a_caller = st.one_of(
    messages.map(lambda event: event._replace(end=False)),
    st.builds(events.HeadersReceived, st.just(1), own.metadata),
    statuses,
    resets,
    st.just(events.CreditReceived(1)),
)
of_a_callee = st.one_of(messages, st.just(events.SendClosed(1)), resets, st.just(events.CreditReceived(1)))


@given(st.lists(of_a_caller, max_size=8))
def test_a_callers_end(happened: list[events.Event]) -> None:
    call = ClientCall("/s/m", LIMIT)
    ended_by: events.Event | None = None
    expected: list[bytes | bytearray] = []
    for event in happened:
        before = (call.code, call.details, call.initial_metadata, call.trailing_metadata, call.refused)
        call.handle(event)
        if ended_by is not None:
            after = (call.code, call.details, call.initial_metadata, call.trailing_metadata, call.refused)
            assert after == before, "nothing changes after the end"
            continue
        if isinstance(event, (events.MessageReceived, events.StatusReceived)) and event.message is not None:
            expected.append(event.message)
        if call.done:
            ended_by = event
    assert [message for message, _ in call.messages] == expected
    assert call.done == (ended_by is not None)
    if ended_by is None:
        assert (call.details, call.refused) == ("", False)
        return
    assert isinstance(call.code, grpc.StatusCode)
    assert call.initial_metadata is not None
    assert call.refused == (isinstance(ended_by, events.ResetReceived) and ended_by.code == RESET_REFUSED)
    if isinstance(ended_by, events.StatusReceived):
        if ended_by.oversize:
            assert call.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert str(ended_by.oversize) in call.details
            assert str(LIMIT) in call.details
        else:
            assert call.code is status.from_int(ended_by.code)
            assert call.details == ended_by.details
        assert tuple(call.trailing_metadata) == ended_by.trailing
    else:
        assert call.code is not grpc.StatusCode.OK
        assert call.details


@given(st.lists(of_a_callee, max_size=8), st.booleans(), st.one_of(st.none(), payloads), st.data())
def test_a_callees_end(happened: list[events.Event], ended: bool, first: bytes | None, data: st.DataObject) -> None:
    call = ServerCall(events.CallOpened(1, "/s/m", 2.0, (), first, 0, ended), LIMIT)
    expected: list[bytes | bytearray] = [] if first is None else [first]
    cancelled: str | None = None
    for event in happened:
        if data.draw(st.integers(0, 9)) == 0:
            assert call.cancel("the deadline passed") == (cancelled is None)
            cancelled = call.cancelled
        call.handle(event)
        if isinstance(event, events.MessageReceived):
            if event.message is not None:
                expected.append(event.message)
            else:
                assert call.oversize == event.oversize
        if isinstance(event, events.ResetReceived):
            assert call.cancelled
            cancelled = cancelled or call.cancelled
        assert call.cancelled == cancelled, "the first reason stays"
        assert call.active == (cancelled is None)
    assert [message for message, _ in call.messages] == expected


def test_costs_are_what_is_to_be_given_back() -> None:
    call = ClientCall("/s/m", LIMIT)
    call.handle(events.MessageReceived(1, b"four", 0, False))
    call.handle(events.StatusReceived(1, 0, "", None, (), b"free", 0))
    assert list(call.messages) == [(b"four", 4), (b"free", -1)]
    served = ServerCall(events.CallOpened(1, "/s/m", None, (), b"free", 0, False), LIMIT)
    served.handle(events.MessageReceived(1, b"four", 0, True))
    assert list(served.messages) == [(b"free", -1), (b"four", 4)]
    assert served.requests_ended


given_entries = st.lists(
    st.tuples(
        st.one_of(st.text(max_size=8), own.keys, own.keys.map(str.encode), own.keys.map(lambda key: key + "-bin")),
        st.one_of(st.text(max_size=8), st.binary(max_size=8)),
    ),
    max_size=4,
)


@given(given_entries, st.integers(0, 200))
def test_metadata_that_may_be_sent_can_be_received(entries: list[tuple[str | bytes, str | bytes]], limit: int) -> None:
    try:
        fit = metadata.checked(entries, limit)
    except (TypeError, metadata.InvalidMetadata, UsageError):
        return
    reader = codec.Reader(codec.with_length(codec.encode_metadata(fit)), "test")
    assert reader.metadata(limit) == fit
    reader.end()
    assert [key for key, _ in fit] == [key.decode() if isinstance(key, bytes) else key for key, _ in entries]


@given(own.metadata)
def test_what_is_received_is_shown_as_grpc_does(entries: tuple[tuple[str, str | bytes], ...]) -> None:
    shown = metadata.received(entries)
    assert shown == entries
    assert [(entry.key, entry.value) for entry in shown] == list(entries)


@given(st.one_of(st.none(), st.floats(0, 1e9)), st.floats(0, 1e9), st.floats(0, 1e9))
def test_deadlines(timeout: float | None, now: float, later: float) -> None:
    at = deadline.at(timeout, now)
    left = deadline.left(at, now + later)
    if timeout is None:
        assert at is left is None
    else:
        assert left is not None
        assert left >= 0
        assert left == pytest.approx(max(0.0, timeout - later), abs=1e-3)


instants = st.one_of(st.none(), st.floats(0, 10))


@given(instants, instants)
def test_the_sooner_of_two_deadlines(one: float | None, other: float | None) -> None:
    known = [at for at in (one, other) if at is not None]
    assert deadline.sooner(one, other) == (min(known) if known else None)
