"""What both faces of a value share: what is asked, and what an answer means."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from ipcd_client.errors import WireError
from ipcd_client.pb.ipcd.v1 import value_pb2
from ipcd_client.primitives import sealed
from ipcd_client.primitives.errors import BadMemory, BadRequest
from ipcd_client.wire.fds import Fd, close_all

KIND: Final = "value"
# Bytes of a value that travel in a message; more have memory of their own, and travel in pieces.
INLINE: Final = 64 << 10
PIECE: Final = 1 << 20
MAP: Final = "/ipcd.v1.ValueCache/Map"
ALLOT: Final = "/ipcd.v1.ValueCache/Allot"
# Bytes of memory that are written before an event loop does something else.
_STEP: Final = 4 << 20
# Seconds: for an answer that waits for nothing; for each MiB that is copied beyond; for the end of a hold; and between
# tries of a call that waits for a node to come back.
ANSWER: Final = 30.0
EACH_MIB: Final = 0.5
LET_GO: Final = 2.0
RETRY_FIRST: Final = 0.05
RETRY_MOST: Final = 1.0
# Of numbers to add: 64 bits with a sign.
_MOST: Final = 1 << 63

if TYPE_CHECKING:
    from typing_extensions import Buffer  # which the type checker has; Python does from 3.12 on


class Snapshot:
    """A value as it was at one version; false if there was none, which is the version 0.

    `data` is a read-only memoryview: of the one copy that this machine has, where the value is large and the node of
    this machine was asked; so `numpy.frombuffer(snapshot.data, ...)` copies nothing. It stays as it is whatever happens
    to the value, as long as it, or anything made of it, is held.
    """

    __slots__ = ("__weakref__", "data", "epoch", "held", "node", "ttl", "version")

    def __init__(self, info: value_pb2.ValueInfo, data: memoryview) -> None:
        self.version: int = info.version
        self.data = data
        self.node: str = info.node  # its home
        self.epoch: str = info.epoch  # of its home's run, within which versions are counted
        self.ttl: float | None = info.ttl or None  # seconds that it had left
        self.held: bool = info.held  # it ends with a process

    def __bool__(self) -> bool:
        return bool(self.version)

    def __len__(self) -> int:
        return self.data.nbytes

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    def __repr__(self) -> str:
        return f"<Snapshot: version {self.version} on node {self.node}, {len(self)} bytes>"

    def close(self) -> None:
        """Gives its memory back, as the collector would; whatever was made of `data` has to be gone by then.

        Raises:
            BufferError: it is not.
        """
        mapping = self.data.obj if self.data.nbytes else None
        self.data.release()
        self.data = memoryview(b"")
        if isinstance(mapping, mmap.mmap):
            mapping.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def inline(reply: value_pb2.ValueReply) -> Snapshot:
    """Of a reply that has the bytes."""
    return Snapshot(reply.info, memoryview(reply.data))


def mapped(reply: value_pb2.ValueReply, fds: Sequence[Fd]) -> Snapshot:
    """Of the daemon's answer to Map, with the descriptors that came with it.

    Raises:
        BadMemory: the memory is not what it has to be.
    """
    try:
        if not reply.more:
            return inline(reply)
        if len(fds) != 1:
            raise BadMemory(f"{len(fds)} descriptors came with a value, and not one")
        return Snapshot(reply.info, sealed.mapped(fds[0], reply.info.size))
    finally:
        close_all(fds)


class Gathered:
    """Of replies to Read, one by one."""

    def __init__(self) -> None:
        self._first: value_pb2.ValueReply | None = None
        self._data = bytearray()  # grows with what comes: the size is only said

    def take(self, reply: value_pb2.ValueReply) -> None:
        """The next.

        Raises:
            BadMemory: it is more than there was to be.
        """
        if self._first is None:
            self._first = reply
            return
        if len(self._data) + len(reply.data) > self._size:
            raise BadMemory("a value has more bytes than were said")
        self._data += reply.data

    @property
    def _size(self) -> int:
        return self._first.info.size if self._first is not None and self._first.more else 0

    def done(self) -> Snapshot:
        """All of it.

        Raises:
            BadMemory: it is not.
        """
        if self._first is None or len(self._data) != self._size:
            raise BadMemory(f"a value ended after {len(self._data)} of {self._size} bytes")
        if not self._first.more:
            return inline(self._first)
        return Snapshot(self._first.info, memoryview(self._data).toreadonly())


class Asking:
    """Makes the requests of one handle. `text`: NAME or NAME@NODE."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._seen: tuple[str, int] = ("", 0)

    def get(self, *, head: bool = False, at: str = "") -> value_pb2.ValueGetRequest:
        """What is it? `at`: of this node."""
        return value_pb2.ValueGetRequest(name=f"{self.text.partition('@')[0]}@{at}" if at else self.text, head=head)

    def allot(self, size: int, at: str) -> value_pb2.ValueAllotRequest:
        """Where is memory for it? `at`: its home."""
        return value_pb2.ValueAllotRequest(name=f"{self.text.partition('@')[0]}@{at}", size=size)

    def next(self, known: Snapshot | None, wait: float | None) -> value_pb2.ValueNextRequest:
        """What is it, once it is something else?"""
        request = value_pb2.ValueNextRequest(name=self.text, wait=wait)
        if known is not None:
            request.version, request.epoch = known.version, known.epoch
        return request

    def set(
        self, size: int, version: int | Snapshot | None, ttl: float | None, holder: int
    ) -> value_pb2.ValueSetRequest:
        """Without the bytes."""
        if ttl is not None and not ttl > 0:
            raise BadRequest(f"a value lives for more than 0 seconds, not {ttl}")
        request = value_pb2.ValueSetRequest(name=self.text, size=size, ttl=ttl or 0.0, holder=holder)
        self._expect(request, version)
        return request

    def delete(self, version: int | Snapshot | None) -> value_pb2.ValueDeleteRequest:
        """There is to be none."""
        request = value_pb2.ValueDeleteRequest(name=self.text)
        self._expect(request, version)
        return request

    def add(self, amount: int) -> value_pb2.ValueAddRequest:
        """There is to be more of it."""
        if not -_MOST <= amount < _MOST:
            raise BadRequest(f"{amount} has more than 64 bits")
        return value_pb2.ValueAddRequest(name=self.text, amount=amount)

    def _expect(
        self, request: value_pb2.ValueSetRequest | value_pb2.ValueDeleteRequest, version: int | Snapshot | None
    ) -> None:
        if version is None:
            return
        if isinstance(version, Snapshot):
            request.version, request.epoch = version.version, version.epoch if version.version else ""
            return
        if version < 0:
            raise BadRequest(f"a version is 0 or more, not {version}")
        request.version = version
        epoch, last = self._seen
        if version and version <= last:
            request.epoch = epoch

    def seen(self, info: Any) -> None:
        """An answer has said that it is so: a version up to that is one of that run."""
        if info.version:
            self._seen = (info.epoch, info.version)


