"""What a peer's module gives: `serve(place)` and `connect(place)`, and what these return.

A peer that is spoken to from an event loop has `async def serve` and `async def connect` instead; what these return has
the same methods, of which those that wait are coroutines. What a peer can do beyond a call is said in the registry, so
that it is known without importing it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

# Bytes of one message that all are set up for: the largest that is measured, and what an envelope adds.
MAX_MESSAGE: Final = (16 << 20) + (1 << 16)

# Threads of a server that runs handlers in threads: the same for all.
THREADS: Final = 8

# Seconds that a call may take before the run is given up; far over what the slowest takes.
PATIENCE: Final = 20.0

# Which way a stream goes: from the server, or to it.
DOWN: Final = "down"
UP: Final = "up"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer's server and clients meet. Passed to their processes as JSON."""

    socket: str  # which of a peer's sockets: "unix", "tcp", "shm"
    name: str  # the peer's own, for whatever needs a name that no other has
    directory: str  # for sockets; gone after the run
    node: str = ""  # path of the socket of the node that the server is attached to
    caller_node: str = ""  # and of the one that the client is attached to
    address: str = ""  # what the server says its clients need; empty until it runs

    def path(self, name: str) -> str:
        """A path in the directory, short enough for a socket."""
        return f"{self.directory}/{self.name}-{name}"


class Taken(NamedTuple):
    """What a client's connection really is, in its own words."""

    transport: str
    why: str


class Sustained(NamedTuple):
    """Calls kept in flight for a while."""

    calls: int
    seconds: float


class Server(Protocol):
    """Serves from threads of its own, or from the running loop, until it is closed."""

    address: str

    def close(self) -> Any: ...


class Client(Protocol):
    """One connection, used by one thread.

    `request` makes what is sent, once for many calls; `call` waits for the answer; `payload` gives the bytes of an
    answer. The three are apart so that only what a caller waits for is timed.
    """

    taken: Taken

    def request(self, payload: bytes) -> Any: ...

    def call(self, request: Any) -> Any: ...

    def payload(self, answer: Any) -> bytes: ...

    def sustain(self, way: str, request: Any, in_flight: int, seconds: float, size: int) -> Any:
        """Keep so many calls in flight for so long, each answer's length checked; gives `Sustained`."""

    def stream(self, direction: str, count: int, payload: bytes) -> Any:
        """Pass `count` messages through one stream, `DOWN` from the server or `UP` to it, the last acknowledged."""

    def close(self) -> Any: ...


class WrongAnswerError(Exception):
    """An answer is not what was sent; figures of it would be worth nothing."""


def check(expected: int, got: int) -> None:
    """Raises `WrongAnswerError` unless an answer is as long as what was sent."""
    if got != expected:
        raise WrongAnswerError(f"{expected} bytes were sent, {got} came back")
