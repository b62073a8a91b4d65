"""Deadlines that share a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.loop.alarms import Alarms

STEPS = st.lists(st.tuples(st.sampled_from(["expect", "forget", "pass"]), st.integers(0, 9), st.integers(0, 20)))


class Handle:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of one as is needed, with a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.handles: list[Handle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        self.handles.append(Handle(when, callback))
        return self.handles[-1]

    def live(self) -> list[Handle]:
        return [handle for handle in self.handles if not handle.cancelled]

    def until(self, end: float) -> None:
        """Lets time pass."""
        while (due := min(self.live(), key=lambda handle: handle.when, default=None)) and due.when <= end:
            self.now = max(self.now, due.when)
            self.handles.remove(due)
            due.callback()
        self.now = end


class Who:
    def __init__(self, told: list[int], number: int, also: Callable[[], None] = lambda: None) -> None:
        self._told = told
        self._number = number
        self._also = also

    def expire(self) -> None:
        self._told.append(self._number)
        self._also()


def alarms_on(loop: Loop, watch: Callable[[], float] = lambda: 0.0) -> Alarms:
    return Alarms(cast("asyncio.AbstractEventLoop", loop), watch)


@given(STEPS)
def test_each_is_told_once_at_its_deadline(steps: list[tuple[str, int, int]]) -> None:
    loop = Loop()
    alarms = alarms_on(loop)
    told: list[int] = []
    everybody = [Who(told, number) for number in range(10)]
    due: dict[int, float] = {}
    for verb, number, after in steps:
        if verb == "expect":
            due[number] = loop.now + after
            alarms.expect(everybody[number], due[number])
        elif verb == "forget":
            due.pop(number, None)
            alarms.forget(everybody[number])
        else:
            told.clear()
            loop.until(loop.now + after)
            over = {number for number, when in due.items() if when <= loop.now}
            assert set(told) == over
            assert len(told) == len(over)
            due = {number: when for number, when in due.items() if number not in over}
        assert len(loop.live()) <= 1


def test_whoever_is_told_may_set_and_forget_others() -> None:
    loop = Loop()
    alarms = alarms_on(loop)
    told: list[int] = []
    third = Who(told, 3)
    second = Who(told, 2)

    def also() -> None:
        alarms.forget(second)
        alarms.expect(third, 5.0)

    alarms.expect(Who(told, 1, also), 1.0)
    alarms.expect(second, 1.0)
    loop.until(2.0)
    assert told == [1]
    loop.until(6.0)
    assert told == [1, 3]


def test_closed() -> None:
    loop = Loop()
    alarms = alarms_on(loop)
    told: list[int] = []
    alarms.expect(Who(told, 1, alarms.close), 1.0)
    alarms.expect(Who(told, 2), 2.0)
    loop.until(3.0)
    assert told == [1]
    assert loop.live() == []


def test_calls_that_end_touch_no_timer() -> None:
    loop = Loop()
    alarms = alarms_on(loop)
    for number in range(100):
        who: Any = Who([], number)
        alarms.expect(who, 10.0 + number)
        alarms.forget(who)
    assert len(loop.handles) == 1


def test_looking_through_very_many_takes_a_tenth_of_the_time() -> None:
    """Each look takes a second here."""
    loop = Loop()
    times = iter(range(1000))
    alarms = alarms_on(loop, lambda: float(next(times)))
    told: list[int] = []
    for number in range(100):
        alarms.expect(Who(told, number), float(number))
    loop.until(50.0)
    assert next(times) // 2 == 6
    assert told == list(range(51))
