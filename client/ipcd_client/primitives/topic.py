"""Topics, for threads.

>>> with ipcd_client.topic("orders.>") as orders, orders.subscribe() as messages:
...     for message in messages:
...         print(message.subject, message.data)
>>> ipcd_client.topic("orders.eu.new").publish(b"42")
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

import grpc

from ipcd_client.errors import IpcdError
from ipcd_client.node import attach
from ipcd_client.pb.ipcd.v1 import topic_pb2, topic_pb2_grpc
from ipcd_client.primitives import subjects, topic_memory, topics
from ipcd_client.primitives.errors import Empty, Lost, TimedOut, from_status
from ipcd_client.primitives.place import Place
from ipcd_client.primitives.topics import Data, Flow, Message, Policy, Published, Wish
from ipcd_client.primitives.waiting import MARGIN, Unanswered, answer, deadline_of, ends_at, left_until


class Topic:
    """A subject, or a pattern of subjects: `*` stands for one token, `>` at the end for one or more."""

    def __init__(self, place: Place, *, maps: bool = False) -> None:
        self._place = place
        self._maps = maps
        self.name = subjects.pattern(place.text)

    def publish(self, data: bytes, *, retain: bool = False, keep: int = 0, wait: float | None = None) -> Published:
        """Gives a message to everyone who listens, on all nodes; at most once.

        Args:
            data: at most 2 MiB.
            retain: later subscribers may have it, as the last one of its subject (keep=1).
            keep: the same of so many last ones of its subject.
            wait: seconds for subscribers whose policy is "block" and who have no room; None: for ever.

        Raises:
            BadRequest: the topic is a pattern.
            Full, TimedOut: some of those had no room at all (wait=0), or within the time. All others have it.
            LimitReached, NotAllowed, CallFailed: the node does not take it.
        """
        subjects.subject(self._place.text)
        request = topics.publish_request(self._place.text, data, max(keep, int(retain)), wait)
        return topics.published(self._place.run(_stub, lambda stub: stub.Publish(request, timeout=deadline_of(wait))))

    def subscribe(
        self,
        *,
        policy: Policy = "drop-oldest",
        most: int = 0,
        most_bytes: int = 0,
        group: str = "",
        replay: int = 0,
        prefetch: int | None = None,
    ) -> Subscription:
        """Listens from now on.

        Args:
            policy: what becomes of a message for which there is no room: "block" (the publisher waits), "drop-oldest",
                "drop-newest", or "latest" (only the last one of each subject waits).
            most, most_bytes: how much may wait at the node; 0: 1,024 messages, 16 MiB.
            group: of all who listen to the same pattern in the same group, one is given each message.
            replay: first, so many of the last messages of each subject, as far as publishers had them kept.
            prefetch: messages under way beside those that wait. Default: 32, or 1 if only the latest wait.

        Raises:
            BadRequest, LimitReached, NotAllowed, CallFailed: the node refuses it.
        """
        wish = Wish(policy, most, most_bytes, group, replay, prefetch)
        return Subscription(self._place, Flow(self._place.text, wish, maps=self._maps))

    def last(self, most: int = 1) -> list[Message]:
        """Of each subject so many of the last messages that were kept, on all nodes, the oldest first; 0: all. `gap` of
        the first says that some were left out.

        Raises:
            NotAllowed, CallFailed: the node does not tell them.
        """
        request = topic_pb2.TopicReplayRequest(name=self._place.text, most=most)

        def act(stub: Any) -> list[Message]:
            call = stub.Replay(request, timeout=deadline_of(0))
            return topics.last(list(call), call.trailing_metadata())

        return self._place.run(_stub, act)

    def forget(self) -> int:
        """Has all nodes keep nothing of these subjects any more; how many messages these were.

        Raises:
            NotAllowed, CallFailed: the node does not do it.
        """
        request = topic_pb2.TopicForgetRequest(name=self._place.text)
        return int(self._place.run(_stub, lambda stub: stub.Forget(request, timeout=deadline_of(0))).messages)

    def close(self) -> None:
        """Lets go of the channel. Subscriptions have to be closed themselves."""
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Subscription:
    """Messages as they come; an iterator of them. Closed, it ends. One thread at a time waits for the next one, others
    may wait for their turn.

    A node that is lost is tried again, and `gap` then says that nobody knows what was missed. `missed`: messages that
    were not given in all, those included that were reported since the last message.
    """

    def __init__(self, place: Place, flow: Flow) -> None:
        self._place = place
        self._flow = flow
        self._pid = os.getpid()
        self._closed = threading.Event()
        self._turn = threading.Lock()
        self._call: _Call | None = None
        self._begin(again=False)

    @property
    def missed(self) -> int:
        """How many messages it was not given."""
        return self._flow.missed

    @property
    def gap(self) -> bool:
        """There may have been more."""
        return self._flow.gap

    def receive(self, wait: float | None = None) -> Message:
        """The next message.

        Args:
            wait: seconds; None: for ever.

        Raises:
            Empty, TimedOut: there is none now (wait=0), or none within the time.
            Lost: it was closed, or made before a fork, in the parent.
            NotAllowed, CallFailed: the node does not let it listen any more.
        """
        if os.getpid() != self._pid:
            raise Lost("the subscription was made before the fork, and is the parent's")
        end = ends_at(wait)
        with self._turn:
            while not self._closed.is_set():
                try:
                    message = self._next(end)
                except grpc.RpcError as error:
                    self._again(error, end)
                    continue
                if message is not None:
                    return message
                if wait == 0:
                    raise Empty(f"no message of {self._place.text} is there")
                raise TimedOut(f"no message of {self._place.text} came within {wait} s")
        raise Lost(f"the subscription of {self._place.text} is closed")

    def __iter__(self) -> Iterator[Message]:
        while True:
            try:
                yield self.receive()
            except Lost:
                return

    def _next(self, end: float | None) -> Message | None:
        """The next message; None if there is none in time."""
        call = self._call
        if call is None:
            # In vain before.
            call = self._begin(again=True)
        request = self._flow.credit() if end is None else self._flow.poll(end - time.monotonic())
        if request is not None:
            call.ask(request)
        while True:
            delivery = call.read(deadline_of(left_until(end)))
            data = None
            if delivery.memory:
                data = self._data(delivery)
                call.ask(self._flow.done(delivery))
            message = self._flow.take(delivery, data)
            if message is not None:
                return message
            if end is not None and self._flow.ended(delivery):
                return None

    def _data(self, delivery: topic_pb2.TopicDelivery) -> Data | None:
        """What a reference stands for: mapped, or where that fails, sent as ever. None if the node has it no more, or
        is gone: reading on says why."""
        request = self._flow.wanted(delivery)
        try:
            topic_memory.check_room()
            attachment = attach.shared(self._place.path)
            try:
                end = time.monotonic() + MARGIN
                connection = attachment.connection()
                _, fds = attach.call(connection, topic_memory.MAP, request, topic_pb2.TopicMapReply, end)
            finally:
                attachment.release()
            return topic_memory.data(delivery.size, fds)
        except (IpcdError, OSError):
            pass
        try:
            data: bytes = self._place.run(_stub, lambda stub: stub.Fetch(request, timeout=MARGIN)).data
        except IpcdError:
            return None
        return data

    def _begin(self, *, again: bool) -> _Call:
        first = self._flow.first(again=again)
        call = self._place.run(_stub, lambda stub: _Call(stub, first))
        self._call = call
        if self._closed.is_set():
            call.close()
        return call

    def _again(self, error: Any, end: float | None) -> None:
        """Subscribes again, where the node may be back."""
        call, self._call = self._call, None
        if call is not None:
            call.close()
        wait, longest = topics.AGAIN
        failure: Exception = from_status(error.code(), error.details() or "")
        cause: grpc.RpcError = error
        while not self._closed.is_set():
            left = left_until(end)
            if cause.code() not in topics.AWAY or left == 0:
                raise failure from cause
            try:
                self._begin(again=True)
                return
            except Exception as new:
                if not isinstance(new.__cause__, grpc.RpcError):
                    raise
                failure, cause = new, new.__cause__
            self._closed.wait(wait if left is None else min(wait, left))
            wait = min(longest, 2 * wait)

    def close(self) -> None:
        """Listens no more. Whoever waits for a message hears of it."""
        self._closed.set()
        call = self._call
        if call is not None:
            call.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Call:
    """One call of Subscribe, in force once this is made."""

    def __init__(self, stub: topic_pb2_grpc.TopicStub, first: topic_pb2.TopicSubscribeRequest) -> None:
        self._requests: queue.SimpleQueue[topic_pb2.TopicSubscribeRequest | None] = queue.SimpleQueue()
        self.ask(first)
        self._call: Any = stub.Subscribe(iter(self._requests.get, None))
        try:
            self.read(deadline_of(0))
        except BaseException:
            self.close()
            raise

    def ask(self, request: topic_pb2.TopicSubscribeRequest) -> None:
        """Sends a request."""
        self._requests.put(request)

    def read(self, seconds: float | None) -> topic_pb2.TopicDelivery:
        """The next delivery, which is due in so many seconds.

        Raises:
            grpc.RpcError: the call has ended.
        """
        delivery: topic_pb2.TopicDelivery | None = answer(self._call, seconds)
        if delivery is None:
            raise Unanswered(grpc.StatusCode.UNAVAILABLE, "the node has ended the subscription")
        return delivery

    def close(self) -> None:
        """Ends it."""
        self._call.cancel()
        self._requests.put(None)


_stub: Final = topic_pb2_grpc.TopicStub


def topic(subject: str, *, node: str | None = None, channel: grpc.Channel | None = None) -> Topic:
    """A topic: a subject such as `orders.eu.new`, or a pattern such as `orders.>` to listen to.

    Args:
        subject: served by the own node; with @NODE, by that one.
        node: path of the daemon's socket; the default is that of `ipcd_client.channel`.
        channel: any channel to a node's gateway instead; it stays the caller's.

    Raises:
        BadRequest: it is no subject or pattern.
    """
    return Topic(Place(subjects.KIND, subject, node, channel), maps=channel is None)
