"""Metadata, which is bounded, and what ends a call."""

from __future__ import annotations

import pytest
from ipcd_client.errors import UsageError
from ipcd_client.frame import codec, events
from ipcd_client.frame import settings as limits
from ipcd_client.frame.settings import Settings
from ipcd_client.testing.pipe import frames, join, pair
from unit.frame.ends import EXHAUSTED, SMALL, opened, violation


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
