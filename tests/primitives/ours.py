"""Our own mechanisms, tried in the same way as the kernel's (kernel.py): what the table in docs/primitives.md says."""

from __future__ import annotations

import io
import itertools
import threading
from typing import Final

import ipcd_client
from ipcd_client.primitives import queue as handles
from ipcd_client.primitives.errors import Full, NoReader, TimedOut

_numbers = itertools.count()
_LONG: Final = 20.0
# Seconds for a write that nothing would hold up: those that follow show whether something does.
_STALLED: Final = 1.0
_MUCH: Final = 32 << 20


def _name(kind: str) -> str:
    return f"table-{kind}-{next(_numbers)}"


class Pipe:
    """`ipcd_client.pipe`. Each try has a reader on a thread of its own, as opening waits for the other side."""

    def __init__(self, node: str) -> None:
        self._node = node

    def _through(self, *writes: bytes) -> bytes:
        """What a reader reads of these."""
        name, got = _name("pipe"), []

        def read() -> None:
            with ipcd_client.pipe(name, node=self._node).open_read(wait=_LONG) as file:
                got.append(file.read())

        reader = threading.Thread(target=read)
        reader.start()
        with ipcd_client.pipe(name, node=self._node).open_write(wait=_LONG) as file:
            for data in writes:
                file.write(data)
        reader.join(_LONG)
        return bytes(got[0])

    def connectionless(self) -> bool:
        """There is nothing to write to but what opening gives, and that wants a reader."""
        try:
            ipcd_client.pipe(_name("pipe"), node=self._node).open_write(nonblock=True).close()
        except NoReader:
            return False
        return True

    def reliable(self) -> bool:
        sent = [bytes([number]) * 1000 for number in range(50)]
        return self._through(*sent) == b"".join(sent)

    def flow_control(self) -> bool:
        """Whoever writes much waits for a reader that does not read."""
        name, opened, free = _name("pipe"), threading.Event(), threading.Event()
        left = []

        def read() -> None:
            with ipcd_client.pipe(name, node=self._node).open_read(wait=_LONG) as file:
                opened.set()
                free.wait(_LONG)
                left.append(len(file.read()))

        def write() -> None:
            with ipcd_client.pipe(name, node=self._node).open_write(wait=_LONG) as file:
                for _ in range(_MUCH >> 16):
                    file.write(bytes(1 << 16))

        reader, writer = threading.Thread(target=read), threading.Thread(target=write)
        reader.start()
        writer.start()
        assert opened.wait(_LONG)
        writer.join(_STALLED)
        stalled = writer.is_alive()
        free.set()
        reader.join(_LONG)
        writer.join(_LONG)
        assert left == [_MUCH]
        return stalled

    def records(self) -> bool:
        """Where one write ends and the next begins is not to be seen: six bytes can be read at once."""
        name, got = _name("pipe"), []

        def read() -> None:
            with ipcd_client.pipe(name, node=self._node).open_read(wait=_LONG) as file:
                assert isinstance(file, io.BufferedReader)
                got.append(file.read(6))

        reader = threading.Thread(target=read)
        reader.start()
        with ipcd_client.pipe(name, node=self._node).open_write(wait=_LONG) as file:
            file.write(b"one")
            file.write(b"two")
        reader.join(_LONG)
        return got != [b"onetwo"]

    def priorities(self) -> bool:
        """`write` takes none: what went in first comes out first."""
        return self._through(b"low", b"high").startswith(b"high")


class Queue:
    """`ipcd_client.queue`."""

    def __init__(self, node: str) -> None:
        self._node = node

    def _queue(self, *, max_messages: int = 0) -> handles.Queue:
        return ipcd_client.queue(_name("queue"), node=self._node, create=True, max_messages=max_messages)

    def connectionless(self) -> bool:
        """The first thing that is done is to send, and nothing is open before or after."""
        with self._queue() as queue:
            return bool(queue.send(b"x", timeout=0))

    def reliable(self) -> bool:
        with self._queue() as queue:
            texts = [b"%d" % number for number in range(50)]
            for text in texts:
                queue.send(text, timeout=0)
            return [queue.receive(timeout=0).data for _ in texts] == texts

    def flow_control(self) -> bool:
        with self._queue(max_messages=10) as queue:
            try:
                for _ in range(100):
                    queue.send(b"x", timeout=0)
            except Full:
                return True
            return False

    def records(self) -> bool:
        with self._queue() as queue:
            queue.send(b"one", timeout=0)
            queue.send(b"two", timeout=0)
            return bool(queue.receive(timeout=0).data == b"one")

    def priorities(self) -> bool:
        with self._queue() as queue:
            queue.send(b"low", 1, timeout=0)
            queue.send(b"high", 9, timeout=0)
            return bool(queue.receive(timeout=0).data == b"high")


