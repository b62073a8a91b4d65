"""`ipcd.v1.Signal`: flags that are raised at those who listen, and the ends of processes."""

# ruff: noqa: N802, ARG002 - the methods are named as in the .proto

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Final

from ipcd_client.access import identity as ids
from ipcd_client.aio.dispatch import Server as Dispatcher
from ipcd_client.aio.serving import CalledContext
from ipcd_client.errors import IpcdError, NotAllowed
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2, signal_pb2, signal_pb2_grpc
from ipcd_client.primitives import flags, naming
from ipcd_client.primitives.errors import Ambiguous, BadRequest, Elsewhere, NoSuchName

from ipcd import limits
from ipcd.primitives.exits import Exit, parent_of_unreaped
from ipcd.primitives.host import PUBLISH, READ, Keeper, Who
from ipcd.state.primitives import EXIT
from ipcd.state.quota import Shares
from ipcd.state.signal import ALL, Aim, Listener, Listeners

KIND: Final = "signal"


class SignalServicer(signal_pb2_grpc.SignalServicer):
    """Of one node."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._listeners = Listeners()
        self._news: dict[Listener, asyncio.Event] = {}
        self._by_token: dict[str, Listener] = {}
        self._exits: set[Exit] = set()
        self._watches = Shares("watches of processes' ends", limits.EXITS, limits.EXITS_EACH)

    async def start(self) -> None:
        """Hears of what linked nodes raise."""
        self._keeper.broker.on_raise = self._raised_there

    async def close(self) -> None:
        """There is nothing to keep."""

    # -- flags ------------------------------------------------------------------------------------

    async def Raise(self, request: signal_pb2.RaiseRequest, context: CalledContext) -> signal_pb2.RaiseReply:
        """Raises a flag, here and at the other nodes."""
        name, node = self._named(request.name, every=False)
        asker = self._keeper.who(context)
        self._keeper.check_who(asker, PUBLISH, KIND, name)
        wanted = signal_pb2.RaiseRequest(
            name=name, pid=request.pid, pid_node=request.pid_node or self._keeper.node, group=_group(request.group)
        )
        process = self._process(context)
        reply = signal_pb2.RaiseReply(nodes=[self._raise(wanted, process, asker)])
        if not node:
            links = self._keeper.broker.links
            there = peer_pb2.PeerRaiseRequest(
                request=wanted, process=process, identity=asker.identity, others=asker.called_for
            )
            told = await asyncio.gather(*(self._tell(each, there) for each in links.names()))
            untold = [
                signal_pb2.Told(node=each, error="there is no link with it")
                for each in set(links.unlinked()) - {each.node for each in told}
            ]
            reply.nodes.extend(sorted([*told, *untold], key=lambda each: each.node))
        return reply

    async def _tell(self, node: str, request: peer_pb2.PeerRaiseRequest) -> signal_pb2.Told:
        try:
            async with asyncio.timeout(limits.RAISE):
                told = await self._keeper.broker.links.raise_flag(node, request)
        except TimeoutError:
            return signal_pb2.Told(node=node, error=f"it did not answer within {limits.RAISE:g} s")
        except IpcdError as error:
            return signal_pb2.Told(node=node, error=str(error))
        return signal_pb2.Told(node=node, listeners=told.listeners)

    def _raised_there(self, node: str, request: peer_pb2.PeerRaiseRequest) -> signal_pb2.Told:
        """A process of a linked node raises a flag."""
        wanted = request.request
        name, at = naming.parse(KIND, wanted.name)
        of_node = ids.of_node(self._keeper.broker.access.rules.cluster, node)
        asker = Who(request.identity, tuple(request.others), node)
        own = all(each.startswith(f"{of_node}/") for each in (asker.identity, *asker.called_for))
        for each in asker.all if own else ():
            ids.parsed(each)
        if not own or request.process.node != node or at:
            raise NotAllowed(f"node {node} raised a flag for others than its own; the rule own-callers allows its own")
        self._keeper.check_who(asker, PUBLISH, KIND, name)
        there = request.process
        # What is kept until the flag is taken, and nothing else of the request.
        process = node_pb2.Process(node=node, pid=there.pid, uid=there.uid, gid=there.gid, pidfd_id=there.pidfd_id)
        return self._raise(wanted, process, asker)

    def _raise(self, request: signal_pb2.RaiseRequest, process: node_pb2.Process, asker: Who) -> signal_pb2.Told:
        flag = signal_pb2.Flag(name=request.name, process=process, identity=[asker.identity, *asker.called_for][-1])
        raised = self._listeners.raise_flag(flag, Aim(request.pid, request.pid_node, request.group))
        for listener in raised.due:
            self._news[listener].set()
        return signal_pb2.Told(node=self._keeper.node, listeners=raised.listeners)

    async def Listen(
        self, request: signal_pb2.ListenRequest, context: CalledContext
    ) -> AsyncIterator[signal_pb2.ListenReply]:
        """Listens, until the call ends."""
        name, _ = self._named(request.name, every=False)
        self._keeper.check(context, READ, KIND, name)
        owner = self._keeper.owner(context)
        listener = self._listeners.listen(name, _group(request.group), self._process(context), owner)
        news = self._news[listener] = asyncio.Event()
        token = secrets.token_hex(8)
        self._by_token[token] = listener
        try:
            yield signal_pb2.ListenReply(listening=signal_pb2.Listening(node=self._keeper.node, listener=token))
            while True:
                await news.wait()
                news.clear()
                if listener.flag is not None:
                    yield signal_pb2.ListenReply(raised=listener.flag)
        finally:
            self._listeners.leave(listener)
            del self._news[listener], self._by_token[token]

    async def Take(self, request: signal_pb2.TakeRequest, context: CalledContext) -> signal_pb2.TakeReply:
        """Takes a listener's flag. Who knows its name, which was told to it alone, may do so."""
        name, _ = self._named(request.name, every=False)
        listener = self._by_token.get(request.listener)
        if listener is None or listener.name != name:
            raise NoSuchName(f"nobody of this name listens for the signal {name} at node {self._keeper.node}")
        return signal_pb2.TakeReply(raised=self._listeners.take(listener))

    async def ListListeners(
        self, request: signal_pb2.ListListenersRequest, context: CalledContext
    ) -> signal_pb2.ListListenersReply:
        """Those that the caller might be itself."""
        name, _ = self._named(request.name)
        return signal_pb2.ListListenersReply(
            listeners=[
                signal_pb2.Listener(
                    name=each.name,
                    group=each.group,
                    process=each.process,
                    node=self._keeper.node,
                    raised=each.raised,
                    coalesced=each.coalesced,
                )
                for each in self._listeners.all(name)
                if self._keeper.may(context, READ, KIND, each.name)
            ]
        )

    # -- ends of processes ------------------------------------------------------------------------

    async def WatchExit(
        self, request: signal_pb2.WatchExitRequest, context: CalledContext
    ) -> AsyncIterator[signal_pb2.WatchExitReply]:
        """Tells when the process has ended."""
        what, node = naming.parse("process", request.name)
        if request.by == request.BY_PID:
            flags.number(what)  # refuses a second name of one process, such as 007, of which no rule knows
        self._keeper.check(context, READ, EXIT, what)
        process = self._meant(request, what, node)
        if process.node != self._keeper.node:
            raise Elsewhere(process.node)
        owner = self._keeper.owner(context)
        self._watches.take(owner)
        try:
            watched = Exit(process)
            self._exits.add(watched)
            try:
                yield signal_pb2.WatchExitReply(watching=watched.process)
                yield signal_pb2.WatchExitReply(exited=await watched.ended())
            finally:
                self._exits.discard(watched)
                watched.close()
        finally:
            self._watches.give(owner)

    def _meant(self, request: signal_pb2.WatchExitRequest, what: str, node: str) -> node_pb2.Process:
        """The one process."""
        if request.by == request.BY_PID:
            return node_pb2.Process(node=node or self._keeper.node, pid=int(what), pidfd_id=request.pidfd_id)
        servers = self._keeper.broker.catalog.servers(what if request.by == request.BY_SERVICE else "")
        if request.by == request.BY_SERVER:
            servers = [server for server in servers if server.name == what]
        found = {
            (process.node, process.pid, process.pidfd_id): process
            for process in (server.process for server in servers)
            if node in {"", process.node}
        }
        kind = "service" if request.by == request.BY_SERVICE else "server"
        if not found:
            raise NoSuchName(f"no process has a {kind} {what}{' on node ' if node else ''}{node}")
        if len(found) > 1:
            several = " and ".join(f"{pid}@{each}" for each, pid, _ in sorted(found))
            raise Ambiguous(f"several processes have a {kind} {what}: {several}; say which")
        (process,) = found.values()
        if not process.pid:
            raise NoSuchName(f"node {process.node} does not see the number of the process with the {kind} {what}")
        return process

    async def TellExit(self, request: signal_pb2.TellExitRequest, context: CalledContext) -> signal_pb2.TellExitReply:
        """Takes it from the parent, who alone may say so: the kernel says who that is, until it has reaped."""
        what, node = naming.parse("process", request.name)
        if node not in {"", self._keeper.node}:
            raise Elsewhere(node)
        (pid, _), caller = flags.number(what), self._process(context)
        if not caller.pid or caller.node != self._keeper.node or parent_of_unreaped(pid) != caller.pid:
            raise NotAllowed(f"process {pid} has not ended, or was reaped, or is no child of process {caller.pid}")
        # It is this process's number now: a watch of one that had it before has nothing to do with that.
        watched = [each for each in self._exits if each.process.pid == pid and each.has_number]
        for each in watched:
            each.told(request.wait_status)
        return signal_pb2.TellExitReply(watches=len(watched))

    # -- both -------------------------------------------------------------------------------------

    def _named(self, text: str, *, every: bool = True) -> tuple[str, str]:
        name, node = naming.parse(KIND, text)
        if name == ALL and not every:
            raise BadRequest("* stands for all flags: it is the name of none")
        if node not in {"", self._keeper.node}:
            raise Elsewhere(node)
        return name, node

    def _process(self, context: CalledContext) -> node_pb2.Process:
        """The caller's. That of a client of a gateway is not known: it has the pid 0."""
        process = self._keeper.caller(context)
        if self._keeper.called_for(context):
            return node_pb2.Process(node=process.node)
        return process


def _group(text: str) -> str:
    """The name of a group, checked; empty for none."""
    name, node = naming.parse("group", text) if text else ("", "")
    if node:
        raise BadRequest(f"a group is of all nodes: {name}, not {text}")
    return name


def add(keeper: Keeper, server: Dispatcher) -> SignalServicer:
    """Serves it."""
    servicer = SignalServicer(keeper)
    signal_pb2_grpc.add_SignalServicer_to_server(servicer, server)
    return servicer
