"""How long the close of a pipe's writer waits for readers that do not answer, and how many readers it calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ipcd_client.pb.ipcd.v1 import pipe_pb2
from ipcd_client.primitives.errors import Broken
from ipcd_client.primitives.pipe_reader import WRITERS
from ipcd_client.primitives.pipe_writer import LINGER, LINGER_ALL, Writer


class Clock(asyncio.SelectorEventLoop):
    """Whose time is the test's."""

    now = 1000.0

    def time(self) -> float:
        return self.now


def run(main: Callable[[Clock, Writer], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=Clock) as runner:
        loop: Any = runner.get_loop()
        place: Any = SimpleNamespace(name="p", close=mock.AsyncMock())

        async def made() -> None:
            await main(loop, Writer(place, lambda _: None, lambda: None))

        runner.run(made())


def test_readers_that_give_back_again_and_again_do_not_make_it_endless() -> None:
    async def main(loop: Clock, writer: Writer) -> None:
        limits: list[float] = []
        engine: Any = writer

        async def given(_linger: float) -> bool:
            engine._queue.clear()
            return True

        async def finish(_give: object, limit: float) -> None:
            limits.append(limit - loop.now)
            # One did not answer for most of the time, and another one has closed.
            loop.now += min(25.0, limits[-1])
            engine._queue.append(b"back")

        engine._all_given, engine._finish = given, finish
        engine._gives = {b"k": SimpleNamespace(kept=[], closed=True, task=None)}
        with pytest.raises(Broken, match="no reader of the pipe p takes anything"):
            await writer.close()
        assert limits == [LINGER, LINGER, LINGER_ALL - 50.0]

    run(main)


def test_news_do_not_make_it_wait_longer_for_those_that_take_nothing() -> None:
    async def main(loop: Clock, writer: Writer) -> None:
        engine: Any = writer
        engine._gives = {b"k": SimpleNamespace(busy=True)}
        writer.feed(b"first")
        writer.feed(b"last")
        waiting = asyncio.ensure_future(engine._all_given(LINGER))

        async def news() -> None:
            loop.now += 20.0
            engine._stir()
            for _ in range(10):
                await asyncio.sleep(0)

        await news()
        # One is given: that is another matter.
        writer.size -= len(engine._queue.popleft())
        await news()
        assert not waiting.done()
        await news()
        assert not waiting.done()
        await news()
        assert await waiting is False

    run(main)


def test_no_more_readers_are_called_than_a_pipe_has(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hand(_writer: Writer, _give: object) -> None:
        await asyncio.Event().wait()

    async def closed() -> None:
        pass

    async def main() -> None:
        place: Any = SimpleNamespace(name="x", path="", close=closed)
        writer = Writer(place, lambda _: None, lambda: None)
        readers = [pipe_pb2.PipeAddress(node="b", server="s", key=b"%d" % key) for key in range(WRITERS + 50)]
        news = pipe_pb2.PipeNews(others=len(readers), readers=readers)
        hold: Any = SimpleNamespace(attached=True, news=news, deserted=False, removed=False, error=None, close=closed)
        writer._hold = hold
        writer._look()
        assert len(writer._gives) == WRITERS
        await writer.abandon()

    monkeypatch.setattr(Writer, "_hand", hand)
    asyncio.run(main())
