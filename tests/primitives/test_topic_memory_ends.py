"""Large messages where something is short, ends, or is not to have them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from typing import Any
from zlib import crc32

import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import LONG, Daemons, eventually
from ipcd_client.node import attach
from ipcd_client.pb.ipcd.v1 import topic_pb2, topic_pb2_grpc
from ipcd_client.primitives import topic_memory
from ipcd_client.primitives.errors import TimedOut
from ipcd_client.primitives.place import Place
from ipcd_client.rpc.failure import CallFailed
from primitives.memories import memories
from primitives.roads import Cluster
from primitives.topic_readers import asking, large, reader
from primitives.topics_at import FACES

from ipcd import limits


@pytest.mark.parametrize("face", FACES)
def test_a_process_without_descriptors_gets_bytes(cluster: Cluster, face: str) -> None:
    with (
        ipcd_client.topic("few", node=cluster.front.socket) as topic,
        topic.subscribe() as other,
        reader(cluster.front, "few", face) as one,
    ):
        topic.publish(large(0))
        assert one.receive(1)["types"] == ["memoryview"]
        for more, kind in ((0, "bytes"), (1, "bytes"), (20, "memoryview")):
            one.tell(f"few {more}")
            topic.publish(large(more))
            given = one.receive(1)
            assert given["types"] == [kind]
            assert given["sums"] == [crc32(large(more))]
            assert given["missed"] == [0]
        assert [other.receive(LONG).missed for _ in range(4)] == [0] * 4


def test_a_process_that_keeps_many_gets_bytes(cluster: Cluster) -> None:
    with (
        ipcd_client.topic("keeps", node=cluster.front.socket) as topic,
        topic.subscribe() as first,
        reader(cluster.front, "keeps") as second,
    ):
        kept = []
        for number in range(topic_memory.MOST + 2):
            topic.publish(large(number))
            kept.append(first.receive(LONG).data)
            assert kept[-1] == large(number)
            second.receive(1)
        assert [type(data) for data in kept] == [memoryview] * topic_memory.MOST + [bytes] * 2
        kept.clear()
        topic.publish(large(0))
        assert isinstance(first.receive(LONG).data, memoryview)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_node_without_descriptors_sends_bytes(nodes: Daemons, when: str) -> None:
    """Before it has made the memory, or after that."""
    node = nodes.run()
    with (
        ipcd_client.topic("poor", node=node.socket) as topic,
        topic.subscribe() as first,
        topic.subscribe() as second,
    ):
        topic.publish(large(0))
        assert [isinstance(one.receive(LONG).data, memoryview) for one in (first, second)] == [True] * 2
        eventually(lambda: not memories(node), "the memory is given back")
        if when == "after":
            topic.publish(large(1))
            eventually(lambda: memories(node), "there is memory")
        soft, hard = resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (1, hard))
        if when == "before":
            topic.publish(large(1))
        given = [one.receive(LONG) for one in (first, second)]
        assert [(type(one.data), one.missed, one.data == large(1)) for one in given] == [(bytes, 0, True)] * 2
        resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        topic.publish(large(2))
        assert [isinstance(one.receive(LONG).data, memoryview) for one in (first, second)] == [True] * 2


@pytest.mark.parametrize("face", FACES)
def test_a_reader_is_killed_before_it_has_mapped(cluster: Cluster, face: str) -> None:
    node = cluster.front
    with (
        ipcd_client.topic("killed", node=node.socket) as topic,
        topic.subscribe() as other,
        reader(node, "killed", face) as one,
    ):
        topic.publish(large(1))
        assert other.receive(LONG).data == large(1)
        assert memories(node)
        one.process.kill()
        eventually(lambda: not memories(node), "the memory is given back")


def listens_again(one: Any) -> bool:
    try:
        one.receive(0.05)
    except CallFailed:
        return False
    except TimedOut:
        return bool(one.gap)
    raise AssertionError("nothing was published")


def test_the_daemon_is_killed_while_references_are_under_way(nodes: Daemons) -> None:
    node = nodes.run()
    with (
        ipcd_client.topic("restart", node=node.socket) as topic,
        topic.subscribe() as first,
        topic.subscribe() as second,
    ):
        topic.publish(large(1))
        assert first.receive(LONG).data == large(1)
        node.kill()
        node = nodes.run()
        # What was under way is lost with the daemon, and nobody waits for it.
        eventually(lambda: listens_again(first), "it listens again")
        eventually(lambda: listens_again(second), "it listens again")
        assert second.missed == 1
        topic.publish(large(2))
        message = second.receive(LONG)
        assert (message.data == large(2), message.gap, type(message.data)) == (True, True, memoryview)
        assert message.missed == 1
        assert first.receive(LONG).data == large(2)


def test_a_child_of_a_fork(cluster: Cluster) -> None:
    code = f"""
