"""grpc.aio.Server from its start to its end."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from conformance.aio.conftest import Run, Side, until
from conformance.aio.echo import SERVICE, WORD, Echo
from conformance.aio.test_servicer import PARTS, Code, ending, sending
from conformance.outcomes import ENOUGH

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]
else:
    # The first loop makes a pipe that stays: before any test, it is no test's leak.
    uvloop.new_event_loop().close()


# -- start and stop -------------------------------------------------------------------------------


def test_it_starts_once(run: Run) -> None:
    async def main(side: Side) -> None:
        await side.server.start()
        assert await side.unary("UnaryEcho")(b"x") == b"x"
        await side.server.stop(None)
        with pytest.raises(grpc.aio.UsageError, match="not in ready state"):
            await side.server.start()
        await side.server.stop(None)
        await side.server.stop(1)

    run(main)


def test_waiting_for_the_end(run: Run) -> None:
    async def main(side: Side) -> None:
        assert await side.server.wait_for_termination(0.05) is True
        waiting = asyncio.ensure_future(side.server.wait_for_termination())
        timed = asyncio.ensure_future(side.server.wait_for_termination(20))
        await side.server.stop(None)
        assert (await waiting, await timed) == (False, False)
        assert await side.server.wait_for_termination() is False

    run(main)


def test_one_that_has_not_started_cannot_be_stopped(make: Callable[..., Any]) -> None:
    async def main() -> None:
        server, _ = make()
        await server.stop(None)
        assert await server.wait_for_termination(0.05) is True
        await server.start()
        await server.stop(None)

    asyncio.run(main(), debug=True)


@pytest.mark.parametrize("grace", [None, 0, 0.05])
def test_a_stop_cancels_what_runs(run: Run, grace: float | None) -> None:
    async def main(side: Side) -> None:
        running = asyncio.ensure_future(ending(side.unary("UnaryCleanUp")(b"")))
        await side.echo.entered.wait()
        await side.server.stop(grace)
        _, code, _ = await running
        assert code is Code.UNAVAILABLE
        await side.echo.ended.wait()
        assert side.echo.events == ["cleaned up"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await side.unary("UnaryEcho")(b"")
        assert caught.value.code() is Code.UNAVAILABLE

    run(main)


def test_a_stop_with_grace_lets_calls_end(run: Run) -> None:
    async def main(side: Side) -> None:
        running = asyncio.ensure_future(ending(side.unary("UnaryWait")(b"x")))
        await side.echo.entered.wait()
        stopping = asyncio.ensure_future(side.server.stop(20))
        assert await side.server.wait_for_termination(0.05) is True
        side.echo.release.set()
        await stopping
        assert await running == ([b"x"], Code.OK, "")

    run(main)


def test_the_smallest_grace_decides(run: Run) -> None:
    async def main(side: Side) -> None:
        running = asyncio.ensure_future(ending(side.unary("UnaryWait")(b"")))
        await side.echo.entered.wait()
        long = asyncio.ensure_future(side.server.stop(25))
        assert await side.server.wait_for_termination(0.05) is True
        await side.server.stop(0.05)
        await long
        assert (await running)[1] is Code.UNAVAILABLE
        assert side.echo.events == ["cancelled", "done"]

    run(main)


def test_who_gives_up_stopping_leaves_it_to_the_next(run: Run) -> None:
    async def main(side: Side) -> None:
        running = asyncio.ensure_future(ending(side.unary("UnaryWait")(b"x")))
        await side.echo.entered.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(side.server.stop(25), 0.05)
        assert not running.done()
        side.echo.release.set()
        assert (await running)[0] == [b"x"]
        assert await side.server.wait_for_termination() is False

    run(main)


def test_a_stop_does_not_wait_for_who_refuses_to_end(run: Run) -> None:
    async def main(side: Side) -> None:
        running = asyncio.ensure_future(ending(side.unary("UnaryStubborn")(b"")))
        await side.echo.entered.wait()
        await side.server.stop(None)
        assert (await running)[1] is Code.UNAVAILABLE
        assert side.echo.events == ["cancelled"]
        assert not side.echo.ended.is_set()
        side.echo.release.set()
        await side.echo.ended.wait()

    run(main)


def test_a_dropped_server_ends(make: Callable[..., Any]) -> None:
    async def main() -> None:
        echo = Echo()
        server, connect = make(handlers=(echo,))
        await server.start()
        async with connect() as channel:
            running = asyncio.ensure_future(ending(channel.unary_unary(f"/{SERVICE}/UnaryWait")(b"")))
            await echo.entered.wait()
            del server
            gc.collect()
            assert (await running)[1] is Code.UNAVAILABLE
            assert echo.events == ["cancelled", "done"]

    asyncio.run(main(), debug=True)


# -- handlers -------------------------------------------------------------------------------------


class Other(grpc.GenericRpcHandler):
    """One more service."""

    def service_name(self) -> str:
        return "conformance.v1.Other"

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method == "/conformance.v1.Other/Unary":
            return grpc.unary_unary_rpc_method_handler(self.unary)
        if details.method == "/conformance.v1.Other/Broken":
            raise RuntimeError("boom")
        return None

    async def unary(self, request: bytes, context: Any) -> bytes:
        return b"other"


def test_handlers_added_late(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main(side: Side) -> None:
        side.server.add_generic_rpc_handlers((Other(),))
        call = side.channel.unary_unary("/conformance.v1.Other/Unary")
        assert await call(b"") == b"other"
        handlers = {"New": grpc.unary_unary_rpc_method_handler(Other().unary)}
        side.server.add_registered_method_handlers(SERVICE, handlers)
        assert (await ending(side.unary("New")(b"")))[1] is Code.UNIMPLEMENTED
        broken = side.channel.unary_unary("/conformance.v1.Other/Broken")
        assert await ending(broken(b"")) == ([], Code.UNKNOWN, "Unexpected <class 'RuntimeError'>: boom")

    run(main)


def test_registered_handlers_go_first(make: Callable[..., Any]) -> None:
    async def main() -> None:
        server, connect = make(handlers=(Echo(),))
        handlers = {"UnaryEcho": grpc.unary_unary_rpc_method_handler(Other().unary)}
        server.add_registered_method_handlers(SERVICE, handlers)
        await server.start()
        async with connect() as channel:
            for registered in (True, False):
                call = channel.unary_unary(f"/{SERVICE}/UnaryEcho", _registered_method=registered)
                assert await call(b"x") == b"other"
        await server.stop(None)

    asyncio.run(main(), debug=True)


def test_what_is_no_interceptor(make: Callable[..., Any]) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="must be ServerInterceptor"):
            make(interceptors=[Other()])

    asyncio.run(main(), debug=True)


# Of ours alone: grpcio says the same, and keeps its runtime for ever.
@pytest.mark.parametrize("make", ["memory"], indirect=True)
def test_a_limit_that_lets_nothing_through(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="maximum_concurrent_rpcs should be a positive integer"):
        make(maximum_concurrent_rpcs=0)


async def answered(call: Any, request: bytes) -> bool:
    """Once the server has noticed that it may."""
    while (await ending(call(request)))[0] != [request]:
        pass
    return True


def test_no_more_calls_than_allowed(run: Run) -> None:
    async def main(side: Side) -> None:
        running = asyncio.ensure_future(ending(side.unary("UnaryWait")(b"x")))
        await side.echo.entered.wait()
        exceeded = ([], Code.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")
        assert await ending(side.unary("UnaryEcho")(b"")) == exceeded
        assert await ending(side.down("DownCount")(b"3")) == exceeded
        assert (await ending(side.unary("Missing")(b"")))[1] is Code.UNIMPLEMENTED
        side.echo.release.set()
        assert (await running)[0] == [b"x"]
        assert await answered(side.unary("UnaryEcho"), b"again")

    run(main, maximum_concurrent_rpcs=1)


@pytest.mark.parametrize(
    ("method", "request_", "got"),
    [("UnaryEcho", bytes(2000), []), ("DownForever", b"2000", [])],
    ids=["received", "sent"],
)
def test_limits_of_messages(run: Run, method: str, request_: bytes, got: list[bytes]) -> None:
    async def main(side: Side) -> None:
        call = (side.unary if method.startswith("Unary") else side.down)(method)
        result, code, details = await ending(call(request_))
        assert (result, code) == (got, Code.RESOURCE_EXHAUSTED)
        assert "essage larger than max (2000 vs. 1000)" in details
        assert await side.unary("UnaryEcho")(bytes(1000)) == bytes(1000)

    options = [("grpc.max_receive_message_length", 1000), ("grpc.max_send_message_length", 1000)]
    run(main, options=options)


# -- interceptors ---------------------------------------------------------------------------------

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


class Interceptor(grpc.aio.ServerInterceptor):
    """Notes what it sees; for some methods does more."""

    def __init__(self, name: str, events: list[Any]) -> None:
        self.name = name
        self.events = events

    async def intercept_service(self, continuation: Continuation, handler_call_details: Any) -> Any:
        method = handler_call_details.method.rpartition("/")[2]
        metadata = [pair for pair in handler_call_details.invocation_metadata if pair[0].startswith("x-")]
        self.events.append((self.name, method, metadata))
        WORD.set(f"{WORD.get()} {self.name}")
        if method == "Refused":
            return None
        if method == "Raises":
            raise RuntimeError("boom")
        handler = await continuation(handler_call_details)
        self.events.append((self.name, handler is None))
        if method == "UnaryRaise":
            return grpc.unary_unary_rpc_method_handler(Other().unary)
        return handler


def test_interceptors(run: Run) -> None:
    events: list[Any] = []

    async def main(side: Side) -> None:
        WORD.set("changed later")
        assert await side.unary("UnaryEcho")(b"x", metadata=(("x-key", "1"),)) == b"x"
        seen = [("x-key", "1")]
        assert events == [
            ("first", "UnaryEcho", seen),
            ("second", "UnaryEcho", seen),
            ("second", False),
            ("first", False),
        ]
        for _ in range(2):
            assert await side.unary("UnaryWord")(b"") == b"begun first second"
        assert await side.unary("UnaryRaise")(b"") == b"other"
        events.clear()
        for method in ("Refused", "Missing"):
            assert await ending(side.unary(method)(b"")) == ([], Code.UNIMPLEMENTED, "Method not found!")
        assert events[0] == ("first", "Refused", [])
        assert events[1:] == [("first", "Missing", []), ("second", "Missing", []), ("second", True), ("first", True)]
        boom = "Unexpected <class 'RuntimeError'>: boom"
        assert await ending(side.unary("Raises")(b"")) == ([], Code.UNKNOWN, boom)
        assert [part async for part in side.both("BothEcho")(sending(PARTS))] == PARTS

    WORD.set("begun")
    run(main, interceptors=[Interceptor("first", events), Interceptor("second", events)])


# -- loops, threads and clients -------------------------------------------------------------------


def test_a_client_on_threads(run: Run) -> None:
    def client(channel: grpc.Channel) -> None:
        def path(method: str) -> str:
            return f"/{SERVICE}/{method}"

        for _ in range(100):
            assert channel.unary_unary(path("UnaryEcho"))(b"x", timeout=20) == b"x"
        for method in ("DownCount", "DownWrite", "DownSync"):
            assert list(channel.unary_stream(path(method))(b"200", timeout=20)) == PARTS
        for method in ("UpJoin", "UpSync"):
            assert channel.stream_unary(path(method))(iter(PARTS), timeout=20) == b",".join(PARTS)
        for method in ("BothEcho", "BothReadWrite", "BothSync"):
            assert list(channel.stream_stream(path(method))(iter(PARTS), timeout=20)) == PARTS
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(path("UnaryAbort"))(b"", timeout=20)
        assert (caught.value.code(), caught.value.details()) == (Code.ABORTED, "why")
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(path("UnaryWait"))(b"", timeout=ENOUGH)
        assert caught.value.code() is Code.DEADLINE_EXCEEDED
        running = channel.unary_stream(path("DownForever"))(b"10", timeout=20)
        next(running)
        running.cancel()

    async def main(side: Side) -> None:
        with side.connect(sync=True) as channel:
            await asyncio.to_thread(client, channel)
        await until(lambda: side.echo.events.count("done") == 2)

    run(main)


def test_many_calls_at_a_time(run: Run) -> None:
    async def main(side: Side) -> None:
        call = side.unary("UnaryWait")
        running = [asyncio.ensure_future(ending(call(b"%d" % number))) for number in range(1000)]
        await side.echo.entered.wait()
        side.echo.release.set()
        for number, each in enumerate(running):
            assert await each == ([b"%d" % number], Code.OK, "")

    run(main)


def test_one_loop_after_another(run: Run) -> None:
    async def main(side: Side) -> None:
        assert [part async for part in side.both("BothEcho")(sending(PARTS))] == PARTS

    for _ in range(2):
        run(main)


def test_loops_in_several_threads(run: Run, make: Callable[..., Any]) -> None:
    failures: list[BaseException] = []

    async def main(side: Side) -> None:
        for _ in range(5):
            assert await side.unary("UnaryEcho")(b"x") == b"x"
            assert [part async for part in side.both("BothEcho")(sending(PARTS))] == PARTS

    def work() -> None:
        try:
            run(main)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def eager() -> asyncio.AbstractEventLoop:
    """A loop whose tasks begin when they are made."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
    return loop


@pytest.mark.parametrize(
    "factory",
    [
        pytest.param(
            getattr(uvloop, "new_event_loop", None),
            id="uvloop",
            marks=pytest.mark.skipif(uvloop is None, reason="uvloop is not installed"),
        ),
        pytest.param(
            eager,
            id="eager tasks",
            marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has had eager tasks since 3.12"),
        ),
    ],
)
def test_on_other_loops(run: Run, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main(side: Side) -> None:
        assert await side.unary("UnaryEcho")(b"x") == b"x"
        assert await side.unary("UnarySync")(b"x") == b"x"
        assert [part async for part in side.down("DownCount")(b"200")] == PARTS
        assert await side.up("UpJoin")(sending(PARTS)) == b",".join(PARTS)
        assert [part async for part in side.both("BothSync")(sending(PARTS))] == PARTS
        running = asyncio.ensure_future(ending(side.unary("UnaryWait")(b"")))
        await side.echo.entered.wait()
        await side.server.stop(0.05)
        assert (await running)[1] is Code.UNAVAILABLE

    run(main, factory)
