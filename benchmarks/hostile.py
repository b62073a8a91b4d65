"""What a process that means ill costs one that does not: `python -m benchmarks.hostile`.

A daemon, a server, a good client (this process), and the program of tests/faults as the hostile one, which does one of
its acts to the daemon's socket, or to the server that it was introduced to. The good client calls over a channel that
it keeps, and opens new ones, alone and beside it, in turns. The act "busy" does nothing to anybody but keep one CPU
busy: what it costs is the machine's doing. How much of a CPU the daemon, the server and the hostile process take
meanwhile stands beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import ipcd_client
from ipcd_client.node import attach
from ipcd_client.pb.ipcd.v1 import node_pb2

from benchmarks.processes import allow_descriptors, cpu_ns
from ipcd.demo.pb.lab.v1 import lab_pb2, lab_pb2_grpc

PROGRAM: Final = Path(__file__).parents[1] / "tests/faults/hostile_client.py"
SERVICE: Final = lab_pb2.DESCRIPTOR.services_by_name["Lab"].full_name
CONTROL: Final = "busy"
DAEMON: Final = (
    "connections",
    "reconnects",
    "half-open",
    "slow-reader",
    "slow-writer",
    "descriptors",
    "streams",
    "catalog",
    "huge",
    "garbage",
    "requests",
)
SERVER: Final = ("connections", "slow-reader", "slow-writer", "streams", "huge", "garbage", "requests")
RUN: Final = (
    "import sys; from ipcd.cli import main; main(['run', '--node', 'a', '--no-discovery', '--socket', sys.argv[1]])"
)
SERVE: Final = """
import sys, ipcd_client
from ipcd.demo.pb.lab.v1 import lab_pb2_grpc
from ipcd.demo.service import LabServicer
server = ipcd_client.server(node=sys.argv[1])
lab_pb2_grpc.add_LabServicer_to_server(LabServicer(), server)
server.start()
print("ready", flush=True)
server.wait_for_termination()
"""
SETTLE: Final = 0.3  # seconds after an act, for what it has left to be gone
PATIENCE: Final = 60.0


class Samples(NamedTuple):
    """Microseconds: of each call, and of each new channel with its first call."""

    calls: list[float]
    channels: list[float]


class Shares(NamedTuple):
    """Of one CPU."""

    daemon: float
    server: float
    hostile: float


def quantile(samples: Sequence[float], share: float) -> float:
    """The sample that so many are not above."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * share) - 1)]


class Good:
    """The client that is measured. It calls, rests, and now and then opens a channel."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._channel = ipcd_client.channel(node=socket)
        self._request = lab_pb2.DigestRequest(data=bytes(64))
        self._stub = lab_pb2_grpc.LabStub(self._channel)
        self._expected = self._stub.Digest(self._request, timeout=PATIENCE)

    def work(self, seconds: float) -> Samples:
        samples = Samples([], [])
        end = time.perf_counter() + seconds
        while (now := time.perf_counter()) < end:
            with ipcd_client.channel(node=self._socket, transport=("shm", "unix")[len(samples.channels) % 2]) as other:
                self._check(lab_pb2_grpc.LabStub(other))
                samples.channels.append((time.perf_counter() - now) * 1e6)
            for _ in range(50):
                start = time.perf_counter()
                self._check(self._stub)
                samples.calls.append((time.perf_counter() - start) * 1e6)
        return samples

    def _check(self, stub: lab_pb2_grpc.LabStub) -> None:
        if stub.Digest(self._request, timeout=PATIENCE) != self._expected:
            raise SystemExit("the good client got a wrong answer")

    def close(self) -> None:
        self._channel.close()


@contextlib.contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process of Python with these arguments, ended at the end."""
    with subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("a process ended")
    return line


