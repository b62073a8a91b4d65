"""What another node's value is here, where it changes between two requests of its home."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from ipcd_client.pb.ipcd.v1 import value_pb2
from ipcd_client.primitives.values import INLINE
from ipcd_client.rpc.failure import CallFailed

from ipcd.primitives.contents import Content
from ipcd.primitives.value_cache import CacheServicer

Replies = list[value_pb2.ValueReply]


def info(version: int, data: bytes) -> value_pb2.ValueInfo:
    return value_pb2.ValueInfo(version=version, epoch="e", node="b", size=len(data))


def got(version: int, data: bytes) -> value_pb2.ValueReply:
    """What Get says, and Read first."""
    if len(data) > INLINE:
        return value_pb2.ValueReply(info=info(version, data), more=True)
    return value_pb2.ValueReply(info=info(version, data), data=data)


class Home:
    """(nodes.Nodes) Node b, which says what is in the list, one thing at each request."""

    def __init__(self, versions: Iterable[tuple[int, bytes]]) -> None:
        self.versions = iter(versions)
        self.requests: list[str] = []

    async def call(self, _node: str, method: str, *_: object) -> value_pb2.ValueReply:
        self.requests.append(method.rpartition("/")[2])
        return got(*next(self.versions))

    async def stream(self, _node: str, method: str, *_: object) -> AsyncIterator[value_pb2.ValueReply]:
        self.requests.append(method.rpartition("/")[2])
        version, data = next(self.versions)
        yield got(version, data)
        if len(data) > INLINE:
            yield value_pb2.ValueReply(data=data)

    async def close(self) -> None:
        pass


Ask = Callable[[], Awaitable[tuple[int, bytes]]]


def asked(home: Home, run: Callable[[Ask], Awaitable[None]]) -> None:
    async def main() -> None:
        keeper: Any = SimpleNamespace(nodes=lambda: home, log=SimpleNamespace(debug=lambda *_, **__: None))
        cache = CacheServicer(keeper, cast("Any", None), cast("Any", None))
        cache.start()

        async def ask() -> tuple[int, bytes]:
            handed: list[bytes] = []

            def hand(_reply: value_pb2.ValueReply, content: Content | None) -> None:
                assert content is not None
                handed.append(b"".join(content.pieces()))

            reply = await cache._there(("b", "v"), value_pb2.ValueGetRequest(name="v"), "somebody", hand)
            (data,) = handed if reply.more else [reply.data]
            assert reply.info.size == len(data)
            return reply.info.version, data

        await run(ask)
        assert cache._bytes == sum(copy.content.size for copy in cache._copies.values() if copy.content is not None)
        await cache.close()

    asyncio.run(main())


LARGE = [bytes([number]) * (INLINE + number + 1) for number in range(4)]


@pytest.mark.parametrize("small", [b"", b"small"])
def test_one_that_shrinks_before_it_is_fetched_is_asked_for_again(small: bytes) -> None:
    """And is not what was copied before."""
    home = Home([(1, LARGE[1]), (1, LARGE[1]), (2, LARGE[2]), (3, small), (3, small), (4, LARGE[3]), (4, LARGE[3])])

    async def run(ask: Ask) -> None:
        assert await ask() == (1, LARGE[1])
        assert await ask() == (3, small)
        assert await ask() == (4, LARGE[3])

    asked(home, run)
    assert home.requests == ["Get", "Read", "Get", "Read", "Get", "Get", "Read"]


def test_one_that_is_another_when_it_is_fetched_is_told_as_that() -> None:
    home = Home([(1, LARGE[1]), (2, LARGE[2]), (2, LARGE[2])])

    async def run(ask: Ask) -> None:
        assert await ask() == (2, LARGE[2])
        assert await ask() == (2, LARGE[2])

    asked(home, run)
    assert home.requests == ["Get", "Read", "Get"]


def test_one_that_changes_at_each_request_is_given_up() -> None:
    home = Home((number, b"" if number % 2 else LARGE[1]) for number in range(2, 100))

    async def run(ask: Ask) -> None:
        with pytest.raises(CallFailed, match="changes faster than it can be fetched") as caught:
            await ask()
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE

    asked(home, run)
