"""Queues of messages, for threads.

>>> jobs = ipcd_client.queue("jobs", create=True)
>>> jobs.send(b"one", priority=3)
>>> with jobs.receive(ack=False) as message:     # acknowledged at the end, given back if that raises
...     work(message.data)
"""

# ruff: noqa: A002 - a message has a type, as System V's have

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc

from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import queue_pb2 as pb
from ipcd_client.pb.ipcd.v1 import queue_pb2_grpc
from ipcd_client.primitives import queue_parts as parts
from ipcd_client.primitives.place import Place, keep
from ipcd_client.primitives.queue_parts import Draft, NotAll, Stat, WhenFull
from ipcd_client.primitives.waiting import deadline_of, first
from ipcd_client.rpc.failure import CallFailed

__all__ = ["Draft", "Message", "NotAll", "Notification", "Queue", "Stat", "queue"]


def queue(
    name: str,
    *,
    node: str | None = None,
    channel: grpc.Channel | None = None,
    create: bool = False,
    max_messages: int = 0,
    max_bytes: int = 0,
    when_full: WhenFull = "block",
    lease: float = 0.0,
    deliveries: int = 0,
    dead_letters: str = "",
    durable: bool = False,
) -> Queue:
    """A handle of a queue. Nothing is asked of the node before it is used, and nothing is to be closed by all means.

    Args:
        name: NAME, or NAME@NODE for that node's.
        node: path of the daemon's socket; the default is that of `ipcd_client.channel`.
        channel: any grpc channel to a node's gateway, instead.
        create: `send`, `receive` and `notify` make the queue where there is none, as the other arguments say. One that
            is there already is used as it is. Without it they raise `NoSuchName`.
        max_messages, max_bytes: for how many, and for how many bytes of data, there is room. Default: 1,024 and 16 MiB.
        when_full: what becomes of senders then: "block" (they wait as long as they want), "fail", or "drop-oldest" and
            "drop-newest", of which the queue counts what it has dropped.
        lease: seconds for which a message is held that is to be acknowledged. Default: 30.
        deliveries, dead_letters: after so many deliveries without acknowledgement a message goes to the queue of that
            name on the same node, which is made as well.
        durable: kept on the node's disk.

    Raises:
        BadRequest: an argument is wrong.
    """
    options = parts.options_of(max_messages, max_bytes, when_full, lease, deliveries, dead_letters, durable)
    return Queue(Place("queue", name, node, channel), options, create=create)


@dataclass(frozen=True, slots=True)
class Message(parts.Received):
    """A message. One that was received with `ack=False` is to be settled, by a method or as a context manager: it is
    acknowledged at the end, and given back if that raises."""

    settle: Callable[[parts.Received, pb.QueueSettleRequest.How, float], None] = field(repr=False, compare=False)

    def ack(self) -> None:
        """It is done, and gone.

        Raises:
            Lost: its lease was over, and somebody else has got it.
        """
        self.settle(self, pb.QueueSettleRequest.ACK, 0.0)

    def nack(self, delay: float = 0.0) -> None:
        """It goes back to its place in the queue, after `delay` seconds.

        Raises:
            Lost: its lease was over.
        """
        self.settle(self, pb.QueueSettleRequest.NACK, delay)

    def extend(self, lease: float = 0.0) -> None:
        """It is held for `lease` seconds from now on; for the queue's own lease by default.

        Raises:
            Lost: its lease was over.
        """
        self.settle(self, pb.QueueSettleRequest.EXTEND, lease)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.ack()
            return
        try:
            self.nack()
        except IpcdError as failure:
            error.add_note(self.not_given_back(failure))


