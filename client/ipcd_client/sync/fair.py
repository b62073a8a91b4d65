"""Whose turn it is, to be read and to be run: each process has its own, however many calls another has sent, and over
however many connections."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from itertools import zip_longest
from typing import Final, Generic, Protocol, TypeVar

# Jobs given to the executor that have not begun. They run in the order in which they came; only beyond these is there a
# choice of whose is next. Few, as whoever comes then waits for all of them. Enough: each that begins hands in the next
# before it runs, so that no thread waits.
UNBEGUN: Final = 4


class Job(Protocol):
    """What is to be run."""

    @property
    def whose(self) -> object:
        """The process that it is for."""

    def run(self) -> None:
        """Runs it."""


J = TypeVar("J", bound=Job)


C = TypeVar("C", bound=Hashable)


def shares(due: Collection[C], whose: Mapping[C, object], most: int) -> list[tuple[C, int]]:
    """How many frames of each connection are read now: of all together about `most`, of each process as many. 0: its
    turn comes later, after that of others of the same process."""
    if len(due) == 1:
        return [(connection, most) for connection in due]
    by: dict[object, list[C]] = {}
    for connection in due:
        by.setdefault(whose.get(connection), []).append(connection)
    if not by:
        return []
    each = max(1, most // len(by))
    return [
        (connection, each // min(each, len(of_one)) if place < each else 0)
        for of_one in by.values()
        for place, connection in enumerate(of_one)
    ]


def in_turns(jobs: Sequence[J]) -> list[J]:
    """The same jobs, one of each process after the other, and those of one in their order."""
    by: dict[object, list[J]] = {}
    for job in jobs:
        by.setdefault(job.whose, []).append(job)
    if len(by) == 1:
        return list(jobs)
    rounds = zip_longest(*by.values())
    return [job for one in rounds for job in one if job is not None]


class Fair(Generic[J]):
    """`submit` has a thread run a function, for this job. It answers the job and returns False where no thread will."""

    def __init__(self, submit: Callable[[Callable[[], None], J], bool]) -> None:
        self._give = submit
        self._lock = threading.Lock()
        self._unbegun = 0
        # By whose they are, the one whose turn is next first.
        self._held: dict[object, deque[J]] = {}

    def submit(self, job: J) -> None:
        """Has it run, in its turn."""
        with self._lock:
            if self._unbegun >= UNBEGUN:
                self._held.setdefault(job.whose, deque()).append(job)
                return
            self._unbegun += 1
        self._pass_on(job)

    def _pass_on(self, job: J | None) -> None:
        # Where no thread begins it, nobody else comes to see to what is held.
        while job is not None and not self._give(functools.partial(self._begin, job), job):
            job = self._next()

    def _next(self) -> J | None:
        """What was held for longest of whose turn it is. None: one less is on its way."""
        with self._lock:
            if not self._held:
                self._unbegun -= 1
                return None
            whose = next(iter(self._held))
            jobs = self._held.pop(whose)
            job = jobs.popleft()
            if jobs:
                self._held[whose] = jobs
            return job

    def _begin(self, job: J) -> None:
        self._pass_on(self._next())
        job.run()
