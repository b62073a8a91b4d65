"""Callers that are to come over TCP, each with a token, and are handed to their servers when they do."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from ipcd_client.frame import preamble
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.wire.fds import Fd

from ipcd import limits
from ipcd.parties import Introduction, copied
from ipcd.registry import Registry
from ipcd.state import choice
from ipcd.state.tokens import Tokens
from ipcd.ways import Ways

if TYPE_CHECKING:
    from ipcd.security import Security


class Arrivals:
    """Of one node, to the servers of `registry`. `security`: as of the Broker."""

    def __init__(self, registry: Registry, ways: Ways, security: Security | None, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._ways = ways
        self._security = security
        self._clock = clock
        self._tokens: Tokens[Introduction] = Tokens()

    def expect(self, server_id: str, service: str, caller: node_pb2.Process, called_for: str) -> bytes:
        """A token for a caller that is to come over TCP to a server of ours. `called_for`: an identity; empty where it
        calls for itself.

        Raises:
            LimitReached: too many tokens wait for their callers.
        """
        token = secrets.token_bytes(preamble.TOKEN_SIZE)
        owner, user = f"node {caller.node}", ""
        if caller.node == self._registry.node:
            owner, user = f"pid {caller.pid}", f"uid {caller.uid}"
        self._tokens.issue(
            token, Introduction(server_id, service, copied(caller), called_for), owner, self._clock(), user
        )
        return token

    def arrived(self, token: bytes, sock: Fd, address: str) -> str:
        """A caller has come with a token: hands the connection to the server, which owns `sock` from then on. Why not,
        in words, if it cannot be; the descriptor is still the caller's of this. Empty if all went well."""
        return "" if self._ways.arrived(token, sock) else self.admitted(token, sock, address)

    def admitted(self, token: bytes, sock: Fd, address: str) -> str:
        """The same of a caller for whom we have dialed: what we wait for ourselves nobody makes us dial."""
        introduction = self._tokens.redeem(token, self._clock())
        if introduction is None:
            return "bad-token: it was never issued, was used before, or is too old"
        taker = self._registry.taker(introduction.server_id)
        if taker is None:
            return "no-server: the server has gone"
        access = self._registry.access
        grant = node_pb2.Grant(
            caller=introduction.caller,
            transport=choice.TCP,
            service=introduction.service,
            address=address,
            identity=introduction.called_for or access.of(introduction.caller),
        )
        try:
            taker.check_unread()
        except limits.LimitReached as error:
            return f"no-server: the server does not take callers: {error}"
        grant.services.extend(self._registry.callable_at(grant, taker))
        if self._security is not None and introduction.caller.node != self._registry.node:
            # Who shows the token has to be who it was issued for: that it is secret is not enough between machines.
            own = taker.server.process.uid
            shown = access.of_node(introduction.caller) if introduction.caller.daemon else grant.identity
            grant.tls.CopyFrom(self._security.for_process(own, shown))
        # A copy, so that the caller can still be told if the server does not take it.
        try:
            copy = Fd(os.dup(sock.fileno()))
        except OSError as error:
            return f"no-descriptor: {error.strerror}"
        if not taker.deliver(grant, copy):
            return "no-server: the server does not take callers"
        sock.close()
        return ""
