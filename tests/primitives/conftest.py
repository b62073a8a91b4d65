"""Two linked nodes, and the roads on which a primitive is used: each test of a suite goes over all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import ipcd_client
import pytest
from integration.daemons import Daemons, daemons
from primitives.roads import ROADS, Cluster, Road

_numbers = itertools.count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of this module: `front` has a gateway, `back` keeps things for those who are not on it."""
    with daemons() as both:
        state = [("--state-dir", str(both.folder / f"state-{node}")) for node in "ab"]
        back = both.run("b", "--grpc-listen", "127.0.0.1:0", *state[1])
        front = both.run("a", "--grpc-listen", "127.0.0.1:0", "--peer", back.listen, *state[0])
        front.logged("node linked", "b")
        back.logged("node linked", "a")
        for node in (front, back):
            # The files that a node makes when it first needs them are no test's.
            with ipcd_client.queue("first", node=node.socket, create=True, durable=True) as queue:
                queue.create()
                queue.remove()
            with ipcd_client.lock("first", node=node.socket) as lock:
                lock.check()
            ipcd_client.lock("first", node=node.socket).remove()
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
