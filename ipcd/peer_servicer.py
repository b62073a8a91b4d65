"""Answers what a linked node asks for over the link's connection."""

from __future__ import annotations

from typing import Protocol

from ipcd_client.aio.context import ServicerContext
from ipcd_client.errors import NotAllowed
from ipcd_client.pb.ipcd.v1 import peer_pb2, peer_pb2_grpc, signal_pb2

from ipcd.broker import Broker
from ipcd.peer import Peer, Served, Talk
from ipcd.state.members import Link
from ipcd.ways import dial_back


class Links(Protocol):
    """This node's links, as the servicer needs them."""

    async def accepted_link(self, peer: Peer, talk: Talk) -> None:
        """The dialing end has opened the link's call: holds it until its end.

        Raises:
            IpcdError: the link is refused.
        """


class PeerServicer(peer_pb2_grpc.PeerServicer):
    """`ipcd.v1.Peer`, for nodes that are linked."""

    def __init__(self, links: Links, broker: Broker) -> None:
        self._links = links
        self._broker = broker

    async def Link(self, requests: object, context: ServicerContext) -> None:  # noqa: N802, ARG002
        """Holds the link."""
        peer: Peer = context.peer_identity
        if peer.dialed or peer.link is not None:
            raise NotAllowed(f"{peer.remote} opened Link, which only the dialing end does, and once")
        await self._links.accepted_link(peer, Served(context))

    async def Introduce(  # noqa: N802
        self, request: peer_pb2.IntroduceRequest, context: ServicerContext
    ) -> peer_pb2.IntroduceReply:
        """Introduces a caller of the linked node to a server of this one."""
        peer: Peer = context.peer_identity
        link = await peer.linked()
        if link is None or request.caller.node != link.node:
            who = link.node if link is not None else peer.remote
            raise NotAllowed(
                f"node {who} asked for a caller of node {request.caller.node!r}; the rule own-callers allows its own"
            )
        return self._broker.introduce(request)

    async def ConnectBack(  # noqa: N802
        self, request: peer_pb2.ConnectBackRequest, context: ServicerContext
    ) -> peer_pb2.ConnectBackReply:
        """Dials the linked node, at no other address than its own, for a caller there that was introduced before."""
        link = await _linked(context, "asked to be dialed")
        await dial_back(link.address, request, self._broker.arrivals.admitted)
        return peer_pb2.ConnectBackReply()

    async def Claim(  # noqa: N802
        self, request: peer_pb2.ClaimRequest, context: ServicerContext
    ) -> peer_pb2.ClaimReply:
        """The linked node wants to make a named thing."""
        link = await _linked(context, "claimed a name")
        return peer_pb2.ClaimReply(holder=self._broker.on_claim(link.node, request))

    async def Raise(  # noqa: N802
        self, request: peer_pb2.PeerRaiseRequest, context: ServicerContext
    ) -> signal_pb2.Told:
        """A process of the linked node raises a flag."""
        link = await _linked(context, "raised a flag")
        return self._broker.on_raise(link.node, request)

    async def Chase(  # noqa: N802
        self, request: peer_pb2.ChaseRequest, context: ServicerContext
    ) -> peer_pb2.ChaseReply:
        """Somebody of the linked node may be in a circle of waits for locks."""
        link = await _linked(context, "asked who waits for locks")
        self._broker.on_chase(link.node, request)
        return peer_pb2.ChaseReply()


async def _linked(context: ServicerContext, what: str) -> Link:
    """The link with the node that asks. `what`: that it did, for the error.

    Raises:
        NotAllowed: there is none.
    """
    peer: Peer = context.peer_identity
    link = await peer.linked()
    if link is None:
        raise NotAllowed(f"{peer.remote} {what}, which only a linked node may")
    return link
