"""Which of a channel's servers gets the next call."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.node.pool import Pool
from ipcd_client.pb.ipcd.v1 import node_pb2

HERE = "a"


class Fake:
    """A connection, as far as the pool looks at it."""

    def __init__(self) -> None:
        self.usable = True
        self.load = 0


class Route(NamedTuple):
    connection: Fake
    server: node_pb2.Server


def server(name: str, *, node: str = HERE, weight: int = 1, spillover: int = 0) -> node_pb2.Server:
    return node_pb2.Server(id=name, weight=weight, spillover=spillover, process=node_pb2.Process(node=node))


def pool_of(*servers: node_pb2.Server) -> Pool[Route]:
    pool: Pool[Route] = Pool()
    for each in servers:
        assert pool.put(Route(Fake(), each), HERE) == []
    return pool


def picked(pool: Pool[Route]) -> str:
    route = pool.pick()
    assert route is not None
    return route.server.id


def route_to(pool: Pool[Route], name: str) -> Route:
    return next(route for route in pool if route.server.id == name)


def candidates(*servers: node_pb2.Server, preferred: str) -> list[node_pb2.Candidate]:
    """Of these servers, of which those with a name in `preferred` are."""
    return [node_pb2.Candidate(server=each, preferred=each.id in preferred.split()) for each in servers]


def test_nobody() -> None:
    pool: Pool[Route] = Pool()
    assert pool.pick() is None
    assert pool.only is None


def test_one_is_the_shortest_way() -> None:
    pool = pool_of(server("x"))
    assert pool.only == route_to(pool, "x")
    pool.put(Route(Fake(), server("y")), HERE)
    assert pool.only != route_to(pool, "x")
    pool.drop([route_to(pool, "x")])
    assert pool.only == route_to(pool, "y")


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, 9), min_size=1, max_size=6))
def test_turns_are_as_the_weights(weights: dict[str, int]) -> None:
    pool = pool_of(*(server(name, weight=weight) for name, weight in weights.items()))
    total = sum(weights.values())
    counts = Counter(picked(pool) for _ in range(20 * total))
    # Sums of fractions may tie in either order: one turn more or less.
    assert all(abs(counts[name] - 20 * weight) <= 1 for name, weight in weights.items())


def test_the_fewest_calls_in_flight_for_its_weight() -> None:
    pool = pool_of(server("x", weight=2), server("y"))
    route_to(pool, "x").connection.load = 3
    route_to(pool, "y").connection.load = 1
    assert [picked(pool) for _ in range(3)] == ["y", "y", "y"]
    route_to(pool, "y").connection.load = 2
    assert picked(pool) == "x"


def test_who_comes_late_does_not_make_up_for_it() -> None:
    pool = pool_of(server("x"))
    for _ in range(100):
        picked(pool)
    pool.put(Route(Fake(), server("y")), HERE)
    assert Counter(picked(pool) for _ in range(10)) == {"x": 5, "y": 5}


def test_who_is_back_after_calls_does_not_make_up_for_it() -> None:
    pool = pool_of(server("x"), server("y"))
    route_to(pool, "y").connection.load = 1
    for _ in range(100):
        assert picked(pool) == "x"
    route_to(pool, "y").connection.load = 0
    assert Counter(picked(pool) for _ in range(10))["x"] >= 4


def test_those_elsewhere_take_what_is_over_the_spillover() -> None:
    pool = pool_of(server("near", spillover=2), server("far", node="b"))
    near, far = route_to(pool, "near").connection, route_to(pool, "far").connection
    assert [picked(pool) for _ in range(3)] == ["near"] * 3
    near.load = 2
    assert picked(pool) == "far"
    far.load = 3
    assert picked(pool) == "near"
    near.load = far.load = 1
    assert picked(pool) == "near"


def test_a_second_connection_with_a_server_takes_the_place_of_the_first() -> None:
    """A call that found nobody, and the news of a server, may both have led to it."""
    pool = pool_of(server("x"), server("y"))
    first, second = route_to(pool, "x"), Route(Fake(), server("x"))
    assert pool.put(second, HERE) == [first]
    assert Counter(picked(pool) for _ in range(10)) == {"x": 5, "y": 5}
    assert route_to(pool, "x").connection is second.connection


def test_the_useless_are_passed_over_and_thrown_out() -> None:
    pool = pool_of(server("x"), server("y"))
    gone = route_to(pool, "x")
    gone.connection.usable = False
    assert [picked(pool) for _ in range(3)] == ["y"] * 3
    assert pool.put(Route(Fake(), server("z")), HERE) == [gone]
    assert {route.server.id for route in pool} == {"y", "z"}
    for route in pool:
        route.connection.usable = False
    assert pool.pick() is None


@pytest.mark.parametrize(("spread", "missing"), [(1, []), (2, ["y"]), (3, ["y", "z"]), (8, ["y", "z"])])
def test_who_is_missing(spread: int, missing: list[str]) -> None:
    pool = pool_of(server("x"))
    standing = candidates(server("y"), server("x"), server("z"), server("far", node="b"), preferred="x y z")
    assert pool.missing(standing, HERE, spread) == missing


def test_weights_that_change_count() -> None:
    pool = pool_of(server("x"), server("y"))
    changed = candidates(server("x", weight=3), server("y"), preferred="x y")
    assert pool.missing(changed, HERE, 8) == []
    assert Counter(picked(pool) for _ in range(40)) == {"x": 30, "y": 10}


def test_who_is_not_preferred_any_more_is_given_up() -> None:
    pool = pool_of(server("far", node="b"), server("near"))
    standing = candidates(server("near"), server("far", node="b"), preferred="near")
    assert [route.server.id for route in pool.surplus(standing)] == ["far"]


def test_nobody_is_given_up_before_there_is_a_better_one() -> None:
    pool = pool_of(server("far", node="b"))
    standing = candidates(server("near"), server("far", node="b"), preferred="near")
    assert pool.surplus(standing) == []


def test_who_is_not_known_is_kept() -> None:
    """Its node may be away while it is not."""
    pool = pool_of(server("x"), server("y"))
    assert pool.surplus(candidates(server("x"), preferred="x")) == []
