"""Channels and servers with a real daemon: introductions, and who dies when."""

from __future__ import annotations

import gc
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import ipcd_client
import pytest
from conformance.echo import SERVICE, Echo
from ipcd_client.errors import IpcdError, NoDaemon
from ipcd_client.node import attach, registration
from sdk.processes import LONG, Processes, eventually

ChannelTo = Callable[..., ipcd_client.Channel]


def echo(channel: grpc.Channel, data: bytes = b"x", **arguments: object) -> bytes:
    call = channel.unary_unary(f"/{SERVICE}/UnaryEcho")
    answer: bytes = call(data, **({"timeout": LONG} | arguments))
    return answer


@pytest.fixture(params=["shm", "unix", "tcp on one node", "tcp through two nodes"])
def road(request: pytest.FixtureRequest, world: Processes, channel_to: ChannelTo) -> tuple[ipcd_client.Channel, str]:
    """A channel to a server, and the transport that it must have."""
    world.daemon("a", "--listen", "127.0.0.1:0")
    world.server("a", "one")
    if request.param == "shm":
        return channel_to("a"), "shm"
    if request.param == "unix":
        return channel_to("a", transport="unix"), "unix"
    if request.param == "tcp on one node":
        return channel_to("a", transport="tcp"), "tcp"
    with ipcd_client.channel("ipcd-node:", node=world.socket("a")) as channel:
        address = status(channel)
    world.daemon("b", "--listen", "127.0.0.1:0", "--peer", address)
    return channel_to("b"), "tcp"


def status(channel: grpc.Channel) -> str:
    from ipcd_client.pb.ipcd.v1 import node_pb2, node_pb2_grpc

    reply: node_pb2.StatusReply = node_pb2_grpc.NodeStub(channel).Status(node_pb2.StatusRequest(), timeout=LONG)
    return reply.listen


def test_all_four_kinds(road: tuple[ipcd_client.Channel, str]) -> None:
    channel, transport = road
    parts = [b"%d" % n for n in range(500)]
    assert echo(channel, b"hello", wait_for_ready=True) == b"hello"
    assert list(channel.unary_stream(f"/{SERVICE}/DownCount")(b"500", timeout=LONG)) == parts
    assert channel.stream_unary(f"/{SERVICE}/UpJoin")(iter(parts), timeout=LONG) == b",".join(parts)
    assert list(channel.stream_stream(f"/{SERVICE}/BothEcho")(iter(parts), timeout=LONG)) == parts
    route = channel.route(SERVICE)
    assert route.transport == transport
    assert route.server.name == "one"
    assert route.reason


def test_deadline_cancel_metadata_and_errors(road: tuple[ipcd_client.Channel, str]) -> None:
    channel, _ = road
    echo(channel, wait_for_ready=True)
    sent = (("x-one", "1"), ("x-raw-bin", b"\x00\xff"))
    _, call = channel.unary_unary(f"/{SERVICE}/UnaryMetadata").with_call(b"", metadata=sent, timeout=LONG)
    assert tuple(call.trailing_metadata()) == sent
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/{SERVICE}/UnaryAbort")(b"why", timeout=LONG)
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "why")
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/{SERVICE}/UnaryWait")(b"", timeout=0.1)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    running = channel.unary_stream(f"/{SERVICE}/DownForever")(b"10", timeout=LONG)
    next(running)
    running.cancel()
    assert running.code() is grpc.StatusCode.CANCELLED
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/{SERVICE}/Missing")(b"", timeout=LONG)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert echo(channel, b"still") == b"still"


