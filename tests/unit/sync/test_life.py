"""How a connection ends while other threads work on it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from time import monotonic, sleep
from typing import Any, cast

import grpc
from ipcd_client.errors import WireClosed
from ipcd_client.frame.codec import Buffer
from ipcd_client.frame.settings import Settings
from ipcd_client.rpc.call import ClientCall, ServerCall
from ipcd_client.sync.connection import Connection
from ipcd_client.sync.host import Host
from ipcd_client.sync.life import FRESH
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.unix import UnixWire

LIMIT = 10.0


class Slow:
    """A host that takes its time with the news of the end, while the thread that reads finds out by itself."""

    def __init__(self) -> None:
        self.open: bool | None = None

    def closed(self, connection: Any) -> None:
        reader = threading.Thread(target=connection._stop_reading)
        reader.start()
        reader.join(0.1)
        try:
            os.fstat(connection.wire.fileno())
            self.open = True
        except OSError:
            self.open = False


def test_the_descriptor_is_open_when_the_host_is_told() -> None:
    one, other = socket.socketpair()
    host = Slow()
    connection = Connection(UnixWire(one, peer="the other end"), Settings(), dialer=True, host=cast("Host", host))
    connection._reading = True
    connection.fail(WireClosed("over"))
    assert host.open is True
    other.close()
    connection.wire.abort()


def linked() -> tuple[Connection, Connection, Holding]:
    """Two ends that have greeted each other; the caller's wire, which can be kept from sending."""
    one, other = socket.socketpair()
    wire = Holding(one, peer="the callee")
    caller = Connection(wire, Settings(accept_calls=False), dialer=True)
    callee = Connection(UnixWire(other, peer="the caller"), Settings(), dialer=False)
    callee.look()
    caller.handshake()
    return caller, callee, wire


class Holding(UnixWire):
    """Takes nothing at once while it holds."""

    holds = False

    def send(self, buffers: Sequence[Buffer], fds: Sequence[Fd] = ()) -> bool:
        if not self.holds:
            return super().send(buffers, fds)
        self._enqueue(buffers, fds)
        return False


def test_a_connection_that_is_retired_refuses_new_calls_at_once() -> None:
    """Who has chosen it just before is told so, and goes elsewhere; what is under way goes on."""
    caller, callee, _ = linked()
    running, late = ClientCall("/s/m", 1000), ClientCall("/s/m", 1000)
    caller.start(running, message=b"", end=True)
    caller.retire()
    assert caller.ask("/s/m", b"", None, 1000) is None
    caller.start(late, message=b"", end=True)
    assert late.refused
    assert (running.code, caller.error) == (None, None)
    caller.end(running, grpc.StatusCode.CANCELLED, "enough")
    assert caller.error is not None
    callee.close()


def test_a_reader_that_is_parked_sends_what_another_thread_has_left() -> None:
    caller, callee, wire = linked()
    call = ClientCall("/s/m", 1000)
    caller.start(call)
    reader = threading.Thread(target=caller.wait, args=(call.stream, lambda: call.done, monotonic() + LIMIT))
    reader.start()
    until = monotonic() + LIMIT
    while caller._parked is None and monotonic() < until:
        sleep(0.001)
    wire.holds = True
    caller.close_send(call)
    wire.holds = False
    callee.look()
    served = callee._calls[call.stream]
    assert isinstance(served, ServerCall)
    assert callee.wait(call.stream, lambda: served.requests_ended, monotonic() + LIMIT)
    assert served.requests_ended
    callee.finish(served, 0)
    reader.join(LIMIT)
    assert call.code is grpc.StatusCode.OK
    caller.close()
    callee.close()


def test_a_wait_goes_on_when_another_thread_has_taken_what_came() -> None:
    caller, callee, _ = linked()
    # As when the other thread is quicker, each time: what makes it ready is gone when the wait looks again.
    seen = []

    def ready() -> bool:
        seen.append(bool(caller._pongs))
        caller._pongs.clear()
        return seen[-1]

    def answer() -> None:
        while seen.count(True) < 2 and monotonic() < begun + LIMIT:
            caller.core.outbox.clear()
            caller._push(caller.core.ping(b"12345678"))
            callee.look()
            sleep(0.02)

    begun = monotonic()
    answering = threading.Thread(target=answer)
    answering.start()
    assert not caller.wait(0, ready, begun + 0.5)
    assert monotonic() - begun >= 0.5
    assert seen.count(True) > 1
    answering.join(LIMIT)
    for end in (caller, callee):
        end.fail(WireClosed("over"))


def test_what_was_not_used_for_a_while_is_looked_at() -> None:
    """Also where the shortest way of a call has asked before: the peer has gone meanwhile, and a call that is sent now
    would fail, though it can go elsewhere."""
    caller, callee, _ = linked()
    caller.look_at = float("inf")
    assert caller.fresh()
    callee.close()
    sleep(2 * FRESH)
    assert not caller.fresh()
    caller.refresh()
    assert not caller.usable
