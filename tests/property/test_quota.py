"""Shares and rates are never overdrawn, and what is given back is there again."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipcd import limits
from ipcd.state import quota
from ipcd.state.quota import Key, Lines, Owner, Part, Rate, Shares

EACH = {"process": 4, "uid": 7}
MOST = 10
OWNERS: list[Owner] = [
    *(quota.local(uid, pid) for uid, pid in ((1, 11), (1, 12), (1, 13), (2, 21))),
    quota.local(2, 0),  # of another namespace
    quota.host("10.0.0.1"),  # which has no limit of its own here
]

steps = st.lists(st.tuples(st.integers(0, len(OWNERS) - 1), st.integers(-5, 5)), max_size=60)


@given(steps)
def test_shares_are_never_overdrawn(steps: list[tuple[int, int]]) -> None:
    shares = Shares("things", MOST, EACH)
    held: Counter[int] = Counter()

    def of(key: Key) -> int:
        return sum(amount for index, amount in held.items() if key in OWNERS[index])

    for index, amount in steps:
        owner = OWNERS[index]
        over = [key for key in owner if of(key) + amount > EACH.get(key.kind, MOST)]
        if amount < 0:
            back = min(-amount, held[index])
            shares.give(owner, back)
            held[index] -= back
        elif over or held.total() + amount > MOST:
            limit = EACH.get(over[0].kind, MOST) if over and over[0].kind in EACH else MOST
            with pytest.raises(limits.LimitReached, match=f"^the limit of {limit} things"):
                shares.take(owner, amount)
        else:
            shares.take(owner, amount)
            held[index] += amount
        assert shares.used == held.total() <= MOST
        for key in {key for one in OWNERS for key in one}:
            assert shares.held(key) == of(key) <= EACH.get(key.kind, MOST)
        most = max(held.values(), default=0)
        for number, one in enumerate(OWNERS):
            assert shares.is_largest(one) == (held[number] >= most)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=40))
def test_parts(changes: list[tuple[bool, int]]) -> None:
    shares = Shares("bytes", 8, {"process": 5})
    parts = [Part(shares, quota.local(1, 1)), Part(shares, quota.local(1, 2))]
    for which, amount in changes:
        part = parts[which]
        before = part.amount
        try:
            part.set(amount)
        except limits.LimitReached:
            assert amount > 5 or amount + parts[not which].amount > 8
            assert part.amount == before
        assert shares.used == sum(part.amount for part in parts) <= 8
    for part in parts:
        part.set(0)
    assert shares.used == 0


def test_a_limit_says_its_name_its_number_and_whose_it_is() -> None:
    shares = Shares("attached connections", 3, {"process": 1, "uid": 2})
    shares.take(quota.local(7, 1))
    with pytest.raises(
        limits.LimitReached, match=r"^the limit of 1 attached connections of one process is reached \(pid 1\)$"
    ):
        shares.take(quota.local(7, 1))
    shares.take(quota.local(7, 2))
    with pytest.raises(limits.LimitReached, match=r"of one uid is reached \(uid 7\)$"):
        shares.take(quota.local(7, 3))
    shares.take(quota.local(8, 4))
    with pytest.raises(limits.LimitReached, match=r"^the limit of 3 attached connections is reached$"):
        shares.take(quota.local(9, 5))


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 2)), max_size=80))
def test_a_rate_is_kept(asked: list[tuple[int, float]]) -> None:
    rate = Rate("attaches", {"process": (2.0, 3.0), "uid": (4.0, 5.0)})
    now, done = 0.0, []
    for index, later in asked:
        now += later
        try:
            rate.check(OWNERS[index], now)
        except limits.LimitReached:
            pass
        else:
            done.append((now, OWNERS[index]))
    for key, per_second, burst in [(key, *((2.0, 3.0) if key.kind == "process" else (4.0, 5.0))) for key in OWNERS[0]]:
        times = [at for at, owner in done if key in owner]
        for first in range(len(times)):
            for last in range(first, len(times)):
                assert last - first + 1 <= burst + per_second * (times[last] - times[first]) + 1e-6


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_who_waits_as_told_keeps_the_rate(amounts: list[int]) -> None:
    rate = Rate("frames", {"process": (10.0, 5.0)})
    now = 0.0
    for amount in amounts:
        now += rate.wait(quota.local(1, 1), now, amount)
    # Nothing was refused, and all of it took as long as it must.
    assert now * 10 == pytest.approx(max(0.0, sum(amounts) - 5), abs=1e-6)
    assert rate.wait(quota.local(1, 2), now, 5) == 0


def test_a_rate_remembers_so_many_and_no_more() -> None:
    rate = Rate("connections", {"host": (1.0, 1.0)}, keys=3)
    for number in range(10):
        rate.check(quota.host(f"10.0.0.{number}"), 0.0)
    assert len(rate) == 3
    with pytest.raises(limits.LimitReached):
        rate.check(quota.host("10.0.0.9"), 0.0)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 3)), max_size=100))
def test_every_line_is_written_or_counted(lines: list[tuple[str, float]]) -> None:
    told = Lines(per_second=1.0, burst=3.0)
    now, written, left_out = 0.0, Counter[str](), Counter[str]()
    for subject, later in lines:
        now += later
        written[subject] += told.allow("event", subject, 30, now)
        for event, about, count, level in told.over(now, age=5.0):
            assert (event, level) == ("event", 30)
            left_out[about] += count
    for _, about, count, _ in told.over(now, age=0.0):
        left_out[about] += count
    assert not told.waiting
    assert written + left_out == Counter(subject for subject, _ in lines)
    for subject in "ab":
        assert written[subject] <= 3 + now + 1e-6


def test_of_many_subjects_few_are_remembered() -> None:
    told = Lines(per_second=0.0, burst=1.0, keys=4)
    for number in range(20):
        assert told.allow("event", str(number), 30, 0.0)
        assert not told.allow("event", str(number), 30, 0.0)
    assert len(told.over(0.0, 0.0)) <= 4
