"""Topics when somebody dies, restarts or is cut off; rules; and `ipcctl topic`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import LONG, Daemon, Daemons, eventually
from integration.gateway import address_of
from integration.ipcctl.runs import ctl, running
from ipcd_client.errors import NotAllowed
from ipcd_client.pb.ipcd.v1 import topic_pb2, topic_pb2_grpc
from ipcd_client.primitives import waiting
from ipcd_client.primitives.errors import Empty
from ipcd_client.primitives.place import Place
from ipcd_client.rpc.failure import CallFailed
from primitives import hostile_daemon
from primitives.roads import Cluster
from primitives.test_topic import listed

PROGRAM = str(Path(__file__).with_name("topic_program.py"))


@contextlib.contextmanager
def program(what: str, node: Daemon, name: str, *rest: str) -> Iterator[subprocess.Popen[str]]:
    """topic_program.py, until its first line."""
    with subprocess.Popen(
        [sys.executable, PROGRAM, what, node.socket, name, *rest],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def linked(front: Daemon, back: Daemon) -> None:
    front.logged("node linked", back.node)
    back.logged("node linked", front.node)


# -- deaths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True], ids=["here", "there"])
def test_a_subscriber_that_blocks_is_killed(cluster: Cluster, there: bool) -> None:
    home = cluster.back if there else cluster.front
    name = f"killed.{there}"
    with (
        program("sub", home, name, "block") as process,
        ipcd_client.topic(name, node=cluster.front.socket) as topic,
        ipcd_client.topic(name, node=home.socket).subscribe() as other,
    ):
        given: list[int] = []

        def publish() -> None:
            for number in range(5):
                topic.publish(b"%d" % number)
                given.append(number)

        thread = threading.Thread(target=publish)
        thread.start()
        eventually(lambda: any(one.blocked for one in listed(home, name).subscriptions), "the publisher waits")
        assert len(given) < 5
        process.kill()
        thread.join(LONG)
        assert len(given) == 5
        assert [other.receive(LONG).data for _ in range(5)] == [b"%d" % number for number in range(5)]
        assert [one.pattern for one in listed(home, name).subscriptions] == [name]


def test_a_publisher_that_waits_is_killed(cluster: Cluster) -> None:
    with (
        ipcd_client.topic("waits", node=cluster.front.socket) as topic,
        topic.subscribe(policy="block", most=1, prefetch=1) as slow,
        program("pub", cluster.front, "waits") as one,
    ):
        eventually(lambda: listed(cluster.front, "waits").subscriptions[0].blocked, "it waits")
        one.kill()
        eventually(lambda: not listed(cluster.front, "waits").subscriptions[0].blocked, "nobody waits")
        # What it was about to publish, nobody gets.
        first, second = slow.receive(LONG), slow.receive(LONG)
        assert (first.data, second.data) == (b"0", b"1")
        with pytest.raises(Empty):
            slow.receive(0)
        assert slow.missed == 1


def test_the_daemon_is_killed_and_comes_back(nodes: Daemons) -> None:
    daemon = nodes.run("a")
    with ipcd_client.topic("a.b", node=daemon.socket) as topic, topic.subscribe() as messages:
        topic.publish(b"before", keep=1)
        assert messages.receive(LONG).data == b"before"
        daemon.kill()
        with pytest.raises(CallFailed):
            topic.publish(b"nobody")
        with pytest.raises(CallFailed):
            messages.receive(0.1)
        Path(daemon.socket).unlink(missing_ok=True)
        again = nodes.run("a")
        thread = threading.Thread(target=lambda: got.append(messages.receive(LONG)))
        got: list[Any] = []
        thread.start()
        eventually(lambda: listed(again).subscriptions, "it listens again")
        topic.publish(b"after")
        thread.join(LONG)
        assert (got[0].data, got[0].gap, messages.gap) == (b"after", True, True)
        # What was kept was the daemon's.
        assert topic.last() == []


def test_the_daemon_hangs_and_goes_on(nodes: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    node = nodes.run()

    async def run() -> None:
        async with ipcd_client.aio.topic("hangs", node=node.socket) as topic, await topic.subscribe() as messages:
            node.process.send_signal(signal.SIGSTOP)
            with monkeypatch.context() as patched:
                patched.setattr(waiting, "MARGIN", 0.1)
                with pytest.raises(CallFailed):
                    await messages.receive(0)
            node.process.send_signal(signal.SIGCONT)
            # The next who waits is told nothing of a call that is over.
            task = asyncio.create_task(messages.receive(LONG))
            while not task.done():
                await topic.publish(b"on")
                await asyncio.wait({task}, timeout=0.02)
            assert ((await task).data, messages.gap) == (b"on", True)

    asyncio.run(run())


def test_another_node_is_killed_and_comes_back(nodes: Daemons) -> None:
    back = nodes.run("b", "--listen", "127.0.0.1:0")
    front = nodes.run("a", "--peer", back.listen)
    linked(front, back)
    with (
        ipcd_client.topic("x", node=front.socket) as topic,
        topic.subscribe() as messages,
        ipcd_client.topic("x", node=back.socket) as there,
    ):
        there.publish(b"before")
        assert messages.receive(LONG).data == b"before"
        back.kill()
        Path(back.socket).unlink(missing_ok=True)
        back = nodes.run("b", "--listen", back.listen)
        # It has to hear first that somebody listens.
        eventually(lambda: there_publishes(back), "it wants to be heard")
        message = messages.receive(LONG)
        assert (message.data, message.gap) == (b"after", True)


def test_a_node_that_was_started_again_counts_anew(nodes: Daemons) -> None:
    """What it publishes then is no message that it kept before, though it has the same number."""
    back = nodes.run("b", "--listen", "127.0.0.1:0")
    front = nodes.run("a", "--peer", back.listen)
    linked(front, back)
    count = 500
    with ipcd_client.topic("x", node=back.socket) as there:
        last = [there.publish(b"before", keep=count).sequence for _ in range(count)][-1]
    with ipcd_client.topic("x", node=front.socket) as topic, topic.subscribe(replay=count) as messages:
        assert [messages.receive(LONG).sequence for _ in range(count)] == list(range(last - count + 1, last + 1))
        back.kill()
        Path(back.socket).unlink(missing_ok=True)
        back = nodes.run("b", "--listen", back.listen)
        # What is published before it hears of a does not come there.
        eventually(lambda: there_publishes(back), "it wants to be heard")
        message = messages.receive(LONG)
        assert (message.data, message.gap, message.replayed) == (b"after", True, False)
        assert message.sequence <= last


def test_a_node_is_told_of_more_than_fits_one_message(nodes: Daemons) -> None:
    """Nor is any of them wanted less once the two are linked again."""
    back = nodes.run("b", "--listen", "127.0.0.1:0")
    front = nodes.run("a", "--peer", back.listen)
    linked(front, back)
    with ipcd_client.topic("x", node=front.socket) as topic, contextlib.ExitStack() as stack:
        subjects = [f"many.{number}" for number in range(600)]
        handles = [stack.enter_context(ipcd_client.topic(subject, node=front.socket)) for subject in subjects]
        *_, last = [stack.enter_context(handle.subscribe()) for handle in handles]
        messages = stack.enter_context(topic.subscribe())
        back.kill()
        Path(back.socket).unlink(missing_ok=True)
        back = nodes.run("b", "--listen", back.listen)
        eventually(lambda: there_publishes(back), "it wants to be heard")
        assert messages.receive(LONG).data == b"after"
        # The first was in another piece than the last.
        for subject in (subjects[0], subjects[-1]):
            with ipcd_client.topic(subject, node=back.socket) as there:
                assert there.publish(b"heard").nodes == 1
        assert last.receive(LONG).data == b"heard"


def test_what_a_node_refuses_is_asked_anew_when_it_comes_back(nodes: Daemons) -> None:
    config = nodes.folder / "b.toml"
    config.write_text(f'[[rules]]\neffect = "deny"\nwho = "node/a/uid/{os.getuid()}"\nmay = "read"\nwhat = "topic:x"\n')
    back = nodes.run("b", "--listen", "127.0.0.1:0", "--config", str(config))
    front = nodes.run("a", "--peer", back.listen)
    linked(front, back)
    with ipcd_client.topic("x", node=front.socket) as topic, topic.subscribe() as messages:
        front.logged("a node refuses a topic", "may not read")
        back.kill()
        Path(back.socket).unlink(missing_ok=True)
        back = nodes.run("b", "--listen", back.listen)
        eventually(lambda: there_publishes(back), "it wants to be heard")
        assert messages.receive(LONG).data == b"after"


def test_what_is_kept_no_more_when_its_turn_comes_is_counted(cluster: Cluster) -> None:
    with ipcd_client.topic("replays.x", node=cluster.front.socket) as topic:
        for number in range(5):
            topic.publish(b"%d" % number, keep=5)
        with topic.subscribe(replay=5, prefetch=1) as messages:
            assert topic.forget() == 5
            topic.publish(b"new")
            first, new = messages.receive(LONG), messages.receive(LONG)
            assert (first.data, first.replayed) == (b"0", True)
            assert (new.data, new.replayed, new.missed) == (b"new", False, 4)


def there_publishes(back: Daemon) -> bool:
    with ipcd_client.topic("x", node=back.socket) as topic:
        return bool(topic.publish(b"after").nodes == 1)


def test_what_a_link_loses_is_counted(nodes: Daemons) -> None:
    back = nodes.run("b")
    front = nodes.run("a", "--peer", back.listen)
    linked(front, back)
    with (
        ipcd_client.topic("x.*", node=back.socket) as pattern,
        pattern.subscribe() as messages,
        ipcd_client.topic("x.y", node=front.socket) as topic,
    ):
        assert topic.publish(b"before").nodes == 1
        assert messages.receive(LONG).data == b"before"
        back.process.send_signal(signal.SIGSTOP)
        front.logged("node gone", "b")
        eventually(lambda: topic.publish(b"lost").nodes == 0, "the node is away")
        for _ in range(4):
            topic.publish(b"lost")
        published = listed(front).published
        back.process.send_signal(signal.SIGCONT)
        eventually(lambda: topic.publish(b"after").nodes == 1, "the node is back")
        published = listed(front).published
        came = 1
        while messages.receive(LONG).data != b"after":
            came += 1
        came += 1
        # Each was given, or counted.
        assert came + messages.missed == published
        assert messages.missed >= 4
        assert not messages.gap


def test_nodes_that_did_not_see_each_other(nodes: Daemons) -> None:
    back = nodes.run("b")
    front = nodes.run("a")
    for daemon in (front, back):
        with ipcd_client.topic("split", node=daemon.socket) as topic:
            topic.publish(daemon.node.encode(), retain=True)
            assert [message.data for message in topic.last()] == [daemon.node.encode()]
    front.stop()
    # What is kept is the daemon's: again at a.
    front = nodes.run("a", "--peer", back.listen)
    linked(front, back)
    with ipcd_client.topic("split", node=front.socket) as topic:
        topic.publish(b"a", retain=True)
        # Both are shown, and nothing is merged.
        assert [(message.node, message.data) for message in topic.last(0)] == [("b", b"b"), ("a", b"a")]
        done = ctl("topic", "ls", "-o", "json", node=front)
        assert [(one["subject"], one["node"]) for one in done.json["kept"]] == [("split", "a"), ("split", "b")]


def test_a_handle_after_a_fork(cluster: Cluster) -> None:
    code = f"""
