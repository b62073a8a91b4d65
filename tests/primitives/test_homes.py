"""Handles without a node, whose thing is removed, and made on another node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import LONG, Daemon, eventually
from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc, semaphore_pb2, semaphore_pb2_grpc
from ipcd_client.primitives.errors import NoSuchName
from ipcd_client.primitives.loop_place import LoopPlace
from primitives.faces import FACES, handles
from primitives.roads import Cluster, Road


class Kind(NamedTuple):
    """`look` fails where there is none. `keywords`: of a handle that is to make one."""

    make: Callable[[Any], Any]
    look: Callable[[Any], Any]
    remove: Callable[[Any], Any]
    keywords: dict[str, Any]


KINDS = {
    "queue": Kind(lambda queue: queue.create(), lambda queue: queue.stat(), lambda queue: queue.remove(), {}),
    # Its session may not have ended yet.
    "lock": Kind(
        lambda lock: lock.acquire().release(), lambda lock: lock.look(), lambda lock: lock.remove(force=True), {}
    ),
    "semaphore": Kind(
        lambda semaphore: semaphore.make(),
        lambda semaphore: semaphore.get_value(),
        lambda semaphore: semaphore.remove(),
        {"value": 2},
    ),
}


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_handle_follows_what_is_made_elsewhere_later(kind: str, face: str, cluster: Cluster) -> None:
    make, look, remove, keywords = KINDS[kind]
    name = f"moving.{face}"

    @contextmanager
    def made(node: Daemon) -> Iterator[None]:
        handle = getattr(ipcd_client, kind)(f"{name}@{node.node}", node=node.socket, **keywords)
        make(handle)
        yield
        remove(handle)
        handle.close()

    def seen(handle: Any) -> bool:
        with suppress(NoSuchName):
            look(handle)
            return True
        return False

    with handles(face, Road("here", cluster, ""), name, f"{name}@b", kind=kind) as (free, bound):
        assert not seen(free)
        with made(cluster.back):
            eventually(lambda: seen(free), "it is found on the other node")
        eventually(lambda: not seen(free), "it is gone")
        with made(cluster.front):
            eventually(lambda: seen(free), "it is found on the own node")
            # Whoever says which node means no other's.
            assert not seen(bound)


class Moving:
    """A semaphore that a handle takes to be on its own node, and that was then made on the other one."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.node = cluster.front.socket
        self.name = name
        self._cluster = cluster

    async def __aenter__(self) -> LoopPlace:
        self.place = LoopPlace("semaphore", self.name, self.node)
        assert await self.place.home() == self._cluster.front.node
        await asyncio.to_thread(self._make)
        return self.place

    def _make(self) -> None:
        with ipcd_client.semaphore(f"{self.name}@b", 1, node=self._cluster.back.socket) as made:
            made.make()
        with ipcd_client.semaphore(self.name, node=self.node) as free:

            def seen() -> bool:
                with suppress(NoSuchName):
                    return free.get_value() == 1
                return False

            eventually(seen, "the own node knows of it")

    async def __aexit__(self, *_: object) -> None:
        await self.place.close()
        async with ipcd_client.aio.semaphore(f"{self.name}@b", node=self._cluster.back.socket) as made:
            await made.remove()

    async def ask(self, channel: Any) -> None:
        """Fails at the node where it is not."""
        request = semaphore_pb2.SemaphoreRequest(name=self.name)
        await semaphore_pb2_grpc.SemaphoreStub(channel).Operate(request, timeout=LONG)


class Waiting:
    """Calls that wait at a node until somebody reads a pipe of it."""

    def __init__(self, name: str, node: str) -> None:
        self._name = name
        self._node = node

    async def call(self, channel: Any) -> Any:
        """Gives what the node says then."""
        stub: Any = pipe_pb2_grpc.PipeStub(channel)
        call = stub.Open()
        await call.write(pipe_pb2.PipeOpen(name=self._name, side=pipe_pb2.PIPE_SIDE_WRITE))
        news = await call.read()
        call.cancel()
        return news

    async def begun(self) -> None:
        """Until one does."""
        pipe = ipcd_client.aio.pipe(self._name, node=self._node)
        for _ in range(int(LONG / 0.02)):
            with suppress(NoSuchName):
                if (await pipe.facts()).waiting == 1:
                    return
            await asyncio.sleep(0.02)
        raise AssertionError("nobody waits")

    async def end(self) -> None:
        """Somebody reads it."""
        reader = await ipcd_client.aio.pipe(self._name, node=self._node).open_read(nonblock=True)
        await reader.close()


def itself(channel: Any) -> Any:
    """Instead of a stub."""
    return channel


def test_what_one_task_finds_out_does_not_end_the_calls_of_another(cluster: Cluster) -> None:
    async def main() -> None:
        moving, waiting = Moving(cluster, "moving.first"), Waiting("first@a", cluster.front.socket)
        async with moving as place:
            other = asyncio.create_task(place.run(itself, waiting.call))
            await waiting.begun()
            await place.run(itself, moving.ask)
            assert await place.home() == cluster.back.node
            await waiting.end()
            assert (await other).others == 1

    asyncio.run(main())


def test_what_another_task_knows_already_ends_no_call(cluster: Cluster) -> None:
    async def main() -> None:
        moving, waiting = Moving(cluster, "moving.second"), Waiting("second@b", cluster.front.socket)
        go = asyncio.Event()

        async def first(channel: Any) -> Any:
            await moving.ask(channel)
            return await waiting.call(channel)

        async def second(channel: Any) -> None:
            try:
                await moving.ask(channel)
            except grpc.RpcError:
                await go.wait()
                raise

        async with moving as place:
            late = asyncio.create_task(place.run(itself, second))
            early = asyncio.create_task(place.run(itself, first))
            await waiting.begun()
            go.set()
            await late
            await waiting.end()
            assert (await early).others == 1

    asyncio.run(main())
