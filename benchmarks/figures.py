"""The figures to reach, and whether they are: pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from benchmarks.plan import LARGE, SMALL
from benchmarks.stats import Run, best, median, ratio, select, value
from ipcd.demo.timing import ratio_text

# What the figures are about; less of it is no measure for them.
IDLE_SECONDS: Final = 30.0
CALLERS: Final = 1000

Verdict = Literal["met", "not met", "not available"]
Measured = Callable[[Run], float | None]


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: what is asked, of what, and the bound. Lower is better where `at_most`."""

    name: str
    target: str  # as people say it
    bound: float
    at_most: bool
    measured: Measured
    text: Callable[[float], str]
    needs: tuple[str, ...]  # peers; the reason why one is missing is the reason why this has no value


@dataclass(frozen=True, slots=True)
class Result:
    """A figure over the runs. `value` is the median of `single`; None stands for a run that has none."""

    figure: Figure
    value: float | None
    single: tuple[float | None, ...]

    @property
    def verdict(self) -> Verdict:
        if self.value is None:
            return "not available"
        met = self.value <= self.figure.bound if self.figure.at_most else self.value >= self.figure.bound
        return "met" if met else "not met"

    def as_json(self) -> dict[str, Any]:
        return {
            "figure": self.figure.name,
            "target": self.figure.target,
            "measured": self.value,
            "single": list(self.single),
            "verdict": self.verdict,
        }


def times(number: float) -> str:
    """A ratio of two rates."""
    return f"{number:.1f} x"


def _p50(group: str, peer: str, beside: str, **at: int | str) -> Measured:
    return lambda run: ratio(value(run, "p50_us", group, peer, **at), value(run, "p50_us", group, beside, **at))


def _latency(name: str, part: int, peer: str, beside: str, size: int = SMALL) -> Figure:
    return Figure(
        name, f"1/{part}", 1 / part, True, _p50("latency", peer, beside, size=size), ratio_text, (peer, beside)
    )


def _rate(name: str, bound: int, peer: str, beside: str, group: str, value_name: str, **at: int | str) -> Figure:
    def measured(run: Run) -> float | None:
        ours, theirs = best(run, value_name, group, peer, **at), best(run, value_name, group, beside, **at)
        return None if ours is None or theirs is None else ratio(ours.values[value_name], theirs.values[value_name])

    return Figure(name, f"{bound} x", bound, False, measured, times, (peer, beside))


def _in_flight(name: str, peer: str, beside: str) -> Figure:
    return _rate(name, 8, peer, beside, "throughput", "calls_per_s", in_flight=32)


def _first(name: str, peer: str, beside: str) -> Figure:
    # The bound itself is not enough: it is to be under a half.
    bound = math.nextafter(0.5, 0)
    return Figure(name, "under 1/2", bound, True, _p50("first-call", peer, beside), ratio_text, (peer, beside))


def _idle_cpu(process: str) -> Figure:
    def measured(run: Run) -> float | None:
        found = [one for one in select(run, "idle", "ipcd", process=process) if one.values["seconds"] >= IDLE_SECONDS]
        return found[0].values["cpu_ms"] / found[0].values["seconds"] * IDLE_SECONDS if found else None

    # One tick of the system's own accounting of CPU time: less than that in 30 s is what it calls nothing.
    name = f"idle: CPU time of the {process} over 30 s"
    return Figure(name, "under 10 ms", 10.0, True, measured, lambda ms: f"{ms:.1f} ms", ())


def _daemon_memory(run: Run) -> float | None:
    return value(run, "rss", "idle", "ipcd", process="daemon")


def _of_many(run: Run, name: str, peer: str) -> float | None:
    """None where there were fewer than the figure is about."""
    return value(run, name, "callers", peer) if (value(run, "callers", "callers", peer) or 0) >= CALLERS else None


def _served(peer: str, label: str) -> Figure:
    def measured(run: Run) -> float | None:
        return ratio(_of_many(run, "served", peer), _of_many(run, "callers", peer))

    return Figure(
        f"1,000 callers on one server, {label}: served",
        "all",
        1.0,
        False,
        measured,
        lambda part: f"{part:.1%}",
        (peer,),
    )


def _caller_memory(peer: str, label: str) -> Figure:
    return Figure(
        f"1,000 callers on one server, {label}: its resident memory for each idle one",
        "under 100 KB",
        100e3,
        True,
        lambda run: _of_many(run, "rss_per_caller", peer),
        lambda size: f"{size / 1000:.0f} KB",
        (peer,),
    )


FIGURES: Final = (
    _latency("unary 64 B, shm, p50 beside grpcio over a UNIX socket", 45, "ipcd-shm", "grpcio-unix"),
    _latency("unary 64 B, shm, p50 beside pyzmq over ipc", 10, "ipcd-shm", "pyzmq"),
    _latency("unary 64 B, unix, p50 beside grpcio over a UNIX socket", 25, "ipcd-unix", "grpcio-unix"),
    _latency("unary 64 B, tcp through two nodes, p50 beside grpcio over TCP", 20, "ipcd-tcp", "grpcio-tcp"),
    Figure(
        "unary 64 B, tcp through two nodes with TLS, p50 beside the same without", "1.5 x", 1.5, True,
        _p50("latency", "ipcd-tls", "ipcd-tcp", size=SMALL), ratio_text, ("ipcd-tls", "ipcd-tcp"),
    ),
    _latency("unary 1 MiB echo, shm, p50 beside grpcio over a UNIX socket", 8, "ipcd-shm", "grpcio-unix", LARGE),
    _rate(
        "server-streamed 64 B messages/s, shm, beside grpcio over a UNIX socket", 12, "ipcd-shm", "grpcio-unix",
        "streaming", "messages_per_s", direction="down", size=SMALL,
    ),
    _in_flight("unary calls/s, 32 in flight, shm, beside grpcio over a UNIX socket", "ipcd-shm", "grpcio-unix"),
    _latency("aio unary 64 B, shm, p50 beside grpc.aio over a UNIX socket", 8, "ipcd-aio-shm", "grpcio-aio-unix"),
    _in_flight(
        "aio unary calls/s, 32 in flight, shm, beside grpc.aio over a UNIX socket", "ipcd-aio-shm", "grpcio-aio-unix"
    ),
    _first("first call on a new channel, shm, beside grpcio over a UNIX socket", "ipcd-shm", "grpcio-unix"),
    _first("first call on a new channel, tcp, beside grpcio over TCP", "ipcd-tcp", "grpcio-tcp"),
    _idle_cpu("daemon"),
    _idle_cpu("server"),
    _idle_cpu("client"),
    Figure(
        "memory of the daemon (resident)", "under 60 MB", math.nextafter(60e6, 0), True, _daemon_memory,
        lambda size: f"{size / 1e6:.1f} MB", (),
    ),
    *(
        make(peer, label)
        for peer, label in (("ipcd-shm", "shm"), ("ipcd-unix", "unix"), ("ipcd-tcp", "tcp"))
        for make in (_served, _caller_memory)
    ),
)  # fmt: skip


def results(runs: Sequence[Run]) -> list[Result]:
    """Every figure over these runs."""
    told = []
    for figure in FIGURES:
        single = tuple(figure.measured(run) for run in runs)
        told.append(Result(figure, median(single), single))
    return told
