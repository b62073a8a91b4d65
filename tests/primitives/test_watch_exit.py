"""How processes end, on every road."""

from __future__ import annotations

import contextlib
import os
import signal as os_signals
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import pytest
from integration.daemons import LONG, Daemon, Daemons, eventually
from integration.gateway import LISTEN, address_of
from ipcd_client.errors import NotAllowed, UsageError
from ipcd_client.pb.ipcd.v1 import signal_pb2, signal_pb2_grpc
from ipcd_client.primitives.errors import Ambiguous, BadRequest, Lost, NoSuchName, TimedOut
from ipcd_client.primitives.place import target_of
from ipcd_client.primitives.watch_exit import tell_exit
from primitives.roads import Cluster, Road
from primitives.signal_faces import FACES, Face, opened, poller

SERVER = str(Path(__file__).parents[1] / "integration" / "lab_server.py")
# Ends with the code, or by the signal where that is negative, when its input does.
ENDS = "import os, sys; sys.stdin.read(); n = {}; os._exit(n) if n >= 0 else os.kill(os.getpid(), -n)"


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
def process(how: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """A child of this process, and so none of the daemon's."""
    with subprocess.Popen([sys.executable, "-S", "-E", "-c", ENDS.format(how)], stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.parametrize("how", [0, 3, -9, -15])
@pytest.mark.parametrize("reaped", ["reaped", "unreaped"])
def test_how_and_when(road: Road, how: int, reaped: str) -> None:
    # Of the two faces each sees half of it.
    with opened("sync" if how in {0, -9} else "aio") as face, process(how) as watched:
        watch = face.watch(f"{watched.pid}@{road.home.node}", **face.keywords(road))
        assert (watch.process.node, watch.process.pid, watch.process.uid) == (
            road.home.node,
            watched.pid,
            os.getuid(),
        )
        with pytest.raises(TimedOut, match=r"did not end within 0\.01 s"):
            watch.wait(0.01)
        before = time.time()
        end(watched)
        if reaped == "reaped":
            watched.wait(LONG)
        ended = watch.wait()
        assert ended.ended is not None
        assert before <= ended.ended <= time.time()
        if reaped == "reaped" and not ended.source:
            pytest.skip("this kernel tells nobody but the parent once that has reaped; Linux 6.15 does")
        assert (ended.returncode, ended.source) == (how, "kernel")
        assert ended.signal == (-how if how < 0 else None)
        assert str(ended).startswith(f"process {watched.pid} on node {road.home.node} ")
        # The answer stays.
        assert watch.wait(0) == ended


def test_one_that_had_ended_before(road: Road, face: Face) -> None:
    with process(5) as watched:
        end(watched)
        os.waitid(os.P_PID, watched.pid, os.WEXITED | os.WNOWAIT)
        # It is there until it is reaped.
        ended = face.watch(f"{watched.pid}@{road.home.node}", **face.keywords(road)).wait()
        assert (ended.code, ended.ended) == (5, None)
        watched.wait(LONG)
        with pytest.raises(NoSuchName, match=f"there is no process {watched.pid} on node {road.home.node}"):
            face.watch(f"{watched.pid}@{road.home.node}", **face.keywords(road))


def test_what_makes_no_sense(road: Road, face: Face) -> None:
    keywords = face.keywords(road)
    for arguments, named in (
        ((), {}),
        ((1,), {"service": "x"}),
        (("x",), {}),
        ((0,), {}),
        (("1@",), {}),
        (("01",), {}),
    ):
        with pytest.raises(BadRequest):
            face.watch(*arguments, **named, **keywords)
    with pytest.raises(NoSuchName, match=r"no process has a service x\.X"):
        face.watch(service="x.X", **keywords)
    with pytest.raises(NoSuchName, match="no process has a server canary on node b"):
        face.watch(name="canary@b", **keywords)


def test_a_process_has_one_name_in_rules(nodes: Daemons) -> None:
    with process() as watched:
        files = {node: nodes.folder / f"{node}.toml" for node in "ab"}
        # Node b keeps its process from everybody; node a the clients of its gateway from all processes.
        files["b"].write_text(deny("**", f"exit:{watched.pid}"))
        files["a"].write_text(deny("node/a/grpc", "exit:*"))
        b = nodes.run("b", *LISTEN, "--config", str(files["b"]))
        a = nodes.run("a", *LISTEN, "--config", str(files["a"]), "--peer", b.listen)
        a.logged("node linked", "b")
        channels = (
            ipcd_client.channel(target_of("b"), node=a.socket),
            ipcd_client.channel(target_of("b"), node=b.socket),
            grpc.insecure_channel(address_of(a)),
            grpc.insecure_channel(address_of(b)),
        )
        for channel in channels:
            with channel:
                assert refusal(channel, f"{watched.pid}@b") is grpc.StatusCode.PERMISSION_DENIED
                for other in (f"0{watched.pid}@b", f"+{watched.pid}@b", f"00{watched.pid}@b"):
                    assert refusal(channel, other) is grpc.StatusCode.INVALID_ARGUMENT
        # Of another process of node b, which that node lets everybody watch.
        with grpc.insecure_channel(address_of(a)) as channel:
            assert refusal(channel, f"{os.getpid()}@b") is grpc.StatusCode.PERMISSION_DENIED
        with ipcd_client.watch_exit(f"{os.getpid()}@b", node=a.socket) as watch:
            assert watch.process.pid == os.getpid()


def deny(who: str, what: str) -> str:
    return f'[[rules]]\neffect = "deny"\nwho = "{who}"\nmay = "read"\nwhat = "{what}"\n'


def refusal(channel: grpc.Channel, name: str) -> grpc.StatusCode:
    """Of somebody who would watch this process."""
    with pytest.raises(grpc.RpcError) as caught:
        next(signal_pb2_grpc.SignalStub(channel).WatchExit(signal_pb2.WatchExitRequest(name=name), timeout=LONG))
    error: Any = caught.value
    code: grpc.StatusCode = error.code()
    return code


@contextlib.contextmanager
def serving(daemon: Daemon, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server of lab.v1.Lab."""
    before = len(daemon.events("server registered"))
    with subprocess.Popen([sys.executable, SERVER, daemon.socket, name]) as server:
        try:
            eventually(lambda: len(daemon.events("server registered")) > before, "the server is registered")
            yield server
        finally:
            server.kill()


def test_by_a_service_and_by_a_server(cluster: Cluster) -> None:
    with grpc.insecure_channel(address_of(cluster.front)) as channel, serving(cluster.back, "canary") as server:
        roads = ({"node": cluster.front.socket}, {"node": cluster.back.socket}, {"channel": channel})

        def known() -> bool:
            with ipcd_client.channel("ipcd-node:", node=cluster.front.socket) as api:
                from ipcd_client.pb.ipcd.v1 import node_pb2, node_pb2_grpc

                stub = node_pb2_grpc.NodeStub(api)
                return bool(stub.ListCatalog(node_pb2.ListCatalogRequest(service="lab.v1.Lab"), timeout=LONG).servers)

        eventually(known, "node a knows the server on b")
        with contextlib.ExitStack() as stack:
            watches = [
                stack.enter_context(ipcd_client.watch_exit(**what, **road))  # type: ignore[arg-type]
                for road in roads
                for what in ({"service": "lab.v1.Lab"}, {"name": "canary"}, {"name": "canary@b"})
            ]
            assert {(watch.process.node, watch.process.pid) for watch in watches} == {("b", server.pid)}
            with serving(cluster.front, "canary") as other, pytest.raises(Ambiguous) as caught:
                ipcd_client.watch_exit(name="canary", node=cluster.front.socket)
            assert f"{other.pid}@a and {server.pid}@b; say which" in str(caught.value)
            # That the first one is watched is not changed by that.
            assert not any(watch.exit for watch in watches)
            server.kill()
            assert {watch.wait(LONG).signal for watch in watches} == {os_signals.SIGKILL}


def test_the_daemon_is_restarted(nodes: Daemons, face: Face) -> None:
    first = nodes.run("a")
    with process(4) as watched, process() as lost:
        watch, other = (face.watch(each.pid, node=first.socket) for each in (watched, lost))
        first.kill()
        end(lost)
        lost.wait(LONG)
        again = nodes.run("a")
        with pytest.raises(Lost, match=f"process {lost.pid} on node a ended while nobody watched it"):
            other.wait()
        with pytest.raises(TimedOut):
            watch.wait(0.05)

        def watching() -> bool:
            with contextlib.suppress(TimedOut):
                watch.wait(0.02)
            return _has_pidfd(again, watched.pid)

        eventually(watching, "it is watched again")
        end(watched)
        assert watch.wait().code == 4


def _has_pidfd(daemon: Daemon, pid: int) -> bool:
    """Whether it has one of this process."""
    for each in Path(f"/proc/{daemon.process.pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            if f"\nPid:\t{pid}\n" in each.read_text():
                return True
    return False


def test_whoever_watches_no_more_holds_nothing(nodes: Daemons) -> None:
    a = nodes.run("a")
    with process() as watched:
        code = "import ipcd_client, sys; w = ipcd_client.watch_exit(sys.argv[1], node=sys.argv[2]); print(1); w.wait()"
        arguments = [sys.executable, "-u", "-c", code, str(watched.pid), a.socket]
        before = a.descriptors()
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as watcher:
            assert watcher.stdout is not None
            watcher.stdout.readline()
            assert a.descriptors() > before
            watcher.kill()
        eventually(lambda: a.descriptors() <= before, "the daemon has let go of everything")
        with ipcd_client.watch_exit(watched.pid, node=a.socket) as watch:
            watch.close()
            with pytest.raises(UsageError, match="is closed"):
                watch.wait(0)
        # No more than so many.
        with contextlib.ExitStack() as stack, ipcd_client.channel(target_of("a"), node=a.socket) as channel:
            stub = signal_pb2_grpc.SignalStub(channel)
            request = signal_pb2.WatchExitRequest(name=str(watched.pid))
            for _ in range(64):
                stream = stub.WatchExit(request, timeout=LONG)
                stack.callback(stream.cancel)
                next(stream)
            with pytest.raises(grpc.RpcError) as caught:
                next(stub.WatchExit(request, timeout=LONG))
            assert "the limit of 64 watches of processes' ends of one process is reached" in str(caught.value)


def test_only_a_parent_tells(cluster: Cluster) -> None:
    node = cluster.front.socket
    with process(6) as watched, ipcd_client.watch_exit(watched.pid, node=node) as watch:
        with ipcd_client.channel(target_of("a"), node=node) as channel:
            tell = signal_pb2_grpc.SignalStub(channel).TellExit
            for name in (str(watched.pid), str(os.getppid()), "1"):
                with pytest.raises(grpc.RpcError) as caught:
                    tell(signal_pb2.TellExitRequest(name=name, wait_status=0), timeout=LONG)
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        end(watched)
        assert watch.wait(LONG).code == 6
        # The kernel has said so already, and nobody watches it any more.
        eventually(lambda: not _has_pidfd(cluster.front, watched.pid), "the watch is over")
        assert tell_exit(watched.pid, node=node) == 0
        watched.wait(LONG)
        with pytest.raises(ChildProcessError):
            tell_exit(watched.pid, node=node)
    with pytest.raises((NotAllowed, ChildProcessError)):
        tell_exit(1, node=node)
