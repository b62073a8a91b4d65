"""What a handler of grpc.aio sees of its call, and what becomes of what it does."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from conformance.aio.conftest import Run, Side, until
from conformance.aio.echo import SERVICE, WORD
from conformance.outcomes import ENOUGH

PARTS = [b"%d" % number for number in range(200)]


async def ending(call: Any) -> tuple[list[bytes], grpc.StatusCode, str]:
    """The responses of a call, and how it ended."""
    got = []
    try:
        if hasattr(call, "__aiter__"):
            async for response in call:
                got.append(response)  # noqa: PERF401 - they are wanted if it fails, too
        else:
            got.append(await call)
    except grpc.aio.AioRpcError:
        pass
    return got, await call.code(), await call.details()


def sending(parts: list[bytes]) -> Any:
    async def each() -> Any:
        for part in parts:
            yield part

    return each()


def test_four_kinds(run: Run) -> None:
    async def main(side: Side) -> None:
        assert await side.unary("UnaryEcho")(b"hello") == b"hello"
        for method in ("DownCount", "DownWrite", "DownSync"):
            assert [part async for part in side.down(method)(b"200")] == PARTS
        for method in ("UpJoin", "UpRead", "UpMixed", "UpSync"):
            assert await side.up(method)(sending(PARTS)) == b",".join(PARTS)
        for method in ("BothEcho", "BothReadWrite", "BothSync"):
            assert [part async for part in side.both(method)(sending(PARTS))] == PARTS
        assert side.echo.events == [(True, [])], "the end of the requests stays"

    run(main)


def test_the_other_mixtures(run: Run) -> None:
    async def main(side: Side) -> None:
        assert [part async for part in side.down("DownBoth")(b"")] == [b"written", b"yielded"]
        assert await side.up("UpEarly")(sending([b"1", b"2"])) == b"1"
        assert await side.unary("UnaryReadOn")(b"") == b""
        assert side.echo.events == [True]

    run(main)


UNEXPECTED = "Unexpected <class 'RuntimeError'>: boom"
BROKEN = "Unexpected <class 'ZeroDivisionError'>: broken"
Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("method", "request_", "code", "details", "events"),
    [
        ("UnaryRaise", b"", Code.UNKNOWN, UNEXPECTED, []),
        ("UnaryRaiseCode", b"", Code.NOT_FOUND, UNEXPECTED, []),
        ("UnaryUnparsed", b"", Code.UNKNOWN, BROKEN, []),
        ("UnaryUnserialized", b"", Code.UNKNOWN, BROKEN, []),
        ("UnaryMissing", b"", Code.UNIMPLEMENTED, "Method not found!", []),
        ("UnaryCode", b"", Code.NOT_FOUND, "mine", [(Code.NOT_FOUND, "mine")]),
        ("UnaryCodeNumber", b"5", Code.NOT_FOUND, "", []),
        ("UnaryCodeNumber", b"1234", Code.UNKNOWN, "", []),
        ("UnaryAbort", b"", Code.ABORTED, "why", [(True, Code.ABORTED, "why", (("x-why", "test"),))]),
        ("UnaryAbortNumber", b"", Code.NOT_FOUND, "why", []),
        ("UnaryAbortBare", b"", Code.ABORTED, "set before", []),
        ("UnaryAbortStatus", b"", Code.DATA_LOSS, "a status", []),
        ("UnaryAbortTwice", b"", Code.ABORTED, "first", ["Locally aborted.", "Abort already called!"]),
        ("UnaryAbortSwallowed", b"", Code.ABORTED, "swallowed", []),
        ("UnaryAbortForeign", b"", Code.ABORTED, "replaced", []),
        ("UnaryTrailing", b"No good", Code.INTERNAL, "Invalid metadata", []),
        ("UnarySyncCode", b"", Code.NOT_FOUND, "mine", []),
        ("UnarySyncAbort", b"", Code.ABORTED, "why", ["Locally aborted."]),
        ("UnarySyncRaise", b"", Code.UNKNOWN, UNEXPECTED, []),
    ],
)
def test_endings_of_unary_calls(
    run: Run, method: str, request_: bytes, code: grpc.StatusCode, details: str, events: list[Any]
) -> None:
    async def main(side: Side) -> None:
        assert await ending(side.unary(method)(request_)) == ([], code, details)
        await until(lambda: len(side.echo.events) == len(events))
        assert side.echo.events == events
        assert await side.unary("UnaryEcho")(b"next") == b"next"

    run(main)


@pytest.mark.parametrize(
    ("method", "got", "code", "details", "events"),
    [
        ("DownRaise", [b"first"], Code.UNKNOWN, UNEXPECTED, []),
        ("DownAbort", [b"first"], Code.ABORTED, "why", []),
        ("DownCode", [b"first"], Code.OUT_OF_RANGE, "mine", []),
        ("DownWriteAbort", [], Code.ABORTED, "why", ["Locally aborted."]),
        ("DownInitialLate", [b"first"], Code.OK, "", ["Send initial metadata failed: already sent"]),
        ("DownSyncRaise", [b"first"], Code.UNKNOWN, UNEXPECTED, []),
    ],
)
def test_endings_of_streams(
    run: Run, method: str, got: list[bytes], code: grpc.StatusCode, details: str, events: list[Any]
) -> None:
    async def main(side: Side) -> None:
        assert await ending(side.down(method)(b"")) == (got, code, details)
        assert side.echo.events == events

    run(main)


def test_metadata(run: Run) -> None:
    async def main(side: Side) -> None:
        call = side.unary("UnaryInitialTwice")(b"x", metadata=(("x-one", "1"), ("x-one", "2"), ("x-b-bin", b"\x00")))
        assert await call == b"x"
        initial = await call.initial_metadata()
        assert (initial["x-initial"], initial["x-initial-bin"]) == ("one", b"\x00\xff")
        trailing = await call.trailing_metadata()
        assert (trailing.get_all("x-one"), trailing["x-b-bin"]) == (["1", "2"], b"\x00")
        assert side.echo.events == ["Send initial metadata failed: already sent"]
        call = side.unary("UnarySync")(b"x", metadata=(("x-one", "1"),))
        assert await call == b"x"
        assert (await call.initial_metadata())["x-initial"] == "sync"
        assert (await call.trailing_metadata())["x-one"] == "1"
        for method, why in (("UnaryAbort", "test"), ("UnarySyncAbort", "sync")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await side.unary(method)(b"")
            assert caught.value.trailing_metadata()["x-why"] == why

    run(main)


def test_what_trailing_metadata_may_be(run: Run) -> None:
    async def main(side: Side) -> None:
        await side.unary("UnaryTrailingKinds")(b"")
        *wrong, plain, listed, typed = side.echo.events
        assert wrong == ["TypeError"] * 2
        assert tuple(plain) == tuple(listed) == tuple(typed) == (("a", "b"),)

    run(main)


def test_what_a_handler_knows(run: Run) -> None:
    async def main(side: Side) -> None:
        await side.unary("UnaryAbout")(b"", metadata=(("x-key", "value"),))
        await side.unary("UnaryAbout")(b"", timeout=20)
        plain, limited = side.echo.events
        assert plain["left"] is None
        assert 0 < limited["left"] < 21, "grpcio rounds up"
        assert (plain["code"], plain["details"], plain["trailing"]) == (None, "", ())
        assert (plain["done"], plain["cancelled"]) == (False, False)
        assert plain["metadata"] == [("x-key", "value")]
        assert isinstance(plain["peer"], str)
        assert "transport_security_type" in plain["auth"]
        if side.name != "grpc.aio":
            # grpcio's own is none of its own class.
            assert plain["isinstance"] is True
            (identity,) = plain["identities"]
            assert (identity.startswith(b"spiffe://default/node/direct/uid/"), plain["key"]) == (True, "ipcd_identity")

    run(main)


def test_each_call_has_variables_of_its_own(run: Run) -> None:
    async def main(side: Side) -> None:
        for _ in range(2):
            assert await side.unary("UnaryWord")(b"") == b"at the start"

    WORD.set("at the start")
    run(main)


@pytest.mark.parametrize("how", ["cancel", "deadline", "close"])
@pytest.mark.parametrize("method", ["UnaryWait", "DownSlow", "UpWait"])
def test_a_handler_nobody_waits_for_is_cancelled(run: Run, method: str, how: str) -> None:
    async def main(side: Side) -> None:
        echo = side.echo
        timeout = ENOUGH if how == "deadline" else None
        channel = side.connect() if how == "close" else side.channel
        path = f"/{SERVICE}/{method}"
        waiting: asyncio.Task[Any] | None = None
        if method == "DownSlow":
            call = channel.unary_stream(path)(b"", timeout=timeout)
            assert await call.read() == b"first"
        elif method == "UpWait":
            call = channel.stream_unary(path)(timeout=timeout)
            await call.write(b"one")
            await echo.entered.wait()
        else:
            call = channel.unary_unary(path)(b"", timeout=timeout)
            # The channel's own tasks have it on its way.
            waiting = asyncio.ensure_future(ending(call))
            await echo.entered.wait()
            if how != "deadline":
                waiting.cancel()
        if how == "cancel":
            call.cancel()
        elif how == "close":
            await channel.close()
        await echo.ended.wait()
        assert echo.events[-1] == "done"
        if (method, side.name) != ("UpWait", "grpc.aio"):
            # There, the requests of a call that is over just end, now and then.
            assert echo.events[-2] == "cancelled"
        if how == "deadline":
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if waiting is not None:
                await waiting
        assert await side.unary("UnaryEcho")(b"next") == b"next"

    run(main)


def test_who_goes_on_although_cancelled_harms_nobody(run: Run) -> None:
    async def main(side: Side) -> None:
        call = side.unary("UnaryStubborn")(b"")
        waiting = asyncio.ensure_future(ending(call))
        await side.echo.entered.wait()
        call.cancel()
        waiting.cancel()
        await until(lambda: "cancelled" in side.echo.events)
        assert await side.unary("UnaryEcho")(b"meanwhile") == b"meanwhile"
        side.echo.release.set()
        await side.echo.ended.wait()
        assert await side.unary("UnaryEcho")(b"after") == b"after"

    run(main)


def test_a_slow_reader_bounds_the_handler(run: Run) -> None:
    async def main(side: Side) -> None:
        echo = side.echo
        call = side.down("DownForever")(b"10000")
        assert len(await call.read()) == 10000
        sent = -1
        while sent != len(echo.events):
            sent = len(echo.events)
            await asyncio.sleep(0.2)
        # grpcio's flow control, ours, and what sockets hold.
        assert sent < 2000
        call.cancel()
        await echo.ended.wait()
        assert echo.events[-1] == "done"

    run(main)


def test_handlers_for_threads_are_given_the_pool(run: Run) -> None:
    async def main(side: Side) -> None:
        await side.unary("UnarySync")(b"")
        assert side.echo.events == [(False, None, str)]
        assert pool.submit(threading.current_thread).result().name == "migration_0"

    with ThreadPoolExecutor(1, thread_name_prefix="migration") as pool:
        run(main, migration_thread_pool=pool)


def test_a_handler_in_a_thread_holds_up_nobody(run: Run) -> None:
    async def main(side: Side) -> None:
        blocked = asyncio.ensure_future(later(side))
        assert await side.unary("UnaryEcho")(b"now") == b"now"
        side.echo.released.set()
        assert await blocked == b"later"

    async def later(side: Side) -> bytes:
        answer: bytes = await side.unary("UnarySyncWait")(b"later")
        return answer

    run(main)


def test_a_handler_in_a_thread_learns_that_its_call_is_over(run: Run) -> None:
    async def main(side: Side) -> None:
        call = side.both("BothSync")()
        await call.write(b"one")
        assert await call.read() == b"one"
        assert not side.echo.released.is_set()
        call.cancel()
        assert await asyncio.to_thread(side.echo.released.wait, 20)

    run(main)
