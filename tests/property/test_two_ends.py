"""Two ends that keep the rules, with all verbs in any order, both ways, and bytes under way in any split.

Neither ever finds a violation; both agree on what was said, in order; each call ends once at each end; credit is never
overrun; nothing is left when all calls have ended. The calls' machines of `ipcd_client.rpc` are fed with the events.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ipcd_client.errors import UsageError
from ipcd_client.frame import codec, events
from ipcd_client.frame.settings import RESET_CANCEL, RESET_DEADLINE, RESET_REFUSED, Settings
from ipcd_client.frame.window import COST
from ipcd_client.rpc.call import ClientCall, ServerCall
from ipcd_client.testing.pipe import End, pair
from property import strategies as own

MAX_MESSAGE = 10_000
EXHAUSTED = 8
sides = st.integers(0, 1)
sizes = st.one_of(
    st.integers(0, 50), st.sampled_from([4080, 4096, 4097, 8192, 9000, MAX_MESSAGE, MAX_MESSAGE + 1, 13_000])
)
small_metadata = st.lists(own.entries, max_size=2).map(tuple)
metadata_blocks = st.one_of(small_metadata, small_metadata, st.just((("large", "v" * 1000),)))


def cost_of(metadata: events.Received) -> int:
    return sum(len(key) + len(value if isinstance(value, bytes) else value.encode()) + 32 for key, value in metadata)


@dataclass
class Way:
    """One direction of a call: what was sent, and how much of it has come."""

    sent: list[bytes] = field(default_factory=list, repr=False)
    came: int = 0
    ended: bool = False  # by its sender

    def arrives(self, message: bytes | bytearray | None, oversize: int) -> None:
        expected = self.sent[self.came]
        self.came += 1
        if len(expected) > MAX_MESSAGE:
            assert message is None
            assert oversize == len(expected)
        else:
            assert message == expected
            assert oversize == 0


@dataclass
class Call:
    """What the model knows of a call."""

    caller: int
    stream: int
    opened: events.CallOpened = field(repr=False)
    client: ClientCall = field(repr=False)
    server: ServerCall | None = None
    request: Way = field(default_factory=Way)
    reply: Way = field(default_factory=Way)
    headers: events.Received | None = None
    status: tuple[int, str, events.Received] | None = None
    ends: list[str] = field(default_factory=lambda: ["", ""])  # how it ended, for each side
    untaken: list[list[int]] = field(default_factory=lambda: [[], []])

    def end(self, side: int, how: str) -> None:
        assert self.ends[side] == "", "a call ends once"
        self.ends[side] = how


class TwoEnds(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: tuple[End, End] | None = None
        self.calls: list[Call] = []
        self.pings: tuple[list[bytes], list[bytes]] = ([], [])

    @initialize(
        windows=st.tuples(*[st.sampled_from([COST, 100, 5000])] * 2),
        most=st.tuples(*[st.integers(1, 4)] * 2),
        limit=st.sampled_from([120, 1 << 14]),
    )
    def begin(self, windows: tuple[int, int], most: tuple[int, int], limit: int) -> None:
        self.limit = limit
        one, other = (
            Settings(4096, window, streams, MAX_MESSAGE, limit) for window, streams in zip(windows, most, strict=True)
        )
        self.ends = pair(one, other, greet=False)
        for end in self.ends:
            end.send(end.core.hello())

    def end_of(self, side: int) -> End:
        assert self.ends is not None
        return self.ends[side]

    def pick(self, data: st.DataObject, side: int, *, made: bool) -> Call | None:
        """A call that has not ended at that side, made by it or by the other."""
        known = [
            call
            for call in self.calls
            if (call.caller == side) == made and not call.ends[side] and (made or call.server is not None)
        ]
        return data.draw(st.sampled_from(known)) if known else None

    # -- the caller -------------------------------------------------------------------------------

    @rule(
        side=sides,
        method=st.integers(0, 3),
        timeout=st.one_of(st.none(), st.floats(0, 1e6)),
        metadata=metadata_blocks,
        size=st.one_of(st.none(), sizes),
        end=st.booleans(),
    )
    def open(
        self, side: int, method: int, timeout: float | None, metadata: events.Received, size: int | None, end: bool
    ) -> None:
        core = self.end_of(side).core
        name = f"/s/{method}"
        message = None if size is None else bytes([len(self.calls) % 256]) * size
        running = sum(call.caller == side and not call.ends[side] for call in self.calls)
        may = core.ready and not core.going_away and running < core.peer.max_streams
        if not may:
            with pytest.raises(UsageError):
                core.open(name, message=message)
            return
        stream_id, buffers = core.open(name, timeout=timeout, metadata=metadata, message=message, end=end)
        self.end_of(side).send(buffers)
        opened = events.CallOpened(stream_id, name, timeout, metadata, message, 0, end)
        call = Call(side, stream_id, opened, ClientCall(name, MAX_MESSAGE))
        call.request.ended = end
        call.request.sent += [] if message is None else [message]
        self.calls.append(call)

    @rule(side=sides, size=sizes, end=st.booleans(), data=st.data())
    def send_request(self, side: int, size: int, end: bool, data: st.DataObject) -> None:
        call = self.pick(data, side, made=True)
        if call is None:
            return
        if call.request.ended:
            with pytest.raises(UsageError):
                self.end_of(side).core.message(call.stream, b"")
            return
        if self.send(side, call, call.request, size, end=end):
            call.request.ended = end

    def send(self, side: int, call: Call, way: Way, size: int, *, end: bool = False) -> bool:
        core = self.end_of(side).core
        message = bytes([len(way.sent) % 256]) * size
        if core.credit(call.stream) <= 0:
            return False
        self.end_of(side).send(core.message(call.stream, message, end=end))
        way.sent.append(message)
        return True

    @rule(side=sides, data=st.data())
    def close_send(self, side: int, data: st.DataObject) -> None:
        call = self.pick(data, side, made=True)
        if call is not None:
            buffers = self.end_of(side).core.close_send(call.stream)
            assert bool(buffers) != call.request.ended
            self.end_of(side).send(buffers)
            call.request.ended = True

    # -- the callee -------------------------------------------------------------------------------

    @rule(side=sides, metadata=metadata_blocks, data=st.data())
    def send_headers(self, side: int, metadata: events.Received, data: st.DataObject) -> None:
        call = self.pick(data, side, made=False)
        if call is None:
            return
        core = self.end_of(side).core
        if call.headers is not None or call.reply.sent:
            with pytest.raises(UsageError):
                core.headers(call.stream, metadata)
            return
        self.end_of(side).send(core.headers(call.stream, metadata))
        call.headers = metadata

    @rule(side=sides, size=sizes, data=st.data())
    def send_reply(self, side: int, size: int, data: st.DataObject) -> None:
        call = self.pick(data, side, made=False)
        if call is not None:
            self.send(side, call, call.reply, size)

    @rule(
        side=sides,
        code=st.integers(0, 20),
        details=st.text(max_size=20),
        headers=metadata_blocks,
        trailing=metadata_blocks,
        size=st.one_of(st.none(), sizes),
        data=st.data(),
    )
    def send_status(
        self,
        side: int,
        code: int,
        details: str,
        headers: events.Received,
        trailing: events.Received,
        size: int | None,
        data: st.DataObject,
    ) -> None:
        call = self.pick(data, side, made=False)
        if call is None:
            return
        core = self.end_of(side).core
        message = None if size is None else b"s" * size
        if size is not None and size > 4000 and core.credit(call.stream) <= 0:
            return  # it may not fit with the status
        buffers = core.status(call.stream, code, details, headers=headers, trailing=trailing, message=message)
        self.end_of(side).send(buffers)
        if call.headers is None and not call.reply.sent and headers:
            call.headers = headers
        call.reply.sent += [] if message is None else [message]
        call.status = (code, details, trailing)
        call.end(side, "status")

    # -- both -------------------------------------------------------------------------------------

    @rule(side=sides, made=st.booleans(), code=st.sampled_from([RESET_CANCEL, RESET_DEADLINE, 99]), data=st.data())
    def reset(self, side: int, made: bool, code: int, data: st.DataObject) -> None:
        call = self.pick(data, side, made=made)
        if call is not None:
            self.end_of(side).send(self.end_of(side).core.reset(call.stream, code, "gives up"))
            call.end(side, "reset")

    @rule(side=sides, data=st.data())
    def take(self, side: int, data: st.DataObject) -> None:
        waiting = [call for call in self.calls if call.untaken[side]]
        if waiting:
            call = data.draw(st.sampled_from(waiting))
            self.end_of(side).send(self.end_of(side).core.consumed(call.stream, call.untaken[side].pop(0)))

    @rule(side=sides, payload=st.binary(min_size=8, max_size=8))
    def ping(self, side: int, payload: bytes) -> None:
        if self.end_of(side).core.ready:
            self.end_of(side).send(self.end_of(side).core.ping(payload))
            self.pings[side].append(payload)

    @rule(side=sides, luck=st.integers(0, 9))
    def drain(self, side: int, luck: int) -> None:
        if not luck:
            self.end_of(side).send(self.end_of(side).core.drain("bye"))

    @rule(side=sides, count=st.one_of(st.integers(1, 100), st.integers(1, 20_000)))
    def deliver(self, side: int, count: int) -> None:
        for event in self.end_of(side).deliver(count):
            self.happened(side, event)

    @rule()
    def deliver_all(self) -> None:
        while any(end.incoming for end in self.ends or ()):
            for side in (0, 1):
                self.deliver(side, 1 << 30)
        for call in self.calls:
            if not any(call.ends):
                self.compare_credit(call)

    def compare_credit(self, call: Call) -> None:
        """With nothing under way, both ends know alike what may be sent; and if all was taken, that is something."""
        for side, way in ((call.caller, call.request), (1 - call.caller, call.reply)):
            if way.ended:
                continue  # credit is of no use any more, and not given
            sender = self.end_of(side).core._streams[call.stream].send
            receiver = self.end_of(1 - side).core._streams[call.stream].receive
            assert sender.credit == receiver.credit
            thrown_away = any(len(message) > MAX_MESSAGE for message in way.sent)
            assert sender.credit > 0 or thrown_away or call.untaken[1 - side]

    # -- what it means ----------------------------------------------------------------------------

    def happened(self, side: int, event: events.Event) -> None:
        if isinstance(event, (events.HelloReceived, events.CreditReceived)):
            return
        if isinstance(event, events.PongReceived):
            assert event.payload == self.pings[side].pop(0)
        elif isinstance(event, events.GoAwayReceived):
            self.refused(side, event)
        elif isinstance(event, events.CallOpened):
            self.call_opened(side, event)
        else:
            (call,) = [call for call in self.calls if call.stream == event.stream]
            assert not call.ends[side], "nothing comes after the end"
            if call.caller == side:
                call.client.handle(event)
                self.caller_hears(side, call, event)
            else:
                assert call.server is not None
                call.server.handle(event)
                self.callee_hears(side, call, event)

    def refused(self, side: int, event: events.GoAwayReceived) -> None:
        for call in self.calls:
            if call.stream in event.refused:
                assert call.caller == side
                assert call.server is None
                call.client.handle(events.ResetReceived(call.stream, RESET_REFUSED, event.reason))
                call.end(side, "refused")

    def call_opened(self, side: int, event: events.CallOpened) -> None:
        (call,) = [call for call in self.calls if call.stream == event.stream]
        assert call.caller != side
        assert call.server is None
        assert cost_of(event.metadata) <= self.limit
        sent = call.opened
        if event.message is None and not event.oversize and sent.message is not None:
            # It did not fit with the rest, and follows.
            assert not event.end
        else:
            assert event.end == sent.end
            if sent.message is not None:
                call.request.arrives(event.message, event.oversize)
        assert (event.method, event.metadata) == (sent.method, sent.metadata)
        assert (event.timeout is None) == (sent.timeout is None)
        assert event.timeout == pytest.approx(sent.timeout, abs=2e-6)
        call.server = ServerCall(event, MAX_MESSAGE)

    def callee_hears(self, side: int, call: Call, event: events.Event) -> None:
        assert call.server is not None
        if isinstance(event, events.ResetReceived):
            assert call.ends[1 - side] in {"reset", "its limit"}
            assert call.server.cancelled
            call.end(side, "was reset")
            return
        if isinstance(event, events.MessageReceived):
            call.request.arrives(event.message, event.oversize)
            if event.message is not None:
                call.untaken[side].append(len(event.message))
        else:
            assert isinstance(event, events.SendClosed)
        if call.server.requests_ended:
            assert call.request.ended
            assert call.request.came == len(call.request.sent)

    def caller_hears(self, side: int, call: Call, event: events.Event) -> None:
        if isinstance(event, events.MessageReceived):
            call.reply.arrives(event.message, event.oversize)
            if event.message is not None:
                call.untaken[side].append(len(event.message))
            else:
                assert call.client.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        elif isinstance(event, events.HeadersReceived):
            assert event.metadata == call.headers
        elif isinstance(event, events.ResetReceived):
            assert call.ends[1 - side] == "reset"
            assert call.client.done
            call.end(side, "was reset")
        else:
            assert isinstance(event, events.StatusReceived)
            self.status_came(side, call, event)

    def status_came(self, side: int, call: Call, event: events.StatusReceived) -> None:
        assert call.client.done
        if event.code == EXHAUSTED and "metadata of" in event.details:
            if call.server is None:
                assert cost_of(call.opened.metadata) > self.limit
                call.end(side, "its metadata")
            elif call.ends[1 - side] == "status":
                assert call.status is not None
                assert max(cost_of(call.headers or ()), cost_of(call.status[2])) > self.limit
                call.end(side, "their metadata")
            else:
                assert cost_of(call.headers or ()) > self.limit
                call.end(side, "its limit")
            return
        assert call.ends[1 - side] == "status"
        assert (event.code, event.details, event.trailing) == call.status
        if event.headers:
            assert event.headers == call.headers
        if event.message is not None or event.oversize:
            call.reply.arrives(event.message, event.oversize)
        assert call.reply.came == len(call.reply.sent)
        call.end(side, "got the status")

    # -- always -----------------------------------------------------------------------------------

    @invariant()
    def what_waits_is_bounded(self) -> None:
        for call in self.calls:
            for side in (0, 1):
                if self.ends is not None and call.untaken[side]:
                    window = self.ends[side].core.settings.initial_window
                    held = sorted(size + COST for size in call.untaken[side])
                    assert sum(held[:-1]) <= window + COST

    @invariant()
    def both_count_alike(self) -> None:
        for side, end in enumerate(self.ends or ()):
            made = sum(call.caller == side and not call.ends[side] for call in self.calls)
            begun = sum(call.caller != side and not call.ends[side] and call.server is not None for call in self.calls)
            assert end.core._opened == made
            assert end.core.accepted == begun
            assert len(end.core._streams) == made + begun

    def teardown(self) -> None:
        if self.ends is None:
            return
        self.deliver_all()
        for call in self.calls:
            callee = 1 - call.caller
            if call.server is not None and not call.ends[callee] and not call.ends[call.caller]:
                self.ends[callee].send(self.ends[callee].core.status(call.stream, 0, "done"))
                call.status = (0, "done", ())
                call.end(callee, "status")
        self.deliver_all()
        for end in self.ends:
            assert end.core.idle
            assert not end.decoder.partial
        assert self.pings == ([], [])
        for call in self.calls:
            assert call.ends[call.caller]
            assert bool(call.ends[1 - call.caller]) or call.server is None


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(max_examples=100, stateful_step_count=50)


def test_every_type_of_frame_is_a_verb() -> None:
    """So that the machine above, which has them all, leaves no type out."""
    assert set(codec.NAMES) == set(range(1, 11))
