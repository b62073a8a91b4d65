"""The daemon as a process: its files, its signals, its words to who starts it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from integration.daemons import LONG, Daemons, attached, eventually, run
from ipcd_client.pb.ipcd.v1 import node_pb2


def test_starts_and_stops(cluster: Daemons) -> None:
    daemon = cluster.run("a")
    path = Path(daemon.socket)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    async def main() -> None:
        async with attached(daemon) as client:
            status = await client.call("Status", node_pb2.StatusRequest(), node_pb2.StatusReply)
            assert (status.node, status.pid, status.listen) == ("a", daemon.process.pid, daemon.listen)
            assert status.listen.startswith("127.0.0.1:")
            assert (status.attached, status.servers, list(status.discovery)) == (1, 0, [])

    run(main)
    assert daemon.stop() == 0
    assert list(path.parent.iterdir()) == []
    assert daemon.logged("signal")["signal"] == "SIGTERM"
    assert daemon.logged("stopped")["node"] == "a"


def test_an_existing_folder_keeps_its_rights(cluster: Daemons) -> None:
    folder = cluster.folder / "a"
    folder.mkdir(mode=0o755)
    cluster.run("a")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_an_interrupt_is_an_interrupt(cluster: Daemons) -> None:
    assert cluster.run("a").stop(signal.SIGINT) == 130


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_while_it_starts_ends_it_in_order(tmp_path: Path, number: int, code: int) -> None:
    """The pipe that its log goes to is full, so that it is held at the line that says that it has started."""
    path = tmp_path / "ipcd.sock"
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        os.write(writer, bytes(4096))
        command = [sys.executable, "-m", "ipcd", "run", "--node", "a", "--socket", str(path), "--no-discovery"]
        process = subprocess.Popen(command, stderr=writer)
    finally:
        os.close(writer)
    try:
        eventually(path.exists, "its socket is there")
        process.send_signal(number)
        with os.fdopen(reader, "rb") as log:
            said = log.read()
        assert process.wait(LONG) == code
    finally:
        process.kill()
        process.wait()
    assert b"stopped" in said
    assert not path.exists()


def test_the_second_signal_is_at_once(cluster: Daemons) -> None:
    daemon = cluster.run("a")

    async def main() -> None:
        async with attached(daemon):
            daemon.process.send_signal(signal.SIGTERM)
            daemon.process.send_signal(signal.SIGINT)
            eventually(lambda: daemon.process.poll() is not None, "the daemon ends")

    run(main)
    assert not Path(daemon.socket).exists()


def test_a_live_socket_is_refused(cluster: Daemons) -> None:
    first = cluster.run("a")
    second = cluster.start("a")
    assert second.process.wait(LONG) == 2
    assert f"a running daemon (pid {first.process.pid}) listens on it" in second.text()

    async def main() -> None:
        async with attached(first) as client:
            assert await client.servers() == []

    run(main)


def test_a_socket_of_something_else_is_refused(cluster: Daemons) -> None:
    folder = cluster.folder / "a"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(folder / "ipcd.sock"))
        other.listen()
        daemon = cluster.start("a")
        assert daemon.process.wait(LONG) == 2
        assert "another process" in daemon.text()
    (folder / "ipcd.sock").unlink()
    (folder / "ipcd.sock").write_text("precious")
    daemon = cluster.start("a")
    assert daemon.process.wait(LONG) == 2
    assert "a file that is not a socket" in daemon.text()
    assert (folder / "ipcd.sock").read_text() == "precious"


def test_a_stale_socket_is_taken_over(cluster: Daemons) -> None:
    first = cluster.run("a")
    first.kill()
    assert Path(first.socket).exists()
    second = cluster.run("a")

    async def main() -> None:
        async with attached(second) as client:
            status = await client.call("Status", node_pb2.StatusRequest(), node_pb2.StatusReply)
            assert status.pid == second.process.pid

    run(main)
    assert second.stop() == 0
    assert not Path(first.socket).exists()


def test_of_many_that_start_at_once_one_lives(cluster: Daemons) -> None:
    (cluster.folder / "a").mkdir()
    # A stale file, which all of them find.
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(cluster.folder / "a" / "ipcd.sock"))
    started = [cluster.start("a") for _ in range(4)]
    eventually(lambda: sum(daemon.process.poll() == 2 for daemon in started) == 3, "three give up")
    (living,) = [daemon for daemon in started if daemon.process.poll() is None]
    living.up()

    async def main() -> None:
        async with attached(living) as client:
            assert await client.servers() == []

    run(main)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--listen", "192.0.2.1:7319"), "--insecure"),
        (("--listen", "nonsense"), "--listen: 'nonsense' is not HOST:PORT"),
        (("--peer", "here"), "--peer: 'here' is not HOST:PORT"),
        (("--config", "/nonexistent/ipcd.toml"), "/nonexistent/ipcd.toml: No such file"),
        (("--log-level", "loud"), "'loud' is not one of"),
    ],
)
def test_bad_settings(cluster: Daemons, arguments: tuple[str, ...], words: str) -> None:
    daemon = cluster.start("a", *arguments)
    assert daemon.process.wait(LONG) == 2
    assert words in daemon.text()


def test_a_taken_port_is_said_so(cluster: Daemons) -> None:
    first = cluster.run("a")
    second = cluster.start("b", "--listen", first.listen)
    assert second.process.wait(LONG) == 2
    assert f"listen {first.listen}: Address already in use" in second.text()


def test_insecure_warns_at_each_start(cluster: Daemons) -> None:
    # On loopback: the flag alone opens nothing.
    daemon = cluster.run("a", "--insecure")
    assert daemon.logged("insecure: connections from other machines carry no proof of identity")["level"] == "warning"


def test_hangup_reloads_what_can_change(cluster: Daemons) -> None:
    other = cluster.run("b")
    file = cluster.folder / "ipcd.toml"
    file.write_text('cluster = "default"\n')
    daemon = cluster.run("a", "--config", str(file))
    file.write_text(f'cluster = "another"\npeers = ["{other.listen}"]\n')
    daemon.process.send_signal(signal.SIGHUP)
    daemon.logged("reloaded")
    assert daemon.logged("changed settings that take a restart")["settings"] == "cluster"
    daemon.logged("node linked", other.listen)
    file.write_text("nonsense = 1\n")
    daemon.process.send_signal(signal.SIGHUP)
    assert "nonsense" in daemon.logged("reload failed, the settings stay as they were")["reason"]
    assert daemon.stop() == 0


def test_tells_the_service_manager(cluster: Daemons) -> None:
    path = cluster.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(LONG)
        daemon = cluster.run("a", NOTIFY_SOCKET=str(path))
        assert manager.recv(100) == b"READY=1"
        daemon.stop()
        assert manager.recv(100) == b"STOPPING=1"


STRANGER = """
import os, socket, sys
os.setgid(65534)
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
while piece := sock.recv(1 << 16):
    sys.stdout.buffer.write(piece)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_other_users_are_denied(cluster: Daemons) -> None:
    daemon = cluster.run("a")
    path = Path(daemon.socket)
    # The file's rights alone would keep them out: as if somebody had opened those.
    cluster.folder.chmod(0o755)
    path.parent.chmod(0o755)
    path.chmod(0o666)
    answer = subprocess.run(
        # From its own folder: those above are closed to others, too.
        [sys.executable, "-c", STRANGER, path.name],
        cwd=path.parent,
        stdout=subprocess.PIPE,
        timeout=LONG,
    ).stdout
    assert b"uid 65534" in answer
    assert b"the rule same-uid allows uid 0" in answer
    assert daemon.logged("attach refused", "same-uid")["uid"] == 65534
