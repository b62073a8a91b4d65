"""Calls of this daemon to the daemons of other nodes, for processes of this one: of the services of the primitives."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from ipcd_client.loop.connection import Connection
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.primitives.errors import from_status
from ipcd_client.rpc.failure import CallFailed

from ipcd.backends import Backends
from ipcd.broker import Broker
from ipcd.log import Log
from ipcd.state.primitives import FOR

R = TypeVar("R", bound=Message)


class Nodes:
    """One connection with each, made when it is first needed. To be made on a loop, and closed.

    `identity`, of each call: whom it is for. The other node asks its rules about both, that one and this daemon.
    """

    def __init__(self, broker: Broker, log: Log) -> None:
        self._backends = Backends(broker, log)

    async def call(self, node: str, method: str, request: Message, reply: type[R], identity: str, timeout: float) -> R:
        """Calls a unary method, "/pkg.Service/Method".

        Raises:
            IpcdError: what it failed with: a PrimitiveError where it is one.
        """
        connection = await self._connection(node, method, identity)
        try:
            message, _ = await connection.call(
                method, request.SerializeToString(), timeout=timeout, metadata=((FOR, identity),)
            )
            return reply.FromString(message)
        except CallFailed as error:
            raise from_status(error.code, str(error)) from error
        except DecodeError as error:
            raise CallFailed(grpc.StatusCode.INTERNAL, f"node {node}: the reply does not parse: {error}") from error

    async def stream(
        self, node: str, method: str, request: Message, reply: type[R], identity: str
    ) -> AsyncGenerator[R, None]:
        """Calls a method that streams replies.

        Raises:
            IpcdError: as `call`.
        """
        connection = await self._connection(node, method, identity)
        stream = connection.stream(method, request=request.SerializeToString(), metadata=((FOR, identity),))
        try:
            while (message := await stream.receive()) is not None:
                yield reply.FromString(message)
        except CallFailed as error:
            raise from_status(error.code, str(error)) from error
        except DecodeError as error:
            raise CallFailed(grpc.StatusCode.INTERNAL, f"node {node}: the reply does not parse: {error}") from error
        finally:
            stream.cancel()

    async def _connection(self, node: str, method: str, identity: str) -> Connection:
        target = node_pb2.ResolveRequest(service=method[1:].partition("/")[0], node=node)
        candidate = self._backends.choose(target, identity, ())
        return (await self._backends.connected(target, candidate, identity)).connection

    async def close(self) -> None:
        """Ends them."""
        await self._backends.close()
