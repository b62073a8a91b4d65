"""Values, over all roads and on both faces."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from integration.daemons import LONG, eventually
from ipcd_client.primitives.errors import BadRequest, TimedOut
from ipcd_client.primitives.values import INLINE
from primitives.faces import FACES, handles
from primitives.memories import memories
from primitives.roads import Road

LARGE = bytes(range(256)) * 4096 * 3


@pytest.fixture(scope="module", autouse=True)
def _grpc_aio_runs() -> Iterator[None]:
    """Its poller lives as long as the module: else it comes and goes with each test, later than the test."""

    async def run(act: Any) -> None:
        act()

    with asyncio.Runner() as runner:
        runner.run(run(grpc.aio.init_grpc_aio))
        yield
        runner.run(run(grpc.aio.shutdown_grpc_aio))


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def two(face: str, road: Road) -> Iterator[list[Any]]:
    """Two handles of one value."""
    with handles(face, road, road.name("v"), road.name("v")) as made:
        yield made


def test_each_verb(two: list[Any]) -> None:
    one, other = two
    assert not one.get()
    assert one.get().version == one.version() == 0
    first = one.set(b"a")
    assert first > 1
    found = other.get()
    assert found
    assert (found.version, bytes(found), len(found), found.ttl, found.held) == (first, b"a", 1, None, False)
    assert other.set("ä") == first + 1
    assert bytes(one.get()) == "ä".encode()
    assert one.set(b"") == first + 2
    assert one.get()
    assert bytes(one.get()) == b""
    assert one.delete()
    assert not other.get()
    assert not one.delete()
    # A version never comes again.
    assert other.set(b"b") == first + 3


def test_compare_and_set(two: list[Any]) -> None:
    one, other = two
    assert one.compare_and_set(1, b"x") == 0
    assert not one.get()
    first = one.compare_and_set(0, b"x")
    assert first
    assert other.compare_and_set(0, b"y") == 0
    known = other.get()
    assert one.set(b"z") == first + 1
    assert other.compare_and_set(known, b"y") == 0
    assert other.compare_and_set(other.get(), b"y") == first + 2
    assert not one.delete(first + 1)
    assert one.delete(first + 2)
    assert one.compare_and_set(0, LARGE) == first + 3
    assert one.compare_and_set(first + 2, LARGE) == 0
    assert one.compare_and_set(first + 3, b"") == first + 4


def test_numbers(two: list[Any]) -> None:
    one, other = two
    assert one.add() == 1
    assert other.add(41) == 42
    assert bytes(one.get()) == b"42"
    version = one.version()
    assert one.set("-7") == version + 1
    assert one.add(-3) == -10
    one.set(str((1 << 63) - 1))
    with pytest.raises(BadRequest, match="64 bits"):
        one.add()
    assert one.version() == version + 3
    one.set(b"seven")
    with pytest.raises(BadRequest, match="no number"):
        one.add()
    with pytest.raises(BadRequest, match="64 bits"):
        one.add(1 << 63)


def test_large(two: list[Any], road: Road) -> None:
    one, other = two
    first = one.set(LARGE)
    found = other.get()
    assert found.data == LARGE
    assert found.data.readonly
    assert found.node == road.home.node
    # As long as anybody holds it, it stays what it was.
    assert one.set(LARGE[1:]) == first + 1
    again = one.get()
    assert again.data == LARGE[1:]
    assert one.set(b"small") == first + 2
    assert bytes(other.get()) == b"small"
    one.delete()
    assert found.data == LARGE
    assert again.data == LARGE[1:]
    found.close()
    again.close()
    for size in (INLINE - 1, INLINE, INLINE + 1):
        one.set(LARGE[:size])
        with other.get() as snapshot:
            assert snapshot.data == LARGE[:size]


def test_what_was_read_is_mapped_as_long_as_it_is_held(two: list[Any], road: Road) -> None:
    one, other = two
    copies = memories(road.front)

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:ipcd-sealed")

    before, each = mapped(), road.kind != "gateway"
    one.set(LARGE)
    seen = other.watch(timeout=LONG)
    with contextlib.closing(seen):
        for number in range(1, 6):
            found = other.get()
            assert next(seen).version == found.version
            held = found.data[:1]
            del found
            # That one, and the one that the watch has told of.
            assert mapped() == before + 2 * each
            one.set(LARGE[number:])
            assert bytes(held) == LARGE[number - 1 : number]
            del held
    del seen
    # Nor has a daemon more than the last.
    assert mapped() == before
    assert memories(road.front) <= copies + 1
    one.delete()
    eventually(lambda: memories(road.front) <= copies, "what has ended is given back")


def test_who_waits_sees_the_last_change_at_once(two: list[Any]) -> None:
    one, other = two
    seen = other.watch(timeout=LONG)
    with contextlib.closing(seen):
        first = one.set(b"first")
        assert bytes(next(seen)) == b"first"
        one.set(b"second")
        one.set(LARGE)
        last = next(seen)
        assert last.version == first + 2
        assert last.data == LARGE
        one.delete()
        gone = next(seen)
        assert not gone
        last.close()
    with pytest.raises(TimedOut):
        other.wait(gone, 0)
    with pytest.raises(TimedOut):
        other.wait(gone, 0.05)
    one.set(b"x")
    assert other.wait(None, 0).version == first + 3
    assert other.wait(gone).version == first + 3


def test_it_ends_when_its_time_is_over(two: list[Any]) -> None:
    one, other = two
    one.set(b"a", ttl=1000.0)
    found = other.get()
    assert 0 < found.ttl <= 1000.0
    one.set(b"b", ttl=0.05)
    known = one.get()
    while known:
        known = other.wait(known, LONG)
    assert not one.get()
    # Whoever sets it anew says anew how long.
    one.set(b"b", ttl=1000.0)
    one.set(b"c")
    assert one.get().ttl is None
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(BadRequest):
            one.set(b"x", ttl=wrong)


def test_it_ends_with_the_handle(two: list[Any]) -> None:
    one, other = two
    one.set(b"mine", ephemeral=True)
    assert other.get().held
    one.close()
    assert not other.get()
    one.set(b"mine", ephemeral=True)
    # Whoever sets it says what it is tied to.
    other.set(b"everybody's")
    one.close()
    assert bytes(other.get()) == b"everybody's"


def test_wrong_names(face: str, road: Road) -> None:
    for wrong in ("", "a b", "@a", "a/b", "x" * 129):
        with pytest.raises(BadRequest), handles(face, road, wrong):
            pass
