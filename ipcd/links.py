"""Links with the other nodes: what the broker and the node see of them, which one there is to be, and what comes of its
coming and going.

Dialed in dialing.py, held in link_keeper.py, asked over by the other end in peer_servicer.py.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError, Message
from ipcd_client import __version__
from ipcd_client.access import identity
from ipcd_client.aio.dispatch import Server
from ipcd_client.errors import ConfigError, IpcdError, NodeError, NotAllowed, WireClosed, WireTimeout
from ipcd_client.frame import settings as frame_settings
from ipcd_client.frame.settings import Settings
from ipcd_client.loop.connection import Connection
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2, peer_pb2_grpc, signal_pb2
from ipcd_client.wire.tcp import TcpWire, split_address

from ipcd import limits
from ipcd.broker import Broker
from ipcd.dialing import HELLO, Dialer
from ipcd.link_keeper import LinkKeeper
from ipcd.log import Log
from ipcd.peer import Peer, Talk, hello_of, reachable
from ipcd.peer_servicer import PeerServicer
from ipcd.servicer import CallQuota, status_of
from ipcd.state import members as state
from ipcd.state import quota
from ipcd.state.catalog import BadUpdate
from ipcd.state.exchange import Exchange, Outbox
from ipcd.state.members import Address, Link, Members

if TYPE_CHECKING:
    from ipcd.security import Security

# Seconds that a link that was replaced may finish what was asked over it.
LINGER: Final = 1.0

SETTINGS: Final = Settings(
    # The whole catalog of a node is one message. Whoever can connect can make us keep this much for each stream.
    max_message=8 << 20,
    max_streams=64,
    software=f"ipcd {__version__}",
)
_INTRODUCE: Final = "/ipcd.v1.Peer/Introduce"
_CONNECT_BACK: Final = "/ipcd.v1.Peer/ConnectBack"
_CLAIM: Final = "/ipcd.v1.Peer/Claim"
_RAISE: Final = "/ipcd.v1.Peer/Raise"
_CHASE: Final = "/ipcd.v1.Peer/Chase"


class PeerLinks:
    """All links of a node. (parties.Links)

    `address`: where this node tells others to dial it. `security`: this node's certificate; with it, every link is TLS,
    and a node is who its certificate says.
    """

    def __init__(
        self, members: Members, broker: Broker, log: Log, address: str, security: Security | None = None
    ) -> None:
        self.members = members
        self.on_changed: Callable[[], None] | None = None  # a node came or went
        self.standing = ""  # what stands for who a linked node is, as NodeInfo has it
        self._broker = broker
        self._log = log
        self._address = address
        self._security = security
        self._loop = asyncio.get_running_loop()
        self._exchange = Exchange(members, broker.catalog, split_address)
        self._peers: dict[Link, Peer] = {}
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._complaints: dict[str, str] = {}
        self._server = Server(status_of=status_of, quota=CallQuota(broker.quotas.calls))
        peer_pb2_grpc.add_PeerServicer_to_server(PeerServicer(self, broker), self._server)
        self._dialer = Dialer(self, members, log)
        self.spawn(self._dialer.run())

    # -- for the broker and the node --------------------------------------------------------------

    def names(self) -> Sequence[str]:
        """Nodes there is a link with."""
        return list(self.members.links)

    def tell(self, update: peer_pb2.CatalogUpdate) -> None:
        """Tells every node of a change of our own servers."""
        self._exchange.tell(update)

    async def introduce(self, node: str, request: peer_pb2.IntroduceRequest) -> tuple[peer_pb2.IntroduceReply, str]:
        """Asks a node for an introduction: its answer, and the HOST:PORT at which its token is good.

        Raises:
            IpcdError: it cannot be asked, or refused.
        """
        data, link = await self._ask(node, _INTRODUCE, request)
        try:
            return peer_pb2.IntroduceReply.FromString(data), link.address
        except DecodeError as error:
            raise NodeError(f"its reply does not parse: {error}") from error

    async def connect_back(self, node: str, request: peer_pb2.ConnectBackRequest) -> None:
        """Asks a node to dial this one.

        Raises:
            IpcdError: it cannot be asked, or could not.
        """
        await self._ask(node, _CONNECT_BACK, request)

    async def claim(self, node: str, request: peer_pb2.ClaimRequest) -> str:
        """Asks a node whether we may make a named thing: the node that has it or makes it, or "".

        Raises:
            IpcdError: it cannot be asked.
        """
        data, _ = await self._ask(node, _CLAIM, request)
        try:
            holder = peer_pb2.ClaimReply.FromString(data).holder
        except DecodeError as error:
            raise NodeError(f"its reply does not parse: {error}") from error
        if holder not in {"", node}:
            raise NodeError(f"it speaks for node {holder[: limits.NAME]!r}")
        return holder

    async def raise_flag(self, node: str, request: peer_pb2.PeerRaiseRequest) -> signal_pb2.Told:
        """Asks a node to raise a flag at those who listen there.

        Raises:
            IpcdError: it cannot be asked, or refused.
        """
        data, _ = await self._ask(node, _RAISE, request)
        try:
            return signal_pb2.Told.FromString(data)
        except DecodeError as error:
            raise NodeError(f"its reply does not parse: {error}") from error

    async def chase(self, node: str, request: peer_pb2.ChaseRequest) -> None:
        """Asks a node who waits there for locks of the parties of some sessions.

        Raises:
            IpcdError: it cannot be asked.
        """
        await self._ask(node, _CHASE, request)

    def unlinked(self) -> Sequence[str]:
        """Nodes that are known, and there is no link with."""
        known = {info.node for info in self.infos() if info.node}
        return sorted(known - self.members.links.keys() - {self.members.node})

    async def _ask(self, node: str, method: str, request: Message) -> tuple[bytes, Link]:
        link = self.members.links.get(node)
        if link is None:
            raise NodeError("there is no link with it")
        peer = self._peers[link]
        try:
            async with asyncio.timeout(limits.INTRODUCE), peer.introductions:
                data, _ = await peer.connection.call(method, request.SerializeToString())
        except TimeoutError:
            raise WireTimeout(f"it did not answer within {limits.INTRODUCE:g} s") from None
        return data, link

    def found(self, address: str, source: str, node: str = "", incarnation: str = "") -> None:
        """A node may be at `address`."""
        try:
            news = self.members.found(address, source, self._loop.time(), node, incarnation)
        except limits.LimitReached as error:
            self.complain(source, "node not taken up", address=address, reason=error)
            return
        if news:
            self._log.debug("node found", peer=node, address=address, source=source)
            self._dialer.wake.progressed()

    def lost(self, address: str, source: str) -> None:
        """`source` knows of no node at `address` any more."""
        self.members.lost(address, source)

    def configure(self, addresses: tuple[str, ...]) -> None:
        """These are the configured peers now."""
        self._dialer.configure(addresses)

    def infos(self) -> list[node_pb2.NodeInfo]:
        """The other nodes."""
        infos = self.members.infos(self._loop.time())
        for info in infos:
            linked = info.state != info.STATE_CONNECTING
            info.servers = self._broker.catalog.count(info.node) if linked else 0
            info.security = self.standing if linked else ""
        return infos

    def relink(self, why: str) -> None:
        """Ends all links; those that are still possible are made anew."""
        for peer in list(self._peers.values()):
            peer.connection.fail(WireClosed(why))

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

    # -- a connection -----------------------------------------------------------------------------

    def peer(self, sock: socket.socket, remote: str, *, dialed: bool) -> Peer:
        """Who is on the other end of a connection, which it owns and serves from now on."""
        owner = quota.node(remote)
        guard = self._broker.quotas.guard(owner)
        connection = Connection(
            self._wire(sock, f"node {'at' if dialed else 'from'} {remote}", dialed=dialed),
            SETTINGS,
            dialer=dialed,
            hello_timeout=limits.HELLO,
            backlog_most=SETTINGS.max_message + limits.BACKLOG,
            guard=guard,
        )
        peer = Peer(connection, remote, owner, dialed=dialed)
        self._connections.add(connection)

        def closed(_error: IpcdError) -> None:
            guard.close()
            self._connections.discard(connection)
            peer.settled.set()

        connection.on_closed = closed
        self._server.serve(connection, peer)
        return peer

    def _wire(self, sock: socket.socket, peer: str, *, dialed: bool) -> TcpWire:
        if self._security is None:
            return TcpWire(sock, peer=peer)
        try:
            return self._security.wire(sock, peer, server_side=not dialed)
        except BaseException:
            sock.close()
            raise

    async def accept(self, sock: socket.socket, remote: str) -> None:
        """Takes over a connection of a node that dialed. Returns when the link is up, or is not to be."""
        try:
            peer = self.peer(sock, remote, dialed=False)
        except ConfigError as unusable:
            self.complain("identity", "link refused", peer=remote, reason=unusable)
            return
        connection = peer.connection
        try:
            async with asyncio.timeout(HELLO):
                await peer.settled.wait()
        except TimeoutError:
            error = WireTimeout(f"no-link: {remote} did not say who it is within {HELLO:g} s")
            connection.fail(error, goaway=frame_settings.GOAWAY_TIMEOUT)
        if peer.link is None and not isinstance(peer.refusal, (state.Superfluous, state.Ourselves)):
            host = remote.rpartition(":")[0]
            # Each try comes from another port, and is the same complaint.
            reason = str(peer.refusal or connection.error).replace(remote, host)
            self.complain(host, "link refused", peer=remote, reason=reason)

    async def accepted_link(self, peer: Peer, talk: Talk) -> None:
        """The dialing end has opened the link's call: holds it until its end.

        Raises:
            IpcdError: the link is refused.
        """
        try:
            hello = hello_of(await talk.receive())
            # Said before it is judged, so that the other end knows whom it met there, and need not try again.
            await talk.send(peer_pb2.LinkMessage(hello=self.hello()))
            replaced = self.judge(peer, hello)
        except IpcdError as error:
            peer.refusal = error
            peer.settled.set()
            # Time for the refusal to arrive; the other end closes when it has read it.
            self._loop.call_later(LINGER, peer.connection.fail, error)
            raise
        link, outbox = self._linked(peer, hello, replaced, None)
        await self._hold(peer, link, outbox, talk)

    def dialed_link(
        self, peer: Peer, hello: peer_pb2.PeerHello, replaced: Link | None, entry: Address, talk: Talk
    ) -> None:
        """Takes a link in that was judged just now, and sees to it that it is held."""
        link, outbox = self._linked(peer, hello, replaced, entry)
        self.spawn(self._hold(peer, link, outbox, talk))

    def hello(self) -> peer_pb2.PeerHello:
        """What this node says of itself."""
        return peer_pb2.PeerHello(
            node=self.members.node,
            incarnation=self.members.incarnation,
            cluster=self.members.cluster,
            version=__version__,
            address=self._address,
        )

    # -- a link -----------------------------------------------------------------------------------

    def judge(self, peer: Peer, hello: peer_pb2.PeerHello) -> Link | None:
        """The link that this one would replace, if any.

        Raises:
            IpcdError: there is to be no link.
        """
        self._check_identity(peer, hello)
        now = self._loop.time()
        old = self.members.links.get(hello.node)
        if old is not None:
            old.heard = self._peers[old].connection.heard
        try:
            return self.members.judge(hello, peer.remote, peer.dialed, now)
        except state.Refused as error:
            if not peer.dialed and not isinstance(error, (state.Superfluous, state.Ourselves)):
                self.members.refused(hello, peer.remote, str(error), now)
            raise

    def _check_identity(self, peer: Peer, hello: peer_pb2.PeerHello) -> None:
        if self._security is None:
            return
        shown = self._security.shown(peer.connection.wire)
        claimed = identity.of_node(self.members.cluster, hello.node)
        if shown != claimed:
            raise NotAllowed(f"{peer.remote} says that it is {claimed}, and has shown the certificate of {shown}")

    def _linked(
        self, peer: Peer, hello: peer_pb2.PeerHello, replaced: Link | None, entry: Address | None
    ) -> tuple[Link, Outbox]:
        """Takes a link in that was judged just now."""
        now = self._loop.time()
        address = entry.address if entry is not None else reachable(hello.address, peer.remote)
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
            clock=peer.clock.offset,
        )
        outbox = self._exchange.linked(link, peer.hurried.progressed)
        self._peers[link] = peer
        self._complaints.pop(link.node, None)
        if replaced is not None:
            self._retire(replaced)
            if replaced.incarnation != link.incarnation:
                # What its last run served is gone with that; what this one serves comes over the link.
                self._broker.forget_node(link.node)
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
        peer.settled.set()
        self._broker.changed.progressed()
        self._changed()
        return link, outbox

    async def _hold(self, peer: Peer, link: Link, outbox: Outbox, talk: Talk) -> None:
        """Until the link's end."""
        keeper = LinkKeeper(peer, link, outbox, talk, self._exchange, self._broker, self._log, self.found)
        await keeper.hold(partial(self._unlinked, peer, link))

    def _unlinked(self, peer: Peer, link: Link, cause: IpcdError | None) -> None:
        error = peer.connection.error or cause or WireClosed("the other end ended the link")
        peer.connection.fail(error, goaway=frame_settings.GOAWAY_VIOLATION if isinstance(cause, BadUpdate) else None)
        del self._peers[link]
        if self._exchange.unlinked(link, self._loop.time()) and not self._stopping:
            self._broker.forget_node(link.node)
            log = self._log.warning if not isinstance(error, WireClosed) else self._log.info
            log("node gone", peer=link.node, address=link.address or link.remote, reason=error)
            if isinstance(error, WireTimeout) and link.address:
                # It may be cut off for longer than others say that it is there.
                self.found(link.address, state.REMEMBERED, link.node, link.incarnation)
        self._dialer.wake.progressed()
        self._changed()

    def _retire(self, link: Link) -> None:
        """A link that was replaced goes when what was asked over it is answered."""
        peer = self._peers.get(link)
        if peer is not None:
            self._loop.call_later(LINGER, peer.connection.fail, WireClosed("the link was replaced by another"))

    def _changed(self) -> None:
        if self.on_changed is not None and not self._stopping:
            self.on_changed()

    # -- tasks and complaints ---------------------------------------------------------------------

    def complain(self, who: str, event: str, **fields: object) -> None:
        """Warns, but not again and again of the same."""
        text = str(fields.get("reason"))
        if self._complaints.get(who) != text:
            if len(self._complaints) > limits.NODES:
                self._complaints.clear()
            self._complaints[who] = text
            self._log.warning(event, **fields)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs it as a task that ends with the links at the latest."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._log.error("a task failed", reason=repr(task.exception()))


def _rank(source: str) -> int:
    return (state.CONFIGURED, state.ZEROCONF, state.LEARNED, state.REMEMBERED).index(source)
