"""Before both ends have said hello, and what may be in one."""

from __future__ import annotations

import pytest
from ipcd_client.errors import ConfigError, UsageError
from ipcd_client.frame import codec, events
from ipcd_client.frame import settings as limits
from ipcd_client.frame.connection import Connection
from ipcd_client.frame.settings import Settings
from ipcd_client.testing.pipe import frames, join, pair
from unit.frame.ends import opened, violation


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
