"""The ends of pipes: what a reader takes of its writers, and a writer of its readers and of the pipe's home."""

from __future__ import annotations

import contextlib
from typing import Any, Final
from unittest import mock

from fuzz.callers import CALLERS, Context
from fuzz.registry import target
from fuzz.things import CANCEL, END, TIME, Things, Word, World, drive, methods
from ipcd_client.pb.ipcd.v1 import pipe_pb2
from ipcd_client.primitives import pipe_inbox, pipe_reader, pipe_writer
from ipcd_client.primitives.errors import Lost
from ipcd_client.primitives.pipe_reader import Reader
from ipcd_client.primitives.pipe_writer import Writer

# Instead of what fits into no input.
_WINDOW: Final = 64
_PIECE: Final = 16


class _Place:
    """(loop_place.LoopPlace)"""

    name = text = "a"
    path: Any = "/nowhere"

    async def close(self) -> None:
        pass


class _Reader(Reader):
    """Which is open."""

    def __init__(self) -> None:
        super().__init__(_Place(), lambda: None)  # type: ignore[arg-type]

    async def start(self) -> None:
        self._server.stop = _nothing  # type: ignore[assignment, method-assign]


async def _nothing(_grace: float | None) -> None:
    pass


def _takes(world: World, told: pipe_pb2.PipeCredit) -> None:
    reader: _Reader = world.servicer
    with contextlib.suppress(Lost):
        if not reader.inbox.at_end():
            _, due = reader.inbox.take(told.taken)
            if due:
                reader.took()


def _check_reader(world: World) -> None:
    reader: _Reader = world.servicer
    inbox = reader.inbox
    assert inbox.size == sum(map(len, inbox._pieces)) <= _WINDOW * len(world.calls)
    assert all(inbox._pieces), "pieces without bytes are kept"
    assert len(reader._sources) <= 4
    assert all(0 <= source.reported <= source.taken <= source.received for source in reader._sources)


_READER: Final = Things(
    lambda _world: _Reader(),
    methods(pipe_pb2, "PipeReader"),
    _check_reader,
    more=((pipe_pb2.PipeCredit, _takes),),
)
# The first that chance gives.
_KEY: Final = bytes(15) + b"\1"
_READER_STEPS: Final = (
    _READER.call("Give", pipe_pb2.PipeGive(key=_KEY)),
    _READER.call("Give", pipe_pb2.PipeGive(key=_KEY), 1),
    _READER.say(pipe_pb2.PipeGive(data=b"x" * 30)),
    _READER.say(pipe_pb2.PipeGive(data=b"x"), 1),
    _READER.say(pipe_pb2.PipeGive()),
    _READER.step(5, pipe_pb2.PipeCredit(taken=20).SerializeToString()),
    _READER.step(END),
    _READER.step(CANCEL),
    _READER.step(TIME, b"\x01"),
)


@target("pipe-reader", _READER.steps(_READER_STEPS), words=_READER_STEPS)
def _pipe_reader(data: bytes) -> object:
    """A reader, and writers that send what they like."""
    with (
        mock.patch.multiple(pipe_reader, WINDOW=_WINDOW, REPORT=_PIECE, WRITERS=4),
        mock.patch.object(pipe_inbox, "REPORT", _PIECE),
    ):
        return drive(_READER, data)


class _Credits:
    """A call of Give, whose reader answers what the input says."""

    def __init__(self, calls: list[Context]) -> None:
        self._context = Context(CALLERS[0], pipe_pb2.PipeCredit, api=False)
        calls.append(self._context)

    def Give(self) -> _Credits:
        return self

    async def write(self, give: pipe_pb2.PipeGive) -> None:
        await self._context.write(give)

    async def read(self) -> Any:
        return await self._context.read()

    async def done_writing(self) -> None:
        self._context.tell(None)


@contextlib.asynccontextmanager
async def _channel(_target: str, node: list[Context]) -> Any:
    """What is made of it is a call, which the writer's place knows."""
    yield node