def test_killed_server_fails_its_call_at_once(
    world: Processes, channel_to: ChannelTo, record_property: Callable[[str, object], None]
) -> None:
    world.daemon("a")
    server = world.server("a", "one")
    channel = channel_to("a")
    echo(channel)
    running = channel.unary_unary(f"/{SERVICE}/UnaryWait").future(b"", timeout=LONG)
    ended: queue.Queue[float] = queue.Queue()
    running.add_done_callback(lambda _: ended.put(time.monotonic()))
    time.sleep(0.2)
    killed = time.monotonic()
    server.send_signal(signal.SIGKILL)
    record_property("seconds until UNAVAILABLE", ended.get(timeout=LONG) - killed)
    assert running.code() is grpc.StatusCode.UNAVAILABLE
    assert f"pid {server.pid} on node a" in running.details()
    server.wait(LONG)
    with pytest.raises(grpc.RpcError) as raised:
        echo(channel)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert f"no server for {SERVICE}" in raised.value.details()


def test_running_calls_outlive_the_daemon(world: Processes, channel_to: ChannelTo) -> None:
    daemon = world.daemon("a")
    world.server("a", "one")
    channel = channel_to("a")
    questions: queue.Queue[bytes | None] = queue.Queue()

    def requests() -> Iterator[bytes]:
        while (question := questions.get(timeout=LONG)) is not None:
            yield question

    session = channel.stream_stream(f"/{SERVICE}/BothEcho")(requests(), timeout=3 * LONG)
    questions.put(b"before")
    assert next(session) == b"before"
    world.kill(daemon)
    questions.put(b"without")
    assert next(session) == b"without"
    with pytest.raises(grpc.RpcError) as raised:
        echo(channel_to("a"))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert f"ipcd run --socket {world.socket('a')}" in raised.value.details()
    waiting = channel_to("a").unary_unary(f"/{SERVICE}/UnaryEcho").future(b"w", wait_for_ready=True, timeout=LONG)
    world.daemon("a")
    assert waiting.result(LONG) == b"w"
    assert echo(channel_to("a"), b"after", wait_for_ready=True) == b"after"
    questions.put(b"still")
    assert next(session) == b"still"
    questions.put(None)
    assert list(session) == []


