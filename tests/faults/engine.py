"""Puts a cluster under one fault after the other, and holds it to account after each.

A round is: calls in all lanes; the fault; what it did is undone; calls in all lanes again, and all nodes know each
other; no more calls. Then every call has to have ended once and in a way that this fault allows, and nothing may have
been left behind.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final

from faults.ledger import LATE, Allowed, Window
from faults.watch import Watch
from faults.work import DEADLINE
from faults.world import World, now

# Seconds in which a process that has nothing to do any more has let go of all that it is to let go of.
SETTLE: Final = 10.0
# Answers of each lane before a fault and after it.
ANSWERS: Final = 2
# Seconds in which calls are made where nothing is wrong: far more than it takes.
FLOWS: Final = 30.0

Injection = Callable[[World, random.Random], Generator[Sequence[Allowed], None, None]]


@dataclass(frozen=True)
class Fault:
    """`inject` is a generator as those of `contextlib.contextmanager`: it breaks something, yields what calls may come
    to because of that, and mends it. Seconds: how long it lasts, and in which service has to be as before."""

    name: str
    inject: Callable[[World, random.Random], AbstractContextManager[Sequence[Allowed]]]
    lasts: float
    recovery: float


@dataclass
class Found:
    """What came of a round."""

    fault: str
    seconds: float = 0.0  # of the whole round
    recovered: float = 0.0  # seconds until service was as before
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def fault(name: str, *, lasts: float, recovery: float = 20.0) -> Callable[[Injection], Fault]:
    """Declares one."""

    def declared(inject: Injection) -> Fault:
        return Fault(name, contextlib.contextmanager(inject), lasts, recovery)

    return declared


class Engine:
    """Of one world."""

    def __init__(self, world: World, seed: str) -> None:
        self._world = world
        self._dice = random.Random(seed)
        self._files: set[str] = set()
        self.watch = Watch()

    def schedule(self, faults: Sequence[Fault]) -> Iterator[Fault]:
        """For ever: all of them, each time in another order."""
        while True:
            yield from self._dice.sample(faults, len(faults))

    def settle(self) -> None:
        """Calls without any fault. What there is afterwards is what later rounds are held against."""
        found = self.round(Fault("none", _nothing, 0.0, FLOWS))
        assert not found.wrong, found.wrong
        self._files = self._left()

    def round(self, fault: Fault) -> Found:
        """One fault; raises nothing but what the harness itself has done wrong."""
        found = Found(fault.name)
        begin = now()
        killed = self._processes_of_callers()
        window = Window()
        world = self._world
        try:
            world.go()
            world.await_answers(ANSWERS, begin, FLOWS)
            broken = now()
            # Until it is known when it was mended, it may be felt.
            window = Window(broken)
            with fault.inject(world, self._dice) as allowed:
                window = Window(broken, float("inf"), tuple(allowed))
                time.sleep(fault.lasts)
            mended = now()
            world.await_answers(1, mended, fault.recovery)
            world.await_whole(fault.recovery)
            found.recovered = now() - mended
            whole = now()
            world.await_answers(ANSWERS, whole, FLOWS)
            killed -= self._processes_of_callers()
            window = Window(broken, whole, tuple(allowed), frozenset(killed))
        except AssertionError as error:
            found.wrong.append(str(error))
        world.pause()
        late = max((rule.late for rule in window.allowed), default=0.0)
        try:
            world.await_quiet(DEADLINE + LATE + late + SETTLE)
        except AssertionError as error:
            found.wrong.append(str(error))
        before = world.ledger.outcomes.copy()
        found.wrong += world.ledger.close(window)
        found.outcomes = world.ledger.outcomes - before
        found.wrong += world.dead()
        found.wrong += self._leaks(fault.name)
        found.seconds = now() - begin
        return found

    def _processes_of_callers(self) -> set[str]:
        """As the ledger has them."""
        return {f"{name}:{process.pid}" for name, process in self._world.callers.items()}

    def _leaks(self, fault: str) -> list[str]:
        """What is still held after a while of rest."""
        end = now() + SETTLE
        while True:
            try:
                samples = self.watch.look(fault, self._world.processes())
            except OSError as error:
                return [f"a process has ended: {error}"]
            wrong = self.watch.excess(samples)
            if self._files:
                wrong += [f"{path} was left behind" for path in sorted(self._left() - self._files)]
            if not wrong or now() > end:
                self.watch.keep(samples)
                return wrong
            time.sleep(0.05)

    def _left(self) -> set[str]:
        """Files of the cluster; logs of daemons that came later are none that was left."""
        return {str(path) for path in self._world.folder.rglob("*") if path.suffix not in {".log", ".calls"}}


@contextlib.contextmanager
def _nothing(_world: World, _dice: random.Random) -> Iterator[Sequence[Allowed]]:
    yield ()