class Queue:
    """Made by `queue`. Usable from any thread.

    What waits takes `timeout` in seconds: None for ever, 0 not at all. Every method raises, beside what it says:
    `NoSuchName`, `Ambiguous` (several nodes have a queue of the name), `NotAllowed`, and `CallFailed` where its node
    cannot be reached (UNAVAILABLE) or has not answered 10 s after the time that a call had (DEADLINE_EXCEEDED). Nobody
    knows then whether it was done; after `TimedOut`, `Full` and `Empty` nothing was.
    """

    def __init__(self, place: Place, options: pb.QueueOptions, *, create: bool = False) -> None:
        self.name = place.text
        self._place = place
        self._options = options
        self._create = options if create else None

    def create(self, exist_ok: bool = True) -> bool:
        """Makes it now. True if it was not there before.

        Raises:
            NameTaken: it was, and `exist_ok` is False.
            Elsewhere: it is on another node.
        """
        request = pb.QueueCreateRequest(name=self.name, options=self._options, exclusive=not exist_ok)
        made: bool = self._call("Create", request, 0.0).made
        return made

    def send(
        self, data: bytes, priority: int = 0, *, type: int = 1, delay: float = 0.0, timeout: float | None = None
    ) -> int:
        """Sends one message; its number, or 0 if the queue was full and threw it away. Of a durable queue it is on the
        disk then.

        Args:
            priority: 0 to 31, the most urgent.
            type: 1 or more, for those who receive by it.
            delay: seconds before it can be received.

        Raises:
            Full: there is no room, and `timeout` is 0, or the queue is one that lets senders fail.
            TimedOut: there was none in time.
        """
        return self.send_many([Draft(data, priority, type, delay)], timeout=timeout)[0]

    def send_many(self, messages: Iterable[bytes | Draft], *, timeout: float | None = None) -> list[int]:
        """Sends several, in order, as there is room for them: their numbers. They are not one operation: others may
        come between, and receivers do not wait for the last.

        Raises:
            Full, TimedOut: as `send`; no message was sent.
            NotAll: some were sent, and the others not.
        """
        sending = parts.Sending(self.name, messages, timeout, self._create)
        while (next_ := sending.request()) is not None:
            try:
                sending.got(self._call("Send", *next_))
            except Exception as error:
                told = sending.failed(error)
                if told is error:
                    raise
                raise told from error
        return sending.ids

    def receive(self, type: int = 0, timeout: float | None = None, *, ack: bool = True, lease: float = 0.0) -> Message:
        """The next message: the oldest of the highest priority.

        Args:
            type: 0 for any; n for that type; -n for the lowest that there is up to n.
            ack: it is acknowledged at once. With False it is held, for `lease` seconds, until the message's own `ack`
                or `nack`; else it is delivered again.

        Raises:
            Empty: there is none, and `timeout` is 0.
            TimedOut: there was none in time.
        """
        return self.receive_many(1, type, timeout, ack=ack, lease=lease)[0]

    def receive_many(
        self, most: int, type: int = 0, timeout: float | None = None, *, ack: bool = True, lease: float = 0.0
    ) -> list[Message]:
        """As many as there are now, up to `most` (1,024), waiting for the first.

        Raises:
            Empty, TimedOut: as `receive`.
        """
        until = parts.Until(timeout)
        wait = timeout
        while True:
            request = parts.receiving(self.name, type, most, wait, ack, lease, self._create)
            reply = self._call("Receive", request, wait)
            if not ack or not reply.held:
                return [self._message(message, acknowledged=ack) for message in reply.messages]
            lost, sure = self._confirm(reply.messages)
            messages = [
                self._message(message, acknowledged=sure) for message in reply.messages if message.id not in lost
            ]
            if messages:
                return messages
            wait = until.left()
            if wait == 0 and timeout:
                raise parts.none_left(self.name)

    def peek(self, most: int = 1, type: int = 0) -> list[Message]:
        """What would be received, up to `most` messages: they stay where they are."""
        reply = self._call("Peek", pb.QueuePeekRequest(name=self.name, type=type, most=most), 0.0)
        return [self._message(message) for message in reply.messages]

    def purge(self) -> int:
        """Throws away all messages but those that somebody holds: how many."""
        count: int = self._call("Purge", pb.QueuePurgeRequest(name=self.name), 0.0).messages
        return count

    def remove(self) -> int:
        """Removes the queue: how many messages there were in it. Who waits there gets `NoSuchName`."""
        count: int = self._call("Remove", pb.QueueRemoveRequest(name=self.name), 0.0).messages
        return count

    def stat(self) -> Stat:
        """What there is in it."""
        return parts.stat_of(self._call("Stat", pb.QueueStatRequest(name=self.name), 0.0))

    def notify(self, callback: Callable[[], None] | None = None) -> Notification:
        """Asks to be told, once, of a message that arrives in the empty queue while nobody waits to receive it. When
        this returns the queue is watched; what has come before is to be received. `callback` is called in a thread of
        its own.
        """
        request = pb.QueueNotifyRequest(name=self.name, create=self._create)

        def opened(made: tuple[grpc.Channel, Any]) -> Notification:
            channel, stub = made
            kept = keep(channel)
            try:
                call = stub.Notify(request)
                first(call, 0)
                return Notification(call, callback, kept)
            except BaseException:
                kept()
                raise

        return self._place.run(_with_channel, opened)

    def close(self) -> None:
        """Lets go of the connection. The next use takes it up again."""
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _message(self, message: pb.QueueMessage, *, acknowledged: bool = False) -> Message:
        return Message(**parts.fields_of(message, acknowledged=acknowledged), settle=self._settle)

    def _settle(self, message: parts.Received, how: pb.QueueSettleRequest.How, seconds: float) -> None:
        request = parts.settling(self.name, [message.receipt], how, seconds, again=False)
        parts.check_settled(self._call("Settle", request, 0.0), self.name)

    def _confirm(self, messages: Sequence[pb.QueueMessage]) -> tuple[set[int], bool]:
        """Acknowledges what has come: the numbers of those that are others' already; False if there was no answer."""
        end = time.monotonic() + parts.CONFIRM
        again = False
        receipts = parts.receipts_of(messages)
        while True:
            request = parts.settling(self.name, receipts, pb.QueueSettleRequest.ACK, 0.0, again=again)
            try:
                return set(self._call("Settle", request, 0.0).lost), True
            except CallFailed as error:
                if error.code not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                    raise
                if time.monotonic() > end:
                    # Rather twice than never.
                    return set(), False
            again = True
            time.sleep(parts.CONFIRM_PAUSE)

    def _call(self, method: str, request: Any, wait: float | None) -> Any:
        return self._run(lambda stub: getattr(stub, method)(request, timeout=deadline_of(wait)))

    def _run(self, act: Callable[[Any], Any]) -> Any:
        stub: Any = queue_pb2_grpc.QueueStub
        return self._place.run(stub, act)


