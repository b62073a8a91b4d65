"""`ipcctl value`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import ipcd_client
import pytest
from integration.daemons import LONG, Daemon, Daemons, daemons, eventually
from integration.exposing import line_of
from integration.ipcctl.runs import CTL, Done, ctl


@pytest.fixture(scope="module")
def node() -> Iterator[Daemon]:
    """One for all these tests, which use names of their own."""
    with daemons() as all_of_them:
        yield all_of_them.run("a")


def value(node: Daemon, *arguments: str, given: str = "") -> Done:
    return ctl("value", *arguments, node=node, given=given)


def version(done: Done) -> int:
    """That a command has printed."""
    assert (done.code, done.err) == (0, "")
    return int(done.out)


@contextlib.contextmanager
def running(node: Daemon, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*CTL, "-s", node.socket, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_setting_and_getting(node: Daemon, tmp_path: Path) -> None:
    first = version(value(node, "set", "one", "hello"))
    assert value(node, "get", "one") == Done(0, "hello", "")
    assert value(node, "set", "one", given="piped\n").out == f"{first + 1}\n"
    assert value(node, "get", "one@a").out == "piped\n"
    file = tmp_path / "data.bin"
    file.write_bytes(bytes(range(256)) * 1000)
    assert value(node, "set", "one", "-f", str(file), "--ttl", "1000").out == f"{first + 2}\n"
    got = subprocess.run([*CTL, "-s", node.socket, "value", "get", "one"], capture_output=True, timeout=LONG)
    assert got.stdout == file.read_bytes()
    shown = value(node, "get", "one", "--info", "-o", "json").json
    assert 0 < shown.pop("ttl") <= 1000
    assert shown == {"name": "one", "node": "a", "version": first + 2, "bytes": 256_000, "held": False}
    facts = value(node, "get", "one", "--info").out
    assert "version" in facts
    assert "256000" in facts
    value(node, "set", "one", "text")
    shown = value(node, "get", "one", "-o", "json").json
    assert (shown["text"], shown["data"]) == ("text", "dGV4dA==")
    assert value(node, "rm", "one") == Done(0, "", "")
    assert value(node, "set", "-o", "json", "one", "x").json == {"name": "one", "version": first + 4}


def test_the_answer_is_no(node: Daemon) -> None:
    assert value(node, "get", "none") == Done(1, "", "ipcctl: there is no value none\n")
    assert value(node, "get", "--wait", "0.01", "none").code == 1
    assert value(node, "rm", "none").code == 1
    assert value(node, "cas", "two", "1", "x").code == 1
    first = version(value(node, "cas", "two", "0", "x"))
    words = f"ipcctl: the value two has the version {first}, not 0\n"
    assert value(node, "cas", "two", "0", "y") == Done(1, "", words)
    failed = value(node, "cas", "-o", "json", "two", "7", "y")
    assert failed.error == {
        "error": f"the value two has the version {first}, not 7",
        "code": "OTHER_VERSION",
        "exit": 1,
        "version": first,
    }
    assert value(node, "rm", "two", "--version", str(first + 1)).code == 1
    done = value(node, "rm", "two", "--version", str(first), "-o", "json")
    assert done.json == {"name": "two", "removed": True}


def test_wrong_usage(node: Daemon) -> None:
    assert value(node, "set", "three", "x", "-f", "-").code == 2
    assert value(node, "set", "three", "--ttl", "0").code == 2
    assert value(node, "cas", "three", "-1", "x").code == 2
    done = value(node, "get", "a b")
    assert done.code == 4
    assert "unprintable" in done.err


def test_no_daemon(tmp_path: Path) -> None:
    assert ctl("-s", str(tmp_path / "none"), "value", "get", "x").code == 3


def test_adding(node: Daemon) -> None:
    assert value(node, "add", "hits").out == "1\n"
    assert value(node, "add", "hits", "41").out == "42\n"
    assert value(node, "add", "hits", "-2", "-o", "json").json == {"name": "hits", "number": 40}
    assert value(node, "get", "hits").out == "40"
    value(node, "set", "hits", "many")
    done = value(node, "add", "hits")
    assert done.code == 4
    assert "no number" in done.err


def test_watching(node: Daemon) -> None:
    with running(node, "-o", "json", "value", "watch", "door", "-n", "3") as watch:
        value(node, "set", "door", "open")
        first = json.loads(line_of(watch))
        assert (first["version"] > 0, first["text"]) == (True, "open")
        value(node, "set", "door", "shut")
        assert json.loads(line_of(watch))["text"] == "shut"
        value(node, "rm", "door")
        gone = json.loads(line_of(watch))
        assert (gone["version"], "text" in gone) == (0, False)
        assert watch.wait(LONG) == 0
    done = ctl("--timeout", "2", "value", "watch", "door", node=node)
    assert done.code == 1
    value(node, "set", "door", "ajar")
    assert value(node, "watch", "door", "-n", "1").out.endswith(f"version {first['version'] + 2}  4 bytes  ajar\n")
    assert value(node, "watch", "door", "-n", "1", "--data").out == "ajar"
    with running(node, "value", "watch", "door") as watch:
        line_of(watch)
        watch.send_signal(signal.SIGINT)
        assert watch.wait(LONG) == 130


def test_what_a_command_holds_ends_with_it(node: Daemon) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        with running(node, "value", "cas", "--hold", "leader", "0", "me") as holder:
            line_of(holder)
            assert value(node, "cas", "leader", "0", "you").code == 1
            holder.send_signal(number)
            assert holder.wait(LONG) == code
        eventually(lambda: value(node, "get", "leader").code == 1, "it has ended")


def test_listing(cluster: Daemons) -> None:
    back = cluster.run("b")
    front = cluster.run("a", "--peer", back.listen)
    front.logged("node linked", "b")
    with ipcd_client.value("far@b", node=front.socket) as far, ipcd_client.value("near", node=front.socket) as near:
        of_far, of_near = far.set(b"12345"), near.set(b"1", ttl=1000)
        eventually(lambda: len(value(front, "ls", "-o", "json").json["values"]) == 2, "both are known")
        first, second = value(front, "ls", "-o", "json").json["values"]
        assert (first["name"], first["node"], first["version"], first["bytes"]) == ("far", "b", of_far, 5)
        assert second["uid"] == os.getuid()
        assert 0 < second["ttl"] <= 1000
        headings, *rows = value(front, "ls").out.splitlines()
        assert headings.split("  ")[0] == "NAME"
        assert [row.split()[:4] for row in rows] == [["far", "b", f"{of_far}", "5"], ["near", "a", f"{of_near}", "1"]]
        # As the shell asks for them.
        asked = ctl(
            node=front,
            IPCD_SOCKET=front.socket,
            _IPCCTL_COMPLETE="bash_complete",
            COMP_WORDS="ipcctl value get f",
            COMP_CWORD="3",
        )
        assert asked.out.endswith("far\n")
