"""What servers of ours do where grpcio's have nothing, or leave the caller waiting: docs/grpc-compatibility.md."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from conformance.aio.conftest import Run, Side, until
from conformance.aio.test_servicer import Code, ending
from ipcd_client.testing.direct import WIRES

pytestmark = pytest.mark.parametrize("make", list(WIRES), indirect=True)


@pytest.mark.parametrize(
    ("method", "code", "details"),
    [
        ("UnaryUnprintable", Code.UNKNOWN, "Unexpected <class 'conformance.aio.echo.Unprintable'>"),
        ("UnaryCancelled", Code.CANCELLED, "the handler was cancelled"),
        ("UnaryAbortOk", Code.UNKNOWN, "well"),
    ],
)
def test_every_call_ends(run: Run, method: str, code: grpc.StatusCode, details: str) -> None:
    async def main(side: Side) -> None:
        assert await ending(side.unary(method)(b"")) == ([], code, details)

    run(main)


@pytest.mark.parametrize("method", ["UnaryEcho", "UnarySync", "DownCount"])
def test_a_missing_request(run: Run, method: str) -> None:
    async def nothing() -> Any:
        for never in ():
            yield never

    async def main(side: Side) -> None:
        _, code, details = await ending(side.both(method)(nothing()))
        assert code is Code.UNIMPLEMENTED
        assert "requires exactly one request" in details

    run(main)


def test_a_context_for_threads_is_whole(run: Run) -> None:
    async def main(side: Side) -> None:
        assert await side.unary("UnarySyncAbout")(b"x") == b"x"
        await until(lambda: len(side.echo.events) == 4)
        assert side.echo.events == [
            (True, True),
            (Code.NOT_FOUND, "mine", (("x-key", "1"),)),
            True,
            "called back",
        ]

    run(main)


def test_a_handler_in_a_thread_cancels_its_call(run: Run) -> None:
    async def main(side: Side) -> None:
        assert await ending(side.unary("UnarySyncCancel")(b"x")) == ([], Code.CANCELLED, "CANCELLED")
        await until(lambda: len(side.echo.events) == 2)
        assert side.echo.events == [(True, False, False), False]

    run(main)


def test_requests_of_a_call_that_is_over_are_an_error(run: Run) -> None:
    async def main(side: Side) -> None:
        call = side.both("BothSyncBroken")()
        await call.write(b"one")
        assert await call.read() == b"one"
        call.cancel()
        assert await asyncio.to_thread(side.echo.released.wait, 20)
        (why,) = side.echo.events
        assert "the caller cancelled the call" in why

    run(main)


def test_the_context_says_that_nobody_waits(run: Run) -> None:
    async def main(side: Side) -> None:
        call = side.unary("UnaryWaitAndTell")(b"")
        waiting = asyncio.ensure_future(ending(call))
        await side.echo.entered.wait()
        call.cancel()
        waiting.cancel()
        await side.echo.ended.wait()
        assert side.echo.events == [(True, True, "the caller cancelled the call")]

    run(main)