import os, ipcd_client
from ipcd_client.primitives.errors import Lost
topic = ipcd_client.topic("forked", node={cluster.front.socket!r})
messages = topic.subscribe()
pid = os.fork()
if not pid:
    try:
        messages.receive(1)
    except Lost as error:
        topic.publish(str(error).encode())
    os._exit(0)
print(messages.receive(10).data.decode())
os.waitpid(pid, 0)
messages.close()
topic.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG, check=False)
    assert done.stdout == "the subscription was made before the fork, and is the parent's\n", done.stderr


# -- rules ----------------------------------------------------------------------------------------


def test_rules(nodes: Daemons) -> None:
    who = f"node/*/uid/{os.getuid()}"

    def deny(may: str, what: str) -> str:
        return f'[[rules]]\neffect = "deny"\nwho = "{who}"\nmay = "{may}"\nwhat = "{what}"\n'

    config = nodes.folder / "a.toml"
    config.write_text(
        deny("read", "topic:secret.*") + deny("publish", "topic:fixed.*") + deny("register", "topic:held")
    )
    back = nodes.run("b")
    front = nodes.run("a", "--config", str(config), "--peer", back.listen)
    linked(front, back)

    def topic(name: str, node: Daemon = front) -> Any:
        return ipcd_client.topic(name, node=node.socket)

    with pytest.raises(NotAllowed, match=r"may not read topic:secret\.x"):
        topic("secret.x").subscribe()
    with pytest.raises(NotAllowed, match=r"may not publish topic:fixed\.x"):
        topic("fixed.x").publish(b"")
    with pytest.raises(NotAllowed, match="may not register topic:held"):
        topic("held").forget()
    # A wildcard leads nobody around a rule, here or on another node.
    with topic(">").subscribe(replay=5) as here, topic(">", back).subscribe() as there:
        topic("secret.x").publish(b"secret", retain=True)
        topic("open.x").publish(b"open")
        for messages in (here, there):
            assert messages.receive(LONG).data == b"open"
        with topic(">").subscribe(replay=5) as late, pytest.raises(Empty):
            late.receive(0)
    # What a denies on its node, b's users do not get from there.
    with topic("secret.x", back).subscribe() as there:
        back.logged("a node refuses a topic", "secret.x")
        assert topic("secret.x").publish(b"secret").nodes == 0
        topic("secret.x", back).publish(b"not of a")
        assert there.receive(LONG).data == b"not of a"


