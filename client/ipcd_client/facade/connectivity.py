"""A channel's connectivity: whether its node can be asked. A server is looked for with each service's first call."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

import grpc

from ipcd_client.errors import IpcdError
from ipcd_client.node.attach import Attachment

log = logging.getLogger("ipcd_client")

State = grpc.ChannelConnectivity
Callback = Callable[[grpc.ChannelConnectivity], None]

# Seconds between looks, while somebody is subscribed.
_LOOK: Final = 0.2
_ATTACH: Final = 1.0


class Connectivity:
    """Tells subscribers of changes, from a thread that exists while there are any."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._lock = threading.Lock()
        self._callbacks: list[tuple[Callback, list[State]]] = []
        self._state = State.IDLE
        self._connect = False
        self._thread: threading.Thread | None = None
        self._changed = threading.Event()
        self._closed = False

    def subscribe(self, callback: Callback, try_to_connect: bool | None) -> None:
        """Calls back with the present state, then with each change."""
        with self._lock:
            if self._closed:
                return
            self._callbacks.append((callback, []))
            self._connect = self._connect or bool(try_to_connect)
            # After a fork the object is there, its thread is not.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="ipcd-connectivity", daemon=True)
                self._thread.start()
        self._changed.set()

    def unsubscribe(self, callback: Callback) -> None:
        """Takes back one subscription of an equal callback: a bound method is another object each time."""
        with self._lock:
            for index, (subscribed, _) in enumerate(self._callbacks):
                if subscribed == callback:
                    del self._callbacks[index]
                    break
        self._changed.set()

    @property
    def locked(self) -> bool:
        """Some thread, perhaps this one, is in the middle of it. For destructors."""
        return self._lock.locked()

    def close(self) -> None:
        """No more calls of any."""
        with self._lock:
            self._closed = True
            self._callbacks = []
            thread = self._thread
        self._changed.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(2 * _ATTACH)

    def _run(self) -> None:
        while True:
            self._tell()
            with self._lock:
                if not self._callbacks:
                    self._thread = None
                    return
                connect = self._connect
            if connect and self._state is not State.READY:
                self._state = State.CONNECTING
                self._tell()
            self._state = self._look(connect)
            self._tell()
            self._changed.wait(_LOOK)
            self._changed.clear()

    def _look(self, connect: bool) -> State:
        if not connect:
            return self._state
        try:
            connection = self._attachment.connection(_ATTACH)
            connection.look()
        except IpcdError as error:
            log.debug("not connected: %s", error)
            return State.TRANSIENT_FAILURE
        return State.READY if connection.usable else State.IDLE

    def _tell(self) -> None:
        state = self._state
        with self._lock:
            due = [entry for entry in self._callbacks if not entry[1] or entry[1][0] is not state]
        for callback, last in due:
            last[:] = [state]
            try:
                callback(state)
            except Exception:
                log.exception("Exception in a connectivity callback")
