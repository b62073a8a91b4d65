"""Nodes with certificates: who gets in, who does not, and what is said of that."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import ipcd_client.aio
import pytest
from integration.conftest import Tally
from integration.daemons import LONG, Daemon, Daemons, attached, dial, eventually, run
from integration.gateway import address_of
from integration.test_links import linked, serving
from ipcd_client.certs.authority import Authority
from ipcd_client.certs.identity import Credentials, Identity
from ipcd_client.errors import IpcdError, NotAllowed
from ipcd_client.frame import preamble
from ipcd_client.frame.settings import Settings
from ipcd_client.loop import dial as connecting
from ipcd_client.loop.connection import Connection
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2, queue_pb2
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.testing.certificates import TestAuthority
from ipcd_client.wire import tls
from ipcd_client.wire.tcp import TcpWire, split_address

CLUSTER = "tests"


class Secured:
    """Daemons of one cluster, and its authority."""

    def __init__(self, daemons: Daemons) -> None:
        self.daemons = daemons
        self.authority = Authority.create(daemons.folder / "authority", CLUSTER)

    def file(self, node: str, content: bytes | None = None) -> str:
        """A node's identity file."""
        path = self.daemons.folder / f"{node}.pem"
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_bytes(content or self.authority.issue(node).content)
        return str(path)

    def run(self, node: str, *arguments: str) -> Daemon:
        """One with its certificate."""
        return self.daemons.run(node, "--identity", self.file(node), *arguments)

    def pair(self) -> tuple[Daemon, Daemon]:
        b = self.run("b")
        a = self.run("a", "--peer", b.listen)
        a.logged("node linked")
        return a, b

    def credentials(self, node: str, uid: int | None = None, ago: float = 0.0) -> Credentials:
        """As that node makes them, or has made them so many seconds ago."""
        return Identity.load(self.file(f"{node}-again", self.authority.issue(node).content)).issue(
            uid, time.time() - ago
        )


@pytest.fixture
def secured(cluster: Daemons) -> Secured:
    return Secured(cluster)


def who(request: bytes, context: grpc.ServicerContext) -> bytes:
    """The caller, as the servicer sees it."""
    facts: dict[str, Any] = dict(context.auth_context())
    seen = {key: [value.decode() for value in values] for key, values in facts.items()}
    return json.dumps([[one.decode() for one in context.peer_identities() or ()], seen]).encode() + request


@contextmanager
def served(daemon: Daemon) -> Iterator[None]:
    """Somebody who tells callers who they are."""
    handlers: dict[str, Any] = {"Who": grpc.unary_unary_rpc_method_handler(who)}
    server = ipcd_client.server(futures.ThreadPoolExecutor(4), node=daemon.socket)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x.X", handlers),))
    server.start()
    try:
        yield
    finally:
        server.stop(None)


def asked(daemon: Daemon, **arguments: Any) -> Any:
    """Who a caller on that node is."""
    with ipcd_client.channel(node=daemon.socket, **arguments) as channel:
        answer = channel.unary_unary("/x.X/Who")(b"", timeout=LONG, wait_for_ready=True)
    return json.loads(answer)


def test_callers_are_who_their_certificate_says(secured: Secured) -> None:
    a, b = secured.pair()
    uid = os.getuid()
    pidfd = os.pidfd_open(os.getpid())
    pidfd_id = str(os.fstat(pidfd).st_ino)
    os.close(pidfd)
    with served(b):
        for daemon, transport, security in ((a, "tcp", "tls"), (b, "shm", "ipcd")):
            identity = f"spiffe://{CLUSTER}/node/{daemon.node}/uid/{uid}"
            identities, seen = asked(daemon)
            assert identities == [identity]
            assert (seen["ipcd_identity"], seen["transport"]) == ([identity], [transport])
            assert seen["transport_security_type"] == [security]
            assert seen.get("pidfd_id", [pidfd_id]) == [pidfd_id]  # absent where the kernel has none
            assert (seen["node"], seen["uid"], seen["pid"]) == ([daemon.node], [str(uid)], [str(os.getpid())])


