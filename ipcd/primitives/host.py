"""Serves the primitives of this node: a server of the SDK, whose callers the broker hands over in this process.

A primitive is a servicer in a module of its own, made of a state machine (state/) and the `Keeper` that is here for
all of them: who calls, what the rules say, and where a name is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from ipcd_client.access import rules
from ipcd_client.access.rules import Decision
from ipcd_client.aio.dispatch import Server as Dispatcher
from ipcd_client.aio.serving import CalledContext, Registered, Serving
from ipcd_client.errors import NotAllowed
from ipcd_client.facade.peer import Peer, process_of
from ipcd_client.loop.waiters import Waiters
from ipcd_client.node.registering import OnGrant, wire_to
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import Elsewhere, NoSuchName, PrimitiveError
from ipcd_client.rpc.options import Options
from ipcd_client.wire.base import Wire
from ipcd_client.wire.fds import Fd

from ipcd import limits
from ipcd.broker import Broker
from ipcd.log import Log
from ipcd.parties import daemon
from ipcd.primitives.directory import Directory
from ipcd.primitives.nodes import Nodes
from ipcd.quota import Guard
from ipcd.servicer import CallQuota, status_of
from ipcd.state import quota
from ipcd.state.primitives import ABOUT, FOR, NAME, WITHHELD, described

MAKE: Final = rules.REGISTER
PUBLISH: Final = rules.PUBLISH
READ: Final = rules.READ
# Calls that one connection may have open, and bytes of one message.
STREAMS: Final = 4096
MESSAGE: Final = 4 << 20
# Why a gateway's client may not: nothing that a rule of this node would change.
_WITHHELD: Final = (
    "the rules of that node, whose gateway it came through, do not allow it (`ipcctl rules check` says which)"
)
_NOT_ASKED: Final = (
    "it came through that node's gateway, whose rules are asked only of the name that a call begins with"
)


class Who(NamedTuple):
    """For whom something is done: the caller, those for whom it says that it calls, and the node that lets these in,
    with what that one's rules keep them from."""

    identity: str
    called_for: tuple[str, ...]
    node: str
    withheld: tuple[str, ...] = ()
    about: str = ""  # what those rules were asked of; empty where they say the same of all names

    @property
    def all(self) -> tuple[str, ...]:
        """Everybody whom the rules are asked about."""
        return (self.identity, *self.called_for)


