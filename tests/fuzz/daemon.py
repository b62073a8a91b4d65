"""What the daemon hears: of other nodes over their links, and of processes over its socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Sequence
from typing import Any, cast

from fuzz.protos import messages, serialized
from fuzz.registry import target
from fuzz.script import Script, blocks
from google.protobuf.message import DecodeError
from grpc.aio import EOF
from hypothesis import strategies as st
from ipcd_client.aio.context import ServicerContext
from ipcd_client.errors import IpcdError
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2
from ipcd_client.wire.fds import Fd, close_all
from ipcd_client.wire.tcp import split_address
from support.everybody import EVERYBODY

from ipcd import limits
from ipcd.access import Access
from ipcd.broker import Broker
from ipcd.log import Log
from ipcd.parties import Attached, NoLinks
from ipcd.peer import hello_of, reachable
from ipcd.servicer import NodeServicer
from ipcd.state import members as state
from ipcd.state.catalog import Catalog
from ipcd.state.clock import ClockTalk
from ipcd.state.exchange import QUEUED, Exchange, Outbox
from ipcd.state.members import Link, Members

NODE_WORDS = (
    b"\n\x01b",
    b"\n\x01a",
    b"b:7",
    b"a.0",
    b"b.0123456789abcdef",
    b"x.X",
    b"\x1a\x05x.X/y",
    b"\xff\xff\xff\xff\x0f",
    b"n" * 300,
)
_HELLO = peer_pb2.LinkMessage(
    hello=peer_pb2.PeerHello(node="b", incarnation="b", cluster="c", version="1.0", address="b:7")
)


class _Peer:
    """Another node's link, as far as the pure parts go."""

    def __init__(self, name: str, link: Link, outbox: Outbox) -> None:
        self.name, self.link, self.outbox, self.clock = name, link, outbox, ClockTalk()


