"""Channels: closing, connectivity, and what becomes of them in programs that end, fork, or are interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import pytest
from conformance.conftest import Side
from conformance.echo import SERVICE, Echo
from conformance.outcomes import LONG, Held
from conformance.ways import Way, every_running_way, every_way
from grpc import ChannelConnectivity, StatusCode

from ipcd.embed import Embedded

TESTS = str(Path(__file__).parents[1])


def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    return request


# -- closing ------------------------------------------------------------------------------------------


@every_way
def test_use_after_close(side: Side, way: Way) -> None:
    way.served(side, echo)
    before = way.multicallable(side.channel)
    side.channel.close()
    side.channel.close()
    for multicallable in (before, way.multicallable(side.channel)):
        with pytest.raises(ValueError, match="Cannot invoke RPC"):
            way.begin(multicallable)


@every_running_way
def test_close_ends_calls_under_way(side: Side, way: Way) -> None:
    held = Held()
    way.served(side, held)
    call = way.begin(way.multicallable(side.channel))
    assert held.entered.wait(LONG)
    side.channel.close()
    assert call.code() is StatusCode.CANCELLED
    assert "Channel closed!" in call.details()
    assert (call.cancelled(), call.done(), call.cancel()) == (False, True, False)
    with pytest.raises(grpc.RpcError):
        call.result()
    assert held.ended.wait(LONG)


@pytest.mark.parametrize("way", [Way("unary_unary", "call"), Way("stream_unary", "call")], ids=".".join)
def test_close_wakes_a_blocking_call(side: Side, way: Way) -> None:
    held = Held()
    way.served(side, held)

    def close() -> None:
        assert held.entered.wait(LONG)
        side.channel.close()

    closer = threading.Thread(target=close)
    closer.start()
    assert way.failure(way.multicallable(side.channel)).code() is StatusCode.CANCELLED
    closer.join(LONG)


def test_context_manager(side: Side) -> None:
    with side.channel as channel:
        assert channel is side.channel
        assert side.unary("UnaryEcho")(b"x", timeout=LONG) == b"x"
    with pytest.raises(ValueError, match="Cannot invoke RPC"):
        side.unary("UnaryEcho")(b"x")
    assert isinstance(channel, grpc.Channel)


def test_taking_back_what_was_not_subscribed(side: Side) -> None:
    side.channel.unsubscribe(print)


# -- connectivity -------------------------------------------------------------------------------------


@pytest.fixture(params=["grpcio", "ipcd"])
def channel(request: pytest.FixtureRequest) -> Iterator[grpc.Channel]:
    """To a server of grpcio's, or to a node with a server: in memory there is nothing to be connected with."""
    if request.param == "grpcio":
        with futures.ThreadPoolExecutor(1) as pool:
            server = grpc.server(pool, handlers=(Echo(),))
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            with grpc.insecure_channel(f"127.0.0.1:{port}") as made:
                yield made
            server.stop(None).wait()
        return
    node: Embedded = request.getfixturevalue("ipcd_node")
    ours = ipcd_client.server(handlers=(Echo(),), node=node.socket)
    ours.start()
    with ipcd_client.channel(node=node.socket) as made:
        yield made
    ours.stop(None).wait()


class Listener:
    """Notes the states that it is told."""

    def __init__(self) -> None:
        self.states: list[ChannelConnectivity] = []
        self._changed = threading.Condition()

    def told(self, state: ChannelConnectivity) -> None:
        with self._changed:
            self.states.append(state)
            self._changed.notify_all()

    def reached(self, state: ChannelConnectivity) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: state in self.states, LONG)


def test_idle_comes_first_and_stays(channel: grpc.Channel) -> None:
    listener = Listener()
    channel.subscribe(listener.told)
    assert listener.reached(ChannelConnectivity.IDLE)
    time.sleep(0.5)  # longer than either looks again
    assert listener.states == [ChannelConnectivity.IDLE]
    channel.unsubscribe(listener.told)


def test_ready_comes_when_asked_to_connect(channel: grpc.Channel) -> None:
    first, second = Listener(), Listener()
    channel.subscribe(first.told, try_to_connect=True)
    assert first.reached(ChannelConnectivity.READY)
    assert first.states[0] is ChannelConnectivity.IDLE
    channel.subscribe(second.told)
    assert second.reached(ChannelConnectivity.READY)
    assert second.states[0] is ChannelConnectivity.READY
    channel.unsubscribe(first.told)
    channel.unsubscribe(second.told)


