"""How a call ends before its answer, and who is told of any end: cancelling, dropping, callbacks."""

from __future__ import annotations

import gc
import threading
from typing import Any

import grpc
import pytest
from conformance.conftest import Side
from conformance.outcomes import ENOUGH, LONG, Held, raises
from conformance.ways import Way, every_running_way
from grpc import StatusCode

# -- cancelling ---------------------------------------------------------------------------------------


@every_running_way
def test_cancel(side: Side, way: Way) -> None:
    held = Held()
    way.served(side, held)
    call = way.begin(way.multicallable(side.channel))
    assert held.entered.wait(LONG)
    assert call.cancel()
    assert (call.cancelled(), call.done(), call.running(), call.is_active()) == (True, True, False, False)
    assert (call.code(), call.details()) == (StatusCode.CANCELLED, "Locally cancelled by application!")
    assert (call.initial_metadata(), call.trailing_metadata()) == ((), ())
    for method in ("result", "exception", "traceback"):
        with pytest.raises(grpc.FutureCancelledError):
            getattr(call, method)()
    if way.gets_stream:
        with pytest.raises(grpc.RpcError) as raised:
            next(call)
        assert raised.value is call
    assert held.ended.wait(LONG), "the servicer was not told"


def test_cancel_wakes_who_waits(side: Side) -> None:
    future = side.unary("UnaryWait").future(b"", timeout=LONG)
    stream = side.down("DownForever")(b"1", timeout=LONG)
    assert side.echo.entered.acquire(timeout=LONG)
    got: list[object] = []

    def wait() -> None:
        try:
            future.result()
        except grpc.FutureCancelledError as error:
            got.append(type(error))

    def iterate() -> None:
        try:
            for _ in stream:
                pass
        except grpc.RpcError as error:
            got.append(error)

    threads = [threading.Thread(target=wait), threading.Thread(target=iterate)]
    for thread in threads:
        thread.start()
    assert future.cancel()
    assert stream.cancel()
    for thread in threads:
        thread.join(LONG)
    assert set(got) == {grpc.FutureCancelledError, stream}


def test_late_cancel_changes_nothing(side: Side) -> None:
    future: Any = side.unary("UnaryAbort").future(b"why", timeout=LONG)
    assert future.code() is StatusCode.FAILED_PRECONDITION
    assert not future.cancel()
    assert not future.cancelled()
    with pytest.raises(grpc.RpcError):
        future.result()


@pytest.mark.parametrize("kept", [False, True], ids=["alone", "with a callback"])
@every_running_way
def test_a_dropped_call_is_cancelled(side: Side, way: Way, kept: bool) -> None:
    called = threading.Event()
    held = Held()
    way.served(side, held)
    call = way.begin(way.multicallable(side.channel))
    if kept:
        assert call.add_callback(called.set)
    assert held.entered.wait(LONG)
    del call
    assert held.ended.wait(LONG)
    assert not kept or called.wait(LONG)


def test_a_done_callback_keeps_the_call(side: Side) -> None:
    seen: list[Any] = []
    called = threading.Event()

    def done(future: Any) -> None:
        seen.append(future.result())
        called.set()

    side.unary("UnaryWait").future(b"x", timeout=LONG).add_done_callback(done)
    assert side.echo.entered.acquire(timeout=LONG)
    gc.collect()
    side.echo.release.set()
    assert called.wait(LONG)
    assert seen == [b"x"]


def test_a_call_outlives_its_channels_last_reference(side: Side) -> None:
    stream = side.down("DownForever")(b"1", timeout=LONG)
    future = side.unary("UnaryWait").future(b"x", timeout=LONG)
    assert side.echo.entered.acquire(timeout=LONG)
    side.channel = grpc.insecure_channel("127.0.0.1:1")  # another one, for the fixture to close
    gc.collect()
    side.echo.release.set()
    assert next(stream) == b"\0"
    assert future.result() == b"x"
    assert stream.cancel()


# -- callbacks ----------------------------------------------------------------------------------------


def test_a_late_done_callback_runs_at_once_and_raises_to_its_caller(side: Side) -> None:
    future = side.unary("UnaryEcho").future(b"", timeout=LONG)
    future.result()
    with pytest.raises(RuntimeError, match="late"):
        future.add_done_callback(raises("late"))


def test_a_callback_that_raises_stops_no_other(side: Side) -> None:
    called = threading.Event()
    future = side.unary("UnaryWait").future(b"", timeout=LONG)
    future.add_done_callback(raises("early"))
    future.add_done_callback(lambda _: called.set())
    side.echo.release.set()
    assert called.wait(LONG)
    assert side.unary("UnaryEcho")(b"x", timeout=LONG) == b"x"


@pytest.mark.parametrize("ending", ["answer", "cancel", "deadline", "close"])
def test_callbacks_run_however_the_call_ends(side: Side, ending: str) -> None:
    called = threading.Semaphore(0)
    future: Any = side.unary("UnaryWait").future(b"", timeout=ENOUGH if ending == "deadline" else LONG)
    assert side.echo.entered.acquire(timeout=LONG)
    assert future.add_callback(called.release)
    future.add_done_callback(lambda _: called.release())
    if ending == "answer":
        side.echo.release.set()
    elif ending == "cancel":
        future.cancel()
    elif ending == "close":
        side.channel.close()
    for _ in range(2):
        assert called.acquire(timeout=LONG)
    codes = {
        "answer": StatusCode.OK,
        "cancel": StatusCode.CANCELLED,
        "close": StatusCode.CANCELLED,
        "deadline": StatusCode.DEADLINE_EXCEEDED,
    }
    assert future.code() is codes[ending]


def test_a_callback_may_call(side: Side) -> None:
    got: list[bytes] = []
    called = threading.Event()

    def again(_: object) -> None:
        got.append(side.unary("UnaryEcho")(b"unary", timeout=LONG))
        # grpcio's future would wait for the very thread that this runs on.
        side.unary("UnaryEcho").future(b"future", timeout=LONG).add_done_callback(last)

    def last(future: Any) -> None:
        got.append(future.result())
        called.set()

    future = side.unary("UnaryWait").future(b"", timeout=LONG)
    future.add_done_callback(again)
    side.echo.release.set()
    assert called.wait(LONG)
    assert got == [b"unary", b"future"]


def test_who_cancels_does_not_run_the_callbacks(side: Side) -> None:
    """A callback may want a lock that the one who cancels holds."""
    lock = threading.Lock()
    called = threading.Event()

    def locking(_: object) -> None:
        with lock:
            called.set()

    future = side.unary("UnaryWait").future(b"", timeout=LONG)
    future.add_done_callback(locking)
    with lock:
        future.cancel()
    assert called.wait(LONG)


def test_a_callback_may_close_the_channel(side: Side) -> None:
    called = threading.Event()

    def close(_: object) -> None:
        side.channel.close()
        called.set()

    future = side.unary("UnaryWait").future(b"", timeout=LONG)
    future.add_done_callback(close)
    side.echo.release.set()
    assert called.wait(LONG)
    with pytest.raises(ValueError, match="Cannot invoke RPC"):
        side.unary("UnaryEcho")(b"")