class _World:
    """What a node keeps of others, fed as `links` and `link_keeper` feed it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.members = Members("a", "a-incarnation", "c", "a:7")
        self.catalog = Catalog("a", limit=8)
        self.catalog.put(node_pb2.Server(id="a.1", process=node_pb2.Process(node="a"), services=["x.X"]))
        self.exchange = Exchange(self.members, self.catalog, split_address)
        self.peers: dict[int, _Peer] = {}
        self.said: list[object] = []

    def hear(self, number: int, message: peer_pb2.LinkMessage) -> None:
        """A message of the connection `number`. What is not allowed ends that."""
        peer = self.peers.get(number)
        try:
            if peer is None:
                self._greet(number, hello_of(message))
            elif not peer.clock.hear(message, self.now, self.now):
                heard = self.exchange.hear(peer.link, message)
                for known in heard.nodes:
                    with contextlib.suppress(limits.LimitReached):
                        self.members.found(known.address, state.LEARNED, self.now, known.node, known.incarnation)
        except IpcdError as error:
            self.said.append(str(error))
            self._end(number)
        self._speak()

    def _greet(self, number: int, hello: peer_pb2.PeerHello) -> None:
        remote = "10.0.0.1:7"
        try:
            old = self.members.judge(hello, remote, bool(number & 1), self.now)
        except state.Refused as error:
            self.members.refused(hello, remote, str(error), self.now)
            raise
        for other, peer in list(self.peers.items()):
            if peer.link is old:
                del self.peers[other]
                self.exchange.unlinked(old, self.now)
        address = reachable(hello.address, remote)
        link = Link(hello.node, hello.incarnation, hello.version, address, remote, bool(number & 1), self.now, self.now)
        self.peers[number] = _Peer(hello.node, link, self.exchange.linked(link, lambda: None))
        self.peers[number].clock.ask()

    def _end(self, number: int) -> None:
        peer = self.peers.pop(number, None)
        if peer is not None and self.exchange.unlinked(peer.link, self.now):
            self.catalog.forget(peer.link.node)

    def _speak(self) -> None:
        for peer in self.peers.values():
            for _ in range(QUEUED + 8):
                message = peer.clock.next(self.now, self.now) or peer.outbox.next(self.catalog.whole)
                if message is None:
                    break
                self.said.append(message.WhichOneof("message"))
            else:
                raise AssertionError("it never stops to talk")

    def check(self) -> None:
        """What another node can have us keep is bounded."""
        members = self.members
        assert len(members.addresses) <= limits.ADDRESSES
        assert len(members.refusals) <= limits.REFUSALS
        for entry in members.addresses.values():
            assert len(entry.address) + len(entry.node) + len(entry.incarnation) <= 4 * limits.NAME, entry
        for refusal in members.refusals.values():
            assert len(refusal.node) + len(refusal.incarnation) + len(refusal.address) <= 4 * limits.NAME, refusal
            assert len(refusal.error) <= 8 * limits.NAME
        for node in {peer.name for peer in self.peers.values()}:
            assert self.catalog.count(node) <= 8
            assert node != "a"
        for server in self.catalog.servers():
            assert len(server.id) + len(server.name) <= 4 * limits.NAME, "the text of a server"
        infos = members.infos(self.now)
        for info in infos:
            info.SerializeToString()
        for one in members.known():
            assert split_address(one.address)


_link_messages = messages(peer_pb2.LinkMessage).map(lambda one: one.SerializeToString())


@target(
    "link",
    st.lists(st.one_of(_link_messages, st.just(_HELLO.SerializeToString())), max_size=6).map(
        lambda told: (
            b"\0"
            + b"".join(
                bytes((number & 1,)) + blocks(one) for number, one in enumerate([_HELLO.SerializeToString(), *told])
            )
        )
    ),
    words=(*NODE_WORDS, b"\0" + blocks(_HELLO.SerializeToString()), b"i" * 2000),
    largest=8192,
)
def _link(data: bytes) -> object:
    """Two other nodes may be linked, each of which says anything."""
    script = Script(data)
    world = _World()
    while script:
        number = script.number()
        world.now += (number >> 4) / 4
        try:
            message = peer_pb2.LinkMessage.FromString(script.block())
        except DecodeError:
            world._end(number & 3)
            continue
        world.hear(number & 3, message)
        world.check()
    return world.said[:200]


_loop = asyncio.new_event_loop()


def _run(coroutine: Coroutine[Any, Any, object]) -> object:
    return _loop.run_until_complete(coroutine)


class _Context:
    """A call's, as far as the servicer speaks to it."""

    carries_fds = True

    def __init__(self, identity: object, requests: Sequence[node_pb2.RegisterRequest]) -> None:
        self.peer_identity = identity
        self.requests = list(requests)
        self.fds: list[Fd] = []
        self.said: list[object] = []

    async def read(self) -> object:
        return self.requests.pop(0) if self.requests else EOF

    async def write(self, message: Any) -> None:
        self.said.append(message.SerializeToString())

    def write_now(self, message: Any, fds: Sequence[Fd]) -> bool:
        self.said.append(message.WhichOneof("event"))
        close_all(fds)
        return True

    def attach_fds(self, fds: Sequence[Fd]) -> None:
        close_all(fds)

    def why_cancelled(self) -> str:
        return ""


class _Links(NoLinks):
    """One other node, which answers what it likes when it is asked for an introduction."""

    answer = peer_pb2.IntroduceReply()

    def names(self) -> Sequence[str]:
        return ["b"]

    async def introduce(self, node: str, request: peer_pb2.IntroduceRequest) -> tuple[peer_pb2.IntroduceReply, str]:
        return self.answer, "b:7"


