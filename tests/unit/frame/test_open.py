"""What opens a call: the method's name, which goes once, and the time that is left."""

from __future__ import annotations

import math

import pytest
from ipcd_client.errors import UsageError
from ipcd_client.frame import codec, events
from ipcd_client.frame import settings as limits
from ipcd_client.frame.settings import Settings
from ipcd_client.testing.pipe import frames, join, pair
from unit.frame.ends import SMALL, opened, violation


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
