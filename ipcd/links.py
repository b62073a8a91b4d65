"""Links with the other nodes: dialed and accepted, watched by heartbeat, and what is told over them.

What is said there and what it means: state/exchange.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import random
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError, Message
from ipcd_client import __version__
from ipcd_client.access import identity
from ipcd_client.aio.context import ServicerContext
from ipcd_client.aio.dispatch import Server
from ipcd_client.errors import ConfigError, IpcdError, NodeError, NotAllowed, WireClosed, WireError, WireTimeout
from ipcd_client.frame import preamble
from ipcd_client.frame import settings as frame_settings
from ipcd_client.frame.settings import Settings
from ipcd_client.loop import dial
from ipcd_client.loop.connection import Connection
from ipcd_client.loop.waiters import Waiters
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2, peer_pb2_grpc
from ipcd_client.rpc.failure import CallFailed
from ipcd_client.wire.tcp import TcpWire, split_address

from ipcd import limits
from ipcd.broker import Broker
from ipcd.log import Log
from ipcd.peer import Called, Peer, Served, Talk, hello_of, reachable
from ipcd.servicer import CallQuota, status_of
from ipcd.state import heartbeat, quota
from ipcd.state import members as state
from ipcd.state.catalog import BadUpdate
from ipcd.state.exchange import Exchange, Outbox
from ipcd.state.members import Address, Link, Members
from ipcd.ways import dial_back

if TYPE_CHECKING:
    from ipcd.security import Security

# Seconds.
# Of a dial: time for a second SYN, which goes out after 1 s. Longer, and a cut that has healed would be noticed late.
DIAL: Final = 1.6
HELLO: Final = 2.5
HEARTBEAT: Final = heartbeat.EVERY
# Between two questions after the time there; after the first few, which find out what the delay is.
CLOCK: Final = 10.0
CLOCK_FIRST: Final = 4
# Between two look-ups of a configured name, where it has led to a link.
LOOK_UP: Final = 20.0
# A node that was told of and could not be reached for some time is given up. While there are others who reach it, they
# say so again this often: two nodes whose path to each other alone was cut find together when it is whole again.
RETELL: Final = 30.0
# How long a link that was replaced may finish what was asked over it.
LINGER: Final = 1.0
# Connections being dialed at one time.
DIALING: Final = 64

SETTINGS: Final = Settings(
    # The whole catalog of a node is one message. Whoever can connect can make us keep this much for each stream.
    max_message=8 << 20,
    max_streams=64,
    software=f"ipcd {__version__}",
)
_INTRODUCE: Final = "/ipcd.v1.Peer/Introduce"
_CONNECT_BACK: Final = "/ipcd.v1.Peer/ConnectBack"
_LINK: Final = "/ipcd.v1.Peer/Link"
_SILENT: Final = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.ETIMEDOUT}


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
        await self._links.accepted_link(peer, Served(context))

    async def Introduce(  # noqa: N802
        self, request: peer_pb2.IntroduceRequest, context: ServicerContext
    ) -> peer_pb2.IntroduceReply:
        """Introduces a caller of the linked node to a server of this one."""
        peer: Peer = context.peer_identity
        link = await peer.linked()
        if link is None or request.caller.node != link.node:
            who = link.node if link is not None else peer.remote
            raise NotAllowed(
                f"node {who} asked for a caller of node {request.caller.node!r}; the rule own-callers allows its own"
            )
        return self._broker.introduce(request)

    async def ConnectBack(  # noqa: N802
        self, request: peer_pb2.ConnectBackRequest, context: ServicerContext
    ) -> peer_pb2.ConnectBackReply:
        """Dials the linked node, at no other address than its own, for a caller there that was introduced before."""
        peer: Peer = context.peer_identity
        link = await peer.linked()
        if link is None:
            raise NotAllowed(f"{peer.remote} asked to be dialed, which only a linked node may")
        await dial_back(link.address, request, self._broker.arrived)
        return peer_pb2.ConnectBackReply()


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
        self._looking_up: dict[str, asyncio.Task[None]] = {}
        self._wake = Waiters()
        self._stopping = False
        self._complaints: dict[str, str] = {}
        self._server = Server(status_of=status_of, quota=CallQuota(broker.quotas.calls))
        peer_pb2_grpc.add_PeerServicer_to_server(PeerServicer(self, broker), self._server)
        self._spawn(self._dial_all())

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
            self._complain(source, "node not taken up", address=address, reason=error)
            return
        if news:
            self._log.debug("node found", peer=node, address=address, source=source)
            self._wake.progressed()

    def lost(self, address: str, source: str) -> None:
        """`source` knows of no node at `address` any more."""
        self.members.lost(address, source)

    def configure(self, addresses: tuple[str, ...]) -> None:
        """These are the configured peers now."""
        names = tuple(address for address in addresses if not dial.is_numeric(address))
        self.members.configured(tuple(one for one in addresses if one not in names), self._loop.time(), names)
        for name in list(self._looking_up):
            if name not in names:
                self._looking_up.pop(name).cancel()
        for name in names:
            if name not in self._looking_up:
                self._looking_up[name] = self._spawn(self._look_up(name))
        self._wake.progressed()

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

    # -- dialing ----------------------------------------------------------------------------------

    async def _look_up(self, name: str) -> None:
        """Keeps track of what a configured name stands for. Again with each try, as long as one may help."""
        while True:
            pause = state.RETRY_MOST
            try:
                addresses = await dial.resolve(name)
            except IpcdError as error:
                if self.members.unresolved(name, str(error), self._loop.time()):
                    self._log.warning("no link", address=name, reason=error)
            else:
                try:
                    if self.members.resolved(name, addresses[: limits.NODES], self._loop.time()):
                        pause = LOOK_UP
                except limits.LimitReached as error:
                    self._complain(name, "node not taken up", address=name, reason=error)
                self._wake.progressed()
            await asyncio.sleep(pause * (0.5 + random.random() / 2))

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
        except (IpcdError, OSError) as error:
            self._dial_failed(entry, error)
        else:
            entry.dialing = False
            entry.error = ""
            # At once: what is accepted in between would be judged as if this link were not there.
            link, outbox = self._linked(peer, hello, replaced, entry)
            self._spawn(self._hold(peer, link, outbox, talk))
        finally:
            entry.dialing = False
            self._wake.progressed()

    def _dial_failed(self, entry: Address, error: IpcdError | OSError) -> None:
        if entry.ourselves:
            self._log.debug("found this node itself", address=entry.address)
            return
        silent = _is_silent(error)
        news = self.members.failed(entry, str(error), self._loop.time(), random.random(), silent=silent)
        if not news or _is_superfluous(error):
            return
        # What nobody configured comes and goes with its node.
        quiet = isinstance(error, WireError) and state.CONFIGURED not in entry.sources
        log = self._log.debug if quiet else self._log.warning
        log("no link", address=entry.address, peer=entry.node, reason=error)

    async def _dialed(self, entry: Address) -> tuple[Peer, Talk, peer_pb2.PeerHello, Link | None]:
        sock = await dial.tcp(entry.address, DIAL, preamble.pack(preamble.PEER))
        peer = self._peer(sock, entry.address, dialed=True)
        connection = peer.connection
        try:
            async with asyncio.timeout(HELLO):
                await connection.handshake()
                talk = Called(connection.stream(_LINK))
                await talk.send(peer_pb2.LinkMessage(hello=self._hello()))
                hello = hello_of(await talk.receive())
                self.members.met(entry, hello.node, hello.incarnation)
                # The other end says who it is before it decides: it has decided when something follows.
                first = await talk.receive()
            if first is None:
                raise BadUpdate("the other end ended the link at once")
            talk.unread(first)
            self._check_identity(peer, hello)
            replaced = self._judge(hello, entry.address, dialed=True)
        except TimeoutError:
            error = WireTimeout(f"{entry.address} did not say who it is within {HELLO:g} s")
            connection.fail(error, goaway=frame_settings.GOAWAY_TIMEOUT)
            raise error from None
        except BaseException as error:
            connection.fail(error if isinstance(error, IpcdError) else WireClosed("the dial was given up"))
            raise
        return peer, talk, hello, replaced

    def _peer(self, sock: socket.socket, remote: str, *, dialed: bool) -> Peer:
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

    def _check_identity(self, peer: Peer, hello: peer_pb2.PeerHello) -> None:
        if self._security is None:
            return
        shown = self._security.shown(peer.connection.wire)
        claimed = identity.of_node(self.members.cluster, hello.node)
        if shown != claimed:
            raise NotAllowed(f"{peer.remote} says that it is {claimed}, and has shown the certificate of {shown}")

    # -- accepting --------------------------------------------------------------------------------

    async def accept(self, sock: socket.socket, remote: str) -> None:
        """Takes over a connection of a node that dialed. Returns when the link is up, or is not to be."""
        try:
            peer = self._peer(sock, remote, dialed=False)
        except ConfigError as unusable:
            self._complain("identity", "link refused", peer=remote, reason=unusable)
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
            self._complain(host, "link refused", peer=remote, reason=reason)

    async def accepted_link(self, peer: Peer, talk: Talk) -> None:
        """The dialing end has opened the link's call: holds it until its end.

        Raises:
            IpcdError: the link is refused.
        """
        try:
            hello = hello_of(await talk.receive())
            # Said before it is judged, so that the other end knows whom it met there, and need not try again.
            await talk.send(peer_pb2.LinkMessage(hello=self._hello()))
            self._check_identity(peer, hello)
            replaced = self._judge(hello, peer.remote, dialed=False)
        except IpcdError as error:
            peer.refusal = error
            peer.settled.set()
            # Time for the refusal to arrive; the other end closes when it has read it.
            self._loop.call_later(LINGER, peer.connection.fail, error)
            raise
        link, outbox = self._linked(peer, hello, replaced, None)
        await self._hold(peer, link, outbox, talk)

    # -- a link -----------------------------------------------------------------------------------

    def _judge(self, hello: peer_pb2.PeerHello, remote: str, *, dialed: bool) -> Link | None:
        now = self._loop.time()
        old = self.members.links.get(hello.node)
        if old is not None:
            old.heard = self._peers[old].connection.heard
        try:
            return self.members.judge(hello, remote, dialed, now)
        except state.Refused as error:
            if not dialed and not isinstance(error, (state.Superfluous, state.Ourselves)):
                self.members.refused(hello, remote, str(error), now)
            raise

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
        work = [
            self._loop.create_task(self._send(peer, outbox, talk)),
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
        if self._exchange.unlinked(link, self._loop.time()) and not self._stopping:
            self._broker.forget_node(link.node)
            log = self._log.warning if not isinstance(error, WireClosed) else self._log.info
            log("node gone", peer=link.node, address=link.address or link.remote, reason=error)
            if isinstance(error, WireTimeout) and link.address:
                # It may be cut off for longer than others say that it is there.
                self.found(link.address, state.REMEMBERED, link.node, link.incarnation)
        self._wake.progressed()
        self._changed()

    def _retire(self, link: Link) -> None:
        """A link that was replaced goes when what was asked over it is answered."""
        peer = self._peers.get(link)
        if peer is not None:
            self._loop.call_later(LINGER, peer.connection.fail, WireClosed("the link was replaced by another"))

    async def _send(self, peer: Peer, outbox: Outbox, talk: Talk) -> None:
        while True:
            message = peer.clock.next(time.time(), self._loop.time()) or outbox.next(self._broker.catalog.whole)
            if message is None:
                await peer.hurried.wait()
            else:
                await talk.send(message)

    async def _receive(self, peer: Peer, link: Link, talk: Talk) -> None:
        while (message := await talk.receive()) is not None:
            if peer.clock.hear(message, time.time(), self._loop.time()):
                peer.hurried.progressed()
                continue
            heard = self._exchange.hear(link, message)
            if heard.catalog:
                self._broker.changed.progressed()
            for known in heard.nodes:
                self.found(known.address, state.LEARNED, known.node, known.incarnation)

    async def _heartbeat(self, peer: Peer, link: Link) -> None:
        connection, beat = peer.connection, link.heartbeat
        pings: set[asyncio.Task[None]] = set()
        pinged, told, asked = -math.inf, self._loop.time(), -math.inf
        try:
            while True:
                now = self._loop.time()
                link.heard = connection.heard
                silence = now - link.heard
                if silence >= beat.dead_after:
                    error = WireTimeout(f"heartbeat: node {link.node} is silent for {silence:.1f} s")
                    connection.fail(error, goaway=frame_settings.GOAWAY_TIMEOUT)
                    raise error
                if link.suspect != (silence >= beat.suspect_after):
                    link.suspect = not link.suspect
                    words = "node suspected" if link.suspect else "node is back"
                    self._log.info(words, peer=link.node, silence=silence)
                if beat.ping_due(silence, now - pinged):
                    pinged = now
                    ping = self._loop.create_task(self._ping(connection, link))
                    pings.add(ping)
                    ping.add_done_callback(pings.discard)
                    if now - asked >= (CLOCK if peer.clock.asked >= CLOCK_FIRST else 0.0):
                        asked = now
                        peer.clock.ask()
                        peer.hurried.progressed()
                    if now - told >= RETELL:
                        told = now
                        self._exchange.retell(link, random.random())
                await asyncio.sleep(beat.pause(silence, now - pinged))
        finally:
            for ping in pings:
                ping.cancel()

    async def _ping(self, connection: Connection, link: Link) -> None:
        """The link's end is noticed elsewhere."""
        with contextlib.suppress(IpcdError):
            link.heartbeat.answered(await connection.ping(heartbeat.DEAD_MOST))
            link.rtt = link.heartbeat.rtt

    # -- inside -----------------------------------------------------------------------------------

    def _hello(self) -> peer_pb2.PeerHello:
        return peer_pb2.PeerHello(
            node=self.members.node,
            incarnation=self.members.incarnation,
            cluster=self.members.cluster,
            version=__version__,
            address=self._address,
        )

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


def _is_silent(error: Exception) -> bool:
    """Nothing answered a dial: it may be a cut."""
    cause = error.__cause__
    return isinstance(error, WireTimeout) or (isinstance(cause, OSError) and cause.errno in _SILENT)


def _rank(source: str) -> int:
    return (state.CONFIGURED, state.ZEROCONF, state.LEARNED, state.REMEMBERED).index(source)
