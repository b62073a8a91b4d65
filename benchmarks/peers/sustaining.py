"""Calls kept in flight for a while: one loop for all peers of a sort, so that none is measured by a better one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

from benchmarks.peers.base import PATIENCE, Sustained, check

P = TypeVar("P")


def oldest_first(
    send: Callable[[], P], wait: Callable[[P], int], in_flight: int, seconds: float, size: int
) -> Sustained:
    """`wait` for the oldest of those that `send` gave; what it makes room for is sent then. `wait` gives the length of
    an answer."""
    began = perf_counter()
    until = began + seconds
    flying = deque(send() for _ in range(in_flight))
    calls = 0
    while flying:
        check(size, wait(flying.popleft()))
        calls += 1
        if perf_counter() < until:
            flying.append(send())
    return Sustained(calls, perf_counter() - began)


def any_order(
    send: Callable[[], object], receive: Callable[[], int], in_flight: int, seconds: float, size: int
) -> Sustained:
    """The same where answers are not told apart: `receive` gives the length of whichever comes."""
    return oldest_first(send, lambda _sent: receive(), in_flight, seconds, size)


def in_threads(calls: list[Callable[[], object]], seconds: float) -> Sustained:
    """Each of `calls` over and over in a thread of its own, all begun at once, for so long."""
    ready = threading.Barrier(len(calls) + 1)
    counts = [0] * len(calls)
    errors: list[BaseException] = []
    until = 0.0

    def run(index: int) -> None:
        call = calls[index]
        done = 0
        ready.wait(PATIENCE)
        try:
            while perf_counter() < until:
                call()
                done += 1
        except Exception as error:  # noqa: BLE001 - raised again by the thread that waits
            errors.append(error)
        counts[index] = done

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    began = perf_counter()
    until = began + seconds
    ready.wait(PATIENCE)
    for thread in threads:
        thread.join(seconds + PATIENCE)
    took = perf_counter() - began
    if errors:
        raise errors[0]
    if any(thread.is_alive() for thread in threads):
        raise TimeoutError(f"a call has not come back for {PATIENCE:.0f} s")
    return Sustained(sum(counts), took)
