"""A writer that closes while its readers do something else than to take what they have: what it has written is with
somebody, or it says that it is not."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import ipcd_client
import pytest
from integration.daemons import LONG, eventually
from integration.exposing import line_of
from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc
from ipcd_client.primitives import pipe_writer
from ipcd_client.primitives.pipe_reader import PIECE
from primitives.pipe_faces import FACES, Loop, Sync
from primitives.roads import Road
from primitives.test_pipe_ends import child
from primitives.test_pipe_torn import DIRECT, held, reading


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest, road: Road) -> Iterator[Sync | Loop]:
    kind: Any = FACES[request.param]
    face: Sync | Loop = kind(road)
    yield face
    face.close()


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """For the other side."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


class Told(pipe_pb2_grpc.PipeReaderServicer):
    """A reader that takes nothing until its writer has closed, and then all when `may_end` is set; or nothing at all:
    it closes, and sets `left` when the writer has heard of that."""

    def __init__(self, *, leaves: bool) -> None:
        self.got: list[bytes] = []
        self.may_end = threading.Event()
        self.left = threading.Event()
        self._leaves = leaves

    def Give(self, requests: Iterator[pipe_pb2.PipeGive], context: Any) -> Iterator[pipe_pb2.PipeCredit]:
        next(requests)
        yield pipe_pb2.PipeCredit(window=PIECE)
        self.got += [request.data for request in requests]
        if self._leaves:
            over = threading.Event()
            context.add_callback(over.set)
            yield pipe_pb2.PipeCredit(closed=True)
            over.wait(LONG)
            self.left.set()
        else:
            self.may_end.wait(LONG)


def stop(server: grpc.Server) -> None:
    server.stop(None).wait()


@contextlib.contextmanager
def two(road: Road, name: str) -> Iterator[tuple[Told, Told]]:
    """One that stays, and one that leaves."""
    with contextlib.ExitStack() as stack:
        both = Told(leaves=False), Told(leaves=True)
        for number, each in enumerate(both):
            served = f"told{number}.{name.partition('@')[0]}"
            server = ipcd_client.server(name=served, node=road.home.socket)
            pipe_pb2_grpc.add_PipeReaderServicer_to_server(each, server)
            server.start()
            stack.callback(stop, server)
            stack.enter_context(held(road.home, reading(name, served, road.home.node, b"%d" % number)))
        stack.callback(both[0].may_end.set)
        yield both


def gives_of(writer: Any) -> list[Any]:
    """A writer's connections with readers that have answered."""
    engine: Any = getattr(writer, "_engine", None) or writer._end._writer
    return [give for give in list(engine._gives.values()) if give.window]


@DIRECT
def test_what_comes_back_while_a_writer_closes_goes_to_one_that_had_all(
    face: Sync | Loop, road: Road, aside: ThreadPoolExecutor
) -> None:
    name = road.name("back")
    with two(road, name) as (stays, leaves):
        writer = face.open_write(name, wait=LONG)
        eventually(lambda: len(gives_of(writer)) == 2, "both have answered")
        # Room for one more is at the one that stays.
        for give in gives_of(writer):
            give.window = 2 * PIECE
        for letter in (b"a", b"b"):
            writer.write(letter * PIECE)
        closing = aside.submit(writer.close)
        assert leaves.left.wait(LONG)
        stays.may_end.set()
        closing.result(LONG)
        assert len(leaves.got) == 1
        assert sorted(piece[:1] for piece in stays.got) == [b"a", b"b"]


@DIRECT
def test_what_comes_back_while_a_writer_closes_goes_to_one_that_is_new(
    face: Sync | Loop, road: Road, aside: ThreadPoolExecutor
) -> None:
    name = road.name("new")
    with two(road, name) as (stays, leaves):
        writer = face.open_write(name, wait=LONG)
        eventually(lambda: len(gives_of(writer)) == 2, "both have answered")
        for letter in (b"a", b"b"):
            writer.write(letter * PIECE)
        closing = aside.submit(writer.close)
        assert leaves.left.wait(LONG)
        with face.open_read(name, nonblock=True) as new:
            eventually(lambda: sum(bool(give.kept) for give in gives_of(writer)) == 2, "the new one has it")
            stays.may_end.set()
            closing.result(LONG)
            assert new.read(PIECE) == leaves.got[0]


@DIRECT
def test_a_reader_that_is_stopped_holds_up_nobody(
    face: Sync | Loop, road: Road, aside: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, total = road.name("stopped"), 32 * PIECE
    with child(road.front, name, "read", "some") as stopped, face.open_read(name, nonblock=True) as reader:
        writer = face.open_write(name, wait=LONG)
        assert line_of(stopped) == "open"
        eventually(lambda: len(gives_of(writer)) == 2, "both have answered")
        stopped.send_signal(signal.SIGSTOP)
        rest = aside.submit(reader.read)

        def write() -> None:
            for _ in range(total // PIECE):
                writer.write(bytes(PIECE))

        aside.submit(write).result(LONG)
        monkeypatch.setattr(pipe_writer, "LINGER", 0.5)
        with pytest.raises(BrokenPipeError, match="bytes may be with it") as caught:
            aside.submit(writer.close).result(LONG)
        (lost,) = re.findall(r"and (\d+) bytes", str(caught.value))
        # Each byte is read or lost.
        assert len(rest.result(LONG)) + int(lost) == total
        assert int(lost) > 0


@DIRECT
def test_a_writer_whose_only_reader_is_stopped_can_close(
    road: Road, aside: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = road.name("only")
    with child(road.front, name, "read", "some") as stopped:
        writer = ipcd_client.pipe(name, **road.keywords).open_write(wait=LONG)
        assert line_of(stopped) == "open"
        stopped.send_signal(signal.SIGSTOP)
        # More than goes to a process that takes nothing.
        for _ in range(4):
            writer.write(bytes(PIECE))
        monkeypatch.setattr(pipe_writer, "LINGER", 0.5)
        closing = aside.submit(writer.close)
        try:
            with pytest.raises(BrokenPipeError, match="takes anything"):
                closing.result(LONG)
        finally:
            stopped.kill()