def test_a_callback_that_raises(channel: grpc.Channel) -> None:
    def failing(_: ChannelConnectivity) -> None:
        raise RuntimeError("broken")

    listener = Listener()
    channel.subscribe(failing)
    channel.subscribe(listener.told, try_to_connect=True)
    assert listener.reached(ChannelConnectivity.READY)
    channel.unsubscribe(failing)
    channel.unsubscribe(listener.told)


def test_a_callback_may_take_itself_back(channel: grpc.Channel) -> None:
    states: list[ChannelConnectivity] = []
    listener = Listener()

    def once(state: ChannelConnectivity) -> None:
        channel.unsubscribe(once)
        states.append(state)

    channel.subscribe(once)
    channel.subscribe(listener.told, try_to_connect=True)
    assert listener.reached(ChannelConnectivity.READY)
    assert states == [ChannelConnectivity.IDLE]
    channel.unsubscribe(listener.told)


def test_ready_future(channel: grpc.Channel) -> None:
    future: Any = grpc.channel_ready_future(channel)
    called = threading.Event()
    future.add_done_callback(lambda _: called.set())
    assert future.result(LONG) is None
    assert called.wait(LONG)
    assert (future.done(), future.cancelled(), future.running(), future.cancel()) == (True, False, False, False)
    assert channel.unary_unary(f"/{SERVICE}/UnaryEcho")(b"x", timeout=LONG) == b"x"


UNREACHABLE: dict[str, Callable[[Path], grpc.Channel]] = {
    "grpcio": lambda folder: grpc.insecure_channel(f"unix:{folder}/none"),
    "ipcd": lambda folder: ipcd_client.channel(node=f"{folder}/none"),
}


@pytest.mark.parametrize("kind", UNREACHABLE)
def test_ready_future_of_what_cannot_be_reached(kind: str, tmp_path: Path) -> None:
    with UNREACHABLE[kind](tmp_path) as channel:
        future: Any = grpc.channel_ready_future(channel)
        with pytest.raises(grpc.FutureTimeoutError):
            future.result(0.3)
        assert future.cancel()
        assert (future.done(), future.cancelled()) == (True, True)
        with pytest.raises(grpc.FutureCancelledError):
            future.result()


@every_way
@pytest.mark.parametrize("kind", UNREACHABLE)
def test_calls_to_what_cannot_be_reached(kind: str, way: Way, tmp_path: Path) -> None:
    with UNREACHABLE[kind](tmp_path) as channel:
        multicallable = way.multicallable(channel)
        assert way.failure(multicallable).code() is StatusCode.UNAVAILABLE
        waiting = way.failure(multicallable, wait_for_ready=True, timeout=0.3)
        assert waiting.code() is StatusCode.DEADLINE_EXCEEDED


@every_running_way
@pytest.mark.parametrize("kind", UNREACHABLE)
@pytest.mark.parametrize("ending", ["cancel", "close"])
def test_ending_a_call_that_waits_for_its_server(kind: str, way: Way, ending: str, tmp_path: Path) -> None:
    with UNREACHABLE[kind](tmp_path) as channel:
        call = way.begin(way.multicallable(channel), wait_for_ready=True, timeout=None)
        called = threading.Event()
        call.add_done_callback(lambda _: called.set())
        assert call.is_active()
        if ending == "cancel":
            assert call.cancel()
        else:
            channel.close()
        assert call.code() is StatusCode.CANCELLED
        assert call.cancelled() == (ending == "cancel")
        assert called.wait(LONG)


