"""A peer that sends anything at all, in any state: each frame gives an event, nothing, or a listed violation, for good;
and what it can make this end keep is bounded."""

from __future__ import annotations

import contextlib
import sys

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ipcd_client.errors import ProtocolError, UsageError
from ipcd_client.frame import codec, events
from ipcd_client.frame.codec import Decoder, Frame
from ipcd_client.frame.connection import Connection
from ipcd_client.frame.settings import Settings
from ipcd_client.frame.window import MAX_WINDOW
from ipcd_client.testing.pipe import UNLIMITED, frames, join, pair
from property import strategies as own
from support import document

NAMES = document.violations()
EVENTS = (
    events.CallOpened,
    events.HeadersReceived,
    events.MessageReceived,
    events.SendClosed,
    events.StatusReceived,
    events.ResetReceived,
    events.CreditReceived,
    events.HelloReceived,
    events.PongReceived,
    events.GoAwayReceived,
)
LIMITS = Settings(
    max_frame=1 << 16, initial_window=2000, max_streams=3, max_message=8000, max_metadata=200, accept_fds=True
)

stream_types = st.sampled_from(
    [codec.OPEN, codec.MESSAGE, codec.CLOSE_SEND, codec.HEADERS, codec.STATUS, codec.RESET, codec.WINDOW]
)


def kept(core: Connection) -> int:
    """Bytes that the core holds because of what the peer has sent."""
    pieces = [stream.pieces for stream in core._streams.values() if stream.pieces is not None]
    names = core._peer_methods.values()
    return sum(map(len, pieces)) + sum(map(len, names)) + sum(map(len, core.outbox))


