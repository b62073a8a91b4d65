"""Pipes whose parties die, whose daemon is started again, and whose nodes do not see each other; and those without
names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import LONG, Daemon, Daemons, eventually
from integration.exposing import line_of
from integration.ipcctl.runs import ctl
from integration.test_rules import rule
from ipcd_client.errors import NotAllowed, UsageError
from ipcd_client.primitives.errors import Ambiguous, BadRequest, NameTaken, NoSuchName
from ipcd_client.rpc.failure import CallFailed
from primitives.roads import Cluster, Road

HANDED = str(Path(__file__).with_name("pipe_handed.py"))
CHILD = str(Path(__file__).with_name("pipe_child.py"))


@contextlib.contextmanager
def child(node: Daemon, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """pipe_child.py, killed at the end."""
    with subprocess.Popen(
        [sys.executable, CHILD, node.socket, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert line_of(process) == "opening"
            yield process
        finally:
            process.kill()


def breaks(writer: Any) -> None:
    """Writes until the pipe is broken."""

    def broken() -> bool:
        try:
            writer.write(b"x")
        except BrokenPipeError:
            return True
        return False

    eventually(broken, "the pipe breaks")
    with contextlib.suppress(BrokenPipeError):
        writer.close()


def waiting(road: Road, name: str) -> int:
    try:
        return int(ipcd_client.pipe(name, **road.keywords).facts().waiting)
    except NoSuchName:
        return 0


def test_a_writer_is_killed(road: Road) -> None:
    name = road.name("w")
    with (
        child(road.front, name, "write", "last words") as process,
        ipcd_client.pipe(name, **road.keywords).open_read(wait=LONG) as reader,
    ):
        assert line_of(process) == "open"
        assert line_of(process) == "written"
        assert reader.read(10) == b"last words"
        process.kill()
        assert reader.read() == b""


def test_a_reader_is_killed(road: Road) -> None:
    name = road.name("r")
    with child(road.front, name, "read", "some") as process:
        writer = ipcd_client.pipe(name, **road.keywords).open_write(wait=LONG)
        writer.write(b"some and more")
        assert line_of(process) == "open"
        assert line_of(process) == "some"
        process.kill()
        breaks(writer)


@pytest.mark.parametrize("act", ["read", "write"])
def test_one_that_waits_is_killed(road: Road, act: str) -> None:
    name = road.name(f"waits-{act}")
    with child(road.front, name, act, "x") as process:
        eventually(lambda: waiting(road, name) == 1, "it waits")
        process.kill()
        eventually(lambda: waiting(road, name) == 0, "nobody waits")
        pipe = ipcd_client.pipe(name, **road.keywords)
        with pytest.raises(TimeoutError):
            _ = pipe.open_write(wait=0.05) if act == "read" else pipe.open_read(wait=0.05)


def test_one_of_two_is_killed_the_other_goes_on(cluster: Cluster) -> None:
    name = "two@a"
    with (
        child(cluster.front, name, "write", "from one") as process,
        ipcd_client.pipe(name, node=cluster.front.socket).open_read(wait=LONG) as reader,
    ):
        assert line_of(process) == "open"
        with ipcd_client.pipe(name, node=cluster.back.socket).open_write(wait=LONG) as other:
            assert reader.read(8) == b"from one"
            process.kill()
            process.wait(LONG)
            other.write(b"from two")
            assert reader.read(8) == b"from two"
        assert reader.read() == b""


@pytest.mark.parametrize("face", ["sync", "aio"])
def test_the_daemon_is_killed_and_started_again(nodes: Daemons, aside: ThreadPoolExecutor, face: str) -> None:
    node = nodes.run("a")
    keywords: dict[str, Any] = {"node": node.socket}

    def restart() -> None:
        nonlocal node
        node.kill()
        Path(node.socket).unlink(missing_ok=True)
        node = nodes.run("a")

    def there() -> bool:
        try:
            facts = ipcd_client.pipe("p", **keywords).facts()
        except (NoSuchName, CallFailed):
            return False
        return (facts.readers, facts.writers) == (1, 1)

    def on_threads() -> None:
        opening = aside.submit(ipcd_client.pipe("p", **keywords).open_write)
        with ipcd_client.pipe("p", **keywords).open_read() as reader:
            with opening.result(LONG) as writer:
                writer.write(b"before")
                assert reader.read(6) == b"before"
                node.kill()
                Path(node.socket).unlink(missing_ok=True)
                # The bytes need no daemon.
                writer.write(b"without")
                assert reader.read(7) == b"without"
                restart()
                eventually(there, "both are there again")
                writer.write(b"after")
                assert reader.read(5) == b"after"
            assert reader.read() == b""

    async def on_a_loop() -> None:
        pipe = ipcd_client.aio.pipe("p", **keywords)

        async def opened() -> Any:
            return await pipe.open_write()

        opening = asyncio.ensure_future(opened())
        async with pipe.open_read() as reader:
            writer = await opening
            writer.write(b"before")
            assert await reader.readexactly(6) == b"before"
            await asyncio.to_thread(restart)
            await asyncio.to_thread(eventually, there, "both are there again")
            writer.write(b"after")
            assert await reader.readexactly(5) == b"after"
            await writer.close()
            assert await reader.read() == b""

    if face == "sync":
        on_threads()
    else:
        asyncio.run(on_a_loop())


def test_who_waits_hears_that_the_daemon_is_gone(nodes: Daemons, aside: ThreadPoolExecutor) -> None:
    node = nodes.run("a")
    opening = aside.submit(ipcd_client.pipe("p", node=node.socket).open_read)
    eventually(lambda: "p " in ctl("pipe", "ls", node=node).out, "it waits")
    node.kill()
    with pytest.raises(CallFailed, match=r".*"):
        opening.result(LONG)
    Path(node.socket).unlink(missing_ok=True)


def test_made_on_both_sides_of_a_partition_both_are_shown(nodes: Daemons) -> None:
    file = nodes.folder / "a.toml"
    file.write_text("")
    a = nodes.run("a", "--config", str(file))
    b = nodes.run("b")
    for node in (a, b):
        ipcd_client.pipe("p", node=node.socket).make()
    file.write_text(f'peers = ["{b.listen}"]\n')
    a.process.send_signal(signal.SIGHUP)
    a.logged("node linked", "b")

    def shown() -> bool:
        rows = ctl("pipe", "ls", "-o", "json", node=a).json
        return [(row["name"], row["node"], row["readers"]) for row in rows] == [("p", "a", 0), ("p", "b", 0)]

    eventually(shown, "both are shown")
    with pytest.raises(Ambiguous, match="p@a and p@b"):
        ipcd_client.pipe("p", node=a.socket).open_read()
    for node, other in ((a, b), (b, a)):
        pipe = ipcd_client.pipe(f"p@{node.node}", node=other.socket)
        assert pipe.facts().node == node.node


def test_who_may(nodes: Daemons) -> None:
    file = nodes.folder / "a.toml"
    me = f"node/*/uid/{os.getuid()}"
    file.write_text(
        rule("deny", me, "publish", "pipe:in")
        + rule("deny", me, "read", "pipe:out")
        + rule("deny", me, "register", "pipe:new")
    )
    node = nodes.run("a", "--config", str(file))
    for method, name, verb in (
        ("open_write", "in", "publish"),
        ("open_read", "out", "read"),
        ("open_read", "new", "register"),
    ):
        with pytest.raises(NotAllowed, match=f"may not {verb} pipe:{name} on node a: rule"):
            getattr(ipcd_client.pipe(name, node=node.socket), method)(wait=0.1)
    with pytest.raises(NotAllowed):
        ipcd_client.pipe("new", node=node.socket).make()
    with pytest.raises(NotAllowed):
        ipcd_client.pipe("out", node=node.socket).facts()


# -- without names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_ends_go_to_another_process(cluster: Cluster, method: str) -> None:
    done = subprocess.run(
        [sys.executable, HANDED, cluster.front.socket, method], capture_output=True, text=True, timeout=LONG
    )
    assert done.stdout == "HELLO\n", done.stderr


def test_an_end_is_inherited(cluster: Cluster) -> None:
    """By a fork, which a program of its own does: this one has threads."""
    code = f"""