def _with_channel(channel: grpc.Channel) -> tuple[grpc.Channel, Any]:
    stub: Any = queue_pb2_grpc.QueueStub
    return channel, stub(channel)


class Notification:
    """Of one queue, once. `wait`, or its callback; to be closed. `on_end`: the call is over."""

    def __init__(self, call: Any, callback: Callable[[], None] | None, on_end: Callable[[], None]) -> None:
        self._call = call
        self._on_end = on_end
        self._callback = callback
        self._over = threading.Event()
        self._arrived = False
        self._error: Any = None
        self._thread = threading.Thread(target=self._run, name="ipcd-notify", daemon=True)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether a message has arrived, after at most `timeout` seconds.

        Raises:
            NoSuchName, CallFailed: nothing can arrive any more.
        """
        if not self._over.wait(timeout):
            return False
        if self._error is not None:
            raise self._error
        return self._arrived

    def close(self) -> None:
        """Nothing is told any more."""
        self._call.cancel()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        from ipcd_client.primitives.errors import from_status

        try:
            self._arrived = any(reply.arrived for reply in self._call)
        except grpc.RpcError as error:
            failed: Any = error
            if failed.code() is not grpc.StatusCode.CANCELLED:
                self._error = from_status(failed.code(), failed.details() or "")
        self._on_end()
        self._over.set()
        if self._arrived and self._callback is not None:
            self._callback()
