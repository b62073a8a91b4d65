"""The ports of a server: its handlers as real gRPC, for callers that know nothing of nodes.

Below is a `grpc.server` with the same handlers, interceptors, executor and options. It begins and ends with ours. What
both have in common is how many calls may run: `_Gate` sees to that, as it is the first of the interceptors and the
executor in one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any, Protocol

import grpc

from ipcd_client.facade.methods import Methods
from ipcd_client.facade.shapes import Handler
from ipcd_client.rpc import status


class Limit(Protocol):
    """How many calls may run."""

    def enters(self) -> bool:
        """A call begins. False: there are too many already."""

    def leaves(self) -> None:
        """A call that has begun has ended."""


class Ports:
    """Any number of addresses. `methods` are looked up anew for each call, `executor` runs the handlers."""

    def __init__(
        self,
        executor: Executor,
        methods: Methods,
        limit: Limit,
        options: Sequence[tuple[str, Any]] | None,
        compression: grpc.Compression | None,
    ) -> None:
        gate = _Gate(executor, limit)
        self._server = grpc.server(
            gate,  # type: ignore[arg-type]  # grpcio submits to it, and no more
            handlers=[Lookup(methods)],
            interceptors=[gate, *methods.interceptors],
            options=options,
            compression=compression,
        )
        self._stopped: list[threading.Event] = []

    def add(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Listens there; without credentials, in the clear. The port's number.

        Raises:
            RuntimeError: it cannot be bound; as grpcio does.
        """
        if credentials is None:
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, credentials)

    def start(self) -> None:
        """Takes calls."""
        self._server.start()

    def stop(self, grace: float | None) -> None:
        """Takes no more; those under way have `grace` seconds."""
        self._stopped.append(self._server.stop(grace))

    def wait(self) -> None:
        """Until all is over, once it was stopped."""
        for event in self._stopped:
            event.wait()


class Lookup(grpc.GenericRpcHandler):
    """Finds what a server of ours would."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        return self._methods.find(handler_call_details)


class _Gate(Executor, grpc.ServerInterceptor):
    """Lets calls through to the executor while there are not too many. One thread, grpcio's, looks a call's handler up
    and submits the call right afterwards: so what the one finds, the other may go by."""

    def __init__(self, executor: Executor, limit: Limit) -> None:
        self._executor = executor
        self._limit = limit
        self._refusing = False

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = continuation(handler_call_details)
        if handler is not None:
            self._refusing = not self._limit.enters()
            if self._refusing:
                return _REFUSE
        return handler

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs what refuses a call at once, on this thread: the executor may be busy for as long as it likes."""
        if self._refusing:
            self._refusing = False
            future: Future[Any] = Future()
            future.set_result(fn(*args, **kwargs))
            return future
        try:
            future = self._executor.submit(fn, *args, **kwargs)
        except RuntimeError as error:
            # The user has shut the executor down. Raised here, it would end grpcio's thread; so, it ends this call.
            future = Future()
            future.set_exception(error)
        future.add_done_callback(lambda _: self._limit.leaves())
        return future


def _refuse(_requests: object, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, status.CONCURRENCY_EXCEEDED)


# For calls of every kind: it is grpcio's handler that never waits for a request.
_REFUSE: Handler = grpc.stream_stream_rpc_method_handler(_refuse)
