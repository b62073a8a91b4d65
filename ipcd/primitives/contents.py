"""What bytes are kept in: few in the daemon's own memory, many in sealed memory that readers map."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from ipcd_client.aio.context import ServicerContext
from ipcd_client.primitives import sealed
from ipcd_client.primitives.errors import BadRequest, Lost
from ipcd_client.primitives.values import INLINE, PIECE
from ipcd_client.wire.fds import Fd

from ipcd import limits
from ipcd.parties import Attached
from ipcd.servicer import NoDescriptors
from ipcd.state.quota import Owner, Shares


@dataclass(slots=True, eq=False)
class Content:
    """The bytes of one version. (state.value.Content) `owner`: whose quota they count for. `readers`: how many are sent
    its memory, piece by piece."""

    size: int
    data: bytes | None
    memory: Fd | None = None
    owner: Owner = ()
    readers: int = 0

    def descriptor(self) -> Fd:
        """Of the memory; a new one, for somebody else.

        Raises:
            LimitReached: there is none left.
        """
        assert self.memory is not None
        try:
            return Fd(os.dup(self.memory.fileno()))
        except OSError as error:
            raise limits.LimitReached(f"the memory cannot be handed over: {error.strerror}") from error

    def pieces(self) -> Iterator[bytes]:
        """All bytes.

        Raises:
            Lost: they are not kept any more, which `Store.reading` is against.
        """
        if self.memory is None:
            if self.data:
                yield self.data
            return
        for offset in range(0, self.size, PIECE):
            try:
                memory = self.memory.fileno()
            except ValueError:
                raise Lost("what the value was is kept no longer, as it was read too slowly: read it again") from None
            yield os.pread(memory, PIECE, offset)


class Writing:
    """Bytes on their way into a content.

    Raises:
        LimitReached: there is no memory.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._came = 0
        self._few = bytearray()
        self._memory: Fd | None = None
        if size > INLINE:
            try:
                self._memory = sealed.make(size)
            except OSError as error:
                raise limits.LimitReached(f"there is no memory for it: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._memory is not None:
            self._memory.close()

    @property
    def missing(self) -> int:
        """Bytes."""
        return self.size - self._came

    def put(self, data: bytes) -> None:
        """The next bytes.

        Raises:
            BadRequest: they are more than were said.
            LimitReached: there is no memory.
        """
        if len(data) > self.missing:
            raise BadRequest(f"the value has more than the {self.size} bytes that were said")
        if self._memory is None:
            self._few += data
        else:
            try:
                sealed.write(self._memory, data, self._came)
            except OSError as error:
                raise limits.LimitReached(f"there is no memory for it: {error.strerror}") from error
        self._came += len(data)

    def done(self, owner: Owner = ()) -> Content:
        """The content.

        Raises:
            BadRequest: bytes are missing.
        """
        if self.missing:
            raise BadRequest(f"the value ended after {self._came} of the {self.size} bytes that were said")
        memory, self._memory = self._memory, None
        if memory is None:
            return Content(self.size, bytes(self._few), owner=owner)
        sealed.seal(memory)
        return Content(self.size, None, memory, owner)


class Store:
    """Counts what is kept, and for whom. `old`, `old_bytes`: how much of what is kept no more may stay for those who
    read it."""

    def __init__(self, old: int = limits.VALUE_OLD, old_bytes: int = limits.VALUE_OLD_BYTES) -> None:
        self._bytes = Shares("bytes of values", limits.VALUE_BYTES, limits.VALUE_BYTES_EACH)
        self._memories = Shares("values with memory of their own", limits.VALUE_MEMORIES, limits.VALUE_MEMORIES_EACH)
        # In the order in which they were dropped.
        self._old: dict[Content, None] = {}
        self._old_used = 0
        self._old_most = old
        self._old_bytes = old_bytes

    @property
    def used(self) -> int:
        """Bytes."""
        return self._bytes.used

    @property
    def old(self) -> tuple[int, int]:
        """What is read still, and kept no more: how many, and their bytes."""
        return len(self._old), self._old_used

    def take(self, owner: Owner, size: int) -> None:
        """So many bytes of one value more.

        Raises:
            LimitReached: there are too many.
        """
        limits.check("bytes of one value", size, limits.VALUE)
        self._bytes.take(owner, size)
        if size > INLINE:
            try:
                self._memories.take(owner)
            except limits.LimitReached:
                self._bytes.give(owner, size)
                raise

    def give(self, owner: Owner, size: int) -> None:
        """They are not kept any more."""
        self._bytes.give(owner, size)
        if size > INLINE:
            self._memories.give(owner)

    def content(self, data: bytes, owner: Owner) -> Content:
        """Of bytes that came in one message.

        Raises:
            LimitReached: it is too much.
        """
        self.take(owner, len(data))
        try:
            with Writing(len(data)) as writing:
                writing.put(data)
                return writing.done(owner)
        except BaseException:
            self.give(owner, len(data))
            raise

    @contextlib.contextmanager
    def reading(self, content: Content) -> Iterator[Iterator[bytes]]:
        """Its bytes, which stay for this long, also when it is dropped. Where too much stays so, the oldest goes."""
        content.readers += 1
        try:
            yield content.pieces()
        finally:
            content.readers -= 1
            if not content.readers:
                self._forget(content)

    def drop(self, content: Content | None) -> None:
        """It is not kept any more, but for those who read it."""
        if content is None:
            return
        self.give(content.owner, content.size)
        if content.memory is None:
            return
        if not content.readers:
            content.memory.close()
            return
        self._old[content] = None
        self._old_used += content.size
        while len(self._old) > self._old_most or self._old_used > self._old_bytes:
            self._forget(next(iter(self._old)))

    def _forget(self, content: Content) -> None:
        """Nobody reads it any more, or is to."""
        if content in self._old:
            del self._old[content]
            self._old_used -= content.size
            assert content.memory is not None
            content.memory.close()

    def close(self) -> None:
        """Nobody reads any more."""
        for content in list(self._old):
            self._forget(content)


def attached(context: ServicerContext) -> Attached:
    """The process of this machine that asks the node's own API for memory.

    Raises:
        NoDescriptors: it has not come by the node's socket.
    """
    process = context.peer_identity
    if not isinstance(process, Attached) or not context.carries_fds:
        raise NoDescriptors("memory is handed over as a descriptor, which this connection cannot carry")
    return process