class _Hold:
    """What the home says. (pipe_hold.Hold)"""

    removed = False
    attached = True
    error = None

    def __init__(self) -> None:
        self.news = pipe_pb2.PipeNews()

    @property
    def deserted(self) -> bool:
        return not self.news.others

    async def close(self) -> None:
        pass


class _Writer(Writer):
    """Which is open."""

    def __init__(self) -> None:
        place = _Place()
        self.credits: list[Context] = []
        place.path = self.credits
        super().__init__(place, self._was_sent, lambda: None)  # type: ignore[arg-type]
        self.hold = self._hold = _Hold()  # type: ignore[assignment]
        self.fed = 0
        self.was_sent = 0

    def _was_sent(self, size: int) -> None:
        self.was_sent += size

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        await self.abandon()


def _told(world: World, news: pipe_pb2.PipeNews) -> None:
    world.servicer.hold.news = news
    world.servicer._look()


def _credit(world: World, credit: pipe_pb2.PipeCredit) -> None:
    contexts: list[Context] = world.servicer.credits
    if contexts:
        # One that says nothing ends the call.
        contexts[-1 - credit.taken % len(contexts)].tell(credit.SerializeToString() or None)


def _feed(world: World, give: pipe_pb2.PipeGive) -> None:
    writer: _Writer = world.servicer
    data = give.data[:_PIECE]
    if data and not writer.broken and writer.size < _WINDOW:
        writer.fed += len(data)
        writer.feed(data)


def _check_writer(world: World) -> None:
    writer: _Writer = world.servicer
    assert writer.size == sum(map(len, writer._queue))
    assert writer.fed == writer.size + writer.was_sent
    gives = sorted("open" if give.window else "closed" if give.closed else "new" for give in writer._gives.values())
    world.said.append(Word(f"{'broken ' * writer.broken}{'waits ' * bool(writer.size)}{' '.join(gives)}"))
    assert len(writer._gives) <= 2
    for give in writer._gives.values():
        assert 0 <= give.taken <= give.given
        assert give.window <= _WINDOW
        assert give.closed or sum(map(len, give.kept)) == give.waiting <= _WINDOW


_WRITER: Final = Things(
    lambda _world: _Writer(),
    (),
    _check_writer,
    more=((pipe_pb2.PipeNews, _told), (pipe_pb2.PipeCredit, _credit), (pipe_pb2.PipeGive, _feed)),
)
_READERS: Final = [pipe_pb2.PipeAddress(node="here", server="s", key=key) for key in (b"1", b"2", b"3")]
_WRITER_STEPS: Final = (
    _WRITER.step(5, pipe_pb2.PipeNews(others=1, readers=_READERS[:1]).SerializeToString()),
    _WRITER.step(5, pipe_pb2.PipeNews(others=2, readers=_READERS).SerializeToString()),
    _WRITER.step(5),
    _WRITER.step(6, pipe_pb2.PipeCredit(window=_WINDOW).SerializeToString()),
    _WRITER.step(6, pipe_pb2.PipeCredit(window=1 << 31).SerializeToString()),
    _WRITER.step(6, pipe_pb2.PipeCredit(taken=5).SerializeToString()),
    _WRITER.step(6, pipe_pb2.PipeCredit(taken=1, closed=True).SerializeToString()),
    _WRITER.step(6),
    _WRITER.step(7, pipe_pb2.PipeGive(data=b"x" * 9).SerializeToString()),
    _WRITER.step(TIME, b"\x09"),
)


@target("pipe-writer", _WRITER.steps(_WRITER_STEPS), words=_WRITER_STEPS)
def _pipe_writer(data: bytes) -> object:
    """A writer, whose home and readers say what they like."""
    with (
        mock.patch.multiple(pipe_writer, WINDOW=_WINDOW, PIECE=_PIECE, WRITERS=2),
        mock.patch("ipcd_client.aio.channel", _channel),
        mock.patch("ipcd_client.pb.ipcd.v1.pipe_pb2_grpc.PipeReaderStub", _Credits),
    ):
        return drive(_WRITER, data)
