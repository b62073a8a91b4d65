"""Values while parties die, daemons restart and nodes do not see each other."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import pytest
from integration.daemons import LONG, Daemon, Daemons, eventually
from integration.exposing import line_of
from integration.ipcctl.runs import CTL, ctl
from ipcd_client.node import attach
from ipcd_client.pb.ipcd.v1 import value_pb2, value_pb2_grpc
from ipcd_client.primitives import values
from ipcd_client.primitives.errors import Ambiguous, Lost
from ipcd_client.primitives.place import target_of
from ipcd_client.rpc.failure import CallFailed
from primitives.limited import limited
from primitives.memories import memories
from primitives.roads import Cluster, Road

from ipcd import limits

LARGE = bytes(range(256)) * 4096 * 3
PROGRAM = str(Path(__file__).with_name("value_program.py"))


@contextlib.contextmanager
def program(deed: str, node: Daemon, name: str) -> Iterator[subprocess.Popen[str]]:
    """value_program.py in the middle of it; killed at the end."""
    with subprocess.Popen(
        [sys.executable, PROGRAM, deed, node.socket, name], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert line_of(process) == "ready"
            yield process
        finally:
            process.kill()


def _none(value: Any) -> bool:
    """Whether its home can be asked, and has none."""
    try:
        return not value.get()
    except CallFailed:
        return False


def test_what_a_process_holds_ends_when_it_is_killed(road: Road) -> None:
    name = road.name("v")
    with ipcd_client.value(name, **road.keywords) as value, program("hold", road.front, name) as holder:
        known = value.get()
        assert bytes(known) == b"mine"
        assert value.compare_and_set(0, b"too") == 0
        holder.kill()
        gone = value.wait(known, LONG)
        assert not gone
        assert value.compare_and_set(0, b"now") == known.version + 1


def test_others_who_wait_do_not_notice_that_one_is_killed(road: Road) -> None:
    name = road.name("v")
    with (
        ipcd_client.value(name, **road.keywords) as value,
        program("wait", road.front, name) as one,
        program("wait", road.front, name) as other,
    ):
        one.kill()
        one.wait(LONG)
        value.set(b"news")
        assert line_of(other) == "news"


@pytest.mark.parametrize("where", ["front", "back"])
def test_a_writer_that_is_killed_has_changed_nothing(cluster: Cluster, where: str) -> None:
    home: Daemon = getattr(cluster, where)
    name = f"half@{home.node}"
    with ipcd_client.value(name, node=cluster.front.socket) as value:
        before = memories(home)
        whole = value.set(b"whole")
        with program("half", cluster.front, name) as writer:
            eventually(lambda: memories(home) == before + 1, "the value is being written")
            assert bytes(value.get()) == b"whole"
            writer.kill()
        eventually(lambda: memories(home) == before, "its memory is given back")
        assert value.version() == whole
        value.delete()


def test_what_was_read_outlives_the_daemons(nodes: Daemons) -> None:
    back = nodes.run("b")
    front = nodes.run("a", "--peer", back.listen)
    front.logged("node linked", "b")
    with ipcd_client.value("v@b", node=front.socket) as value:
        value.set(LARGE)
        snapshot = value.get()
        back.kill()
        with pytest.raises(CallFailed) as caught:
            value.get()
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(CallFailed):
            value.set(b"x")
        assert snapshot.data == LARGE
        front.kill()
        assert snapshot.data == LARGE
        snapshot.close()


def test_a_daemon_that_comes_back_has_none(nodes: Daemons) -> None:
    first = nodes.run("a")
    with (
        ipcd_client.value("v", node=first.socket) as value,
        ipcd_client.value("mine", node=first.socket) as mine,
    ):
        value.set(b"1")
        known = value.get()
        last = value.set(b"2")
        mine.set(b"m", ephemeral=True)
        first.kill()
        again = nodes.run("a")
        assert not value.get()
        # What was read of the other run is no version of this one, whoever asks, and by whatever road.
        now = value.set(b"x")
        assert now > last + 1
        with (
            ipcd_client.channel(target_of("a"), node=again.socket) as channel,
            ipcd_client.value("v", node=again.socket) as other,
        ):
            stub = value_pb2_grpc.ValueStub(channel)
            for old in (known.version, last):
                assert other.compare_and_set(old, b"y") == value.compare_and_set(old, b"y") == 0
                assert not other.delete(old)
                assert stub.Set(value_pb2.ValueSetRequest(name="v", version=old), timeout=LONG).refused
                assert ctl("value", "cas", "v", str(old), "y", node=again).code == 1
        assert value.compare_and_set(known, b"y") == 0
        assert value.compare_and_set(now, b"y") == now + 1
        with pytest.raises(Lost):
            mine.set(b"m", ephemeral=True)
        assert mine.set(b"m", ephemeral=True) > last + 1
        assert mine.get().held
        again.stop()


def test_who_waits_goes_on_waiting_at_the_daemon_that_comes_back(nodes: Daemons) -> None:
    first = nodes.run("a")
    with ipcd_client.value("v", node=first.socket) as value:
        value.set(b"old")
        with program("wait", first, "v") as waiter:
            first.kill()
            again = nodes.run("a")
            value.set(b"new")
            # It is told that there was none, or what there is: both are news.
            assert line_of(waiter) in {"", "new"}
        again.stop()


def test_what_is_held_from_another_node_ends_with_its_holder_also_when_that_node_has_no_daemon(nodes: Daemons) -> None:
    back = nodes.run("b")
    front = nodes.run("a", "--peer", back.listen)
    front.logged("node linked", "b")
    with ipcd_client.value("v", node=back.socket) as value, program("hold", front, "v@b") as holder:
        known = value.get()
        assert known.held
        front.kill()
        holder.kill()
        assert not value.wait(known, LONG)


def test_who_holds_is_told_that_the_home_is_gone(nodes: Daemons) -> None:
    back = nodes.run("b")
    front = nodes.run("a", "--peer", back.listen)
    front.logged("node linked", "b")
    with ipcd_client.value("v@b", node=front.socket) as value, ipcd_client.value("w@b", node=front.socket) as brief:
        value.set(b"mine", ephemeral=True)
        brief.set(b"for a while", ttl=1000.0)
        assert brief.get().ttl
        back.kill()
        with pytest.raises(Lost, match="what the value v@b was tied to is over"):
            value.keep()
        again = nodes.run("b", "--peer", front.listen)
        front.logged("node linked", "b")
        # Neither what was tied to somebody nor what had its time is there again.
        eventually(lambda: _none(value) and _none(brief), "its home is back, and has none")
        again.stop()


def test_of_two_nodes_one_makes_it(cluster: Cluster) -> None:
    with (
        ipcd_client.value("shared", node=cluster.front.socket) as one,
        ipcd_client.value("shared", node=cluster.back.socket) as other,
    ):
        # Neither is there yet: both would make it at home.
        assert not one.get()
        assert not other.get()
        assert one.add() == 1
        assert other.add() == 2
        assert one.get().node == other.get().node
        one.delete()


def test_who_waits_for_what_is_not_there_sees_it_on_any_node(cluster: Cluster) -> None:
    with (
        program("wait", cluster.front, "late") as waiter,
        ipcd_client.value("late@b", node=cluster.back.socket) as value,
    ):
        value.set(b"here")
        assert line_of(waiter) == "here"
        value.delete()


def test_made_on_both_sides_of_a_partition_both_are_shown(nodes: Daemons) -> None:
    file = nodes.folder / "a.toml"
    file.write_text("")
    a = nodes.run("a", "--config", str(file))
    b = nodes.run("b")
    with (
        ipcd_client.value("v", node=a.socket) as of_a,
        ipcd_client.value("v", node=b.socket) as of_b,
    ):
        # Nor are the versions of two homes the same.
        assert of_a.set(b"a") != of_b.set(LARGE)
        file.write_text(f'peers = ["{b.listen}"]\n')
        a.process.send_signal(signal.SIGHUP)
        a.logged("node linked", "b")

        def shown() -> Any:
            found = [(row["name"], row["node"]) for row in ctl("value", "ls", "-o", "json", node=a).json["values"]]
            return found == [("v", "a"), ("v", "b")]

        eventually(shown, "both are shown")
        with ipcd_client.value("v", node=a.socket) as either, pytest.raises(Ambiguous, match="v@a and v@b"):
            either.get()
        # Who has found its own stays with it; and each can be named.
        assert bytes(of_a.get()) == b"a"
        with ipcd_client.value("v@b", node=a.socket) as named, named.get() as snapshot:
            assert snapshot.data == LARGE
        with of_b.get() as snapshot:
            assert snapshot.data == LARGE


def test_a_node_copies_a_value_once_for_all_its_readers(cluster: Cluster) -> None:
    front, back = cluster

    def copies() -> list[Any]:
        return [line for line in front.events("copied a value") if line["name"] == "big@b"]

    before = memories(front)
    with ipcd_client.value("big@b", node=back.socket) as value:
        first = value.set(LARGE)
        readers = [
            subprocess.Popen([*CTL, "-s", front.socket, "value", "get", "big"], stdout=subprocess.PIPE)
            for _ in range(4)
        ]
        for reader in readers:
            with reader:
                assert reader.communicate(timeout=LONG)[0] == LARGE
        assert [line["version"] for line in copies()] == [first]
        value.set(LARGE[::-1])
        with ipcd_client.value("big@b", node=front.socket) as there, there.get() as one, there.get() as other:
            assert one.data == other.data == LARGE[::-1]
        assert [line["version"] for line in copies()] == [first, first + 1]
        assert memories(front) == before + 1
        value.delete()
        eventually(lambda: memories(front) == before, "the copy of what has ended is given back")


@pytest.mark.parametrize("room", [0, 1])
def test_copies_for_which_there_is_hardly_room(nodes: Daemons, room: int) -> None:
    back = nodes.run("b", "--listen", "127.0.0.1:0")
    front = nodes.run("a", "--peer", back.listen, launcher=limited(VALUE_COPIES=room))
    front.logged("node linked", "b")
    back.logged("node linked", "a")
    attachment = attach.shared(front.socket)
    try:
        with (
            ipcd_client.value("big@b", node=back.socket) as home,
            ipcd_client.value("big@b", node=front.socket) as value,
        ):
            home.set(LARGE)
            for _ in range(2):
                # Also what makes room as soon as it is handed over is whole.
                with value.get() as snapshot:
                    assert isinstance(snapshot.data, memoryview)
                    assert snapshot.data == LARGE
                # What is not there takes no room from what is.
                request = value_pb2.ValueGetRequest(name="nothing@b")
                with contextlib.suppress(CallFailed):
                    attach.call(
                        attachment.connection(), values.MAP, request, value_pb2.ValueReply, time.monotonic() + LONG
                    )
            assert len(front.events("copied a value")) == 2 - room
            assert memories(front) == room
    finally:
        attachment.release()


def test_who_reads_slowly_reads_what_was_and_its_memory_is_bounded(cluster: Cluster) -> None:
    back = cluster.back
    name = "slow@b"
    before = memories(back)
    with (
        ipcd_client.channel(target_of("b"), node=cluster.front.socket) as channel,
        ipcd_client.value(name, node=back.socket) as value,
        contextlib.ExitStack() as stack,
    ):
        value.set(LARGE)
        stub = value_pb2_grpc.ValueStub(channel)

        def begun() -> Any:
            call = stub.Read(value_pb2.ValueGetRequest(name=name), timeout=LONG)
            stack.callback(call.cancel)
            next(call)
            return call

        # Several that read one version keep it once.
        slow, other, _ = [begun() for _ in range(3)]
        for number in range(5):
            value.set(LARGE[number:])
        assert memories(back) == before + 2
        assert b"".join(piece.data for piece in slow) == LARGE
        newer = begun()
        value.set(b"small")
        assert memories(back) == before + 2
        assert b"".join(piece.data for piece in newer) == LARGE[4:]
        eventually(lambda: memories(back) == before + 1, "what nobody reads any more is given back")
        other.cancel()
        stack.close()
        eventually(lambda: memories(back) == before, "what nobody reads any more is given back")
        value.delete()


def test_one_process_has_so_many_reads_under_way(cluster: Cluster) -> None:
    """Each has a piece in the daemon's memory."""
    node = cluster.front
    with (
        ipcd_client.channel(target_of("a"), node=node.socket) as channel,
        ipcd_client.value("reads@a", node=node.socket) as value,
        contextlib.ExitStack() as stack,
    ):
        value.set(LARGE)
        read = value_pb2_grpc.ValueStub(channel).Read
        request = value_pb2.ValueGetRequest(name="reads@a")
        for _ in range(limits.VALUE_READS_EACH["process"]):
            call = read(request, timeout=LONG)
            stack.callback(call.cancel)
            next(call)
        with pytest.raises(grpc.RpcError) as caught:
            next(read(request, timeout=LONG))
        assert "reads of large values of one process is reached" in str(caught.value)
        stack.close()

        def room() -> bool:
            call = read(request, timeout=LONG)
            try:
                return bool(next(call).more)
            except grpc.RpcError:
                return False
            finally:
                call.cancel()

        eventually(room, "there is room again")
        value.delete()


def test_a_handle_works_in_a_forked_child(cluster: Cluster) -> None:
    script = """
import os, sys
import ipcd_client
value = ipcd_client.value("forked", node=sys.argv[1])
value.set(b"parent's", ephemeral=True)
pid = os.fork()
if not pid:
    assert bytes(value.get()) == b"parent's"
    with ipcd_client.value("child", node=sys.argv[1]) as other:
        other.set(b"child's", ephemeral=True)
    # What the parent holds is not the child's to end.
    value.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert bytes(value.get()) == b"parent's"
value.close()
assert not ipcd_client.value("forked", node=sys.argv[1]).get()
"""
    done = subprocess.run([sys.executable, "-c", script, cluster.front.socket], capture_output=True, timeout=LONG)
    assert done.returncode == 0, done.stderr.decode()
