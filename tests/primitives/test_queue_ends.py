"""Queues when somebody dies, a daemon is started again, or nodes do not see each other; and who may do what."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import pytest
from integration.daemons import LONG, Daemon, Daemons, eventually
from integration.gateway import address_of
from integration.ipcctl.runs import ctl
from ipcd_client.errors import NotAllowed
from ipcd_client.pb.ipcd.v1 import queue_pb2, queue_pb2_grpc
from ipcd_client.primitives.errors import Ambiguous, BadRequest, Empty, Lost, NoSuchName
from ipcd_client.primitives.queue import Queue
from ipcd_client.rpc.failure import CallFailed
from primitives.queue_faces import FACES, Face
from primitives.roads import Cluster, Road

PROGRAM = str(Path(__file__).with_name("queue_program.py"))


@contextlib.contextmanager
def running(socket: str, name: str, what: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """queue_program.py, killed at the end."""
    with subprocess.Popen(
        [sys.executable, PROGRAM, socket, name, what, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> list[str]:
    """The next line of a program."""
    assert process.stdout is not None
    return process.stdout.readline().split()


@contextlib.contextmanager
def queue(name: str, node: Daemon, **keywords: Any) -> Iterator[Queue]:
    with ipcd_client.queue(name, node=node.socket, **keywords) as made:
        yield made


@pytest.fixture
def near(road: Road) -> Road:
    """The roads of a program that uses the SDK without a channel of its own."""
    if road.kind == "gateway":
        pytest.skip("the caller is the gateway there, whose end is that of its node")
    return road


def test_a_receiver_is_killed(near: Road) -> None:
    name = near.name("q")
    with queue(name, near.front, create=True) as ours:
        ours.send(b"1")
        with running(near.front.socket, name, "hold", "0.2") as process:
            assert said(process) == ["held", "1"]
            process.kill()
        with ours.receive(timeout=LONG, ack=False) as again:
            assert again.deliveries == 2
        # One that waits takes nothing any more.
        with running(near.front.socket, name, "receive") as process:
            eventually(lambda: ours.stat().receivers, "it waits")
            process.kill()
            eventually(lambda: not ours.stat().receivers, "it does not wait any more")
        ours.send(b"2")
        assert ours.receive(timeout=0).data == b"2"
        # Nor one that is stopped when it is killed.
        with running(near.front.socket, name, "receive") as process:
            eventually(lambda: ours.stat().receivers, "it waits")
            process.send_signal(signal.SIGSTOP)
            process.kill()
            eventually(lambda: not ours.stat().receivers, "it does not wait any more")


def test_a_sender_is_killed(near: Road) -> None:
    name = near.name("q")
    with queue(name, near.front, max_messages=1) as ours:
        ours.create()
        with running(near.front.socket, name, "send", "survives") as process:
            assert said(process)[0] == "sent"
            assert process.wait(LONG) == 0
        with running(near.front.socket, name, "send", "waits") as process:
            eventually(lambda: ours.stat().senders, "it waits")
            process.kill()
            eventually(lambda: not ours.stat().senders, "it does not wait any more")
        assert ours.receive().data == b"survives"
        assert ours.stat().ready == 0


def test_the_gateway_of_a_waiting_caller_is_killed(nodes: Daemons) -> None:
    back = nodes.run("b")
    front = nodes.run("a", "--peer", back.listen, "--grpc-listen", "127.0.0.1:0")
    front.logged("node linked", "b")
    with (
        queue("q@b", back, create=True) as ours,
        grpc.insecure_channel(address_of(front), [("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):
        ours.create()
        stub: Any = queue_pb2_grpc.QueueStub(channel)
        waiting = stub.Receive.future(queue_pb2.QueueReceiveRequest(name="q@b"))
        eventually(lambda: ours.stat().receivers, "one waits")
        # A cancelled call waits no more, either.
        waiting.cancel()
        eventually(lambda: not ours.stat().receivers, "it does not wait any more")
        waiting = stub.Receive.future(queue_pb2.QueueReceiveRequest(name="q@b"))
        eventually(lambda: ours.stat().receivers, "one waits")
        front.kill()
        assert waiting.exception(LONG).code() is grpc.StatusCode.UNAVAILABLE
        eventually(lambda: not ours.stat().receivers, "it does not wait any more")
        ours.send(b"x")
        assert ours.stat().ready == 1


def restarted(nodes: Daemons, daemon: Daemon, *arguments: str) -> Daemon:
    """The same, after SIGKILL."""
    daemon.kill()
    return nodes.run(daemon.node, *arguments)


def test_a_daemon_is_started_again(nodes: Daemons) -> None:
    state = ("--state-dir", str(nodes.folder / "state"))
    a = nodes.run("a", *state)
    keywords = {"deliveries": 3, "dead_letters": "dead", "durable": True}
    with (
        queue("durable", a, create=True, **keywords) as durable,
        queue("memory", a, create=True, max_messages=7) as memory,
        queue("memory", a) as bare,
    ):
        memory.send(b"lost")
        durable.send_many([b"%d" % number for number in range(5)])
        durable.send(b"urgent", 9, type=4)
        durable.send(b"later", delay=1000)
        held, back = durable.receive_many(2, ack=False, lease=1000)
        back.nack()
        done = durable.receive(ack=False)
        assert (held.data, back.data, done.data) == (b"urgent", b"0", b"0")
        done.ack()
        made = [name["created"] for name in _names(a)]
        # A commit after these: what nobody waited for is on the disk, too.
        durable.send(b"5")
        with running(a.socket, "durable", "receive") as process:
            assert said(process) == ["received", "b'1'"]
        with running(a.socket, "memory", "hold", "100") as waiting:
            assert said(waiting) == ["held", "1"]
            a = restarted(nodes, a, *state)
            assert [name["name"] for name in _names(a)] == ["dead", "durable"]
            assert [name["created"] for name in _names(a)] == pytest.approx(made[:2], abs=1)
            stat = durable.stat()
            assert (stat.ready, stat.delayed, stat.held) == (4, 1, 1)
            assert (stat.durable, stat.deliveries, stat.dead_letters) == (True, 3, "dead")
            held.ack()
            with pytest.raises(Lost):
                held.extend()
            assert [message.data for message in durable.receive_many(9)] == [b"2", b"3", b"4", b"5"]
            with pytest.raises(NoSuchName):
                bare.send(b"")
            memory.send(b"new")
            assert memory.stat().max_messages == 7
            assert bare.receive(timeout=0).data == b"new"
        durable.remove()
        a = restarted(nodes, a, *state)
        assert [name["name"] for name in _names(a)] == ["dead"]


def _names(node: Daemon) -> list[dict[str, Any]]:
    from ipcd_client.pb.ipcd.v1 import names_pb2, names_pb2_grpc

    with ipcd_client.channel("ipcd-node:", node=node.socket) as channel:
        stub: Any = names_pb2_grpc.NamesStub(channel)
        return [
            {"name": name.name, "created": name.created}
            for name in stub.List(names_pb2.ListNamesRequest(kind="queue"), timeout=LONG).names
        ]


def test_what_waits_when_the_daemon_dies(nodes: Daemons) -> None:
    a = nodes.run("a")
    with queue("q", a, create=True) as ours:
        ours.create()
        with ours.notify() as told:
            a.kill()
            with pytest.raises(CallFailed) as caught:
                told.wait(LONG)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(CallFailed):
            ours.send(b"")
        a = nodes.run("a")
        ours.send(b"")
        assert a.stop() == 0


@pytest.mark.parametrize("kind", FACES)
def test_no_answer_is_not_the_answer_no(kind: str, nodes: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hears nothing of what it asked for cannot be told that nothing was done."""
    a = nodes.run("a")
    with contextlib.closing(Face(kind, Road("here", Cluster(a, a), "t"))) as face:
        queue = face.queue("q", create=True)
        queue.send_many([b"1", b"2"])
        held = queue.receive(ack=False)
        acts: list[Callable[[], Any]] = [
            queue.create,
            lambda: queue.send(b"", timeout=0),
            lambda: queue.receive(timeout=0),
            queue.peek,
            queue.purge,
            queue.stat,
            queue.remove,
            held.ack,
            held.nack,
        ]
        a.process.send_signal(signal.SIGSTOP)
        for module in ("queue", "loop_queue"):
            monkeypatch.setattr(f"ipcd_client.primitives.{module}.deadline_of", lambda _wait: 0.1)
        for act in acts:
            with pytest.raises(CallFailed, match="it may have been done or not") as caught:
                act()
            assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        a.process.send_signal(signal.SIGCONT)


