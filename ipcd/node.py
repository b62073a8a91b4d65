"""One node, put together: doors, broker, API, links."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import time
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ipcd_client import __version__
from ipcd_client.aio.dispatch import Server
from ipcd_client.errors import ConfigError, IpcdError, WireClosed
from ipcd_client.frame import preamble
from ipcd_client.frame import settings as frame_settings
from ipcd_client.frame.settings import Settings
from ipcd_client.loop.connection import Connection
from ipcd_client.pb.ipcd.v1 import names_pb2_grpc, node_pb2, node_pb2_grpc
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.tcp import join_address, split_address
from ipcd_client.wire.unix import Credentials, UnixWire, credentials

from ipcd import limits
from ipcd.access import Access
from ipcd.activation import Passed
from ipcd.broker import Broker
from ipcd.config import Config, check_passed
from ipcd.links import PeerLinks
from ipcd.listener import Acceptor, SocketFile, TcpDoor, address_of, listen_tcp, refuse
from ipcd.log import Log, set_level
from ipcd.parties import Attached
from ipcd.primitives import ALL
from ipcd.primitives.directory import Directory
from ipcd.primitives.host import Host, Keeper
from ipcd.primitives.servicer import NamesServicer
from ipcd.quota import Quotas
from ipcd.servicer import CallQuota, NodeServicer, status_of
from ipcd.state import members, quota
from ipcd.state.catalog import Catalog
from ipcd.state.members import Members

if TYPE_CHECKING:
    from ipcd.discovery.zeroconf import Discovery
    from ipcd.gateway.server import Gateway
    from ipcd.security import Security

# Seconds that calls under way have when the node stops.
GRACE: Final = 2.0
# Seconds before the end of the node's certificate from which on it is warned of.
EXPIRES_SOON: Final = 30 * 86400.0
SETTINGS: Final = Settings(
    max_frame=limits.FRAME,
    max_message=limits.MESSAGE,
    max_metadata=limits.METADATA,
    initial_window=limits.WINDOW,
    max_streams=limits.STREAMS,
    software=f"ipcd {__version__}",
)


class Node:
    """`start`, then `stop`. Everything runs on the loop that runs `start`.

    `passed`: sockets that a service manager has opened, which the node then owns, instead of its own.
    """

    def __init__(self, config: Config, passed: Passed | None = None) -> None:
        self.config = config
        self._passed = passed or Passed()
        self.incarnation = secrets.token_hex(8)
        self.listen = ""  # HOST:PORT, once started
        self.log = Log(config.node)
        self.catalog = Catalog(config.node)
        self._access = Access(config.cluster, config.node, self.log, config.rules)
        self._file = SocketFile(config.socket)
        self._acceptor: Acceptor | None = None
        self._door: TcpDoor | None = None
        self._connections: set[Connection] = set()
        self._discovery: Discovery | None = None
        self._gateway: Gateway | None = None

    async def start(self) -> None:
        """Opens the doors.

        Raises:
            ConfigError: one cannot be opened, and why.
        """
        config = self.config
        loop = asyncio.get_running_loop()
        self._security = _security(config)
        self.log.later = loop.call_later
        self.quotas = Quotas(loop.time)
        self._broker = Broker(
            config.node,
            self.catalog,
            self.log,
            loop.time,
            config.shm_uids,
            config.reach,
            self._access,
            self._security,
            self.quotas,
        )
        tcp, unix = self._open(config)
        self.listen = address_of(tcp)
        self._broker.address = _from_here(self.listen)
        if self._passed.attach:
            # Servers of the daemon before may still be on their way.
            self._broker.patient_until = loop.time() + limits.SETTLE
        about = self._about = node_pb2.StatusReply(
            node=config.node,
            incarnation=self.incarnation,
            listen=self.listen,
            insecure=config.insecure,
            identity=self._security.identity.uri if self._security is not None else "",
            certificate_expires=self._security.identity.expires if self._security is not None else 0.0,
            discovery=["zeroconf"] * config.discovery + ["peers"] * bool(config.peers),
            cluster=config.cluster,
        )
        self._server = Server(status_of=status_of, quota=CallQuota(self.quotas.calls))
        servicer = NodeServicer(self._broker, about, self._list_nodes)
        node_pb2_grpc.add_NodeServicer_to_server(servicer, self._server)
        self.directory = Directory(self._broker, self.log)
        names = NamesServicer(self.directory)
        names_pb2_grpc.add_NamesServicer_to_server(names, self._server)
        state_dir = Path(config.state_dir) if config.state_dir else None
        keeper = Keeper(self._broker, self.directory, self.log, state_dir, api=self._server, socket=config.socket)
        self._host = Host(self._broker, keeper, ALL)
        if config.grpc_socket or config.grpc_listen:
            from ipcd.gateway.server import Gateway  # gRPC's runtime, which not every node needs

            self._gateway = Gateway(config, self._broker, servicer, names, self.directory, self.log)
            try:
                self._gateway.open()
            except BaseException:
                unix.close()
                tcp.close()
                self._file.remove()
                await self._gateway.stop(0.0)
                raise
            about.grpc.extend(self._gateway.addresses())
        address = _advertised(config.advertise, self.listen)
        known = Members(config.node, self.incarnation, config.cluster, address)
        self._links = PeerLinks(known, self._broker, self.log, address, self._security)
        self._links.standing = self._standing()
        self._broker.links = self._links
        self._links.configure(config.peers)
        self._remember()
        await self._host.start()
        self._links.on_changed = self._keep
        self._door = TcpDoor(tcp, self.log, self._on_preamble, self.quotas)
        self._acceptor = Acceptor(unix, self.log, self._on_unix)
        self.log.info(
            "started",
            socket=config.socket,
            listen=self.listen,
            **({"grpc": ",".join(about.grpc)} if about.grpc else {}),
            pid=os.getpid(),
            incarnation=self.incarnation,
            version=__version__,
        )
        self._let_others_in()
        if config.discovery:
            from ipcd.discovery.zeroconf import Discovery  # costs 50 ms that not every node needs

            self._discovery = Discovery(
                config.node,
                self.incarnation,
                config.cluster,
                self.listen,
                address,
                self.log,
                self._links,
                config.interfaces,
            )
            self._discovery.start()
        if self._gateway is not None:
            await self._gateway.start()
        self._tell_identity()
        if config.insecure:
            self.log.warning("insecure: connections from other machines carry no proof of identity", listen=self.listen)

    def _open(self, config: Config) -> tuple[socket.socket, socket.socket]:
        """The TCP socket and the UNIX socket that the node accepts at: passed ones, else its own."""
        passed = self._passed
        tcp: socket.socket | None = None
        try:
            check_passed(config, passed.path, address_of(passed.listen) if passed.listen else "")
            tcp = passed.listen or listen_tcp(config.listen)
            return tcp, passed.attach or self._file.listen()
        except BaseException:
            if tcp is not None:
                tcp.close()
            passed.close()
            raise

    async def stop(self) -> None:
        """Takes nothing new, lets calls under way end, for at most `GRACE` seconds, and closes everything."""
        self.log.info("stopping")
        if self._acceptor is not None:
            self._acceptor.close()
        self._file.remove()
        if self._door is not None:
            await self._door.close()
        if self._discovery is not None:
            await self._discovery.close()
        for connection in list(self._connections):
            connection.drain(f"node {self.config.node} is stopping")
        await asyncio.gather(self._finish_calls(), *([self._gateway.stop(GRACE)] if self._gateway else []))
        await self._host.stop(0.0)
        await self._links.close()
        for connection in list(self._connections):
            await connection.close(f"node {self.config.node} has stopped", timeout=0.5)
        await self._server.stop()
        self.log.tell_left_out()
        self.log.info("stopped")

    def abandon(self) -> None:
        """For an end at once: removes the socket file, and leaves the rest to the end of the process."""
        self._file.remove()
        if self._gateway is not None:
            self._gateway.abandon()

    def reload(self, config: Config) -> None:
        """Takes over what can change while the node runs: the identity, the peers, the rules and the log's level. What
        is connected stays so; whatever is asked of the node from now on is judged by the new rules.

        Raises:
            ConfigError: the identity file is of no use. Then nothing has changed.
        """
        fixed = [
            field.name
            for field in fields(Config)
            if field.name not in {"peers", "rules", "log_level"}
            and getattr(config, field.name) != getattr(self.config, field.name)
        ]
        self._reload_identity()
        set_level(config.log_level)
        self._links.configure(config.peers)
        self._access.change(config.rules)
        # The gateway forgets whom it has found for whom.
        self._broker.changed.progressed()
        self.config = replace(self.config, peers=config.peers, rules=config.rules, log_level=config.log_level)
        self.log.info("reloaded", peers=len(config.peers), rules=len(config.rules), log_level=config.log_level)
        self._let_others_in()
        if fixed:
            self.log.warning("changed settings that take a restart", settings=", ".join(fixed))

    def _reload_identity(self) -> None:
        """Takes over what is in the identity file now, for new links and calls.

        Raises:
            ConfigError: that is of no use.
        """
        if self._security is None:
            return
        old = self._security.identity
        new = type(old).load(self.config.identity)
        if new.uri != old.uri:
            raise ConfigError(f"{self.config.identity}: it is for {new.uri}, and this is {old.uri}")
        self._security.replace(new)
        if new.authorities != old.authorities:
            # Links that are up rest on certificates that are perhaps no longer trusted.
            self._links.relink("the node trusts other authorities now")
        self._about.certificate_expires = new.expires
        self._tell_identity()

    def _tell_identity(self) -> None:
        if self._security is None:
            return
        identity = self._security.identity
        self.log.info("identity", name=identity.uri, expires=_date(identity.expires))
        if identity.expires - time.time() < EXPIRES_SOON:
            self.log.warning(
                "the certificate expires soon: make another with ipcctl cert issue, and send SIGHUP",
                file=self.config.identity,
                expires=_date(identity.expires),
            )

    def _let_others_in(self) -> None:
        """Lets other users connect where the rules let some in. Who they are, the kernel says."""
        others = self._access.rules.admits_others
        if not self._passed.attach:
            # The file of a service manager is as its unit says.
            self._file.open_to_others(others)
        obstacle = self._file.obstacle() if others else ""
        if obstacle:
            self.log.warning("rules let other users in, who cannot get here", reason=obstacle)

    def _state_file(self) -> Path | None:
        return Path(self.config.state_dir, "nodes.json") if self.config.state_dir else None

    def _remember(self) -> None:
        """Looks for the nodes of the last run where they were."""
        file = self._state_file()
        if file is None:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            addresses = json.loads(file.read_text()) if file.exists() else []
            for address in addresses[: limits.NODES]:
                split_address(str(address))
                self._links.found(str(address), members.REMEMBERED)
        except (OSError, ValueError, TypeError, IpcdError) as error:
            self.log.warning("the nodes of the last run are not known", file=file, reason=error)

    def _keep(self) -> None:
        """A node came or went."""
        file = self._state_file()
        if file is None:
            return
        # Also those that are gone at present: they may be back when this node is.
        addresses = {info.address for info in self._links.infos() if info.address}
        temporary = file.with_suffix(".new")
        try:
            temporary.write_text(json.dumps(sorted(addresses)))
            temporary.replace(file)
        except OSError as error:
            # What was written of it would take room on a disk that has none.
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            self.log.warning("the nodes cannot be kept", file=file, reason=error)

    async def _finish_calls(self) -> None:
        """Calls that answer soon may do so; those that would last for ever are told to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                while self._broker.opening:
                    await self._broker.settled.wait()

    # -- processes of this machine ----------------------------------------------------------------

    def _on_unix(self, sock: socket.socket, _address: object) -> None:
        try:
            who = credentials(sock)
        except OSError as error:
            self.log.info("connection lost", reason=error)
            sock.close()
            return
        owner = quota.local(who.uid, who.pid, who.pidfd_id)
        try:
            # Before anything is made for it: whoever floods the door is to cost little.
            self.quotas.check_descriptor(sock.fileno(), owner)
            self.quotas.attaches.check(owner, self.quotas.clock())
            self._check_allowed(who)
            self.quotas.attached.take(owner)
        except IpcdError as error:
            self.log.warning("attach refused", pid=who.pid, uid=who.uid, reason=error)
            exhausted = isinstance(error, limits.LimitReached)
            refuse(sock, str(error), frame_settings.GOAWAY_EXHAUSTED if exhausted else frame_settings.GOAWAY_DENIED)
            return
        wire = UnixWire(sock, peer=f"pid {who.pid} (uid {who.uid})")
        guard = self.quotas.guard(owner, wire.unread_fds)
        connection = Connection(
            wire,
            SETTINGS,
            dialer=False,
            hello_timeout=limits.HELLO,
            backlog_most=limits.BACKLOG,
            guard=guard,
        )
        # The daemon is a client of its own, too, for what it is told by other nodes.
        own = (who.pid, who.uid) == (os.getpid(), os.getuid())
        process = node_pb2.Process(node=self.config.node, **who._asdict(), daemon=own)
        attached = self._broker.attach(process)
        attached.guard = guard
        self._connections.add(connection)
        connection.on_closed = lambda error: self._on_detached(connection, attached, error)
        self._server.serve(connection, attached)
        self.log.debug("attached", pid=who.pid, uid=who.uid)

    def _check_allowed(self, who: Credentials) -> None:
        refusal = self._access.attach_refusal(who)
        if refusal is not None:
            raise refusal

    def _on_detached(self, connection: Connection, attached: Attached, error: IpcdError) -> None:
        self._connections.discard(connection)
        self._broker.detach(attached)
        self.quotas.attached.give(attached.owner)
        if attached.guard is not None:
            attached.guard.close()
        process = attached.process
        if type(error) is WireClosed and "middle of a frame" not in str(error):
            self.log.debug("detached", pid=process.pid, uid=process.uid, reason=error)
        else:
            self.log.warning("connection ended", pid=process.pid, uid=process.uid, reason=error)

    # -- other machines ---------------------------------------------------------------------------

    async def _on_preamble(self, sock: socket.socket, kind: int, token: bytes, where: str) -> None:
        assert self._door is not None
        if kind == preamble.DATA:
            fd = Fd(sock.detach())
            refusal = self._broker.arrivals.arrived(token, fd, where)
            if refusal:
                again = socket.socket(fileno=fd.detach())
                # Whose server has just gone has done nothing that is forbidden: another may take the call.
                denied = refusal.startswith("bad-token")
                goaway = frame_settings.GOAWAY_DENIED if denied else frame_settings.GOAWAY_DRAIN
                self._door.turn_away(again, where, refusal, goaway)
            return
        await self._links.accept(sock, where)

    def _standing(self) -> str:
        """What stands for who another node is, as NodeInfo has it."""
        if self._security is not None:
            return "tls"
        return "insecure" if self.config.insecure else "loopback"

    def _list_nodes(self) -> list[node_pb2.NodeInfo]:
        return [
            node_pb2.NodeInfo(
                node=self.config.node,
                incarnation=self.incarnation,
                state=node_pb2.NodeInfo.STATE_SELF,
                address=self.listen,
                version=__version__,
                source="self",
                servers=self.catalog.count(self.config.node),
                security=self._standing(),
                certificate_expires=self._security.identity.expires if self._security is not None else 0.0,
            ),
            *self._links.infos(),
        ]


def _security(config: Config) -> Security | None:
    if not config.identity:
        return None
    from ipcd_client.certs.identity import (
        Identity,  # OpenSSL twice over, which a node without certificates has no use for
    )

    from ipcd.security import Security

    return Security(Identity.load(config.identity))


def _advertised(advertise: str, listen: str) -> str:
    """HOST:PORT that other nodes are told."""
    if not advertise:
        return listen
    try:
        split_address(advertise)
    except IpcdError:
        # A host alone.
        return join_address(advertise, split_address(listen)[1])
    return advertise


def _date(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _from_here(address: str) -> str:
    """Where a listener can be dialed from this machine."""
    host, port = split_address(address)
    return join_address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)
