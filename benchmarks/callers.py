"""The calls of a client process, timed: for a client that waits, and for one on an event loop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from time import perf_counter, perf_counter_ns, process_time_ns
from typing import Any

from benchmarks.peers.base import Client, Place, WrongAnswerError, check
from benchmarks.processes import cpu_ns, faults
from benchmarks.stats import Samples

Answer = dict[str, Any]

# A stream whose rate is not known yet: so many messages, and ten times as many until it takes that long (seconds).
_FIRST_COUNT = 20
_LONG_ENOUGH = 0.02


class Caller:
    """What both have: payloads, and the samples of turns that are kept until they are asked for."""

    def __init__(self, client: Client, connect: Callable[[Place], Any], place: Place, server_pid: int) -> None:
        self._client = client
        self._connect = connect
        self._place = place
        self._server_pid = server_pid
        self._requests: dict[int, tuple[bytes, Any]] = {}
        self._kept: dict[int, Samples] = {}
        self._rates: dict[tuple[str, int], float] = {}  # messages/s of streams, as last measured
        self._gathered: list[Any] = []

    def summary(self, size: int) -> Answer:
        """Over the turns of `size` that were kept; they are forgotten."""
        return self._kept.pop(size).summary()

    def _request(self, size: int) -> tuple[bytes, Any]:
        """A payload and the request that bears it, made once: neither is what is measured."""
        if size not in self._requests:
            payload = os.urandom(size)
            self._requests[size] = payload, self._client.request(payload)
        return self._requests[size]

    def _keep(self, size: int, turn: Samples, keep: bool) -> Answer:
        if keep:
            self._kept.setdefault(size, Samples()).add(turn)
        return turn.summary()

    def _same(self, payload: bytes, answer: Any) -> None:
        if self._client.payload(answer) != payload:
            raise WrongAnswerError("an echo came back altered")

    def _streams(self, direction: str, size: int, seconds: float) -> Generator[int, float, Answer]:
        """How many messages the next stream has; is told how many seconds it took, and returns the answer to the
        command. The last takes about `seconds`; what comes before it, while the rate is not known, is thrown away.
        """
        rate = self._rates.get((direction, size))
        if rate is None:
            yield 1  # connections and caches are cold
            count = _FIRST_COUNT
            while (took := (yield count)) <= min(_LONG_ENOUGH, seconds):
                count *= 10
        else:
            count = max(1, int(rate * seconds))
            took = yield count
        self._rates[direction, size] = count / took
        return {"messages": count, "seconds": took}


class _Meter:
    """CPU time and page faults of both processes from here on."""

    def __init__(self, server_pid: int) -> None:
        self._server_pid = server_pid
        self._faults = faults(os.getpid()), faults(server_pid)
        self._cpu_ns = process_time_ns(), cpu_ns(server_pid)

    def read(self, ns: list[int], spent_ns: int) -> Samples:
        cpu = process_time_ns() - self._cpu_ns[0], cpu_ns(self._server_pid) - self._cpu_ns[1]
        fault = faults(os.getpid()) - self._faults[0], faults(self._server_pid) - self._faults[1]
        return Samples(ns, spent_ns, *cpu, *fault)


class SyncCaller(Caller):
    """For `benchmarks.peers.base.Client`."""

    def latency(self, size: int, seconds: float, keep: bool) -> Answer:
        """Call after call for so long, at least one; only the calls are timed, each answer's length is checked."""
        payload, request = self._request(size)
        call, payload_of, clock = self._client.call, self._client.payload, perf_counter_ns
        self._same(payload, call(request))
        ns: list[int] = []
        append = ns.append
        meter = _Meter(self._server_pid)
        began = clock()
        until = began + int(seconds * 1e9)
        while True:
            start = clock()
            answer = call(request)
            end = clock()
            append(end - start)
            if len(payload_of(answer)) != size:
                raise WrongAnswerError(f"{size} bytes were sent, {len(payload_of(answer))} came back")
            if end >= until:
                break
        return self._keep(size, meter.read(ns, clock() - began), keep)

    def sustain(self, way: str, in_flight: int, size: int, seconds: float) -> Answer:
        """So many calls in flight for so long."""
        _, request = self._request(size)
        return self._client.sustain(way, request, in_flight, seconds, size)._asdict()  # type: ignore[no-any-return]

    def stream(self, direction: str, size: int, seconds: float) -> Answer:
        """A stream of about so long; its rate."""
        payload, _ = self._request(size)
        streams = self._streams(direction, size, seconds)
        count = next(streams)
        while True:
            began = perf_counter()
            self._client.stream(direction, count, payload)
            try:
                count = streams.send(perf_counter() - began)
            except StopIteration as told:
                return told.value  # type: ignore[no-any-return]

    def first(self, times: int) -> Answer:
        """A new channel and its first call, so many times; microseconds each took."""
        payload, request = self._request(64)
        took = []
        for _ in range(times):
            began = perf_counter_ns()
            client = self._connect(self._place)
            answer = client.call(request)
            took.append((perf_counter_ns() - began) / 1000)
            self._same(payload, answer)
            client.close()
        return {"us": took}

    def together(self, begin: float, size: int, seconds: float) -> Answer:
        """Call after call from `begin`, of time.monotonic(), for so long."""
        payload, request = self._request(size)
        call, payload_of = self._client.call, self._client.payload
        self._same(payload, call(request))
        time.sleep(max(0.0, begin - time.monotonic()))
        until = begin + seconds
        calls = 0
        while time.monotonic() < until:
            check(size, len(payload_of(call(request))))
            calls += 1
        return {"calls": calls}

    def gather(self, count: int) -> Answer:
        """Open so many more channels, each with a call over a connection of its own, and keep them."""
        payload, request = self._request(64)
        served = 0
        for _ in range(count):
            client = self._connect(self._place)
            self._gathered.append(client)
            self._same(payload, client.call(request))
            served += 1
        return {"served": served}

    def again(self) -> Answer:
        """A call over each of them."""
        payload, request = self._request(64)
        for client in self._gathered:
            self._same(payload, client.call(request))
        return {"served": len(self._gathered)}


class AioCaller(Caller):
    """For the same on an event loop."""

    async def latency(self, size: int, seconds: float, keep: bool) -> Answer:
        payload, request = self._request(size)
        call, payload_of, clock = self._client.call, self._client.payload, perf_counter_ns
        self._same(payload, await call(request))
        ns: list[int] = []
        append = ns.append
        meter = _Meter(self._server_pid)
        began = clock()
        until = began + int(seconds * 1e9)
        while True:
            start = clock()
            answer = await call(request)
            end = clock()
            append(end - start)
            if len(payload_of(answer)) != size:
                raise WrongAnswerError(f"{size} bytes were sent, {len(payload_of(answer))} came back")
            if end >= until:
                break
        return self._keep(size, meter.read(ns, clock() - began), keep)

    async def sustain(self, way: str, in_flight: int, size: int, seconds: float) -> Answer:
        _, request = self._request(size)
        return (await self._client.sustain(way, request, in_flight, seconds, size))._asdict()  # type: ignore[no-any-return]

    async def stream(self, direction: str, size: int, seconds: float) -> Answer:
        payload, _ = self._request(size)
        streams = self._streams(direction, size, seconds)
        count = next(streams)
        while True:
            began = perf_counter()
            await self._client.stream(direction, count, payload)
            try:
                count = streams.send(perf_counter() - began)
            except StopIteration as told:
                return told.value  # type: ignore[no-any-return]
