"""What is counted of connections: descriptors that are left, and those that peers have not read."""

from __future__ import annotations

import pytest

from ipcd import limits
from ipcd.quota import Quotas
from ipcd.state import quota


class World:
    def __init__(self) -> None:
        self.now = 100.0
        self.quotas = Quotas(lambda: self.now, descriptors=1000)


def test_descriptors_that_are_left_are_for_those_who_have_fewer() -> None:
    quotas = World().quotas
    greedy, modest = quota.local(1, 1), quota.local(1, 2)
    guards = [quotas.guard(greedy) for _ in range(3)] + [quotas.guard(modest)]
    last = 1000 - limits.DESCRIPTORS_SPARE
    quotas.check_descriptor(last - 1, greedy)
    quotas.check_descriptor(last, modest)
    with pytest.raises(limits.LimitReached, match=f"the limit of {last} descriptors is reached"):
        quotas.check_descriptor(last, greedy)
    with pytest.raises(limits.LimitReached):
        quotas.check_descriptor(1000 - limits.DESCRIPTORS_SPARE // 2, modest)
    for guard in guards:
        guard.close()
        guard.close()


def test_processes_whose_numbers_are_not_seen_are_told_apart_by_their_pidfds() -> None:
    one, other, neither = quota.local(1, 0, 7), quota.local(1, 0, 8), quota.local(1, 0)
    assert one[0] != other[0]
    assert one[1:] == other[1:] == neither


def test_what_was_read_since_counts_no_more() -> None:
    world = World()
    limit = limits.UNREAD_EACH["process"]
    unread = [0]
    guard = world.quotas.guard(quota.local(1, 1), lambda: unread[0])
    unread[0] = limit - 1
    guard.check_unread()
    unread[0] = limit
    with pytest.raises(limits.LimitReached, match=f"limit of {limit} descriptors that were not read of one process"):
        guard.check_unread()
    unread[0] = 0
    guard.check_unread()
    guard.close()
    assert world.quotas.unread.used == 0


def test_a_thousand_processes_that_read_are_not_at_their_users_limit() -> None:
    world = World()
    guards = [world.quotas.guard(quota.local(1, pid)) for pid in range(1, 3000)]
    for guard in guards:
        world.now += 0.001
        guard.check_unread()
    for guard in guards:
        guard.close()
    assert world.quotas.unread.used == 0


def test_what_a_closed_connection_is_said_to_hold_is_nothing() -> None:
    world = World()
    guard = world.quotas.guard(quota.local(1, 1))
    assert guard.holds(1 << 20) is None
    refusal = guard.holds(limits.QUEUED_EACH["process"] + 1)
    assert "bytes that wait of one process" in str(refusal)
    guard.close()
    assert guard.holds(1 << 20) is None
    assert world.quotas.queued.used == 0


def test_one_process_of_another_node_leaves_calls_to_the_others() -> None:
    """Of its node and of its user; and all of a node leave some to other nodes."""
    calls = World().quotas.calls
    most = limits.CALLS_EACH
    greedy, other = quota.remote("b", 1, 7), quota.remote("b", 1, 8)
    calls.take(greedy, most["process"])
    with pytest.raises(limits.LimitReached, match=r"of one process is reached \(pid 7 of node b\)"):
        calls.take(greedy)
    calls.take(other)
    # Of the same number, but elsewhere.
    calls.take(quota.local(1, 7), most["process"])
    calls.take(quota.remote("c", 1, 7), most["process"])
    left = most["node"] - most["process"] - 1
    for pid in range(100, 100 + left // 1000 + 1):
        calls.take(quota.remote("b", pid, pid), min(1000, left - 1000 * (pid - 100)))
    with pytest.raises(limits.LimitReached, match=r"of one node is reached \(b\)"):
        calls.take(other)
    calls.take(quota.remote("c", 1, 8))
