"""Large messages of topics: one copy in memory for all who read them on a machine, and what becomes of them where that
cannot be."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import os
import subprocess
import sys
import time
from typing import Any
from zlib import crc32

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import LONG, Daemons, eventually
from integration.gateway import address_of
from ipcd_client.pb.ipcd.v1 import topic_pb2, topic_pb2_grpc
from ipcd_client.primitives import sealed
from ipcd_client.primitives.errors import Empty, Lost
from ipcd_client.primitives.place import Place
from ipcd_client.rpc.failure import CallFailed
from primitives.limited import limited
from primitives.memories import memories
from primitives.roads import Cluster
from primitives.test_topic import listed
from primitives.topic_readers import MOST, SMALL, asking, large, own_memory, reader

from ipcd import limits
from ipcd.primitives.topic_memory import Memories
from ipcd.quota import Quotas
from ipcd.state.subscription import Message


def test_there_is_one_copy_for_all_processes(cluster: Cluster) -> None:
    node, count = cluster.front, 24
    sums = [crc32(large(number, MOST)) for number in range(count)]
    with (
        reader(node, "one.copy") as first,
        reader(node, "one.>", "loop") as second,
        reader(node, "one.copy") as third,
        ipcd_client.topic("one.copy", node=node.socket) as topic,
    ):
        readers = (first, second, third)
        topic.publish(large(0, MOST))
        for each in readers:
            each.receive(1)
        given: list[dict[str, Any]] = []
        before = [own_memory(pid) for pid in (node.process.pid, *(each.process.pid for each in readers))]
        for number in range(1, count):
            topic.publish(large(number, MOST))
            given[:] = [each.receive(1) for each in readers]
            assert [one["sums"] for one in given] == [[sums[number]]] * 3
            assert [one["types"] for one in given] == [["memoryview"]] * 3
        # All have all of it mapped: the same.
        assert len(given[0]["inodes"]) == count
        assert given[0]["inodes"] == given[1]["inodes"] == given[2]["inodes"]
        # Nobody has a copy: of 46 MiB, 16 are far more than what else may come and go.
        after = [own_memory(pid) for pid in (node.process.pid, *(each.process.pid for each in readers))]
        assert all(now - then < 16 << 20 for then, now in zip(before, after, strict=True)), (before, after)
        # What all have the node needs no more.
        eventually(lambda: not memories(node), "the memory is given back")


def test_what_is_read_stays(nodes: Daemons) -> None:
    node = nodes.run()
    with (
        ipcd_client.topic("stays", node=node.socket) as topic,
        topic.subscribe() as first,
        topic.subscribe(policy="block") as second,
    ):
        topic.publish(large(7))
        message = first.receive(LONG)
        also = second.receive(LONG)
    node.kill()
    for one in (message, also):
        assert isinstance(one.data, memoryview)
        assert one.data.readonly
        assert one.data == large(7)
        # As numpy.frombuffer does.
        with one.data.cast("Q") as numbers:
            assert len(numbers) == limits.TOPIC_MEMORY // 8
        with pytest.raises(TypeError):
            one.data[0] = 1


def test_on_a_loop(cluster: Cluster) -> None:
    async def run() -> list[Any]:
        topic = ipcd_client.aio.topic("on.loop", node=cluster.front.socket)
        async with topic, await topic.subscribe() as first, await topic.subscribe() as second:
            waiting = asyncio.create_task(first.receive())
            await topic.publish(large(1))
            given = [await waiting, await second.receive(LONG)]
            # A task that gives up takes nothing, wherever it is.
            for number in range(20):
                await topic.publish(large(number))
                task = asyncio.create_task(first.receive())
                for _ in range(number):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    one = await task
                except asyncio.CancelledError:
                    one = await first.receive(LONG)
                assert one.data == large(number)
                assert (await second.receive(LONG)).data == large(number)
            return given

    assert [(type(one.data), one.data == large(1)) for one in asyncio.run(run())] == [(memoryview, True)] * 2


def test_where_it_does_not_pay(cluster: Cluster) -> None:
    socket = cluster.front.socket
    with ipcd_client.topic("pays", node=socket) as topic, topic.subscribe() as first:
        # For one.
        topic.publish(large(1))
        assert first.receive(LONG).data == large(1)
        assert not memories(cluster.front)
        with topic.subscribe() as second:
            topic.publish(SMALL, retain=True)
            assert [type(one.receive(LONG).data) for one in (first, second)] == [bytes, bytes]
            # What was kept.
            topic.publish(large(2), retain=True)
            assert [type(one.receive(LONG).data) for one in (first, second)] == [memoryview] * 2
            with topic.subscribe(replay=1) as third:
                assert third.receive(LONG).data == large(2)


def test_those_who_cannot_map_get_bytes(cluster: Cluster) -> None:
    front, back = cluster
    with grpc.insecure_channel(address_of(front)) as channel:
        stub: Any = topic_pb2_grpc.TopicStub(channel)
        map_: Any = topic_pb2_grpc.TopicMemoryStub(channel).Map
        with pytest.raises(grpc.RpcError, match=r"UNAVAILABLE|UNIMPLEMENTED"):
            map_(topic_pb2.TopicMemoryRequest(name="both", memory=bytes(16)), timeout=LONG)
        # Whatever a client of plain gRPC says.
        plain = stub.Subscribe(iter([topic_pb2.TopicSubscribeRequest(name="both", maps=True)]), timeout=LONG)
        assert not next(plain).HasField("message")
        with (
            ipcd_client.topic("both", node=front.socket) as here,
            ipcd_client.topic("both", node=back.socket) as there,
            ipcd_client.topic("both@a", node=back.socket) as afar,
            here.subscribe() as first,
            here.subscribe() as second,
            there.subscribe() as third,
            there.subscribe() as fourth,
            afar.subscribe() as fifth,
            ipcd_client.topic("both", channel=channel).subscribe() as sixth,
        ):
            here.publish(large(3))
            given = [one.receive(LONG).data for one in (first, second, third, fourth, fifth, sixth)]
            assert given == [large(3)] * 6
            # On each node those who are on it.
            assert [type(data) for data in given] == [memoryview] * 4 + [bytes] * 2
            told = next(plain)
            assert (told.message.data, told.memory) == (large(3), b"")
        plain.cancel()


def test_most_of_it_at_one_time(cluster: Cluster) -> None:
    node = cluster.front
    each = limits.TOPIC_WAITING_BYTES // limits.TOPIC_MEMORY  # that may wait for one
    subjects = [f"most.{number}" for number in range(limits.TOPIC_MEMORIES // each + 1)]
    with contextlib.ExitStack() as stack:
        topics = [stack.enter_context(ipcd_client.topic(subject, node=node.socket)) for subject in subjects]
        slow = [stack.enter_context(topic.subscribe()) for topic in topics]
        everything = stack.enter_context(ipcd_client.topic("most.>", node=node.socket))
        fast = stack.enter_context(everything.subscribe())
        count = 0
        for topic in topics:
            for _ in range(each):
                topic.publish(large(count))
                data = fast.receive(LONG).data
                assert data == large(count)
                assert isinstance(data, memoryview if count < limits.TOPIC_MEMORIES else bytes)
                count += 1
        assert count > limits.TOPIC_MEMORIES
        # A descriptor that is handed over is one more for a moment.
        eventually(lambda: memories(node) == limits.TOPIC_MEMORIES, "there is as much memory as there may be")
        numbers = iter(range(count))
        for one in slow:
            for _ in range(each):
                message = one.receive(LONG)
                assert message.data == large(next(numbers))
                assert not message.missed
        eventually(lambda: not memories(node), "the memory is given back")
        # There is room again.
        topics[0].publish(large(0))
        assert isinstance(fast.receive(LONG).data, memoryview)


def test_one_who_does_not_read_is_told_what_it_missed(cluster: Cluster) -> None:
    with (
        ipcd_client.topic("slow", node=cluster.front.socket) as topic,
        topic.subscribe() as fast,
        topic.subscribe() as slow,
        topic.subscribe(policy="latest") as last,
    ):
        count = 3 * limits.TOPIC_WAITING_BYTES // MOST
        for number in range(count):
            topic.publish(large(number, MOST))
            assert fast.receive(LONG).data == large(number, MOST)
        for one, fewest in ((slow, limits.TOPIC_WAITING_BYTES // MOST), (last, 1)):
            came = missed = 0
            with contextlib.suppress(Empty):
                while True:
                    message = one.receive(0)
                    missed += message.missed
                    assert message.data == large(came + missed, MOST)
                    came += 1
            assert (came + missed, one.missed, one.gap) == (count, missed, False)
            assert fewest <= came <= fewest + limits.TOPIC_REFERENCES
        # What it has missed nobody keeps.
        eventually(lambda: not memories(cluster.front), "the memory is given back")


def test_one_who_comes_late_gets_bytes(nodes: Daemons) -> None:
    node = nodes.run(launcher=limited(TOPIC_MEMORY_LATE=0.3))
    with (
        ipcd_client.topic("late", node=node.socket) as topic,
        topic.subscribe() as first,
        topic.subscribe() as second,
    ):
        for number in range(4):
            topic.publish(large(number))
            assert first.receive(LONG).data == large(number)
        eventually(lambda: not memories(node), "the memory is given back")
        # Two references are under way to it, two messages wait.
        messages = [second.receive(LONG) for _ in range(4)]
        assert [(type(one.data), one.missed) for one in messages] == [(bytes, 0)] * 4
        assert [one.data for one in messages] == [large(number) for number in range(4)]


@pytest.mark.parametrize("how", ["--raw", "-ojson", ""])
def test_ipcctl(cluster: Cluster, how: str) -> None:
    node = cluster.front
    command = [sys.executable, "-m", "ipcd_client.cli", "-s", node.socket, "topic", "sub", "shown", "-n", "1"]
    with (
        ipcd_client.topic("shown", node=node.socket) as topic,
        topic.subscribe() as other,
        subprocess.Popen([*command, *([how] if how else [])], stdout=subprocess.PIPE) as process,
    ):
        eventually(lambda: len(listed(node, "shown").subscriptions) == 2, "it listens")
        topic.publish(b"a" * limits.TOPIC_MEMORY)
        assert isinstance(other.receive(LONG).data, memoryview)
        out, _ = process.communicate(timeout=LONG)
    text = out.decode()
    if how == "-ojson":
        text = json.loads(text)["data"] + "\n"
    assert text.removeprefix("shown  ") == "a" * limits.TOPIC_MEMORY + "\n"


def test_what_a_reference_stands_for_counts(nodes: Daemons) -> None:
    """Also once its memory has been given back: for as long as it may be fetched."""
    most = 2 * limits.TOPIC_MEMORY + 1024
    node = nodes.run(launcher=limited(TOPIC_MEMORY_LATE=0.1, TOPIC_BYTES=most))
    place = Place("topic", "x", node.socket)
    stub: Any = topic_pb2_grpc.TopicStub(place.channel())
    calls: list[list[Any]] = []
    memory = b""
    try:
        with contextlib.ExitStack() as stack:
            topics = [stack.enter_context(ipcd_client.topic(f"x.{each}", node=node.socket)) for each in range(3)]
            for number, topic in enumerate(topics[:2]):
                # They use none of what they are sent.
                both = [stub.Subscribe(asking(f"x.{number}")) for _ in range(2)]
                calls.append(both)
                assert not any(next(one).HasField("message") for one in both)
                topic.publish(large(number))
                # The one that comes first is sent a reference.
                memory = next(one.memory for one in [next(one) for one in both] if one.memory)
            eventually(lambda: not memories(node), "the memory is given back")
            with pytest.raises(CallFailed, match=f"the limit of {most} bytes of messages that wait"):
                topics[2].publish(large(2))
            fetch = topic_pb2.TopicMemoryRequest(name="x.1", memory=memory)
            assert stub.Fetch(fetch, timeout=LONG).data == large(1)
            for one in calls[0]:
                one.cancel()

            def published() -> bool:
                with contextlib.suppress(CallFailed):
                    topics[2].publish(large(2))
                    return True
                return False

            eventually(published, "what nobody can ask for any more does not count")
    finally:
        for one in itertools.chain(*calls):
            one.cancel()
        place.close()


def message(size: int) -> Message:
    """One that two subscribers can map, of whom one waits for it."""
    return Message("s", bytes(size), "a", 1, 0.0, readers=2, holders=1)


@pytest.mark.parametrize("step", ["make", "write"])
def test_a_node_without_memory(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def none(*_: Any) -> Any:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    async def run() -> None:
        poor = Memories(Quotas(time.monotonic), late=LONG)
        with monkeypatch.context() as patched:
            patched.setattr(sealed, step, none)
            assert poor.refer(message(MOST), ()) is None
        assert (poor.count, poor.bytes) == (0, 0)
        assert poor.refer(message(MOST), ()) is not None
        poor.close()

    asyncio.run(run())


def test_what_the_node_counts() -> None:
    """Without any process: the bounds in bytes, and those who take the last descriptors."""

    async def run() -> None:
        memories_ = Memories(Quotas(time.monotonic), late=LONG)
        count = limits.TOPIC_MEMORIES_BYTES // MOST
        references = [memories_.refer(message(MOST), ()) for _ in range(count)]
        assert all(references)
        assert memories_.bytes == limits.TOPIC_MEMORIES_BYTES
        assert memories_.refer(message(limits.TOPIC_MEMORY), ()) is None
        for one in references:
            assert one is not None
            memories_.done(one)
            memories_.over(one.message)
        assert (memories_.count, memories_.bytes) == (0, 0)
        one = memories_.refer(message(MOST), ())
        assert one is not None
        with pytest.raises(Lost):
            memories_.find(one.id, (("process", "pid 1"),))  # type: ignore[arg-type]
        memories_.close()
        poor = Memories(Quotas(time.monotonic, descriptors=1), late=LONG)
        assert poor.refer(message(MOST), ()) is None
        assert (poor.count, poor.bytes) == (0, 0)

    asyncio.run(run())
