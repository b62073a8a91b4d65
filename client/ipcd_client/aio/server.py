"""`grpc.aio.Server`, reached through the node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import grpc

from ipcd_client.aio.dispatch import Server as Dispatcher
from ipcd_client.aio.serving import CalledContext, Registrar, Serving, State
from ipcd_client.facade.ports import Lookup
from ipcd_client.facade.shapes import Handler
from ipcd_client.node.loop_registration import LoopRegistration
from ipcd_client.node.paths import default_socket
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc import status
from ipcd_client.rpc.options import Options

log = logging.getLogger("ipcd_client")


class Server(grpc.aio.Server):
    """See `ipcd_client.aio.server`. Belongs to the loop that starts it."""

    def __init__(
        self,
        pool: Executor | None,
        *,
        name: str | None,
        node: str | None,
        handlers: Sequence[grpc.GenericRpcHandler] | None,
        interceptors: Sequence[grpc.aio.ServerInterceptor] | None,
        options: Sequence[tuple[str, Any]] | None,
        maximum_concurrent_rpcs: int | None,
        compression: grpc.Compression | None = None,
        registrar: Registrar = LoopRegistration,
    ) -> None:
        if maximum_concurrent_rpcs is not None and maximum_concurrent_rpcs < 1:
            raise ValueError("maximum_concurrent_rpcs should be a positive integer")
        given: Sequence[object] = interceptors or ()
        wrong = [each for each in given if not isinstance(each, grpc.aio.ServerInterceptor)]
        if wrong:
            raise ValueError(f"Interceptor must be ServerInterceptor, the following are invalid: {wrong}")
        self._path = node or default_socket()
        self._registrar = registrar
        parsed = Options.parse(options)
        dispatcher = Dispatcher(
            status_of=_status_of,
            context=CalledContext,
            interceptors=interceptors or (),
            pool=pool,
            most=maximum_concurrent_rpcs,
            max_send=parsed.max_send,
        )
        dispatcher.add_generic_rpc_handlers(handlers or ())
        self._serving = Serving(dispatcher, parsed, name or "")
        # What a server of grpc.aio for the ports is made with, apart from the handlers.
        self._as_given: dict[str, Any] = {
            "migration_thread_pool": pool,
            "interceptors": interceptors,
            "options": options,
            "maximum_concurrent_rpcs": maximum_concurrent_rpcs,
            "compression": compression,
        }

    # -- grpc.aio.Server --------------------------------------------------------------------------

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        handlers = self._serving.dispatcher.handlers
        handlers.add_generic(generic_rpc_handlers)
        self._serving.served()

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        if self._serving.state is not State.READY:
            log.warning("methods of %s registered after the server has started are ignored", service_name)
            return
        self._serving.dispatcher.add_registered_method_handlers(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> int:
        """Also serves as real gRPC, in the clear, on this address of grpcio's: "HOST:PORT" or "unix:PATH".

        Returns:
            The port, which the system chooses for port 0.

        Raises:
            RuntimeError: it cannot be bound; as grpcio does.
            ValueError: the server has started, or has stopped.
        """
        return self._ports().add_insecure_port(address)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """As `add_insecure_port`, with these credentials."""
        return self._ports().add_secure_port(address, server_credentials)

    async def start(self) -> None:
        """Attaches to the node and serves. Does nothing if the server runs, as in grpc.aio.

        Raises:
            grpc.aio.UsageError: it was stopped before.
            IpcdError: no daemon within `IPCD_ATTACH_TIMEOUT` seconds (10), or it refused the registration.
        """
        await self._serving.start(self._registrar, self._path)

    async def stop(self, grace: float | None) -> None:
        """Takes no new calls; those under way have `grace` seconds, and are cancelled then: at once without any.
        Returns when all is over. The smallest grace of several calls of this decides."""
        await self._serving.stop(grace)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """True if `timeout` seconds passed first; as grpc.aio has it."""
        try:
            async with asyncio.timeout(timeout):
                await self._serving.stopped.wait()
        except TimeoutError:
            return True
        return False

    def __del__(self) -> None:
        serving: Serving | None = getattr(self, "_serving", None)
        if serving is not None:
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

    def _ports(self) -> grpc.aio.Server:
        serving = self._serving
        if serving.state is not State.READY:
            raise ValueError("a port has to be added before the server starts")
        if serving.ports is None:
            serving.ports = grpc.aio.server(handlers=[Lookup(serving.dispatcher.handlers)], **self._as_given)
        return serving.ports


def _status_of(error: Exception) -> tuple[grpc.StatusCode, str] | None:
    """What grpc.aio fails with below the handler is no failure of the handler's."""
    if isinstance(error, md.InvalidMetadata):
        log.error("%s", error)
        return grpc.StatusCode.INTERNAL, status.INVALID_METADATA
    return None
