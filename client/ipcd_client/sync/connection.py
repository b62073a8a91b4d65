"""One connection driven by threads: what the two ends of its calls do.

There is no thread of the connection's own: who reads is in `reading.py`, what guards what in `life.py`.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

import grpc

from ipcd_client.errors import IpcdError, ProtocolError, UsageError, WireClosed, WireError, WireStarved, WireTimeout
from ipcd_client.frame import settings as limits
from ipcd_client.frame.codec import Buffer, Metadata, Payload
from ipcd_client.frame.window import COST
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ClientCall, ServerCall
from ipcd_client.sync.pump import Pump
from ipcd_client.sync.reading import BACKLOG_MOST, HELLO_TIMEOUT, Reading

# A sender of streamed messages waits while the wire is this far behind, in bytes.
BACKLOG_HIGH: Final = 1 << 20

__all__ = ["BACKLOG_HIGH", "HELLO_TIMEOUT", "Connection"]


class Connection(Reading):
    """One end. `dialer`: whether this end opened the connection."""

    # -- the caller's end -------------------------------------------------------------------------

    def start(
        self,
        call: ClientCall,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        message: Buffer | None = None,
        end: bool = False,
    ) -> None:
        """Opens a call. Where that fails, the call has failed; it is `refused` if the peer has not seen it."""
        sent = True
        try:
            with self._lock:
                if self.error is not None:
                    raise self.error
                call.stream, buffers = self.core.open(
                    call.method, timeout=timeout, metadata=metadata, message=message, end=end
                )
                self._calls[call.stream] = call
                if len(buffers) > 1:
                    self._note(buffers)
                sent = self.wire.send(buffers)
                call.sent_at = self.wire.sent
            if not sent:
                self.flush(call, None if timeout is None else monotonic() + timeout)
        except UsageError as error:
            if self.core.going_away or "stream ids" in str(error):
                self.retired = True
            call.refused = self.retired
            call.fail(
                grpc.StatusCode.UNAVAILABLE if self.retired else grpc.StatusCode.RESOURCE_EXHAUSTED,
                str(error),
            )
        except IpcdError as error:
            with self._lock:
                self._calls.pop(call.stream, None)
                call.refused = True
                call.fail(error.code if isinstance(error, WireError) else grpc.StatusCode.UNAVAILABLE, str(error))
            self.fail(error)

    def ask(  # noqa: C901 - as few Python calls as there can be
        self, method: str, message: bytes, timeout: float | None, limit: int
    ) -> bytes | ClientCall | None:
        """Makes a call of the plainest sort, one message each way, in the shortest way: while nobody else reads, and if
        the answer comes while it is worth while to spin for it.

        The answer; a ClientCall, if the call was made and takes longer, or ends in another way: `wait` for its end.
        None if nothing was sent: `start` it. `limit`: of the answer, in bytes, for an error's text.
        """
        core, wire, lock = self.core, self.wire, self._lock
        broken: IpcdError | None = None
        with lock:
            if self._reading or self.error is not None or self._host is not None or wire.backlog:
                return None
            opened = core.open_plain(method, message, timeout)
            if opened is None:
                return None
            stream, data = opened
            self._asked = stream
            self._reading = True
            quick = wire.quick
            try:
                if quick is not None and quick.put(data):
                    sent_at = quick.total
                else:
                    wire.send((data,))
                    sent_at = wire.sent
            except IpcdError as error:
                broken = error
                # What the transport did not take, nobody has seen: behind all that anybody can have.
                sent_at = wire.sent + 1 if isinstance(error, WireClosed) else 0
        answer: bytes | None = None
        call: ClientCall | None = None
        try:
            try:
                if (
                    broken is None
                    and self._spinner.spin(wire.peek, timeout)
                    and (received := wire.glance()) is not None
                ):
                    with lock:
                        answer = core.take_answer(received, stream)
                        if answer is not None:
                            self._asked = 0
                            if not self.retired:  # as it is, too, when the connection has ended
                                self._reading = False
                                if self._waiting:
                                    self._waiting.wake_one()
                                return answer
                    if answer is None:
                        wire.put_back(received)
            except MemoryError:
                broken = WireStarved(wire.peer())
            if answer is None:
                call = self._asked_call(method, limit, sent_at)
                if broken is None:
                    self._pump(1)
                else:
                    self._break(broken)
        except BaseException:
            # Ctrl-C: nobody waits for the answer any more.
            if self._asked:
                call = self._asked_call(method, limit, sent_at)
            if call is not None:
                self.end(call, grpc.StatusCode.CANCELLED, status.LOCALLY_CANCELLED)
            self._stop_reading()
            raise
        self._stop_reading()
        if answer is None:
            return call
        if self._closes_idle and self.idle:
            self.close()
        return answer

    def _asked_call(self, method: str, limit: int, sent_at: int) -> ClientCall:
        """Makes an ordinary call of the one that was made by `ask`."""
        call = ClientCall(method, limit)
        call.sent_at = sent_at
        with self._lock:
            call.stream, self._asked = self._asked, 0
            if self.error is None:
                self._calls[call.stream] = call
            else:
                call.refused = call.sent_at > self._seen
                call.fail(self._code(), str(self.error))
        return call

    def end(self, call: ClientCall, code: grpc.StatusCode, details: str, reset: int = limits.RESET_CANCEL) -> bool:
        """Ends a call from this side, and tells the peer. False if it has ended already."""
        with self._lock:
            if not call.fail(code, details):
                return False
            self._calls.pop(call.stream, None)
            self._wake(call.stream)
            if self.error is None:
                self._push(self.core.reset(call.stream, reset))
            self._close_fds(call)
        if call.user is not None:
            call.user.progressed()
        if self._closes_idle and self.idle:
            self.close()
        return True

    def cancel(self, call: ServerCall, why: str, reset: int = limits.RESET_CANCEL) -> bool:
        """Ends a call that the peer made, without a status. False if it has ended already."""
        with self._lock:
            if not call.cancel(why):
                return False
            self._calls.pop(call.stream, None)
            self._wake(call.stream)
            if self.error is None:
                self._push(self.core.reset(call.stream, reset))
        if call.user is not None:
            call.user.progressed()
        return True

    # -- both ends --------------------------------------------------------------------------------

    def send(
        self, call: ClientCall | ServerCall, message: Buffer, deadline: float | None, *, end: bool = False
    ) -> bool:
        """Sends one streamed message, once there is credit and room. False: the call has ended, nothing was sent.

        Raises:
            WireTimeout: the deadline (of time.monotonic()) passed first.
        """
        core, wire, stream = self.core, self.wire, call.stream
        sent = False
        while True:
            with self._lock:
                if stream not in self._calls:
                    return False
                if self._has_room(stream):
                    sent = self._push(core.message(stream, message, end=end))
                    break
            if wire.backlog >= BACKLOG_HIGH:
                self.flush(call, deadline)
            if not self.wait(stream, lambda: self._has_room(stream) or stream not in self._calls, deadline):
                raise WireTimeout(f"{wire.peer()} gave no credit before the deadline")
        if not sent and self._host is None:
            self.flush(call, deadline)
        return True

    def _has_room(self, stream: int) -> bool:
        return self.wire.backlog < BACKLOG_HIGH and self.core.credit(stream) > 0

    def watch(self, call: ClientCall, deadline: float | None) -> None:
        """Reads, by a thread of its own, until the call has ended: it has callbacks, and perhaps nobody who waits."""
        with self._lock:
            if call.code is not None:
                return
            if self._pump_thread is None:
                self._pump_thread = Pump(self)
            pump = self._pump_thread
        pump.watch(call, deadline)

    def close_send(self, call: ClientCall) -> None:
        """The caller has no further message."""
        with self._lock:
            if call.stream in self._calls:
                self._push(self.core.close_send(call.stream))

    def take(self, call: ClientCall | ServerCall) -> Payload:
        """The next message of the call, of which there must be one. Gives the credit back."""
        message, size = call.messages.popleft()
        if size >= 0:
            call.ungiven += size + COST
            if call.ungiven >= self._give_back_at:
                cost, call.ungiven = call.ungiven, 0
                with self._lock:
                    if self.error is None:
                        self._push(self.core.give_back(call.stream, cost))
        return message

    # -- the callee's end -------------------------------------------------------------------------

    def headers(self, call: ServerCall, metadata: Metadata) -> None:
        """Sends initial metadata."""
        with self._lock:
            if call.stream in self._calls:
                self._push(self.core.headers(call.stream, metadata))

    def reply(self, call: ServerCall, message: bytes) -> bool:
        """Sends an OK with the answer of a unary call and nothing else, in the shortest way. False if nobody waits for
        it."""
        plain: bytes | None = None
        broken: ProtocolError | None = None
        with self._lock:
            wire, stream = self.wire, call.stream
            if self._parked is None and not wire.backlog and stream not in self._waiting:
                plain = self.core.answer_plain(stream, message)
            if plain is not None:
                call.finished = True
                del self._calls[stream]
                quick = wire.quick
                try:
                    if quick is None or not quick.put(plain):
                        self._push((plain,))
                except ProtocolError as error:
                    broken = error
        if broken is not None:
            self._break(broken)
        return plain is not None or self.finish(call, 0, message=message)

    def finish(
        self,
        call: ServerCall,
        code: int,
        details: str = "",
        *,
        headers: Metadata | None = None,
        trailing: Metadata = (),
        message: bytes | None = None,
    ) -> bool:
        """Sends the status, and the answer of a unary call with it. False if nobody waits for it."""
        with self._lock:
            if self._calls.pop(call.stream, None) is None:
                return False
            call.finished = True
            if call.stream in self._waiting or self._parked is not None:
                self._wake(call.stream)
            wire = self.wire
            if wire.backlog > BACKLOG_MOST:
                overdue: IpcdError = WireClosed(f"{wire.peer()} reads too little: {wire.backlog} bytes wait")
            else:
                self._push(
                    self.core.status(call.stream, code, details, headers=headers, trailing=trailing, message=message)
                )
                return True
        self.fail(overdue)
        return False

    def refuse(self, stream: int, reason: str) -> None:
        """Tells the caller that no handler has seen the call, so that it may try elsewhere."""
        with self._lock:
            self._calls.pop(stream, None)
            self._push(self.core.reset(stream, limits.RESET_REFUSED, reason))

    def drain(self, reason: str) -> None:
        """Takes no new calls; those under way go on."""
        with self._lock:
            if self.error is None:
                self._push(self.core.drain(reason))