# -- programs -----------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys, threading
sys.path[:0] = [sys.argv[1]]
import grpc, ipcd_client
kind, address = sys.argv[2:4]
channel = grpc.insecure_channel(address) if kind == "grpcio" else ipcd_client.channel(node=address)
unary = channel.unary_unary("/conformance.v1.Echo/UnaryEcho")
wait = channel.unary_unary("/conformance.v1.Echo/UnaryWait")
down = channel.unary_stream("/conformance.v1.Echo/DownForever")
both = channel.stream_stream("/conformance.v1.Echo/BothEcho")
"""


class Served:
    """A server in this process, and programs that call it from theirs."""

    def __init__(self, kind: str, address: str, servicer: Echo) -> None:
        self.kind = kind
        self.address = address
        self.echo = servicer

    @contextmanager
    def start(self, text: str) -> Iterator[subprocess.Popen[str]]:
        """A program, with a channel and its methods to begin with. It is gone afterwards."""
        command = [sys.executable, "-c", PROGRAM + text, TESTS, self.kind, self.address]
        environment = dict(os.environ, GRPC_VERBOSITY="NONE")
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as program:
            try:
                yield program
            finally:
                program.kill()

    def run(self, text: str) -> str:
        """What a program prints that ends well."""
        with self.start(text) as program:
            out, err = program.communicate(timeout=LONG)
        assert program.returncode == 0, err
        return out


@pytest.fixture(params=["grpcio", "ipcd"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """By grpcio, and by a node with a server."""
    servicer = Echo()
    with futures.ThreadPoolExecutor(8) as pool:
        if request.param == "grpcio":
            server = grpc.server(pool, handlers=(servicer,))
            address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        else:
            address = request.getfixturevalue("ipcd_node").socket
            server = ipcd_client.server(pool, handlers=(servicer,), node=address)
        server.start()
        yield Served(request.param, address, servicer)
        servicer.release.set()
        server.stop(None).wait()


LEFT = {
    "a channel": "assert unary(b'x', timeout=20) == b'x'",
    "a stream": "call = down(b'1'); next(call)",
    "a stream of the module's": "import builtins; builtins.kept = down(b'1'); next(builtins.kept)",
    "a future with a callback": "future = wait.future(b''); future.add_done_callback(print)",
    "requests that wait": """
def requests():
    yield b"1"
    threading.Event().wait()
call = both(requests())
next(call)
""",
    "a subscription": "channel.subscribe(lambda state: None, try_to_connect=True)",
    "a call that waits for a server": "call = channel.unary_unary('/a.B/C').future(b'', wait_for_ready=True)",
}


@pytest.mark.parametrize("left", LEFT)
def test_a_program_that_closes_nothing_ends(served: Served, left: str) -> None:
    assert served.run(f"{LEFT[left]}\nprint('end')") == "end\n"


INTERRUPTED = {
    "blocking": "wait(b'')",
    "with_call": "wait.with_call(b'')",
    "result": "wait.future(b'').result()",
    "iteration": "list(down(b'1'))",
    "a stream of requests": """
def requests():
    yield b"1"
    threading.Event().wait()
for response in both(requests()):
    print("begun", flush=True)
""",
}


@pytest.mark.parametrize("what", INTERRUPTED)
def test_ctrl_c(served: Served, what: str) -> None:
    if served.kind == "grpcio" and what == "result":
        pytest.skip("interrupted there, grpcio 1.85.1 hangs now and then")
    body = "\n".join(f"    {line}" for line in INTERRUPTED[what].strip().splitlines())
    text = f"""
signal.signal(signal.SIGINT, signal.default_int_handler)
unary(b'x', timeout=20)
print("begun", flush=True)
try:
{body}
except KeyboardInterrupt:
    print("interrupted", flush=True)
channel.close()
"""
    with served.start(text) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "begun\n"
        if what == "a stream of requests":
            assert program.stdout.readline() == "begun\n"
        elif what == "iteration":
            while not served.echo.events:
                time.sleep(0.01)
        else:
            assert served.echo.entered.acquire(timeout=LONG)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=LONG)
    assert (program.returncode, out) == (0, "interrupted\n"), err
    if what != "a stream of requests":
        assert served.echo.cancelled.wait(LONG), "the servicer was not told"


def test_a_channel_made_before_a_fork_serves_the_parent(served: Served) -> None:
    """What the child may do with it is our own business: see tests/sdk/test_node.py. grpcio's hangs."""
    out = served.run(
        """
assert unary(b"before", timeout=20) == b"before"
call = both(iter([b"1"]), timeout=20)
child = os.fork()
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert list(call) == [b"1"]
assert unary(b"after", timeout=20) == b"after"
channel.close()
print("end")
"""
    )
    assert out == "end\n"
