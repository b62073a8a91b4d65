"""Channels and servers on event loops, with a real daemon, beside those on threads."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from conformance.echo import SERVICE
from sdk.processes import LONG, Processes


def run(main: Callable[[], Awaitable[None]], *, debug: bool = True) -> None:
    """On a loop of its own, on which nothing may be left."""

    async def limited() -> None:
        async with asyncio.timeout(2 * LONG):
            await main()
        for _ in range(10):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    asyncio.run(limited(), debug=debug)


def unary(channel: grpc.aio.Channel, method: str = "UnaryEcho") -> Any:
    return channel.unary_unary(f"/{SERVICE}/{method}")


async def numbers(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield b"%d" % number


@pytest.fixture(params=["shm", "unix", "tcp"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("serves", ["on threads", "on a loop"])
def test_a_loop_calls(world: Processes, transport: str, serves: str) -> None:
    world.daemon("a")
    (world.server if serves == "on threads" else world.aio_server)("a", "one")
    parts = [b"%d" % number for number in range(500)]

    async def main() -> None:
        async with ipcd_client.aio.channel(node=world.socket("a"), transport=transport) as channel:
            assert await unary(channel)(b"hello", timeout=LONG) == b"hello"
            assert (await channel.route(SERVICE)).transport == transport
            assert [part async for part in channel.unary_stream(f"/{SERVICE}/DownCount")(b"500")] == parts
            assert await channel.stream_unary(f"/{SERVICE}/UpJoin")(numbers(500)) == b",".join(parts)
            assert [part async for part in channel.stream_stream(f"/{SERVICE}/BothEcho")(numbers(500))] == parts
            large = os.urandom(3 << 20)
            assert await unary(channel)(large) == large

    run(main)


def test_threads_call_a_loop(world: Processes, transport: str) -> None:
    world.daemon("a")
    world.aio_server("a", "one")
    parts = [b"%d" % number for number in range(500)]
    with ipcd_client.channel(node=world.socket("a"), transport=transport) as channel:
        assert channel.unary_unary(f"/{SERVICE}/UnaryEcho")(b"hello", timeout=LONG) == b"hello"
        assert channel.route(SERVICE).transport == transport
        assert list(channel.unary_stream(f"/{SERVICE}/DownCount")(b"500", timeout=LONG)) == parts
        assert channel.stream_unary(f"/{SERVICE}/UpJoin")(iter(parts), timeout=LONG) == b",".join(parts)
        assert list(channel.stream_stream(f"/{SERVICE}/BothEcho")(iter(parts), timeout=LONG)) == parts
        large = os.urandom(3 << 20)
        assert channel.unary_unary(f"/{SERVICE}/UnaryEcho")(large, timeout=LONG) == large


def test_many_calls_that_wait_for_a_server(world: Processes, transport: str) -> None:
    """They share one introduction, so that there may be any number of them; each can give up for itself."""
    world.daemon("a")

    async def main() -> None:
        async with ipcd_client.aio.channel(node=world.socket("a"), transport=transport) as channel:
            method = unary(channel)
            calls = [method(b"%d" % number, wait_for_ready=True, timeout=LONG) for number in range(200)]
            hasty = [method(b"", wait_for_ready=True, timeout=0.1) for _ in range(20)]
            for call in hasty:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await asyncio.to_thread(world.aio_server, "a", "one")
            assert await asyncio.gather(*calls) == [b"%d" % number for number in range(200)]

    run(main)


def test_nobody_waits_for_a_server_any_more(world: Processes, transport: str) -> None:
    world.daemon("a")

    async def main() -> None:
        async with ipcd_client.aio.channel(node=world.socket("a"), transport=transport) as channel:
            calls = [unary(channel)(b"", wait_for_ready=True, timeout=LONG) for _ in range(20)]
            await asyncio.sleep(0.1)
            for call in calls:
                assert call.cancel()
            assert await asyncio.gather(*(call.code() for call in calls)) == [grpc.StatusCode.CANCELLED] * 20
            await asyncio.sleep(0)
            # It does not go on for nobody; and who comes then begins another.
            assert not [task for task in asyncio.all_tasks() if "_introduced" in repr(task)]
            late = unary(channel)(b"late", wait_for_ready=True, timeout=LONG)
            await asyncio.to_thread(world.aio_server, "a", "one")
            assert await late == b"late"

    run(main)


def test_a_mistake_of_ours_while_connecting_ends_the_call(
    world: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody would end it otherwise, but its deadline."""

    async def main() -> None:
        async with ipcd_client.aio.channel(node=world.socket("a")) as channel:

            async def connect(service: str, *, wait: bool) -> Any:
                raise RuntimeError(f"{service} {wait}")

            monkeypatch.setattr(channel.router, "connect", connect)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await unary(channel)(b"x", timeout=LONG)
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert caught.value.details() == f"{SERVICE} False"

    run(main)
    assert f"/{SERVICE}/UnaryEcho: no connection" in caplog.text


