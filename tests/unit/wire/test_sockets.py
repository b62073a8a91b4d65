"""What only sockets can do to a wire: foreign peers, descriptors in odd ways, numbers that the kernel gives again."""

from __future__ import annotations

import array
import os
import resource
import socket
import threading
from collections.abc import Iterator
from functools import partial

import pytest
from ipcd_client.errors import ProtocolError, WireClosed
from ipcd_client.testing.wire_factories import SOCKETS, SocketFactory, UnixFactory
from ipcd_client.testing.wire_tools import LIMIT, MAX_FRAME, Worker, message, open_fds, soon
from ipcd_client.wire.base import Wire
from ipcd_client.wire.fds import ANCILLARY_SPACE, MAX_FDS, Fd
from ipcd_client.wire.sockets import SocketWire
from ipcd_client.wire.unix import UnixWire

Raw = tuple[SocketWire, socket.socket]


@pytest.fixture(params=[True, False], ids=["accepting", "not accepting"])
def accept_fds(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def raw(accept_fds: bool) -> Iterator[Raw]:
    """A UNIX wire, and the socket at its other end. Nothing is left open."""
    before = open_fds()
    ours, theirs = socket.socketpair()
    wire = UnixWire(ours, peer="the other end", accept_fds=accept_fds)
    wire.max_frame = MAX_FRAME
    yield wire, theirs
    wire.abort()
    theirs.close()
    assert open_fds() - before == set()


def send_with(theirs: socket.socket, data: bytes, count: int) -> None:
    """Bytes with that many copies of /dev/null."""
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * count))
        theirs.sendmsg([data], [rights])
    finally:
        os.close(null)


def frame(payload: bytes = b"", fds: int = 0) -> bytes:
    return b"".join(message(payload, fds=fds))


def test_more_descriptors_than_there_is_room_for(raw: Raw, accept_fds: bool) -> None:
    wire, theirs = raw
    send_with(theirs, frame(fds=100), 100)
    if accept_fds:
        with pytest.raises(ProtocolError) as caught:
            wire.recv_by(soon())
        assert caught.value.violation == "truncated-fds"
    else:
        # The kernel has closed them; the core says what it thinks of the frame.
        assert wire.recv_by(soon()).fds == 100


def test_a_process_that_may_have_no_more_descriptors(raw: Raw, accept_fds: bool) -> None:
    wire, theirs = raw
    send_with(theirs, frame(fds=MAX_FDS), MAX_FDS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = min(set(range(1000)) - open_fds())
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        if accept_fds:
            with pytest.raises(ProtocolError) as caught:
                wire.recv_by(soon())
            assert caught.value.violation == "truncated-fds"
        else:
            assert wire.recv_by(soon()).fds == MAX_FDS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_as_many_as_there_is_room_for(raw: Raw, accept_fds: bool) -> None:
    wire, theirs = raw
    send_with(theirs, frame(fds=MAX_FDS), MAX_FDS)
    assert wire.recv_by(soon()).fds == MAX_FDS
    if accept_fds:
        fds = wire.take_fds(MAX_FDS)
        assert len({fd.fileno() for fd in fds}) == MAX_FDS
        for fd in fds:
            fd.close()
    else:
        with pytest.raises(ProtocolError):
            wire.take_fds(MAX_FDS)


@pytest.mark.parametrize("accept_fds", [True], indirect=True)
def test_descriptors_dribbled_into_one_frame(raw: Raw) -> None:
    wire, theirs = raw
    data = frame(bytes(100))
    for at in range(4):
        send_with(theirs, data[at : at + 1], MAX_FDS)
        assert wire.poll(LIMIT)
        assert wire.recv() is None
        wire.recv()
    send_with(theirs, data[4:5], 1)
    with pytest.raises(ProtocolError) as caught:
        wire.recv_by(soon())
    assert caught.value.violation == "too-many-fds"


@pytest.mark.parametrize("accept_fds", [True], indirect=True)
@pytest.mark.parametrize("size", [10, 200_000])
def test_descriptors_of_a_frame_that_comes_in_bits(raw: Raw, size: int) -> None:
    wire, theirs = raw
    data = frame(bytes(size), fds=1)
    send_with(theirs, data[:3], 1)
    assert wire.poll(LIMIT)
    assert wire.recv() is None
    with Worker(lambda: theirs.sendall(data[3:])):
        assert wire.recv_by(soon()).fds == 1
    (fd,) = wire.take_fds(1)
    fd.close()


@pytest.mark.parametrize("accept_fds", [True], indirect=True)
def test_descriptors_that_no_frame_names_are_found_behind_it(raw: Raw) -> None:
    wire, theirs = raw
    send_with(theirs, frame(b"one") + frame(b"two"), 1)
    assert wire.recv_by(soon()).payload == b"one"
    assert wire.recv_by(soon()).payload == b"two"
    with pytest.raises(ProtocolError) as caught:
        wire.recv_by(soon())
    assert caught.value.violation == "unexpected-fds"


@pytest.mark.parametrize("accept_fds", [True], indirect=True)
def test_control_messages_of_other_kinds_are_not_descriptors(raw: Raw) -> None:
    wire, theirs = raw
    with socket.socket(fileno=os.dup(wire.fileno())) as copy:
        copy.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    theirs.sendall(frame(b"with credentials"))
    assert wire.recv_by(soon()).payload == b"with credentials"


@pytest.mark.parametrize("accept_fds", [False], indirect=True)
@pytest.mark.parametrize(
    ("data", "violation"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "unknown-type"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), "oversized-frame"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "unknown-type"),
        (b"\xff" * 16, "unknown-type"),
        (b"\xff" * 8 + b"\x01" + b"\0" * 7, "oversized-frame"),
        (b"\0" * 16, "unknown-type"),
    ],
)
def test_foreign_protocols(raw: Raw, data: bytes, violation: str) -> None:
    wire, theirs = raw
    theirs.sendall(data)
    with pytest.raises(ProtocolError) as caught:
        wire.recv_by(soon())
    assert caught.value.violation in {violation, "unknown-type", "oversized-frame"}


