"""Many nodes in one thread, and a network between them that does what networks do. Deterministic: the same calls and
the same seed give the same history.

The catalogs, members and exchanges are those of the daemon, and so are the messages; what the daemon does with sockets,
tasks and clocks is played here. As TCP does, a connection delivers in order and without gaps for as long as it lasts,
and when it ends any number of the last messages is lost. Everything else is up to the network: each message takes
another time, paths are cut in one direction or both, machines lose their power, processes are stopped and continued,
and no two clocks agree.
"""

from __future__ import annotations

import enum
import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from ipcd_client.errors import IpcdError, WireClosed, WireTimeout
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2

from ipcd import dialing, link_keeper, links
from ipcd.state import members as state
from ipcd.state.catalog import Catalog
from ipcd.state.exchange import Exchange, Outbox
from ipcd.state.members import Address, Link, Members

# Messages of one direction that are on their way; the others wait with the sender.
WINDOW: Final = 4
# Seconds that a message takes at most, where the path is whole.
DELAY: Final = 0.02


class How(enum.Enum):
    """How a connection ends."""

    ORDERLY = enum.auto()  # all that was sent arrives, and then the end
    LOST = enum.auto()  # any number of the last messages does not
    SILENT = enum.auto()  # nobody says so: the power is gone
    HEARD = enum.auto()  # the other end has said so