class HostilePeer(RuleBasedStateMachine):
    """This end uses its verbs as it likes; the peer sends frames as it likes. Most are well-formed, as otherwise the
    first would be the last."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: ProtocolError | None = None
        self.untaken: list[tuple[int, int]] = []  # received: stream and size

    @initialize(dialer=st.booleans(), greeted=st.integers(0, 9))
    def begin(self, dialer: bool, greeted: int) -> None:
        ends = pair(LIMITS, LIMITS, greet=greeted > 0)
        self.core = ends[0 if dialer else 1].core
        self.first_ours = 1 if dialer else 2
        self.first_theirs = 3 - self.first_ours
        self.next_theirs = self.first_theirs

    # -- the peer ---------------------------------------------------------------------------------

    def receive(self, frame: Frame) -> None:
        before = set(self.core._streams)
        failed = self.failed
        happened: events.Event | None = None
        try:
            happened = self.core.receive(frame)
        except ProtocolError as error:
            self.failed = error
            event(error.violation)
        if self.failed is not None:
            assert self.failed.violation in NAMES
            assert self.failed is failed or failed is None
            return
        assert happened is None or isinstance(happened, EVENTS)
        self.check(frame, happened, before)

    def check(self, frame: Frame, happened: events.Event | None, before: set[int]) -> None:
        after = set(self.core._streams)
        if isinstance(happened, events.CallOpened):
            assert after - before == {frame.stream} == {happened.stream}
        else:
            assert after <= before
        if isinstance(happened, (events.StatusReceived, events.ResetReceived)):
            assert before - after == {frame.stream}
        elif isinstance(happened, events.GoAwayReceived):
            assert before - after == set(happened.refused)
        else:
            assert before <= after
        if isinstance(happened, (events.CallOpened, events.MessageReceived, events.StatusReceived)):
            assert happened.message is None or len(happened.message) <= LIMITS.max_message
            assert happened.oversize == 0 or happened.oversize > LIMITS.max_message
        if isinstance(happened, events.MessageReceived) and happened.message is not None:
            self.untaken.append((frame.stream, len(happened.message)))

    @rule(frame=own.frames(), luck=st.integers(0, 19), data=st.data())
    def any_frame(self, frame: Frame, luck: int, data: st.DataObject) -> None:
        if luck and self.core._streams:
            # Of a call that is open: a frame of any other would end most runs.
            frame = frame._replace(stream=data.draw(st.sampled_from(sorted(self.core._streams))), fds=0)
        elif luck:
            frame = frame._replace(stream=0, fds=0)
        self.receive(frame)

    @rule(flags=st.sampled_from([0, codec.END, codec.WITH_TIMEOUT, codec.WITH_METADATA]), data=st.data())
    def open_well(self, flags: int, data: st.DataObject) -> None:
        flags |= codec.WITH_NAME | data.draw(st.sampled_from([0, codec.WITH_MESSAGE]))
        payload = data.draw(own.sections(flags))
        self.receive(Frame(codec.OPEN, self.next_theirs, flags, data.draw(st.integers(0, 3)), 0, payload))
        self.next_theirs += 2

    @rule(payload=own.messages, data=st.data())
    def message_well(self, payload: bytes, data: st.DataObject) -> None:
        if self.core._streams:
            stream_id = data.draw(st.sampled_from(sorted(self.core._streams)))
            flags = data.draw(st.sampled_from([0, 0, codec.FIRST | codec.MORE, codec.MORE]))
            whole = data.draw(st.sampled_from([len(payload) + 1, 20_000, (1 << 32) - 1]))
            self.receive(Frame(codec.MESSAGE, stream_id, flags, whole, 0, payload))

    @rule(type_=stream_types, payload=st.sampled_from([b"", b"\x02\x00\x00\x00\x00\x00"]), data=st.data())
    def control_well(self, type_: int, payload: bytes, data: st.DataObject) -> None:
        if self.core._streams:
            stream_id = data.draw(st.sampled_from(sorted(self.core._streams)))
            self.receive(Frame(type_, stream_id, 0, data.draw(st.integers(0, 5)), 0, payload))

    # -- this end ---------------------------------------------------------------------------------

    def sent(self, buffers: list[codec.Buffer]) -> None:
        """Whatever the peer does, we send whole frames that fit."""
        for frame in frames(buffers):
            assert len(frame.payload) <= self.core.peer.max_frame

    @rule(data=st.data())
    def our_verb(self, data: st.DataObject) -> None:
        core = self.core
        stream_id = data.draw(own.streams)
        message = data.draw(own.messages)
        metadata = data.draw(own.metadata)
        verbs = [
            lambda: core.open("/s/m", message=message, metadata=metadata, end=data.draw(st.booleans()))[1],
            lambda: core.message(stream_id, message, end=data.draw(st.booleans())),
            lambda: core.close_send(stream_id),
            lambda: core.headers(stream_id, metadata),
            lambda: core.status(stream_id, 0, "text", headers=metadata, trailing=metadata, message=message),
            lambda: core.reset(stream_id, 1, "text"),
            lambda: core.drain("text"),
        ]
        with contextlib.suppress(UsageError):
            self.sent(data.draw(st.sampled_from(verbs))())

    @rule()
    def the_application_takes_a_message(self) -> None:
        if self.untaken:
            self.sent(self.core.consumed(*self.untaken.pop(0)))

    @rule()
    def the_driver_sends_the_answers(self) -> None:
        self.sent(self.core.outbox)
        self.core.outbox.clear()

    # -- always -----------------------------------------------------------------------------------

    @invariant()
    def bounded(self) -> None:
        core = getattr(self, "core", None)
        if core is None:
            return
        assert core.accepted <= LIMITS.max_streams
        assert core._opened <= core.peer.max_streams
        assert core._opened + core.accepted == len(core._streams)
        assert kept(core) <= len(core._streams) * LIMITS.max_message + 100_000
        for stream in core._streams.values():
            assert stream.send.credit <= MAX_WINDOW or self.failed is not None
            assert stream.receive.credit <= LIMITS.initial_window


TestHostilePeer = HostilePeer.TestCase
TestHostilePeer.settings = settings(max_examples=120, stateful_step_count=40)


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes(raw: bytes, greeted: bool) -> None:
    """The whole way from bytes: HELLO first or not."""
    one, other = pair(LIMITS, LIMITS, greet=False)
    one.core.hello()
    one.incoming += (join(other.core.hello()) if greeted else b"") + raw
    with contextlib.suppress(ProtocolError):
        one.deliver()
    assert kept(one.core) < 100_000


@settings(max_examples=300)
@given(st.lists(st.one_of(own.frames().map(own.raw), st.binary(max_size=30)), max_size=10), st.data())
def test_good_frames_with_damage(chunks: list[bytes], data: st.DataObject) -> None:
    """A stream of frames with a few bytes changed."""
    raw = bytearray(b"".join(chunks))
    for _ in range(data.draw(st.integers(0, 3))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    one, other = pair(LIMITS, LIMITS)
    one.send(other.core.open("/s/m")[1])
    one.incoming += raw
    try:
        one.deliver()
    except ProtocolError as error:
        violation = error.violation
        event(violation)
    else:
        return
    assert violation in NAMES
    one.incoming += b"more"
    if one.core._failed is not None:
        with pytest.raises(ProtocolError, match=violation):
            one.core.receive(Frame(codec.PING, 0, 0, 0, 0, b"12345678"))
    else:  # the decoder found it
        with pytest.raises(ProtocolError, match=violation):
            one.deliver()


def test_floods_of_frames_that_cost_nothing_keep_nothing() -> None:
    """What may be sent without end, a hundred thousand times over."""
    one, other = pair(LIMITS, LIMITS)
    ours, buffers = one.core.open("/s/m")
    one.send(buffers)
    other.deliver()
    core = one.core
    floods = [
        Frame(codec.PING, 0, codec.ACK, 0, 0, b"12345678"),
        Frame(codec.GOAWAY, ours, 0, 0, 0, b"going"),
        Frame(codec.MESSAGE, ours + 4, 0, 0, 0, b""),
        Frame(codec.RESET, ours, 0, 1, 0, b""),
        Frame(codec.RESET, ours, 0, 1, 0, b"late"),
        Frame(codec.WINDOW, ours, 0, 1, 0, b""),
    ]
    core._next_stream = 101
    before = None
    for frame in floods:
        for _ in range(20_000):
            core.receive(frame)
        size = sys.getsizeof(core._streams) + sys.getsizeof(core._peer_methods) + len(core.outbox)
        assert before is None or size <= before
        before = size


def test_opening_and_giving_up_without_end() -> None:
    one, other = pair(LIMITS, LIMITS)
    for _ in range(5000):
        stream_id, buffers = one.core.open("/s/m")
        one.send([*buffers, *one.core.reset(stream_id, 1)])
        assert len(other.deliver()) == 2
    assert other.core.idle
    assert other.core.accepted == 0


def test_empty_messages_are_bounded_by_credit() -> None:
    one, other = pair(LIMITS, LIMITS)
    stream_id, buffers = one.core.open("/s/m")
    one.send(buffers)
    other.deliver()
    other.incoming += join(codec.encode(codec.MESSAGE, stream_id)) * 100_000
    with pytest.raises(ProtocolError) as caught:
        other.deliver()
    assert caught.value.violation == "credit-overrun"


def test_a_decoder_holds_one_unfinished_frame() -> None:
    decoder = Decoder(UNLIMITED)
    for size in (10, 1000):
        decoder.feed(codec.HEADER.pack(size, 0, codec.GOAWAY, 0, 0, 0) + bytes(size))
        assert decoder.next() is not None
        assert not decoder.partial
    decoder.feed(b"")
    assert len(decoder._data) == 0
