"""Who has a pipe open: the state machine, without a daemon."""

from __future__ import annotations

from typing import Any

import pytest
from ipcd_client.pb.ipcd.v1 import pipe_pb2
from ipcd_client.primitives.errors import BadRequest, NameTaken, NoReader, NoSuchName

from ipcd import limits
from ipcd.state.pipe import READ, WRITE, End, Pipes

HIDDEN = "unnamed.1"


def address(name: str = "r") -> pipe_pb2.PipeAddress:
    return pipe_pb2.PipeAddress(node="a", server=name, key=name.encode())


def reader(pipes: Pipes, name: str = "p", server: str = "r", **how: Any) -> tuple[End, list[End]]:
    return pipes.open(name, READ, address(server), **{"blocking": True, **how})


def writer(pipes: Pipes, name: str = "p", **how: Any) -> tuple[End, list[End]]:
    return pipes.open(name, WRITE, None, **{"blocking": True, **how})


def test_the_first_waits_and_the_second_does_not() -> None:
    for first, second in ((reader, writer), (writer, reader)):
        pipes = Pipes()
        one, told = first(pipes)
        assert not told
        assert one not in told
        two, told = second(pipes)
        assert told == [one, two]
        assert one.met
        assert two.met
        assert pipes.close(one) == [two]
        assert pipes.news(two).others == 0
        assert pipes.close(two) == []
        assert "p" not in pipes


def test_an_end_that_was_met_is_open_although_the_other_has_gone() -> None:
    pipes = Pipes()
    one, _ = reader(pipes)
    two, _ = writer(pipes)
    pipes.close(two)
    assert one.met
    assert writer(pipes)[0] is not two


def test_writers_hear_where_readers_are() -> None:
    pipes = Pipes()
    one, _ = writer(pipes)
    ends = [reader(pipes, server=server)[0] for server in ("x", "y")]
    assert [each.server for each in pipes.news(one).readers] == ["x", "y"]
    pipes.close(ends[0])
    assert [each.server for each in pipes.news(one).readers] == ["y"]
    assert not pipes.news(ends[1]).readers
    assert pipes.news(ends[1]).others == 1


def test_without_waiting() -> None:
    pipes = Pipes()
    with pytest.raises(NoReader):
        writer(pipes, blocking=False)
    assert "p" not in pipes
    assert reader(pipes, blocking=False)[0].met
    assert writer(pipes, blocking=False)[0].met


def test_wrong_requests() -> None:
    pipes = Pipes()
    with pytest.raises(BadRequest):
        pipes.open("p", 0, None, blocking=True)  # type: ignore[arg-type]
    for wrong in (None, pipe_pb2.PipeAddress(node="a", server="r")):
        with pytest.raises(BadRequest):
            pipes.open("p", READ, wrong, blocking=True)
    with pytest.raises(NoSuchName):
        pipes.facts("p")


def test_one_that_stays() -> None:
    pipes = Pipes()
    pipes.make("p", 0.0)
    one, _ = reader(pipes)
    pipes.make("p", 0.0)
    pipes.close(one)
    assert pipes.facts("p").stays
    one, _ = reader(pipes)
    assert pipes.remove("p") == [one]
    assert not pipes.has(one)
    # A pipe of the same name is another one.
    other, _ = reader(pipes)
    assert pipes.close(one) == []
    assert pipes.has(other)


def test_without_a_name_each_end_is_opened_once() -> None:
    pipes = Pipes()
    pipes.make(HIDDEN, 0.0)
    with pytest.raises(NameTaken):
        pipes.make(HIDDEN, 0.0)
    one, _ = writer(pipes, HIDDEN)
    assert one.met
    assert pipes.news(one).others == 1
    with pytest.raises(NameTaken):
        writer(pipes, HIDDEN)
    two, told = reader(pipes, HIDDEN)
    assert told == [one, two]
    pipes.close(one)
    pipes.close(two)
    with pytest.raises(NoSuchName):
        reader(pipes, HIDDEN)
    # After the daemon's own end the ends come back.
    assert writer(pipes, HIDDEN, again=True)[0].met
    assert reader(pipes, HIDDEN, again=True)[0].met


def test_an_end_that_nobody_opens_in_time_is_closed() -> None:
    pipes = Pipes(wait=60.0)
    pipes.make(HIDDEN, 100.0)
    pipes.make("unnamed.2", 130.0)
    one, _ = writer(pipes, HIDDEN)
    assert pipes.next_expiry() == 160.0
    assert pipes.expire(159.0) == []
    assert pipes.expire(160.0) == [one]
    assert pipes.news(one).others == 0
    assert pipes.next_expiry() == 190.0
    assert pipes.expire(190.0) == []
    assert "unnamed.2" not in pipes
    assert pipes.next_expiry() is None


def test_bounds() -> None:
    pipes = Pipes(each=2, unnamed=1)
    reader(pipes)
    writer(pipes)
    with pytest.raises(limits.LimitReached, match="the limit of 2 ends of one pipe"):
        writer(pipes)
    pipes.make(HIDDEN, 0.0)
    with pytest.raises(limits.LimitReached, match="the limit of 1 pipes without names"):
        pipes.make("unnamed.2", 0.0)
    pipes.expire(1e9)
    pipes.make("unnamed.2", 0.0)


@pytest.mark.parametrize(("what", "value"), [("node", "n" * 129), ("server", "ü" * 128), ("key", b"k" * 65)])
def test_an_address_has_bounds(what: str, value: Any) -> None:
    pipes = Pipes()
    wrong = address()
    setattr(wrong, what, value)
    with pytest.raises(BadRequest, match=f"the {what} of a reader's address has"):
        pipes.open("p", READ, wrong, blocking=True)
    assert "p" not in pipes


def test_of_an_address_nothing_else_is_kept() -> None:
    pipes = Pipes()
    more = pipe_pb2.PipeAddress.FromString(address().SerializeToString() + b"\x7a\x05extra")
    end, _ = pipes.open("p", READ, more, blocking=True)
    assert end.address == address()
