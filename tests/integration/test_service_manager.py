"""The daemon below systemd, whose part the tests play: sockets that are passed, words, signs of life."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from typing import BinaryIO

import pytest
from integration.daemons import LONG, Daemons, attached, eventually, run
from integration.manager import Manager, managing
from ipcd_client.pb.ipcd.v1 import node_pb2


@pytest.fixture
def manager(cluster: Daemons) -> Iterator[Manager]:
    with managing(cluster) as one:
        yield one


def test_takes_the_sockets_that_are_passed(manager: Manager) -> None:
    manager.open_attach()
    address = manager.open_listen()
    daemon = manager.start().up()
    assert daemon.listen == address

    async def main() -> None:
        async with attached(daemon) as client:
            status = await client.call("Status", node_pb2.StatusRequest(), node_pb2.StatusReply)
            assert (status.pid, status.listen) == (daemon.process.pid, address)

    run(main)
    other = manager.cluster.run("b", "--peer", address)
    other.logged("node linked", '"a"')
    assert daemon.stop() == 0
    # It belongs to who made it, and beside it lies nothing.
    assert list(manager.path.parent.iterdir()) == [manager.path]


def test_one_socket_passed_and_the_other_opened(manager: Manager) -> None:
    address = manager.open_listen()
    daemon = manager.start().up()
    assert daemon.listen == address
    assert manager.path.exists()
    assert daemon.stop() == 0
    assert not manager.path.exists()


def test_who_comes_while_there_is_no_daemon_waits(manager: Manager) -> None:
    manager.open_attach()
    first = manager.start().up()
    assert first.stop() == 0
    with socket.socket(socket.AF_UNIX) as early:
        early.connect(str(manager.path))
        second = manager.start().up()
        second.logged("attached", str(os.getpid()))


def test_a_second_daemon_is_refused_as_ever(manager: Manager) -> None:
    manager.open_attach()
    manager.start().up()
    second = manager.cluster.start("a")
    assert second.process.wait(LONG) == 2
    assert "listens on it" in second.text()


def _tcp(host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind((host, 0))
    return sock


def _abstract() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(f"\0ipcd-test-{os.getpid()}")
    return sock


@pytest.mark.parametrize(
    ("name", "make", "listening", "words"),
    [
        ("door", _tcp, True, "FileDescriptorName= must be attach or listen"),
        ("attach", _tcp, True, "is not a UNIX socket for streams"),
        ("listen", _abstract, True, "is not a TCP socket for streams"),
        ("listen", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), False, "is not a TCP socket for streams"),
        ("listen", _tcp, False, "does not listen"),
        ("listen", lambda: _tcp("0.0.0.0"), True, "add --insecure"),
        ("attach", _abstract, True, "has no path"),
        ("attach:listen", _tcp, True, "does not name the 1 passed sockets"),
    ],
)
def test_what_is_passed_is_checked(
    manager: Manager, name: str, make: Callable[[], socket.socket], listening: bool, words: str
) -> None:
    manager.add(name, make(), listening=listening)
    daemon = manager.start()
    assert daemon.process.wait(LONG) == 2
    assert words in daemon.text()
    assert not manager.path.exists()


def test_another_address_than_the_one_that_is_set_is_refused(manager: Manager) -> None:
    address = manager.open_listen()
    daemon = manager.start("--listen", "127.0.0.1:1")
    assert daemon.process.wait(LONG) == 2
    assert f"listen: 127.0.0.1:1 is set, but the service manager listens at {address}" in daemon.text()


def test_another_path_than_the_one_that_is_set_is_refused(manager: Manager) -> None:
    path = manager.cluster.folder / "elsewhere.sock"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    manager.add("attach", sock)
    daemon = manager.start()
    assert daemon.process.wait(LONG) == 2
    assert f"socket: {manager.path} is set, but the service manager listens at {path}" in daemon.text()


def test_sockets_for_another_process_are_left_alone(cluster: Daemons) -> None:
    """As when a shell that systemd has started starts a daemon."""
    daemon = cluster.run("a", LISTEN_PID="1", LISTEN_FDS="1", LISTEN_FDNAMES="attach")
    assert daemon.stop() == 0


def test_tells_what_it_does(manager: Manager) -> None:
    daemon = manager.start().up()
    assert manager.hear() == "READY=1"
    daemon.process.send_signal(signal.SIGHUP)
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", manager.hear())
    assert manager.hear() == "READY=1"
    assert daemon.stop() == 0
    assert manager.hear() == "STOPPING=1"


def test_watchdog_is_told_until_the_loop_is_stuck(manager: Manager) -> None:
    """The pipe of its log is full, so that the loop is held in the midst of a line. A thread would go on."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as log:
        daemon = manager.start(watchdog=100_000, stderr=writer)
        try:
            manager.heard("READY=1")
            assert {manager.hear() for _ in range(5)} == {"WATCHDOG=1"}
            os.set_blocking(writer, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(writer, bytes(1))
            # The file is one for both ends of the fork, so the daemon's would not wait either.
            os.set_blocking(writer, True)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(daemon.socket)
                eventually(lambda: _silent(manager), "the daemon falls silent")
                assert daemon.process.poll() is None
                os.set_blocking(reader, False)
                eventually(lambda: _emptied(log) and not _silent(manager), "it goes on when it can")
        finally:
            os.close(writer)
        assert daemon.stop() == 0


def _silent(manager: Manager) -> bool:
    """For twenty times as long as it takes to be told."""
    try:
        manager.hear(1.0)
    except TimeoutError:
        return True
    return False


def _emptied(log: BinaryIO) -> bool:
    while log.read(1 << 16):
        pass
    return True


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}],
)
def test_no_watchdog_is_told_where_none_is_wanted(cluster: Daemons, environment: dict[str, str]) -> None:
    with managing(cluster) as manager:
        daemon = cluster.run("b", NOTIFY_SOCKET=str(cluster.folder / "a.notify"), **environment)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.logged("reloaded")
        assert daemon.stop() == 0
        told = [manager.hear() for _ in range(4)]
        assert [word.partition("\n")[0] for word in told] == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
