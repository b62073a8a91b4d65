"""Values, as callers that say what they like use them, and as another node and this one tell of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from unittest import mock

import grpc
from fuzz.callers import THERE, Context
from fuzz.protos import messages
from fuzz.registry import target
from fuzz.script import Script, blocks
from fuzz.things import END, FAR, OWNS, TEXTS, TIME, Method, Things, World, drive, methods
from fuzz.wires import no_leak
from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from ipcd_client.pb.ipcd.v1 import topic_pb2, value_pb2
from ipcd_client.primitives import sealed, topic_memory, values
from ipcd_client.primitives.errors import BadMemory
from ipcd_client.primitives.topics import Flow, Wish
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.wire.fds import Fd

from ipcd import limits
from ipcd.primitives import contents, tickets
from ipcd.primitives.value import ValueServicer

# Bytes from which on a value has memory of its own.
_LARGE: Final = 16


# -- values -------------------------------------------------------------------------------------------


class _Home:
    """The other node's values: it answers what the input says. (nodes.Nodes)"""

    def __init__(self) -> None:
        self.replies: deque[value_pb2.ValueReply] = deque()

    async def call(self, node: str, *_: object) -> value_pb2.ValueReply:
        if not self.replies:
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, f"node {node} says nothing")
        return self.replies.popleft()

    async def stream(self, *_: object) -> AsyncIterator[value_pb2.ValueReply]:
        while self.replies:
            yield self.replies.popleft()

    async def close(self) -> None:
        pass


def _values(world: World) -> ValueServicer:
    world.peer = _Home()
    world.keeper.nodes = lambda: world.peer  # type: ignore[method-assign]
    return ValueServicer(world.keeper)


def _check_values(world: World) -> None:
    servicer: ValueServicer = world.servicer
    values, store, cache = servicer._values, servicer._store, servicer.cache
    assert sorted(world.kept) == sorted(values)
    kept = [values._kept[name].content for name in values]
    allotted = [one.content for one in servicer._tickets._allotted.values()]
    assert sum(one.size for one in (*kept, *allotted)) <= store.used <= limits.VALUE_BYTES
    for one in (*kept, *allotted):
        assert one.data is None or len(one.data) == one.size <= _LARGE
        assert one.memory is None or os.fstat(one.memory.fileno()).st_size == one.size
    assert len(values._ends) <= 2 * len(values) + 66
    assert len(values._ended) <= limits.VALUE_ENDED
    assert values._holds.keys() == servicer._holding.keys()
    assert len(cache._copies) <= limits.VALUE_COPIES + sum(copy.users for copy in cache._copies.values())
    assert 0 <= cache._bytes <= limits.VALUE_COPIES_BYTES
    for copy in cache._copies.values():
        assert copy.info.ByteSize() <= 4 * limits.NAME, "a copy keeps what it does not count"


def _clear_values(world: World) -> None:
    servicer: ValueServicer = world.servicer
    assert not servicer._holding
    assert not list(servicer._news)
    assert servicer._store.old == (0, 0)
    servicer._tickets.close()
    assert servicer._store.used == sum(one.content.size for one in servicer._values._kept.values())
    for name in world.kept:
        servicer._store.drop(servicer._values.delete(name).old)
        world.directory.drop("value", name)
    assert servicer.cache._bytes == sum(one.content.size for one in servicer.cache._copies.values() if one.content)


_VALUES: Final = Things(
    _values,
    (
        *methods(value_pb2, "Value"),
        *(Method(one.described, lambda it: it.cache, api=True) for one in methods(value_pb2, "ValueCache")),
    ),
    _check_values,
    _clear_values,
    more=((value_pb2.ValueReply, lambda world, reply: world.peer.replies.append(reply)),),
    small={
        "VALUE": 4096,
        "VALUE_BYTES_EACH": {"process": 6000, "uid": 8000, "node": 6000},
        "VALUE_MEMORIES_EACH": OWNS,
        "VALUE_READS_EACH": {"process": 2, "uid": 3, "node": 2},
        "VALUE_WAITS_EACH": OWNS,
        "VALUE_HOLDS_EACH": OWNS,
        "VALUE_COPIES": 2,
        "VALUE_COPIES_BYTES": 6000,
        "NAMES": 3,
    },
)


def _set(data: bytes = b"", **more: Any) -> value_pb2.ValueSetRequest:
    return value_pb2.ValueSetRequest(name="a", data=data, **more)


def _there(size: int, data: bytes = b"", *, more: bool = True) -> bytes:
    info = value_pb2.ValueInfo(version=1, epoch="e", node=THERE, size=size)
    return _VALUES.step(5, value_pb2.ValueReply(info=info, data=data, more=more).SerializeToString())


