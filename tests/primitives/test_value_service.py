"""Values as the services have them: for clients of plain gRPC, for those who may not, and past the bounds."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import pytest
from integration.as_user import NOT_HERE
from integration.daemons import LONG, Daemons, eventually
from integration.gateway import address_of
from ipcd_client.errors import NotAllowed
from ipcd_client.node import attach
from ipcd_client.pb.ipcd.v1 import value_pb2, value_pb2_grpc
from ipcd_client.primitives import values
from ipcd_client.rpc.failure import CallFailed
from primitives.roads import Cluster

from ipcd import limits

LARGE = bytes(range(256)) * 4096 * 3
AS_USER = str(Path(__file__).parents[1] / "integration" / "as_user.py")
STRANGER = 65534
ONLY_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def stub(cluster: Cluster) -> Iterator[Any]:
    """At the gateway of the node that does not keep it."""
    with grpc.insecure_channel(address_of(cluster.front)) as channel:
        yield value_pb2_grpc.ValueStub(channel)


def test_the_service_by_plain_grpc(stub: Any) -> None:
    name = "plain@b"
    first = stub.Set(value_pb2.ValueSetRequest(name=name, data=b"a"), timeout=LONG).info.version
    reply = stub.Get(value_pb2.ValueGetRequest(name=name), timeout=LONG)
    assert (reply.data, reply.more, reply.info.size, reply.info.node) == (b"a", False, 1, "b")
    assert reply.info.version == first
    # What the caller has already is not sent again.
    known = value_pb2.ValueGetRequest(name=name, version=first, epoch=reply.info.epoch)
    assert not stub.Get(known, timeout=LONG).data
    watched = stub.Watch(value_pb2.ValueNextRequest(name=name, version=first, epoch=reply.info.epoch), timeout=LONG)
    # Larger than what travels in a message, in one all the same: as long as it is no larger than a message.
    stub.Set(value_pb2.ValueSetRequest(name=name, data=LARGE), timeout=LONG)
    news = next(watched)
    assert (news.info.version, news.more, news.data) == (first + 1, True, b"")
    first, *rest = stub.Read(value_pb2.ValueGetRequest(name=name), timeout=LONG)
    assert (first.info.size, first.more) == (len(LARGE), True)
    assert b"".join(piece.data for piece in rest) == LARGE
    stub.Delete(value_pb2.ValueDeleteRequest(name=name), timeout=LONG)
    assert next(watched).info.version == 0
    watched.cancel()
    assert stub.Add(value_pb2.ValueAddRequest(name=name, amount=-1), timeout=LONG).number == -1
    stub.Delete(value_pb2.ValueDeleteRequest(name=name), timeout=LONG)


def failed(call: Any, *arguments: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, timeout=LONG)
    error: Any = caught.value
    return error.code(), error.details()


def test_what_makes_no_sense_is_refused_in_words(stub: Any) -> None:
    def written(*requests: value_pb2.ValueSetRequest) -> tuple[grpc.StatusCode, str]:
        return failed(stub.Write, iter(requests))

    request = value_pb2.ValueSetRequest
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    code, details = failed(stub.Get, value_pb2.ValueGetRequest(name="a b"))
    assert code is invalid
    assert details.startswith("bad-request: ")
    assert written()[0] is invalid
    assert written(request(name="w@b", size=2, data=b"a")) == (
        invalid,
        "bad-request: the value ended after 1 of the 2 bytes that were said",
    )
    assert "more than the 1 bytes" in written(request(name="w@b", size=1, data=b"ab"))[1]
    code, details = written(request(name="w@b", size=limits.VALUE + 1))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details == f"the limit of {limits.VALUE} bytes of one value is reached"
    assert failed(stub.Set, request(name="w@b", ttl=-1))[0] is invalid
    assert failed(stub.Set, request(name="w@b", holder=99)) == (
        grpc.StatusCode.ABORTED,
        "lost: the hold to which the value w was to be tied is over",
    )
    # Of all that nothing is left, and no name.
    assert not stub.Get(value_pb2.ValueGetRequest(name="w@b"), timeout=LONG).info.version
    code, details = failed(stub.Next, value_pb2.ValueNextRequest(name="w@b", wait=0))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert details.startswith("timeout: ")


def test_memory_is_handed_over_where_it_can_be(cluster: Cluster, stub: Any) -> None:
    with grpc.insecure_channel(address_of(cluster.front)) as channel:
        code, _ = failed(value_pb2_grpc.ValueCacheStub(channel).Map, value_pb2.ValueGetRequest(name="v"))
        assert code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED}
    with ipcd_client.value("seal@b", node=cluster.front.socket) as value:
        value.set(LARGE)
        attachment = attach.shared(cluster.front.socket)
        try:
            reply, (memory,) = attach.call(
                attachment.connection(),
                values.MAP,
                value_pb2.ValueGetRequest(name="seal@b"),
                value_pb2.ValueReply,
                time.monotonic() + LONG,
            )
        finally:
            attachment.release()
        # What everybody reads nobody can change.
        with memory, pytest.raises(PermissionError):
            os.pwrite(memory.fileno(), b"x", 0)
        assert reply.info.size == len(LARGE)
        value.delete()


def test_it_is_read_without_a_copy(cluster: Cluster) -> None:
    numbers = array("q", range(100_000))
    with ipcd_client.value("array", node=cluster.front.socket) as value:
        value.set(numbers)
        found = value.get()
        # As numpy.frombuffer does.
        with memoryview(found.data).cast("q") as seen:
            assert seen.readonly
            assert sum(seen) == sum(numbers)
            # Of what somebody looks at the memory stays.
            with pytest.raises(BufferError):
                found.close()
            assert seen[99_999] == 99_999
        value.delete()


def test_anything_with_bytes_is_taken(cluster: Cluster) -> None:
    with ipcd_client.value("bytes", node=cluster.front.socket) as value:
        for data in (bytearray(b"abc"), memoryview(b"abc"), memoryview(b"a.b.c.")[::2].tobytes(), "abc"):
            value.set(data)
            assert bytes(value.get()) == b"abc"
        value.set(memoryview(LARGE).cast("I"))
        with value.get() as found:
            assert found.data == LARGE
        value.delete()


def rule(effect: str, who: str, may: str, what: str) -> str:
    return f'[[rules]]\neffect = "{effect}"\nwho = "{who}"\nmay = "{may}"\nwhat = "{what}"\n'


def ruled(nodes: Daemons, *rules: str) -> Any:
    file = nodes.folder / "rules.toml"
    file.write_text("\n".join(rules))
    return nodes.run("b", "--config", str(file))


def test_who_may_not_may_not_on_any_node(nodes: Daemons) -> None:
    us = f"node/*/uid/{os.getuid()}"
    back = ruled(
        nodes,
        rule("deny", us, "publish", "value:fixed"),
        rule("deny", us, "register", "value:fixed"),
        rule("deny", us, "read", "value:secret"),
    )
    front = nodes.run("a", "--peer", back.listen)
    front.logged("node linked", "b")
    for node in (front, back):
        with (
            ipcd_client.value("fixed@b", node=node.socket) as fixed,
            ipcd_client.value("secret@b", node=node.socket) as secret,
        ):
            assert not fixed.get()
            changes: list[Callable[[], object]] = [
                functools.partial(fixed.set, b"x"),
                fixed.add,
                fixed.delete,
                functools.partial(fixed.set, LARGE),
            ]
            for deed in changes:
                with pytest.raises(NotAllowed, match="value:fixed"):
                    deed()
            secret.set(LARGE)
            looks: list[Callable[[], object]] = [secret.get, secret.version, secret.wait]
            for deed in looks:
                with pytest.raises(NotAllowed, match="value:secret"):
                    deed()
            # Nor by way of the node's own copies.
            attachment = attach.shared(node.socket)
            try:
                with pytest.raises(CallFailed) as caught:
                    attach.call(
                        attachment.connection(),
                        values.MAP,
                        value_pb2.ValueGetRequest(name="secret@b"),
                        value_pb2.ValueReply,
                        time.monotonic() + LONG,
                    )
            finally:
                attachment.release()
            assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED


@contextlib.contextmanager
def let_in(folder: Path) -> Iterator[None]:
    """Others get to what is in a folder, for a while."""
    closed = [one for one in (folder, *folder.parents) if not one.stat().st_mode & 0o001]
    before = [one.stat().st_mode for one in closed]
    for one in closed:
        one.chmod(0o711)
    try:
        yield
    finally:
        for one, mode in zip(closed, before, strict=True):
            one.chmod(mode)


@ONLY_ROOT
def test_a_stranger_may_what_the_rules_let_it(nodes: Daemons) -> None:
    node = ruled(nodes, rule("allow", f"node/b/uid/{STRANGER}", "read", "value:public"))

    def get(name: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, AS_USER, str(STRANGER), "-m", "ipcd_client.cli", "-s", node.socket, "value", "get", name],
            capture_output=True,
            timeout=LONG,
        )

    with (
        let_in(Path(node.socket).parent),
        ipcd_client.value("public", node=node.socket) as public,
        ipcd_client.value("own", node=node.socket) as own,
    ):
        public.set(LARGE)
        own.set(LARGE)
        done = get("public")
        if done.returncode == NOT_HERE:
            pytest.skip("the interpreter is where others may not go")
        assert done.returncode == 0, done.stderr
        assert done.stdout == LARGE
        done = get("own")
        assert done.returncode == 4
        assert b"may not read value:own" in done.stderr


def test_what_is_kept_is_bounded_and_given_back(cluster: Cluster) -> None:
    piece = bytes(values.INLINE + 1)
    most = limits.VALUE_MEMORIES_EACH["process"]
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(ipcd_client.value(f"m{n}", node=cluster.front.socket)) for n in range(most + 1)]
        for value in made[:most]:
            value.set(piece)
        with pytest.raises(CallFailed, match=f"the limit of {most} values with memory of their own of one process"):
            made[most].set(piece)
        made[0].delete()
        made[most].set(piece)
        made[most].set(b"small")
        made[0].set(piece)
        for value in made:
            value.delete()


def test_a_name_is_free_again_when_its_value_has_ended(cluster: Cluster) -> None:
    front, back = cluster
    with ipcd_client.value("moving", node=front.socket) as here, ipcd_client.value("moving", node=back.socket) as there:
        here.set(b"a")
        assert bytes(there.get()) == b"a"
        assert here.delete()
        assert not there.get()
        with ipcd_client.value("moving@b", node=back.socket) as named:
            named.set(b"b")
            # A handle that has found none where it was finds it where it is now.
            eventually(lambda: bytes(here.get()) == b"b", "it is found on its new home")
            assert bytes(there.get()) == b"b"
            named.delete()
