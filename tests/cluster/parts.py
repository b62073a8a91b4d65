"""What programs of the cluster do: serve the demo's service, and call it with its generated stub."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import ipcd_client
from cluster.eventually import LONG

from ipcd.demo.pb.lab.v1 import lab_pb2, lab_pb2_grpc
from ipcd.demo.service import SERVICE, LabServicer

# What Identity tells of its caller.
CALLER = ("node", "pid", "transport", "transport_security_type", "ipcd_identity")

Metadata = tuple[tuple[str, str | bytes], ...]


class Gone(NamedTuple):
    """A call of which the caller wanted no answer any more, as its handler saw it. Seconds."""

    time_left: float  # when the call came
    lasted: float


class WatchedLab(LabServicer):
    """The demo's servicer, which also does as a call's metadata says."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.gone: list[Gone] = []
        self.held = threading.Semaphore(0)

    def Identity(self, request: lab_pb2.IdentityRequest, context: grpc.ServicerContext) -> lab_pb2.IdentityReply:
        """Sends the metadata of the call back, and who called. `x-abort`: aborts with those details."""
        got: list[tuple[str, str | bytes]] = [pair for pair in context.invocation_metadata() if pair[0][:2] == "x-"]
        vouched: dict[str, list[bytes]] = context.auth_context()  # type: ignore[assignment]  # typed as ints
        who = [(f"caller-{key}", vouched[key][0].decode()) for key in CALLER]
        context.send_initial_metadata([*who, ("first-bin", b"\x00\xff")])
        context.set_trailing_metadata(got)
        for key, value in got:
            if key == "x-abort":
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(value))
        return super().Identity(request, context)

    def Echo(self, request: lab_pb2.Payload, context: grpc.ServicerContext) -> lab_pb2.Payload:
        """`x-hold`: only after the call has ended at the caller, or LONG after that it was to be."""
        if any(key == "x-hold" for key, _ in context.invocation_metadata()):
            left, begin = context.time_remaining(), time.monotonic()
            ended = threading.Event()
            if not context.add_callback(ended.set):
                ended.set()
            self.held.release()
            ended.wait(2 * LONG)
            self.gone.append(Gone(left, time.monotonic() - begin))
        return super().Echo(request, context)


class Session:
    """A call of Lab.Session under way."""

    def __init__(self, stub: lab_pb2_grpc.LabStub) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._sequence = 0
        self.call = stub.Session(self._requests())

    def _requests(self) -> Iterator[lab_pb2.SessionRequest]:
        while (line := self._lines.get()) is not None:
            self._sequence += 1
            yield lab_pb2.SessionRequest(sequence=self._sequence, line=line)

    def ask(self, line: str) -> list[str]:
        """The replies to one command."""
        self._lines.put(line)
        texts = []
        for reply in self.call:
            assert not reply.error, reply.error
            texts.append(reply.text)
            if reply.last:
                break
        return texts

    def end(self) -> None:
        """No more requests."""
        self._lines.put(None)


