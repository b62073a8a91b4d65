"""Daemon, server and caller, each a process: what becomes of a connection when there is no shared memory to be had, in
other namespaces, and when a process forks."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import pytest
from conformance.echo import SERVICE, Echo
from ipcd_client.errors import WireClosed
from ipcd_client.frame import codec
from ipcd_client.frame.settings import GOAWAY_VIOLATION
from ipcd_client.node import attach
from ipcd_client.pb.ipcd.v1 import node_pb2, wire_pb2
from ipcd_client.testing.shm_hand import CAPACITY, Hand, RawSegment
from ipcd_client.testing.wire_tools import LIMIT, asleep
from sdk.processes import Processes, eventually, processes

HERE = Path(__file__).parent


class Program:
    """`program.py`, which does what it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def do(self, *words: object) -> Any:
        """Its answer to a command."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


class World:
    """One daemon, and programs of its node."""

    def __init__(self, daemons: Processes, daemon: subprocess.Popen[str], stack: contextlib.ExitStack) -> None:
        self.daemons = daemons
        self.daemon = daemon
        self._stack = stack

    @property
    def socket(self) -> str:
        """The daemon's."""
        return self.daemons.socket("a")

    def program(self, role: str, *faults: str, within: tuple[str, ...] = ()) -> Program:
        """Starts one. `within`: the command that runs it."""
        process = self._stack.enter_context(
            subprocess.Popen(
                [*within, sys.executable, str(HERE / "program.py"), role, self.socket, *faults],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        program = Program(process)
        self._stack.callback(self._end, process)
        program.do("close")
        return program

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            code = process.wait(LIMIT)
        finally:
            process.kill()
        assert code == 0


@pytest.fixture
def world() -> Iterator[World]:
    """A daemon that runs."""
    with tempfile.TemporaryDirectory(prefix="ipcd-t-") as folder, processes(Path(folder)) as daemons:
        daemon = daemons.daemon("a")
        with contextlib.ExitStack() as stack:
            yield World(daemons, daemon, stack)


# -- when there is none to be had -----------------------------------------------------------------

# Which end's segment it then is that there is not.
FAULTS = {
    "memfd_create": "Function not implemented",
    "posix_fallocate": "No space left on device",
    "mmap": "Cannot allocate memory",
    "mmap for reading": "Cannot allocate memory",
}


@pytest.mark.parametrize("role", ["call", "serve"])
@pytest.mark.parametrize("fault", FAULTS)
def test_without_shared_memory_calls_go_over_the_socket(world: World, fault: str, role: str) -> None:
    """And if it was asked for, they fail."""
    server = world.program("serve", *([fault] if role == "serve" else []))
    caller = world.program("call", *([fault] if role == "call" else []))
    for size in (10, 300_000):
        done = caller.do("call", "auto", size)
        assert (done["code"], done["transport"]) == ("OK", "unix")
        assert FAULTS[fault] in done["why"]
    done = caller.do("call", "shm")
    assert done["code"] == "UNAVAILABLE"
    assert "shm was asked for" in done["why"]
    assert FAULTS[fault] in done["why"]
    # The server is none the worse for it.
    assert world.program("call").do("call", "auto")["transport"] == ("shm" if role == "call" else "unix")
    assert caller.process.poll() is server.process.poll() is None


@pytest.mark.parametrize("role", ["call", "serve"])
def test_with_few_descriptors(world: World, role: str) -> None:
    """Wherever they run out: there is a connection, of whichever kind, or a clear error, and later all is well."""
    programs = {each: world.program(each) for each in ("serve", "call")}
    caller = programs["call"]
    assert caller.do("call", "auto")["transport"] == "shm"
    caller.do("close")
    seen = set()
    for room in range(14):
        programs[role].do("limit", room)
        done = caller.do("call", "auto", 10, 2)
        assert done["code"] in ("OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"), done
        seen.add(done.get("transport"))
        if room >= 3:
            assert done["code"] == "OK", (room, done)
        if done.get("transport") == "unix":
            assert done["why"].startswith("unix: ")
        caller.do("close")
    programs[role].do("limit", -1)
    assert seen >= {"shm", "unix"}
    assert caller.do("call", "auto")["transport"] == "shm"


# -- elsewhere ------------------------------------------------------------------------------------

ISOLATED = (
    "unshare",
    "--pid",
    "--fork",
    "--kill-child",
    "--ipc",
    "--mount",
    "--mount-proc",
    "--propagation",
    "private",
)
# Nothing of the machine's temporary files is seen but the directory of the socket.
HIDING = """
set -e
mkdir -p "$0/empty"
mount -t tmpfs none /dev/shm
mount --bind "$0" /mnt
mount -t tmpfs none "$TMPDIR"
mkdir -p "$0"
mount --move /mnt "$0"
exec "$@"
"""


def isolation(folder: Path) -> tuple[str, ...]:
    """The command before a command that is to run in namespaces of its own."""
    command = (*ISOLATED, "sh", "-c", HIDING, str(folder))
    try:
        done = subprocess.run([*command, "true"], capture_output=True, text=True, timeout=LIMIT)
    except FileNotFoundError:
        pytest.skip("there is no `unshare` (util-linux)")
    if done.returncode:
        pytest.skip(f"no namespaces can be made: {done.stderr.strip()}")
    return command


@pytest.mark.parametrize("inside", ["caller", "daemon and server"])
def test_processes_in_other_namespaces_share_memory(inside: str) -> None:
    """All that they share is the directory of the daemon's socket."""
    with tempfile.TemporaryDirectory(prefix="ipcd-t-") as folder, contextlib.ExitStack() as stack:
        within = isolation(Path(folder))
        there = within if inside != "caller" else ()
        daemons = stack.enter_context(processes(Path(folder)))
        # It is killed with the command that it runs in, which minds no other signal.
        daemon = daemons.daemon("a", within=there)
        stack.callback(daemons.kill, daemon)
        world = World(daemons, daemon, stack)
        world.program("serve", within=there)
        caller = world.program("call", within=within if inside == "caller" else ())
        for size in (10, 300_000):
            done = caller.do("call", "auto", size)
            assert (done["code"], done["transport"]) == ("OK", "shm"), done


# -- fork -----------------------------------------------------------------------------------------

FORK = """
import os, queue, sys, threading
import ipcd_client
path, service = sys.argv[1:]
channel = ipcd_client.channel(node=path)
call = channel.unary_unary(f"/{service}/UnaryEcho")
assert call(b"parent", timeout=20) == b"parent"
ours = channel.route(service).connection
assert channel.route(service).transport == "shm"
mapped = lambda: open("/proc/self/maps").read().count("/memfd:ipcd")
assert mapped() == 2
questions = queue.Queue()
answers = channel.stream_stream(f"/{service}/BothEcho")(iter(questions.get, None), timeout=40)
done = threading.Event()
failures = []
def work(number):
    while not done.is_set():
        data = bytes([number]) * (number * 9000)
        try:
            assert call(data, timeout=20) == data
        except BaseException as error:
            failures.append(error)
            return
threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
for turn in range(5):
    questions.put(b"before %d" % turn)
    assert next(answers) == b"before %d" % turn
    child = os.fork()
    if not child:
        code = 1
        try:
            assert call(b"child" * 10000, timeout=20) == b"child" * 10000
            route = channel.route(service)
            assert route.transport == "shm" and route.connection is not ours
            code = 0
        finally:
            os._exit(code)
    questions.put(b"while %d" % turn)
    assert next(answers) == b"while %d" % turn
    assert os.waitpid(child, 0)[1] == 0
done.set()
for thread in threads:
    thread.join()
assert not failures, failures
questions.put(None)
assert list(answers) == []
assert channel.route(service).connection is ours
channel.close()
assert mapped() == 0
"""


def test_a_fork_in_the_middle(world: World) -> None:
    """The parent's calls go on, on the same connection; the child makes one of its own."""
    world.program("serve")
    # Python itself warns of forks in a process with threads: the child of this one does nothing but call.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, world.socket, SERVICE]
    subprocess.run(command, check=True, timeout=LIMIT)


# -- signals --------------------------------------------------------------------------------------

INTERRUPTED = """
import os, signal, sys
import ipcd_client
path, service = sys.argv[1:]
handled = []
signal.signal(signal.SIGUSR1, lambda *_: (handled.append(1), print("handled", flush=True)))
signal.signal(signal.SIGINT, signal.default_int_handler)
channel = ipcd_client.channel(node=path)
call = channel.unary_unary(f"/{service}/UnaryEcho")
assert call(b"before", timeout=20) == b"before"
ours = channel.route(service).connection
print("ready", flush=True)
try:
    channel.unary_unary(f"/{service}/UnaryWait")(b"", timeout=30)
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert call(b"after" * 10000, timeout=20) == b"after" * 10000
assert channel.route(service).transport == "shm" and channel.route(service).connection is ours
assert len(handled) == 5
channel.close()
"""


def test_a_blocking_call_goes_on_after_a_signal_and_ends_with_ctrl_c(
    world: World, record_property: Callable[[str, object], None]
) -> None:
    """The connection is as good as before."""
    world.program("serve")
    command = [sys.executable, "-c", INTERRUPTED, world.socket, SERVICE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for _ in range(5):
                asleep(process.pid)
                process.send_signal(signal.SIGUSR1)
                assert process.stdout.readline() == "handled\n"
            asleep(process.pid)
            start = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
            seconds = time.monotonic() - start
            record_property("seconds until Ctrl-C was answered", seconds)
            assert seconds < 5  # the call's deadline is 30 s
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()


# -- what the caller sees -------------------------------------------------------------------------

LIMITED = 100_000


@pytest.fixture
def served(world: World, caplog: pytest.LogCaptureFixture) -> Iterator[tuple[Echo, ipcd_client.Channel]]:
    """A server in this process whose messages are limited, and a caller of it whose are, too."""
    caplog.set_level(logging.WARNING, "ipcd_client")
    echo = Echo()
    options = [("grpc.max_receive_message_length", LIMITED)]
    server = ipcd_client.server(handlers=(echo,), node=world.socket, options=options)
    server.start()
    with ipcd_client.channel(node=world.socket, transport="shm", options=options) as channel:
        yield echo, channel
    server.stop(None).wait()


@pytest.mark.parametrize("method", ["UnaryEcho", "DownForever"])
def test_a_message_over_the_limit_ends_its_call_only(served: tuple[Echo, ipcd_client.Channel], method: str) -> None:
    """What is too large for the server, and what is too large for the caller: both numbers are told."""
    _, channel = served
    before = channel.route(SERVICE).connection
    size = LIMITED + 1
    request = bytes(size) if method == "UnaryEcho" else b"%d" % size
    kind = channel.unary_unary if method == "UnaryEcho" else channel.unary_stream
    call = kind(f"/{SERVICE}/{method}")
    with pytest.raises(grpc.RpcError) as caught:
        list(call(request, timeout=LIMIT))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(size) in str(caught.value.details())
    assert str(LIMITED) in str(caught.value.details())
    assert channel.unary_unary(f"/{SERVICE}/UnaryEcho")(bytes(LIMITED), timeout=LIMIT) == bytes(LIMITED)
    assert channel.route(SERVICE).connection is before


def test_a_deadline_cancels_the_handler(served: tuple[Echo, ipcd_client.Channel]) -> None:
    echo, channel = served
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/UnaryWait")(b"", timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert echo.cancelled.wait(LIMIT)


HOSTILE: dict[str, tuple[bytes, int, str]] = {
    "garbage": (b"GET / HTTP/1.1\r\n\r\n", 18, "unknown-type"),
    "too long": (codec.HEADER.pack(0xFFFF_FFFF, 1, codec.OPEN, 0, 0, 0), 16, "oversized-frame"),
    "too many": (b"", 1 << 40, "bad-count"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_caller_is_named_once(
    world: World, served: tuple[Echo, ipcd_client.Channel], caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """What is no frame, in a segment: that connection ends with a name, of which its caller is told; others go on."""
    data, count, name = HOSTILE[kind]
    _, channel = served
    daemon = attach.connect(world.socket)
    target = node_pb2.ResolveRequest(service=SERVICE, transport=node_pb2.TRANSPORT_SHM)
    _, fds = attach.call(daemon, "Open", node_pb2.OpenRequest(target=target), node_pb2.OpenReply, None)
    with Hand(socket.socket(fileno=fds[0].detach())) as hand:
        hello = wire_pb2.Hello(min_version=1, max_version=1, max_frame=1 << 20, initial_window=1 << 16, max_streams=1)
        hand.say(codec.HELLO, 0, hello.SerializeToString())
        ours = RawSegment()
        hand.offer(1, CAPACITY, ours.parts)
        while hand.hear().type != codec.ACCEPT:
            pass
        hand.switch()
        ours.write(data)
        ours.publish(count)
        farewell = hand.hear_of(codec.GOAWAY)
        assert farewell.aux == GOAWAY_VIOLATION
        assert farewell.payload.decode().startswith(name)
        with pytest.raises(WireClosed):
            hand.hear()
        ours.close()
    daemon.close()
    assert channel.unary_unary(f"/{SERVICE}/UnaryEcho")(b"on", timeout=LIMIT) == b"on"
    eventually(lambda: name in caplog.text, "the name is logged")
    (record,) = (record for record in caplog.records if name in record.getMessage())
    assert f"pid={os.getpid()}" in record.getMessage()


# -- idle -----------------------------------------------------------------------------------------

CHANNELS = 100
SECONDS = 30.0 if os.environ.get("IPCD_SOAK") else 3.0


def used(pid: int) -> tuple[int, int]:
    """Ticks, and nanoseconds, that the process was running."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return int(fields[11]) + int(fields[12]), sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


@pytest.mark.timeout(120)
def test_idle_connections_cost_nothing(world: World, record_property: Callable[[str, object], None]) -> None:
    """Daemon, server and caller, between which there are many."""
    server, caller = world.program("serve"), world.program("call")
    assert caller.do("many", CHANNELS) == {"transports": ["shm"]}
    pids = {"daemon": world.daemon.pid, "server": server.process.pid, "caller": caller.process.pid}
    time.sleep(1.0)  # until whoever still read or spun has gone to sleep
    before = {name: used(pid) for name, pid in pids.items()}
    time.sleep(SECONDS)
    for name, pid in pids.items():
        ticks, nanoseconds = (after - old for after, old in zip(used(pid), before[name], strict=True))
        record_property(f"{name}: ticks, ms", (ticks, nanoseconds / 1e6))
        # A tick is 10 ms. One wake-up would be 0.1 ms.
        assert ticks <= 1, name
        assert nanoseconds < 5e6 * SECONDS / 3, name
    caller.do("close")
