"""Ways to a server over TCP, where the caller cannot dial for itself: a node makes the connection and passes it on.

So no byte of a call goes through a daemon on these ways either.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from ipcd_client.errors import IpcdError, NodeError, WireTimeout
from ipcd_client.frame import preamble
from ipcd_client.loop import dial
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2
from ipcd_client.wire.fds import Fd

from ipcd import limits
from ipcd.log import Log
from ipcd.state import reach
from ipcd.state.tokens import Tokens

# Asks a node to dial this one: its name, and with what.
ConnectBack = Callable[[str, peer_pb2.ConnectBackRequest], Awaitable[None]]
# Hands a connection that came with a token to its server; why not, if it cannot be. (Arrivals.admitted)
Arrived = Callable[[bytes, Fd, str], str]

# Seconds to make a connection in one of the ways: within these, TCP once sends again what was lost.
DIAL: Final = 2.0
# Characters of a caller's words that are kept.
_WORDS: Final = 300


class Ways:
    """Those of one node."""

    def __init__(self, node: str, log: Log, clock: Callable[[], float]) -> None:
        self._node = node
        self._log = log
        self._clock = clock
        self._awaited: Tokens[asyncio.Future[Fd]] = Tokens()

    def undialed(self, known: reach.Reach, said: node_pb2.Undialed) -> None:
        """A caller could not dial. `known`: the caller's.

        Raises:
            LimitReached, InvalidRequest: what is wrong with the node's name.
        """
        limits.check_name("node", said.node)
        known.undialed(said.node, said.reason[:_WORDS], self._clock())

    async def make(self, known: reach.Reach, reply: node_pb2.OpenReply, connect_back: ConnectBack) -> list[Fd]:
        """Makes the connection for which `reply` has address and token, and takes those out of it; or leaves both to
        the caller, and returns nothing. The reply's reason then says which way was taken, and why. `known`: the
        caller's.

        Raises:
            NodeError: each way that was tried, and why it failed.
        """
        node = reply.choice.server.process.node
        plan = known.plan(node, node == self._node, self._clock())
        if plan == [reach.DIRECT]:
            reply.choice.reason += "; direct: the caller dials"
            return []
        reasons = [known.why(node, self._clock())]
        for way in plan:
            dials, does = (self._node, "dials") if way == reach.NODE else (node, "dials back")
            try:
                if way == reach.NODE:
                    sock = await dial.tcp(reply.address, DIAL, preamble.pack(preamble.DATA, reply.token))
                    fd = Fd(sock.detach())
                else:
                    fd = await self._dialed_back(node, reply.token, connect_back)
            except asyncio.CancelledError:
                known.unfinished(node, way, self._clock())
                raise
            except IpcdError as error:
                self._log.debug("way failed", peer=node, address=reply.address, way=way, reason=error)
                reasons.append(f"node {dials} could not ({error})")
            else:
                known.worked(node, way, self._clock())
                reply.choice.reason += f"; {way}: node {dials} {does}, because {' and '.join(reasons)}"
                reply.ClearField("address")
                reply.ClearField("token")
                return [fd]
        known.failed(node)
        raise NodeError(f"no way to its server: {'; '.join(reasons)}")

    async def _dialed_back(self, node: str, introduction: bytes, connect_back: ConnectBack) -> Fd:
        token = secrets.token_bytes(preamble.TOKEN_SIZE)
        came: asyncio.Future[Fd] = asyncio.get_running_loop().create_future()
        self._awaited.issue(token, came, f"node {node}", self._clock())
        try:
            async with asyncio.timeout(DIAL):
                await connect_back(node, peer_pb2.ConnectBackRequest(introduction=introduction, token=token))
                return await came
        except BaseException as error:
            self._awaited.redeem(token, self._clock())
            if came.done() and not came.cancelled():
                came.result().close()
            if isinstance(error, TimeoutError):
                raise WireTimeout(f"node {node} did not get here within {DIAL:g} s") from None
            raise

    def arrived(self, token: bytes, sock: Fd) -> bool:
        """A connection has come with a token: takes it over, if a node was asked for it."""
        came = self._awaited.redeem(token, self._clock())
        if came is None or came.done():
            return False
        came.set_result(sock)
        return True


async def dial_back(address: str, request: peer_pb2.ConnectBackRequest, arrived: Arrived) -> None:
    """Dials the node that asks for it, at `address`, and hands the connection to the server that it was introduced to.

    Raises:
        IpcdError: why it cannot be.
    """
    if not address:
        raise NodeError("the asking node has told no address")
    if len(request.token) != preamble.TOKEN_SIZE:
        raise limits.InvalidRequest(f"a token has {preamble.TOKEN_SIZE} bytes, not {len(request.token)}")
    sock = await dial.tcp(address, DIAL, preamble.pack(preamble.DATA, request.token))
    with Fd(sock.detach()) as fd:
        refusal = arrived(request.introduction, fd, address)
    if refusal:
        raise NodeError(refusal)
