"""What all targets of named things share: a node whose servicer is called by several callers, in any order, as the
input says; in the input's time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import selectors
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from unittest import mock

from fuzz.callers import CALLERS, HERE, THERE, Caller, Context
from fuzz.protos import messages
from fuzz.script import Script, blocks
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc.aio import AbortError
from hypothesis import strategies as st
from ipcd_client.pb.ipcd.v1 import names_pb2, peer_pb2, signal_pb2
from support.everybody import EVERYBODY

from ipcd import limits
from ipcd.access import Access
from ipcd.broker import Broker
from ipcd.log import Log
from ipcd.parties import NoLinks
from ipcd.primitives.directory import Directory
from ipcd.primitives.host import Keeper
from ipcd.servicer import status_of
from ipcd.state.catalog import Catalog
from ipcd.state.quota import Shares

# A thing that the other node keeps.
FAR: Final = "far"
TEXTS: Final = ("a", "a", "a", "b", "a@here", "b@there", FAR, "", "a/b", "n" * 200)
# Of one input: steps, and turns of the loop after each.
_STEPS: Final = 60
_TURNS: Final = 8
# Behind the methods: time passes, a call is sent another request, its requests end, it is cancelled, and its caller
# stops to read or goes on. After those, what a kind of things has besides.
TIME, SAY, END, CANCEL, STOP = range(5)
_MORE: Final = 5
# Instead of the bounds of one owner, so that they are reached.
OWNS: Final = {"process": 6, "uid": 8, "node": 6}


class _Selector(selectors.EpollSelector):
    """Nothing is waited for: the time passes instead."""

    loop: Loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("it waits, and nothing will wake it")
        self.loop.now += max(0.0, timeout)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """Whose time is the input's."""

    now = 1.0

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)
        # What is due now is run now, also where the time is so large that a nanosecond more is the same.
        self._clock_resolution = 1e-3
        self.failures: list[Mapping[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.failures.append(context))

    def time(self) -> float:
        return self.now


class Links(NoLinks):
    """With one other node, which lets this one make everything."""

    linked: tuple[str, ...] = (THERE,)

    def names(self) -> Sequence[str]:
        return self.linked

    async def claim(self, node: str, request: peer_pb2.ClaimRequest) -> str:
        return ""

    async def raise_flag(self, node: str, request: peer_pb2.PeerRaiseRequest) -> signal_pb2.Told:
        return signal_pb2.Told(node=node, listeners=1)

    async def chase(self, node: str, request: peer_pb2.ChaseRequest) -> None:
        await asyncio.sleep(0)


@dataclass
class World:
    """One node with one servicer."""

    loop: Loop
    links: Links = field(default_factory=Links)
    servicer: Any = None
    calls: list[tuple[asyncio.Task[Word], Context]] = field(default_factory=list)
    said: list[Word] = field(default_factory=list)
    peer: Any = None  # the other node, as a kind of things needs it

    def __post_init__(self) -> None:
        log = Log(HERE)
        access = Access("default", HERE, log, [EVERYBODY])
        self.broker = Broker(HERE, Catalog(HERE), log, self.loop.time, access=access)
        self.broker.links = self.links
        far = [names_pb2.Name(kind=kind, name=FAR, created=1.0) for kind in ("value", "queue", "lock", "semaphore")]
        self.broker.catalog.apply(THERE, "i", peer_pb2.CatalogUpdate(revision=1, full=True, names=far))
        self.directory = Directory(self.broker, log, wall=self.loop.time)
        self.keeper = Keeper(self.broker, self.directory, log, None)

    @property
    def kept(self) -> list[str]:
        """Names of this node."""
        return [each.name for each in self.directory.all() if each.node in {"", HERE}]


class Word(str):
    """Shown without quotes: it tells the sorts of outcomes apart."""

    __slots__ = ()
    __repr__ = str.__str__


@dataclass(frozen=True)
class Method:
    """One that can be called. `of` gives what has it, out of the servicer; `api`: it is of the node's own API."""

    described: MethodDescriptor
    of: Callable[[Any], Any] = lambda servicer: servicer
    api: bool = False

    @property
    def request(self) -> Any:
        """The type of its requests."""
        return GetMessageClass(self.described.input_type)


def methods(file: Any, service: str, *, without: tuple[str, ...] = ()) -> tuple[Method, ...]:
    """All of a service's but those."""
    of = file.DESCRIPTOR.services_by_name[service]
    return tuple(Method(one) for one in of.methods if one.name not in without)


@dataclass(frozen=True)
class Things:
    """One kind. `check`: what always holds. `clear`: after the last call, so that nothing is left. `more`: what else
    may happen, by the type of message that says how. `small`: limits for this, so that they are reached."""

    make: Callable[[World], Any]
    methods: tuple[Method, ...]
    check: Callable[[World], None] = lambda _: None
    clear: Callable[[World], Awaitable[None] | None] = lambda _: None
    more: tuple[tuple[type[Message], Callable[[World, Any], None]], ...] = ()
    small: Mapping[str, Any] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """Of a method by its name."""
        return next(index for index, one in enumerate(self.methods) if one.described.name == name)

    def call(self, name: str, request: Message | None = None, caller: int = 0) -> bytes:
        """The step that calls a method."""
        data = request.SerializeToString() if request is not None else b""
        return bytes((self.number(name) + caller * self.kinds,)) + blocks(data)

    def step(self, kind: int, data: bytes = b"") -> bytes:
        """One of the other steps."""
        return bytes((len(self.methods) + kind,)) + blocks(data)

    def say(self, request: Message, call: int = 0) -> bytes:
        """The step that sends another request: to the last call, or one before that."""
        return self.step(SAY, bytes((call,)) + request.SerializeToString())

    @property
    def kinds(self) -> int:
        """Of steps."""
        return len(self.methods) + _MORE + len(self.more)

    def steps(self, good: Sequence[bytes], texts: Sequence[str] = TEXTS) -> st.SearchStrategy[bytes]:
        """Draws an input."""
        each: list[st.SearchStrategy[bytes]] = [st.sampled_from(good)]
        for one in self.methods:
            drawn = messages(one.request, texts)
            each.append(st.builds(self.call, st.just(one.described.name), drawn, st.integers(0, len(CALLERS) - 1)))
            if one.described.client_streaming:
                each.append(st.builds(self.say, drawn, st.integers(0, 2)))
        for at, (kind, _) in enumerate(self.more):
            told = messages(kind, texts).map(lambda one: one.SerializeToString())
            each.append(st.builds(self.step, st.just(_MORE + at), told))
        each.append(st.builds(self.step, st.sampled_from((TIME, END, CANCEL, STOP)), st.binary(max_size=2)))
        return st.lists(st.one_of(each), max_size=20).map(b"".join)


def drive(things: Things, data: bytes) -> object:
    """What comes of an input."""
    loop = Loop()
    try:
        with _known(loop), mock.patch.multiple(limits, **things.small) if things.small else contextlib.nullcontext():
            world = World(loop)
            said = loop.run_until_complete(_run(things, world, Script(data)))
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
    if loop.failures:
        failure = loop.failures[0]
        raise AssertionError(f"{failure['message']}: {failure.get('exception')!r}") from failure.get("exception")
    return said


@contextlib.contextmanager
def _known(loop: Loop) -> Iterator[None]:
    """Chance, time and processes are the input's."""
    count = itertools.count(1)
    real = os.pidfd_open

    def opened(pid: int, flags: int = 0) -> int:
        # Processes come and go: of those that there may be, only this one is there.
        return real(os.getpid() if pid == 7 else pid if pid > 1 << 22 else 0, flags)

    with (
        mock.patch.multiple(
            secrets,
            token_bytes=lambda size: next(count).to_bytes(size, "big"),
            token_hex=lambda size: next(count).to_bytes(size, "big").hex(),
            randbits=lambda _: next(count),
        ),
        mock.patch.multiple(time, time=loop.time, time_ns=lambda: 0),
        mock.patch("random.uniform", lambda least, _: least),
        mock.patch("os.pidfd_open", opened),
    ):
        yield


async def _run(things: Things, world: World, script: Script) -> object:
    servicer = world.servicer = things.make(world)
    await servicer.start()
    for _ in range(_STEPS):
        if not script:
            break
        number = script.number()
        _step(things, world, number % things.kinds, CALLERS[number // things.kinds % len(CALLERS)], script.block())
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        things.check(world)
    for call, _ in world.calls:
        call.cancel()
    for end in await asyncio.gather(*(call for call, _ in world.calls), return_exceptions=True):
        if isinstance(end, Exception):
            raise end
        world.said.append(end if isinstance(end, Word) else Word("waits"))
    things.check(world)
    if (cleared := things.clear(world)) is not None:
        await cleared
    for what, used in shares(servicer):
        assert used == 0, f"{used} {what} are left"
    await servicer.close()
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks are left: {left}"
    return sorted(set(world.said)), world.said


def _step(things: Things, world: World, kind: int, caller: Caller, data: bytes) -> None:
    count = len(things.methods)
    if kind < count:
        method = things.methods[kind]
        context = Context(caller, method.request, api=method.api)
        task = context.task = world.loop.create_task(_call(world, method, context, data))
        world.calls.append((task, context))
    elif kind - count >= _MORE:
        type_, act = things.more[kind - count - _MORE]
        try:
            told = type_.FromString(data)
        except DecodeError:
            return
        act(world, told)
    elif kind - count == TIME:
        world.loop.now += int.from_bytes(data[:4], "little") / 8
    elif open_ := [(task, context) for task, context in world.calls if not task.done()]:
        task, context = open_[-1 - (data[0] if data else 0) % len(open_)]
        if kind - count == SAY:
            context.tell(data[1:])
        elif kind - count == END:
            context.tell(None)
        elif kind - count == CANCEL:
            task.cancel()
        else:
            context.pause()


async def _call(world: World, method: Method, context: Context, data: bytes) -> Word:
    name = method.described.name
    try:
        call = getattr(method.of(world.servicer), name)
        if method.described.client_streaming:
            context.tell(data)
            reply = call(None, context)
        else:
            reply = call(method.request.FromString(data), context)
        if hasattr(reply, "__aiter__"):
            async with contextlib.aclosing(reply):
                async for each in reply:
                    await context.write(each)
        elif (answer := await reply) is not None:
            await context.write(answer)
    except DecodeError:
        return Word("does not parse")
    except AbortError as error:
        return Word(f"{name}: {error.args[0]}")
    except Exception as error:
        # Any other is a bug, which is told as such.
        status = status_of(error)
        if status is None:
            raise AssertionError(f"{name}: {error!r}") from error
        return Word(f"{name}: {status[0].name}")
    return Word(name)


def shares(of: object, deep: int = 2) -> Iterator[tuple[str, int]]:
    """What is counted there, and how much of it is held."""
    for each in vars(of).values() if hasattr(of, "__dict__") else ():
        if isinstance(each, Shares):
            yield each._what, each.used
        elif deep and type(each).__module__.startswith("ipcd.") and not isinstance(each, (Keeper, Broker)):
            yield from shares(each, deep - 1)
