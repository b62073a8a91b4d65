"""What a node and its processes take of memory and descriptors: `python -m benchmarks.sizing`.

A daemon, a server and a caller as processes of their own. The caller opens channels, each with a connection of its
own, and makes one call on each; what they take more than before is divided by their number. Memory is what the kernel
counts as the process's own share (PSS).
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TRANSPORTS = ("shm", "unix", "tcp")
_LOOKS = 6
_PAUSE = 0.05  # seconds

DAEMON = (
    "import sys; from ipcd.cli import main; main(['run', '--node', 'a', '--no-discovery', '--socket', sys.argv[1]])"
)
SERVER = """
import sys, ipcd_client
from ipcd.demo.pb.lab.v1 import lab_pb2_grpc
from ipcd.demo.service import LabServicer
server = ipcd_client.server(node=sys.argv[1])
lab_pb2_grpc.add_LabServicer_to_server(LabServicer(), server)
server.start()
print("ready", flush=True)
server.wait_for_termination()
"""
CALLER = """
import sys, ipcd_client
from ipcd.demo.pb.lab.v1 import lab_pb2, lab_pb2_grpc
def called(channel):
    lab_pb2_grpc.LabStub(channel).Digest(lab_pb2.DigestRequest(data=b"x"), timeout=20)
    return channel
for line in sys.stdin:
    count, transport = line.split()
    channels = [called(ipcd_client.channel(node=sys.argv[1], transport=transport)) for _ in range(int(count))]
    print("ready", flush=True)
"""
ATTACHED = """
import sys
from ipcd_client.node import attach
for line in sys.stdin:
    connections = [attach.connect(sys.argv[1]) for _ in range(int(line))]
    print("ready", flush=True)
"""


class Taken(NamedTuple):
    """By one process."""

    memory: float  # KiB
    descriptors: float

    def more(self, before: Taken, count: int) -> Taken:
        """For each of `count` things that came since."""
        return Taken((self.memory - before.memory) / count, (self.descriptors - before.descriptors) / count)


def taken(process: subprocess.Popen[str]) -> Taken:
    """At rest: the least of some looks, as a connection that is being made or closed has more for the moment."""
    looks = []
    for _ in range(_LOOKS):
        folder = Path(f"/proc/{process.pid}")
        lines = (folder / "smaps_rollup").read_text().splitlines()
        memory = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        looks.append(Taken(memory, len(list((folder / "fd").iterdir()))))
        time.sleep(_PAUSE)
    return Taken(min(look.memory for look in looks), min(look.descriptors for look in looks))


@contextlib.contextmanager
def _running(source: str, socket: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", source, socket],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _ready(process: subprocess.Popen[str], ask: str = "") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    if ask:
        process.stdin.write(f"{ask}\n")
        process.stdin.flush()
    if process.stdout.readline() != "ready\n":
        raise SystemExit(f"a process ended: {process.communicate()[1]}")


def measure(count: int) -> list[tuple[str, Taken]]:
    """Each line: what it is, and what it takes."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="ipcd-") as folder, contextlib.ExitStack() as stack:
        socket = f"{folder}/ipcd.sock"
        daemon = stack.enter_context(_running(DAEMON, socket))
        assert daemon.stderr is not None
        daemon.stderr.readline()  # that it has started
        # The first one makes the daemon and the process load what they need.
        attached = stack.enter_context(_running(ATTACHED, socket))
        _ready(attached, "1")
        idle = taken(daemon)
        lines.append(("daemon, idle", idle))
        _ready(attached, str(count + 1))
        lines.append(("daemon, for each attached process", taken(daemon).more(idle, count)))
        server = stack.enter_context(_running(SERVER, socket))
        _ready(server)
        for transport in TRANSPORTS:
            caller = stack.enter_context(_running(CALLER, socket))
            _ready(caller, f"1 {transport}")
            before = taken(server), taken(caller)
            if transport == TRANSPORTS[0]:
                lines += [("server, with one caller", before[0]), ("caller, with one channel", before[1])]
            _ready(caller, f"{count + 1} {transport}")
            lines += [
                (f"server, for each caller over {transport}", taken(server).more(before[0], count)),
                (f"caller, for each channel over {transport}", taken(caller).more(before[1], count)),
            ]
    return lines


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description="Memory and descriptors, for each")
    parser.add_argument("--count", type=int, default=200, help="how many of each thing [200]")
    lines = measure(parser.parse_args().count)
    width = max(len(name) for name, _ in lines)
    print(f"{'':{width}}  memory, KiB  descriptors")
    for name, each in lines:
        print(f"{name:{width}}  {each.memory:11.1f}  {each.descriptors:11.1f}")


if __name__ == "__main__":
    main()