class Desk:
    """What one program has at hand. `socket`: of its host's daemon."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.server: ipcd_client.Server | None = None
        self.servicer: WatchedLab | None = None
        self.sessions: list[Session] = []
        self.channel = ipcd_client.channel(node=socket)
        self.stub = lab_pb2_grpc.LabStub(self.channel)

    def close(self) -> None:
        """Ends everything."""
        for session in self.sessions:
            session.end()
        self.channel.close()
        if self.server is not None:
            self.server.stop(1.0).wait(5.0)


# -- serving ----------------------------------------------------------------------------------------


def serve(desk: Desk, name: str) -> None:
    """Starts the service under that name."""
    desk.server = ipcd_client.server(name=name, node=desk.socket)
    desk.servicer = WatchedLab(name)
    lab_pb2_grpc.add_LabServicer_to_server(desk.servicer, desk.server)
    desk.server.start()


def stop(desk: Desk) -> None:
    """Stops it."""
    assert desk.server is not None
    desk.server.stop(5.0).wait(10.0)
    desk.server = None


def wait_held(desk: Desk) -> bool:
    """Until one more handler holds its call; False if none does for LONG."""
    assert desk.servicer is not None
    return desk.servicer.held.acquire(timeout=LONG)


def gone(desk: Desk) -> list[Gone]:
    """The calls that ended while a handler held them."""
    assert desk.servicer is not None
    return list(desk.servicer.gone)


# -- calling ----------------------------------------------------------------------------------------


def pin(desk: Desk, target: str) -> None:
    """Calls from here on go to servers of this target."""
    desk.channel.close()
    desk.channel = ipcd_client.channel(target, node=desk.socket)
    desk.stub = lab_pb2_grpc.LabStub(desk.channel)


class Way(NamedTuple):
    """With whom calls are connected, and how."""

    node: str
    name: str
    pid: int
    transport: str
    reason: str


def way(desk: Desk, timeout: float = LONG) -> Way:
    """Where calls of the service go."""
    route = desk.channel.route(SERVICE, timeout, wait_for_ready=True)
    return Way(route.server.process.node, route.server.name, route.server.process.pid, route.transport, route.reason)


def who(desk: Desk, *, wait: bool = True) -> tuple[str, int]:
    """Name and process id of who answers. `wait`: until somebody does."""
    reply = desk.stub.Identity(lab_pb2.IdentityRequest(), timeout=LONG, wait_for_ready=wait)
    return reply.name, reply.pid


def with_metadata(desk: Desk, metadata: Metadata) -> tuple[Metadata, Metadata]:
    """The initial and trailing metadata of the answer to a call with this."""
    _, call = desk.stub.Identity.with_call(lab_pb2.IdentityRequest(), timeout=LONG, metadata=metadata)
    return tuple(call.initial_metadata()), tuple(call.trailing_metadata())


def digest(desk: Desk, data: bytes, algorithm: str = "") -> str:
    """Unary."""
    request = lab_pb2.DigestRequest(data=data, algorithm=algorithm)
    reply: lab_pb2.DigestReply = desk.stub.Digest(request, timeout=LONG)
    return reply.hex


def digest_stream(desk: Desk, chunk: bytes, times: int) -> tuple[str, int]:
    """Client-streaming: the digest and the size of that many chunks."""
    reply = desk.stub.DigestStream((lab_pb2.Chunk(data=chunk) for _ in range(times)), timeout=LONG)
    return reply.hex, reply.size


def search(desk: Desk, pattern: str, glob: str, limit: int) -> list[tuple[str, int, str]]:
    """Server-streaming."""
    request = lab_pb2.SearchRequest(pattern=pattern, glob=glob, limit=limit)
    return [(match.file, match.line, match.text) for match in desk.stub.Search(request, timeout=LONG)]


def search_some(desk: Desk, pattern: str, count: int) -> str:
    """Takes some of the results and cancels: the status that ends the call."""
    call = desk.stub.Search(lab_pb2.SearchRequest(pattern=pattern, glob="**/*.py", limit=10_000), timeout=LONG)
    for _ in range(count):
        next(call)
    call.cancel()
    code: grpc.StatusCode = call.code()
    return code.name


def hold(desk: Desk, timeout: float = LONG) -> None:
    """A call that its handler does not answer."""
    desk.stub.Echo(lab_pb2.Payload(data=b"x"), timeout=timeout, metadata=(("x-hold", "1"),))


def hold_and_cancel(desk: Desk, after: float) -> bool:
    """One that is cancelled after some seconds: whether it then is."""
    future = desk.stub.Echo.future(lab_pb2.Payload(data=b"x"), timeout=LONG, metadata=(("x-hold", "1"),))
    time.sleep(after)
    future.cancel()
    return bool(future.cancelled())


def open_session(desk: Desk) -> int:
    """Bidirectional: its number."""
    desk.sessions.append(Session(desk.stub))
    return len(desk.sessions) - 1


def ask(desk: Desk, session: int, line: str) -> list[str]:
    """The replies to one command."""
    return desk.sessions[session].ask(line)


def end_session(desk: Desk, session: int) -> str:
    """The status it ends with, if there are no more requests."""
    desk.sessions[session].end()
    rest: list[Any] = list(desk.sessions[session].call)
    assert not rest, rest
    code: grpc.StatusCode = desk.sessions[session].call.code()
    return code.name


def wait_for_end(desk: Desk, session: int) -> None:
    """Until the session fails: raises its status."""
    for reply in desk.sessions[session].call:
        raise AssertionError(f"a reply that nobody asked for: {reply}")


def hostname(desk: Desk) -> str:
    """Of the host."""
    return os.uname().nodename
