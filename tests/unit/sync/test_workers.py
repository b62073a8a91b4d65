"""Threads are asked for where there is room for them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from ipcd_client.sync import workers
from ipcd_client.sync.workers import NoThread, Workers

LIMIT = 10.0


class Short:
    """Memory, of which there may be none."""

    def __init__(self, *looks: bool) -> None:
        self.looks = list(looks)

    def room(self) -> bool:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]


class Stuck(Executor):
    """Whose threads do not come up. It keeps what it was given, as a ThreadPoolExecutor does."""

    def __init__(self, error: BaseException) -> None:
        self.given: list[Callable[..., Any]] = []
        self._error = error

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.given.append(fn)
        raise self._error


def test_nobody_is_asked_for_a_thread_that_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "room", Short(False).room)
    monkeypatch.setattr(workers, "PATIENCE", 0.03)
    executor = Stuck(AssertionError("it was asked"))
    with pytest.raises(NoThread, match="no memory"):
        Workers(executor).submit(lambda: None)
    assert executor.given == []


def test_a_shortage_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "room", Short(False, False, True).room)
    done = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        Workers(executor).submit(done.set)
        assert done.wait(LIMIT)


def test_a_thread_that_is_there_needs_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    short = Short(True)
    monkeypatch.setattr(workers, "room", short.room)
    monkeypatch.setattr(workers, "PATIENCE", 0.03)
    with ThreadPoolExecutor(2) as executor:
        ours = Workers(executor)
        first = threading.Event()
        ours.submit(first.set)
        assert first.wait(LIMIT)
        short.looks = [False]
        go_on = threading.Event()
        while ours._given:  # it has set the event, and comes to its end
            pass

        def hold() -> None:
            go_on.wait(LIMIT)

        ours.submit(hold)
        # Now that one is busy.
        with pytest.raises(NoThread):
            ours.submit(lambda: None)
        go_on.set()


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_what_no_thread_runs_is_not_run_later(error: BaseException) -> None:
    executor = Stuck(error)
    ran: list[int] = []
    ours = Workers(executor)
    with pytest.raises(NoThread):
        ours.submit(lambda: ran.append(1))
    executor.given[0]()
    assert ran == []
    assert ours._given == 0


def test_what_an_old_thread_has_begun_is_not_withdrawn() -> None:
    ran: list[int] = []

    class Odd(Stuck):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            fn()
            raise self._error

    ours = Workers(Odd(RuntimeError("can't start new thread")))
    ours.submit(lambda: ran.append(1))
    assert (ran, ours._given) == ([1], 0)


def test_there_is_room_where_there_is_no_limit() -> None:
    assert workers.room()


def test_a_limit_is_heeded() -> None:
    """In a process of its own, since what is below it stays."""
    code = """
import resource
from pathlib import Path
from ipcd_client.sync import workers
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
for spare in (workers.ROOM // 2, workers.ROOM * 4):
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, resource.RLIM_INFINITY))
    print(workers.room())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout.split() == ["False", "True"]
