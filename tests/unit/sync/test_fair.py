"""Whose call is next, where more wait than there are threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.sync.fair import UNBEGUN, Fair, in_turns, shares


class Job:
    def __init__(self, whose: str, number: int, done: list[Job]) -> None:
        self.whose = whose
        self.number = number
        self._done = done

    def run(self) -> None:
        self._done.append(self)


class Threads:
    """An executor that runs what it has when it is told to."""

    def __init__(self) -> None:
        self.done: list[Job] = []
        self._given: deque[Callable[[], None]] = deque()
        self._count = 0
        self.fair: Fair[Job] = Fair(self._take)

    def _take(self, run: Callable[[], None], _job: Job) -> bool:
        self._given.append(run)
        return True

    def submit(self, whose: str) -> None:
        self._count += 1
        self.fair.submit(Job(whose, self._count, self.done))

    def run(self, most: int = 1 << 30) -> None:
        for _ in range(min(most, 1 << 30)):
            if not self._given:
                return
            self._given.popleft()()


@given(st.lists(st.one_of(st.sampled_from("abc"), st.integers(1, 50)), max_size=300))
def test_every_job_is_run_once_and_those_of_one_process_in_their_order(steps: list[str | int]) -> None:
    threads = Threads()
    submitted = 0
    for step in steps:
        if isinstance(step, int):
            threads.run(step)
        else:
            threads.submit(step)
            submitted += 1
    threads.run()
    assert len(threads.done) == submitted
    for whose in "abc":
        numbers = [job.number for job in threads.done if job.whose == whose]
        assert numbers == sorted(numbers)


def test_a_flood_of_one_does_not_hold_up_the_others() -> None:
    threads = Threads()
    for _ in range(5000):
        threads.submit("flood")
    threads.submit("good")
    threads.run()
    place = [job.whose for job in threads.done].index("good")
    assert place <= UNBEGUN + 1


@given(st.lists(st.sampled_from("abc"), max_size=50))
def test_what_was_read_at_once_is_run_in_turns(whose: list[str]) -> None:
    jobs = [Job(who, number, []) for number, who in enumerate(whose)]
    ordered = in_turns(jobs)
    assert sorted(job.number for job in ordered) == list(range(len(jobs)))
    for who in "abc":
        numbers = [job.number for job in ordered if job.whose == who]
        assert numbers == sorted(numbers)
        # Before the nth of anybody there are no more than n of anybody else.
        for place, number in enumerate(numbers):
            before = [job.whose for job in ordered[: ordered.index(jobs[number])]]
            assert all(before.count(other) <= place + 1 for other in "abc")


@given(st.lists(st.sampled_from("abc"), max_size=200), st.integers(1, 64))
def test_each_process_is_read_as_much_of_however_many_connections_it_has(owners: list[str], most: int) -> None:
    whose = dict(enumerate(owners))
    told = shares(whose, whose, most)
    assert sorted(connection for connection, _ in told) == sorted(whose)
    each = {who: sum(frames for connection, frames in told if whose[connection] == who) for who in set(owners)}
    assert all(0 < frames <= max(1, most // len(each)) for frames in each.values())
    for who in each:
        # Those that have waited for longest are the ones that are read.
        read = [frames > 0 for connection, frames in told if whose[connection] == who]
        assert read == sorted(read, reverse=True)