def test_durable_without_a_disk_or_with_a_broken_one(nodes: Daemons) -> None:
    with queue("q", nodes.run("a"), durable=True) as ours, pytest.raises(BadRequest, match="--state-dir"):
        ours.create()
    folder = nodes.folder / "state"
    folder.mkdir()
    (folder / "queues.db").write_bytes(b"no database" * 1000)
    b = nodes.run("b", "--state-dir", str(folder))
    b.logged("there are no durable queues")
    with queue("q", b, durable=True) as ours, pytest.raises(BadRequest, match="file is not a database"):
        ours.create()
    with queue("q", b, create=True) as ours:
        ours.send(b"")


def test_what_the_disk_does_not_take_is_delivered_all_the_same(nodes: Daemons) -> None:
    daemon = nodes.run("a", "--state-dir", str(nodes.folder / "state"))
    written = nodes.folder / "state" / "queues.db-wal"
    with (
        queue("q", daemon, create=True, durable=True) as ours,
        ipcd_client.channel("ipcd://a", node=daemon.socket) as channel,
    ):
        ours.send(bytes(100_000))
        stub: Any = queue_pb2_grpc.QueueStub(channel)
        taken = queue_pb2.QueueReceiveRequest(name="q", take=queue_pb2.QUEUE_TAKE_NOW, wait=0)
        room, most = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (written.stat().st_size, most))
        assert [len(message.data) for message in stub.Receive(taken, timeout=LONG).messages] == [100_000]
        # Nothing more is given out while it is known that the disk takes nothing.
        with pytest.raises(grpc.RpcError, match=r"queues\.db"):
            stub.Receive(taken, timeout=LONG)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (room, most))

        def well() -> bool:
            try:
                ours.receive(timeout=0)
            except Empty:
                return True
            except CallFailed:
                return False
            raise AssertionError("it came again")

        eventually(well, "the disk has caught up")
    daemon = restarted(nodes, daemon, "--state-dir", str(nodes.folder / "state"))
    with queue("q", daemon) as ours:
        assert not len(ours.stat())


