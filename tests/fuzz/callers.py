"""Who calls the servicers of named things, and a call as far as those speak to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import grpc
from google.protobuf.message import Message
from grpc.aio import EOF, AbortError
from ipcd_client.access import identity as ids
from ipcd_client.facade.peer import Peer
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.wire.fds import Fd, close_all

from ipcd.parties import Attached
from ipcd.state.primitives import FOR

HERE: Final = "here"
THERE: Final = "there"


@dataclass(frozen=True)
class Caller:
    """Of calls. `daemon`: it is its node's. `called_for`: it says that it calls for this one."""

    node: str
    pid: int
    daemon: bool = False
    called_for: str = ""


CALLERS: Final = (
    Caller(HERE, 7),
    Caller(HERE, 8),
    Caller(THERE, 9, daemon=True),
    Caller(THERE, 9, daemon=True, called_for=ids.of_grpc("default", THERE)),
    # Which it may not.
    Caller(THERE, 8, called_for=ids.of_grpc("default", THERE)),
)


class Context:
    """A call's, as far as servicers speak to it."""

    carries_fds = True
    method = None

    def __init__(self, caller: Caller, request: type[Message], *, api: bool) -> None:
        process = node_pb2.Process(node=caller.node, pid=caller.pid, uid=7, daemon=caller.daemon)
        identity = ids.of_node("default", caller.node) + ("" if caller.daemon else "/uid/7")
        grant = node_pb2.Grant(caller=process, identity=identity)
        self.peer_identity: Any = Attached(process) if api else Peer(grant, cast("Any", None))
        self.task: asyncio.Task[Any] | None = None
        self.said = 0
        self.paused = False
        self._request = request
        self._metadata = ((FOR, caller.called_for),) if caller.called_for else ()
        self._told: deque[bytes | None] = deque()
        self._news = asyncio.Event()

    def tell(self, data: bytes | None) -> None:
        """Another request; None: there are no more."""
        self._told.append(data)
        self._news.set()

    def pause(self) -> None:
        """The caller reads no more, or goes on."""
        self.paused = not self.paused
        self._news.set()

    # -- what servicers call ----------------------------------------------------------------------

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return self._metadata

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        assert metadata

    async def read(self) -> Any:
        while not self._told:
            self._news.clear()
            await self._news.wait()
        if self._told[0] is None:
            return EOF
        return self._request.FromString(cast("bytes", self._told.popleft()))

    def rest(self) -> Iterator[Any]:
        while self._told:
            data = self._told.popleft()
            yield EOF if data is None else self._request.FromString(data)

    async def write(self, message: Message) -> None:
        await self.send(message.SerializeToString())

    async def send(self, data: bytes, *, more: bool = False) -> None:
        assert len(data) < 4 << 20
        self.said += 1
        while self.paused:
            self._news.clear()
            await self._news.wait()

    async def abort(self, code: grpc.StatusCode, details: str = "") -> None:
        raise AbortError(code.name, details)

    def give_up(self, code: grpc.StatusCode, details: str, why: str) -> None:
        if self.task is not None:
            self.task.cancel()

    def attach_fds(self, fds: Sequence[Fd]) -> None:
        close_all(fds)

    def why_cancelled(self) -> str | None:
        return None

    def caller_lost(self) -> bool:
        return False
