"""One node, put together: doors, broker, API, links."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ipcd_client import __version__
from ipcd_client.aio.dispatch import Server
from ipcd_client.errors import IpcdError, NotAllowed, WireClosed
from ipcd_client.frame import preamble
from ipcd_client.frame import settings as frame_settings
from ipcd_client.frame.settings import Settings
from ipcd_client.loop.connection import Connection
from ipcd_client.pb.ipcd.v1 import node_pb2, node_pb2_grpc
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.tcp import join_address, split_address
from ipcd_client.wire.unix import Credentials, UnixWire, credentials

from ipcd import limits
from ipcd.activation import Passed
from ipcd.broker import Attached, Broker
from ipcd.config import Config, check_passed
from ipcd.links import PeerLinks
from ipcd.listener import Acceptor, SocketFile, TcpDoor, address_of, listen_tcp
from ipcd.log import Log, set_level
from ipcd.servicer import NodeServicer, status_of
from ipcd.state import members
from ipcd.state.catalog import Catalog
from ipcd.state.members import Members

if TYPE_CHECKING:
    from ipcd.discovery.zeroconf import Discovery
    from ipcd.gateway.server import Gateway

# Seconds that calls under way have when the node stops.
GRACE: Final = 2.0
SETTINGS: Final = Settings(
    max_frame=(1 << 20) + (64 << 10),
    max_message=1 << 20,
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
        self._file = SocketFile(config.socket)
        self._acceptor: Acceptor | None = None
        self._door: TcpDoor | None = None
        self._connections: set[Connection] = set()
        self._discovery: Discovery | None = None
        self._gateway: Gateway | None = None
        self._allowed = {0, os.getuid()}

    async def start(self) -> None:
        """Opens the doors.

        Raises:
            ConfigError: one cannot be opened, and why.
        """
        config = self.config
        loop = asyncio.get_running_loop()
        self._broker = Broker(config.node, self.catalog, self.log, loop.time, config.shm_uids, config.reach)
        tcp, unix = self._open(config)
        self.listen = address_of(tcp)
        self._broker.address = _from_here(self.listen)
        if self._passed.attach:
            # Servers of the daemon before may still be on their way.
            self._broker.patient_until = loop.time() + limits.SETTLE
        about = node_pb2.StatusReply(
            node=config.node,
            incarnation=self.incarnation,
            listen=self.listen,
            insecure=config.insecure,
            discovery=["zeroconf"] * config.discovery + ["peers"] * bool(config.peers),
        )
        self._server = Server(status_of=status_of)
        servicer = NodeServicer(self._broker, about, self._list_nodes)
        node_pb2_grpc.add_NodeServicer_to_server(servicer, self._server)
        if config.grpc_socket or config.grpc_listen:
            from ipcd.gateway.server import Gateway  # gRPC's runtime, which not every node needs

            self._gateway = Gateway(config, self._broker, servicer, self.log)
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
        self._links = PeerLinks(known, self._broker, self.log, address)
        self._broker.links = self._links
        self._links.configure(config.peers)
        self._remember()
        self._links.on_changed = self._keep
        self._door = TcpDoor(tcp, self.log, self._on_preamble)
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
        await self._links.close()
        for connection in list(self._connections):
            await connection.close(f"node {self.config.node} has stopped", timeout=0.5)
        await self._server.stop()
        self.log.info("stopped")

    def abandon(self) -> None:
        """For an end at once: removes the socket file, and leaves the rest to the end of the process."""
        self._file.remove()
        if self._gateway is not None:
            self._gateway.abandon()

    def reload(self, config: Config) -> None:
        """Takes over what can change while the node runs: the peers and the log's level."""
        fixed = [
            field.name
            for field in fields(Config)
            if field.name not in {"peers", "log_level"}
            and getattr(config, field.name) != getattr(self.config, field.name)
        ]
        set_level(config.log_level)
        self._links.configure(config.peers)
        self.config = replace(self.config, peers=config.peers, log_level=config.log_level)
        self.log.info("reloaded", peers=len(config.peers), log_level=config.log_level)
        if fixed:
            self.log.warning("changed settings that take a restart", settings=", ".join(fixed))

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
        try:
            temporary = file.with_suffix(".new")
            temporary.write_text(json.dumps(sorted(addresses)))
            temporary.replace(file)
        except OSError as error:
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
        name = f"pid {who.pid} (uid {who.uid})"
        connection = Connection(
            UnixWire(sock, peer=name),
            SETTINGS,
            dialer=False,
            hello_timeout=limits.HELLO,
            backlog_most=limits.BACKLOG,
        )
        refusal = self._refusal(who)
        if refusal is not None:
            self.log.warning("attach refused", pid=who.pid, uid=who.uid, reason=refusal)
            connection.fail(refusal, goaway=frame_settings.GOAWAY_DENIED)
            return
        process = node_pb2.Process(node=self.config.node, pid=who.pid, uid=who.uid, gid=who.gid)
        attached = self._broker.attach(process)
        self._connections.add(connection)
        connection.on_closed = lambda error: self._on_detached(connection, attached, error)
        self._server.serve(connection, attached)
        self.log.debug("attached", pid=who.pid, uid=who.uid)

    def _refusal(self, who: Credentials) -> IpcdError | None:
        if who.uid not in self._allowed:
            allowed = " and ".join(f"uid {uid}" for uid in sorted(self._allowed))
            return NotAllowed(
                f"uid {who.uid} (pid {who.pid}, gid {who.gid}) may not attach to node {self.config.node}: "
                f"the rule same-uid allows {allowed}"
            )
        if self._broker.attached >= limits.ATTACHED:
            return limits.LimitReached(f"the limit of {limits.ATTACHED} attached processes is reached")
        return None

    def _on_detached(self, connection: Connection, attached: Attached, error: IpcdError) -> None:
        self._connections.discard(connection)
        self._broker.detach(attached)
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
            refusal = self._broker.arrived(token, fd, where)
            if refusal:
                again = socket.socket(fileno=fd.detach())
                self._door.turn_away(again, where, refusal, frame_settings.GOAWAY_DENIED)
            return
        await self._links.accept(sock, where)

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
            ),
            *self._links.infos(),
        ]


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


def _from_here(address: str) -> str:
    """Where a listener can be dialed from this machine."""
    host, port = split_address(address)
    return join_address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)
