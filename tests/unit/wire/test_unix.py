"""Connecting to socket files, and who is at the other end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ipcd_client.errors import WireError
from ipcd_client.testing.wire_tools import LIMIT
from ipcd_client.wire import unix


def test_connecting(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(WireError, match="refused"):
            unix.connect(str(path), LIMIT)
        listener.listen()
        with unix.connect(str(path), LIMIT) as sock:
            accepted, _ = listener.accept()
            with accepted:
                for end in (sock, accepted):
                    assert unix.credentials(end)[:3] == (os.getpid(), os.getuid(), os.getgid())


@pytest.mark.skipif(not unix._pidfds_differ(), reason="all pidfds have one inode before Linux 6.9")
def test_no_two_processes_have_the_same_pidfd(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        call = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)"
        with subprocess.Popen([sys.executable, "-c", call, path]) as child:
            accepted, _ = listener.accept()
            with accepted:
                seen = unix.credentials(accepted)
                pidfd = os.pidfd_open(child.pid)
                try:
                    assert seen == (child.pid, os.getuid(), os.getgid(), os.fstat(pidfd).st_ino)
                finally:
                    os.close(pidfd)
        with unix.connect(path, LIMIT):
            accepted, _ = listener.accept()
            with accepted:
                assert unix.credentials(accepted).pidfd_id not in {0, seen.pidfd_id}


def test_a_kernel_that_has_no_pidfds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix, "_pidfds_differ", lambda: False)
    one, other = socket.socketpair()
    with one, other:
        assert unix.credentials(one) == (os.getpid(), os.getuid(), os.getgid(), 0)


def test_abstract_names() -> None:
    name = f"ipcd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen()
        with unix.connect("@" + name, LIMIT) as sock:
            assert sock.getpeername() == b"\0" + name.encode()


def test_a_full_queue(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with unix.connect(path, LIMIT), pytest.raises(WireError):
            unix.connect(path, 0.05)


@pytest.mark.parametrize(("name", "why"), [("missing", "No such file"), ("x" * 200, "too long")])
def test_what_cannot_be_connected_to(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(WireError, match=why):
        unix.connect(str(tmp_path / name), LIMIT)
