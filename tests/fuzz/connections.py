"""One end of a connection, and a peer that sends anything at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fuzz.frames import FRAME_WORDS, frames, listed
from fuzz.registry import target
from fuzz.script import Script, blocks
from hypothesis import strategies as st
from ipcd_client.errors import ProtocolError, UsageError
from ipcd_client.frame import codec, events
from ipcd_client.frame.codec import HEADER_SIZE, Decoder, Frame
from ipcd_client.frame.connection import Connection
from ipcd_client.frame.settings import MAX_ANSWERS, Settings
from ipcd_client.frame.window import MAX_WINDOW
from ipcd_client.rpc.call import ClientCall, ServerCall
from ipcd_client.testing import pipe

_SETTINGS = (
    Settings(max_frame=65536, initial_window=2000, max_streams=3, max_message=8000, max_metadata=200, accept_fds=True),
    Settings(max_frame=4096, initial_window=16, max_streams=1, max_message=0, max_metadata=0),
    Settings(max_frame=65536, max_message=-1),
    Settings(accept_calls=False),
)
_HELLO = pipe.join(Connection(dialer=True, settings=_SETTINGS[0]).hello())
_PING = pipe.join(codec.encode(codec.PING, 0, bytes(8)))
_METHODS = ("/s/m", "/s/n")
_STEP = st.one_of(
    *(
        st.builds(lambda kind, number: bytes((kind, number)), st.sampled_from(kinds), st.integers(0, 255))
        for kinds in ([0, 1, 2, 3], [0, 1, 3, 4], [2, 5, 6, 8], [9, 10, 11, 12, 13, 14, 15])
    ),
    st.builds(lambda number, raw: bytes((7, number)) + blocks(raw), st.integers(0, 255), frames),
)
inputs = st.builds(
    lambda head, steps: head + b"".join(steps), st.binary(min_size=2, max_size=2), st.lists(_STEP, max_size=12)
)
WORDS = (
    *(blocks(word) for word in FRAME_WORDS),
    *(bytes((kind, number)) for kind in range(16) for number in (0, 1, 255)),
    b"\x02\x00\x00\x05\x00\x06",
    b"\x03\x00\x03\x01",
)


def _core(script: Script, *, plain: bool) -> tuple[Connection, bool]:
    """One end as the script wants it, with calls of its own open, and whether the peer has said hello.

    `plain`: the calls are opened in the shortest way."""
    choice = script.number()
    core = Connection(dialer=bool(choice & 1), settings=_SETTINGS[choice >> 1 & 3])
    core.hello()
    greeted = choice >> 3 & 7 != 7
    if greeted:
        decoder = Decoder(4096)
        decoder.feed(_HELLO)
        frame = decoder.next()
        assert frame is not None
        core.receive(frame)
        if core.settings.accept_calls:
            # A method has its name, as the shortest way needs it.
            first = 1 + (core._peer_parity ^ 1)
            payload = b"\x04\x00/s/m"
            core.receive(Frame(codec.OPEN, first, codec.WITH_NAME | codec.END, 0, 0, payload))
            core.status(first, 0)
        for number in range(choice >> 6):
            core.open(_METHODS[number % 2], end=number == 1)
        for _ in range(2):
            opened = core.open_plain("/s/m", b"x", None) if plain else None
            if opened is None:
                with contextlib.suppress(UsageError):
                    core.open("/s/m", message=b"x", end=True)
    return core, greeted


def _bytes(script: Script, core: Connection) -> bytes:  # noqa: C901 - one kind of frame after the other
    """What the peer sends next: a frame that fits the state, or nearly, or anything."""
    kind, number = script.number(), script.number()
    theirs = core._last_peer_stream + 2 if core._last_peer_stream else 1 + (core._peer_parity ^ 1)
    theirs = min(theirs, 0xFFFF_FFF8)
    ours = sorted(one for one in {*core._streams, *core._plain} if one & 1 != core._peer_parity)
    open_here = sorted({*core._streams, *core._plain})
    mine = ours[number % len(ours)] if ours else number
    any_one = open_here[number % len(open_here)] if open_here else number
    payload = b"p" * (number % 24)
    name = b"\x04\x00/s/m"
    unary = codec.END | codec.WITH_MESSAGE
    match kind & 15:
        case 0:
            frame = codec.encode(codec.OPEN, theirs, payload, unary, number > 200)
        case 1:
            frame = codec.encode(codec.OPEN, theirs, bytes((number,)) * 8 + payload, unary | codec.WITH_TIMEOUT)
        case 2:
            frame = codec.encode(codec.OPEN, theirs, name + payload, unary | codec.WITH_NAME, number >> 6)
        case 3:
            frame = codec.encode(codec.STATUS, mine, payload, codec.WITH_MESSAGE, number > 200)
        case 4:
            frame = codec.encode(codec.OPEN, theirs, name, codec.WITH_NAME, number & 3)
        case 5:
            frame = codec.encode(codec.MESSAGE, any_one, payload, codec.END * (number >> 7))
        case 6:
            more = codec.FIRST | codec.MORE if number & 1 else codec.MORE * (number >> 7)
            frame = codec.encode(codec.MESSAGE, any_one, payload + b"q", more, number)
        case 7:
            return script.block()
        case 8:
            frame = codec.encode(codec.WINDOW, any_one, b"", 0, number << (number >> 5) * 3)
        case 9:
            frame = codec.encode(codec.RESET, any_one, payload, 0, number & 7)
        case 10:
            frame = codec.encode(codec.CLOSE_SEND, any_one)
        case 11:
            frame = codec.encode(
                codec.HEADERS, mine, codec.with_length(codec.encode_metadata((("k", "v"),) * (number & 7)))
            )
        case 12:
            frame = codec.encode(codec.PING, 0, bytes(8), codec.ACK * (number & 1))
        case 13:
            frame = codec.encode(codec.GOAWAY, mine if number & 1 else 0, payload, 0, number >> 6)
        case 14:
            # As one that is plain, but for one thing.
            kinds = (codec.OPEN, codec.STATUS, codec.MESSAGE, codec.HELLO)
            frame = codec.encode(kinds[number & 3], theirs, payload, unary, 0, number >> 7)
        case _:
            frame = codec.encode(codec.OPEN, theirs + 2 * (number & 3), payload, unary | 1 << (number >> 4), 0)
    return pipe.join(frame)


def _whole(raw: bytes) -> Iterator[bytes]:
    """Frame by frame, as far as there are whole ones, and then the rest."""
    at = 0
    while len(raw) - at >= HEADER_SIZE:
        end = at + HEADER_SIZE + int.from_bytes(raw[at : at + 4], "little")
        if end > len(raw):
            break
        yield raw[at:end]
        at = end
    if at < len(raw):
        yield raw[at:]


def _check_bounds(core: Connection) -> None:
    limits = core.settings
    assert core.accepted <= limits.max_streams
    assert core._opened + core.accepted == len(core._streams) + len(core._plain)
    assert len(core.outbox) <= MAX_ANSWERS
    for stream in core._streams.values():
        assert stream.send.credit <= MAX_WINDOW or core._failed is not None
        assert stream.receive.credit <= limits.initial_window
        if stream.pieces is not None and limits.max_message >= 0:
            assert len(stream.pieces) <= limits.max_message


class _Program:
    """What is done with the events: the calls, and verbs at any time. `plan` decides which."""

    def __init__(self, core: Connection, plan: int) -> None:
        self.core = core
        self.plan = plan
        self.calls: dict[int, ClientCall | ServerCall] = {}

    def take(self, event: events.Event | None) -> None:
        """As the drivers do."""
        if isinstance(event, events.CallOpened):
            self.calls[event.stream] = ServerCall(event, self.core.settings.max_message)
        elif event is not None and not isinstance(
            event, (events.HelloReceived, events.PongReceived, events.GoAwayReceived)
        ):
            call = self.calls.setdefault(event.stream, ClientCall("/s/m", self.core.settings.max_message))
            call.handle(event)
            while call.messages:
                message, cost = call.messages.popleft()
                if cost >= 0:
                    self.sent(self.core.consumed(event.stream, len(message)))

    def sent(self, buffers: list[codec.Buffer]) -> None:
        """Whatever the peer does, we send whole frames that fit."""
        for frame in pipe.frames(buffers):
            assert len(frame.payload) <= self.core.peer.max_frame

    def act(self) -> None:
        """Perhaps one verb."""
        self.plan = plan = (self.plan * 5 + 3) & 0xFF
        core, stream = self.core, plan >> 4
        with contextlib.suppress(UsageError):
            match plan & 15:
                case 1:
                    self.sent(core.open("/s/o", message=b"y", metadata=(("k", "v"),))[1])
                case 2:
                    self.sent(core.message(stream, b"z" * plan))
                case 3:
                    self.sent(core.close_send(stream))
                case 4:
                    self.sent(core.headers(stream, (("k", "v"),)))
                case 5:
                    self.sent(core.status(stream, 0, "text", trailing=(("k-bin", b"v"),), message=b"m"))
                case 6:
                    self.sent(core.reset(stream, 1, "text"))
                case 7 if plan > 200:
                    self.sent(core.drain("text"))
                case 8:
                    self.sent(core.outbox)
                    core.outbox.clear()
                case _:
                    pass


@target("connection", inputs, words=WORDS, largest=192)
def _connection(data: bytes) -> object:
    script = Script(data)
    core, greeted = _core(script, plain=bool(len(data) & 1))
    program = _Program(core, script.number())
    decoder = Decoder(core.settings.max_frame)
    decoder.feed(b"" if greeted else _HELLO[: script.number()])
    count = 0
    try:
        while script:
            decoder.feed(_bytes(script, core))
            while (frame := decoder.next()) is not None:
                count += 1
                program.take(core.receive(frame))
                _check_bounds(core)
                program.act()
    except ProtocolError as error:
        broken = listed(error)
    else:
        return count, _state(core)
    assert core._failed is None or _slowly(core, _PING) == broken, "it went on behind a violation"
    return count, broken, _state(core)


def _state(core: Connection) -> object:
    for stream_id in list(core._plain):
        core._stream(stream_id)
    streams = [
        (one.id, one.opened_here, one.request, one.reply, one.send.credit, one.receive.credit, one.pieces)
        for one in sorted(core._streams.values(), key=lambda one: one.id)
    ]
    numbers = core._opened, core._accepted, core._next_stream, core._last_peer_stream
    return streams, numbers, dict(core._peer_methods), pipe.join(core.outbox), core.draining, core.going_away


def _quickly(core: Connection, raw: bytes, ours: set[int]) -> tuple[bool, object]:
    """What the shortest way makes of a frame, as the drivers take it: whether it took it, and its event."""
    stream = int.from_bytes(raw[4:8], "little") if len(raw) >= HEADER_SIZE else 0
    if stream in ours:
        answer = core.take_answer(raw, stream)
        if answer is None:
            return False, None
        return True, events.StatusReceived(stream, 0, "", None, (), answer, 0)
    opened = core.take_open(raw)
    return opened is not None, opened and events.CallOpened._make(opened)


@target("plain", inputs, words=WORDS, largest=192)
def _plain(data: bytes) -> object:
    """Two ends get the same bytes. One is asked first for the shortest way, the other goes the ordinary one: nobody can
    tell which was which."""
    quick, greeted = _core(Script(data), plain=True)
    slow, _ = _core(Script(data), plain=False)
    script = Script(data[1:])
    plan, taken = script.number(), 0
    if not greeted:
        assert _slowly(quick, _HELLO) == _slowly(slow, _HELLO)
    while script and quick._failed is None:
        for raw in _whole(_bytes(script, slow)):
            ours = {one for one in (*quick._streams, *quick._plain) if one & 1 != quick._peer_parity}
            was_taken, event = _quickly(quick, raw, ours)
            taken += was_taken
            first = event if was_taken else _slowly(quick, raw)
            second = _slowly(slow, raw)
            assert first == second, (first, second)
            _check_bounds(quick)
            if isinstance(second, str):
                break
            plan = (plan * 5 + 3) & 0xFF
            _both_act(quick, slow, second, plan)
    failed = quick._failed is not None
    assert failed == (slow._failed is not None)
    state = _state(quick)
    assert state == _state(slow)
    return taken, failed, state


def _slowly(core: Connection, raw: bytes) -> object:
    decoder = Decoder(core.settings.max_frame)
    decoder.feed(raw)
    try:
        frame = decoder.next()
        if frame is None:
            return "partial"
        return core.receive(frame)
    except ProtocolError as error:
        return error.violation


def _both_act(quick: Connection, slow: Connection, event: object, plan: int) -> None:
    """What either end sends is the same as well."""
    if isinstance(event, events.CallOpened) and plan & 1:
        answer = quick.answer_plain(event.stream, b"done")
        first = pipe.join(quick.status(event.stream, 0, message=b"done")) if answer is None else answer
        assert first == pipe.join(slow.status(event.stream, 0, message=b"done"))
    elif plan & 6 == 6:
        sent: list[object] = []
        for core, plain in ((quick, True), (slow, False)):
            opened = core.open_plain("/s/m", b"x" * plan, 0.5) if plain else None
            if opened is not None:
                sent.append(opened)
                continue
            try:
                stream, buffers = core.open("/s/m", timeout=0.5, message=b"x" * plan, end=True)
            except UsageError as error:
                sent.append(str(error))
            else:
                sent.append((stream, pipe.join(buffers)))
        assert sent[0] == sent[1]
    elif plan & 24 == 24:
        assert pipe.join(quick.reset(plan & 7, 1)) == pipe.join(slow.reset(plan & 7, 1))
    elif plan == 7:
        assert pipe.join(quick.drain("x")) == pipe.join(slow.drain("x"))