class _Daemon:
    """A broker, with a server registered, and a process attached."""

    def __init__(self) -> None:
        self.now = 0.0
        # Anybody may do anything: what is tried is what gets past the rules.
        access = Access("default", "a", Log("a"), [EVERYBODY])
        self.broker = Broker("a", Catalog("a"), Log("a"), lambda: self.now, access=access)
        self.broker.address = "127.0.0.1:7"
        self.links = self.broker.links = _Links()
        there = node_pb2.Server(id="b.1", process=node_pb2.Process(node="b"), services=["x.X", "b"])
        self.broker.catalog.apply("b", "i", peer_pb2.CatalogUpdate(revision=1, full=True, servers=[there]))
        self.attached = self.broker.attach(node_pb2.Process(node="a", pid=1, uid=1))
        request = node_pb2.RegisterRequest(name="n", services=["x.X"], instance="0123456789abcdef")
        server = self.broker.attach(node_pb2.Process(node="a", pid=2, uid=1))
        self.broker.register(server, request, cast("ServicerContext", _Context(server, ())))
        self.servicer = NodeServicer(self.broker, node_pb2.StatusReply(), list)

    def context(self, *requests: node_pb2.RegisterRequest) -> Any:
        return _Context(self.attached, requests)

    def check(self) -> None:
        """What is kept of a process."""
        attached: Attached = self.attached
        assert attached.registered <= limits.SERVERS_PER_CONNECTION
        assert attached.waiting == 0
        assert len(attached.reach._known) <= limits.NODES
        assert all(len(service) <= limits.NAME for service in attached.opened)
        assert all(len(server_id) <= 2 * limits.NAME for server_id in (*self.broker._turns, *attached.granted))
        for server in self.broker.catalog.servers():
            assert len(server.name) <= limits.NAME
            assert len(server.services) <= limits.SERVICES


_KINDS: tuple[tuple[str, Any], ...] = (
    ("Register", node_pb2.RegisterRequest),
    ("Open", node_pb2.OpenRequest),
    ("Resolve", node_pb2.ResolveRequest),
    ("ListCatalog", node_pb2.ListCatalogRequest),
    ("Introduce", peer_pb2.IntroduceRequest),
    ("Status", node_pb2.StatusRequest),
    ("answer", peer_pb2.IntroduceReply),
)
_requests = st.integers(0, len(_KINDS) - 1).flatmap(
    lambda kind: serialized(_KINDS[kind][1]).map(lambda one: bytes((kind,)) + blocks(one))
)


_ANSWER = peer_pb2.IntroduceReply(
    server=node_pb2.Server(id="b.1", process=node_pb2.Process(node="b")), token=bytes(16)
).SerializeToString()


@target(
    "requests",
    st.lists(_requests, max_size=4).map(b"".join),
    words=(
        *NODE_WORDS,
        b"0123456789abcdef",
        b"\x06" + blocks(_ANSWER),
        b"\x01" + blocks(b"\n\x08\n\x03x.X\x12\x01b"),
        b"\x01" + blocks(b"\n\x03\n\x01b"),
    ),
    largest=4096,
)
def _requests_of_a_process(data: bytes) -> object:
    """Each request as the servicer gets it, one after the other."""
    script = Script(data)
    daemon = _Daemon()
    said: list[object] = []
    while script:
        kind = script.number() % len(_KINDS)
        name, message = _KINDS[kind]
        try:
            request = message.FromString(script.block())
        except DecodeError:
            continue
        if name == "Open":
            request.wait = False
        try:
            if name == "Register":
                _run(daemon.servicer.Register(cast("Any", None), daemon.context(request, request)))
            elif name == "answer":
                daemon.links.answer = request
            elif name == "Introduce":
                reply = daemon.broker.introduce(request)
                with Fd(os.dup(1)) as sock:
                    said.append(daemon.broker.arrivals.arrived(reply.token, sock, "b:9"))
                    said.append(daemon.broker.arrivals.arrived(reply.token, sock, "b:9").partition(":")[0])
            else:
                answer: Any = _run(getattr(daemon.servicer, name)(request, daemon.context()))
                said.append(type(answer).__name__)
        except IpcdError as error:
            said.append(f"{type(error).__name__} {error.code}")
        daemon.check()
    return said
