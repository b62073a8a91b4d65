"""What was kept, on its way to one who asks, and what comes to it as new besides."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from unittest import mock

import pytest
from ipcd_client.pb.ipcd.v1 import topic_pb2

from ipcd import limits
from ipcd.primitives.host import Keeper
from ipcd.primitives.topic_kept import Replays
from ipcd.state import quota
from ipcd.state.kept import Kept
from ipcd.state.quota import Shares
from ipcd.state.replay import PIECE, Replay, Seen
from ipcd.state.subscription import Message
from ipcd.state.topic import Board

OWNER = quota.local(1, 2)


def message(sequence: int, *, subject: str = "x", node: str = "b", time: float | None = None) -> Message:
    return Message(subject, b"", node, sequence, sequence if time is None else time, OWNER)


def whole(pieces: Iterator[None]) -> int:
    """Of how many pieces it was."""
    return sum(1 for _ in pieces)


def shares(most: int = 1 << 20) -> Shares:
    return Shares("bytes", most, {})


def test_what_was_told_and_what_was_before_it_is_not_new() -> None:
    seen = Seen(shares(), OWNER)
    for each in (message(5), message(7), message(9, subject="y")):
        seen.add(each)
    # The queue's order is that of the node.
    assert [seen.again(message(number)) for number in (4, 5, 6, 7, 8)] == [True] * 4 + [False]
    assert [seen.again(message(number, subject="y")) for number in (8, 9)] == [True] * 2
    # Of what was not told nothing is left out, nor of others.
    assert not seen.again(message(3, subject="z"))
    assert not seen.again(message(3, node="c"))


def test_a_node_that_begins_anew_is_heard() -> None:
    seen = Seen(shares(), OWNER)
    seen.add(message(5, time=10.0))
    assert not seen.again(message(1, time=11.0))
    assert not seen.again(message(5, time=12.0))
    # Where its clock was put back, too, once that it has begun anew is known.
    assert seen.again(message(2, time=3.0))
    seen.close()
    assert not seen.again(message(2, time=3.0))


def test_a_clock_that_was_put_back_has_nothing_come_twice() -> None:
    seen = Seen(shares(), OWNER)
    for each in (message(2, time=9.0), message(1, time=10.0)):
        seen.add(each)
    assert [seen.again(each) for each in (message(1, time=10.0), message(2, time=9.0), message(3, time=9.5))] == [
        True,
        True,
        False,
    ]


def test_what_is_noted_counts_until_it_cannot_come_any_more() -> None:
    held = shares()
    seen = Seen(held, OWNER)
    for number in range(1, 5):
        seen.add(message(number, subject="xy"[number % 2]))
        seen.add(message(number, node="c"))
    # One of each subject of a node.
    assert held.used == 3 * limits.TOPIC_COST
    assert seen.again(message(4))
    assert held.used == 3 * limits.TOPIC_COST
    assert not seen.again(message(5, subject="z"))
    assert held.used == limits.TOPIC_COST
    seen.close()
    assert held.used == 0


def test_of_too_many_the_newest_are_told() -> None:
    held = shares()
    replay = Replay(held, OWNER, most=4)
    own = [message(number, node="a") for number in range(1, 7, 2)]
    whole(replay.own(reversed(own)))
    assert held.used == 3 * limits.TOPIC_REPLAY_COST
    for number in (4, 6, 2):
        replay.add(message(number))
    assert replay.cut
    whole(replay.settle(0, lambda _: True))
    told = [replay.next() for _ in range(len(replay))]
    assert [one.sequence for one in told if one is not None] == [3, 4, 5, 6]
    assert held.used == 0


def test_what_is_kept_here_counts_for_the_one_who_asks() -> None:
    held = shares(1000 * limits.TOPIC_REPLAY_COST)
    own = [message(number, node="a") for number in range(1, 2001)]
    replay, other = Replay(held, OWNER), Replay(held, OWNER)
    whole(replay.own(reversed(own)))
    assert replay.cut
    whole(replay.settle(0, lambda _: True))
    assert 500 < len(replay) <= 1000
    whole(other.own(reversed(own)))
    whole(other.settle(0, lambda _: True))
    assert len(replay) + len(other) <= 1000
    first = replay.next()
    assert first is not None
    assert first.sequence == 2001 - len(replay) - 1
    replay.close()
    other.close()
    assert held.used == 0


@pytest.mark.parametrize("most", [0, 1, 3])
def test_the_last_ones_up_to_a_number(most: int) -> None:
    kept = Kept()
    for number in range(1, 31):
        kept.keep(message(number, subject=f"x.{number % 3}"), 5)

    def last(*names: str, until: int | None = None) -> list[int]:
        return [one.sequence for one in kept.last(names or kept.names("x.*"), most, until=until)]

    count = 3 * (most or 5)
    assert last() == list(range(30, 30 - count, -1))
    count = min(count, 13)
    assert last(until=28) == list(range(28, 28 - count, -1))
    assert last("x.1", "y", until=28) == list(range(28, 15, -3))[: most or None]
    # Those of now, whatever comes before they are taken.
    asked = kept.last(["x.1"], most)
    kept.keep(message(31, subject="x.1"), 1)
    kept.forget("x.>")
    assert [one.sequence for one in asked] == list(range(28, 15, -3))[: most or None]


def test_a_long_one_is_gone_through_in_pieces() -> None:
    """In between, others go on."""
    held = shares(1 << 30)
    own = [message(number, node="a") for number in range(1, 10 * PIECE + 1)]
    replay = Replay(held, OWNER, most=8 * PIECE)
    assert whole(replay.own(reversed(own))) >= 16
    for number in range(1, 2 * PIECE + 1):
        replay.add(message(number))
    assert (replay.cut, held.used) == (True, 8 * PIECE * limits.TOPIC_REPLAY_COST)
    assert whole(replay.settle(0, lambda _: True)) >= 16
    # What goes before its turn has come is missing.
    del own[4 * PIECE :]
    told = [replay.next() for _ in range(len(replay))]
    assert [one.sequence for one in told if one is not None] == list(range(2 * PIECE + 1, 4 * PIECE + 1))
    assert (replay.gone, held.used) == (6 * PIECE, 0)


def test_one_that_is_left_half_done_counts_no_more() -> None:
    held = shares()
    own = [message(number, node="a") for number in range(1, 4 * PIECE + 1)]
    for pieces in range(12):
        replay = Replay(held, OWNER)
        steps = itertools.chain(replay.own(reversed(own)), replay.settle(1, lambda _: True))
        for _ in itertools.islice(steps, pieces):
            pass
        replay.close()
        assert held.used == 0


def test_others_go_on_while_what_is_kept_is_gathered() -> None:
    board = Board("a")
    for number in range(4 * PIECE):
        board.publish(topic_pb2.TopicPublishRequest(name=f"x.{number % (2 * PIECE)}", keep=2), OWNER, 1.0)
    keeper = mock.Mock(spec=Keeper)
    keeper.may_who.side_effect = lambda _who, _verb, _kind, subject: subject != "x.1"

    async def main() -> None:
        replays = Replays(keeper, board, mock.Mock())
        asked = asyncio.ensure_future(replays.gathered("x.*", 0, mock.Mock(), OWNER, here=True, until=board.published))
        turns = 0
        while not asked.done():
            await asyncio.sleep(0)
            turns += 1
            # It is not told, and takes the place of one that was gathered, or was to be.
            board.publish(topic_pb2.TopicPublishRequest(name="x.0", keep=2), OWNER, 2.0)
        assert turns >= 8
        with contextlib.closing(asked.result()) as kept:
            told = [one for one in (kept.next() for _ in range(len(kept))) if one is not None]
        assert {one.time for one in told} == {1.0}
        assert {one.subject for one in told} == {f"x.{number}" for number in range(2, 2 * PIECE)}

    asyncio.run(main())


def test_others_go_on_while_what_is_kept_is_forgotten() -> None:
    board = Board("a")
    for number in range(8 * PIECE):
        board.publish(topic_pb2.TopicPublishRequest(name=f"x.{number % 16}", keep=PIECE), OWNER, 1.0)
    keeper = mock.Mock(spec=Keeper)
    keeper.may_who.side_effect = lambda _who, _verb, _kind, subject: subject != "x.1"

    async def main() -> None:
        forgotten = asyncio.ensure_future(Replays(keeper, board, mock.Mock()).forget("x.*", mock.Mock()))
        used = set()
        while not forgotten.done():
            await asyncio.sleep(0)
            used.add(board.kept.used)
        assert len(used) >= 7
        assert forgotten.result() == 8 * PIECE * 15 // 16
        assert board.kept.names("x.*") == ["x.1"]

    asyncio.run(main())