def test_ten_thousand_calls_at_once(world: Processes, transport: str) -> None:
    """All of them are open at one time, over one connection; what they took is given back."""
    world.daemon("a")
    world.aio_server("a", "one")
    many = 10_000
    request = b"%d" % many

    async def main() -> None:
        async with ipcd_client.aio.channel(node=world.socket("a"), transport=transport) as channel:
            assert await unary(channel)(b"x") == b"x"
            hold = unary(channel, "UnaryHold")
            gc.collect()
            tracemalloc.start()
            try:
                answers = await asyncio.gather(*[hold(request) for _ in range(many)])
                assert answers.count(request) == many
                del answers
                await asyncio.sleep(0)  # until then the loop's running callback refers to the future of them all
                gc.collect()
                left, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            # What is left are tables that had room for all of them.
            assert left < 4 << 20
            assert len(channel.exchanges) == 0
            assert await unary(channel)(b"x") == b"x"

    # Not in debug mode, which would keep the stack of each of them.
    run(main, debug=False)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 16384:
        pytest.skip(f"this process may open {before[1]} descriptors, and would need 16384")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_descriptors")
def test_a_thousand_channels(world: Processes) -> None:
    world.daemon("a")
    world.aio_server("a", "one")

    async def main() -> None:
        async with AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(ipcd_client.aio.channel(node=world.socket("a"), transport="unix"))
                for _ in range(1000)
            ]
            for _ in range(2):
                answers = await asyncio.gather(*[unary(channel)(b"x") for channel in channels])
                assert answers == [b"x"] * 1000

    run(main, debug=False)


def test_loops_one_after_the_other(world: Processes) -> None:
    world.daemon("a")
    world.aio_server("a", "one")

    async def main() -> None:
        async with ipcd_client.aio.channel(node=world.socket("a")) as channel:
            assert await unary(channel)(b"x") == b"x"

    for _ in range(3):
        run(main)


def test_loops_in_several_threads(world: Processes) -> None:
    world.daemon("a")
    world.server("a", "one")
    failures: list[BaseException] = []

    async def main() -> None:
        async with ipcd_client.aio.channel(node=world.socket("a")) as channel:
            for number in range(200):
                assert await unary(channel)(b"%d" % number) == b"%d" % number

    def work() -> None:
        try:
            run(main)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * LONG)
    assert not failures


