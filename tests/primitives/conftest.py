"""Two linked nodes, and the roads on which a primitive is used: each test of a suite goes over all of them."""

from __future__ import annotations

import asyncio
import gc
import itertools
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import ipcd_client.aio
import pytest
from integration.daemons import LONG, Daemons, daemons
from integration.gateway import address_of
from primitives.command_faces import Offers, offering
from primitives.lock_faces import FACES, Face
from primitives.roads import ROADS, Cluster, Road

_numbers = itertools.count()
_FIRST = """
import sys, ipcd_client
for node in sys.argv[1:]:
    with ipcd_client.queue("first", node=node, create=True, durable=True) as queue:
        queue.create()
        queue.remove()
    with ipcd_client.lock("first", node=node):
        pass
    ipcd_client.lock("first", node=node).remove()
    with ipcd_client.semaphore("first", 1, node=node) as semaphore:
        semaphore.acquire()
        semaphore.remove()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of this module: `front` has a gateway, `back` keeps things for those who are not on it."""
    with daemons() as both:
        state = [("--state-dir", str(both.folder / f"state-{node}")) for node in "ab"]
        back = both.run("b", "--grpc-listen", "127.0.0.1:0", *state[1])
        front = both.run("a", "--grpc-listen", "127.0.0.1:0", "--peer", back.listen, *state[0])
        front.logged("node linked", "b")
        back.logged("node linked", "a")
        # The files that a node makes when it first needs them are no test's.
        subprocess.run([sys.executable, "-c", _FIRST, front.socket, back.socket], check=True, timeout=LONG)
        yield Cluster(front, back)


@pytest.fixture(params=ROADS)
def road(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Road]:
    """How this test gets at its things."""
    road = Road(request.param, cluster, f"t{next(_numbers)}")
    yield road
    road.close()


@pytest.fixture
def nodes() -> Iterator[Daemons]:
    """For tests that start, cut and kill nodes of their own."""
    with daemons() as all_of_them:
        yield all_of_them


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """For the other side."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def offer(road: Road) -> Iterator[Offers]:
    """Offers a command at the road's end: its name, as it is called there."""
    with offering(road) as offered:
        yield offered


@pytest.fixture(params=FACES)
def lock_face(request: pytest.FixtureRequest) -> Iterator[Face]:
    """Handles of locks of one kind."""
    made = Face(request.param)
    yield made
    made.close()


@pytest.fixture(scope="module")
def grpc_aio(cluster: Cluster) -> Iterator[None]:
    """grpcio's event loop machinery starts with its first use and lives on: not within a test."""

    async def run(function: Any) -> None:
        function()

    async def call() -> None:
        # What polls is made with the first connection.
        async with grpc.aio.insecure_channel(address_of(cluster.front)) as channel:
            await ipcd_client.aio.lock("warm@a", channel=channel).acquire()

    with asyncio.Runner() as runner:
        runner.run(run(grpc.aio.init_grpc_aio))
        runner.run(call())
        yield
        gc.collect()
        runner.run(run(grpc.aio.shutdown_grpc_aio))