import os, ipcd_client
topic = ipcd_client.topic("child", node={cluster.front.socket!r})
first, second = topic.subscribe(), topic.subscribe()
topic.publish(b"a" * {limits.TOPIC_MEMORY})
message = first.receive(10)
pid = os.fork()
if not pid:
    assert message.data[:3] == b"aaa"
    with topic.subscribe() as own:
        topic.publish(b"b" * {limits.TOPIC_MEMORY})
        print(type(message.data), type(own.receive(10).data), flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print([bytes(second.receive(10).data[:1]) for _ in range(2)])
first.close(), second.close(), topic.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG, check=False)
    assert done.stdout == "<class 'memoryview'> <class 'memoryview'>\n[b'a', b'b']\n", done.stderr


STRANGER = """
import sys, time
from ipcd_client.node import attach
from ipcd_client.pb.ipcd.v1 import topic_pb2, topic_pb2_grpc
from ipcd_client.primitives.place import Place
from ipcd_client.primitives import topic_memory
_, socket, name, id_ = sys.argv
request = topic_pb2.TopicMemoryRequest(name=name, memory=bytes.fromhex(id_))
attachment = attach.shared(socket)
try:
    attach.call(attachment.connection(), topic_memory.MAP, request, topic_pb2.TopicMapReply, time.monotonic() + 10)
except Exception as error:
    print(error)
place = Place("topic", name, socket)
try:
    place.run(topic_pb2_grpc.TopicStub, lambda stub: stub.Fetch(request, timeout=10))
except Exception as error:
    print(error)
place.close()
attachment.release()
"""


def test_only_those_who_were_given_it_may_map_it(cluster: Cluster) -> None:
    node, name = cluster.front, "own"
    place = Place("topic", name, node.socket)
    stub: Any = topic_pb2_grpc.TopicStub(place.channel())
    attachment = attach.shared(node.socket)

    def mapped(id_: bytes) -> tuple[topic_pb2.TopicMapReply, list[Any]]:
        request = topic_pb2.TopicMemoryRequest(name=name, memory=id_)
        end = time.monotonic() + LONG
        return attach.call(attachment.connection(), topic_memory.MAP, request, topic_pb2.TopicMapReply, end)

    subscribers = [stub.Subscribe(asking(name)) for _ in range(2)]
    try:
        assert not any(next(one).HasField("message") for one in subscribers)
        with ipcd_client.topic(name, node=node.socket) as topic:
            topic.publish(large(1))
        first, second = (next(one) for one in subscribers)
        assert (first.message.data, first.size) == (b"", limits.TOPIC_MEMORY)
        assert len(first.memory) == 16
        assert first.memory != second.memory
        done = subprocess.run(
            [sys.executable, "-c", STRANGER, node.socket, name, first.memory.hex()],
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )
        why = "the reference to a message's data is done with, or another's"
        assert done.stdout.splitlines() == [f"lost: {why}", why], done.stderr
        with pytest.raises(CallFailed, match="another's"):
            mapped(bytes(16))
        reply, (memory,) = mapped(first.memory)
        # What everybody reads nobody can change.
        with memory, pytest.raises(PermissionError):
            os.pwrite(memory.fileno(), b"x", 0)
        assert reply.size == limits.TOPIC_MEMORY
        fetch = topic_pb2.TopicMemoryRequest(name=name, memory=second.memory)
        assert stub.Fetch(fetch, timeout=LONG).data == large(1)
        for one in subscribers:
            one.cancel()
        eventually(lambda: not memories(node), "the memory is given back")
        with pytest.raises(CallFailed, match="done with"):
            mapped(first.memory)
    finally:
        for one in subscribers:
            one.cancel()
        attachment.release()
        place.close()
