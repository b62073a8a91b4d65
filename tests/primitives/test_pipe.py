"""Pipes: every face, over every road."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import ipcd_client
import pytest
from integration.daemons import LONG, eventually
from integration.gateway import address_of
from ipcd_client.pb.ipcd.v1 import pipe_pb2, pipe_pb2_grpc
from ipcd_client.primitives.errors import BadRequest, NoReader, NoSuchName, TimedOut
from primitives.pipe_faces import FACES, Loop, Sync
from primitives.roads import Road

PIPE_BUF = 4096


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest, road: Road) -> Iterator[Sync | Loop]:
    """How this test uses pipes."""
    kind: Any = FACES[request.param]
    face: Sync | Loop = kind(road)
    yield face
    face.close()


def both(aside: ThreadPoolExecutor, face: Sync | Loop, name: str) -> tuple[Any, Any]:
    """The two ends of a pipe, which wait for each other."""
    writer = aside.submit(face.open_write, name, wait=LONG)
    reader = face.open_read(name, wait=LONG)
    return reader, writer.result(LONG)


def test_bytes_in_order_then_the_end_of_the_file(face: Sync | Loop, road: Road, aside: ThreadPoolExecutor) -> None:
    data = b"".join(b"%d\n" % number for number in range(200_000))
    reader, writer = both(aside, face, road.name("jobs"))
    with reader:

        def write() -> None:
            with writer:
                for start in range(0, len(data), 100_000):
                    writer.write(data[start : start + 100_000])

        written = aside.submit(write)
        assert reader.readline() == b"0\n"
        assert reader.read(4) == b"1\n2\n"
        assert reader.read() == data[6:]
        assert reader.read(1) == b""
        written.result(LONG)


def test_an_open_waits_for_the_other_side(face: Sync | Loop, road: Road, aside: ThreadPoolExecutor) -> None:
    name = road.name("waits")
    for method, word in ((face.open_read, "writes"), (face.open_write, "reads")):
        with pytest.raises(TimedOut, match=f"nobody {word} the pipe .* within 0.05 s"):
            method(name, wait=0.05)
    # Whoever waits may be there first or last.
    for first, second in ((face.open_read, face.open_write), (face.open_write, face.open_read)):
        waiting: Future[Any] = aside.submit(first, name)
        eventually(lambda: _waiting(face, name) == 1, "one waits")
        two = second(name)
        one = waiting.result(LONG)
        # The one that reads is closed first: nothing was written that would be lost.
        for end in (one, two) if first == face.open_read else (two, one):
            end.close()
    eventually(lambda: _waiting(face, name) is None, "the pipe is gone with its last end")


def _waiting(face: Sync | Loop, name: str) -> int | None:
    try:
        return int(face.do("facts", name).waiting)
    except NoSuchName:
        return None


def test_without_waiting(face: Sync | Loop, road: Road) -> None:
    name = road.name("nonblock")
    with pytest.raises(NoReader, match="nobody reads the pipe") as caught:
        face.open_write(name, nonblock=True)
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.ENXIO
    with face.open_read(name, nonblock=True) as reader:
        assert reader.read(1) == b""
        if road.kind == "gateway":
            return  # there the end of the file is the end of the call
        with face.open_write(name, nonblock=True) as writer:
            writer.write(b"now")
            assert reader.read(3) == b"now"
        assert reader.read(1) == b""


def test_a_writer_waits_for_a_slow_reader(face: Sync | Loop, road: Road, aside: ThreadPoolExecutor) -> None:
    reader, writer = both(aside, face, road.name("slow"))
    written = 0
    piece = bytes(64 << 10)
    total = 64 << 20

    def write() -> None:
        nonlocal written
        with writer:
            while written < total:
                writer.write(piece)
                written += len(piece)

    with reader:
        writing = aside.submit(write)
        held = -1

        def stands() -> bool:
            nonlocal held
            before, held = held, written
            return 0 < held == before

        eventually(stands, "the writer waits")
        # What is on its way is bounded, whatever the road.
        assert written < 16 << 20
        count = 0
        while data := reader.read(1 << 20):
            count += len(data)
        assert count == total
        writing.result(LONG)


def test_a_pipe_that_nobody_reads_any_more_is_broken(face: Sync | Loop, road: Road, aside: ThreadPoolExecutor) -> None:
    reader, writer = both(aside, face, road.name("broken"))
    writer.write(b"x" * 1000)
    assert reader.read(10) == b"x" * 10
    reader.close()

    def breaks() -> bool:
        try:
            writer.write(b"x")
        except BrokenPipeError as error:
            return error.errno == errno.EPIPE
        return False

    eventually(breaks, "writes fail")
    try:
        writer.close()
    except BrokenPipeError:
        pass


def test_writes_of_several_are_not_mixed(face: Sync | Loop, road: Road, aside: ThreadPoolExecutor) -> None:
    name, count = road.name("whole"), 60
    opening = [aside.submit(face.open_write, name, wait=LONG) for _ in range(4)]
    with face.open_read(name, wait=LONG) as reader:
        writers = [each.result(LONG) for each in opening]

        def write(writer: Any, letter: bytes) -> None:
            with writer:
                for _ in range(count):
                    writer.write(letter * PIPE_BUF)

        done = [aside.submit(write, *each) for each in zip(writers, (b"a", b"b", b"c", b"d"), strict=True)]
        data = reader.read()
        for each in done:
            each.result(LONG)
    blocks = [data[start : start + PIPE_BUF] for start in range(0, len(data), PIPE_BUF)]
    assert len(blocks) == 4 * count
    assert all(len(set(block)) == 1 for block in blocks)
    assert {block[:1] for block in blocks} == {b"a", b"b", b"c", b"d"}


def test_each_byte_goes_to_one_of_several_readers(face: Sync | Loop, road: Road, aside: ThreadPoolExecutor) -> None:
    name, count = road.name("several"), 300
    opening = [aside.submit(face.open_read, name, wait=LONG) for _ in range(3)]
    eventually(lambda: _waiting(face, name) == 3, "three wait")
    with face.open_write(name, wait=LONG) as writer:
        readers = [each.result(LONG) for each in opening]

        def read(reader: Any) -> bytes:
            with reader:
                data: bytes = reader.read()
                return data

        reading = [aside.submit(read, reader) for reader in readers]
        for number in range(count):
            writer.write(b"%08d" % number * 100)
    parts = [each.result(LONG) for each in reading]
    records = sorted(part[start : start + 800] for part in parts for start in range(0, len(part), 800))
    assert records == [b"%08d" % number * 100 for number in range(count)]


def test_what_a_reader_leaves_another_has(face: Sync | Loop, road: Road, aside: ThreadPoolExecutor) -> None:
    if road.kind == "gateway":
        pytest.skip("what is on its way to a gateway's client is lost with it")
    name = road.name("left")
    reader, writer = both(aside, face, name)
    with writer:
        writer.write(b"one two three")
        assert reader.read(4) == b"one " if isinstance(face, Loop) else reader.raw.read(4) == b"one "
        with face.open_read(name) as other:
            reader.close()
            got = b""
            while len(got) < 9:
                got += other.read(9 - len(got))
            assert got == b"two three"


def test_a_pipe_that_was_made_stays_until_it_is_removed(
    face: Sync | Loop, road: Road, aside: ThreadPoolExecutor
) -> None:
    name = road.name("stays")
    face.do("make", name)
    reader, writer = both(aside, face, name)
    facts = face.do("facts", name)
    assert (facts.readers, facts.writers, facts.waiting, facts.stays) == (1, 1, 0, True)
    assert facts.node == road.home.node
    writer.close()
    reader.close()
    eventually(lambda: face.do("facts", name).readers == 0, "the reader is gone")
    reader, writer = both(aside, face, name)
    face.do("remove", name)
    with pytest.raises(NoSuchName):
        face.do("facts", name)

    def breaks() -> bool:
        try:
            writer.write(b"x")
        except BrokenPipeError:
            return True
        return False

    eventually(breaks, "the writer hears of it")
    for end in (reader, writer):
        try:
            end.close()
        except BrokenPipeError:
            pass


def test_wrong_names(face: Sync | Loop, road: Road) -> None:
    for wrong in ("", "a b", "a/b", "x" * 200, "@b", "x@"):
        with pytest.raises(BadRequest):
            face.open_read(wrong)
    with pytest.raises(NoSuchName):
        face.do("remove", road.name("nothing"))
    with pytest.raises(NoSuchName, match="without a name"):
        face.open_read(f"unnamed.{'0' * 32}@{road.home.node}")
    with pytest.raises(BadRequest, match="no number of seconds"):
        face.open_read(road.name("x"), wait=-1.0)


def test_a_handle_is_used_again(road: Road, aside: ThreadPoolExecutor) -> None:
    pipe = ipcd_client.pipe(road.name("again"), **road.keywords)
    for text in (b"first", b"second"):
        reading = aside.submit(lambda: pipe.open_read(wait=LONG).read())
        with pipe.open_write(wait=LONG) as writer:
            writer.write(text)
        assert reading.result(LONG) == text


def test_plain_grpc_through_the_gateway(road: Road) -> None:
    """As another language has it: nothing of the SDK but the contract."""
    name = road.name("plain")
    with grpc.insecure_channel(address_of(road.front)) as channel:
        stub = pipe_pb2_grpc.PipeStub(channel)
        reading = stub.Read(pipe_pb2.PipeRead(name=name))
        requests = [pipe_pb2.PipeWrite(name=name, data=b"hello "), pipe_pb2.PipeWrite(data=b"world")]
        written = [answer.bytes for answer in stub.Write(iter(requests))]
        assert written == [0, 6, 5]
        assert b"".join(answer.data for answer in reading) == b"hello world"


def test_threads_share_an_end(road: Road) -> None:
    name = road.name("shared")
    got: list[bytes] = []

    def read() -> None:
        with ipcd_client.pipe(name, **road.keywords).open_read(wait=LONG) as reader:
            got.append(reader.read())

    reading = threading.Thread(target=read)
    reading.start()
    with ipcd_client.pipe(name, **road.keywords).open_write(wait=LONG) as writer:
        threads = [threading.Thread(target=writer.write, args=(letter * PIPE_BUF,)) for letter in (b"a", b"b", b"c")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    reading.join()
    blocks = [got[0][start : start + PIPE_BUF] for start in range(0, len(got[0]), PIPE_BUF)]
    assert sorted(blocks) == [letter * PIPE_BUF for letter in (b"a", b"b", b"c")]
