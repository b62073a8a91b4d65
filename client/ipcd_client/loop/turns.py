"""How much is read of each connection at a time, where a process has many: together as much as of one."""

from __future__ import annotations

from typing import Final

from ipcd_client.loop.connection import Connection
from ipcd_client.loop.reading import TURN


class Turns:
    """Of the connections of one server. An event loop looks at all that are readable one after the other, so who comes
    next waits for all of these."""

    def __init__(self) -> None:
        self._of: Final[dict[object, set[Connection]]] = {}

    def add(self, whose: object, connection: Connection) -> None:
        """One more of this process."""
        self._of.setdefault(whose, set()).add(connection)
        self._share(whose)

    def remove(self, whose: object, connection: Connection) -> None:
        """It has ended."""
        self._of[whose].discard(connection)
        self._share(whose)

    def _share(self, whose: object) -> None:
        connections = self._of[whose]
        if not connections:
            del self._of[whose]
        for connection in connections:
            connection.turn = max(1, TURN // len(connections))
