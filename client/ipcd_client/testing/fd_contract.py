"""The part of the wires' contract that is about descriptors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import ClassVar

import pytest

from ipcd_client.errors import ProtocolError, UsageError, WireClosed
from ipcd_client.testing.wire_factories import WireFactory
from ipcd_client.testing.wire_tools import LIMIT, drain, fill, message, open_fds, pass_on, ready, soon
from ipcd_client.wire.base import Wire
from ipcd_client.wire.fds import MAX_FDS, Fd

Ends = tuple[Wire, Wire]


def marked(mark: str) -> Fd:
    """A pipe that one can read `mark` from, and then its end."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.write(write, mark.encode())
    os.close(write)
    return Fd(read)


def marks(fds: list[Fd]) -> list[str]:
    """What `marked` put there. The descriptors are closed."""
    found = []
    for fd in fds:
        with fd:
            found.append(os.read(fd.fileno(), 100).decode())
    return found


class FdContract:
    """Descriptors travel with their frames."""

    factory: ClassVar[WireFactory]

    @pytest.fixture
    def ends(self) -> Iterator[Ends]:
        """Two ends that take descriptors. Nothing is left open of them."""
        before = open_fds()
        with ready(self.factory.pair(accept_fds=True)) as ends:
            yield ends
        del ends
        assert open_fds() - before == set()

    def test_they_go_with_the_first_byte_though_an_empty_buffer_is_before_it(self, ends: Ends) -> None:
        one, other = ends
        one.send([b"", *message(b"with one", fds=1)], [marked("it")])
        assert pass_on(one, other).payload == b"with one"
        assert marks(other.take_fds(1)) == ["it"]

    def test_a_closed_end_has_none_that_are_not_read(self, ends: Ends) -> None:
        one, _ = ends
        one.send(message(b"with one", fds=1), [marked("it")])
        one.abort()
        assert one.unread_fds() == 0
        one.hung_up()  # as it may be asked, too

    def test_a_glance_does_not_part_them_from_their_frame(self, ends: Ends) -> None:
        one, other = ends
        one.send(message(b"with one", fds=1), [marked("it")])
        assert other.poll(LIMIT)
        assert other.glance() is None
        assert other.recv_by(soon()).payload == b"with one"
        assert marks(other.take_fds(1)) == ["it"]

    def test_they_come_with_their_frame_in_order(self, ends: Ends) -> None:
        one, other = ends
        for number, count in enumerate((1, 0, 3, 0, 0, MAX_FDS, 2)):
            fds = [marked(f"{number}.{index}") for index in range(count)]
            one.send(message(b"x" * number * 1000, number + 1, fds=count), fds)
        for number, count in enumerate((1, 0, 3, 0, 0, MAX_FDS, 2)):
            frame = pass_on(one, other)
            assert (frame.stream, frame.fds) == (number + 1, count)
            assert marks(other.take_fds(count)) == [f"{number}.{index}" for index in range(count)]

    def test_also_behind_a_backlog(self, ends: Ends) -> None:
        one, other = ends
        count = fill(one)
        for number in range(count, count + 30):
            with_fds = number % 3 == 0
            fds = [marked(str(number))] if with_fds else []
            one.send(message(b"x" * (number % 5) * 9000, number + 1, fds=len(fds)), fds)
        for number in range(count + 30):
            frame = pass_on(one, other)
            assert frame.stream == number + 1
            if frame.fds:
                assert marks(other.take_fds(frame.fds)) == [str(number)]

    def test_the_sender_has_them_no_more(self, ends: Ends) -> None:
        one, other = ends
        fd = marked("x")
        one.send(message(b"", fds=1), [fd])
        assert other.recv_by(soon()).fds == 1
        taken = other.take_fds(1)
        assert taken == [fd] or repr(fd) == "Fd(-1)"
        assert marks(taken) == ["x"]

    def test_they_are_not_inherited(self, ends: Ends) -> None:
        one, other = ends
        one.send(message(b"", fds=1), [marked("x")])
        other.recv_by(soon())
        (fd,) = other.take_fds(1)
        with fd:
            assert not os.get_inheritable(fd.fileno())

    def test_those_in_the_backlog_are_closed_with_the_wire(self, ends: Ends) -> None:
        one, _ = ends
        fill(one)
        fds = [marked("x"), marked("y")]
        one.send(message(b"", fds=2), fds)
        one.abort()
        assert repr(fds) == "[Fd(-1), Fd(-1)]"

    def test_those_that_were_not_received_are_closed_with_the_wire(self, ends: Ends) -> None:
        one, other = ends
        one.send(message(b"", fds=1), [marked("x")])
        one.send(message(b"", fds=1), [marked("y")])
        other.recv_by(soon())  # neither taken nor the second frame received

    def test_a_closed_wire_closes_what_it_is_given(self, ends: Ends) -> None:
        one, _ = ends
        one.abort()
        fd = marked("x")
        with pytest.raises(WireClosed):
            one.send(message(b"", fds=1), [fd])
        assert repr(fd) == "Fd(-1)"

    def test_more_than_a_frame_can_bring(self, ends: Ends) -> None:
        one, _ = ends
        fds = [marked("x") for _ in range(MAX_FDS + 1)]
        with pytest.raises(UsageError):
            one.send(message(b"", fds=len(fds)), fds)
        assert {repr(fd) for fd in fds} == {"Fd(-1)"}

    def test_fewer_than_the_frame_says(self, ends: Ends) -> None:
        one, other = ends
        one.send(message(b"", fds=2), [marked("x")])
        assert other.recv_by(soon()).fds == 2
        with pytest.raises(ProtocolError) as caught:
            other.take_fds(2)
        assert caught.value.violation == "missing-fds"

    def test_none_though_the_frame_says_so(self, ends: Ends) -> None:
        one, other = ends
        one.send(message(b"", fds=1))
        other.recv_by(soon())
        with pytest.raises(ProtocolError) as caught:
            other.take_fds(1)
        assert caught.value.violation == "missing-fds"

    def test_some_though_no_frame_says_so(self, ends: Ends) -> None:
        one, other = ends
        one.send(message(b"innocent looking"), [marked("x")])
        one.send(message(b"next"))
        assert other.recv_by(soon()).payload == b"innocent looking"
        with pytest.raises(ProtocolError) as caught:
            drain(other)  # the next frame may have come along
        assert caught.value.violation == "unexpected-fds"
