"""What a started server is made of: its connections, the calls that run, and how all of that ends.

The face (`server.py`) is a thing of its own so that it can be dropped: threads, connections and the node's registration
hold this, nothing of them holds the face, and when it goes, so does this.
"""

from __future__ import annotations

import contextvars
import logging
import secrets
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from time import monotonic
from typing import TYPE_CHECKING, Final

import grpc

from ipcd_client.errors import hostile
from ipcd_client.facade import health, introspection
from ipcd_client.facade.context import ServicerContext, asked
from ipcd_client.facade.dispatch import Call
from ipcd_client.facade.methods import CallDetails, Methods
from ipcd_client.facade.peer import Peer
from ipcd_client.node.registration import Registered, Registrar
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ServerCall
from ipcd_client.rpc.options import Options
from ipcd_client.sync.connection import Connection
from ipcd_client.sync.reactor import Reactor
from ipcd_client.wire.base import Wire

if TYPE_CHECKING:
    from ipcd_client.facade.ports import Ports

log = logging.getLogger("ipcd_client")

DEFAULT_THREADS: Final = 32
_FOREVER: Final = float("inf")
_WATCH_HEALTH: Final = CallDetails(health.WATCH, md.received(()))


class Serving:
    """A server from its start to its end. `most`: calls that may run at a time; None for no limit. `executor`: None for
    one of its own."""

    def __init__(
        self,
        executor: Executor | None,
        methods: Methods,
        options: Options,
        most: int | None,
        name: str,
    ) -> None:
        self.methods = methods
        self.executor = executor or ThreadPoolExecutor(DEFAULT_THREADS, thread_name_prefix="ipcd-handler")
        self.max_send = options.max_send
        self.ports: Ports | None = None
        self.registration: Registered | None = None
        self.health: health.Health | None = None
        self.started = False
        self.stopped = threading.Event()
        self._owns_executor = executor is None
        self._options = options
        self._settings = options.settings(accept_calls=True)
        self._most = most
        self._name = name
        # A signal's handler may stop the server while the thread that it interrupted does.
        self._lock = threading.RLock()
        self._drained = threading.Condition(self._lock)
        self._active: set[ServicerContext] = set()  # whose handlers run, or are about to
        self._lingering: set[ServicerContext] = set()  # that go on without their handlers
        self._elsewhere = 0  # calls that run for the ports
        self._stops: list[threading.Event] | None = None  # of those who stop it
        self._stopper: int | None = None  # the thread that does it
        self._ends = _FOREVER  # of time.monotonic(): when calls are cancelled
        self._peers: dict[Connection, Peer] = {}
        self._reactor: Reactor  # from the start on

    # -- the beginning ----------------------------------------------------------------------------

    def start(self, registrar: Registrar, path: str) -> None:
        """Attaches to the node and serves.

        Raises:
            ValueError: it was started before; as grpcio does.
            IpcdError: no daemon within `IPCD_ATTACH_TIMEOUT` seconds (10), or it refused the registration.
        """
        with self._lock:
            if self.started:
                raise ValueError("Cannot start already-started server!")
            self.started = True
            self._reactor = Reactor(self.executor, self._prepare, self._name or "server")
            services = self.methods.services
            self.methods.register_own(introspection.handlers(services))
            watch = self.methods.find(_WATCH_HEALTH) if health.SERVICE in services else None
            self.health = health.Health(watch, health.States(services), self._serves)
            request = node_pb2.RegisterRequest(
                name=self._name,
                services=self.health.states.serving(),
                weight=self._options.weight,
                spillover=self._options.spillover,
                instance=secrets.token_hex(8),
            )
            registration = registrar(path, request, self._reactor, self._on_grant)
            self.registration = registration
        try:
            self._reactor.start()
            registration.start()
            if self.ports is not None:
                self.ports.start()
        except BaseException:
            self.stop(None)
            raise

    def served(self) -> None:
        """There are other handlers now."""
        if self.registration is not None and self.health is not None:
            self.health.states.services = sorted(self.methods.services)
            self._serves(self.health.states.serving())

    def _serves(self, services: list[str]) -> None:
        """Registers these, and has the others' callers go elsewhere."""
        if self.registration is None:
            return
        self.registration.update(services)
        known = self.methods.services
        for connection, peer in list(self._peers.items()):
            service = peer.grant.service
            if service in known and service not in services:
                connection.drain(f"{service} is NOT_SERVING here")

    # -- the end ----------------------------------------------------------------------------------

    def stop(self, grace: float | None) -> threading.Event:
        """Takes no new calls, and gives those under way `grace` seconds; without any, returns when all is over. Whoever
        gives the least decides. The event is set when all is over."""
        done = threading.Event()
        with self._lock:
            if not self.started or self.stopped.is_set():
                done.set()
                return done
            first = self._stops is None
            if self._stops is None:
                self._stops = []
            self._stops.append(done)
            self._ends = min(self._ends, monotonic() + (grace or 0))
            self._drained.notify_all()
            ports = self.ports
        if ports is not None:
            ports.stop(grace)
        if first:
            self._take_no_more()
            if grace is None:
                self._shut_down()
            else:
                threading.Thread(target=self._shut_down, name="ipcd-stop").start()
        elif grace is None and self._stopper != threading.get_ident():
            # Else a callback of a call that is cancelled right now has asked.
            done.wait()
        return done

    def dropped(self) -> None:
        """Nobody holds the server any more: it takes no new calls, and ends with the last one. To be called by the
        collector, anywhere: so it takes no lock but the reactor's, under which nothing else is waited for."""
        if self.started and self._stops is None:
            self._reactor.expect(self, 0.0)
            self._reactor.wake()

    def expire(self) -> None:
        """The reactor has found that the server was dropped. (Expiring)"""
        with self._lock:
            if self._stops is not None:
                return
            self._stops = []
            # It was made by nobody else, and so goes by itself.
            self.ports = None
        self._take_no_more()
        threading.Thread(target=self._shut_down, name="ipcd-stop", daemon=True).start()

    def _take_no_more(self) -> None:
        if self.health is not None:
            self.health.close()
        if self.registration is not None:
            self.registration.close()
        for connection in list(self._peers):
            connection.drain("the server is stopping")

    def _shut_down(self) -> None:
        with self._drained:
            self._stopper = threading.get_ident()
            while (self._active or self._lingering) and (left := self._ends - monotonic()) > 0:
                self._drained.wait(None if left == _FOREVER else left)
        for context in [*self._active, *self._lingering]:
            context.shut_down()
        self._reactor.stop()
        if self.ports is not None:
            self.ports.wait()
            self.ports = None
        if self._owns_executor:
            self.executor.shutdown(wait=False)
        with self._lock:
            self.stopped.set()
            for done in self._stops or ():
                done.set()

    # -- how many calls run -----------------------------------------------------------------------

    def enters(self) -> bool:
        """A call of the ports begins. False: there are too many already."""
        with self._lock:
            if self._full():
                return False
            self._elsewhere += 1
            return True

    def leaves(self) -> None:
        """The handler of a call of the ports has ended."""
        with self._lock:
            self._elsewhere -= 1

    def _full(self) -> bool:
        return self._most is not None and len(self._active) + self._elsewhere >= self._most

    def lingers(self, context: ServicerContext) -> None:
        """The handler has returned, and the call goes on."""
        with self._lock:
            self._lingering.add(context)
            self._active.discard(context)
        if not context.add_callback(lambda: self.finished(context)):
            context.ended()
            self.finished(context)

    def finished(self, context: ServicerContext) -> None:
        """A call is over."""
        if context.deadline is not None:
            self._reactor.forget(context)
        self._active.discard(context)
        if self._lingering:
            self._lingering.discard(context)
        if self._stops is not None:
            with self._drained:
                self._drained.notify_all()

    # -- calls ------------------------------------------------------------------------------------

    def _prepare(self, connection: Connection, call: ServerCall) -> Call | None:
        """The job for a call; None if it is answered already. On the reading thread: no code of users but the lookup
        of generic handlers."""
        peer = self._peers.get(connection)
        if peer is None:
            connection.refuse(call.stream, "the connection is closing")
            return None
        if peer.only is not None and (refusal := peer.refusal(call.method)):
            _refuse(connection, call, grpc.StatusCode.PERMISSION_DENIED, refusal)
            return None
        method = self.methods.fixed.get(call.method)
        variables = None
        if method is None:
            # What generic handlers set there is the call's, as in grpcio.
            variables = contextvars.Context()
            try:
                method = variables.run(self.methods.look_up, call)
            except Exception:
                log.exception("a generic handler failed to look up %s", call.method)
                _refuse(connection, call, grpc.StatusCode.UNKNOWN, status.LOOKUP_FAILED)
                return None
            if method is None:
                _refuse(connection, call, grpc.StatusCode.UNIMPLEMENTED, status.METHOD_NOT_FOUND)
                return None
        context = ServicerContext(connection, call, peer)
        if self._most is None:
            self._active.add(context)
        else:
            with self._lock:
                full = self._full()
                if not full:
                    self._active.add(context)
            if full:
                call.user = None
                _refuse(connection, call, grpc.StatusCode.RESOURCE_EXHAUSTED, status.CONCURRENCY_EXCEEDED)
                return None
        if context.deadline is not None:
            self._reactor.expect(context, context.deadline)
        job = Call(self, connection, call, context, method, variables)
        if not asked(call) and method.handler is not None and not method.handler.request_streaming:
            # Else those who begin calls and send no requests would have all the threads there are.
            context.when_asked(lambda: self._reactor.submit(job))
            return None
        return job

    # -- connections ------------------------------------------------------------------------------

    def _on_grant(self, grant: node_pb2.Grant, wire: Wire) -> None:
        connection = Connection(wire, self._settings, dialer=False, host=self._reactor)
        peer = Peer(grant, wire)
        self._peers[connection] = peer
        connection.on_closed = lambda error: self._on_closed(connection, peer, error)
        if connection.error is not None:
            self._on_closed(connection, peer, connection.error)
            return
        self._reactor.add(connection, peer.process)
        if self._stops is not None:
            connection.drain("the server is stopping")

    def _on_closed(self, connection: Connection, peer: Peer, error: Exception) -> None:
        if self._peers.pop(connection, None) is not None:
            log.log(
                logging.WARNING if hostile(error) else logging.DEBUG, "connection from %s ended: %s", peer.name, error
            )


def _refuse(connection: Connection, call: ServerCall, code: grpc.StatusCode, details: str) -> None:
    connection.finish(call, status.to_int(code), details)
