"""Who a connection deals with beside the threads that wait for it."""

from __future__ import annotations

from typing import Any, Protocol

from ipcd_client.rpc.call import ServerCall

# To name the class here would close a circle of imports: it is told of its host when it is made.
Connection = Any


class User(Protocol):
    """Who is told about a call's news besides waiting threads. Called without locks, by whichever thread reads."""

    def progressed(self) -> None:
        """An event of the call was taken in."""


class Host(Protocol):
    """What a connection asks of the reactor that reads it while nobody waits."""

    def pause(self, connection: Connection) -> None:
        """A waiting thread reads from now on."""

    def resume(self, connection: Connection) -> None:
        """It has stopped."""

    def flush_later(self, connection: Connection) -> None:
        """There is a backlog, and nobody waits until it is gone."""

    def read_again(self, connection: Connection) -> None:
        """The wire holds frames that were read from the transport, so that polling would not tell."""

    def adopt(self, connection: Connection, calls: list[ServerCall]) -> None:
        """Calls that were found by a thread that was waiting for something else."""

    def about_to_wait(self) -> None:
        """This thread is going to wait: it may be the one that reads for the others."""

    def closed(self, connection: Connection) -> None:
        """The connection has ended; its descriptor is still open. Called under the connection's lock, so that it stays
        so until this returns."""
