"""`grpc.Server`, reached through the node."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from time import monotonic
from typing import Any, Final

import grpc

from ipcd_client.errors import ProtocolError, UsageError, WireTimeout
from ipcd_client.facade import introspection
from ipcd_client.facade.context import ServicerContext
from ipcd_client.facade.dispatch import Call, Method
from ipcd_client.facade.options import Options
from ipcd_client.facade.peer import Peer
from ipcd_client.facade.shapes import Handler
from ipcd_client.node.paths import default_socket
from ipcd_client.node.registration import Registered, Registrar, Registration
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc import status
from ipcd_client.rpc.call import ServerCall
from ipcd_client.sync.connection import Connection
from ipcd_client.sync.reactor import Reactor
from ipcd_client.wire.base import Wire

log = logging.getLogger("ipcd_client")

DEFAULT_THREADS: Final = 32


class _Details(grpc.HandlerCallDetails):
    def __init__(self, method: str, invocation_metadata: Any) -> None:
        self.method = method
        self.invocation_metadata = invocation_metadata


class Server(grpc.Server):
    """See `ipcd_client.server`."""

    def __init__(
        self,
        executor: Executor | None,
        *,
        name: str | None,
        node: str | None,
        handlers: Sequence[grpc.GenericRpcHandler] | None,
        interceptors: Sequence[grpc.ServerInterceptor] | None,
        options: Sequence[tuple[str, Any]] | None,
        maximum_concurrent_rpcs: int | None,
        registrar: Registrar = Registration,
    ) -> None:
        if maximum_concurrent_rpcs is not None and maximum_concurrent_rpcs < 1:
            raise ValueError("maximum_concurrent_rpcs must be at least 1")
        self._name = name or ""
        self._path = node or default_socket()
        self._owns_executor = executor is None
        self._executor = executor or ThreadPoolExecutor(DEFAULT_THREADS, thread_name_prefix="ipcd-handler")
        self._interceptors = list(interceptors or ())
        parsed = Options.parse(options)
        self._settings = parsed.settings(accept_calls=True)
        self.max_send = parsed.max_send
        self._most = maximum_concurrent_rpcs
        self._generic: list[grpc.GenericRpcHandler] = list(handlers or ())
        self._registered: dict[str, Handler] = {}
        self._services: set[str] = set()
        for handler in self._generic:
            self._note_service(handler)
        self._methods: dict[str, Method] = {}
        self._generic_methods: dict[str, Method] = {}
        self._lock = threading.Lock()
        self._active: set[ServicerContext] = set()
        self._drained = threading.Condition(self._lock)
        self._started = False
        self._stopping: threading.Event | None = None
        self._stopped = threading.Event()
        self._peers: dict[Connection, Peer] = {}
        self._reactor = Reactor(self._executor, self._prepare, self._name or "server")
        self._registrar = registrar
        self._registration: Registered | None = None

    # -- grpc.Server ------------------------------------------------------------------------------

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        handlers = tuple(generic_rpc_handlers)
        for handler in handlers:
            if not hasattr(handler, "service"):
                raise AttributeError(f"{handler!r} is not a GenericRpcHandler: it has no attribute 'service'")
            self._generic.append(handler)
            self._note_service(handler)
        if self._registration is not None:
            self._registration.update(sorted(self._services))

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        if self._started:
            log.warning("methods of %s registered after the server has started are ignored", service_name)
            return
        for method, handler in method_handlers.items():
            self._registered[f"/{service_name}/{method}"] = handler
        self._services.add(service_name)

    def add_insecure_port(self, address: str) -> int:
        raise UsageError(f"add_insecure_port({address!r}): this server is reached through its node, not through a port")

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        raise UsageError(f"add_secure_port({address!r}): this server is reached through its node, not through a port")

    def start(self) -> None:
        """Attaches to the node and serves.

        Raises:
            ValueError: it was started before; as grpcio does.
            IpcdError: no daemon within `IPCD_ATTACH_TIMEOUT` seconds (10), or it refused the registration.
        """
        with self._lock:
            if self._started or self._stopping is not None:
                raise ValueError("Cannot start already-started server!")
            self._started = True
        for name, handler in introspection.handlers(self._services).items():
            self._registered.setdefault(name, handler)
        self._reactor.start()
        registration = self._registrar(self._path, self._name, sorted(self._services), self._reactor, self._on_grant)
        self._registration = registration
        try:
            registration.start()
        except BaseException:
            self.stop(None)
            raise

    def stop(self, grace: float | None) -> threading.Event:
        """Takes no new calls; those under way have `grace` seconds. The event is set when all is over."""
        with self._lock:
            if self._stopping is not None:
                return self._stopping
            stopping = self._stopping = threading.Event()
            registration = self._registration
        if registration is not None:
            registration.close()
        for connection in list(self._peers):
            connection.drain("the server is stopping")
        if not self._started or grace is None:
            self._shut_down(stopping)
        else:
            threading.Thread(target=self._wait_and_shut_down, args=(grace, stopping), name="ipcd-stop").start()
        return stopping

    def wait_for_termination(self, timeout: float | None = None) -> bool:
        """True if `timeout` seconds passed first; as grpcio does."""
        return not self._stopped.wait(timeout)

    def __del__(self) -> None:
        if getattr(self, "_started", False) and self._stopping is None:
            self.stop(None)

    # -- facts ------------------------------------------------------------------------------------

    @property
    def node(self) -> str:
        """Path of the daemon's socket."""
        return self._path

    @property
    def registered_as(self) -> node_pb2.Server | None:
        """What the node calls this server; None before it has started."""
        return self._registration.server if self._registration is not None else None

    # -- calls ------------------------------------------------------------------------------------

    def intercepted(self, call: ServerCall) -> Handler | None:
        """The handler that the interceptors and the registered handlers choose; None if there is none."""
        details = _Details(call.method, call.metadata)

        def chain(index: int, details: grpc.HandlerCallDetails) -> Handler | None:
            if index == len(self._interceptors):
                return self._find(details)
            return self._interceptors[index].intercept_service(lambda d: chain(index + 1, d), details)

        return chain(0, details)

    def finished(self, context: ServicerContext) -> None:
        """A call is over."""
        if context.deadline is not None:
            self._reactor.forget(context)
        self._active.discard(context)
        if self._stopping is not None:
            with self._drained:
                self._drained.notify_all()

    def _find(self, details: grpc.HandlerCallDetails) -> Handler | None:
        handler = self._registered.get(details.method)
        if handler is not None:
            return handler
        for generic in self._generic:
            handler = generic.service(details)
            if handler is not None:
                return handler
        return None

    def _prepare(self, connection: Connection, call: ServerCall) -> Call | None:
        """The job for a call; None if it is answered already. On the reading thread: no code of users but the lookup
        of generic handlers."""
        peer = self._peers.get(connection)
        if peer is None:
            connection.refuse(call.stream, "the connection is closing")
            return None
        if self._most is not None and len(self._active) >= self._most:
            code = status.to_int(grpc.StatusCode.RESOURCE_EXHAUSTED)
            connection.finish(call, code, status.CONCURRENCY_EXCEEDED)
            return None
        method = self._methods.get(call.method)
        if method is None:
            try:
                method = self._known(call)
            except Exception as error:
                log.exception("a generic handler failed to look up %s", call.method)
                connection.finish(call, 2, f"Error in service handler!: {error}")
                return None
            if method is None:
                connection.finish(call, status.to_int(grpc.StatusCode.UNIMPLEMENTED), status.METHOD_NOT_FOUND)
                return None
        context = ServicerContext(connection, call, peer)
        if context.deadline is not None:
            self._reactor.expect(context, context.deadline)
        self._active.add(context)
        return Call(self, connection, call, context, method)

    def _known(self, call: ServerCall) -> Method | None:
        """What is known of the call's method; None if there is none. Kept in `_methods` where it stays so: generic
        handlers may answer differently for each call."""
        name = call.method
        registered = self._registered.get(name)
        if registered is not None:
            method = self._methods[name] = Method(None if self._interceptors else registered)
            return method
        found = self._find(_Details(name, call.metadata)) if self._generic else None
        if self._interceptors:
            # They choose, and may find one for a name that we know nothing of.
            if found is None:
                return Method(None)
            found = None
        elif found is None:
            return None
        # Only names that have a handler: those that peers made up must not fill the memory.
        before = self._generic_methods.get(name)
        if before is not None and before.handler is found:
            return before
        method = self._generic_methods[name] = Method(found)
        method.average = before.average if before is not None else 0.0
        return method

    # -- connections ------------------------------------------------------------------------------

    def _on_grant(self, grant: node_pb2.Grant, wire: Wire) -> None:
        connection = Connection(wire, self._settings, dialer=False, host=self._reactor)
        peer = Peer(grant, wire)
        self._peers[connection] = peer
        connection.on_closed = lambda error: self._on_closed(connection, peer, error)
        if connection.error is not None:
            self._on_closed(connection, peer, connection.error)
            return
        self._reactor.add(connection)
        if self._stopping is not None:
            connection.drain("the server is stopping")

    def _on_closed(self, connection: Connection, peer: Peer, error: Exception) -> None:
        if self._peers.pop(connection, None) is not None:
            hostile = isinstance(error, (ProtocolError, WireTimeout))
            log.log(logging.WARNING if hostile else logging.DEBUG, "connection from %s ended: %s", peer.name, error)

    def _wait_and_shut_down(self, grace: float, stopping: threading.Event) -> None:
        end = monotonic() + grace
        with self._drained:
            while self._active and (left := end - monotonic()) > 0:
                self._drained.wait(left)
        self._shut_down(stopping)

    def _shut_down(self, stopping: threading.Event) -> None:
        for context in list(self._active):
            context.shut_down()
        self._reactor.stop()
        if self._owns_executor:
            self._executor.shutdown(wait=False, cancel_futures=False)
        self._stopped.set()
        stopping.set()

    def _note_service(self, handler: grpc.GenericRpcHandler) -> None:
        name: Callable[[], str] | None = getattr(handler, "service_name", None)
        if name is not None:
            self._services.add(name())