@pytest.mark.parametrize("denied", ["grpc", f"uid/{os.getuid()}"], ids=["the client", "its daemon"])
def test_everybody_for_whom_it_is_has_to_be_let_by_other_nodes(nodes: Daemons, denied: str) -> None:
    who = f"node/a/{denied}"
    rules = nodes.folder / "b.toml"
    rules.write_text(
        "".join(
            f'[[rules]]\neffect = "deny"\nwho = "{who}"\nmay = "{may}"\nwhat = "topic:x"\n'
            for may in ("read", "register")
        )
    )
    back = nodes.run("b", "--config", str(rules))
    front = nodes.run("a", "--grpc-listen", "127.0.0.1:0", "--peer", back.listen)
    linked(front, back)
    with grpc.insecure_channel(address_of(front)) as channel:
        nobody_is_told(front, back, channel, who)


@pytest.mark.parametrize("denied", [7001, 7002], ids=["the first", "the second"])
def test_each_of_several_for_whom_it_is_has_to_be_let(nodes: Daemons, denied: int) -> None:
    who = f"node/a/uid/{denied}"

    def rules(effect: str, who: str) -> str:
        return "".join(
            f'[[rules]]\neffect = "{effect}"\nwho = "{who}"\nmay = "{may}"\nwhat = "topic:x"\n'
            for may in ("read", "register")
        )

    anybody, all_but_one = nodes.folder / "a.toml", nodes.folder / "b.toml"
    anybody.write_text(rules("allow", "node/a/uid/*"))
    all_but_one.write_text(rules("deny", who) + rules("allow", "node/a/uid/*"))
    back = nodes.run("b", "--config", str(all_but_one))
    # Only a daemon says for whom it calls, and ours never for several at once.
    front = nodes.run("a", "--config", str(anybody), "--peer", back.listen, launcher=hostile_daemon.LAUNCHER)
    linked(front, back)
    place = Place("topic", "x", front.socket)
    metadata = [("ipcd-for", f"spiffe://default/node/a/uid/{uid}") for uid in (7001, 7002)]
    try:
        nobody_is_told(front, back, place.channel(), who, metadata=metadata)
    finally:
        place.close()


