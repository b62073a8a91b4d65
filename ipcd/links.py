"""Links with the other nodes: dialed and accepted, watched by heartbeat, and what is told over them.

Over each link both ends tell of their own servers, whole at first and then change by change, and of the nodes they
know. What a slow link has not taken is not queued without bound: it gets the whole again instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from google.protobuf.message import DecodeError
from grpc.aio import EOF
from ipcd_client import __version__
from ipcd_client.aio.connection import ClientStream, Connection
from ipcd_client.aio.context import ServicerContext
from ipcd_client.aio.server import Server
from ipcd_client.aio.waiters import Waiters
from ipcd_client.errors import IpcdError, NodeError, NotAllowed, WireClosed, WireError, WireTimeout
from ipcd_client.frame import preamble
from ipcd_client.frame import settings as frame_settings
from ipcd_client.frame.settings import Settings
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2, peer_pb2_grpc
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.wire.tcp import TcpWire, join_address, split_address, tune

from ipcd import limits
from ipcd.broker import Broker
from ipcd.log import Log
from ipcd.servicer import status_of
from ipcd.state import members as state
from ipcd.state.catalog import BadUpdate
from ipcd.state.members import Address, Link, Members

# Seconds.
DIAL: Final = 3.0
HELLO: Final = 5.0
HEARTBEAT: Final = 0.75
# How long a link that was replaced may finish what was asked over it.
LINGER: Final = 1.0
# Changes that wait for a slow link; then it gets the whole.
QUEUED: Final = 256
# Connections being dialed at one time.
DIALING: Final = 16

SETTINGS: Final = Settings(
    # The whole catalog of a node is one message.
    max_message=64 << 20,
    initial_window=1 << 20,
    max_streams=limits.STREAMS,
    software=f"ipcd {__version__}",
)
_INTRODUCE: Final = "/ipcd.v1.Peer/Introduce"
_LINK: Final = "/ipcd.v1.Peer/Link"


class Talk(Protocol):
    """The call `Peer.Link`, from either end."""

    async def send(self, message: peer_pb2.LinkMessage) -> None:
        """Sends, once there is credit."""

    async def receive(self) -> peer_pb2.LinkMessage | None:
        """The next message; None at the end."""


class _Called:
    """From the end that dialed. (Talk)"""

    def __init__(self, stream: ClientStream) -> None:
        self._stream = stream
        self._ahead: peer_pb2.LinkMessage | None = None

    def unread(self, message: peer_pb2.LinkMessage) -> None:
        """Puts the last message back."""
        self._ahead = message

    async def send(self, message: peer_pb2.LinkMessage) -> None:
        await self._stream.send(message.SerializeToString())

    async def receive(self) -> peer_pb2.LinkMessage | None:
        if self._ahead is not None:
            message, self._ahead = self._ahead, None
            return message
        data = await self._stream.receive()
        if data is None:
            return None
        try:
            return peer_pb2.LinkMessage.FromString(data)
        except DecodeError as error:
            raise BadUpdate(f"a LinkMessage does not parse: {error}") from error


class _Served:
    """From the end that accepted. (Talk)"""

    def __init__(self, context: ServicerContext) -> None:
        self._context = context

    async def send(self, message: peer_pb2.LinkMessage) -> None:
        await self._context.write(message)

    async def receive(self) -> peer_pb2.LinkMessage | None:
        message = await self._context.read()
        return None if message is EOF else message


class Peer:
    """The connection with another node. `link` is None until both have said who they are, and the link is kept."""

    def __init__(self, connection: Connection, remote: str, *, dialed: bool) -> None:
        self.connection = connection
        self.remote = remote
        self.dialed = dialed
        self.link: Link | None = None
        self.refusal: IpcdError | None = None
        self.settled = asyncio.Event()  # linked, refused or closed
        self.hurried = Waiters()  # there is something to tell
        self._updates: deque[peer_pb2.CatalogUpdate] = deque()
        self._whole = True
        self._resync = False
        self._known: list[peer_pb2.KnownNode] | None = None

    def tell(self, update: peer_pb2.CatalogUpdate) -> None:
        """Queues a change of our own servers."""
        if len(self._updates) < QUEUED:
            self._updates.append(update)
        else:
            self.tell_whole()
        self.hurried.progressed()

    def tell_whole(self) -> None:
        """Queues all of our own servers."""
        self._updates.clear()
        self._whole = True
        self.hurried.progressed()

    def tell_known(self, nodes: list[peer_pb2.KnownNode]) -> None:
        """Queues which nodes we know; the last word replaces those before."""
        self._known = nodes
        self.hurried.progressed()

    def ask_whole(self) -> None:
        """Queues that we want all of its servers."""
        self._resync = True
        self.hurried.progressed()

    def next(self, whole: Callable[[], peer_pb2.CatalogUpdate]) -> peer_pb2.LinkMessage | None:
        """What to tell it next."""
        if self._resync:
            self._resync = False
            return peer_pb2.LinkMessage(resync=peer_pb2.ResyncRequest())
        if self._whole:
            self._whole = False
            return peer_pb2.LinkMessage(update=whole())
        if self._updates:
            return peer_pb2.LinkMessage(update=self._updates.popleft())
        if self._known is not None:
            nodes, self._known = self._known, None
            return peer_pb2.LinkMessage(known=peer_pb2.KnownNodes(nodes=nodes))
        return None


class PeerServicer(peer_pb2_grpc.PeerServicer):
    """`ipcd.v1.Peer`, for nodes that are linked."""

    def __init__(self, links: PeerLinks, broker: Broker) -> None:
        self._links = links
        self._broker = broker

    async def Link(self, requests: object, context: ServicerContext) -> None:  # noqa: N802, ARG002
        """Holds the link."""
        peer: Peer = context.peer_identity
        if peer.dialed or peer.link is not None:
            raise NotAllowed(f"{peer.remote} opened Link, which only the dialing end does, and once")
        await self._links.accepted_link(peer, _Served(context))

    async def Introduce(  # noqa: N802
        self, request: peer_pb2.IntroduceRequest, context: ServicerContext
    ) -> peer_pb2.IntroduceReply:
        """Introduces a caller of the linked node to a server of this one."""
        peer: Peer = context.peer_identity
        if peer.link is None or request.caller.node != peer.link.node:
            who = peer.link.node if peer.link is not None else peer.remote
            raise NotAllowed(
                f"node {who} asked for a caller of node {request.caller.node!r}; the rule own-callers allows its own"
            )
        return self._broker.introduce(request)


class PeerLinks:
    """All links of a node. (broker.Links)

    `address`: where this node tells others to dial it.
    """

    def __init__(self, members: Members, broker: Broker, log: Log, address: str) -> None:
        self.members = members
        self.on_changed: Callable[[], None] | None = None  # a node came or went
        self._broker = broker
        self._log = log
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._peers: dict[Link, Peer] = {}
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = Waiters()
        self._stopping = False
        self._complaints: dict[str, str] = {}
        self._server = Server(status_of=status_of)
        peer_pb2_grpc.add_PeerServicer_to_server(PeerServicer(self, broker), self._server)
        self._spawn(self._dial_all())

    # -- for the broker and the node --------------------------------------------------------------

    def names(self) -> Sequence[str]:
        """Nodes there is a link with."""
        return list(self.members.links)

    def tell(self, update: peer_pb2.CatalogUpdate) -> None:
        """Tells every node of a change of our own servers."""
        for peer in self._peers.values():
            peer.tell(update)

    async def introduce(self, node: str, request: peer_pb2.IntroduceRequest) -> tuple[peer_pb2.IntroduceReply, str]:
        """Asks a node for an introduction: its answer, and the HOST:PORT at which its token is good.

        Raises:
            IpcdError: it cannot be asked, or refused.
        """
        link = self.members.links.get(node)
        if link is None:
            raise NodeError("there is no link with it")
        data, _ = await self._peers[link].connection.call(
            _INTRODUCE, request.SerializeToString(), timeout=limits.INTRODUCE
        )
        try:
            return peer_pb2.IntroduceReply.FromString(data), link.address
        except DecodeError as error:
            raise NodeError(f"its reply does not parse: {error}") from error

    def found(self, address: str, source: str, node: str = "", incarnation: str = "") -> None:
        """A node may be at `address`."""
        try:
            news = self.members.found(address, source, self._loop.time(), node, incarnation)
        except limits.LimitReached as error:
            self._complain(source, "node not taken up", address=address, reason=error)
            return
        if news:
            self._log.debug("node found", node=node, address=address, source=source)
            self._wake.progressed()

    def lost(self, address: str, source: str) -> None:
        """`source` knows of no node at `address` any more."""
        self.members.lost(address, source)

    def configure(self, addresses: tuple[str, ...]) -> None:
        """These are the configured peers now."""
        self.members.configured(addresses, self._loop.time())
        self._wake.progressed()

    def infos(self) -> list[node_pb2.NodeInfo]:
        """The other nodes."""
        infos = self.members.infos(self._loop.time())
        for info in infos:
            info.servers = self._broker.catalog.count(info.node) if info.state != info.STATE_CONNECTING else 0
        return infos

    async def close(self) -> None:
        """Ends all links."""
        self._stopping = True
        for connection in list(self._connections):
            connection.drain(f"node {self.members.node} is stopping")
            await connection.close(f"node {self.members.node} has stopped", timeout=0.5)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._server.stop()

    # -- dialing ----------------------------------------------------------------------------------

    async def _dial_all(self) -> None:
        slots = asyncio.Semaphore(DIALING)
        while True:
            entry, soonest = self.members.next_due(self._loop.time())
            if entry is None:
                timeout = None if soonest is None else max(0.0, soonest - self._loop.time())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await self._wake.wait()
                continue
            entry.dialing = True
            await slots.acquire()
            task = self._spawn(self._dial(entry))
            task.add_done_callback(lambda _: slots.release())

    async def _dial(self, entry: Address) -> None:
        try:
            peer, talk, hello, replaced = await self._dialed(entry)
        except state.Ourselves:
            self._log.debug("found this node itself", address=entry.address)
        except (IpcdError, OSError) as error:
            self._dial_failed(entry, error)
        else:
            entry.dialing = False
            entry.error = ""
            self._spawn(self._linked(peer, talk, hello, replaced, entry))
        finally:
            entry.dialing = False
            self._wake.progressed()

    def _dial_failed(self, entry: Address, error: IpcdError | OSError) -> None:
        news = self.members.failed(entry, str(error), self._loop.time(), random.random())
        if not news or _is_superfluous(error):
            return
        # What nobody configured comes and goes with its node.
        quiet = isinstance(error, WireError) and state.CONFIGURED not in entry.sources
        log = self._log.debug if quiet else self._log.warning
        log("no link", address=entry.address, node=entry.node, reason=error)

    async def _dialed(self, entry: Address) -> tuple[Peer, Talk, peer_pb2.PeerHello, Link | None]:
        sock = await self._connect(entry.address)
        peer = self._peer(sock, entry.address, dialed=True)
        connection = peer.connection
        try:
            async with asyncio.timeout(HELLO):
                await connection.handshake()
                talk = _Called(connection.stream(_LINK))
                await talk.send(peer_pb2.LinkMessage(hello=self._hello()))
                hello = _hello_of(await talk.receive())
                self.members.met(entry, hello.node, hello.incarnation)
                # The other end says who it is before it decides: it has decided when something follows.
                first = await talk.receive()
            if first is None:
                raise BadUpdate("the other end ended the link at once")
            talk.unread(first)
            replaced = self.members.judge(hello, entry.address, True, self._loop.time())
        except TimeoutError:
            error = WireTimeout(f"{entry.address} did not say who it is within {HELLO:g} s")
            connection.fail(error, goaway=frame_settings.GOAWAY_TIMEOUT)
            raise error from None
        except BaseException as error:
            connection.fail(error if isinstance(error, IpcdError) else WireClosed("the dial was given up"))
            raise
        return peer, talk, hello, replaced

    async def _connect(self, address: str) -> socket.socket:
        host, port = split_address(address)
        try:
            async with asyncio.timeout(DIAL):
                found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                family, kind, protocol, _, place = found[0]
                sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
                try:
                    await self._loop.sock_connect(sock, place)
                    tune(sock)
                    await self._loop.sock_sendall(sock, preamble.pack(preamble.PEER))
                except BaseException:
                    sock.close()
                    raise
        except TimeoutError:
            raise WireTimeout(f"{address} did not answer within {DIAL:g} s") from None
        except OSError as error:
            # asyncio has words of its own for what the system says.
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
            raise WireError(f"cannot connect to {address}: {why}") from error
        return sock

    def _peer(self, sock: socket.socket, remote: str, *, dialed: bool) -> Peer:
        connection = Connection(
            TcpWire(sock, peer=f"node {'at' if dialed else 'from'} {remote}"),
            SETTINGS,
            dialer=dialed,
            hello_timeout=limits.HELLO,
            backlog_most=SETTINGS.max_message + limits.BACKLOG,
        )
        peer = Peer(connection, remote, dialed=dialed)
        self._connections.add(connection)

        def closed(_error: IpcdError) -> None:
            self._connections.discard(connection)
            peer.settled.set()

        connection.on_closed = closed
        self._server.serve(connection, peer)
        return peer

    # -- accepting --------------------------------------------------------------------------------

    async def accept(self, sock: socket.socket, remote: str) -> None:
        """Takes over a connection of a node that dialed. Returns when the link is up, or is not to be."""
        peer = self._peer(sock, remote, dialed=False)
        connection = peer.connection
        try:
            async with asyncio.timeout(HELLO):
                await peer.settled.wait()
        except TimeoutError:
            error = WireTimeout(f"no-link: {remote} did not say who it is within {HELLO:g} s")
            connection.fail(error, goaway=frame_settings.GOAWAY_TIMEOUT)
        if peer.link is None and not isinstance(peer.refusal, (state.Superfluous, state.Ourselves)):
            reason = peer.refusal or connection.error
            self._complain(remote.rpartition(":")[0], "link refused", peer=remote, reason=reason)

    async def accepted_link(self, peer: Peer, talk: Talk) -> None:
        """The dialing end has opened the link's call: holds it until its end.

        Raises:
            IpcdError: the link is refused.
        """
        try:
            hello = _hello_of(await talk.receive())
            # Said before it is judged, so that the other end knows whom it met there, and need not try again.
            await talk.send(peer_pb2.LinkMessage(hello=self._hello()))
            replaced = self.members.judge(hello, peer.remote, False, self._loop.time())
        except IpcdError as error:
            peer.refusal = error
            peer.settled.set()
            # Time for the refusal to arrive; the other end closes when it has read it.
            self._loop.call_later(LINGER, peer.connection.fail, error)
            raise
        await self._linked(peer, talk, hello, replaced, None)

    # -- a link -----------------------------------------------------------------------------------

    async def _linked(
        self,
        peer: Peer,
        talk: Talk,
        hello: peer_pb2.PeerHello,
        replaced: Link | None,
        entry: Address | None,
    ) -> None:
        now = self._loop.time()
        address = entry.address if entry is not None else _reachable(hello.address, peer.remote)
        link = peer.link = Link(
            node=hello.node,
            incarnation=hello.incarnation,
            version=hello.version,
            address=address,
            remote=peer.remote,
            dialed=peer.dialed,
            since=now,
            heard=now,
            source=state.INBOUND if entry is None else (min(entry.sources, key=_rank) if entry.sources else ""),
        )
        self.members.linked(link)
        self._peers[link] = peer
        self._complaints.pop(link.node, None)
        if replaced is not None:
            self._retire(replaced)
        self._log.info(
            "node linked",
            peer=link.node,
            address=link.address or link.remote,
            incarnation=link.incarnation,
            dialed=link.dialed,
            source=link.source,
        )
        if entry is None and address:
            # To be dialed when this link is gone.
            self.found(address, state.LEARNED, link.node, link.incarnation)
        self._tell_known()
        peer.settled.set()
        self._broker.changed.progressed()
        self._changed()
        work = [
            self._loop.create_task(self._send(peer, talk)),
            self._loop.create_task(self._receive(peer, link, talk)),
            self._loop.create_task(self._heartbeat(peer, link)),
        ]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            ended = await asyncio.gather(*work, return_exceptions=True)
            self._unlinked(peer, link, next((e for e in ended if isinstance(e, IpcdError)), None))
            for error in ended:
                if isinstance(error, Exception) and not isinstance(error, IpcdError):
                    raise error

    def _unlinked(self, peer: Peer, link: Link, cause: IpcdError | None) -> None:
        error = peer.connection.error or cause or WireClosed("the other end ended the link")
        peer.connection.fail(error, goaway=frame_settings.GOAWAY_VIOLATION if isinstance(cause, BadUpdate) else None)
        del self._peers[link]
        if self.members.unlinked(link, self._loop.time()) and not self._stopping:
            self._broker.forget_node(link.node)
            log = self._log.warning if not isinstance(error, WireClosed) else self._log.info
            log("node gone", peer=link.node, address=link.address or link.remote, reason=error)
        self._wake.progressed()
        self._changed()

    def _retire(self, link: Link) -> None:
        """A link that was replaced goes when what was asked over it is answered."""
        peer = self._peers.get(link)
        if peer is not None:
            self._loop.call_later(LINGER, peer.connection.fail, WireClosed("the link was replaced by another"))

    async def _send(self, peer: Peer, talk: Talk) -> None:
        while True:
            message = peer.next(self._broker.catalog.whole)
            if message is None:
                await peer.hurried.wait()
            else:
                await talk.send(message)

    async def _receive(self, peer: Peer, link: Link, talk: Talk) -> None:
        while (message := await talk.receive()) is not None:
            kind = message.WhichOneof("message")
            if kind == "update":
                if self.members.links.get(link.node) is not link:
                    continue  # replaced: the other link tells it
                if self._broker.catalog.apply(link.node, link.incarnation, message.update):
                    self._broker.changed.progressed()
                else:
                    peer.ask_whole()
            elif kind == "resync":
                peer.tell_whole()
            elif kind == "known":
                self._learn(link, message.known.nodes)
            elif kind == "hello":
                raise BadUpdate(f"node {link.node} said hello twice")

    def _learn(self, link: Link, nodes: Sequence[peer_pb2.KnownNode]) -> None:
        for known in nodes[: limits.NODES]:
            if known.incarnation == self.members.incarnation or known.node == link.node:
                continue
            linked = self.members.links.get(known.node)
            if linked is not None and linked.incarnation == known.incarnation:
                continue
            try:
                limits.check_name("node", known.node)
                limits.check_name("incarnation", known.incarnation)
                split_address(known.address)
            except IpcdError as error:
                raise BadUpdate(f"node {link.node} tells of a node at {known.address!r}: {error}") from error
            self.found(known.address, state.LEARNED, known.node, known.incarnation)

    async def _heartbeat(self, peer: Peer, link: Link) -> None:
        connection = peer.connection
        while True:
            start = self._loop.time()
            try:
                link.rtt = await connection.ping(HEARTBEAT)
            except WireTimeout:
                pass
            now = self._loop.time()
            link.heard = connection.heard
            silence = now - link.heard
            if silence >= state.DEAD:
                error = WireTimeout(f"heartbeat: node {link.node} is silent for {silence:.1f} s")
                connection.fail(error, goaway=frame_settings.GOAWAY_TIMEOUT)
                raise error
            if link.suspect != (silence >= state.SUSPECT):
                link.suspect = not link.suspect
                words = "node suspected" if link.suspect else "node is back"
                self._log.info(words, peer=link.node, silence=silence)
            await asyncio.sleep(max(0.0, start + HEARTBEAT - now))

    # -- inside -----------------------------------------------------------------------------------

    def _hello(self) -> peer_pb2.PeerHello:
        return peer_pb2.PeerHello(
            node=self.members.node,
            incarnation=self.members.incarnation,
            cluster=self.members.cluster,
            version=__version__,
            address=self._address,
        )

    def _tell_known(self) -> None:
        known = self.members.known()
        for peer in self._peers.values():
            peer.tell_known(known)

    def _changed(self) -> None:
        if self.on_changed is not None and not self._stopping:
            self.on_changed()

    def _complain(self, who: str, event: str, **fields: object) -> None:
        """Warns, but not again and again of the same."""
        text = str(fields.get("reason"))
        if self._complaints.get(who) != text:
            if len(self._complaints) > limits.NODES:
                self._complaints.clear()
            self._complaints[who] = text
            self._log.warning(event, **fields)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._log.error("a task failed", reason=repr(task.exception()))


def _is_superfluous(error: Exception) -> bool:
    """The refusal of a link that is not needed, by us or by the other end."""
    return isinstance(error, state.Superfluous) or (
        isinstance(error, CallFailed) and error.code is state.Superfluous.code
    )


def _rank(source: str) -> int:
    return (state.CONFIGURED, state.ZEROCONF, state.LEARNED, state.REMEMBERED).index(source)


def _hello_of(message: peer_pb2.LinkMessage | None) -> peer_pb2.PeerHello:
    if message is None or not message.HasField("hello"):
        raise BadUpdate("the link does not begin with a hello")
    return message.hello


def _reachable(told: str, remote: str) -> str:
    """Where a node that dialed us can be dialed: it may only know that it listens on every address."""
    try:
        host, port = split_address(told)
    except IpcdError:
        return ""
    if host in {"0.0.0.0", "::", ""}:
        host = split_address(remote)[0]
    return join_address(host, port)
