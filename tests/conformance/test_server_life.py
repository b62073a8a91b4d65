"""How a server begins and ends."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from conformance.conftest import SIDES, Side
from conformance.echo import SERVICE, Echo
from conformance.outcomes import LONG, unary
from grpc import StatusCode
from ipcd_client.testing.direct import DirectNode


@pytest.fixture(params=list(SIDES))
def unstarted(request: pytest.FixtureRequest) -> Iterator[tuple[grpc.Server, Callable[[], grpc.Channel]]]:
    """A server that serves Echo once it is started, and what makes a channel to it then."""
    with futures.ThreadPoolExecutor(4) as pool:
        if request.param == "grpcio":
            server = grpc.server(pool, handlers=(Echo(),))

            def connect() -> grpc.Channel:
                return grpc.insecure_channel(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        else:
            node = DirectNode(request.param)
            server, connect = node.server(pool, handlers=(Echo(),)), node.channel
        yield server, connect
        server.stop(None).wait(LONG)


Unstarted = tuple[grpc.Server, Callable[[], grpc.Channel]]


def test_start_twice(side: Side) -> None:
    with pytest.raises(ValueError, match="Cannot start already-started server!"):
        side.server.start()
    assert unary(side.unary("UnaryEcho"), b"lives") == (b"lives",)


def test_start_after_stop(side: Side) -> None:
    side.server.stop(None)
    with pytest.raises(ValueError, match="already"):
        side.server.start()


def test_stop_before_start(unstarted: Unstarted) -> None:
    """It does nothing: the server may still be started."""
    server, connect = unstarted
    assert server.stop(5).is_set()
    assert server.stop(None).is_set()
    assert server.wait_for_termination(0)
    with connect() as channel:
        server.start()
        assert unary(channel.unary_unary(f"/{SERVICE}/UnaryEcho"), b"1") == (b"1",)
        server.stop(None)
    assert not server.wait_for_termination(0)


def test_what_is_no_generic_handler(unstarted: Unstarted) -> None:
    server, _ = unstarted
    with pytest.raises(AttributeError, match='does not have "service" method'):
        server.add_generic_rpc_handlers((object(),))
    server.start()  # grpcio keeps descriptors of one that was never started


def test_wait_for_termination(side: Side) -> None:
    assert side.server.wait_for_termination(0.05)
    assert side.server.wait_for_termination(-1)
    waited: list[bool] = []
    waiting = threading.Thread(target=lambda: waited.append(side.server.wait_for_termination()))
    waiting.start()
    side.server.stop(0)
    waiting.join(LONG)
    assert waited == [False]
    assert not side.server.wait_for_termination()
    assert not side.server.wait_for_termination(0)


def waiting_call(side: Side) -> Any:
    future = side.unary("UnaryWait").future(b"waited", timeout=LONG)
    assert side.echo.entered.acquire(timeout=LONG)
    return future


@pytest.mark.parametrize("grace", [None, 0, 0.05])
def test_stop_with_a_handler_that_does_not_end(side: Side, grace: float | None) -> None:
    entered, release, over = threading.Event(), threading.Event(), threading.Event()

    def behavior(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(over.set)
        entered.set()
        assert release.wait(LONG)
        return b"late"

    future = side.serve("unary_unary", behavior).future(b"", timeout=LONG)
    assert entered.wait(LONG)
    stopped = side.server.stop(grace)
    assert grace is not None or stopped.is_set()
    assert stopped.wait(LONG)
    assert over.wait(LONG)
    assert future.code() is StatusCode.UNAVAILABLE
    release.set()


@pytest.mark.parametrize("shorter", [None, 0])
def test_a_second_stop_cuts_the_grace_short(side: Side, shorter: float | None) -> None:
    future = waiting_call(side)
    first = side.server.stop(10 * LONG)
    second = side.server.stop(shorter)
    assert future.code() is StatusCode.UNAVAILABLE
    assert first.wait(LONG)
    assert second.wait(LONG)
    assert side.server.stop(LONG).is_set()


def test_a_second_stop_does_not_lengthen_the_grace(side: Side) -> None:
    future = waiting_call(side)
    first = side.server.stop(0.05)
    second = side.server.stop(10 * LONG)
    assert future.code() is StatusCode.UNAVAILABLE
    assert first.wait(LONG)
    assert second.wait(LONG)


def test_stop_by_several_threads(side: Side) -> None:
    future = waiting_call(side)
    events: list[threading.Event] = []
    threads = [
        threading.Thread(target=lambda grace=grace: events.append(side.server.stop(grace)))
        for grace in (None, 0, LONG, None, 0.1, None)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert len(events) == len(threads)
    assert all(event.wait(LONG) for event in events)
    assert future.code() is StatusCode.UNAVAILABLE


@pytest.mark.parametrize("grace", [None, 0, LONG])
@pytest.mark.parametrize("threads", [1, 4])
def test_stop_within_a_handler(start: Callable[..., Side], grace: float | None, threads: int) -> None:
    side = start(threads=threads)
    stopped: list[threading.Event] = []
    has_stopped = threading.Event()

    def behavior(request: bytes, context: grpc.ServicerContext) -> bytes:
        stopped.append(side.server.stop(grace))
        has_stopped.set()
        return b"stopped"

    outcome = unary(side.serve("unary_unary", behavior))
    assert has_stopped.wait(LONG)
    assert stopped[0].wait(LONG)
    assert not side.server.wait_for_termination(LONG)
    if grace is None:
        assert outcome[0] is StatusCode.UNAVAILABLE
    elif grace:
        assert outcome == (b"stopped",)


def test_new_calls_while_it_stops(side: Side) -> None:
    future = waiting_call(side)
    stopped = side.server.stop(LONG)
    assert unary(side.unary("UnaryEcho"))[0] is StatusCode.UNAVAILABLE
    side.echo.release.set()
    assert future.result(LONG) == b"waited"
    assert stopped.wait(LONG)


@pytest.mark.parametrize("name", list(SIDES))
def test_a_dropped_server_is_collected(name: str) -> None:
    """It takes no more calls, and ends with the last one that it has."""
    echo = Echo()
    with futures.ThreadPoolExecutor(4) as pool:
        server, channel = SIDES[name](echo, pool, {}, None)
        with channel:
            future = channel.unary_unary(f"/{SERVICE}/UnaryWait").future(b"waited", timeout=LONG)
            assert echo.entered.acquire(timeout=LONG)
            dropped = weakref.ref(server)
            del server
            gc.collect()
            assert dropped() is None
            call = channel.unary_unary(f"/{SERVICE}/UnaryEcho")
            while unary(call)[0] is not StatusCode.UNAVAILABLE:  # grpcio looks once in a second
                pass
            echo.release.set()
            assert future.result(LONG) == b"waited"


def test_a_server_that_was_never_started_is_collected() -> None:
    """grpcio's too, but it leaves descriptors behind."""
    server = DirectNode("memory").server()
    dropped = weakref.ref(server)
    del server
    gc.collect()
    assert dropped() is None