def written(memory: Fd, data: memoryview) -> Iterator[None]:
    """Writes the bytes to memory that was allotted, step by step, and closes the descriptor."""
    with memory:
        for offset in range(0, len(data), _STEP):
            try:
                sealed.write(memory, data[offset : offset + _STEP], offset)
            except OSError as error:
                raise WireError(f"a value's memory cannot be written: {error.strerror}") from error
            yield


def viewed(data: Buffer | str) -> memoryview:
    """Its bytes; of a text those in UTF-8."""
    view = memoryview(data.encode() if isinstance(data, str) else data)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def pieces(request: value_pb2.ValueSetRequest, data: memoryview) -> Iterator[value_pb2.ValueSetRequest]:
    """The requests of Write."""
    yield request
    for offset in range(0, len(data), PIECE):
        yield value_pb2.ValueSetRequest(name=request.name, data=bytes(data[offset : offset + PIECE]))


def time_for(size: int) -> float:
    """Seconds that a call with so many bytes may take."""
    return ANSWER + EACH_MIB * (size >> 20)


class Holding:
    """A call of Hold, with its first reply. It is nothing in a child of the process that made it."""

    def __init__(self, call: Any, reply: value_pb2.ValueHoldReply) -> None:
        self.call = call
        self.holder: int = reply.holder
        self._pid = os.getpid()

    @property
    def ours(self) -> bool:
        """This process has made it."""
        return self._pid == os.getpid()
