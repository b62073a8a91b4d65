"""What a run is to its caller, what may be offered, and places in turn: without a process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ipcd_client.pb.ipcd.v1 import command_pb2 as pb
from ipcd_client.primitives.command_server import Places
from ipcd_client.primitives.command_state import STDERR, STDOUT, WINDOW, Called, started_by
from ipcd_client.primitives.errors import BadRequest, Full, Lost, TimedOut
from ipcd_client.primitives.offer import Offer


def called(**keywords: Any) -> Called:
    given = {"detach": False, "wait": 0.0, "stdin": True, "stdout": 0, "stderr": 0} | keywords
    result = Called(started_by("x", [], None, **given))
    first = result.outgoing()
    assert first is not None
    assert (first.name, first.start.stdout_credit) == ("x", WINDOW)
    result.replied(pb.RunReply(started=pb.RunStarted(pid=7, stdin_credit=5)))
    return result


def test_input_as_far_as_it_was_granted() -> None:
    run = called()
    assert run.pid == 7
    assert run.write(memoryview(b"abcdefgh")) == 5
    assert run.write(memoryview(b"fgh")) == 0
    run.end_stdin()
    assert run.outgoing() == pb.RunRequest(stdin=b"abcde")
    assert run.outgoing() == pb.RunRequest(stdin_end=True)
    assert run.outgoing() is None
    run.replied(pb.RunReply(stdin_closed=True))
    with pytest.raises(BrokenPipeError):
        run.write(memoryview(b"x"))


def test_no_more_input_is_taken_than_may_wait() -> None:
    run = called()
    run.replied(pb.RunReply(stdin_credit=WINDOW - 5))
    assert run.write(memoryview(bytes(9))) == 9
    # Nothing of it was sent: what the offerer has not got, it cannot want again.
    with pytest.raises(Lost, match="more than the"):
        run.replied(pb.RunReply(stdin_credit=1))
    run = called()
    run.replied(pb.RunReply(stdin_credit=WINDOW - 5))
    assert run.write(memoryview(bytes(9))) == 9
    assert run.outgoing() == pb.RunRequest(stdin=bytes(9))
    run.replied(pb.RunReply(stdin_credit=9))
    with pytest.raises(Lost, match="more than the"):
        called().replied(pb.RunReply(started=pb.RunStarted(pid=7, stdin_credit=WINDOW + 1)))


def test_credit_goes_back_in_large_pieces() -> None:
    run = called()
    run.replied(pb.RunReply(stdout=bytes(WINDOW)))
    assert len(run.outputs[STDOUT].take(WINDOW // 4 - 1)) == WINDOW // 4 - 1
    assert run.outgoing() is None
    run.outputs[STDOUT].take(1)
    assert run.outgoing() == pb.RunRequest(stdout_credit=WINDOW // 4)
    assert run.outgoing() is None


def test_no_more_output_than_was_granted() -> None:
    run = called()
    run.replied(pb.RunReply(stdout=bytes(WINDOW)))
    run.outputs[STDOUT].take(WINDOW // 2)
    # It was taken, and that was not said.
    with pytest.raises(Lost, match="more than the"):
        run.replied(pb.RunReply(stdout=b"x"))
    run = called()
    run.replied(pb.RunReply(stdout=bytes(WINDOW)))
    run.outputs[STDOUT].take(WINDOW // 2)
    assert run.outgoing() == pb.RunRequest(stdout_credit=WINDOW // 2)
    run.replied(pb.RunReply(stdout=bytes(WINDOW // 2)))
    with pytest.raises(Lost):
        run.replied(pb.RunReply(stdout=b"x"))


def test_a_closed_output_keeps_nothing() -> None:
    run = called()
    run.replied(pb.RunReply(stderr=b"abc"))
    run.close_output(STDERR)
    run.replied(pb.RunReply(stderr=b"def"))
    assert run.outputs[STDERR].size == 0
    assert run.outgoing() == pb.RunRequest(stderr_close=True)
    run.close_output(STDERR)
    assert run.outgoing() is None


def test_over_once_it_has_ended_and_so_have_its_outputs() -> None:
    run = called(stderr=pb.RunStart.TO_STDOUT)
    run.replied(pb.RunReply(exit=pb.RunExit(signal=9, reason="why")))
    assert (run.returncode, run.reason, run.over) == (-9, "why", False)
    run.replied(pb.RunReply(stdout_end=True))
    assert run.over
    run.signal(15)
    assert run.outgoing() is None


def test_input_comes_after_all_signals_that_were_sent_before_it() -> None:
    run = called()
    run.signal(10)
    run.signal(19)
    run.write(memoryview(b"x"))
    run.end_stdin()
    assert run.outgoing() == pb.RunRequest(signal=10)
    assert run.outgoing() == pb.RunRequest(signal=19, stdin=b"x")
    run.signal(10)
    run.signal(19)
    assert run.outgoing() == pb.RunRequest(signal=10)
    assert run.outgoing() == pb.RunRequest(signal=19, stdin_end=True)
    assert run.outgoing() is None


def test_signals_are_bounded() -> None:
    run = called()
    for wrong in (0, -1, 65):
        with pytest.raises(BadRequest):
            run.signal(wrong)
    for _ in range(64):
        run.signal(15)
    with pytest.raises(Full):
        run.signal(15)


def test_arguments_are_texts() -> None:
    for args in ("text", b"bytes", [1], ["\udcff"]):
        with pytest.raises(BadRequest):
            started_by("x", args, None, detach=False, wait=None, stdin=True, stdout=0, stderr=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "keywords",
    [
        {"name": "a@b"},
        {"command": ()},
        {"command": ("",)},
        {"most": 0},
        {"waiting": -1},
        {"seconds": -1.0},
        {"args_most": 3},
        {"env": ("=x",)},
    ],
)
def test_offers_that_make_no_sense(keywords: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        Offer(**({"name": "x", "command": ("true",)} | keywords))


@pytest.mark.parametrize(
    ("pattern", "arg", "fits"),
    [
        ("*", "x", True),
        ("*", "", True),
        ("*", "-x", False),
        ("-*", "-x", True),
        ("[!x]*", "-rf", False),
        ("?", "a/b", False),
        ("*.txt", "a/b.txt", True),
        ("*.txt", "a.TXT", False),
        ("a", "ab", False),
    ],
)
def test_patterns_of_arguments(pattern: str, arg: str, fits: bool) -> None:
    offer = Offer("x", ("true",), args=(pattern,))
    if fits:
        offer.check([arg], {}, detach=False)
    else:
        with pytest.raises(BadRequest):
            offer.check([arg], {}, detach=False)


def test_places_in_turn() -> None:
    async def main() -> None:
        places = Places(Offer("x", ("true",), most=1, waiting=2))
        await places.take(0)
        with pytest.raises(Full):
            await places.take(0)
        with pytest.raises(TimedOut):
            await places.take(0.01)
        order: list[int] = []

        async def wait(number: int) -> None:
            await places.take(None)
            order.append(number)

        tasks = [asyncio.ensure_future(wait(number)) for number in range(2)]
        await asyncio.sleep(0)
        assert places.waiting == 2
        with pytest.raises(Full):
            await places.take(None)
        tasks[0].cancel()
        await asyncio.wait({tasks[0]})
        places.give()
        await tasks[1]
        assert (order, places.running, places.waiting) == ([1], 1, 0)
        # Given at the same moment at which it is cancelled: it goes on to nobody, and is free again.
        late = asyncio.ensure_future(wait(3))
        await asyncio.sleep(0)
        places.give()
        late.cancel()
        await asyncio.wait({late})
        assert places.running == 0

    asyncio.run(main())
