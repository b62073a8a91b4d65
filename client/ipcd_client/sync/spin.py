"""Waiting for a wire: spin a little, then park.

A wake-up from another core costs tens of microseconds, a spin finds the answer within one. So: spin only while recent
answers came within the budget, less and less often after misses, at most one spinner in a process, and never where only
one CPU is usable or a quota would be spent. `IPCD_SPIN_US` sets the budget in microseconds; 0 turns it off.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Final, TypeVar

from ipcd_client.errors import ConfigError

E = TypeVar("E")

DEFAULT_BUDGET_US: Final = 100.0
_MOST_MISSES: Final = 9


def _has_quota(root: str = "/sys/fs/cgroup") -> bool:
    """Whether a CPU quota binds this process (cgroup v2, and v1 where mounted)."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    for line in own:
        _, controllers, path = line.split(":", 2)
        names = ("cpu.max",) if not controllers else ("cpu.cfs_quota_us",) if "cpu" in controllers.split(",") else ()
        base = root if not controllers else f"{root}/cpu"
        for name in names:
            for place in (f"{base}{path}/{name}", f"{base}/{name}"):
                try:
                    quota = Path(place).read_text(encoding="ascii").split()[0]
                except (OSError, IndexError):
                    continue
                if quota not in ("max", "-1"):
                    return True
    return False


def budget() -> float:
    """Seconds that a wait may spin.

    Raises:
        ConfigError: IPCD_SPIN_US is not a number of microseconds.
    """
    raw = os.environ.get("IPCD_SPIN_US")
    if raw is not None:
        try:
            value = float(raw)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1e6:
            raise ConfigError(f"IPCD_SPIN_US={raw!r}: not a number of microseconds between 0 and 1000000")
        return value / 1e6
    return DEFAULT_BUDGET_US / 1e6 if _pays() else 0.0


@functools.cache
def _pays() -> bool:
    """Whether there is a CPU to spin on. Looked up once: it costs as much as a connection."""
    return len(os.sched_getaffinity(0)) >= 2 and not _has_quota()


_one_spinner = threading.Lock()


def _after_fork() -> None:
    # The parent's spinner does not exist in the child, and would hold the lock for ever.
    global _one_spinner
    _one_spinner = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class Spinner:
    """What one waiter learned of how soon its answers come. Used by one thread at a time.

    After a miss the next waits park at once: 2 of them after the first miss, 4 after the second, up to 512. Without
    that pause two processes that the scheduler keeps on one CPU, each of which spins while the other could run, stay
    there for ever. The time itself is not cut: a spin that is shorter than the other end's wake-up misses for that
    alone, and two ends that park because the other one parks never come out of it (see docs/architecture.md).
    """

    __slots__ = ("_budget", "_misses", "_pause")

    def __init__(self, budget_seconds: float) -> None:
        self._budget = budget_seconds
        self._misses = 0
        self._pause = 0

    def spin(self, poll: Callable[[int], list[E]], limit: float | None) -> list[E]:
        """Calls `poll(0)` until it finds something, for as long as recent waits make it worth while and at most `limit`
        seconds (None: no limit): what it has found. Nothing: park now.

        `poll(0)` must give up the GIL, as select.poll and epoll do: other threads run between two looks.
        """
        if self._pause:
            self._pause -= 1
            return []
        allowed = self._budget
        if limit is not None and limit < allowed:
            allowed = limit
        if allowed <= 0:
            return []
        spinners = _one_spinner
        if not spinners.acquire(False):
            return []
        try:
            found = poll(0)
            if not found:
                end = perf_counter() + allowed
                while not (found := poll(0)):
                    if perf_counter() > end:
                        self._missed()
                        return found
        finally:
            spinners.release()
        if self._misses:
            self._misses = 0
        return found

    def _missed(self) -> None:
        self._misses = min(self._misses + 1, _MOST_MISSES)
        self._pause = 1 << self._misses