def test_who_is_told_need_not_keep_the_handle(nodes: Daemons) -> None:
    daemon = nodes.run("a")
    with (
        ipcd_client.queue("q", node=daemon.socket, create=True).notify() as told,
        queue("q", daemon) as ours,
    ):
        ours.send(b"")
        assert told.wait(LONG)


def test_a_name_on_both_sides_of_a_partition(nodes: Daemons) -> None:
    b = nodes.run("b")
    with queue("q", b, create=True) as there:
        there.send(b"b")
        a = nodes.run("a")
        with queue("q", a, create=True) as here, queue("q", a) as found:
            here.send(b"a")
            assert found.peek()[0].data == b"a"
            a.kill()
            a = nodes.run("a", "--peer", b.listen)
            a.logged("node linked", "b")
            # While it was away its queue ended with it; who made it finds b's now, or makes one of node a.
            with queue("q@a", a, create=True) as own:
                own.send(b"a")
            with queue("q", a) as plain, pytest.raises(Ambiguous, match="several of the name: queues q@a and q@b"):
                plain.send(b"")
            eventually(lambda: len(_names(b)) == 2, "both nodes know both")
            for node in (a, b):
                rows = ctl("queue", "ls", "-o", "json", node=node).json
                assert [(row["queue"], row["node"], row["ready"]) for row in rows] == [("q", "a", 1), ("q", "b", 1)]
            with queue("q@b", a) as far:
                assert far.receive().data == b"b"
            # The handle that has used its queue stays with that node.
            assert here.receive(timeout=0).data == b"a"