class Node:
    """One run of a daemon. `place`: its machine, which is its address too."""

    def __init__(self, world: World, place: str, name: str, incarnation: str, clock: tuple[float, float]) -> None:
        self.world = world
        self.place = place
        self.name = name
        self.alive = True
        self.stopped = False  # as by SIGSTOP
        self.members = Members(name, incarnation, "cluster")
        self.catalog = Catalog(name)
        self.exchange = Exchange(self.members, self.catalog, str)
        self.serving: list[str] = []  # its servers, by the names that they were given
        self.wires: dict[End, None] = {}  # in the order in which they came
        self.ends: dict[Link, End] = {}
        self.waiting: list[Callable[[], None]] = []  # for its being continued
        self.refusals: list[str] = []
        self._offset, self._rate = clock
        self._alarm = 0.0

    def clock(self) -> float:
        """Its own time, in seconds."""
        return self._offset + self.world.now * self._rate

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Does it later, if the node still runs. `seconds`: of its own time."""
        self.world.schedule(seconds / self._rate, self, do)

    @property
    def hello(self) -> peer_pb2.LinkMessage:
        """What it says of itself."""
        return peer_pb2.LinkMessage(
            hello=peer_pb2.PeerHello(
                node=self.name, incarnation=self.members.incarnation, cluster="cluster", address=f"{self.place}:1"
            )
        )

    # -- servers ----------------------------------------------------------------------------------

    def serve(self, server: str, *services: str) -> None:
        """A server has come, or serves something else now."""
        if server not in self.serving:
            self.serving.append(server)
        self.exchange.tell(
            self.catalog.put(
                node_pb2.Server(
                    id=f"{self.members.incarnation}.{server}",
                    name=server,
                    process=node_pb2.Process(node=self.name, pid=1),
                    services=sorted(services),
                )
            )
        )

    def drop(self, server: str) -> None:
        """A server has gone."""
        self.serving.remove(server)
        update = self.catalog.remove(f"{self.members.incarnation}.{server}")
        assert update is not None
        self.exchange.tell(update)

    # -- dialing ----------------------------------------------------------------------------------

    def find(self, address: str, source: str, node: str = "", incarnation: str = "") -> None:
        """A node may be there."""
        if self.members.found(address, source, self.clock(), node, incarnation):
            self.dial()

    def dial(self) -> None:
        """Dials what is due, and sets the alarm for what is not."""
        while True:
            entry, soonest = self.members.next_due(self.clock())
            if entry is None:
                break
            entry.dialing = True
            self.world.connect(self, entry)
        if soonest is not None and not self.clock() < self._alarm <= soonest:
            self._alarm = soonest
            # A little late, as timers are: exactly then it might not be due, by rounding.
            self.after(soonest - self.clock() + 1e-6, self.dial)

    def dialed(self, entry: Address, error: IpcdError | None) -> None:
        """A dial has come to its end."""
        entry.dialing = False
        if error is not None and not entry.ourselves:
            self.members.failed(entry, str(error), self.clock(), self.world.random.random())
        self.dial()

    # -- links ------------------------------------------------------------------------------------

    def judge(self, hello: peer_pb2.PeerHello, remote: str, *, dialed: bool) -> Link | None:
        """Whether a link is kept. (Members.judge)"""
        old = self.members.links.get(hello.node)
        if old is not None:
            old.heard = self.clock() - self.ends[old].silence()
        return self.members.judge(hello, remote, dialed, self.clock())

    @property
    def running(self) -> bool:
        """It lives, and is not stopped."""
        return self.alive and not self.stopped

    def end(self, how: How) -> None:
        """The process has ended."""
        self.alive = False
        for one in list(self.wires):
            one.close(WireClosed("the process has ended"), how)


class Flow:
    """One direction of a connection."""

    def __init__(self, sender: End, receiver: End) -> None:
        self._sender = sender
        self._receiver = receiver
        self._sent: deque[tuple[float, peer_pb2.LinkMessage | IpcdError]] = deque()
        self._busy = False
        self.since: float | None = None  # when it came to a stand, in the receiver's time; None: it flows

    @property
    def room(self) -> bool:
        return len(self._sent) < WINDOW

    def send(self, what: peer_pb2.LinkMessage | IpcdError) -> None:
        """Sends; an error is the end."""
        world = self._sender.node.world
        ready = world.now + world.random.random() * world.delay(self._sender.node.place, self._receiver.node.place)
        if self._sent:
            ready = max(ready, self._sent[-1][0])
        self._sent.append((ready, what))
        if not self._busy:
            self._busy = True
            world.schedule(ready - world.now, None, self._arrive)

    def lose(self) -> None:
        """Loses any number of the last messages."""
        keep = self._sender.node.world.random.randint(0, len(self._sent))
        while len(self._sent) > keep:
            self._sent.pop()

    def look(self) -> None:
        """The path or one of the nodes has changed."""
        receiver = self._receiver.node
        world = receiver.world
        flows = (
            not self._sender.closed
            and self._sender.node.running
            and world.is_open(self._sender.node.place, receiver.place)
        )
        if not flows:
            if self.since is None:
                # The last that came was a heartbeat, or its answer.
                earlier = world.random.random() * link_keeper.HEARTBEAT
                self.since = receiver.clock() - earlier
                for bound in (state.SUSPECT, state.DEAD):
                    receiver.after(bound - earlier + 1e-6, self._receiver.watch)
        elif self.since is not None:
            self.since = None
            self._receiver.watch()
        if self._sent and not self._busy:
            self._busy = True
            world.schedule(world.random.random() * DELAY, None, self._arrive)

    def _arrive(self) -> None:
        self._busy = False
        sender, receiver = self._sender.node, self._receiver.node
        world = receiver.world
        if not world.is_open(sender.place, receiver.place) or not receiver.running:
            return  # it is looked at again when that changes
        sent = self._sent
        while sent and sent[0][0] <= world.now:
            _, what = sent.popleft()
            if self._receiver.closed:
                return
            if isinstance(what, IpcdError):
                self._receiver.close(what, How.HEARD)
                return
            self._receiver.take(what)
        if not self._sender.idle:
            self._sender.pump()
        if sent and not self._busy:
            self._busy = True
            world.schedule(sent[0][0] - world.now, None, self._arrive)


class End:
    """One end of a connection of `node`, which dialed `entry` for it, or accepted it."""

    def __init__(self, node: Node, entry: Address | None) -> None:
        self.node = node
        self.closed = False
        self.idle = True  # there is nothing to tell
        self.link: Link | None = None
        self.other: End
        self.into: Flow
        self.out: Flow
        self._entry = entry
        self._hello: peer_pb2.PeerHello | None = None
        self._outbox: Outbox | None = None

    def join(self, other: End) -> None:
        """Connects the two."""
        self.other, other.other = other, self
        self.into = other.out = Flow(other, self)
        self.out = other.into = Flow(self, other)
        for one in (self, other):
            one.node.wires[one] = None
            one.node.after(dialing.HELLO, one._late)
        for one in (self, other):
            one.out.look()
        self.out.send(self.node.hello)

    @property
    def remote(self) -> str:
        return f"{self.other.node.place}:{1 if self._entry is not None else 9}"

    # -- what comes -------------------------------------------------------------------------------

    def take(self, message: peer_pb2.LinkMessage) -> None:
        """A message has arrived."""
        try:
            if self._hello is None:
                self._hello = message.hello
                self._greeted(message.hello)
                return
            if self.link is None:
                # The accepting end keeps the link: it has gone on.
                self._linked(self.node.judge(self._hello, self.remote, dialed=True))
            assert self.link is not None
            heard = self.node.exchange.hear(self.link, message)
        except IpcdError as error:
            self.node.refusals.append(str(error))
            self.close(error, How.ORDERLY)
            return
        for known in heard.nodes:
            self.node.find(known.address, state.LEARNED, known.node, known.incarnation)

    def _greeted(self, hello: peer_pb2.PeerHello) -> None:
        if self._entry is not None:
            self.node.members.met(self._entry, hello.node, hello.incarnation)
        else:
            self.out.send(self.node.hello)
            self._linked(self.node.judge(hello, self.remote, dialed=False))

    # -- what goes --------------------------------------------------------------------------------

    def pump(self) -> None:
        """Sends what there is to tell, as far as there is room."""
        if self._outbox is None or self.closed or not self.node.running:
            return
        while self.out.room:
            message = self._outbox.next(self.node.catalog.whole)
            self.idle = message is None
            if message is None:
                return
            self.out.send(message)

    # -- from the first moment to the last --------------------------------------------------------

    def _linked(self, replaced: Link | None) -> None:
        node, hello, entry = self.node, self._hello, self._entry
        assert hello is not None
        now = node.clock()
        address = entry.address if entry is not None else hello.address
        self.link = Link(
            hello.node, hello.incarnation, "", address, self.remote, entry is not None, since=now, heard=now
        )
        self._outbox = node.exchange.linked(self.link, self.pump)
        node.ends[self.link] = self
        if replaced is not None:
            if replaced.incarnation != self.link.incarnation:
                node.catalog.forget(self.link.node)
            old = node.ends[replaced]
            node.after(links.LINGER, lambda: old.close(WireClosed("the link was replaced"), How.LOST))
        node.after(link_keeper.RETELL, self._retell)
        if entry is None:
            node.find(address, state.LEARNED, hello.node, hello.incarnation)
        else:
            node.dialed(entry, None)
        self.pump()

    def silence(self) -> float:
        """Seconds since anything came."""
        return 0.0 if self.into.since is None else self.node.clock() - self.into.since

    def watch(self) -> None:
        """Heartbeats are due."""
        if self.link is None or self.closed:
            return
        silence = self.silence()
        if silence >= self.link.heartbeat.dead_after:
            self.close(WireTimeout(f"heartbeat: node {self.link.node} is silent"), How.LOST)
        else:
            self.link.suspect = silence >= self.link.heartbeat.suspect_after

    def _retell(self) -> None:
        if self.link is not None and not self.closed:
            self.node.exchange.retell(self.link, self.node.world.random.random())
            self.node.after(link_keeper.RETELL, self._retell)

    def _late(self) -> None:
        if self.link is None:
            self.close(WireTimeout(f"{self.remote} did not say who it is"), How.LOST)

    def close(self, error: IpcdError, how: How) -> None:
        """The connection ends here, and the other end is told or not."""
        if self.closed:
            return
        self.closed = True
        node, link = self.node, self.link
        del node.wires[self]
        if how in {How.LOST, How.SILENT}:
            self.out.lose()
        if how in {How.LOST, How.ORDERLY}:
            self.out.send(error)
        self.out.look()
        if not node.alive:
            return
        if link is not None:
            del node.ends[link]
            if node.exchange.unlinked(link, node.clock()):
                node.catalog.forget(link.node)
            node.dial()
        elif self._entry is not None:
            node.dialed(self._entry, error)


class World:
    """The nodes, by their places, and the network between them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.nodes: dict[str, Node] = {}
        self._queue: list[tuple[float, int, Node | None, Callable[[], None]]] = []
        self._count = 0
        self._cut: set[tuple[str, str]] = set()
        self._delays: dict[tuple[str, str], float] = {}
        self._names: dict[str, str] = {}
        self._clocks: dict[str, tuple[float, float]] = {}
        self._seeds: dict[str, Sequence[str]] = {}
        self._dark: dict[str, list[End]] = {}  # connections with what was there when the power went

    # -- time -------------------------------------------------------------------------------------

    def schedule(self, seconds: float, node: Node | None, do: Callable[[], None]) -> None:
        """Does it later; where it is a node's doing, only if that still runs."""
        self._count += 1
        heapq.heappush(self._queue, (self.now + seconds, self._count, node, do))

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        until = self.now + seconds
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, node, do = heapq.heappop(queue)
            if node is None or node.running:
                do()
            elif node.stopped:
                node.waiting.append(do)
        self.now = until

    # -- nodes ------------------------------------------------------------------------------------

    def set_clock(self, place: str, ahead: float, rate: float = 1.0) -> None:
        """How wrong the clock of a machine is, from its next start on."""
        self._clocks[place] = (ahead, rate)

    def start(self, place: str, name: str = "", seeds: Sequence[str] | None = None) -> Node:
        """Starts a daemon. `name`: the node's, by default the one that it had, or the place. `seeds`: the places that
        it is told of, by default those that it was told of before; without any it and the others find each other."""
        assert place not in self.nodes, f"{place} runs"
        self._names[place] = name = name or self._names.get(place, place)
        if seeds is not None:
            self._seeds[place] = seeds
        incarnation = f"{self.random.getrandbits(64):016x}"
        clock = self._clocks.get(place, (0.0, 1.0))
        node = self.nodes[place] = Node(self, place, name, incarnation, clock)
        for end in self._dark.pop(place, []):
            # The machine knows nothing of that connection, and says so when something comes.
            if self.is_open(place, end.node.place) and self.is_open(end.node.place, place):
                end.node.after(self.random.random() * link_keeper.HEARTBEAT, partial(end.close, _RESET, How.HEARD))
        told = self._seeds.get(place, ())
        if told:
            node.members.configured(tuple(f"{seed}:1" for seed in told), node.clock())
            node.dial()
        for other in self.nodes.values():
            self._announce(node, other)
            self._announce(other, node)
        return node

    def _announce(self, other: Node, node: Node) -> None:
        """What one announces by multicast the other hears."""
        silent = self._seeds.get(node.place) or self._seeds.get(other.place)
        if node is not other and not silent and self.is_open(other.place, node.place):
            address, incarnation = f"{other.place}:1", other.members.incarnation
            node.after(
                self.random.random() * DELAY, lambda: node.find(address, state.ZEROCONF, other.name, incarnation)
            )

    def end(self, place: str, how: How) -> None:
        """Ends the daemon there: in an ORDERLY way, killed (its connections LOST), or SILENT with its machine."""
        node = self.nodes.pop(place)
        others = [one.other for one in node.wires]
        node.end(how)
        if how is How.SILENT:
            self._dark[place] = others

    def stop(self, place: str) -> None:
        """As SIGSTOP does."""
        self.nodes[place].stopped = True
        self._look(place)

    def resume(self, place: str) -> None:
        """As SIGCONT does."""
        node = self.nodes[place]
        node.stopped = False
        self._look(place)
        for do in node.waiting:
            self.schedule(0.0, node, do)
        node.waiting.clear()
        for end in list(node.wires):
            end.pump()

    # -- the network ------------------------------------------------------------------------------

    def connect(self, node: Node, entry: Address) -> None:
        """A node dials."""
        place = entry.address.rpartition(":")[0]
        if place in self._dark or not (self.is_open(node.place, place) and self.is_open(place, node.place)):
            node.after(dialing.DIAL, lambda: node.dialed(entry, WireTimeout(f"{entry.address}: timed out")))
            return

        def arrive() -> None:
            there = self.nodes.get(place)
            if there is None:
                node.dialed(entry, WireClosed(f"{entry.address}: refused"))
            else:
                End(node, entry).join(End(there, None))

        trip = self.delay(node.place, place) + self.delay(place, node.place)
        node.after(self.random.random() * trip, arrive)

    def is_open(self, here: str, there: str) -> bool:
        """Whether anything gets from here to there."""
        return (here, there) not in self._cut

    def delay(self, here: str, there: str) -> float:
        """Seconds that a message takes at most."""
        return self._delays.get((here, there), DELAY)

    def slow(self, here: str, there: str, seconds: float) -> None:
        """From now on messages from here to there take up to so long."""
        self._delays[here, there] = seconds

    def cut(self, here: str, there: str) -> None:
        """Nothing gets from here to there."""
        self._cut.add((here, there))
        self._look(here, there)

    def heal(self, here: str, there: str) -> None:
        """Everything gets from here to there again."""
        self._cut.discard((here, there))
        self._look(here, there)
        if here in self.nodes and there in self.nodes:
            # Announcements are repeated.
            self._announce(self.nodes[here], self.nodes[there])

    def heal_all(self) -> None:
        """All paths are whole."""
        for here, there in sorted(self._cut):
            self.heal(here, there)
        self._delays.clear()

    def _look(self, here: str, there: str = "") -> None:
        """Something is otherwise on the path between two machines, or on all of one."""
        # A connection that one end has closed is still there at the other.
        for place, other in ((here, there), (there, here)):
            for end in list(self.nodes[place].wires) if place in self.nodes else ():
                if other in {"", end.other.node.place}:
                    end.out.look()
                    end.into.look()

    # -- questions --------------------------------------------------------------------------------

    def seen(self, place: str) -> dict[str, dict[str, node_pb2.Server]]:
        """What the node there has of the servers of each node, by their ids."""
        told: dict[str, dict[str, node_pb2.Server]] = {}
        for server in self.nodes[place].catalog.servers():
            told.setdefault(server.process.node, {})[server.id] = server
        return told

    def differences(self) -> list[str]:
        """What a node has that its owner does not have, or the other way round; nothing if all are equal."""
        owned = {place: self.seen(place).get(node.name, {}) for place, node in self.nodes.items()}
        expected = {node.name: owned[place] for place, node in self.nodes.items() if owned[place]}
        return [
            f"{place} has {sorted(told.get(name, {}))} of {name}, which has {sorted(expected.get(name, {}))}"
            for place in self.nodes
            if (told := self.seen(place)) != expected
            for name in sorted(told.keys() | expected.keys())
            if told.get(name) != expected.get(name)
        ]

    def settle(self, seconds: float = 60.0) -> float:
        """Lets time pass until all is equal, and then still is: how many seconds that took.

        Raises:
            AssertionError: it is not equal after `seconds`.
        """
        began = self.now
        while differences := self.differences():
            assert self.now - began < seconds, "\n".join(differences[:20])
            self.run(0.5)
        took = self.now - began
        # What is still on its way changes nothing.
        self.run(2 * state.DEAD)
        assert not (differences := self.differences()), "\n".join(["after it was equal:", *differences[:20]])
        return took


_RESET: Final = WireClosed("reset by the other end")