def nobody_is_told(front: Daemon, back: Daemon, channel: grpc.Channel, who: str, **keywords: Any) -> None:
    """Of the topic x of the back node, whose rules let `who` neither read nor register it, by the front node."""
    with ipcd_client.topic("x", node=back.socket) as there:
        there.publish(b"kept", retain=True)
        stub = topic_pb2_grpc.TopicStub(channel)
        call: Any = stub.Subscribe(iter([topic_pb2.TopicSubscribeRequest(name="x", replay=1)]), **keywords)
        assert not next(call).HasField("message")
        front.logged("a node refuses a topic", f"{who} may not read")
        assert there.publish(b"secret").nodes == 0
        # Nor what is kept: what comes is from here.
        with ipcd_client.topic("x", node=front.socket) as here:
            here.publish(b"own")
        assert next(call).message.data == b"own"
        call.cancel()
        request = topic_pb2.TopicReplayRequest(name="x")
        replayed: Any = stub.Replay(request, timeout=LONG, **keywords)
        assert [message.node for message in replayed] == []
        reply = stub.Forget(topic_pb2.TopicForgetRequest(name="x"), timeout=LONG, **keywords)
        assert reply.messages == 0
        assert [message.data for message in there.last()] == [b"kept"]


def test_for_others_only_daemons_ask_and_of_their_own_node(cluster: Cluster) -> None:
    identity = [f"spiffe://default/node/b/uid/{os.getuid()}"]
    here, there = Place("topic", "x@a", cluster.front.socket), Place("topic", "x@a", cluster.back.socket)

    def forget(place: Place, **fields: Any) -> Any:
        request = topic_pb2.TopicForgetRequest(name="x@a", identity=identity, **fields)
        return topic_pb2_grpc.TopicStub(place.channel()).Forget(request, timeout=LONG)

    try:
        for place, fields, why in (
            (here, {"here": True}, "for others, only other nodes' daemons ask"),
            (there, {"here": True}, "for others, only other nodes' daemons ask"),
            (there, {}, "for others, a node asks of what is here alone"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                forget(place, **fields)
            failure: Any = caught.value
            assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert why in failure.details()
        call: Any = topic_pb2_grpc.TopicStub(there.channel()).Link(
            iter([topic_pb2.TopicLinkRequest(name=">@a", session=b"s")]), timeout=LONG
        )
        with pytest.raises(grpc.RpcError, match="Link is for other nodes' daemons"):
            next(call)
    finally:
        here.close()
        there.close()


# -- ipcctl ---------------------------------------------------------------------------------------


def test_ipcctl(cluster: Cluster) -> None:
    front, back = cluster
    with running("topic", "sub", "shop.>", "-n", "4", "-o", "json", node=back) as sub:
        eventually(lambda: listed(back, "shop.>").subscriptions, "it listens")
        assert ctl("topic", "pub", "shop.a", "1", node=front).code == 0
        assert ctl("topic", "pub", "shop.b", "--keep", "2", given="2\n", node=front).code == 0
        done = ctl("topic", "pub", "shop.b", "--lines", "--retain", "-o", "json", given="3\n4\n", node=front)
        assert [(line["subscribers"], line["nodes"]) for line in done.lines] == [(0, 1), (0, 1)]
        assert sub.stdout is not None
        got = [json.loads(line) for line in sub.stdout]
        assert [(one["subject"], one["data"]) for one in got] == [
            ("shop.a", "1"),
            ("shop.b", "2\n"),
            ("shop.b", "3"),
            ("shop.b", "4"),
        ]
        assert sub.wait(LONG) == 0
    done = ctl("topic", "sub", "shop.*", "--replay", "1", "--wait", "0", node=back)
    assert (done.code, done.out) == (0, "shop.b  4\n")
    done = ctl("topic", "sub", "shop.b", "--replay", "1", "-n", "1", "--raw", node=back)
    assert (done.code, done.out) == (0, "4\n")
    assert ctl("topic", "sub", "nothing", "--wait", "0.05", node=back).code == 1
    done = ctl("topic", "ls", node=back)
    assert done.code == 0
    assert "shop.b" in done.out
    assert ctl("topic", "rm", "shop.>", node=back).out == "1 messages\n"
    assert ctl("topic", "rm", "shop.>", node=back).code == 1


def test_ipcctl_fails(cluster: Cluster) -> None:
    assert ctl("topic", "pub", "a.*", "x", node=cluster.front).code in {2, 4}
    assert ctl("topic", "pub", "a", "x", "--lines", node=cluster.front).code == 2
    for verb in (["pub", "a", "x"], ["sub", "a"], ["ls"], ["rm", "a"]):
        assert ctl("-s", "/nonexistent/ipcd.sock", "topic", *verb).code == 3
    with program("sub", cluster.front, "full", "block"):
        assert ctl("topic", "pub", "full", "--lines", given="1\n2\n", node=cluster.front).code == 0
        done = ctl("topic", "pub", "full", "3", "--wait", "0", node=cluster.front)
        assert done.code == 1
        assert "had no room" in done.err
        done = ctl("topic", "ls", "full", "-o", "json", node=cluster.back)
        (one,) = done.json["subscriptions"]
        assert (one["node"], one["policy"], one["waiting"], one["dropped"]) == ("a", "block", 1, 1)


def test_ipcctl_is_interrupted(cluster: Cluster) -> None:
    with running("topic", "sub", "interrupted", node=cluster.front) as sub:
        eventually(lambda: listed(cluster.front, "interrupted").subscriptions, "it listens")
        sub.send_signal(signal.SIGINT)
        assert sub.wait(LONG) == 130
