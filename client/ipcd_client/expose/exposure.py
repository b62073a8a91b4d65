"""Registers the services of a gRPC server at the node while they are healthy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Final, Self

import grpc

import ipcd_client
from ipcd_client.errors import IpcdError
from ipcd_client.expose.forward import Description, Forwarder, Service
from ipcd_client.expose.health import Health, Monitor
from ipcd_client.expose.reflection import Reflection
from ipcd_client.expose.upstream import MAX_MESSAGE

# Seconds. A service that is withdrawn takes no new calls; those it has end when they end.
_UNLIMITED: Final = 7 * 24 * 3600.0
_RETRY: Final = 1.0  # seconds, between attempts to register
_SPARE: Final = 2  # threads for each service beside those of forwarded calls: to read, and to refuse calls

OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
)


@dataclass(frozen=True, slots=True)
class Change:
    """A service is registered from now on, or not any more."""

    service: str
    serving: bool
    why: str


class Exposure:
    """Of `services` of the server that `channel` leads to. A context manager, which drains and closes the channel.

    Each service is a server of its own at the node, so that each comes and goes, and its callers are sent elsewhere,
    without the others.

    Args:
        name: what these servers are called; may be empty.
        node: path of the daemon's socket.
        most: how many calls are forwarded at a time.
        grace: seconds that calls under way have at the end.
    """

    def __init__(
        self, channel: grpc.Channel, services: list[str], *, name: str, node: str, most: int, grace: float
    ) -> None:
        self._channel = channel
        self._name = name
        self._node = node
        self._grace = grace
        self._forwarder = Forwarder(channel, most)
        self._description = Description(Reflection(channel))
        self._executor = ThreadPoolExecutor(most + _SPARE * len(services), thread_name_prefix="ipcd-expose")
        self._news: SimpleQueue[Health | None] = SimpleQueue()
        self._monitor = Monitor(channel, services, self._news.put)
        self._servers: dict[str, ipcd_client.Server] = {}
        # Those that were withdrawn and may have calls yet; and when their last has ended.
        self._draining: list[tuple[ipcd_client.Server, threading.Event]] = []

    def __enter__(self) -> Self:
        self._monitor.start()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._monitor.close()
        ending = [server for server, _ in self._draining] + list(self._servers.values())
        events = [server.stop(self._grace) for server in ending]
        limit = monotonic() + self._grace
        for event in events:
            event.wait(max(0.0, limit - monotonic()))
        # What is still being forwarded ends now.
        self._channel.close()
        self._executor.shutdown(wait=True)
        for event in events:
            event.wait()

    def run(self, tell: Callable[[Change], None]) -> None:
        """Until `stop`. `tell` gets each change of state."""
        failed: dict[str, Health] = {}
        while True:
            try:
                health = self._news.get(timeout=_RETRY if failed else None)
            except Empty:
                again, failed = failed, {}
                for health in again.values():
                    self._follow(health, failed, tell, quiet=True)
                continue
            if health is None:
                break
            failed.pop(health.service, None)
            self._follow(health, failed, tell)
        for service in list(self._servers):
            tell(Change(service, False, "ending"))

    def stop(self) -> None:
        """Ends `run`. May be called from a signal's handler."""
        self._news.put(None)

    def _follow(
        self, health: Health, failed: dict[str, Health], tell: Callable[[Change], None], quiet: bool = False
    ) -> None:
        service = health.service
        if not health.serving:
            self._withdraw(service)
            tell(Change(service, False, health.why))
            return
        try:
            self._register(service)
        except IpcdError as error:
            failed[service] = health
            if not quiet:
                tell(Change(service, False, f"cannot be registered: {error}"))
            return
        tell(Change(service, True, health.why))

    def _register(self, service: str) -> None:
        server = ipcd_client.server(
            self._executor,
            handlers=[Service(service, self._forwarder)],
            interceptors=[self._description],
            options=OPTIONS,
            name=self._name,
            node=self._node,
        )
        server.start()
        self._servers[service] = server

    def _withdraw(self, service: str) -> None:
        self._draining = [(server, over) for server, over in self._draining if not over.is_set()]
        server = self._servers.pop(service, None)
        if server is not None:
            self._draining.append((server, server.stop(_UNLIMITED)))
