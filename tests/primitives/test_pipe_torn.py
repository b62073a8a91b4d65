"""Pipes whose reader cannot be called or does not keep to the rules, and what is lost on the way: nobody waits for
ever, takes what is missing for the end of the file, or is told that something has arrived which has not."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import LONG, Daemon, Daemons, eventually
from integration.exposing import line_of
from integration.test_rules import rule
from ipcd_client.errors import Exhausted, IpcdError, NotAllowed, ProtocolError, WireLost, WireStarved
from ipcd_client.loop.life import TooFarBehind
from ipcd_client.loop.reading import Dismissed
from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc
from ipcd_client.primitives import pipe_hold, pipe_writer
from ipcd_client.primitives.errors import BadRequest, Lost, NoSuchName, TimedOut
from ipcd_client.primitives.pipe_reader import WINDOW
from ipcd_client.rpc.failure import CallFailed
from primitives.pipe_faces import FACES, Loop, Sync
from primitives.roads import Cluster, Road
from primitives.test_pipe_ends import child

DIRECT = pytest.mark.parametrize("road", ["here", "there"], indirect=True)


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest, road: Road) -> Iterator[Sync | Loop]:
    kind: Any = FACES[request.param]
    face: Sync | Loop = kind(road)
    yield face
    face.close()


@contextlib.contextmanager
def held(node: Daemon, request: pipe_pb2.PipeOpen) -> Iterator[None]:
    """An end that somebody holds open, and does nothing with."""
    over = threading.Event()

    def requests() -> Iterator[pipe_pb2.PipeOpen]:
        yield request
        over.wait(2 * LONG)

    with ipcd_client.channel(f"ipcd://{node.node}", node=node.socket) as channel:
        news = pipe_pb2_grpc.PipeStub(channel).Open(requests())
        next(news)
        try:
            yield
        finally:
            over.set()
            news.cancel()


def reading(name: str, server: str, node: str = "a", key: bytes = b"k") -> pipe_pb2.PipeOpen:
    """Of a reader that is at once there."""
    address = pipe_pb2.PipeAddress(node=node, server=server, key=key)
    return pipe_pb2.PipeOpen(name=name, side=pipe_pb2.PIPE_SIDE_READ, wait=0.0, reader=address)


def fails_to_write(writer: Any, kind: type[Exception], words: str) -> None:
    """Within some time each write does."""
    caught: list[Exception] = []

    def failed() -> bool:
        try:
            writer.write(b"x")
        except kind as error:
            caught.append(error)
        return bool(caught)

    eventually(failed, "writes fail")
    assert words in str(caught[0])
    with contextlib.suppress(kind, BrokenPipeError):
        writer.close()


# -- readers that cannot be called ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FACES)
def test_a_reader_that_may_not_be_called(nodes: Daemons, kind: str) -> None:
    file = nodes.folder / "a.toml"
    file.write_text(rule("deny", "**", "call", "ipcd.v1.PipeReader"))
    node = nodes.run("a", "--config", str(file))
    road = Road("here", Cluster(node, node), "rules")
    make: Any = FACES[kind]
    face = make(road)
    with ipcd_client.pipe("p", node=node.socket).open_read(nonblock=True):
        with pytest.raises(NotAllowed, match=r"may not call ipcd\.v1\.PipeReader"):
            face.open_write("p", wait=LONG)
        writer = face.open_write("p", nonblock=True)
        fails_to_write(writer, NotAllowed, "may not call ipcd.v1.PipeReader")
    face.close()


@DIRECT
def test_a_reader_that_cannot_be_reached(face: Sync | Loop, road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    name = road.name("nowhere")
    with held(road.home, reading(name, "nobody", road.home.node)):
        with pytest.raises(TimedOut, match="has answered within the time"):
            face.open_write(name, wait=0.05)
        monkeypatch.setattr(pipe_writer, "REACH", 0.5)
        with pytest.raises(CallFailed, match="cannot be reached: no server 'nobody'") as caught:
            face.open_write(name)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        writer = face.open_write(name, nonblock=True)
        fails_to_write(writer, CallFailed, "cannot be reached")


@DIRECT
def test_another_reader_has_what_one_that_cannot_be_reached_has_not(
    face: Sync | Loop, road: Road, aside: ThreadPoolExecutor
) -> None:
    name = road.name("one-of-two")
    with held(road.home, reading(name, "nobody", road.home.node)), face.open_read(name, nonblock=True) as reader:
        with face.open_write(name, wait=LONG) as writer:
            writer.write(b"all of it")
        assert reader.read(9) == b"all of it"


# -- readers that grant what they like -----------------------------------------------------------------------------


class Granting(pipe_pb2_grpc.PipeReaderServicer):
    """Says that so much may be on its way, and never that it has taken any."""

    def __init__(self, window: int) -> None:
        self.got = 0
        self._window = window

    def Give(self, requests: Iterator[pipe_pb2.PipeGive], context: Any) -> Iterator[pipe_pb2.PipeCredit]:
        next(requests)
        yield pipe_pb2.PipeCredit(window=self._window)
        for request in requests:
            self.got += len(request.data)


@contextlib.contextmanager
def granting(node: Daemon, name: str, window: int) -> Iterator[Granting]:
    """A reader of that sort."""
    servicer = Granting(window)
    server = ipcd_client.server(name=f"granting.{name.partition('@')[0]}", node=node.socket)
    pipe_pb2_grpc.add_PipeReaderServicer_to_server(servicer, server)
    server.start()
    try:
        with held(node, reading(name, f"granting.{name.partition('@')[0]}", node.node)):
            yield servicer
    finally:
        server.stop(None).wait()


@DIRECT
def test_a_reader_cannot_grant_as_much_as_it_likes(face: Sync | Loop, road: Road, aside: ThreadPoolExecutor) -> None:
    name = road.name("grants")
    with granting(road.home, name, (1 << 32) - 1) as servicer:
        writer = face.open_write(name, wait=LONG)
        writing = aside.submit(lambda: [writer.write(bytes(64 << 10)) for _ in range(256)])
        before = -1

        def stands() -> bool:
            nonlocal before
            last, before = before, servicer.got
            return 0 < last == before

        eventually(stands, "nothing more comes")
        assert servicer.got <= WINDOW
    with pytest.raises(BrokenPipeError):
        writing.result(LONG)
    with contextlib.suppress(BrokenPipeError):
        writer.close()


@DIRECT
def test_a_reader_that_takes_next_to_nothing(face: Sync | Loop, road: Road) -> None:
    name = road.name("narrow")
    with granting(road.home, name, 1), pytest.raises(BadRequest, match="takes only 1 bytes"):
        face.open_write(name, wait=LONG)


# -- what is lost --------------------------------------------------------------------------------------------------


def left(road: Road, name: str) -> int:
    """How many read it."""
    try:
        return int(ipcd_client.pipe(name, **road.keywords).facts().readers)
    except NoSuchName:
        return 0


def test_close_tells_that_a_killed_reader_has_not_read_all(face: Sync | Loop, road: Road) -> None:
    name = road.name("unread")
    with child(road.front, name, "read", "some") as process:
        writer = face.open_write(name, wait=LONG)
        writer.write(b"some and more")
        assert line_of(process) == "open"
        assert line_of(process) == "some"
        process.kill()
        process.wait(LONG)
        eventually(lambda: left(road, name) <= 0, "the reader is gone")
        with pytest.raises(BrokenPipeError, match=r"nobody reads|bytes may be with it"):
            writer.close()


@DIRECT
def test_close_is_quiet_when_a_killed_reader_has_said_that_it_has_read_all(face: Sync | Loop, road: Road) -> None:
    name = road.name("read")
    with child(road.front, name, "read", "all") as process:
        writer = face.open_write(name, wait=LONG)
        writer.write(b"all")
        assert line_of(process) == "open"
        assert line_of(process) == "all"
        engine: Any = getattr(writer, "_engine", None) or writer._end._writer
        eventually(lambda: not any(give.kept for give in engine._gives.values()), "it has said so")
        process.kill()
        process.wait(LONG)
        eventually(lambda: left(road, name) <= 0, "the reader is gone")
        writer.close()


@DIRECT
@pytest.mark.parametrize(
    "why",
    [
        WireLost("it does not answer"),
        WireStarved("it"),
        ProtocolError("bad-frame", "that is none"),
        TooFarBehind("it does not read"),
        Exhausted("it ended the connection: enough"),
        Dismissed("it ended the connection: bad-frame"),
    ],
    ids=lambda why: type(why).__name__,
)
def test_a_writer_that_may_live_is_no_end_of_the_file(
    face: Sync | Loop, road: Road, aside: ThreadPoolExecutor, why: IpcdError
) -> None:
    name = road.name("silent")
    reader = face.open_read(name, nonblock=True, **({"buffering": 0} if isinstance(face, Sync) else {}))
    with child(road.front, name, "write", "some") as process, reader:
        assert line_of(process) == "open"
        eventually(lambda: reader.read(4) == b"some", "the writer has written")
        rest = aside.submit(reader.read)
        engine: Any = reader._engine if isinstance(face, Sync) else reader._end._reader
        (connection,) = [each for each in engine._server._serving._peers if not each.idle]
        connection._loop.call_soon_threadsafe(connection.fail, why)
        with pytest.raises(Lost, match=rf"a writer of the pipe .* is lost: {why}"):
            rest.result(LONG)
        process.kill()
        # It has been told; the others' end is the end of the file.
        assert reader.read() == b""


@DIRECT
def test_threads_that_read_one_file_see_its_end_once_it_is_there(road: Road, aside: ThreadPoolExecutor) -> None:
    name, count, size = road.name("threads"), 5, 100
    opening = aside.submit(ipcd_client.pipe(name, **road.keywords).open_write, wait=LONG)
    with ipcd_client.pipe(name, **road.keywords).open_read(wait=LONG, buffering=0) as reader:
        closed = threading.Event()
        inbox: Any = reader._engine.inbox  # type: ignore[attr-defined]
        take = inbox.take

        def taken_late(most: int) -> Any:
            # As a thread that the system has stopped just there.
            time.sleep(0.01)
            return take(most)

        inbox.take = taken_late

        got = [0, 0]

        def read(which: int) -> bool:
            while data := reader.read(size):
                got[which] += len(data)
            return closed.is_set()

        both = [aside.submit(read, which) for which in range(2)]
        with opening.result(LONG) as writer:
            for number in range(count):
                writer.write(bytes(size))
                eventually(lambda: sum(got) == (number + 1) * size, "it is read")  # noqa: B023  used at once
            closed.set()
        assert [each.result(LONG) for each in both] == [True, True]


def test_a_home_that_was_started_again_is_not_believed_at_once(
    nodes: Daemons, aside: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = nodes.run("a")
    name = "p@a"
    writing = pipe_pb2.PipeOpen(name=name, side=pipe_pb2.PIPE_SIDE_WRITE)
    # Only the news that everybody has come back ends it.
    monkeypatch.setattr(pipe_hold, "RETURN", 2 * LONG)
    opening = aside.submit(ipcd_client.pipe(name, node=node.socket).open_read, wait=LONG)
    with held(node, writing):
        reader: Any = opening.result(LONG)
        end = aside.submit(reader.read, 1)
        node.kill()
    Path(node.socket).unlink(missing_ok=True)
    node = nodes.run("a")

    def back() -> bool:
        try:
            return int(ipcd_client.pipe(name, node=node.socket).facts().readers) == 1
        except (NoSuchName, CallFailed):
            return False

    eventually(back, "the reader is there again")
    writing.again = True
    with held(node, writing):
        # The writer is later, and there nevertheless.
        assert not end.done()
        hold = reader.raw._engine._hold
        reader.raw._background.soon(hold._settle_now)
    assert end.result(LONG) == b""
    reader.close()
