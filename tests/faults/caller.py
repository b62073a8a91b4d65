"""A program that calls in all its lanes: python caller.py NAME NODE SOCKET FOLDER threads|loop SEED

FOLDER/gate says when to. What it does stands in FOLDER/NAME.calls, a line each:

    B NUMBER KIND SECONDS             a call begins; the seconds are CLOCK_MONOTONIC's
    E NUMBER STATUS SECONDS DETAILS   it has ended; beside gRPC's there are WRONG (answers) and RAISED (no RpcError)
    P PAUSE LANE                      the lane has no call under way

It ends well on SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
from conformance.configs import retrying
from faults.work import ATTEMPTS, LOOK, SERVICE, Gate, Lane, Plan, lanes_at

# Of the calls of a whimsical lane, so many are cancelled, within this many seconds.
CANCELLED = 0.3
WITHIN = 0.004


class Book:
    """What this program writes down. The name in the numbers has the process id, so that they are used once."""

    def __init__(self, name: str, folder: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(Path(folder, f"{name}.calls"), flags, 0o600)
        self._who = f"{name}:{os.getpid()}"

    def begin(self, lane: Lane, number: int, dice: random.Random) -> Plan:
        """The next call."""
        plan = Plan.drawn(f"{self._who}.{lane.name}.{number}", dice)
        self._write(f"B {plan.id} {plan.kind} {time.monotonic():.6f}")
        return plan

    def end(self, plan: Plan, status: str, details: str) -> None:
        """What came of it."""
        self._write(f"E {plan.id} {status} {time.monotonic():.6f} {' '.join(details.split())}")

    def pause(self, lane: Lane, number: int) -> None:
        """Nothing is under way in the lane."""
        self._write(f"P {number} {lane.name}")

    def _write(self, line: str) -> None:
        os.write(self._fd, f"{line}\n".encode())


def judged(plan: Plan, answers: Sequence[bytes]) -> tuple[str, str]:
    """Status and details of a call that was answered."""
    wrong = plan.fault_of(answers)
    return ("WRONG", wrong) if wrong else ("OK", "")


def failed(error: BaseException) -> tuple[str, str]:
    """The same of one that was not."""
    if isinstance(error, grpc.RpcError):
        told: Any = error
        return told.code().name, told.details() or ""
    if isinstance(error, (grpc.FutureCancelledError, asyncio.CancelledError)):
        return "CANCELLED", ""
    return "RAISED", repr(error)


def options_of(lane: Lane) -> Any:
    return retrying(maxAttempts=ATTEMPTS) if lane.retry else ()


class OnThreads:
    """A thread for each lane."""

    def __init__(self, book: Book, gate: Gate, path: str) -> None:
        self._book = book
        self._gate = gate
        self._path = path
        self._over = threading.Event()

    def run(self, lanes: Sequence[Lane], seed: str) -> None:
        """Until SIGTERM."""
        threads = [
            threading.Thread(target=self._lane, args=(lane, random.Random(f"{seed}.{lane.name}"))) for lane in lanes
        ]
        for thread in threads:
            thread.start()
        print("ready", flush=True)
        while not self._over.wait(3600):
            pass
        for thread in threads:
            thread.join()

    def stop(self, *_: object) -> None:
        self._over.set()

    def _lane(self, lane: Lane, dice: random.Random) -> None:
        with contextlib.ExitStack() as stack:
            channel = None if lane.fresh else stack.enter_context(self._channel(lane))
            number = paused = 0
            while not self._over.wait(LOOK if paused else lane.pace):
                closed = self._gate.closed()
                if closed and closed != paused:
                    self._book.pause(lane, closed)
                paused = closed
                if closed:
                    continue
                number += 1
                plan = self._book.begin(lane, number, dice)
                self._book.end(plan, *self._outcome(lane, channel, plan, dice))

    def _channel(self, lane: Lane) -> Any:
        return ipcd_client.channel(lane.target, node=self._path, transport=lane.transport, options=options_of(lane))

    def _outcome(self, lane: Lane, channel: Any, plan: Plan, dice: random.Random) -> tuple[str, str]:
        try:
            with contextlib.ExitStack() as stack:
                of = channel if channel is not None else stack.enter_context(self._channel(lane))
                return judged(plan, self._answers(of, plan, lane, dice))
        except Exception as error:
            return failed(error)

    def _answers(self, channel: Any, plan: Plan, lane: Lane, dice: random.Random) -> list[bytes]:
        multicallable = getattr(channel, plan.kind)(f"/{SERVICE}/{plan.kind}")
        requests = plan.requests()
        argument = iter(requests) if plan.sends_stream else requests[0]
        if plan.gets_stream:
            call = multicallable(argument, timeout=lane.deadline)
            with self._whim(call, lane.whim, dice):
                return list(call)
        if lane.whim:
            future = multicallable.future(argument, timeout=lane.deadline)
            with self._whim(future, lane.whim, dice):
                return [future.result()]
        return [multicallable(argument, timeout=lane.deadline)]

    @contextlib.contextmanager
    def _whim(self, call: Any, whim: bool, dice: random.Random) -> Iterator[None]:
        """Some are cancelled by another thread."""
        timer = threading.Timer(dice.uniform(0, WITHIN), call.cancel) if whim and dice.random() < CANCELLED else None
        if timer is not None:
            timer.start()
        try:
            yield
        finally:
            if timer is not None:
                timer.join()


class OnALoop:
    """A task for each lane."""

    def __init__(self, book: Book, gate: Gate, path: str) -> None:
        self._book = book
        self._gate = gate
        self._path = path
        self._over = asyncio.Event()

    async def run(self, lanes: Sequence[Lane], seed: str) -> None:
        """Until SIGTERM."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._over.set)
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(self._lane(lane, random.Random(f"{seed}.{lane.name}")))
            print("ready", flush=True)

    async def _over_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._over.wait()
        except TimeoutError:
            return False

    async def _lane(self, lane: Lane, dice: random.Random) -> None:
        async with contextlib.AsyncExitStack() as stack:
            channel = None if lane.fresh else await stack.enter_async_context(self._channel(lane))
            number = paused = 0
            while not await self._over_within(LOOK if paused else lane.pace):
                closed = self._gate.closed()
                if closed and closed != paused:
                    self._book.pause(lane, closed)
                paused = closed
                if closed:
                    continue
                number += 1
                plan = self._book.begin(lane, number, dice)
                self._book.end(plan, *await self._outcome(lane, channel, plan, dice))

    def _channel(self, lane: Lane) -> Any:
        return ipcd_client.aio.channel(lane.target, node=self._path, transport=lane.transport, options=options_of(lane))

    async def _outcome(self, lane: Lane, channel: Any, plan: Plan, dice: random.Random) -> tuple[str, str]:
        try:
            async with contextlib.AsyncExitStack() as stack:
                of = channel if channel is not None else await stack.enter_async_context(self._channel(lane))
                return judged(plan, await self._answers(of, plan, lane, dice))
        except (Exception, asyncio.CancelledError) as error:
            return failed(error)

    async def _answers(self, channel: Any, plan: Plan, lane: Lane, dice: random.Random) -> list[bytes]:
        requests = plan.requests()
        argument = self._stream(requests) if plan.sends_stream else requests[0]
        call = getattr(channel, plan.kind)(f"/{SERVICE}/{plan.kind}")(argument, timeout=lane.deadline)
        timer = None
        if lane.whim and dice.random() < CANCELLED:
            timer = asyncio.get_running_loop().call_later(dice.uniform(0, WITHIN), call.cancel)
        try:
            return [answer async for answer in call] if plan.gets_stream else [await call]
        finally:
            if timer is not None:
                timer.cancel()

    async def _stream(self, requests: list[bytes]) -> AsyncIterator[bytes]:
        for request in requests:
            yield request


def main(name: str, node: str, path: str, folder: str, how: str, seed: str) -> None:
    """See the module."""
    book, gate, lanes = Book(name, folder), Gate(f"{folder}/gate"), lanes_at(node)
    if how == "threads":
        caller = OnThreads(book, gate, path)
        signal.signal(signal.SIGTERM, caller.stop)
        caller.run(lanes, f"{seed}.{name}")
    else:
        asyncio.run(OnALoop(book, gate, path).run(lanes, f"{seed}.{name}"))


if __name__ == "__main__":
    main(*sys.argv[1:])