class World:
    """What all acts are done to."""

    def __init__(self, socket: str, daemon: int, server: int) -> None:
        self.socket = socket
        connection = attach.connect(socket)
        try:
            request, until = node_pb2.StatusRequest(), time.monotonic() + PATIENCE
            status, _ = attach.call(connection, "Status", request, node_pb2.StatusReply, until)
        finally:
            connection.close()
        self.listen = status.listen
        self._pids = (daemon, server)
        self.good = Good(socket)

    def beside(self, act: str, service: str, seconds: float) -> tuple[Samples, Shares, int]:
        """What the good one measures while the other does its act; and how often that one has done it."""
        with started(str(PROGRAM), act, self.socket, self.listen, *([service] if service else [])) as hostile:
            said(hostile)
            pids = (*self._pids, hostile.pid)
            spent, start = [cpu_ns(pid) for pid in pids], time.perf_counter_ns()
            samples = self.good.work(seconds)
            took = time.perf_counter_ns() - start
            shares = Shares(*((cpu_ns(pid) - before) / took for pid, before in zip(pids, spent, strict=True)))
            out, _ = hostile.communicate(timeout=PATIENCE)
        time.sleep(SETTLE)
        return samples, shares, json.loads(out.splitlines()[-1])["done"]  # after what it was told


class Line(NamedTuple):
    """Of the table. Times in microseconds."""

    at: str
    act: str
    alone: Samples
    beside: Samples
    shares: Shares
    done: int

    def text(self) -> str:
        cells = [f"{self.at:7}", f"{self.act:12}"]
        for alone, beside in zip(self.alone, self.beside, strict=True):
            one, two = quantile(alone, 0.99), quantile(beside, 0.99)
            cells += [
                f"{quantile(alone, 0.5):7.0f} {quantile(beside, 0.5):7.0f}",
                f"{one:7.0f} {two:7.0f} {two / one:5.1f}",
            ]
        cells.append(" ".join(f"{share:6.0%}" for share in self.shares))
        return "  ".join([*cells, f"{self.done:8}"])


HEAD: Final = (
    f"{'':21}  {'a call, us':40}  {'a new channel, us':40}  {'CPU':20}\n"
    f"{'at':7}  {'act':12}  "
    + f"{'p50':>7} {'beside':>7}  {'p99':>7} {'beside':>7} {'ratio':>5}  " * 2
    + f"{'daemon':>6} {'server':>6} {'other':>6}  {'done':>8}"
)


def measure(world: World, at: str, act: str, rounds: int, seconds: float) -> Line:
    """One act, in turns with none."""
    alone, beside, shares, done = Samples([], []), Samples([], []), [], 0
    for _ in range(rounds):
        for into, measured in zip(alone, world.good.work(seconds), strict=True):
            into.extend(measured)
        samples, share, count = world.beside(act, SERVICE if at == "server" else "", seconds)
        for into, measured in zip(beside, samples, strict=True):
            into.extend(measured)
        shares.append(share)
        done += count
    mean = Shares(*(sum(column) / len(shares) for column in zip(*shares, strict=True)))
    return Line(at, act, alone, beside, mean, done)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description="A good client beside a bad one")
    parser.add_argument("--rounds", type=int, default=5, help="of each act, in turns with none [5]")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn [1]")
    parser.add_argument("--at", choices=("daemon", "server"), help="only what is done to this one")
    parser.add_argument("acts", nargs="*", help="only these")
    chosen = parser.parse_args()
    allow_descriptors()
    with tempfile.TemporaryDirectory(prefix="ipcd-") as folder, contextlib.ExitStack() as stack:
        socket = f"{folder}/ipcd.sock"
        daemon = stack.enter_context(started("-c", RUN, socket))
        until = time.monotonic() + PATIENCE
        while not Path(socket).exists() and daemon.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        server = stack.enter_context(started("-c", SERVE, socket))
        said(server)
        world = World(socket, daemon.pid, server.pid)
        world.good.work(chosen.seconds)  # what comes first is slower
        print(HEAD, flush=True)
        for at, act in [("", CONTROL), *(("daemon", act) for act in DAEMON), *(("server", act) for act in SERVER)]:
            if (not chosen.at or at in {"", chosen.at}) and (not chosen.acts or act in {CONTROL, *chosen.acts}):
                print(measure(world, at, act, chosen.rounds, chosen.seconds).text(), flush=True)
        world.good.close()


if __name__ == "__main__":
    main()
