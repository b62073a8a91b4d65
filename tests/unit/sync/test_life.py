"""How a connection ends while other threads work on it."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any, cast

from ipcd_client.errors import WireClosed
from ipcd_client.frame.settings import Settings
from ipcd_client.sync.connection import Connection
from ipcd_client.sync.host import Host
from ipcd_client.wire.unix import UnixWire


class Slow:
    """A host that takes its time with the news of the end, while the thread that reads finds out by itself."""

    def __init__(self) -> None:
        self.open: bool | None = None

    def closed(self, connection: Any) -> None:
        reader = threading.Thread(target=connection._stop_reading)
        reader.start()
        reader.join(0.1)
        try:
            os.fstat(connection.wire.fileno())
            self.open = True
        except OSError:
            self.open = False


def test_the_descriptor_is_open_when_the_host_is_told() -> None:
    one, other = socket.socketpair()
    host = Slow()
    connection = Connection(UnixWire(one, peer="the other end"), Settings(), dialer=True, host=cast("Host", host))
    connection._reading = True
    connection.fail(WireClosed("over"))
    assert host.open is True
    other.close()
    connection.wire.abort()
