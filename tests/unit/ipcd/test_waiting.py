"""Callers that wait for a server, and pin the transport: what can be reached is judged for the caller who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest
from ipcd_client.aio.context import ServicerContext
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2
from ipcd_client.wire.fds import Fd, close_all
from support.everybody import EVERYBODY

from ipcd.access import Access
from ipcd.broker import Broker
from ipcd.log import Log
from ipcd.parties import Attached, NoLinks
from ipcd.state import choice
from ipcd.state.catalog import Catalog

LONG = 20.0  # seconds: far more than anything here takes
OURS, ANOTHER = 1000, 2000  # uids


class Ear:
    """A server's call of Register, as far as the broker speaks to it: whether it takes a caller."""

    def __init__(self, *, takes: bool) -> None:
        self.takes = takes
        self.asked = 0
        self.again = asyncio.Event()

    def write_now(self, message: node_pb2.RegisterReply, fds: Sequence[Fd]) -> bool:
        self.asked += 1
        if self.asked > 1:
            self.again.set()
        close_all(fds)
        return self.takes


class World:
    """A broker, and a caller whose uid is OURS."""

    def __init__(self) -> None:
        log = Log("a")
        access = Access("default", "a", log, [EVERYBODY])
        self.broker = Broker("a", Catalog("a"), log, asyncio.get_running_loop().time, access=access)
        self.caller = self._attach(OURS)

    def _attach(self, uid: int) -> Attached:
        return self.broker.attach(node_pb2.Process(node="a", uid=uid))

    def register(self, uid: int, *, takes: bool) -> Ear:
        ear = Ear(takes=takes)
        request = node_pb2.RegisterRequest(services=["x.X"])
        self.broker.register(self._attach(uid), request, cast("ServicerContext", ear))
        return ear

    def wait(self, transport: node_pb2.Transport) -> asyncio.Task[node_pb2.Candidate]:
        async def opened() -> node_pb2.Candidate:
            target = node_pb2.ResolveRequest(service="x.X", transport=transport)
            reply, fds = await self.broker.open(self.caller, target, wait=True)
            close_all(fds)
            return reply.choice

        return asyncio.create_task(opened())


def run(story: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(LONG):
            await story(World())

    asyncio.run(main())


async def first(*events: Awaitable[Any]) -> None:
    """Until one of them has happened; the others are given up."""
    tasks = [asyncio.ensure_future(event) for event in events]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize("transport", [choice.SHM, choice.UNIX])
def test_a_server_that_does_not_take_callers_is_asked_again(transport: node_pb2.Transport) -> None:
    async def story(world: World) -> None:
        server = world.register(OURS, takes=False)
        waiting = world.wait(transport)
        await first(asyncio.shield(waiting), server.again.wait())
        assert not waiting.done()
        server.takes = True
        assert (await waiting).transport == transport

    run(story)


def test_only_servers_that_can_be_reached_are_asked() -> None:
    async def story(world: World) -> None:
        strange = world.register(ANOTHER, takes=True)
        server = world.register(OURS, takes=False)
        waiting = world.wait(choice.SHM)
        await first(asyncio.shield(waiting), server.again.wait())
        assert not waiting.done()
        server.takes = True
        assert (await waiting).transport == choice.SHM
        assert not strange.asked

    run(story)


@pytest.mark.parametrize("transport", [choice.SHM, choice.UNIX, choice.TCP])
def test_the_server_that_comes_is_reached_over_it(transport: node_pb2.Transport) -> None:
    async def story(world: World) -> None:
        waiting = world.wait(transport)
        await asyncio.sleep(0)  # it waits now
        world.register(OURS, takes=True)
        assert (await waiting).transport == transport

    run(story)


@pytest.mark.parametrize("before", [True, False])
def test_there_is_no_waiting_where_every_server_is_out_of_reach(before: bool) -> None:
    async def story(world: World) -> None:
        if before:
            world.register(ANOTHER, takes=True)
        waiting = world.wait(choice.SHM)
        if not before:
            await asyncio.sleep(0)  # it waits now
            world.register(ANOTHER, takes=True)
        with pytest.raises(choice.Impossible, match="the caller's uid is 1000, the server's 2000"):
            await waiting

    run(story)


class Told(NoLinks):
    """Another node, whose answer to an introduction is what it likes."""

    def __init__(self, server: node_pb2.Server) -> None:
        self.server = server

    async def introduce(self, node: str, request: peer_pb2.IntroduceRequest) -> tuple[peer_pb2.IntroduceReply, str]:
        return peer_pb2.IntroduceReply(server=self.server, token=bytes(16)), "b:7"


@pytest.mark.parametrize(("server_id", "name"), [("", ""), ("b." + "0" * 600, ""), ("b.1", "n" * 256)])
def test_an_introduction_to_what_cannot_be_a_server(server_id: str, name: str) -> None:
    """Its id would be remembered."""

    async def main() -> None:
        world = World()
        there = node_pb2.Process(node="b")
        known = node_pb2.Server(id="b.1", process=there, services=["x.X"])
        world.broker.catalog.apply("b", "i", peer_pb2.CatalogUpdate(revision=1, full=True, servers=[known]))
        world.broker.links = Told(node_pb2.Server(id=server_id, name=name, process=there))
        with pytest.raises(choice.NoServer, match="no introduction to one of its servers"):
            await world.broker.open(world.caller, node_pb2.ResolveRequest(service="x.X"), wait=False)
        assert not world.broker._turns

    asyncio.run(main())
