"""The roads: that they do what they are told, and nothing else."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator

import pytest
from faults.proxy import MASK, Frames, Roads, Weather
from ipcd_client.frame import codec, preamble
from sdk.processes import LONG, eventually
from sdk.test_rolling import free_addresses

DATA = preamble.pack(preamble.DATA)
LINK = preamble.pack(preamble.PEER)


class Echo:
    """Sends back what comes, on any number of connections."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._echo, args=(sock,)))
            self._threads[-1].start()

    def _echo(self, sock: socket.socket) -> None:
        with sock:
            try:
                while piece := sock.recv(1 << 16):
                    sock.sendall(piece)
            except OSError:
                pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(LONG)


@pytest.fixture
def ports() -> list[int]:
    return [int(address.rpartition(":")[2]) for address in free_addresses(2)]


@pytest.fixture
def roads(ports: list[int]) -> Iterator[Roads]:
    echo = Echo(ports[1])
    roads = Roads({ports[0]: ports[1]}, "seed")
    yield roads
    roads.close()
    echo.close()


def dialed(ports: list[int], preamble: bytes) -> socket.socket:
    """A connection that has passed."""
    sock = socket.create_connection(("127.0.0.1", ports[0]), LONG)
    assert exchanged(sock, preamble) == preamble
    return sock


def exchanged(sock: socket.socket, data: bytes) -> bytes:
    """What comes back; less where the connection ends before."""
    sock.sendall(data)
    answer = b""
    while len(answer) < len(data) and (piece := sock.recv(1 << 16)):
        answer += piece
    return answer


def test_frames_are_found_wherever_pieces_end() -> None:
    dice = random.Random(1)
    stream, begins = DATA, []
    for number in range(200):
        begins.append(len(stream))
        stream += b"".join(codec.encode(codec.PING, number, bytes(dice.choice((0, 1, 15, 16, 17, 400)))))
    for most in (1, 15, 16, 17, 50, 10_000):
        frames, at, found = Frames(preamble.SIZE), 0, []
        while at < len(stream):
            piece = stream[at : at + dice.randint(1, most)]
            found += [at + place for place in frames.headers(piece)]
            at += len(piece)
        # Those that lie in two pieces are left alone.
        assert set(found) <= set(begins)
        if most == 10_000:
            assert len(found) > 150


def test_it_passes_and_holds(roads: Roads, ports: list[int]) -> None:
    with dialed(ports, DATA) as sock:
        roads.hold()
        sock.sendall(b"held")
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(4)
        roads.go_on()
        sock.settimeout(LONG)
        assert sock.recv(4) == b"held"
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    eventually(lambda: roads.connections() == 0, "both ends are closed")


def test_reset(roads: Roads, ports: list[int]) -> None:
    with dialed(ports, DATA) as data, dialed(ports, LINK) as link:
        roads.reset(links_alone=True)
        with pytest.raises(ConnectionResetError):
            link.recv(1)
        assert exchanged(data, b"on") == b"on"
        roads.reset()
        with pytest.raises(ConnectionResetError):
            data.recv(1)


def test_a_cut_comes_after_so_many_bytes(roads: Roads, ports: list[int]) -> None:
    with dialed(ports, DATA) as sock, roads.under(Weather(cut_after=10)):
        # The proxy's end towards the node is reset after ten, so nothing comes back.
        assert exchanged(sock, bytes(100)) == b""
        assert roads.dropped


def test_flips_where_it_may(roads: Roads, ports: list[int]) -> None:
    frame = b"".join(codec.encode(codec.PING, 1, b"x" * 30))
    with dialed(ports, DATA) as data, dialed(ports, LINK) as link:
        assert exchanged(data, frame) == frame
        with roads.under(Weather(flip_calls=1.0)):
            assert exchanged(link, frame) == frame
            changed = exchanged(data, frame)
        places = {at for at, (old, new) in enumerate(zip(frame, changed, strict=True)) if old != new}
        assert places
        assert places <= {3, 8}
        with roads.under(Weather(flip_links=1.0)):
            # Each way: twice at the same place would be none.
            several = {exchanged(link, frame) for _ in range(5)}
        assert {old ^ new for one in several for old, new in zip(frame, one, strict=True)} == {0, MASK}
    assert roads.flipped