class Keeper:
    """What each servicer is made with.

    `state_dir`: where what is durable is kept; None where the node keeps nothing on disk. `api`: what serves the node's
    own API, to processes of this machine. `socket`: path of the node's own, for a primitive that is a client of it.
    """

    def __init__(
        self,
        broker: Broker,
        directory: Directory,
        log: Log,
        state_dir: Path | None,
        *,
        api: Dispatcher | None = None,
        socket: str = "",
    ) -> None:
        self.node = broker.node
        # The node's own API, to which a primitive may add what only processes of this machine ask for.
        self.api = api if api is not None else Dispatcher(status_of=status_of)
        self.directory = directory
        self.log = log
        self.state_dir = state_dir
        self.socket = socket
        self._broker = broker

    @property
    def broker(self) -> Broker:
        """Of this node: its catalog, its links, its rules."""
        return self._broker

    @staticmethod
    def caller(context: CalledContext) -> node_pb2.Process:
        """The process that calls; for a client of the gateway, the daemon whose gateway it is."""
        return context.peer_identity.grant.caller

    def called_for(self, context: CalledContext) -> tuple[str, ...]:
        """The identities for which the caller says that it calls, which only a node's daemon may.

        Raises:
            NotAllowed: it is none, or they are not all of its node.
        """
        told = tuple(str(value) for key, value in context.invocation_metadata() if key == FOR)
        if not told:
            return told
        caller = self.caller(context)
        if not caller.daemon:
            raise NotAllowed(
                f"pid {caller.pid} of node {caller.node} said for whom it calls ({FOR}), which only a node's daemon may"
            )
        of_node = f"{self._broker.access.of_node(caller)}/"
        if not all(each.startswith(of_node) for each in told):
            raise NotAllowed(f"node {caller.node} called for others than its own; the rule own-callers allows its own")
        return told

    def owner(self, context: CalledContext) -> quota.Owner:
        """Whose quota counts."""
        process = context.peer_identity.process
        if self.called_for(context) and process[0] != self.node:
            # One process there calls for many.
            return (quota.Key("node", process[0]),)
        return _owner(self.node, process)

    def check(self, context: CalledContext, verb: str, kind: str, name: str) -> None:
        """Whether the caller may do this with a name: MAKE (and remove), PUBLISH (put something in, or change it) or
        READ (take out, look, hold). Rules name it KIND:NAME, without a node.

        Raises:
            NotAllowed: it may not.
        """
        self.check_who(self.who(context), verb, kind, name)

    def check_who(self, who: Who, verb: str, kind: str, name: str) -> None:
        """The same for somebody whose call may be over.

        Raises:
            NotAllowed: it may not.
        """
        for decision in self._decisions(who, verb, kind, name.partition("@")[0]):
            raise self._broker.access.refusal(decision)

    def check_process(self, process: node_pb2.Process, verb: str, kind: str, name: str) -> None:
        """The same for a process of this machine that asks the node's own API.

        Raises:
            NotAllowed: it may not.
        """
        decision = self._broker.access.rules.decide(self.identity(process), verb, f"{kind}:{name.partition('@')[0]}")
        if not decision.allowed:
            raise self._broker.access.refusal(decision)

    def identity(self, process: node_pb2.Process) -> str:
        """Whom the rules know a process as."""
        return self._broker.access.of(process)

    @property
    def changed(self) -> Waiters:
        """There is news of the nodes, or of what they keep."""
        return self._broker.changed

    def nodes(self) -> Nodes:
        """For calls of other nodes' daemons; the caller of this closes it."""
        return Nodes(self._broker, self.log)

    def may(self, context: CalledContext, verb: str, kind: str, name: str) -> bool:
        """The same as an answer, for lists: nothing is logged."""
        return self.may_who(self.who(context), verb, kind, name)

    def may_who(self, who: Who, verb: str, kind: str, name: str) -> bool:
        """The same for somebody whose call may be over."""
        return not any(True for _ in self._decisions(who, verb, kind, name))

    def who(self, context: CalledContext) -> Who:
        """For whom a call is.

        Raises:
            NotAllowed: as `called_for`.
        """
        peer = context.peer_identity
        told = context.invocation_metadata()
        if not told:
            return Who(peer.identity, (), peer.process[0])
        withheld = tuple(str(value) for key, value in told if key == WITHHELD)
        about = b"".join(value for key, value in told if key == ABOUT and isinstance(value, bytes))
        return Who(
            peer.identity,
            self.called_for(context),
            peer.process[0],
            withheld,
            about.decode("utf-8", "replace"),
        )

    def _decisions(self, who: Who, verb: str, kind: str, name: str) -> Iterator[Decision]:
        """Those against it."""
        access = self._broker.access
        rules_ = access.rules
        caller = rules_.decide(who.identity, verb, f"{kind}:{name}")
        if not caller.allowed:
            yield caller
        # Whoever says for whom it calls may do no more by that: both have to be allowed.
        for identity in who.called_for:
            decision = rules_.decide(identity, verb, f"{kind}:{name}")
            if not decision.allowed and not access.left_to(who.node, decision):
                yield decision
            elif verb in who.withheld:
                yield Decision(False, None, identity, verb, f"{kind}:{name}", who.node, why=_WITHHELD)
            elif who.about not in {"", name} and not decision.allowed:
                yield Decision(False, None, identity, verb, f"{kind}:{name}", who.node, why=_NOT_ASKED)

    def here(self, kind: str, text: str) -> str:
        """The name, without a node, of what a request says is here.

        Raises:
            Elsewhere: it says that it is on another node.
            BadRequest: it is no name.
        """
        name, node = naming.parse(kind, text)
        if node not in {"", self.node}:
            raise Elsewhere(node)
        return name

    def missing(self, kind: str, text: str) -> PrimitiveError:
        """What to tell of a thing that is not here: a handle may have found it here, or nowhere, before somebody made
        it on another node.

        Raises:
            Ambiguous: several other nodes keep one.
            Elsewhere, BadRequest: as `here`.
        """
        name = self.here(kind, text)
        home = self.directory.find(kind, text)
        return (
            Elsewhere(home)
            if home not in {"", self.node}
            else NoSuchName(f"there is no {kind} {name} on node {self.node}")
        )

    async def take(self, context: CalledContext, kind: str, text: str) -> str:
        """Makes a name one that is kept here, for the caller; the name without its node.

        Raises:
            NotAllowed, Elsewhere, LimitReached, BadRequest: it may not be.
        """
        self.check(context, MAKE, kind, text)
        return await self.directory.take(kind, text, self.caller(context).uid, self.owner(context))


