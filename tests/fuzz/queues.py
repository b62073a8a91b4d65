"""Queues, as callers that say what they like ask for them: any requests, in any order, however they wait."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast
from unittest import mock

from fuzz.protos import messages
from fuzz.registry import target
from fuzz.script import Script, blocks
from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from ipcd_client.aio.serving import CalledContext
from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import Elsewhere, NoSuchName

from ipcd import limits
from ipcd.primitives.queue import QueueServicer
from ipcd.servicer import status_of
from ipcd.state.quota import Key, Owner

_REQUESTS: Final[tuple[tuple[str, Any], ...]] = (
    ("Create", pb.QueueCreateRequest),
    ("Send", pb.QueueSendRequest),
    ("Receive", pb.QueueReceiveRequest),
    ("Settle", pb.QueueSettleRequest),
    ("Peek", pb.QueuePeekRequest),
    ("Purge", pb.QueuePurgeRequest),
    ("Remove", pb.QueueRemoveRequest),
    ("Stat", pb.QueueStatRequest),
    ("Notify", pb.QueueNotifyRequest),
)
_TIME: Final = len(_REQUESTS)
_TEXTS: Final = ("a", "a", "a", "b", "a@here", "b@there", "", "a/b", "n" * 200)
# Of one input.
_STEPS: Final = 60
_OWNER: Final[Owner] = (Key("process", "pid 7"), Key("uid", "uid 7"))


class _Loop(asyncio.SelectorEventLoop):
    """Whose time is the input's."""

    now = 1.0

    def time(self) -> float:
        return self.now


class _Directory:
    def __init__(self) -> None:
        self.names: set[str] = set()

    def drop(self, _kind: str, name: str) -> None:
        self.names.remove(name)


class _Keeper:
    """Of a node without others and without a disk, whose rules allow everything."""

    node = "here"
    state_dir = None

    def __init__(self) -> None:
        self.directory = _Directory()

    def check(self, _context: object, _verb: str, kind: str, name: str) -> None:
        naming.parse(kind, name)

    def may(self, *_: object) -> bool:
        return True

    def owner(self, _context: object) -> Owner:
        return _OWNER

    def here(self, kind: str, text: str) -> str:
        name, node = naming.parse(kind, text)
        if node not in {"", self.node}:
            raise Elsewhere(node)
        return name

    def missing(self, kind: str, text: str) -> Exception:
        return NoSuchName(f"there is no {kind} {text}")

    async def take(self, _context: object, kind: str, text: str) -> str:
        name = self.here(kind, text)
        self.directory.names.add(name)
        return name


def _step(kind: int, request: bytes) -> bytes:
    return bytes((kind,)) + blocks(request)


def _steps_of(kind: int) -> st.SearchStrategy[bytes]:
    return messages(_REQUESTS[kind][1], _TEXTS).map(lambda one: _step(kind, one.SerializeToString()))


_steps = st.one_of(*map(_steps_of, range(_TIME)), st.binary(max_size=4).map(lambda seconds: _step(_TIME, seconds)))
_GOOD: Final = (
    _step(0, pb.QueueCreateRequest(name="a", options={"messages": 2, "bytes": 9}).SerializeToString()),
    _step(0, pb.QueueCreateRequest(name="a", options={"deliveries": 1, "dead_letters": "b"}).SerializeToString()),
    _step(1, pb.QueueSendRequest(name="a", messages=[{"data": b"x"}, {"type": 3, "priority": 9}]).SerializeToString()),
    _step(1, pb.QueueSendRequest(name="a", messages=[{"delay": 2.0}], create={"when_full": 2}).SerializeToString()),
    _step(2, pb.QueueReceiveRequest(name="a", most=2, take=pb.QUEUE_TAKE_HOLD, lease=1.0).SerializeToString()),
    _step(2, pb.QueueReceiveRequest(name="a", type=-3).SerializeToString()),
    _step(
        3, pb.QueueSettleRequest(name="a", receipts=[{"id": 1, "tag": 1}], how="NACK", seconds=1.0).SerializeToString()
    ),
    _step(3, pb.QueueSettleRequest(name="a", receipts=[{"id": 1, "tag": 1}]).SerializeToString()),
    _step(6, pb.QueueRemoveRequest(name="a").SerializeToString()),
    _step(8, pb.QueueNotifyRequest(name="a", create={}).SerializeToString()),
    _step(_TIME, b"\x10\x00"),
)


