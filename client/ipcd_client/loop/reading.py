"""How what arrives on an event loop gets to the calls it is for."""

from __future__ import annotations

import asyncio
from typing import Final

import grpc

from ipcd_client.errors import Exhausted, IpcdError, ProtocolError, WireClosed, WireStarved, WireTimeout
from ipcd_client.frame import events
from ipcd_client.frame import settings as limits
from ipcd_client.frame.codec import HEADER_SIZE, Frame
from ipcd_client.loop.life import WEIGHED_EACH, Guard, Life, progressed
from ipcd_client.loop.stream import close_all
from ipcd_client.rpc.call import ClientCall
from ipcd_client.wire import tidy
from ipcd_client.wire.fds import Fd

# Frames of one process taken in before other callbacks of the loop get their turn.
TURN: Final = 64


class Reading(Life):
    """A connection that reads: the loop says when, and the pure cores say what it means."""

    turn: int = TURN

    def refuse(self, stream: int, reason: str) -> None:
        """Tells the caller that no handler has seen the call, so that it may try elsewhere."""
        self._forget(stream)
        self._send(self.core.reset(stream, limits.RESET_REFUSED, reason))

    async def ping(self, timeout: float) -> float:
        """Seconds until the peer's library answered.

        Raises:
            WireTimeout: it did not within `timeout` seconds.
            IpcdError: the connection has ended.
        """
        if self.error is not None:
            raise self.error
        self._pings += 1
        payload = self._pings.to_bytes(8, "little")
        pong = self._pongs[payload] = self._loop.create_future()
        start = self._loop.time()
        try:
            self._send(self.core.ping(payload))
            async with asyncio.timeout(timeout):
                await pong
        except TimeoutError:
            raise WireTimeout(f"{self.wire.peer()} did not answer a ping within {timeout:g} s") from None
        finally:
            self._pongs.pop(payload, None)
        if self.error is not None:
            raise self.error
        return self._loop.time() - start

    def _on_readable(self) -> None:
        if self._again is not None:
            # Else who sends on and on would get one turn more with each.
            self._again.cancel()
            self._again = None
        wire = self.wire
        if wire.backlog:
            # Shared memory tells of room as it tells of news.
            self._on_writable()
            if self.error is not None:
                return
        try:
            self._read()
        except ProtocolError as error:
            goaway = limits.GOAWAY_VERSION if error.violation == "no-common-version" else limits.GOAWAY_VIOLATION
            self.fail(error, goaway=goaway)
        except IpcdError as error:
            self.fail(error)
        except MemoryError:
            # What was taken off the wire may be lost; and if nothing was, this would be tried again without a pause.
            self.fail(WireStarved(wire.peer()))
        if not self._settled:
            self._look_settled()

    def _look_settled(self) -> None:
        if self.core.ready and self.wire.agreed and self.error is None:
            self._settled = True
            if self._hello_timer is not None:
                self._hello_timer.cancel()
                self._hello_timer = None
            self._news.progressed()

    def _read(self) -> None:
        """Takes in what has arrived, up to a bound."""
        recv, wire = self.wire.recv, self.wire
        if self._guard is not None:
            self._read_guarded(self._guard)
            return
        if self._settled:
            received = wire.glance()
            if received is not None:
                _, size = self._take_plain(received, self.turn)
                if size == len(received) or self.error is not None:
                    return
                wire.put_back(received[size:])
        for _ in range(self.turn):
            frame = recv()
            if frame is None:
                return
            self._take_in(frame)
            if self.error is not None or wire.drained:
                return
        # What is left may be in the wire's own buffer, of which the loop knows nothing.
        self._again = self._loop.call_soon(self._on_readable)

    def _read_guarded(self, guard: Guard) -> None:
        """The same, as far and as often as the guard lets the peer have its turn."""
        recv, wire = self.wire.recv, self.wire
        taken, size, more = 0, 0, True
        received = wire.glance() if self._settled else None
        if received is not None:
            taken, size = self._take_plain(received, guard.turn)
            if self.error is not None:
                return
            more = size < len(received)
            if more:
                wire.put_back(received[size:])
        while more and taken < guard.turn:
            frame = recv()
            if frame is None:
                more = False
                break
            taken += 1
            size += len(frame.payload) + HEADER_SIZE
            self._take_in(frame)
            if self.error is not None:
                return
            more = not wire.drained
        self._unweighed += size
        if self._unweighed >= WEIGHED_EACH:
            self._weigh()
        pause = guard.took(taken, size) if taken else 0.0
        if pause > 0:
            # What the peer sends meanwhile fills the socket, and then it waits.
            self._loop.remove_reader(self._fd)
            self._again = self._loop.call_later(pause, self._resume)
        elif more:
            self._again = self._loop.call_soon(self._on_readable)

    def _resume(self) -> None:
        self._again = None
        if self.wire.hung_up():
            # What is left of it may be so much that it would be read for long, and for nobody.
            self.fail(WireClosed(f"{self.wire.peer()} closed the connection"))
            return
        self._loop.add_reader(self._fd, self._on_readable)
        self._on_readable()

    def _take_plain(self, data: bytes, most: int) -> tuple[int, int]:
        """Takes in whole frames that open or answer calls of the plainest sort, up to the first that is anything else
        and at most so many: how many, and how many bytes they had."""
        taken, at, size = 0, 0, len(data)
        while taken < most and size - at >= HEADER_SIZE:
            end = at + HEADER_SIZE + int.from_bytes(data[at : at + 4], "little")
            if end > size or not self._take_one(data[at:end]) or self.error is not None:
                break
            taken += 1
            at = end
        return taken, at

    def _take_one(self, frame: bytes) -> bool:
        core = self.core
        stream = int.from_bytes(frame[4:8], "little")
        call = self._calls.get(stream)
        if isinstance(call, ClientCall):
            answer = core.take_answer(frame, stream)
            if answer is None:
                return False
            call.succeed(answer)
            self._forget(stream)
            progressed(call)
        else:
            opened = core.take_open(frame) if call is None and self.on_call is not None else None
            if opened is None:
                return False
            assert self.on_call is not None
            self.on_call(events.CallOpened._make(opened), [])
        self.heard = self._loop.time()
        return True

    def _take_in(self, frame: Frame) -> None:
        core = self.core
        self.heard = self._loop.time()
        event = core.receive(frame)
        if len(frame.payload) >= tidy.LARGE:
            self._large()
        fds = self.wire.take_fds(frame.fds) if frame.fds else []
        if core.outbox:
            answers, core.outbox = core.outbox, []
            self._send(answers)
        if event is None:
            close_all(fds)
        elif isinstance(event, events.CallOpened):
            if self.on_call is None:
                close_all(fds)
                self.refuse(event.stream, "this end takes no calls")
            else:
                self.on_call(event, fds)
        elif isinstance(event, (events.HelloReceived, events.PongReceived, events.GoAwayReceived)):
            close_all(fds)
            self._on_connection_event(event)
        else:
            self._on_call_event(event, fds)

    def _on_call_event(
        self,
        event: events.HeadersReceived
        | events.MessageReceived
        | events.SendClosed
        | events.StatusReceived
        | events.ResetReceived
        | events.CreditReceived,
        fds: list[Fd],
    ) -> None:
        call = self._calls.get(event.stream)
        if call is None:
            close_all(fds)
            return
        call.fds.extend(fds)
        call.handle(event)
        if isinstance(call, ClientCall):
            if call.code is not None:
                self._forget(event.stream)
                # Ended on this side only, as for a message over the limit.
                self._send(self.core.reset(event.stream, limits.RESET_CANCEL))
        elif call.cancelled is not None:
            self._forget(event.stream)
        progressed(call)

    def _on_connection_event(self, event: events.HelloReceived | events.PongReceived | events.GoAwayReceived) -> None:
        if isinstance(event, events.PongReceived):
            pong = self._pongs.get(event.payload)
            if pong is not None and not pong.done():
                pong.set_result(None)
            return
        if isinstance(event, events.HelloReceived):
            self.wire.max_frame = self.settings.max_frame
        else:
            self.retired = True
            for stream in event.refused:
                self._on_call_event(events.ResetReceived(stream, limits.RESET_REFUSED, event.reason), [])
            if event.code == limits.GOAWAY_DENIED:
                raise Denied(event.reason)
            if event.code == limits.GOAWAY_EXHAUSTED:
                raise Exhausted(f"{self.wire.peer()} ended the connection: {event.reason}")
            if event.code != limits.GOAWAY_DRAIN:
                raise Dismissed(f"{self.wire.peer()} ended the connection: {event.reason}")
        self._news.progressed()


class Dismissed(WireClosed):
    """The peer ended the connection for what it says of us, and lives."""


class Denied(WireClosed):
    """The peer refused the connection for who we are; the text names identity and rule."""

    code = grpc.StatusCode.PERMISSION_DENIED
