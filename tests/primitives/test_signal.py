"""Flags that are raised at processes, on every road."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal as os_signals
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import pytest
from integration.daemons import LONG, Daemon, Daemons, eventually
from integration.gateway import address_of
from ipcd_client.errors import NotAllowed, UsageError
from ipcd_client.pb.ipcd.v1 import signal_pb2, signal_pb2_grpc
from ipcd_client.primitives.errors import BadRequest, NoSuchName, TimedOut
from ipcd_client.primitives.flags import Raised, Told
from ipcd_client.primitives.place import target_of
from ipcd_client.rpc.failure import CallFailed
from primitives.roads import Cluster, Road
from primitives.signal_faces import FACES, Face, opened, poller

CHILD = str(Path(__file__).with_name("signal_child.py"))
FORKS = str(Path(__file__).with_name("signal_fork.py"))


@pytest.fixture(scope="module", autouse=True)
def _poller() -> Iterator[None]:
    with poller():
        yield


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    """Threads, or an event loop."""
    with opened(request.param) as face:
        yield face


@contextlib.contextmanager
def child(daemon: Daemon, name: str, group: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that listens."""
    with subprocess.Popen(
        [sys.executable, CHILD, daemon.socket, name, group], stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        try:
            assert said(process) == "listening"
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    """Its next line."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def listeners(daemon: Daemon, name: str) -> list[signal_pb2.Listener]:
    """At a node's daemon."""
    with ipcd_client.channel(target_of(daemon.node), node=daemon.socket) as channel:
        request = signal_pb2.ListListenersRequest(name=name)
        return list(signal_pb2_grpc.SignalStub(channel).ListListeners(request, timeout=LONG).listeners)


def counts(told: list[Told]) -> dict[str, int]:
    """How many listeners of each node; of those that were told."""
    return {each.node: each.listeners for each in told if not each.error}


def test_a_flag_is_raised_and_taken(road: Road, face: Face) -> None:
    name, keywords = road.name("flag"), face.keywords(road)
    assert face.raise_(name, **keywords) == [Told(road.home.node, 0)]
    ears = face.listen(name, **keywords)
    assert ears.node == road.home.node
    # What was raised before is not seen.
    with pytest.raises(TimedOut, match="was not raised within 0 s"):
        ears.wait(0)
    assert ears.take() is None
    assert face.raise_(name, **keywords) == [Told(road.home.node, 1)]
    flag = ears.wait()
    assert flag.name == name.partition("@")[0]
    # Who calls through a gateway is not known as a process.
    pid, last = (0, "grpc") if road.kind == "gateway" else (os.getpid(), "uid")
    assert (flag.node, flag.pid) == (road.front.node, pid)
    assert flag.identity.startswith(f"spiffe://default/node/a/{last}")
    with pytest.raises(TimedOut):
        ears.wait(0.05)
    face.raise_(name, **keywords)
    taken = eventually(ears.take, "the flag is there") if face.kind == "sync" else ears.wait()
    assert taken == flag
    ears.close()
    assert face.raise_(name, **keywords) == [Told(road.home.node, 0)]


def test_raised_again_before_it_is_taken_it_is_one(road: Road, face: Face) -> None:
    name, keywords = road.name("one"), face.keywords(road)
    ears, other = face.listen(name, **keywords), face.listen(name, **keywords)
    for _ in range(3):
        assert face.raise_(name, **keywords) == [Told(road.home.node, 2)]
    ears.wait()
    with pytest.raises(TimedOut):
        ears.wait(0.1)
    assert face.raise_(name, **keywords) == [Told(road.home.node, 2)]
    # Each has its own.
    ears.wait()
    other.wait()
    for each in (ears, other):
        with pytest.raises(TimedOut):
            each.wait(0.1)
    bare = name.partition("@")[0]
    shown = [(each.raised, each.coalesced) for each in listeners(road.home, bare)]
    assert sorted(shown) == [(4, 2), (4, 3)]


def test_one_process_a_group_everybody(cluster: Cluster, road: Road) -> None:
    # The name without a node: those who listen are on both.
    name = road.name("who").partition("@")[0]
    with (
        opened("aio" if road.kind == "there" else "sync") as face,
        child(cluster.front, name, "red") as first,
        child(cluster.back, name, "red") as second,
        child(cluster.back, name, "blue") as third,
    ):
        keywords = face.keywords(road)
        assert counts(face.raise_(name, **keywords)) == {"a": 1, "b": 2}
        for each in (first, second, third):
            assert said(each).startswith("raised ")
        assert counts(face.raise_(name, group="red", **keywords)) == {"a": 1, "b": 1}
        assert said(first).startswith("raised ")
        assert said(second).startswith("raised ")
        assert counts(face.raise_(name, pid=f"{third.pid}@b", **keywords)) == {"a": 0, "b": 1}
        assert said(third).startswith("raised ")
        # Without a node it is one of this one.
        assert counts(face.raise_(name, pid=first.pid, **keywords)) == {"a": 1, "b": 0}
        assert said(first).startswith("raised ")
        assert counts(face.raise_(name, pid=third.pid, **keywords)) == {"a": 0, "b": 0}
        assert counts(face.raise_(name, group="green", **keywords)) == {"a": 0, "b": 0}
        assert counts(face.raise_(f"{name}@b", **keywords)) == {"b": 2}
        shown = {(each.process.node, each.process.pid, each.group) for each in listeners(cluster.back, name)}
        assert shown == {("b", second.pid, "red"), ("b", third.pid, "blue")}

        second.kill()
        eventually(lambda: len(listeners(cluster.back, name)) == 1, "the killed one is gone")
        assert counts(face.raise_(name, group="red", **keywords)) == {"a": 1, "b": 0}


def test_a_handler_runs_on_the_main_thread_wherever_that_is(road: Road) -> None:
    name = road.name("handled")
    came: list[tuple[Raised, str]] = []
    done = threading.Event()

    def handler(flag: Raised) -> None:
        came.append((flag, threading.current_thread().name))
        done.set()

    before = os_signals.getsignal(os_signals.SIGURG)
    with ipcd_client.signal(name, **road.keywords) as signal:
        try:
            with signal.listen(handler=handler):
                raising = threading.Timer(0.05, signal.raise_)
                raising.start()
                # The main thread is in a system call meanwhile.
                assert done.wait(LONG)
                raising.join()
                done.clear()
                signal.raise_()
                assert done.wait(LONG)
            assert [thread for _, thread in came] == ["MainThread", "MainThread"]

            def failing(_: Raised) -> None:
                raise ZeroDivisionError

            done.clear()
            with signal.listen(handler=failing):
                raising = threading.Timer(0.05, signal.raise_)
                raising.start()
                with pytest.raises(ZeroDivisionError):
                    done.wait(LONG)
                raising.join()

            raised: list[BaseException] = []

            def elsewhere() -> None:
                try:
                    signal.listen(handler=handler)
                except UsageError as error:
                    raised.append(error)

            os_signals.signal(os_signals.SIGURG, before)
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert "main thread" in str(raised[0])
        finally:
            os_signals.signal(os_signals.SIGURG, before)


def test_a_coroutine_handles_one_after_another(road: Road) -> None:
    name = road.name("coroutine")
    told: list[tuple[Exception | None, str]] = []

    with opened("aio") as face:
        keywords = face.keywords(road)
        running: list[str] = []
        began, goes_on = asyncio.Event(), asyncio.Event()

        async def handler(_: Raised) -> None:
            running.append("begin")
            began.set()
            await goes_on.wait()
            running.append("end")
            if len(running) == 2:
                raise ZeroDivisionError

        face.listen(name, handler=handler, **keywords)

        async def begun() -> None:
            asyncio.get_running_loop().set_exception_handler(
                # Without what it was raised in, which has the connection.
                lambda _, context: told.append((context["exception"].with_traceback(None), context["message"]))
            )
            async with asyncio.timeout(LONG):
                await began.wait()
            began.clear()

        face.raise_(name, **keywords)
        face.run(begun())
        for _ in range(3):
            face.raise_(name, **keywords)
        assert running == ["begin"]
        goes_on.set()
        face.run(begun())
        assert running[:3] == ["begin", "end", "begin"]
        (error, message), *_ = told
        assert isinstance(error, ZeroDivisionError)
        assert name in message


@pytest.mark.parametrize(
    ("name", "keywords", "words"),
    [
        ("", {}, "is no name"),
        ("a b", {}, "has a space"),
        ("x@", {}, "is no name"),
        ("x" * 129, {}, "at most 128 bytes"),
        ("*", {}, "it is the name of none"),
        ("x", {"group": "g@b"}, "a group is of all nodes"),
        ("x", {"group": "g/h"}, "has a space, a slash"),
        ("x", {"pid": "me"}, "'me' is no number of a process"),
        ("x", {"pid": 0}, "'0' is no number of a process"),
    ],
)
def test_what_makes_no_sense(road: Road, face: Face, name: str, keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        face.raise_(name, **keywords, **face.keywords(road))
    if "pid" not in keywords:
        with pytest.raises(BadRequest, match=words):
            face.listen(name, **keywords, **face.keywords(road))


def test_a_node_that_is_not_there(road: Road, face: Face) -> None:
    with pytest.raises(CallFailed) as caught:
        face.raise_("x@nowhere", **face.keywords(road))
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_who_waits_is_woken_when_the_listener_is_closed(road: Road) -> None:
    with ipcd_client.signal(road.name("closed"), **road.keywords) as signal:
        listener = signal.listen()
        closing = threading.Timer(0.05, listener.close)
        closing.start()
        with pytest.raises(UsageError, match="is closed"):
            listener.wait(LONG)
        closing.join()
        with pytest.raises(UsageError, match="is closed"):
            listener.wait(0)
        with pytest.raises(TimedOut):
            signal.wait(0.01)


def test_plain_grpc(cluster: Cluster) -> None:
    with grpc.insecure_channel(address_of(cluster.front)) as channel:
        stub = signal_pb2_grpc.SignalStub(channel)
        for name, node in (("plain", "a"), ("plain@b", "b")):
            stream = stub.Listen(signal_pb2.ListenRequest(name=name), timeout=LONG)
            listening = next(stream).listening
            assert listening.node == node
            for _ in range(2):
                told = stub.Raise(signal_pb2.RaiseRequest(name="plain"), timeout=LONG)
                assert {each.node: each.listeners for each in told.nodes}[node] == 1
            assert next(stream).raised.name == "plain"
            take = signal_pb2.TakeRequest(name=name, listener=listening.listener)
            assert stub.Take(take, timeout=LONG).HasField("raised")
            assert not stub.Take(take, timeout=LONG).HasField("raised")
            stream.cancel()
            # Nobody else's.
            take.listener = "0"
            with pytest.raises(grpc.RpcError) as caught:
                stub.Take(take, timeout=LONG)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_fork(cluster: Cluster) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", FORKS, cluster.front.socket], timeout=LONG)
    assert done.returncode == 0


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_the_daemon_is_restarted(nodes: Daemons, end: str) -> None:
    first = nodes.run("a")
    for kind in FACES:
        with opened(kind) as face:
            ears = face.listen("restart", node=first.socket)
            # One that was told, and not taken, is not lost with the daemon.
            face.raise_("restart", node=first.socket)
            if kind == "sync":
                eventually(lambda: ears._listener.is_raised, "it is told")  # noqa: B023
            getattr(first, end)()
            first = nodes.run("a")
            if kind == "sync":
                eventually(lambda: ears.gaps == 1, "the listener has noticed")  # noqa: B023
                assert ears.wait().pid == os.getpid()

            def heard() -> bool:
                with contextlib.suppress(TimedOut):
                    ears.wait(0.01)  # noqa: B023
                return bool(listeners(first, "restart"))  # noqa: B023

            eventually(heard, "the listener is back")
            with contextlib.suppress(TimedOut):
                ears.wait(0.05)
            assert ears.gaps == 1
            assert counts(face.raise_("restart", node=first.socket)) == {"a": 1}
            assert ears.wait().node == "a"


def test_flags_go_on_after_one_that_waited_while_the_daemon_was_restarted(nodes: Daemons, face: Face) -> None:
    first = nodes.run("a")
    two = [face.listen("again", node=first.socket) for _ in range(2)]
    made = [each._listener for each in two]
    held, waits = (each._stream.inbox if face.kind == "sync" else each._inbox for each in made)

    def turn(condition: Any) -> Any:
        """Whether it is so, after the loop has had a turn."""
        if face.kind == "aio":
            face.run(asyncio.sleep(0.01))
        return condition()

    face.raise_("again", node=first.socket)
    eventually(lambda: turn(lambda: held.raised and waits.raised), "both are told")
    # One caller has it in its hands, and will take it at a daemon that is not there any more.
    pending, old = held.take(), waits._pending
    assert pending is not None
    first.kill()
    first = nodes.run("a")

    def back() -> bool:
        return [each.gaps for each in two] == [1, 1] and len(listeners(first, "again")) == 2

    eventually(lambda: turn(back), "both are back")
    taken = made[0]._stream.taken(pending) if face.kind == "sync" else face.run(made[0]._taken(pending))
    assert taken == pending.flag
    for count in (1, 2):
        face.raise_("again", node=first.socket)
        # With what waited it is one, which is taken at the daemon that has told of it: so it tells of the next.
        eventually(lambda: turn(lambda: held.raised and waits._pending not in {None, old}), "both are told")
        for each in two:
            assert each.wait().pid == os.getpid()
            assert each.take() is None
        assert [(each.raised, each.coalesced) for each in listeners(first, "again")] == [(count, 0), (count, 0)]


def test_both_sides_of_a_partition(nodes: Daemons) -> None:
    with opened("sync") as face:
        partitioned(nodes, face)


def partitioned(nodes: Daemons, face: Face) -> None:
    a, b = nodes.run("a"), nodes.run("b")
    with child(a, "cut") as at_a, child(b, "cut") as at_b:
        # They know nothing of each other.
        assert face.raise_("cut", node=a.socket) == [Told("a", 1)]
        assert face.raise_("cut", node=b.socket) == [Told("b", 1)]
        assert said(at_a) == said(at_b) == f"raised {os.getpid()}"
    b.stop()
    b = nodes.run("b", "--peer", a.listen)
    a.logged("node linked", "b")
    with child(a, "cut") as at_a, child(b, "cut") as at_b:
        assert face.raise_("cut", node=a.socket) == [Told("a", 1), Told("b", 1)]
        assert said(at_a) == said(at_b) == f"raised {os.getpid()}"
    b.kill()
    a.logged("node gone", "b")
    assert face.raise_("cut", node=a.socket) == [Told("a", 0), Told("b", 0, "there is no link with it")]


def test_rules(nodes: Daemons, face: Face) -> None:
    files = {}
    for node in "ab":
        files[node] = nodes.folder / f"{node}.toml"
    files["a"].write_text('[[rules]]\neffect = "deny"\nwho = "node/a/**"\nmay = "read"\nwhat = "signal:secret.*"\n')
    files["b"].write_text(
        '[[rules]]\neffect = "deny"\nwho = "node/a/**"\nmay = "publish"\nwhat = "signal:quiet"\nname = "hush"\n'
        '[[rules]]\neffect = "deny"\nwho = "**"\nmay = "read"\nwhat = "exit:*"\n'
    )
    b = nodes.run("b", "--config", str(files["b"]))
    a = nodes.run("a", "--config", str(files["a"]), "--peer", b.listen)
    a.logged("node linked", "b")
    with pytest.raises(NotAllowed, match=r"may not read signal:secret\.x on node a"):
        face.listen("secret.x", node=a.socket)
    assert counts(face.raise_("secret.x", node=a.socket)) == {"a": 0, "b": 0}
    ears = face.listen("quiet", node=b.socket)
    here, there = face.raise_("quiet", node=a.socket)
    assert here == Told("a", 0)
    assert (there.node, there.listeners) == ("b", 0)
    assert "may not publish signal:quiet on node b: the rule hush denies it" in there.error
    with pytest.raises(NotAllowed, match="the rule hush denies it"):
        face.raise_("quiet@b", node=a.socket)
    with pytest.raises(TimedOut):
        ears.wait(0)
    with pytest.raises(NotAllowed, match=f"may not read exit:{os.getpid()} on node b"):
        face.watch(f"{os.getpid()}@b", node=a.socket)
    # Who listens is shown to those who might.
    secret = face.listen("secret.y", node=b.socket)
    assert [each.name for each in listeners(b, "*")] == ["quiet", "secret.y"]
    secret.close()


def test_the_limit_of_one_process(nodes: Daemons) -> None:
    a = nodes.run("a")
    with ipcd_client.channel(target_of("a"), node=a.socket) as channel:
        stub = signal_pb2_grpc.SignalStub(channel)
        streams = []
        for number in range(512):
            stream = stub.Listen(signal_pb2.ListenRequest(name=f"n{number}"), timeout=LONG)
            next(stream)
            streams.append(stream)
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.Listen(signal_pb2.ListenRequest(name="more"), timeout=LONG))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "the limit of 512 listeners for flags of one process is reached" in str(caught.value.details())
        streams[0].cancel()
        eventually(lambda: len(listeners(a, "n0")) == 0, "one has gone")
        next(stub.Listen(signal_pb2.ListenRequest(name="more"), timeout=LONG))
        for stream in streams:
            stream.cancel()


def test_a_listener_that_is_not(cluster: Cluster) -> None:
    with ipcd_client.channel(target_of("a"), node=cluster.front.socket) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            signal_pb2_grpc.SignalStub(channel).Take(signal_pb2.TakeRequest(name="x", listener="y"), timeout=LONG)
        assert str(caught.value.details()).startswith(NoSuchName.reason)
