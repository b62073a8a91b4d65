"""Clients of a gateway, and the rules: those of the gateway's node, and those of the node that keeps a thing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import ipcd_client
import pytest
from integration.daemons import LONG, Daemons
from integration.gateway import LISTEN, address_of
from ipcd_client.errors import NotAllowed
from ipcd_client.pb.ipcd.v1 import lock_pb2, lock_pb2_grpc, queue_pb2, queue_pb2_grpc, signal_pb2, signal_pb2_grpc
from ipcd_client.primitives.errors import Empty
from ipcd_client.primitives.place import target_of
from primitives.roads import Cluster


def _denies(cluster: Daemons, node: str, **rules: str) -> tuple[str, ...]:
    """Arguments of a node that denies the clients of node a's gateway to do this with these queues."""
    file = cluster.folder / f"{node}.toml"
    file.write_text(
        "".join(
            f'[[rules]]\neffect = "deny"\nwho = "node/a/grpc"\nmay = "{verb}"\nwhat = "queue:{name}"\n'
            for verb, name in rules.items()
        )
    )
    return ("--config", str(file))


@pytest.fixture
def channel(nodes: Daemons) -> Iterator[grpc.Channel]:
    """To the gateway of a node with rules, linked with one that has others."""
    back = nodes.run("b", *_denies(nodes, "b", read="theirs", register="never"))
    front = nodes.run("a", *LISTEN, "--peer", back.listen, *_denies(nodes, "a", publish="ours"))
    front.logged("node linked", "b")
    with grpc.insecure_channel(address_of(front)) as channel:
        yield channel


def test_nothing_else_is_reached_through_a_name_that_is_allowed(channel: grpc.Channel) -> None:
    """The gateway's node knows of the name that a call begins with, and answers for no other."""
    queue = ipcd_client.queue("free@b", channel=channel, create=True, deliveries=1, dead_letters="ours")
    with queue, pytest.raises(NotAllowed, match="may not publish queue:ours on node a: it came through"):
        queue.create()
    with ipcd_client.semaphore("free@b", 1, channel=channel) as free:
        ipcd_client.semaphore("other@b", 1, channel=channel).make()
        free.make()
        with pytest.raises(NotAllowed, match="may not read semaphore:other"):
            free.operate([("free@b", -1), ("other@b", -1)])
        free.operate([("free@b", -1)])


def test_both_have_to_allow_it(channel: grpc.Channel) -> None:
    for node, why in (("a", "rule 1 denies it"), ("b", "the rules of that node, whose gateway")):
        with ipcd_client.queue(f"free@{node}", channel=channel, create=True) as queue:
            queue.send(b"x", timeout=0)
            assert queue.receive(timeout=0).data == b"x"
        with ipcd_client.queue(f"ours@{node}", channel=channel, create=True) as queue:
            with pytest.raises(NotAllowed, match=f"may not publish queue:ours on node a: {why}"):
                queue.send(b"x", timeout=0)
            queue.create()
            with pytest.raises(Empty):
                queue.receive(timeout=0)
    with ipcd_client.queue("theirs@b", channel=channel, create=True) as queue:
        queue.send(b"x", timeout=0)
        with pytest.raises(NotAllowed, match="may not read queue:theirs on node b"):
            queue.receive(timeout=0)
    never = ipcd_client.queue("never@b", channel=channel, create=True)
    with never, pytest.raises(NotAllowed, match="may not register queue:never on node b"):
        never.create()


def test_nobody_says_for_whom_the_gateway_calls(channel: grpc.Channel) -> None:
    """What the gateway tells the node that keeps a thing, its clients cannot tell in its place."""
    with ipcd_client.queue("theirs@b", channel=channel, create=True) as queue:
        queue.create()
    stub = queue_pb2_grpc.QueueStub(channel)
    told = [("ipcd-for", "spiffe://default/node/a/uid/0"), ("ipcd-about-bin", b"theirs")]
    for metadata in ([], told):
        with pytest.raises(grpc.RpcError) as caught:
            stub.Receive(queue_pb2.QueueReceiveRequest(name="theirs@b", wait=0), metadata=metadata, timeout=LONG)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("home", ["a", "b"])
def test_only_a_daemon_says_for_whom_it_calls(cluster: Cluster, home: str) -> None:
    """Else a process would be counted for its node, told to others as whomever it names, and not be known itself."""
    told = [("ipcd-for", f"spiffe://default/node/a/uid/{os.getuid() + 1}")]
    lock = lock_pb2.LockHoldRequest(name="lone")
    with ipcd_client.channel(target_of(home), node=cluster.front.socket) as channel:
        queues = queue_pb2_grpc.QueueStub(channel)
        locks, signals = lock_pb2_grpc.LockStub(channel), signal_pb2_grpc.SignalStub(channel)
        calls: list[Callable[..., Any]] = [
            lambda **more: queues.Create(queue_pb2.QueueCreateRequest(name="lone"), **more),
            lambda **more: list(locks.Hold(iter([lock]), **more)),
            lambda **more: signals.Raise(signal_pb2.RaiseRequest(name="lone"), **more),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as caught:
                call(metadata=told, timeout=LONG)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert "said for whom it calls (ipcd-for), which only a node's daemon may" in str(caught.value.details())
            call(timeout=LONG)
        queues.Remove(queue_pb2.QueueRemoveRequest(name="lone"), timeout=LONG)
        locks.Remove(lock_pb2.LockRemoveRequest(name="lone"), timeout=LONG)
