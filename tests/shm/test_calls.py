"""What callers see, and what connections cost on which nobody calls."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import ipcd_client
import pytest
from conformance.echo import SERVICE, Echo
from ipcd_client.errors import WireClosed
from ipcd_client.frame import codec
from ipcd_client.frame.settings import GOAWAY_VIOLATION
from ipcd_client.node import attach
from ipcd_client.pb.ipcd.v1 import node_pb2, wire_pb2
from ipcd_client.testing.shm_hand import CAPACITY, Hand, RawSegment
from ipcd_client.testing.wire_tools import LIMIT
from sdk.processes import eventually
from shm.world import World

LIMITED = 100_000


@pytest.fixture
def served(world: World, caplog: pytest.LogCaptureFixture) -> Iterator[tuple[Echo, ipcd_client.Channel]]:
    """A server in this process whose messages are limited, and a caller of it whose are, too."""
    caplog.set_level(logging.WARNING, "ipcd_client")
    echo = Echo()
    options = [("grpc.max_receive_message_length", LIMITED)]
    server = ipcd_client.server(handlers=(echo,), node=world.socket, options=options)
    server.start()
    with ipcd_client.channel(node=world.socket, transport="shm", options=options) as channel:
        yield echo, channel
    server.stop(None).wait()


@pytest.mark.parametrize("method", ["UnaryEcho", "DownForever"])
def test_a_message_over_the_limit_ends_its_call_only(served: tuple[Echo, ipcd_client.Channel], method: str) -> None:
    """What is too large for the server, and what is too large for the caller: both numbers are told."""
    _, channel = served
    before = channel.route(SERVICE).connection
    size = LIMITED + 1
    request = bytes(size) if method == "UnaryEcho" else b"%d" % size
    kind = channel.unary_unary if method == "UnaryEcho" else channel.unary_stream
    call = kind(f"/{SERVICE}/{method}")
    with pytest.raises(grpc.RpcError) as caught:
        list(call(request, timeout=LIMIT))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(size) in str(caught.value.details())
    assert str(LIMITED) in str(caught.value.details())
    assert channel.unary_unary(f"/{SERVICE}/UnaryEcho")(bytes(LIMITED), timeout=LIMIT) == bytes(LIMITED)
    assert channel.route(SERVICE).connection is before


def test_a_deadline_cancels_the_handler(served: tuple[Echo, ipcd_client.Channel]) -> None:
    echo, channel = served
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/UnaryWait")(b"", timeout=1.0)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert echo.cancelled.wait(LIMIT)


HOSTILE: dict[str, tuple[bytes, int, str]] = {
    "garbage": (b"GET / HTTP/1.1\r\n\r\n", 18, "unknown-type"),
    "too long": (codec.HEADER.pack(0xFFFF_FFFF, 1, codec.OPEN, 0, 0, 0), 16, "oversized-frame"),
    "too many": (b"", 1 << 40, "bad-count"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_caller_is_named_once(
    world: World, served: tuple[Echo, ipcd_client.Channel], caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """What is no frame, in a segment: that connection ends with a name, of which its caller is told; others go on."""
    data, count, name = HOSTILE[kind]
    _, channel = served
    daemon = attach.connect(world.socket)
    target = node_pb2.ResolveRequest(service=SERVICE, transport=node_pb2.TRANSPORT_SHM)
    _, fds = attach.call(daemon, "Open", node_pb2.OpenRequest(target=target), node_pb2.OpenReply, None)
    with Hand(socket.socket(fileno=fds[0].detach())) as hand:
        hello = wire_pb2.Hello(min_version=1, max_version=1, max_frame=1 << 20, initial_window=1 << 16, max_streams=1)
        hand.say(codec.HELLO, 0, hello.SerializeToString())
        ours = RawSegment()
        hand.offer(1, CAPACITY, ours.parts)
        while hand.hear().type != codec.ACCEPT:
            pass
        hand.switch()
        ours.write(data)
        ours.publish(count)
        farewell = hand.hear_of(codec.GOAWAY)
        assert farewell.aux == GOAWAY_VIOLATION
        assert farewell.payload.decode().startswith(name)
        with pytest.raises(WireClosed):
            hand.hear()
        ours.close()
    daemon.close()
    assert channel.unary_unary(f"/{SERVICE}/UnaryEcho")(b"on", timeout=LIMIT) == b"on"
    eventually(lambda: name in caplog.text, "the name is logged")
    (record,) = (record for record in caplog.records if name in record.getMessage())
    assert f"pid={os.getpid()}" in record.getMessage()


CHANNELS = 100
SECONDS = 30.0 if os.environ.get("IPCD_SOAK") else 3.0


def used(pid: int) -> tuple[int, int]:
    """Ticks, and nanoseconds, that the process was running."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return int(fields[11]) + int(fields[12]), sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


@pytest.mark.timeout(120)
def test_idle_connections_cost_nothing(world: World, record_property: Callable[[str, object], None]) -> None:
    """Daemon, server and caller, between which there are many."""
    server, caller = world.program("serve"), world.program("call")
    assert caller.do("many", CHANNELS) == {"transports": ["shm"]}
    pids = {"daemon": world.daemon.pid, "server": server.process.pid, "caller": caller.process.pid}
    time.sleep(1.0)  # until whoever still read or spun has gone to sleep
    before = {name: used(pid) for name, pid in pids.items()}
    time.sleep(SECONDS)
    for name, pid in pids.items():
        ticks, nanoseconds = (after - old for after, old in zip(used(pid), before[name], strict=True))
        record_property(f"{name}: ticks, ms", (ticks, nanoseconds / 1e6))
        # A tick is 10 ms. One wake-up would be 0.1 ms.
        assert ticks <= 1, name
        assert nanoseconds < 5e6 * SECONDS / 3, name
    caller.do("close")
