"""What was kept, on its way to one who asks, and what comes to it as new besides."""

from __future__ import annotations

import pytest

from ipcd import limits
from ipcd.state import quota
from ipcd.state.kept import Kept
from ipcd.state.quota import Shares
from ipcd.state.replay import Replay, Seen
from ipcd.state.subscription import Message

OWNER = quota.local(1, 2)


def message(sequence: int, *, subject: str = "x", node: str = "b", time: float | None = None) -> Message:
    return Message(subject, b"", node, sequence, sequence if time is None else time, OWNER)


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
    replay.own(own)
    assert held.used == 3 * limits.TOPIC_REPLAY_COST
    for number in (4, 6, 2):
        replay.add(message(number))
    assert replay.cut
    replay.settle(0, lambda _: True)
    told = [replay.next() for _ in range(len(replay))]
    assert [one.sequence for one in told if one is not None] == [3, 4, 5, 6]
    assert held.used == 0


def test_what_is_kept_here_counts_for_the_one_who_asks() -> None:
    held = shares(1000 * limits.TOPIC_REPLAY_COST)
    own = [message(number, node="a") for number in range(1, 2001)]
    replay, other = Replay(held, OWNER), Replay(held, OWNER)
    replay.own(own)
    assert replay.cut
    replay.settle(0, lambda _: True)
    assert 500 < len(replay) <= 1000
    other.own(own)
    other.settle(0, lambda _: True)
    assert len(replay) + len(other) <= 1000
    first = replay.next()
    assert first is not None
    assert first.sequence == 2001 - len(replay) - 1
    replay.close()
    other.close()
    assert held.used == 0


@pytest.mark.parametrize("most", [0, 1, 3])
def test_the_last_ones_up_to_a_number(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    kept = Kept()
    for number in range(1, 31):
        kept.keep(message(number, subject=f"x.{number % 3}"), 5)

    def last(**fields: object) -> tuple[list[int], bool]:
        found, cut = kept.last("x.*", most, **fields)  # type: ignore[arg-type]
        return [one.sequence for one in found], cut

    count = 3 * (most or 5)
    assert last() == (list(range(31 - count, 31)), False)
    count = min(count, 13)
    assert last(until=28) == (list(range(29 - count, 29)), False)
    assert last(until=28, may=lambda subject: subject == "x.1")[0] == list(range(16, 29, 3))[-most:]
    monkeypatch.setattr(limits, "TOPIC_REPLAY", 2)
    assert last() == ([29, 30], True)
