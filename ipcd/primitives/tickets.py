"""Memory that processes of this machine write, and that becomes a value when they say so."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from dataclasses import dataclass
from typing import Final

from ipcd_client.primitives import sealed
from ipcd_client.primitives.errors import BadRequest, Lost
from ipcd_client.primitives.values import INLINE
from ipcd_client.wire.fds import Fd

from ipcd import limits
from ipcd.primitives.contents import Content, Store
from ipcd.state.quota import Owner

_BYTES: Final = 16
_BLOCK: Final = 512  # of stat(2)
# The kernel refuses to seal pages that it is moving or writing out itself at that moment: how often it is asked again,
# and seconds between.
_SEALS: Final = 5
_BREATH: Final = 0.05


@dataclass(slots=True)
class _Allotted:
    content: Content
    end: asyncio.TimerHandle


class Tickets:
    """On a loop; to be closed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._allotted: dict[bytes, _Allotted] = {}

    def issue(self, owner: Owner, size: int) -> tuple[bytes, Fd]:
        """Memory of so many bytes, for this owner to write.

        Raises:
            BadRequest: they are so few that they are not in memory of their own.
            LimitReached: there is none.
        """
        if size <= INLINE:
            raise BadRequest(f"values of up to {INLINE} bytes have no memory of their own")
        self._store.take(owner, size)
        try:
            content = Content(size, None, sealed.make(size), owner)
        except OSError as error:
            self._store.give(owner, size)
            raise limits.LimitReached(f"there is no memory for a value: {error.strerror}") from error
        try:
            copy = content.descriptor()
        except BaseException:
            self._store.drop(content)
            raise
        ticket = secrets.token_bytes(_BYTES)
        end = asyncio.get_running_loop().call_later(limits.VALUE_PIECE, self.forget, ticket)
        self._allotted[ticket] = _Allotted(content, end)
        return ticket, copy

    async def redeem(self, ticket: bytes, owner: Owner, size: int) -> Content:
        """What has been written, sealed; it is the caller's of this.

        Raises:
            Lost: it was given back meanwhile.
            BadRequest: it is not written whole, or can be written still.
        """
        allotted = self._allotted.get(ticket)
        if allotted is None or (allotted.content.owner, allotted.content.size) != (owner, size):
            raise Lost("the memory of the value has been given back meanwhile, or is another's")
        del self._allotted[ticket]
        allotted.end.cancel()
        content = allotted.content
        assert content.memory is not None
        try:
            await _sealed(content.memory)
            # Who reads what was never written would need memory then, and there may be none.
            if os.fstat(content.memory.fileno()).st_blocks * _BLOCK < size:
                raise BadRequest("the memory of the value was not written whole")
        except OSError as error:
            self._store.drop(content)
            raise BadRequest(f"the memory of the value cannot be sealed: {error.strerror}") from error
        except BaseException:
            self._store.drop(content)
            raise
        return content

    def forget(self, ticket: bytes) -> None:
        """It is not needed any more."""
        allotted = self._allotted.pop(ticket, None)
        if allotted is not None:
            allotted.end.cancel()
            self._store.drop(allotted.content)

    def close(self) -> None:
        """None is."""
        for ticket in list(self._allotted):
            self.forget(ticket)


async def _sealed(memory: Fd) -> None:
    """Raises:
    OSError: somebody has it mapped to write to it, or its pages are in use for long.
    """
    for _ in range(_SEALS):
        try:
            sealed.seal(memory)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        else:
            return
        await asyncio.sleep(_BREATH)
    sealed.seal(memory)
