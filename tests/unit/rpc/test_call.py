"""Texts and codes of calls' ends, as grpcio gives them."""

from __future__ import annotations

import grpc
import pytest
from ipcd_client.errors import UsageError
from ipcd_client.frame import events
from ipcd_client.frame.settings import RESET_CANCEL, RESET_DEADLINE, RESET_REFUSED
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ClientCall, LimitedCall, ServerCall


def ended(event: events.Event) -> ClientCall:
    call = ClientCall("/s/m", 10)
    call.handle(event)
    return call


@pytest.mark.parametrize(
    ("code", "reason", "becomes", "refused"),
    [
        (RESET_CANCEL, "", grpc.StatusCode.CANCELLED, False),
        (RESET_DEADLINE, "", grpc.StatusCode.DEADLINE_EXCEEDED, False),
        (RESET_REFUSED, "draining", grpc.StatusCode.UNAVAILABLE, True),
        (RESET_REFUSED, "max_streams of 3 reached", grpc.StatusCode.RESOURCE_EXHAUSTED, True),
        (77, "strange", grpc.StatusCode.CANCELLED, False),
    ],
)
def test_resets(code: int, reason: str, becomes: grpc.StatusCode, refused: bool) -> None:
    call = ended(events.ResetReceived(1, code, reason))
    assert (call.code, call.refused) == (becomes, refused)
    assert reason in call.details
    assert call.initial_metadata == ()
    assert not call.fail(grpc.StatusCode.INTERNAL, "too late")


def test_codes_that_grpc_does_not_know() -> None:
    call = ended(events.StatusReceived(1, 4711, "d", None, (), None, 0))
    assert (call.code, call.details) == (grpc.StatusCode.UNKNOWN, "d")
    for code in grpc.StatusCode:
        assert status.from_int(status.to_int(code)) is code


def test_a_message_over_the_limit_ends_the_call_with_grpcios_text() -> None:
    call = ended(events.MessageReceived(1, None, 11, False))
    assert call.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call.details == "Received message larger than max (11 vs. 10)"


def test_metadata_comes_as_grpcs_entries() -> None:
    call = ClientCall("/s/m", 10)
    initial = [call.initial_metadata]
    call.handle(events.HeadersReceived(1, (("k", "v"),)))
    initial.append(call.initial_metadata)
    call.handle(events.StatusReceived(1, 0, "", None, (("t-bin", b"\0"),), None, 0))
    initial.append(call.initial_metadata)
    assert initial == [None, (md.Metadatum("k", "v"),), (md.Metadatum("k", "v"),)]
    assert call.trailing_metadata == (md.Metadatum("t-bin", b"\0"),)


def test_initial_metadata_is_empty_from_the_first_message_on() -> None:
    assert ended(events.MessageReceived(1, b"m", 0, False)).initial_metadata == ()


@pytest.mark.parametrize(
    ("code", "reason", "why"),
    [
        (RESET_CANCEL, "", "the caller cancelled the call"),
        (RESET_DEADLINE, "", "the caller's deadline passed"),
        (RESET_REFUSED, "", "the caller gave the call up"),
        (99, "because", "because"),
    ],
)
def test_a_callee_learns_why(code: int, reason: str, why: str) -> None:
    call = ServerCall(events.CallOpened(1, "/s/m", None, (), None, 0, False), 10)
    call.handle(events.ResetReceived(1, code, reason))
    assert call.cancelled == why
    assert not call.active
    assert not call.cancel("again")


def test_a_finished_call_is_not_cancelled() -> None:
    call = ServerCall(events.CallOpened(1, "/s/m", None, (), None, 0, False), 10)
    call.finished = True
    assert not call.active
    assert not call.cancel("too late")
    assert call.cancelled is None


def test_initial_metadata_is_sent_once() -> None:
    call = ServerCall(events.CallOpened(1, "/s/m", None, (), None, 0, False), 10)
    call.sends_headers((("k", "v"),))
    with pytest.raises(ValueError, match="no longer allowed"):
        call.sends_headers(())
    assert call.headers == (("k", "v"),)


def test_a_first_message_over_the_limit() -> None:
    call = ServerCall(events.CallOpened(1, "/s/m", None, (), None, 11, True), 10)
    assert (call.oversize, call.requests_ended, len(call.messages)) == (11, True, 0)


@pytest.mark.parametrize("key", ["", "K", "a b", "k\n", "\u00fc", ":path"])
def test_keys_that_grpc_does_not_allow(key: str) -> None:
    with pytest.raises(md.InvalidMetadata):
        md.checked([(key, "v")], 1000)


@pytest.mark.parametrize("value", ["\n", "\u00fc", "\x7f", "\0"])
def test_values_that_grpc_does_not_allow(value: str) -> None:
    with pytest.raises(md.InvalidMetadata):
        md.checked([("k", value)], 1000)


@pytest.mark.parametrize(("key", "value"), [(5, "v"), ("k", 5), ("k-bin", "text"), ("k-bin", 5), ("k-bin", None)])
def test_keys_and_values_of_the_wrong_type(key: str, value: object) -> None:
    with pytest.raises(TypeError):
        md.checked([(key, value)], 1000)  # type: ignore[list-item]


def test_bytes_and_none_are_text() -> None:
    entries = [(b"b", b"v"), ("n", None)]
    assert md.checked(entries, 1000) == (("b", "v"), ("n", ""))  # type: ignore[arg-type]


def test_the_limit_counts_keys_values_and_entries() -> None:
    entries: list[tuple[str | bytes, str | bytes]] = [("key", "value"), ("k-bin", b"\xff")]
    cost = 3 + 5 + 32 + 5 + 1 + 32
    assert md.checked(entries, cost) == (("key", "value"), ("k-bin", b"\xff"))
    with pytest.raises(UsageError, match=str(cost)):
        md.checked(entries, cost - 1)
    assert md.checked(None, 0) == md.checked([], 0) == ()


def of_limited(*happened: events.Event) -> LimitedCall:
    call = LimitedCall("/s/m", 10)
    for event in happened:
        call.handle(event)
    return call


def test_a_limit_of_a_calls_own() -> None:
    too_large = grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (11 vs. 10)"
    streamed = of_limited(*(events.MessageReceived(1, bytes(size), 0, False) for size in (10, 11)))
    assert (streamed.code, streamed.details) == too_large
    assert list(streamed.messages) == [(bytes(10), 10)]
    with_status = of_limited(events.StatusReceived(1, 0, "", None, (), bytes(11), 0))
    assert (with_status.code, with_status.details) == too_large
    plain = LimitedCall("/s/m", 10)
    plain.succeed(bytes(11))
    assert (plain.code, plain.details) == too_large
    assert of_limited(events.StatusReceived(1, 0, "", None, (), bytes(10), 0)).code is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("event", "responded"),
    [
        (events.HeadersReceived(1, ()), True),
        (events.MessageReceived(1, b"", 0, False), True),
        (events.StatusReceived(1, 0, "", None, (), b"", 0), True),
        (events.StatusReceived(1, 14, "", (("k", "v"),), (), None, 0), True),
        (events.StatusReceived(1, 14, "", None, (("k", "v"),), None, 0), False),
        (events.ResetReceived(1, RESET_CANCEL, ""), False),
    ],
)
def test_what_counts_as_a_response(event: events.Event, responded: bool) -> None:
    assert ended(event).responded == responded