@pytest.mark.parametrize("size", [0, 3 << 20])
def test_every_way_between_two_nodes_is_secured(secured: Secured, size: int) -> None:
    """Also where a node makes the connection for the caller."""
    b = secured.run("b")
    a = secured.run("a", "--peer", b.listen, "--reach", "node")
    with served(b), ipcd_client.channel(node=a.socket) as channel:
        answer = channel.unary_unary("/x.X/Who")(bytes(size), timeout=LONG, wait_for_ready=True)
        assert len(answer) > size
        assert b'"tls"' in answer[:2000]


def test_what_the_node_says_of_itself(secured: Secured) -> None:
    a, _ = secured.pair()

    async def main() -> None:
        async with attached(a) as client:
            status = await client.call("Status", node_pb2.StatusRequest(), node_pb2.StatusReply)
            assert (status.cluster, status.identity, status.insecure) == (CLUSTER, f"spiffe://{CLUSTER}/node/a", False)
            assert time.time() + 364 * 86400 < status.certificate_expires < time.time() + 366 * 86400
            assert (await client.nodes())["b"].security == "tls"

    run(main)


def test_with_event_loops_on_both_sides(secured: Secured) -> None:
    a, b = secured.pair()

    async def echo(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        (identity,) = context.peer_identities() or ()
        return bytes(identity) + b" " + request

    async def main() -> None:
        server = ipcd_client.aio.server(node=b.socket)
        handlers: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x.Y", handlers),))
        await server.start()
        async with ipcd_client.aio.channel(node=a.socket) as channel:
            method: Any = channel.unary_unary("/x.Y/Echo")
            answers = await asyncio.gather(
                *(method(bytes([n]) * 1000 * n, timeout=LONG, wait_for_ready=True) for n in range(100))
            )
        await server.stop(None)
        caller = f"spiffe://{CLUSTER}/node/a/uid/{os.getuid()} ".encode()
        assert answers == [caller + bytes([n]) * 1000 * n for n in range(100)]

    run(main)


def test_from_any_grpc_client(secured: Secured) -> None:
    """The gateway's connections with other nodes' servers are secured as well."""
    b = secured.run("b")
    path = secured.daemons.folder / "grpc.sock"
    a = secured.run("a", "--peer", b.listen, "--grpc-socket", str(path))
    a.logged("node linked")
    with served(b), grpc.insecure_channel(f"unix:{path}") as channel:
        method: Any = channel.unary_unary("/x.X/Who")
        identities, seen = json.loads(method(b"", timeout=LONG, wait_for_ready=True))
    assert identities == [f"spiffe://{CLUSTER}/node/a/uid/{os.getuid()}"]
    assert seen["transport_security_type"] == ["tls"]


def test_a_named_thing_through_a_gateway(secured: Secured) -> None:
    """Whose daemon shows who it is itself: so it is believed for whom it calls."""
    rules = secured.daemons.folder / "b.toml"
    rules.write_text('[[rules]]\neffect = "deny"\nwho = "node/a/grpc"\nmay = "read"\nwhat = "queue:*"\n')
    b = secured.run("b", "--config", str(rules))
    a = secured.run("a", "--peer", b.listen, "--grpc-listen", "127.0.0.1:0")
    a.logged("node linked")
    with (
        grpc.insecure_channel(address_of(a)) as channel,
        ipcd_client.queue("x@b", channel=channel, create=True) as queue,
    ):
        queue.send(b"x", timeout=LONG)
        with pytest.raises(NotAllowed, match=f"spiffe://{CLUSTER}/node/a/grpc may not read queue:x on node b"):
            queue.receive(timeout=LONG)


def test_a_topic_of_both_nodes(secured: Secured) -> None:
    """For which a daemon calls another over a channel of the SDK, as itself."""
    a, b = secured.pair()
    b.logged("node linked")
    with ipcd_client.topic("x", node=a.socket) as topic, topic.subscribe() as messages:
        with ipcd_client.topic("x", node=b.socket) as there:
            eventually(lambda: there.publish(b"x", wait=LONG).nodes, "the other node wants it")
        assert messages.receive(LONG).data == b"x"


# -- who does not get in --------------------------------------------------------------------------


@asynccontextmanager
async def link(daemon: Daemon, credentials: Credentials) -> AsyncIterator[Connection]:
    """As a node dials, with whatever certificate."""
    sock = await connecting.tcp(daemon.listen, LONG, preamble.pack(preamble.PEER))
    context = tls.context(credentials.chain, credentials.key, credentials.authorities, server_side=False)
    wire = tls.TlsWire(sock, peer="b", context=context, server_side=False)
    connection = Connection(wire, Settings(), dialer=True)
    try:
        yield connection
    finally:
        await connection.close()


async def said(connection: Connection, node: str) -> str:
    """What becomes of it when this end says that it is `node`."""
    hello = peer_pb2.PeerHello(node=node, incarnation="1" * 16, cluster=CLUSTER, version="1", address="127.0.0.1:1")
    try:
        async with asyncio.timeout(LONG):
            await connection.handshake()
            stream = connection.stream("/ipcd.v1.Peer/Link")
            await stream.send(peer_pb2.LinkMessage(hello=hello).SerializeToString())
            while await stream.receive() is not None:
                pass
    except IpcdError as error:
        return str(error)
    return ""


def refusals(daemon: Daemon) -> list[str]:
    return [str(line["reason"]) for event in ("link refused", "connection refused") for line in daemon.events(event)]


def one_refusal(daemon: Daemon, words: str) -> None:
    """It is told once, in these words."""
    eventually(lambda: any(words in reason for reason in refusals(daemon)), f"it logs {words!r}: {daemon.text()}")
    assert len(refusals(daemon)) == 1, refusals(daemon)


STRANGERS: dict[str, tuple[Callable[[Secured], Credentials], str]] = {
    "of another authority": (
        lambda one: Credentials(
            (own := TestAuthority(CLUSTER).credentials(f"spiffe://{CLUSTER}/node/c", "c")).chain,
            own.key,
            one.credentials("c").authorities,
            own.expires,
        ),
        "certificate that is not accepted",
    ),
    "expired": (lambda one: one.credentials("c", ago=5000.0), "certificate has expired"),
    "of a process": (lambda one: one.credentials("c", uid=0), "has shown the certificate of"),
    "of another node": (lambda one: one.credentials("d"), "has shown the certificate of"),
}


def test_nobody_but_the_daemon_comes_as_the_daemon(secured: Secured) -> None:
    """With the certificate of its user's processes nobody says for whom it calls."""
    b = secured.run("b")
    process = node_pb2.Process(node="c", pid=1, uid=os.getuid(), daemon=True)
    target = node_pb2.ResolveRequest(service="ipcd.v1.Queue")
    asking = peer_pb2.IntroduceRequest(target=target, caller=process).SerializeToString()
    hello = peer_pb2.PeerHello(node="c", incarnation="1" * 16, cluster=CLUSTER, version="1", address="127.0.0.1:1")
    stat = queue_pb2.QueueStatRequest(name="x").SerializeToString()
    told = (("ipcd-for", f"spiffe://{CLUSTER}/node/c/grpc"),)

    async def ask(connection: Connection, uid: int | None) -> None:
        answer, _ = await connection.call("/ipcd.v1.Peer/Introduce", asking, timeout=LONG)
        introduced = peer_pb2.IntroduceReply.FromString(answer)
        own = secured.credentials("c", uid)
        context = tls.context(own.chain, own.key, own.authorities, server_side=False)
        wire = tls.TlsWire(await dial(b.listen, introduced.token), peer="b", context=context, server_side=False)
        called = Connection(wire, Settings(), dialer=True)
        try:
            await called.handshake()
            await called.call("/ipcd.v1.Queue/Stat", stat, timeout=LONG, metadata=told)
        finally:
            await called.close()

    async def main() -> None:
        async with link(b, secured.credentials("c")) as connection:
            await connection.handshake()
            stream = connection.stream("/ipcd.v1.Peer/Link")
            await stream.send(peer_pb2.LinkMessage(hello=hello).SerializeToString())
            assert await stream.receive()
            with pytest.raises(CallFailed, match="there is no queue x"):
                await ask(connection, None)
            with pytest.raises(IpcdError) as caught:
                await ask(connection, os.getuid())
            assert not isinstance(caught.value, CallFailed), "it is cut off before a call of its is looked at"

    run(main)


@pytest.mark.parametrize("which", STRANGERS)
def test_a_certificate_that_is_not_the_nodes(secured: Secured, which: str, tally: Tally) -> None:
    """Refused, named, and logged once, however often it comes."""
    b = secured.run("b")
    make, words = STRANGERS[which]
    credentials = make(secured)

    async def main() -> None:
        for _ in range(5):
            async with link(b, credentials) as connection:
                assert await said(connection, "c")
        async with attached(b) as client:
            assert [info for info in await client.every_node() if info.state == info.STATE_LINKED] == []

    run(main)
    one_refusal(b, words)
    tally(f"a node with a certificate {which}", 5, len(b.events("node linked")), len(refusals(b)))


def test_a_node_without_certificate(secured: Secured, tally: Tally) -> None:
    """Plain bytes at the port of one that has one, and the other way round."""
    b = secured.run("b")
    plain = secured.daemons.run("c", "--peer", b.listen, "--cluster", CLUSTER)
    one_refusal(b, "bad-tls")
    assert plain.logged("no link")["address"] == b.listen
    assert plain.events("node linked") == []
    for _ in range(3):
        replay(b.listen, preamble.pack(preamble.PEER) + b"plain bytes " * 100)
    one_refusal(b, "bad-tls")
    tally("plain bytes at the port of a node with a certificate", 4, len(b.events("node linked")), len(refusals(b)))
    a = secured.run("a", "--peer", plain.listen)
    assert "does not speak TLS" in a.logged("no link")["reason"]


def test_plain_bytes_with_a_token(secured: Secured, tally: Tally) -> None:
    """A token alone lets nobody in: who found it out has no certificate of the process that it is for."""
    a, b = secured.pair()
    with served(b):

        async def main() -> None:
            async with attached(a) as caller:
                await serving(caller, "x.X", "b")
                for _ in range(3):
                    answer, sock = await caller.open("x.X")
                    assert answer.tls.peer == f"spiffe://{CLUSTER}/node/b/uid/{os.getuid()}"
                    connection = Connection(TcpWire(sock, peer="b"), Settings(), dialer=True)
                    with pytest.raises(IpcdError):
                        await connection.handshake()
                    await connection.close()

        run(main)
        assert asked(a)[1]["transport_security_type"] == ["tls"]
    tally("a caller with another's token and no certificate", 3, 0, len(refusals(b)))


class Recorder:
    """Passes connections on to a node, and keeps what the first one has sent there."""

    def __init__(self, to: str) -> None:
        self._to = split_address(to)
        self._stack = ExitStack()
        self._listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.kept = b""
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        first, _ = self._listener.accept()
        ahead = socket.create_connection(self._to)
        with first, ahead:
            back = threading.Thread(target=self._pass, args=(ahead, first))
            back.start()
            with suppress(OSError):
                while data := first.recv(1 << 16):
                    self.kept += data
                    ahead.sendall(data)
            with suppress(OSError):
                ahead.shutdown(socket.SHUT_RDWR)
            back.join(LONG)

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # either end may be gone

    def close(self) -> None:
        self._thread.join(LONG)
        self._stack.close()


def replay(to: str, kept: bytes) -> bytes:
    """What is answered to bytes that somebody has recorded."""
    with socket.create_connection(split_address(to), LONG) as sock:
        sock.sendall(kept)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while data := sock.recv(1 << 16):
                answer += data
        except ConnectionResetError:
            pass
        return answer


def test_a_recorded_link(secured: Secured, tally: Tally) -> None:
    b = secured.run("b")
    with closing(Recorder(b.listen)) as recorder:
        a = secured.run("a", "--peer", recorder.address)
        b.logged("node linked")
        a.stop()
    assert recorder.kept.startswith(preamble.MAGIC[:4])
    for _ in range(3):
        assert replay(b.listen, recorder.kept)
    one_refusal(b, "bad-tls")
    assert len(b.events("node linked")) == 1
    tally("a recorded link", 3, len(b.events("node linked")) - 1, len(refusals(b)))


def test_a_recorded_call(secured: Secured, tally: Tally) -> None:
    """The token is used up; and even if it were not, the recording answers another handshake."""
    a, b = secured.pair()
    with served(b), closing(Recorder(b.listen)) as recorder:

        async def main() -> None:
            async with attached(a) as caller:
                await serving(caller, "x.X", "b")
                answer, _sock = await caller.open("x.X")
                _sock.close()
                request = node_pb2.OpenRequest(target=node_pb2.ResolveRequest(service="x.X"))
                message, _ = await caller.connection.call("/ipcd.v1.Node/Open", request.SerializeToString())
                answer = node_pb2.OpenReply.FromString(message)
                sock = await dial(recorder.address, answer.token)
                context = tls.context(answer.tls.chain, answer.tls.key, answer.tls.authorities, server_side=False)
                wire = tls.TlsWire(sock, peer="b", context=context, server_side=False, expected=answer.tls.peer)
                connection = Connection(wire, Settings(), dialer=True)
                await connection.handshake()
                data, _ = await connection.call("/x.X/Who", b"")
                assert json.loads(data)[0] == [f"spiffe://{CLUSTER}/node/a/uid/{os.getuid()}"]
                await connection.close()

        run(main)
    before = len(refusals(b))
    answer = replay(b.listen, recorder.kept)
    assert b"bad-token" in answer
    assert len(refusals(b)) == before + 1
    tally("a recorded call", 1, 0, len(refusals(b)) - before)


# -- settings, and what changes while nodes run ---------------------------------------------------


def failure(secured: Secured, *arguments: str) -> str:
    """What a daemon says that does not start."""
    daemon = secured.daemons.start("a", *arguments)
    assert daemon.process.wait(LONG) == 2
    return daemon.text()


def test_settings_that_do_not_go_together(secured: Secured) -> None:
    file = secured.file("a")
    assert "choose one of the two" in failure(secured, "--identity", file, "--insecure")
    assert f"--node: a is not what {secured.file('b')} is for: b" in failure(secured, "--identity", secured.file("b"))
    assert "--cluster: other is not what" in failure(secured, "--identity", file, "--cluster", "other")
    assert "no such file" in failure(secured, "--identity", "/nowhere.pem").lower()
    assert "carry no proof of identity" in failure(secured, "--identity", file, "--grpc-listen", "0.0.0.0:0")
    Path(file).chmod(0o644)
    assert "others" in failure(secured, "--identity", file)


def test_listens_anywhere_with_a_certificate(secured: Secured) -> None:
    daemon = secured.run("a", "--listen", "0.0.0.0:0")
    assert daemon.listen.startswith("0.0.0.0:")
    assert daemon.events("insecure: connections from other machines carry no proof of identity") == []


def test_the_authority_is_replaced_while_nodes_run(secured: Secured) -> None:
    """Node by node, by SIGHUP: each pair of old and new is linked, and calls go on."""
    a, b = secured.pair()
    with served(b):
        assert asked(a)[1]["transport_security_type"] == ["tls"]
        secured.authority.rotate()
        for daemon in (a, b):
            secured.file(daemon.node)
            daemon.process.send_signal(signal.SIGHUP)
            daemon.logged("reloaded")
            assert asked(a)[1]["transport_security_type"] == ["tls"]
        c = secured.run("c", "--peer", b.listen, "--peer", a.listen)

        async def main() -> None:
            async with attached(c) as client:
                await linked(client, "a", "b")

        run(main)
        assert asked(c)[1]["transport_security_type"] == ["tls"]


def test_an_identity_file_that_is_of_no_use_is_not_taken(secured: Secured) -> None:
    a, _ = secured.pair()
    for content, words in ((b"nothing", "there is neither"), (secured.authority.issue("c").content, "is for: c")):
        file = secured.file("a", content)
        a.process.send_signal(signal.SIGHUP)
        assert file in a.logged("reload failed, the settings stay as they were", words)["reason"]


def test_who_has_a_certificate_of_an_authority_that_is_no_longer_trusted(secured: Secured) -> None:
    """A link that is up does not outlive the trust that it rests on."""
    a, b = secured.pair()
    secured.authority.rotate()
    secured.authority.retire()
    secured.file("b")
    b.process.send_signal(signal.SIGHUP)
    b.logged("node gone", "trusts other authorities")
    assert "certificate" in b.logged("link refused")["reason"]
    secured.file("a")
    a.process.send_signal(signal.SIGHUP)
    # Where both dial at one time, two are made, of which one stays.
    eventually(lambda: len(a.events("node linked")) >= 2, "they are linked again")