import os, ipcd_client
from ipcd_client.errors import UsageError
reader, writer = ipcd_client.unnamed_pipe(node={cluster.front.socket!r})
child = os.fork()
if not child:
    with writer as sink:
        sink.write(b"from the child")
    os._exit(0)
with reader as source:
    print(source.read(), flush=True)  # else the next child has it in its buffer, too
os.waitpid(child, 0)
reader, writer = ipcd_client.unnamed_pipe(node={cluster.front.socket!r})
source = reader.open()
child = os.fork()
if not child:
    for use in (lambda: source.read(1), reader.open):
        try:
            use()
        except UsageError as error:
            print("no:", error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
writer.open().close()
print(source.read(1))
source.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG)
    assert done.stdout.splitlines() == [
        "b'from the child'",
        "no: the pipe was opened in another process: open it in this one",
        "no: this end of a pipe was opened in another process",
        "b''",
    ], done.stderr


def test_an_end_travels_in_a_message_to_another_node(cluster: Cluster) -> None:
    name = "tokens@b"
    reader, writer = ipcd_client.unnamed_pipe(node=cluster.front.socket)
    with ThreadPoolExecutor(1) as aside:
        opening = aside.submit(ipcd_client.pipe(name, node=cluster.front.socket).open_write)
        with ipcd_client.pipe(name, node=cluster.back.socket).open_read() as inbox:
            with opening.result(LONG) as outbox:
                outbox.write(writer.token)
            token = inbox.read()
    with ipcd_client.pipe_end(token, node=cluster.back.socket) as far:
        far.write(b"from the other node")
        with reader as source:
            assert source.read(19) == b"from the other node"
            for token in (reader.token, writer.token):
                with pytest.raises(NameTaken, match="can be opened once"):
                    ipcd_client.pipe_end(token, node=cluster.back.socket).open()
    with pytest.raises(NoSuchName, match="opened and closed"):
        ipcd_client.pipe_end(writer.token, node=cluster.front.socket).open()
    assert not [row for row in ctl("pipe", "ls", "-o", "json", node=cluster.front).json if "unnamed" in row["name"]]
    for wrong in (b"", b"\xff", b"x"):
        with pytest.raises(BadRequest, match="no end of a pipe"):
            ipcd_client.pipe_end(wrong)


def test_an_open_end_is_not_handed_on(cluster: Cluster) -> None:
    reader, writer = ipcd_client.unnamed_pipe(node=cluster.front.socket)
    assert pickle.loads(pickle.dumps(reader)).token == reader.token
    with writer as sink, reader as source:
        with pytest.raises(UsageError, match="open cannot be handed on"):
            pickle.dumps(reader)
        sink.write(b"x")
        assert source.read(1) == b"x"


def test_without_names_on_a_loop(cluster: Cluster) -> None:
    async def main() -> None:
        reader, writer = await ipcd_client.aio.unnamed_pipe(node=cluster.front.socket)
        far = ipcd_client.aio.pipe_end(pickle.loads(pickle.dumps(writer)).token, node=cluster.back.socket)
        async with far.open_write() as sink, reader.open_read() as source:
            sink.write(b"one\ntwo\nthree")
            await sink.drain()
            await sink.close()
            assert [line async for line in source] == [b"one\n", b"two\n", b"three"]
            assert source.at_eof()

    asyncio.run(main())