UVLOOP = """
import asyncio, os, sys
import ipcd_client.aio, uvloop

async def main():
    # A machine that is busy with something else is no fault of what runs on the loop.
    asyncio.get_running_loop().slow_callback_duration = 60
    async with ipcd_client.aio.channel(node=sys.argv[1], transport=sys.argv[2]) as channel:
        echo = channel.unary_unary("/conformance.v1.Echo/UnaryEcho")
        assert await asyncio.gather(*[echo(b"x") for _ in range(100)]) == [b"x"] * 100
        large = os.urandom(3 << 20)
        assert await echo(large) == large
        down = channel.unary_stream("/conformance.v1.Echo/DownCount")
        assert [part async for part in down(b"500")] == [b"%d" % number for number in range(500)]

with asyncio.Runner(debug=True, loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


def test_uvloop(world: Processes, transport: str) -> None:
    """In a process of its own: it opens a pipe that it never closes."""
    pytest.importorskip("uvloop", reason="uvloop is not installed")
    world.daemon("a")
    world.aio_server("a", "one")
    command = [sys.executable, "-W", "error", "-c", UVLOOP, world.socket("a"), transport]
    assert subprocess.run(command, timeout=LONG, check=True, capture_output=True, text=True).stderr == ""


def test_a_killed_server(world: Processes, transport: str) -> None:
    world.daemon("a")
    server = world.aio_server("a", "one")

    async def main() -> None:
        async with ipcd_client.aio.channel(node=world.socket("a"), transport=transport) as channel:
            await unary(channel)(b"x")
            call = unary(channel, "UnaryWait")(b"")
            await asyncio.sleep(0.05)
            server.send_signal(signal.SIGKILL)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert f"pid {server.pid} on node a" in caught.value.details()

    run(main)


def test_the_other_server_takes_over(world: Processes) -> None:
    world.daemon("a")
    servers = {name: world.aio_server("a", name) for name in ("one", "two")}

    async def main() -> None:
        async with ipcd_client.aio.channel(node=world.socket("a")) as channel:
            for _ in range(2):
                await unary(channel)(b"x")
            first = (await channel.route(SERVICE)).server.name
            world.kill(servers[first])
            assert await unary(channel)(b"again") == b"again"
            assert (await channel.route(SERVICE)).server.name != first

    run(main)


def test_a_stopping_server_loses_no_call(world: Processes) -> None:
    world.daemon("a")
    servers = [world.aio_server("a", name) for name in ("one", "two", "three")]

    async def main() -> None:
        async with ipcd_client.aio.channel(node=world.socket("a")) as channel:
            done = asyncio.Event()
            calls = 0

            async def work() -> None:
                nonlocal calls
                while not done.is_set():
                    assert await unary(channel)(b"x") == b"x"
                    calls += 1

            working = [asyncio.ensure_future(work()) for _ in range(8)]
            for server in servers[:2]:
                await asyncio.sleep(0.3)
                server.terminate()
                assert await asyncio.to_thread(server.wait, LONG) == 0
            await asyncio.sleep(0.3)
            done.set()
            await asyncio.gather(*working)
            assert calls

    run(main)


def test_waits_for_daemon_and_server(world: Processes) -> None:
    async def main() -> None:
        async with ipcd_client.aio.channel(node=world.socket("a")) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await unary(channel)(b"x")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert f"ipcd run --socket {world.socket('a')}" in caught.value.details()
            assert channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await unary(channel)(b"x", wait_for_ready=True, timeout=0.2)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            call = unary(channel)(b"x", wait_for_ready=True, timeout=LONG)
            await asyncio.to_thread(world.daemon, "a")
            await channel.channel_ready()
            assert channel.get_state() is grpc.ChannelConnectivity.READY
            await asyncio.to_thread(world.aio_server, "a", "one")
            assert await call == b"x"

    run(main)


def test_the_nodes_own_api(world: Processes) -> None:
    from ipcd_client.pb.ipcd.v1 import node_pb2, node_pb2_grpc

    world.daemon("a")

    async def main() -> None:
        async with ipcd_client.aio.channel("ipcd-node:", node=world.socket("a")) as channel:
            reply = await node_pb2_grpc.NodeStub(channel).Status(node_pb2.StatusRequest())
            assert reply.node == "a"

    run(main)


def test_one_import_is_enough() -> None:
    """Of `aio`, too, which is loaded when it is first used."""
    code = "import sys, ipcd_client; assert 'ipcd_client.aio' not in sys.modules; ipcd_client.aio.channel"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LONG)