# Adds a servicer to a server. What it returns is closed when the node stops.
Adds = Callable[[Keeper, Dispatcher], Any]


class Host:
    """`start`, then `stop`."""

    def __init__(self, broker: Broker, keeper: Keeper, adds: tuple[Adds, ...]) -> None:
        self._broker = broker
        self._quotas = broker.quotas
        dispatcher = Dispatcher(
            status_of=status_of, context=CalledContext, quota=_Calls(broker.node, CallQuota(broker.quotas.calls))
        )
        self._servicers = [add(keeper, dispatcher) for add in adds]
        options = Options.parse(
            [("grpc.max_concurrent_streams", STREAMS), ("grpc.max_receive_message_length", MESSAGE)]
        )
        self._serving = Serving(dispatcher, options, NAME, self._guard)

    async def start(self) -> None:
        """Serves."""
        for servicer in self._servicers:
            await servicer.start()
        await self._serving.start(self._registered, "")

    async def stop(self, grace: float) -> None:
        """Takes no new calls, ends those under way, and closes what is kept."""
        self._broker.own = None
        await self._serving.stop(grace)
        for servicer in self._servicers:
            await servicer.close()

    def _guard(self, peer: Peer, _wire: Wire) -> Guard:
        return self._quotas.guard(_owner(self._broker.node, peer.process), pace=self._quotas.pace_of_things)

    def _registered(self, _path: str, request: node_pb2.RegisterRequest, on_grant: OnGrant) -> Registered:
        self._broker.own = _Own(self._broker, on_grant)
        return _Registration(request)


@lru_cache(maxsize=1024)
def _owner(node: str, process: tuple[str, int, int, int]) -> quota.Owner:
    """Whose quota counts for what a process (Peer.process) does: its own and its user's, and its node's where it is
    another, which is believed who of its processes it is. Asked several times for each call."""
    its_node, *who = process
    return quota.local(*who) if its_node == node else quota.remote(its_node, *who)


class _Caller(NamedTuple):
    owner: quota.Owner


class _Calls:
    """How many calls each caller may have open, together with those at the node's own API. (aio.dispatch.Quota)"""

    def __init__(self, node: str, quota_: CallQuota) -> None:
        self._node = node
        self._quota = quota_

    def begin(self, identity: Peer) -> str:
        return self._quota.begin(_Caller(_owner(self._node, identity.process)))

    def end(self, identity: Peer) -> None:
        self._quota.end(_Caller(_owner(self._node, identity.process)))


class _Registration:
    """Nothing but the broker has to know of it. (aio.serving.Registered)"""

    def __init__(self, request: node_pb2.RegisterRequest) -> None:
        self.server: node_pb2.Server | None = node_pb2.Server(name=request.name)

    async def start(self) -> None:
        pass

    def update(self, services: list[str]) -> None:
        pass

    def close(self) -> None:
        pass


class _Own:
    """The daemon as a server among others. (parties.Taker)"""

    def __init__(self, broker: Broker, on_grant: OnGrant) -> None:
        self.server = described(daemon(broker.node))
        self._quotas = broker.quotas
        self._on_grant = on_grant

    def check_unread(self) -> None:
        pass

    def deliver(self, grant: node_pb2.Grant, fd: Fd) -> bool:
        try:
            self._quotas.check_descriptor(fd.fileno(), _owner(self.server.process.node, process_of(grant)))
        except limits.LimitReached:
            fd.close()
            return False
        wire = wire_to(grant, fd)
        if wire is not None:
            self._on_grant(grant, wire)
        return True