def test_no_daemon(world: Processes, channel_to: ChannelTo, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        echo(channel_to("nobody"))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert world.socket("nobody") in raised.value.details()
    with pytest.raises(grpc.RpcError) as raised:
        echo(channel_to("nobody"), wait_for_ready=True, timeout=0.3)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    monkeypatch.setenv("IPCD_ATTACH_TIMEOUT", "0.2")
    server = ipcd_client.server(handlers=(Echo(),), node=world.socket("nobody"))
    with pytest.raises(NoDaemon, match="start one with: ipcd run"):
        server.start()


def test_server_waits_for_the_daemon(world: Processes, channel_to: ChannelTo) -> None:
    server = ipcd_client.server(handlers=(Echo(),), node=world.socket("late"))
    starting = threading.Thread(target=server.start)
    starting.start()
    time.sleep(0.3)
    world.daemon("late")
    starting.join(LONG)
    assert echo(channel_to("late"), b"here") == b"here"
    server.stop(None)


def test_registers_again_once_there_is_memory_for_it(
    world: Processes, channel_to: ChannelTo, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([False, False])
    monkeypatch.setattr(registration, "room", lambda: next(looks, True))
    daemon = world.daemon("a")
    server = ipcd_client.server(handlers=(Echo(),), node=world.socket("a"))
    server.start()
    try:
        world.kill(daemon)
        world.daemon("a")
        call = channel_to("a").unary_unary(f"/{SERVICE}/UnaryEcho")
        assert call(b"again", timeout=LONG, wait_for_ready=True) == b"again"
        assert next(looks, None) is None
    finally:
        server.stop(None).wait(LONG)


def test_waits_for_a_server(world: Processes, channel_to: ChannelTo) -> None:
    world.daemon("a")
    channel = channel_to("a")
    waiting = channel.unary_unary(f"/{SERVICE}/UnaryEcho").future(b"w", wait_for_ready=True, timeout=LONG)
    abandoned = channel.unary_unary(f"/{SERVICE}/UnaryEcho").future(b"w", wait_for_ready=True, timeout=LONG)
    time.sleep(0.2)
    assert not waiting.done()
    assert abandoned.cancel()
    world.server("a", "one")
    assert waiting.result(LONG) == b"w"


@pytest.mark.parametrize("target", ["ipcd:///two", "ipcd://a/two"])
def test_pinned_by_name(world: Processes, channel_to: ChannelTo, target: str) -> None:
    world.daemon("a")
    world.server("a", "one")
    two = world.server("a", "two")
    for _ in range(3):
        channel = channel_to("a", target)
        echo(channel)
        assert channel.route(SERVICE).server.process.pid == two.pid


def test_pinned_to_what_is_not_there(world: Processes, channel_to: ChannelTo) -> None:
    world.daemon("a")
    world.server("a", "one")
    for target, named in (("ipcd:///three", "three"), ("ipcd://z", "z")):
        with pytest.raises(grpc.RpcError) as raised:
            echo(channel_to("a", target))
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert named in raised.value.details()


def test_transport_that_cannot_be_had(world: Processes, channel_to: ChannelTo) -> None:
    world.daemon("a")
    world.server("a", "one")
    with ipcd_client.channel("ipcd-node:", node=world.socket("a")) as channel:
        address = status(channel)
    world.daemon("b", "--listen", "127.0.0.1:0", "--peer", address)
    echo(channel_to("b"), wait_for_ready=True)  # the nodes know each other
    for transport in ("shm", "unix"):
        with pytest.raises(grpc.RpcError) as raised:
            echo(channel_to("b", transport=transport), wait_for_ready=False)
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert f"transport {transport} for {SERVICE}" in raised.value.details()
        assert "does not reach from node b to node a" in raised.value.details()
    with pytest.raises(IpcdError, match="transport 'carrier-pigeon'"):
        channel_to("a", transport="carrier-pigeon")


@pytest.mark.parametrize("transport", ["shm", "unix"])
@pytest.mark.parametrize("before", [1, 2], ids=["its method's name has travelled", "its shortest way was taken"])
def test_the_other_server_takes_over(world: Processes, channel_to: ChannelTo, transport: str, before: int) -> None:
    """A call that the dead server never saw is made elsewhere, however it was on its way."""
    world.daemon("a")
    servers = {name: world.server("a", name) for name in ("one", "two")}
    channel = channel_to("a", transport=transport, options=[("ipcd.spread", 1)])
    for _ in range(before):
        echo(channel)
    first = channel.route(SERVICE)
    assert first.transport == transport
    world.kill(servers[first.server.name])
    echo_again = channel.unary_unary(f"/{SERVICE}/UnaryEcho")
    assert echo_again(b"again") == b"again"
    assert channel.route(SERVICE).server.name != first.server.name


def test_a_stopping_server_loses_no_call(world: Processes, channel_to: ChannelTo) -> None:
    world.daemon("a")
    servers = [world.server("a", name) for name in ("one", "two", "three")]
    channel = channel_to("a")
    failures: list[BaseException] = []
    done = threading.Event()
    calls = 0

    def work() -> None:
        nonlocal calls
        while not done.is_set():
            try:
                assert echo(channel, b"x") == b"x"
                calls += 1
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for server in servers[:2]:
        time.sleep(0.3)
        server.terminate()
        assert server.wait(LONG) == 0
    time.sleep(0.3)
    done.set()
    for thread in threads:
        thread.join(LONG)
    assert not failures
    assert calls


FORK = """
import os, sys
import ipcd_client
channel = ipcd_client.channel(node=sys.argv[1])
call = channel.unary_unary("/conformance.v1.Echo/UnaryEcho")
assert call(b"parent", timeout=20) == b"parent"
child = os.fork()
if not child:
    code = 1
    try:
        assert call(b"child", timeout=20) == b"child"
        code = 0
    finally:
        os._exit(code)
assert os.waitpid(child, 0)[1] == 0
assert call(b"parent", timeout=20) == b"parent"
channel.close()
"""


def test_forked_child_calls_too(world: Processes) -> None:
    # In a process of its own: to fork this one would fork pytest and grpcio with it.
    world.daemon("a")
    world.server("a", "one")
    subprocess.run([sys.executable, "-c", FORK, world.socket("a")], check=True, timeout=LONG)


@pytest.mark.parametrize("where", ["registry", "attachment", "router", "connection"])
def test_a_channel_is_collected_while_a_lock_is_held(world: Processes, where: str) -> None:
    """The collector may run in any thread, at any moment."""
    world.daemon("a")
    world.server("a", "one")
    channel: Any = ipcd_client.channel(node=world.socket("a"))
    assert channel.unary_unary(f"/{SERVICE}/UnaryEcho")(b"", timeout=LONG) == b""
    attachment = channel.router.attachment()
    connection = channel.router.usable(SERVICE)
    locks = {
        "registry": attach._registry_lock,
        "attachment": attachment._lock,
        "router": channel.router._lock,
        "connection": connection._lock,
    }
    channel.itself = channel
    with locks[where]:
        del channel
        gc.collect()
    eventually(lambda: not attachment._users and connection.error is not None, "it is closed")


def test_a_channel_is_closed_after_an_interrupt(world: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal's handler may raise anywhere, also where a thread is being started."""
    world.daemon("a")
    world.server("a", "one")
    channel = ipcd_client.channel(node=world.socket("a"))
    assert echo(channel) == b"x"
    router: Any = channel.router
    router._seen, router._look_at = -1, 0.0

    def interrupted(_: threading.Thread) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            router._look()
    channel.close()


EXIT = """
import sys, threading
import ipcd_client
channel = ipcd_client.channel(node=sys.argv[1])
call = channel.unary_stream("/conformance.v1.Echo/DownForever")(b"9")
next(call)
lock = call._exchange._lock if sys.argv[2] == "call" else call._exchange.link[0]._lock
threading.Thread(target=lock.acquire, daemon=True).start()
"""


@pytest.mark.parametrize("where", ["call", "connection"])
def test_a_program_ends_while_a_thread_of_it_holds_a_lock(world: Processes, where: str) -> None:
    """A daemon thread never runs again once the interpreter ends, whatever it held."""
    world.daemon("a")
    world.server("a", "one")
    subprocess.run([sys.executable, "-c", EXIT, world.socket("a"), where], check=True, timeout=LONG)


def test_stopped_server_is_not_found(world: Processes, channel_to: ChannelTo) -> None:
    world.daemon("a")
    server = ipcd_client.server(handlers=(Echo(),), node=world.socket("a"))
    server.start()
    channel = channel_to("a")
    assert echo(channel) == b"x"
    assert server.stop(5).wait(LONG)
    eventually(lambda: not found(channel), "the server is gone from the catalog")
    with pytest.raises(ValueError, match="already-started"):
        server.start()


def found(channel: grpc.Channel) -> bool:
    try:
        echo(channel)
    except grpc.RpcError as error:
        return error.code() is not grpc.StatusCode.UNAVAILABLE
    return True


def test_channel_ready(world: Processes, channel_to: ChannelTo) -> None:
    channel = channel_to("a")
    ready = grpc.channel_ready_future(channel)
    time.sleep(0.1)
    assert not ready.done()
    world.daemon("a")
    ready.result(LONG)


def test_interrupt_ends_a_call(world: Processes, channel_to: ChannelTo) -> None:
    world.daemon("a")
    world.server("a", "one")
    channel = channel_to("a")
    echo(channel)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        channel.unary_unary(f"/{SERVICE}/UnaryWait")(b"", timeout=LONG)
    assert echo(channel, b"goes on") == b"goes on"
