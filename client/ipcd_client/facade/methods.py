"""What a server serves: its handlers, by whatever way they were registered, and the interceptors before them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import grpc

from ipcd_client.facade.shapes import Handler
from ipcd_client.rpc import metadata as md
from ipcd_client.rpc.call import ServerCall

# Names of methods that something is remembered of: handlers may take whatever name a caller makes up.
_MOST: Final = 4096


class _Call(NamedTuple):
    method: str
    invocation_metadata: md.Metadata


class CallDetails(_Call, grpc.HandlerCallDetails):  # type: ignore[misc]  # in the stubs, it may be set
    """What interceptors and generic handlers are told of a call. A named tuple, as grpcio's is: interceptors use its
    `_replace`."""


class Method:
    """What is known of one method. `handler`: None where interceptors choose it, for each call anew."""

    __slots__ = ("average", "handler", "simple")

    def __init__(self, handler: Handler | None) -> None:
        self.handler = handler
        # How long calls keep their thread: a running average, in seconds.
        self.average = 0.0
        self.simple = handler is not None and not (handler.request_streaming or handler.response_streaming)


class Methods:
    """The handlers of one server. Those that were registered by their method's name go before generic ones."""

    def __init__(
        self, handlers: Iterable[grpc.GenericRpcHandler], interceptors: Iterable[grpc.ServerInterceptor]
    ) -> None:
        self.services: set[str] = set()
        # What is known of methods that stay as they are.
        self.fixed: dict[str, Method] = {}
        self.interceptors = tuple(interceptors)
        self.registered: dict[str, Handler] = {}
        self._generic: list[grpc.GenericRpcHandler] = []
        self._found: dict[str, Method] = {}
        self.add_generic(handlers)

    def add_generic(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """These are asked too, after those that are there.

        Raises:
            AttributeError: one of them cannot be asked. None was added.
        """
        added = tuple(handlers)
        for handler in added:
            if getattr(handler, "service", None) is None:
                raise AttributeError(
                    f'"{handler}" must conform to grpc.GenericRpcHandler type but does not have "service" method!'
                )
        self._generic += added
        for handler in added:
            name: Callable[[], str] | None = getattr(handler, "service_name", None)
            if name is not None:
                self.services.add(name())

    def register(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """These are the service's methods."""
        self.registered.update({f"/{service}/{method}": handler for method, handler in handlers.items()})
        self.services.add(service)

    def register_own(self, handlers: Mapping[str, Handler]) -> None:
        """Full names of methods that every server has; those of the program go before them."""
        self.registered = {**handlers, **self.registered}

    def find(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler without any interceptor; None if there is none."""
        handler = self.registered.get(details.method)
        if handler is not None:
            return handler
        for generic in self._generic:
            handler = generic.service(details)
            if handler is not None:
                return handler
        return None

    def intercepted(self, call: ServerCall, method: Method) -> Handler | None:
        """The handler that interceptors and handlers choose together; None if there is none. `method`: from
        `look_up`."""

        def chain(interceptors: Sequence[Any], details: grpc.HandlerCallDetails) -> Handler | None:
            if not interceptors:
                return self.find(details)
            handler: Handler | None = interceptors[0].intercept_service(lambda d: chain(interceptors[1:], d), details)
            return handler

        chosen = chain(self.interceptors, _details(call))
        if chosen is not None:
            self._remember(call.method, method)
        return chosen

    def look_up(self, call: ServerCall) -> Method | None:
        """What is known of the method of a call that is not in `fixed`; None if there is no such method. Generic
        handlers are asked for each call anew, as they may answer differently."""
        name = call.method
        registered = self.registered.get(name)
        if registered is not None:
            method = self.fixed[name] = Method(None if self.interceptors else registered)
            return method
        if self.interceptors:
            # They choose, and may find one for a name that we know nothing of.
            return self._found.get(name) or Method(None)
        found = self.find(_details(call))
        if found is None:
            return None
        before = self._found.get(name)
        if before is not None and before.handler is found:
            return before
        method = Method(found)
        if before is not None:
            method.average = before.average
        self._remember(name, method)
        return method

    def _remember(self, name: str, method: Method) -> None:
        if name in self._found or len(self._found) < _MOST:
            self._found[name] = method


def _details(call: ServerCall) -> CallDetails:
    return CallDetails(call.method, md.received(call.metadata))