_FAR: Final = value_pb2.ValueGetRequest(name=FAR)
_VALUE_STEPS: Final = (
    _VALUES.call("Set", _set(b"1")),
    _VALUES.call("Set", _set(b"x" * 20, ttl=1.0), 1),
    _VALUES.call("Set", _set(b"y" * 20, version=0), 2),
    _VALUES.call("Set", _set(b"2", version=1, epoch="0000000000000001", holder=2)),
    _VALUES.call("Set", _set(size=20, ticket=bytes(15) + b"\2")),
    _VALUES.call("Write", _set(b"z" * 8, size=16)),
    _VALUES.call("Write", _set(size=20), 1),
    _VALUES.say(value_pb2.ValueSetRequest(data=b"z" * 8)),
    _VALUES.call("Get", value_pb2.ValueGetRequest(name="a")),
    _VALUES.call("Read", value_pb2.ValueGetRequest(name="a"), 2),
    _VALUES.call("Add", value_pb2.ValueAddRequest(name="b", amount=-3)),
    _VALUES.call("Delete", value_pb2.ValueDeleteRequest(name="a")),
    _VALUES.call("Delete", value_pb2.ValueDeleteRequest(name="a", holder=2)),
    _VALUES.call("Next", value_pb2.ValueNextRequest(name="a", wait=0.5)),
    _VALUES.call("Watch", value_pb2.ValueNextRequest(name="a"), 3),
    _VALUES.call("Hold", value_pb2.ValueHoldRequest(name="a")),
    _VALUES.call("Map", value_pb2.ValueGetRequest(name="a")),
    _VALUES.call("Allot", value_pb2.ValueAllotRequest(name="a", size=20)),
    # A copy: what it is, and then all of it; of one that is small, and of one that ends too soon.
    _there(20) + _there(20) + _there(0, b"z" * 20) + _VALUES.call("Map", _FAR),
    _there(20) + _there(4) + _there(0, b"z" * 4) + _VALUES.call("Map", _FAR),
    _there(20) + _there(20) + _there(0, b"z") + _VALUES.call("Map", _FAR),
    _there(4, b"z" * 4, more=False) + _VALUES.call("Map", _FAR),
    _VALUES.step(END),
    _VALUES.step(TIME, b"\x09"),
)


@target(
    "value",
    _VALUES.steps(_VALUE_STEPS, (*TEXTS, FAR, f"{FAR}@{THERE}", "0000000000000001")),
    words=(*_VALUE_STEPS, b"\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    largest=2048,
)
def _value(data: bytes) -> object:
    """Values of this node, and copies of another's, which says of them what it likes."""
    with (
        mock.patch.object(contents, "INLINE", _LARGE),
        mock.patch.object(tickets, "INLINE", _LARGE),
        mock.patch.object(Context, "attach_fds", _written),
    ):
        return drive(_VALUES, data)


def _written(_context: Context, fds: Sequence[Fd]) -> None:
    """Who was allotted memory writes it, which is not possible where it was sealed."""
    for fd in fds:
        with fd, contextlib.suppress(PermissionError):
            os.pwrite(fd.fileno(), bytes(os.fstat(fd.fileno()).st_size), 0)


# -- memory, and what is said of it -------------------------------------------------------------------


def _memory(kind: int, size: int) -> list[Fd]:
    if kind == 1:
        return [Fd(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))]
    memory = sealed.make(size)
    if kind != 2:
        sealed.write(memory, b"x" * size, 0)
        sealed.seal(memory)
    elif size & 1:
        fcntl.fcntl(memory.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    return [memory] if kind != 3 else [memory, Fd(os.dup(memory.fileno()))]


@target(
    "told",
    st.builds(
        lambda kind, size, first, rest: bytes((kind, size)) + blocks(first, *rest),
        st.integers(0, 4),
        st.integers(0, 40),
        st.one_of(messages(value_pb2.ValueReply), messages(topic_pb2.TopicDelivery)).map(
            lambda one: one.SerializeToString()
        ),
        st.lists(messages(value_pb2.ValueReply).map(lambda one: one.SerializeToString()), max_size=3),
    ),
    raises=(BadMemory,),
    words=(
        b"\0\x14" + blocks(value_pb2.ValueReply(info={"version": 1, "size": 20}, more=True).SerializeToString()),
        b"\0\0" + blocks(value_pb2.ValueReply(info={"version": 1}, more=True).SerializeToString()),
        blocks(value_pb2.ValueReply(data=b"x" * 20).SerializeToString()),
        b"\0\x14" + blocks(topic_pb2.TopicDelivery(memory=b"m", size=20, message={"subject": "a"}).SerializeToString()),
        b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x20\x80\x80\x80\x80\x10",
    ),
)
def _memory_told(data: bytes) -> object:
    """What a value's and a message's receiver makes of answers, and of descriptors that came with them."""
    script = Script(data)
    kind, size = script.number() % 5, script.number()
    first = script.block()
    said: list[object] = []
    with no_leak(), contextlib.suppress(DecodeError):
        if kind == 4:
            gathered = values.Gathered()
            gathered.take(value_pb2.ValueReply.FromString(first))
            while script:
                gathered.take(value_pb2.ValueReply.FromString(script.block()))
                assert len(gathered._data) <= len(data), "memory for what has not come"
            said.append(len(gathered.done()))
        elif size & 128:
            delivery = topic_pb2.TopicDelivery.FromString(first)
            flow = Flow("a", Wish())
            told = None
            if delivery.memory:
                told = topic_memory.data(delivery.size, _memory(kind, size & 127))
                assert len(told) == delivery.size
            said.append(flow.take(delivery, told) is not None)
            said.append(flow.credit() is not None)
        else:
            reply = value_pb2.ValueReply.FromString(first)
            snapshot = values.mapped(reply, _memory(kind, size))
            said.append(len(snapshot))
            snapshot.close()
    return said
