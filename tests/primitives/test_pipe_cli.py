"""`ipcctl pipe`, as shells use it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ipcd_client
import pytest
from integration.daemons import LONG, Daemon, eventually
from integration.ipcctl.runs import CTL, ctl
from ipcd_client.primitives.errors import NoSuchName
from primitives.roads import Cluster


@contextlib.contextmanager
def running(node: Daemon, *arguments: str, **keywords: Any) -> Iterator[subprocess.Popen[bytes]]:
    """`ipcctl pipe` in the background, killed at the end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*CTL, "-s", node.socket, "pipe", *arguments], **{**pipes, **keywords}) as process:
        try:
            yield process
        finally:
            process.kill()


def test_two_hosts_one_pipeline(cluster: Cluster) -> None:
    with running(cluster.back, "read", "jobs") as reader, running(cluster.front, "write", "jobs") as writer:
        data = os.urandom(1 << 20)
        with ThreadPoolExecutor(1) as aside:
            reading = aside.submit(reader.communicate, timeout=LONG)
            _, errors = writer.communicate(data, timeout=LONG)
            assert (writer.returncode, errors) == (0, b"")
            assert reading.result() == (data, b"")
        assert reader.returncode == 0


def test_a_writer_ends_by_sigpipe(cluster: Cluster) -> None:
    with running(cluster.front, "write", "yes") as writer, running(cluster.back, "read", "yes") as reader:
        assert writer.stdin is not None
        assert reader.stdout is not None
        writer.stdin.write(b"y\n")
        writer.stdin.flush()
        assert reader.stdout.readline() == b"y\n"
        # Nobody reads what the reader prints: it ends so itself, and then the writer does.
        reader.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            while writer.poll() is None:
                writer.stdin.write(b"y\n" * 1000)
                writer.stdin.flush()
        assert writer.wait(LONG) == -signal.SIGPIPE
        assert reader.wait(LONG) == -signal.SIGPIPE
        with contextlib.suppress(BrokenPipeError):
            writer.stdin.close()


def test_interrupted(cluster: Cluster) -> None:
    with running(cluster.front, "read", "interrupted@b") as process:
        pipe = ipcd_client.pipe("interrupted@b", node=cluster.front.socket)

        def waits() -> bool:
            try:
                return pipe.facts().waiting == 1
            except NoSuchName:
                return False

        eventually(waits, "it waits")
        process.send_signal(signal.SIGINT)
        assert process.wait(LONG) == 130
        pipe.close()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["write", "none", "--nonblock"], 1, "nobody reads the pipe none"),
        (["write", "none", "--timeout", "2"], 1, "nobody reads the pipe none within 2 s"),
        (["read", "none", "--timeout", "2"], 1, "nobody writes the pipe none within 2 s"),
        (["read", "none", "--nonblock"], 0, ""),
        (["read", "a/b"], 2, "no name"),
        (["ls", "none"], 1, "there is no pipe none"),
        (["rm", "none"], 1, "there is no pipe none"),
        (["read"], 2, "Missing argument"),
    ],
)
def test_exit_codes(cluster: Cluster, arguments: list[str], code: int, words: str) -> None:
    done = ctl("pipe", *arguments, node=cluster.front)
    assert done.code == code, done
    assert words in done.err.replace("has a space, a slash", "no name")


def test_no_daemon(tmp_path: Any) -> None:
    for arguments in (["read", "x"], ["ls"]):
        assert ctl("-s", str(tmp_path / "none"), "pipe", *arguments).code == 3


def test_list(cluster: Cluster) -> None:
    assert ctl("pipe", "make", "kept@b", node=cluster.front).out == "kept at b\n"
    row = {"name": "kept", "node": "b", "readers": 0, "writers": 0, "waiting": 0, "stays": True}
    assert ctl("pipe", "ls", "kept", "-o", "json", node=cluster.front).json == [row]
    eventually(lambda: "kept" in ctl("pipe", "ls", node=cluster.front).out, "all nodes know it")
    assert ctl("pipe", "rm", "kept@b", "-o", "json", node=cluster.front).json == {"name": "kept", "removed": True}
    assert ctl("pipe", "ls", "kept", node=cluster.back).code == 1
