"""Whether a gRPC server serves: what its grpc.health.v1 says of each service, else whether it can be reached.

Each service has a thread, which follows `Watch`. Where a server lacks that, it asks `Check` every few seconds; where it
has no health service at all, it serves for as long as the channel is connected.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from ipcd_client.pb.ipcd.grpc import health_pb2

CHECK_EVERY: Final = 2.0  # seconds
_CHECK_TIMEOUT: Final = 5.0  # seconds
_PAUSE: Final = 0.1  # seconds, between a watch that ended and the next

_WHOLE: Final = ""  # what the health service calls the server as such
_PREFIX: Final = "/grpc.health.v1.Health/"


@dataclass(frozen=True, slots=True)
class Health:
    """Of one service. `why` is half a sentence for people."""

    service: str
    serving: bool
    why: str


class _Said(enum.Enum):
    SERVING = enum.auto()
    NOT_SERVING = enum.auto()
    UNKNOWN_HERE = enum.auto()  # the health service does not know that name
    NO_HEALTH = enum.auto()  # the server can be reached, and has no health service
    UNREACHABLE = enum.auto()


_STATUS: Final[dict[int, _Said]] = {
    health_pb2.HealthCheckResponse.SERVING: _Said.SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN: _Said.UNKNOWN_HERE,
}


class Monitor:
    """Tells of each of `services` once it is known whether it serves, and whenever that changes.

    `tell` is called by threads of its own, one at a time; it must be quick. The channel stays the caller's.
    """

    def __init__(self, channel: grpc.Channel, services: Iterable[str], tell: Callable[[Health], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._services = list(services)
        self._said: dict[str, tuple[_Said, str]] = {}
        self._told: dict[str, bool] = {}
        self._connection = _Connection(channel)
        # Of services that the health service does not know, what it says of the whole server holds.
        names = [*self._services, _WHOLE]
        self._watchers = [_Watcher(channel, name, self._connection, self._hear) for name in names]

    def start(self) -> None:
        """Begins."""
        for watcher in self._watchers:
            watcher.start()

    def close(self) -> None:
        """Tells no more once this has returned."""
        for watcher in self._watchers:
            watcher.close()
        self._connection.close()
        for watcher in self._watchers:
            watcher.join()

    def _hear(self, name: str, said: _Said, why: str) -> None:
        with self._lock:
            self._said[name] = said, why
            for service in self._services if name == _WHOLE else [name]:
                health = self._judged(service)
                if health is not None and self._told.get(service) != health.serving:
                    self._told[service] = health.serving
                    self._tell(health)

    def _judged(self, service: str) -> Health | None:
        """None: not known yet."""
        said, why = self._said.get(service, (None, ""))
        if said is _Said.UNKNOWN_HERE:
            said, why = self._said.get(_WHOLE, (None, ""))
            if said is _Said.UNKNOWN_HERE:
                return Health(service, False, "the server's health service knows neither it nor the whole server")
            if said in {_Said.SERVING, _Said.NOT_SERVING}:
                why = f"{why} of the whole server, and does not know this service"
        return None if said is None else Health(service, said in {_Said.SERVING, _Said.NO_HEALTH}, why)


class _Watcher(threading.Thread):
    """Asks of one name until it is closed."""

    def __init__(
        self, channel: grpc.Channel, name: str, connection: _Connection, hear: Callable[[str, _Said, str], None]
    ) -> None:
        super().__init__(name=f"ipcd-health-{name or 'server'}", daemon=True)
        request, response = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        self._watch = channel.unary_stream(f"{_PREFIX}Watch", request.SerializeToString, response.FromString)
        self._check = channel.unary_unary(f"{_PREFIX}Check", request.SerializeToString, response.FromString)
        self._request = request(service=name)
        self._connection = connection
        self._hear = hear
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._call: Any = None

    def run(self) -> None:
        # A watch that ends is begun again at once: the server may have ended the connection only because it was old.
        # Only if that fails too is it gone; then the next one waits until it is back.
        patient = False
        while not self._closing.is_set():
            answered, error = self._follow(patient)
            if self._closing.is_set():
                return
            if error is not None and error.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._poll()
                patient = False
            elif answered:
                patient = False
            else:
                self._unreachable(error)
                patient = True
            self._closing.wait(_PAUSE)

    def close(self) -> None:
        """Has the thread end."""
        self._closing.set()
        with self._lock:
            if self._call is not None:
                self._call.cancel()

    def _follow(self, patient: bool) -> tuple[bool, Any]:
        """A watch, to its end: whether it gave an answer, and the error that it ended with."""
        answered = False
        try:
            for response in self._begin(lambda: self._watch(self._request, wait_for_ready=patient)):
                answered = True
                self._answer(response.status)
        except grpc.RpcError as error:
            return answered, error
        return answered, None

    def _poll(self) -> None:
        """Checks now and then, until the server cannot be reached."""
        while not self._closing.is_set():
            try:
                call = self._begin(lambda: self._check.future(self._request, timeout=_CHECK_TIMEOUT))
                self._answer(call.result().status)
            except grpc.FutureCancelledError:
                return
            except grpc.RpcError as error:
                code = error.code()
                if code is grpc.StatusCode.UNIMPLEMENTED:
                    self._say(_Said.NO_HEALTH, "connected; the server has no health service")
                    self._connection.until_lost(self._closing)
                    return
                if code is not grpc.StatusCode.NOT_FOUND:
                    return
                self._answer(health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            self._closing.wait(CHECK_EVERY)

    def _begin(self, make: Callable[[], Any]) -> Any:
        """A call that `close` cancels."""
        with self._lock:
            self._call = call = make()
            if self._closing.is_set():
                call.cancel()
        return call

    def _answer(self, status: int) -> None:
        said = _STATUS.get(status, _Said.NOT_SERVING)
        self._say(said, f"the server's health service says {_status_name(status)}")

    def _unreachable(self, error: Any) -> None:
        why = "its health service ends every watch" if error is None else f"{error.code().name}: {error.details()}"
        self._say(_Said.UNREACHABLE, why)

    def _say(self, said: _Said, why: str) -> None:
        if not self._closing.is_set():
            self._hear(self._request.service, said, why)


def _status_name(status: int) -> str:
    try:
        return health_pb2.HealthCheckResponse.ServingStatus.Name(status)
    except ValueError:
        return str(status)


class _Connection:
    """Whether the channel is connected. Looked at only once somebody needs to know: in grpcio it takes a thread that
    polls."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._changed = threading.Condition()
        self._state: grpc.ChannelConnectivity | None = None
        self._subscribed = False

    def until_lost(self, closing: threading.Event) -> None:
        """Waits until it is not, or until `closing` is set and `close` was called."""
        with self._changed:
            if not self._subscribed:
                self._subscribed = True
                self._channel.subscribe(self._on_change)
            self._changed.wait_for(
                lambda: closing.is_set() or self._state not in {None, grpc.ChannelConnectivity.READY}
            )

    def close(self) -> None:
        """Ends the waits of watchers that are closing."""
        with self._changed:
            if self._subscribed:
                self._channel.unsubscribe(self._on_change)
            self._changed.notify_all()

    def _on_change(self, state: grpc.ChannelConnectivity) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()
