"""Large messages as memory that all subscribers of this machine map: one copy, however many they are.

A subscriber is sent a reference instead of the data, with which it asks for the memory over its process's connection to
the daemon. Where there is no memory for it, or it comes too late, it gets the data over its subscription's connection.
"""

# ruff: noqa: N802 - the methods are named and called as in the .proto

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Final

from ipcd_client.aio.context import ServicerContext
from ipcd_client.pb.ipcd.v1 import topic_pb2, topic_pb2_grpc
from ipcd_client.primitives.errors import Lost

from ipcd import limits
from ipcd.primitives.contents import Content, Writing, attached
from ipcd.quota import Quotas
from ipcd.state.quota import Owner
from ipcd.state.subscription import Message

_BYTES: Final = 16


@dataclass(slots=True, eq=False)
class _Shared:
    """The memory of one message. `content`: None once it was given back."""

    message: Message
    content: Content | None
    late: asyncio.TimerHandle
    references: int = 0
    waited_for: bool = True  # by subscriptions that have not taken the message yet


@dataclass(slots=True, eq=False)
class Reference:
    """What one subscriber was sent instead of the data. Nobody can guess its `id`."""

    id: bytes
    owner: Owner
    shared: _Shared

    @property
    def message(self) -> Message:
        """What it stands for."""
        return self.shared.message


class Memories(topic_pb2_grpc.TopicMemoryServicer):
    """Of one node. `late`: seconds after which memory is given back, whoever has not mapped it yet."""

    def __init__(self, quotas: Quotas, late: float = limits.TOPIC_MEMORY_LATE) -> None:
        self._quotas = quotas
        self._late = late
        self._shared: dict[Message, _Shared] = {}
        self._references: dict[bytes, Reference] = {}
        self.count = 0
        self.bytes = 0

    def close(self) -> None:
        """None is needed any more."""
        for shared in list(self._shared.values()):
            self._give_back(shared)
        self._shared.clear()
        self._references.clear()

    def refer(self, message: Message, owner: Owner) -> Reference | None:
        """A reference to a message that has been taken for a subscriber who can map it; None: it is to get the data.
        To be `done` in the end."""
        shared = self._shared.get(message)
        if shared is None:
            shared = self._share(message)
        if shared is None or shared.content is None:
            return None
        shared.references += 1
        reference = Reference(secrets.token_bytes(_BYTES), owner, shared)
        self._references[reference.id] = reference
        return reference

    def done(self, reference: Reference) -> None:
        """The subscriber has the data, or has gone."""
        del self._references[reference.id]
        reference.shared.references -= 1
        self._look(reference.shared)

    def over(self, message: Message) -> None:
        """No subscription waits for it any more."""
        shared = self._shared.get(message)
        if shared is not None:
            shared.waited_for = False
            self._look(shared)

    def find(self, id_: bytes, owner: Owner) -> Reference:
        """What was sent to this owner.

        Raises:
            Lost: nothing was, or it is done.
        """
        reference = self._references.get(id_)
        if reference is None or reference.owner != owner:
            raise Lost("the reference to a message's data is done with, or another's")
        return reference

    async def Map(self, request: topic_pb2.TopicMemoryRequest, context: ServicerContext) -> topic_pb2.TopicMapReply:
        """The memory of a message."""
        caller = attached(context)
        content = self.find(request.memory, caller.owner).shared.content
        if content is None:
            raise Lost("the memory of a message has been given back: it came too late")
        caller.check_unread()
        context.attach_fds([content.descriptor()])
        return topic_pb2.TopicMapReply(size=content.size)

    def _share(self, message: Message) -> _Shared | None:
        """Puts its data into memory, where that pays and there is room."""
        size = len(message.data)
        # The one that has just taken it holds it no more: others do.
        if size < limits.TOPIC_MEMORY or message.readers < limits.TOPIC_MEMORY_READERS or not message.holders:
            return None
        if self.count >= limits.TOPIC_MEMORIES or self.bytes + size > limits.TOPIC_MEMORIES_BYTES:
            return None
        try:
            with Writing(size) as writing:
                writing.put(message.data)
                content = writing.done()
        except limits.LimitReached:
            return None
        assert content.memory is not None
        try:
            # The last descriptors are for those who connect.
            self._quotas.check_descriptor(content.memory.fileno(), message.owner)
        except limits.LimitReached:
            content.memory.close()
            return None
        self.count += 1
        self.bytes += size
        message.watched = True
        timer = asyncio.get_running_loop().call_later(self._late, self._on_late, message)
        shared = self._shared[message] = _Shared(message, content, timer)
        return shared

    def _on_late(self, message: Message) -> None:
        # From now on it stands for the data alone, which those who were sent a reference fetch.
        self._give_back(self._shared[message])

    def _look(self, shared: _Shared) -> None:
        if not shared.references and not shared.waited_for and self._shared.pop(shared.message, None) is not None:
            self._give_back(shared)

    def _give_back(self, shared: _Shared) -> None:
        content, shared.content = shared.content, None
        shared.late.cancel()
        if content is not None and content.memory is not None:
            content.memory.close()
            self.count -= 1
            self.bytes -= content.size
