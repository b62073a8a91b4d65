"""A server's own health service, heeded: a service that it says is NOT_SERVING gets no new callers.

What `grpc.health.v1.Health` says of a service counts, and what it says of the whole server ("") where it knows nothing
of the service. It is asked by its `Watch`, as anybody could: on threads in the form that takes a callback
(`experimental_non_blocking`, as grpcio-health-checking's has it), since a generator would take a thread for each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from ipcd_client.facade.shapes import Handler

log = logging.getLogger("ipcd_client")

SERVICE: Final = "grpc.health.v1.Health"
WATCH: Final = f"/{SERVICE}/Watch"
# Services that tell of others.
_OWN: Final = frozenset({SERVICE, "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"})
# grpc.health.v1.HealthCheckResponse.ServingStatus
_NOT_SERVING: Final = 2
_SERVICE_UNKNOWN: Final = 3
_LONGEST: Final = 127  # of a service's name: its length is one byte in the request


class States:
    """What is known of each service. Pure."""

    def __init__(self, services: Iterable[str]) -> None:
        self.services = sorted(services)
        self._states: dict[str, int] = {}

    @property
    def asked(self) -> list[str]:
        """Names to ask for."""
        return ["", *(name for name in self.services if name not in _OWN and 0 < len(name.encode()) <= _LONGEST)]

    def put(self, service: str, state: int) -> bool:
        """Takes in what was said. True if other services are to be registered now."""
        before = self.serving()
        self._states[service] = state
        return self.serving() != before

    def serving(self) -> list[str]:
        """What is to be registered."""
        return [name for name in self.services if name in _OWN or self._state(name) != _NOT_SERVING]

    def _state(self, service: str) -> int:
        state = self._states.get(service, _SERVICE_UNKNOWN)
        return self._states.get("", _SERVICE_UNKNOWN) if state == _SERVICE_UNKNOWN else state


def request(handler: Handler, service: str) -> Any:
    """A HealthCheckRequest, as the handler has it."""
    name = service.encode()
    data = bytes([0x0A, len(name)]) + name if name else b""
    return data if handler.request_deserializer is None else handler.request_deserializer(data)


class _Context:
    """All that `Watch` may ask for."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self.callbacks.append(callback)
        return True

    def is_active(self) -> bool:
        return True


class Health:
    """Watches for a server on threads. `changed` gets what is to be registered, whenever that is something else; by
    the thread that has set the health."""

    def __init__(self, handler: Handler | None, states: States, changed: Callable[[list[str]], None]) -> None:
        self.states = states
        self._changed = changed
        self._contexts: list[_Context] = []
        self._started = False
        behavior: Any = handler.unary_stream if handler is not None else None
        if handler is None or not getattr(behavior, "experimental_non_blocking", False):
            return
        for service in states.asked:
            context = _Context()
            try:
                behavior(request(handler, service), context, send_response_callback=self._teller(service))
            except Exception:
                log.exception("the health of %s cannot be watched", service or "the server")
            else:
                self._contexts.append(context)
        self._started = True

    def close(self) -> None:
        """Watches no more."""
        self._started = False
        contexts, self._contexts = self._contexts, []
        for context in contexts:
            for callback in context.callbacks:
                callback()

    def _teller(self, service: str) -> Callable[[Any], None]:
        def tell(response: Any) -> None:
            if response is not None and self.states.put(service, response.status) and self._started:
                self._changed(self.states.serving())

        return tell
