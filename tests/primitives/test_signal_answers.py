"""Listeners at a service that answers as a daemon does that is in trouble."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal as os_signals
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import LONG, eventually
from integration.gateway import address_of
from ipcd_client.errors import NotAllowed, UsageError
from ipcd_client.pb.ipcd.v1 import signal_pb2, signal_pb2_grpc
from ipcd_client.primitives.flags import Raised
from primitives.roads import Cluster
from primitives.signal_faces import FACES, poller


class Service(signal_pb2_grpc.SignalServicer):
    """Raises the flag once at each who listens, and never again, as nobody ever takes it. `take` and `begin` are what
    Take and Listen begin with."""

    def __init__(self) -> None:
        self.listened = 0
        self.taken = 0
        self.over = threading.Event()
        self.begin: Callable[[Any], None] = lambda _context: None
        self.take: Callable[[Any], None] = lambda _context: None

    def Listen(self, request: signal_pb2.ListenRequest, context: Any) -> Iterator[signal_pb2.ListenReply]:
        self.listened += 1
        self.begin(context)
        yield signal_pb2.ListenReply(listening=signal_pb2.Listening(node="a", listener=str(self.listened)))
        if self.listened == 1:
            yield signal_pb2.ListenReply(raised=signal_pb2.Flag(name=request.name))
        while context.is_active() and not self.over.wait(0.01):
            pass

    def Take(self, request: signal_pb2.TakeRequest, context: Any) -> signal_pb2.TakeReply:
        self.taken += 1
        self.take(context)
        return signal_pb2.TakeReply()


@pytest.fixture(scope="module", autouse=True)
def _poller() -> Iterator[None]:
    with poller():
        yield


@pytest.fixture
def service() -> Iterator[Service]:
    """At `address`."""
    service = Service()
    server = grpc.server(ThreadPoolExecutor(8))
    signal_pb2_grpc.add_SignalServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"  # type: ignore[attr-defined]
    server.start()
    try:
        yield service
    finally:
        service.over.set()
        server.stop(0).wait()


def exhausted(context: Any) -> None:
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the limit of 3 calls is reached")


def denied(context: Any) -> None:
    context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")


async def until(condition: Callable[[], bool]) -> None:
    """While the loop runs."""
    async with asyncio.timeout(LONG):
        while not condition():  # noqa: ASYNC110  it is about what other threads do
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def handling() -> Iterator[None]:
    """The handler of the signal by which handlers get to the main thread is what it was before, afterwards."""
    before = os_signals.getsignal(os_signals.SIGURG)
    try:
        yield
    finally:
        os_signals.signal(os_signals.SIGURG, before)


def address(service: Service) -> str:
    return str(service.address)  # type: ignore[attr-defined]


@pytest.mark.parametrize("face", FACES)
def test_where_a_flag_cannot_be_taken_one_listens_anew(service: Service, face: str) -> None:
    """The daemon would not tell again of what is raised there still."""
    service.take = exhausted
    if face == "sync":
        with (
            grpc.insecure_channel(address(service)) as channel,
            ipcd_client.signal("x", channel=channel) as signal,
            signal.listen() as listener,
        ):
            assert listener.wait(LONG).name == "x"
            eventually(lambda: (service.listened, listener.gaps) == (2, 1), "it listens anew")
        return

    async def main() -> None:
        async with (
            grpc.aio.insecure_channel(address(service)) as channel,
            ipcd_client.aio.signal("x", channel=channel) as signal,
            signal.listen() as listener,
        ):
            assert (await listener.wait(LONG)).name == "x"
            await until(lambda: (service.listened, listener.gaps) == (2, 1))

    asyncio.run(main())


def test_a_flag_is_not_lost_with_who_was_about_to_take_it(service: Service) -> None:
    asked = threading.Event()

    def take(_: Any) -> None:
        asked.set()
        service.over.wait(LONG)

    service.take = take

    async def main() -> None:
        async with (
            grpc.aio.insecure_channel(address(service)) as channel,
            ipcd_client.aio.signal("x", channel=channel) as signal,
            signal.listen() as listener,
        ):
            waiting = asyncio.create_task(listener.wait(LONG))
            await until(asked.is_set)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await listener.wait(LONG)).name == "x"
            await until(lambda: service.listened == 2)
            assert service.taken == 1

    asyncio.run(main())


def test_a_handler_that_will_not_be_called_any_more_is_told_of(service: Service) -> None:
    def begin(context: Any) -> None:
        if service.listened > 1:
            denied(context)

    service.begin = begin
    service.take = exhausted

    def handler(_: Raised) -> None:
        pass

    with (
        handling(),
        grpc.insecure_channel(address(service)) as channel,
        ipcd_client.signal("x", channel=channel) as signal,
        pytest.raises(NotAllowed),
        signal.listen(handler=handler),
    ):
        threading.Event().wait(LONG)
    service.listened = 0
    told: list[tuple[str, Any]] = []

    async def handle(_: Raised) -> None:
        pass

    async def main() -> None:
        def tell(_: object, context: dict[str, Any]) -> None:
            # grpc.aio's poller has things to tell, too.
            if "signal" in context["message"]:
                told.append((context["message"], type(context["exception"])))

        asyncio.get_running_loop().set_exception_handler(tell)
        async with (
            grpc.aio.insecure_channel(address(service)) as channel,
            ipcd_client.aio.signal("x", channel=channel) as signal,
        ):
            listener = await signal.listen(handler=handle)
            await until(lambda: bool(told))
            await listener.close()

    asyncio.run(main())
    assert told == [("nobody listens for the signal x any more", NotAllowed)]


@pytest.mark.parametrize("what", ["listen", "watch"])
@pytest.mark.parametrize("face", FACES)
def test_who_waits_is_told_that_the_channel_is_closed(cluster: Cluster, face: str, what: str) -> None:
    target = address_of(cluster.front)
    with contextlib.ExitStack() as stack:
        if face == "sync":
            channel = grpc.insecure_channel(target)
            if what == "listen":
                one: Any = stack.enter_context(ipcd_client.signal("shut", channel=channel).listen())
            else:
                one = stack.enter_context(ipcd_client.watch_exit(os.getpid(), channel=channel))
            channel.close()
            with pytest.raises(UsageError, match="cannot be used any more"):
                one.wait(LONG)
            return

        async def main() -> None:
            channel = grpc.aio.insecure_channel(target)
            if what == "listen":
                one: Any = await ipcd_client.aio.signal("shut", channel=channel).listen()
            else:
                one = await ipcd_client.aio.watch_exit(os.getpid(), channel=channel)
            await channel.close()
            with pytest.raises(UsageError, match="cannot be used any more"):
                await one.wait(LONG)
            await one.close()

        asyncio.run(main())
