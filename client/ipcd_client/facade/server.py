"""`grpc.Server`, reached through the node."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final

import grpc

from ipcd_client.facade.methods import Methods
from ipcd_client.facade.ports import Ports
from ipcd_client.facade.serving import Serving
from ipcd_client.facade.shapes import Handler
from ipcd_client.node.paths import default_socket
from ipcd_client.node.registration import Registrar, Registration
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc.options import Options

log = logging.getLogger("ipcd_client")

# Seconds after which a thread that waits for the server's end lets handlers of signals run.
_SIGNALS: Final = 0.5


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
        compression: grpc.Compression | None = None,
        registrar: Registrar = Registration,
    ) -> None:
        self._path = node or default_socket()
        self._options = list(options or ())
        self._compression = compression
        self._registrar = registrar
        self._methods = Methods(handlers or (), interceptors or ())
        parsed = Options.parse(self._options)
        self._serving = Serving(executor, self._methods, parsed, maximum_concurrent_rpcs, name or "")

    # -- grpc.Server ------------------------------------------------------------------------------

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self._methods.add_generic(generic_rpc_handlers)
        self._serving.served()

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        if self._serving.started:
            log.warning("methods of %s registered after the server has started are ignored", service_name)
            return
        self._methods.register(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> int:
        """Also serves as real gRPC, in the clear, on this address of grpcio's: "HOST:PORT" or "unix:PATH".

        Returns:
            The port, which the system chooses for port 0.

        Raises:
            RuntimeError: it cannot be bound; as grpcio does.
            ValueError: the server has started, or has stopped.
        """
        return self._ports().add(address, None)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """As `add_insecure_port`, with these credentials."""
        return self._ports().add(address, server_credentials)

    def start(self) -> None:
        """Attaches to the node and serves.

        Raises:
            ValueError: it was started before; as grpcio does.
            IpcdError: no daemon within `IPCD_ATTACH_TIMEOUT` seconds (10), or it refused the registration.
        """
        self._serving.start(self._registrar, self._path)

    def stop(self, grace: float | None) -> threading.Event:
        """Takes no new calls; those under way have `grace` seconds. The event is set when all is over, which without
        `grace` is so on return."""
        return self._serving.stop(grace)

    def wait_for_termination(self, timeout: float | None = None) -> bool:
        """True if `timeout` seconds passed first; as grpcio does."""
        stopped = self._serving.stopped
        if timeout is not None:
            return not stopped.wait(timeout)
        # A signal that comes just before the thread sleeps does not wake it, and its handler may be who stops the
        # server: so it looks again now and then, as grpcio does.
        while not stopped.wait(_SIGNALS):
            pass
        return False

    def __del__(self) -> None:
        serving: Serving | None = getattr(self, "_serving", None)
        # At the interpreter's end, threads that will never run again may hold any lock.
        if serving is not None and not sys.is_finalizing():
            serving.dropped()

    # -- facts ------------------------------------------------------------------------------------

    @property
    def node(self) -> str:
        """Path of the daemon's socket."""
        return self._path

    @property
    def registered_as(self) -> node_pb2.Server | None:
        """What the node calls this server; None before it has started."""
        registration = self._serving.registration
        return registration.server if registration is not None else None

    # -- inside -----------------------------------------------------------------------------------

    def _ports(self) -> Ports:
        serving = self._serving
        if serving.started:
            raise ValueError("a port has to be added before the server starts")
        if serving.ports is None:
            serving.ports = Ports(serving.executor, self._methods, serving, self._options, self._compression)
        return serving.ports