def test_a_handle_finds_what_is_made_elsewhere_later(cluster: Cluster) -> None:
    with queue("later", cluster.front) as here, queue("later@b", cluster.front, create=True) as there:
        with pytest.raises(NoSuchName):
            here.receive(timeout=0)
        there.send(b"1")
        eventually(lambda: len([1 for name in _names(cluster.front) if name["name"] == "later"]), "the name is known")
        assert here.receive().data == b"1"
        there.remove()
        with ipcd_client.channel("ipcd://b", node=cluster.front.socket) as channel:
            stub: Any = queue_pb2_grpc.QueueStub(channel)
            with pytest.raises(grpc.RpcError, match="elsewhere: c"):
                stub.Stat(queue_pb2.QueueStatRequest(name="later@c"), timeout=LONG)


def test_rules(nodes: Daemons) -> None:
    us = f"node/a/uid/{os.getuid()}"
    file = nodes.folder / "a.toml"
    file.write_text(
        "".join(
            f'[[rules]]\neffect = "deny"\nwho = "{us}"\nmay = "{verb}"\nwhat = "queue:no.{verb}"\n'
            for verb in ("register", "publish", "read")
        )
    )
    a = nodes.run("a", "--config", str(file))
    for verb in ("publish", "read"):
        with queue(f"no.{verb}", a, create=True) as ours:
            ours.create()
    refused: list[tuple[str, Callable[[Queue], Any]]] = [
        ("register", lambda ours: ours.create()),
        ("publish", lambda ours: ours.send(b"")),
        *(("read", act) for act in (lambda ours: ours.receive(), lambda ours: ours.peek(), lambda ours: ours.purge())),
        *(("read", act) for act in (lambda ours: ours.stat(), lambda ours: ours.notify())),
    ]
    for verb, act in refused:
        with (
            queue(f"no.{verb}", a) as ours,
            pytest.raises(NotAllowed, match=f"may not {verb} queue:no.{verb} on node a"),
        ):
            act(ours)
    with ipcd_client.channel("ipcd://a", node=a.socket) as channel:
        stub: Any = queue_pb2_grpc.QueueStub(channel)
        for name, shown in (("no.publish", True), ("no.read", False)):
            reply = stub.Create(queue_pb2.QueueCreateRequest(name=name), timeout=LONG)
            assert (reply.made, reply.HasField("stat")) == (False, shown)
    with queue("other", a, deliveries=1, dead_letters="no.publish") as ours, pytest.raises(NotAllowed):
        ours.create()
    rows = ctl("queue", "ls", "-o", "json", node=a).json
    assert [(row["queue"], bool(row["error"])) for row in rows] == [("no.publish", False), ("no.read", True)]


def test_a_forked_child_uses_the_handle(cluster: Cluster) -> None:
    code = """
import os, sys, ipcd_client
queue = ipcd_client.queue(sys.argv[2], node=sys.argv[1], create=True)
queue.send(b"parent")
pid = os.fork()
if not pid:
    queue.send(b"child")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print([queue.receive(timeout=0).data for _ in range(2)])
queue.close()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, cluster.front.socket, "forked"],
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert (done.stdout, done.returncode) == ("[b'parent', b'child']\n", 0), done.stderr