# -- processes --------------------------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys, threading
from concurrent import futures
sys.path[:0] = [sys.argv[1]]
from conformance.conftest import SIDES
from conformance.echo import SERVICE, Echo
server, channel = SIDES[sys.argv[2]](Echo(), futures.ThreadPoolExecutor(4), {}, None)
echo = channel.unary_unary(f"/{SERVICE}/UnaryEcho")
assert [echo(b"x") for _ in range(10)] == [b"x"] * 10
"""

TESTS = str(Path(__file__).parents[1])


@pytest.fixture(params=list(SIDES))
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a program that has made and used a server and a channel, and goes on like this."""
    programs: list[subprocess.Popen[str]] = []

    def begin(rest: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM + rest, TESTS, request.param]
        program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        programs.append(program)
        return program

    yield begin
    for program in programs:
        program.kill()
        program.communicate(timeout=LONG)


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "del server, channel",
        "del server",
        "channel.close()",
        "sys.exit()",
        "keep = channel.unary_stream(f'/{SERVICE}/DownCount')(b'10'); next(keep)",
        "import builtins; builtins.kept = server",
        "cycle = [server]; cycle.append(cycle); del server",
        "server.stop(None); del server",
        "server.stop(5)",
    ],
)
def test_programs_end(run: Callable[[str], subprocess.Popen[str]], rest: str) -> None:
    program = run(rest)
    _, errors = program.communicate(timeout=LONG)
    assert program.returncode == 0, errors


def test_interrupt_while_it_waits(run: Callable[[str], subprocess.Popen[str]]) -> None:
    program = run("""
try:
    print("ready", flush=True)
    server.wait_for_termination()
except KeyboardInterrupt:
    print("interrupted", server.stop(None).is_set(), flush=True)
""")
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGINT)
    output, errors = program.communicate(timeout=LONG)
    assert (output, program.returncode) == ("interrupted True\n", 0), errors


def test_termination_is_left_as_it_is(run: Callable[[str], subprocess.Popen[str]]) -> None:
    program = run('print("ready", flush=True); server.wait_for_termination()')
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.terminate()
    program.communicate(timeout=LONG)
    assert program.returncode == -signal.SIGTERM


def test_stop_by_a_signals_handler(run: Callable[[str], subprocess.Popen[str]]) -> None:
    program = run("""
signal.signal(signal.SIGTERM, lambda *_: server.stop(1))
print("ready", flush=True)
print(server.wait_for_termination())
""")
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.terminate()
    output, errors = program.communicate(timeout=LONG)
    assert (output, program.returncode) == ("False\n", 0), errors