@target(
    "queue",
    st.lists(st.one_of(st.sampled_from(_GOOD), _steps), max_size=20).map(b"".join),
    words=(*_GOOD, b"\x0a\x01a", b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x19" + b"\xff" * 8),
    largest=2048,
)
def _queue(data: bytes) -> object:
    """The servicer, and the state machine below it."""
    loop = _Loop()
    try:
        with mock.patch("secrets.randbits", return_value=0), mock.patch("time.time", loop.time):
            return loop.run_until_complete(_run(loop, Script(data)))
    finally:
        loop.close()


async def _run(loop: _Loop, script: Script) -> object:
    keeper = _Keeper()
    servicer = QueueServicer(cast("Any", keeper))
    await servicer.start()
    said: list[_Word] = []
    calls: list[asyncio.Task[_Word]] = []
    for _ in range(_STEPS):
        if not script:
            break
        kind, request = script.number() % (_TIME + 1), script.block()
        if kind == _TIME:
            loop.now += int.from_bytes(request[:4], "little") / 8
        else:
            calls.append(loop.create_task(_call(servicer, kind, request)))
        for _ in range(6):
            await asyncio.sleep(0)
        _check(servicer)
    for call in calls:
        call.cancel()
    for end in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(end, Exception):
            raise end
        said.append(end if isinstance(end, _Word) else _Word("waits"))
    _check(servicer)
    boxes = servicer._boxes
    assert boxes._waiting.used == 0
    for name in sorted(keeper.directory.names):
        await boxes.free(boxes.remove(boxes._boxes[name]))
    assert boxes._bytes.used == 0
    await servicer.close()
    return sorted(set(said)), said


class _Word(str):
    """Shown without quotes: it tells the sorts of outcomes apart."""

    __slots__ = ()
    __repr__ = str.__str__


async def _call(servicer: QueueServicer, kind: int, data: bytes) -> _Word:
    name, parser = _REQUESTS[kind]
    context = cast("CalledContext", None)
    try:
        request = parser.FromString(data)
        if name == "Notify":
            return _Word([reply.arrived async for reply in servicer.Notify(request, context)])
        reply = await getattr(servicer, name)(request, context)
    except DecodeError:
        return _Word("does not parse")
    except Exception as error:
        # Any other is a bug, which is told as such.
        status = status_of(error)
        if status is None:
            raise AssertionError(f"{name}: {error!r}") from error
        return _Word(f"{name}: {status[0].name}")
    reply.SerializeToString()
    return _Word(name)


def _check(servicer: QueueServicer) -> None:
    """What is kept is bounded, and counted."""
    boxes = servicer._boxes
    used = 0
    for box in boxes._boxes.values():
        queue = box.queue
        assert len(queue) <= queue.options.messages <= limits.QUEUE_MESSAGES
        assert queue.bytes <= queue.options.bytes <= limits.QUEUE_BYTES
        for timed in (queue._in._held, queue._in._delayed):
            assert len(timed._heap.all) <= 2 * len(timed) + 65
        assert min(queue.ready, queue.held, queue.delayed) >= 0
        assert not queue.events
        for part in (queue._in.ready, queue._in._delayed, queue._in._held):
            used += sum(message.cost for message in part.messages.values())
        used += sum(message.cost for sender in queue._senders for message in sender.messages)
    assert boxes._bytes.used == used
