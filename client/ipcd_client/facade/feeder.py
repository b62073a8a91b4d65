"""Sends what the program's iterator of requests gives."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc

from ipcd_client.errors import IpcdError, WireTimeout
from ipcd_client.facade.messages import serialized
from ipcd_client.frame.settings import RESET_DEADLINE
from ipcd_client.rpc import status
from ipcd_client.rpc.retry import KEPT_MOST, Kept

if TYPE_CHECKING:
    from ipcd_client.facade.exchange import Exchange
    from ipcd_client.rpc.call import ClientCall
    from ipcd_client.sync.connection import Connection

log = logging.getLogger("ipcd_client")


class Feeder:
    """The requests of one call: a thread that takes them from the iterator and sends them to wherever the call goes.

    A call may be started again, when a server has refused it or a policy says so, provided that the requests can be
    sent again. The iterator gives each only once, so the first ones are kept: see `Kept`, and `keep_most` in bytes.
    """

    def __init__(
        self,
        requests: Iterator[Any],
        serialize: Callable[[Any], bytes] | None,
        max_send: int,
        keep_most: int = KEPT_MOST,
    ) -> None:
        self._requests = requests
        self._serialize = serialize
        self._max_send = max_send
        self.kept = Kept(keep_most)
        self._running = False
        # Held while something is sent, so that what was kept is sent again before anything new.
        self._sending = threading.Lock()

    def go(self, exchange: Exchange, begun: Callable[[], bool]) -> None:
        """Sends to where `exchange` goes from now on: first again what is kept, then what the iterator gives.

        `begun` tells the exchange where that is; False: the call has ended meanwhile.
        """
        with self._sending:
            if not begun():
                return
            connection, state = exchange.link
            if connection is not None:
                for data in self.kept.requests:
                    if not _send(exchange, connection, state, data):
                        break
                if self.kept.ended:
                    connection.close_send(state)
            if self._running or exchange.over:
                return
            self._running = True
        threading.Thread(target=self._run, args=(exchange,), name="ipcd-requests", daemon=True).start()

    def _run(self, exchange: Exchange) -> None:
        try:
            while not exchange.over:
                request = next(self._requests)
                data = self._serialized(exchange, request)
                if data is None:
                    return
                if not self._sent(exchange, data):
                    return
        except StopIteration:
            self._end(exchange)
        except Exception:
            log.exception(status.ITERATING_REQUESTS_FAILED)
            exchange.end(grpc.StatusCode.UNKNOWN, status.ITERATING_REQUESTS_FAILED)
        finally:
            # A generator of the program's ends with the last reference.
            self._requests = iter(())

    def _sent(self, exchange: Exchange, data: bytes) -> bool:
        """Sends it to where the call is, once that is known. False: the call is over."""
        kept = sent = False
        while not sent:
            with self._sending:
                connection, state = exchange.link
                if connection is not None and not kept:
                    # Kept before it is sent: if the call ends meanwhile, whoever starts it again sends it.
                    self.kept.add(data, state)
                    kept = True
                    sent = _send(exchange, connection, state, data)
            if not sent:
                if not exchange.await_start(state):
                    return False
                sent = kept
        return True

    def _serialized(self, exchange: Exchange, request: Any) -> bytes | None:
        try:
            data = serialized(request, self._serialize)
        except TypeError as error:
            log.error("%s %s", status.SERIALIZE_REQUEST_FAILED, error)
            data = None
        if data is None:
            exchange.end(grpc.StatusCode.INTERNAL, status.SERIALIZE_REQUEST_FAILED)
        elif 0 <= self._max_send < len(data):
            details = status.sent_too_large(len(data), self._max_send)
            exchange.end(grpc.StatusCode.RESOURCE_EXHAUSTED, details)
            return None
        return data

    def _end(self, exchange: Exchange) -> None:
        with self._sending:
            self.kept.ended = True
            connection, state = exchange.link
            if connection is not None:
                connection.close_send(state)


def _send(exchange: Exchange, connection: Connection, state: ClientCall, data: bytes) -> bool:
    """False: the call has ended."""
    try:
        return connection.send(state, data, exchange.deadline)
    except WireTimeout:
        exchange.end(grpc.StatusCode.DEADLINE_EXCEEDED, status.DEADLINE_EXCEEDED, RESET_DEADLINE)
    except IpcdError as error:
        exchange.end(grpc.StatusCode.INTERNAL, str(error))
    return False