class Signal:
    """`ipcd_client.signal`."""

    def __init__(self, node: str) -> None:
        self._node = node

    def _taken(self, raises: int) -> int:
        """How many there are to be taken after so many raises."""
        name = _name("signal")
        with ipcd_client.signal(name, node=self._node) as flag, flag.listen() as listener:
            for _ in range(raises):
                flag.raise_()
            taken = 0
            while True:
                try:
                    listener.wait(_LONG if not taken else 0)
                except TimedOut:
                    return taken
                taken += 1

    def connectionless(self) -> bool:
        """The first thing that is done is to raise it, whether anybody listens or not."""
        with ipcd_client.signal(_name("signal"), node=self._node) as flag:
            return all(not told.error for told in flag.raise_())

    def reliable(self) -> bool:
        """Whoever listens is told."""
        return self._taken(1) == 1

    def flow_control(self) -> bool:
        """However often it is raised, nobody waits: it is raised already."""
        return self._taken(200) >= 200

    def records(self) -> bool:
        """It says nothing but that it was raised: two are one."""
        return self._taken(2) == 2

    def priorities(self) -> bool:
        """One flag has nothing to be sorted by."""
        return self._taken(3) == 3


class Topic:
    """`ipcd_client.topic`, as those who subscribe have it where they name no policy; `flow_control` with "block"."""

    def __init__(self, node: str) -> None:
        self._node = node

    def connectionless(self) -> bool:
        """The first thing that is done is to publish, whether anybody listens or not."""
        with ipcd_client.topic(_name("topic"), node=self._node) as topic:
            topic.publish(b"x", wait=0)
            return True

    def reliable(self) -> bool:
        """Whoever is slow misses some, and is told how many."""
        with (
            ipcd_client.topic(_name("topic"), node=self._node) as topic,
            topic.subscribe(most=5, prefetch=1) as listener,
        ):
            for number in range(50):
                topic.publish(b"%d" % number, wait=0)
            texts = [listener.receive(_LONG).data for _ in range(5)]
            assert texts != [b"%d" % number for number in range(5)] or listener.missed
            return not listener.missed

    def flow_control(self) -> bool:
        """A publisher waits for a subscriber that has it wait."""
        with (
            ipcd_client.topic(_name("topic"), node=self._node) as topic,
            topic.subscribe(policy="block", most=5, prefetch=1),
        ):
            try:
                for _ in range(50):
                    topic.publish(b"x", wait=0)
            except Full:
                return True
            return False

    def records(self) -> bool:
        with ipcd_client.topic(_name("topic"), node=self._node) as topic, topic.subscribe() as listener:
            topic.publish(b"one", wait=0)
            topic.publish(b"two", wait=0)
            return bool(listener.receive(_LONG).data == b"one")

    def priorities(self) -> bool:
        """`publish` takes none: what went in first comes out first."""
        with ipcd_client.topic(_name("topic"), node=self._node) as topic, topic.subscribe() as listener:
            topic.publish(b"low", wait=0)
            topic.publish(b"high", wait=0)
            return bool(listener.receive(_LONG).data == b"high")


class Value:
    """`ipcd_client.value`."""

    def __init__(self, node: str) -> None:
        self._node = node

    def connectionless(self) -> bool:
        """The first thing that is done is to set it."""
        with ipcd_client.value(_name("value"), node=self._node) as value:
            return value.set(b"x") > 0

    def reliable(self) -> bool:
        """What is set is there, until something else is."""
        with ipcd_client.value(_name("value"), node=self._node) as value:
            value.set(b"x" * 100_000)
            return bytes(value.get().data) == b"x" * 100_000

    def flow_control(self) -> bool:
        """Nobody waits until others have seen it: the last one counts."""
        with ipcd_client.value(_name("value"), node=self._node) as value:
            for number in range(200):
                value.set(b"%d" % number)
            return bytes(value.get().data) != b"199"

    def records(self) -> bool:
        """It is seen whole, as it was set."""
        with ipcd_client.value(_name("value"), node=self._node) as value:
            value.set(b"one")
            value.set(b"two")
            return bytes(value.get().data) == b"two"

    def priorities(self) -> bool:
        """There is one at a time."""
        with ipcd_client.value(_name("value"), node=self._node) as value:
            value.set(b"high")
            value.set(b"low")
            return bytes(value.get().data) == b"high"