@pytest.mark.parametrize("accept_fds", [False], indirect=True)
def test_a_socket_that_is_shut_for_writing_can_be_answered(raw: Raw) -> None:
    wire, theirs = raw
    theirs.sendall(frame(b"question"))
    theirs.shutdown(socket.SHUT_WR)
    assert wire.recv_by(soon()).payload == b"question"
    with pytest.raises(WireClosed):
        wire.recv_by(soon())
    assert wire.send(message(b"answer"))
    assert theirs.recv(100) == frame(b"answer")


def test_the_wire_owns_the_socket() -> None:
    ours, theirs = socket.socketpair()
    wire = UnixFactory().over(ours)
    assert ours.fileno() == -1
    number = wire.fileno()
    wire.abort()
    theirs.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_wire_that_is_dropped_closes_its_socket() -> None:
    ours, theirs = socket.socketpair()
    wire = UnixFactory().over(ours)
    with theirs:
        del wire
        assert theirs.recv(1) == b""


def read_until_closed(wire: Wire, reading: threading.Event) -> None:
    reading.set()
    try:
        while True:
            assert wire.recv() is None
            wire.poll(0)
    except WireClosed:
        return


def send_until_closed(wire: Wire, sending: threading.Event, fds: int) -> None:
    try:
        while True:
            null = [Fd(os.open(os.devnull, os.O_RDONLY)) for _ in range(fds)]
            wire.send(message(bytes(1000), fds=fds), null)
            sending.set()
            if wire.backlog > 1 << 20:
                wire.poll_write(0.001)
    except WireClosed:
        return


@pytest.mark.parametrize("factory", SOCKETS, ids=repr)
def test_an_abort_never_lets_a_thread_see_another_file(factory: SocketFactory) -> None:
    """The number of a closed descriptor goes to the next file that is opened: what a thread that was about to read from
    the wire would read then is that file's."""
    secret = b"secret" * 100
    for _ in range(60):
        wire, other = factory.pair()
        wire.max_frame = MAX_FRAME
        reading = threading.Event()

        with Worker(partial(read_until_closed, wire, reading)):
            reading.wait(LIMIT)
            wire.abort()
            one, two = socket.socketpair()
            two.send(secret)
        with one, two:
            assert one.recv(len(secret)) == secret
        other.abort()


@pytest.mark.parametrize("factory", SOCKETS, ids=repr)
def test_an_abort_while_another_thread_sends(factory: SocketFactory) -> None:
    for _ in range(30):
        wire, other = factory.pair()
        sending = threading.Event()

        with Worker(partial(send_until_closed, wire, sending, 0)):
            sending.wait(LIMIT)
            wire.abort()
        assert wire.backlog == 0 or wire.closed
        other.abort()


def test_an_abort_while_descriptors_are_sent() -> None:
    """Each is closed once, by whichever comes first; and none of another file goes out."""
    for _ in range(30):
        wire, other = UnixFactory().pair(accept_fds=True)
        sending = threading.Event()

        with Worker(partial(send_until_closed, wire, sending, 1)):
            sending.wait(LIMIT)
            wire.abort()
        other.abort()


def test_large_backlogs_are_flushed_in_reasonable_time() -> None:
    """Not in a time that grows with the square of the number of frames that wait."""
    wire, other = UnixFactory().pair()
    other.max_frame = MAX_FRAME
    count = 30_000
    wire.send([buffer for number in range(count) for buffer in message(b"x" * 20, number + 1)])
    streams: list[int] = []
    while len(streams) < count:
        if wire.backlog:
            wire.flush()
        got = other.recv()
        if got is not None:
            streams.append(got.stream)
    assert streams == list(range(1, count + 1))
    wire.abort()
    other.abort()


def test_room_for_descriptors_is_room_for_all_of_them() -> None:
    assert socket.CMSG_LEN(MAX_FDS * array.array("i").itemsize) <= ANCILLARY_SPACE
