"""Whatever happens to nodes and to the network between them: when the paths are whole again, every node has of the
others' servers what their owners have."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2
from support.simulation import How, World

from ipcd.state import exchange
from ipcd.state.catalog import Catalog

SOAK = bool(os.environ.get("IPCD_SOAK"))
EVENTS = 100_000 if SOAK else 15_000  # which take ten seconds
NODES = 50
SEED = 20

ENDS = (How.ORDERLY, How.LOST, How.SILENT)
SERVICES = ("x.X", "y.Y", "z.Z")


def calm(world: World, places: Iterable[str]) -> None:
    """All run again, and all paths are whole."""
    for place in places:
        if place not in world.nodes:
            world.start(place)
        elif world.nodes[place].stopped:
            world.resume(place)
    world.heal_all()


class Turmoil:
    """Events in a random order."""

    def __init__(self, world: World, nodes: int) -> None:
        self.world = world
        self.counts: dict[str, int] = {}
        self._random = random.Random(world.random.random())
        self._registered = 0
        self.places = [f"n{number}" for number in range(nodes)]
        self.events = (
            # How often, in 10,000: changes of a catalog first.
            (3800, self.register),
            (3000, self.update),
            (2950, self.unregister),
            (10, self.restart),
            (5, self.power),
            (5, self.freeze),
            (150, self.slow),
            (75, self.cut),
            (3, self.part),
            (2, self.heal),
        )
        for place in self.places:
            world.start(place)

    def run(self, events: int) -> None:
        """So many of them, a millisecond apart on average."""
        weights, deeds = zip(*self.events, strict=True)
        for deed in self._random.choices(deeds, weights, k=events):
            self.counts[deed.__name__] = self.counts.get(deed.__name__, 0) + 1
            deed()
            self.world.run(self._random.expovariate(1000))

    def _some(self) -> str:
        """A node that runs."""
        return self._random.choice([place for place, node in self.world.nodes.items() if node.running])

    def _two(self) -> tuple[str, str]:
        one, other = self._random.sample(self.places, 2)
        return one, other

    def register(self) -> None:
        node = self.world.nodes[self._some()]
        self._registered += 1
        node.serve(f"s{self._registered}", self._random.choice(SERVICES))

    def update(self) -> None:
        node = self.world.nodes[self._some()]
        if node.serving:
            node.serve(self._random.choice(node.serving), *self._random.sample(SERVICES, 2))

    def unregister(self) -> None:
        node = self.world.nodes[self._some()]
        if node.serving:
            node.drop(self._random.choice(node.serving))

    def restart(self) -> None:
        place = self._some()
        self.world.end(place, self._random.choice(list(ENDS)))
        self.world.start(place)

    def power(self) -> None:
        """A machine goes out; or one that was out comes back."""
        out = [place for place in self.places if place not in self.world.nodes]
        if len(out) > 1:
            self.world.start(self._random.choice(out))
        else:
            self.world.end(self._some(), How.SILENT)

    def freeze(self) -> None:
        """A node is stopped; or one that was is continued."""
        stopped = [place for place, node in self.world.nodes.items() if node.stopped]
        if len(stopped) > 1:
            self.world.resume(stopped[0])
        else:
            self.world.stop(self._some())

    def slow(self) -> None:
        one, other = self._two()
        seconds = self._random.choice([0.0, 0.1, 1.0, 5.0])
        for place in self._random.choice([[other], self.places]):
            self.world.slow(one, place, seconds)

    def cut(self) -> None:
        one, other = self._two()
        self.world.cut(one, other)
        if self._random.random() < 0.5:
            self.world.cut(other, one)

    def part(self) -> None:
        """Some are cut off from the others."""
        some = self._random.sample(self.places, self._random.randint(1, len(self.places) // 2))
        for one in some:
            for other in (place for place in self.places if place not in some):
                self.world.cut(one, other)
                self.world.cut(other, one)

    def heal(self) -> None:
        self.world.heal_all()


@pytest.mark.timeout(900 if SOAK else 120)
def test_many_events_on_fifty_nodes() -> None:
    world = World(SEED)
    turmoil = Turmoil(world, NODES)
    turmoil.run(EVENTS)
    events = sum(turmoil.counts.values())
    assert events == EVENTS
    assert len(turmoil.counts) == len(turmoil.events), "each kind has happened"
    calm(world, turmoil.places)
    took = world.settle()
    told = ", ".join(f"{count} {name}" for name, count in sorted(turmoil.counts.items()))
    servers = sum(len(own) for own in world.seen("n0").values())
    print(f"{events} events ({told}) on {NODES} nodes: all have the same {servers} servers, {took:g} s after the last")


def test_one_seed_is_one_history() -> None:
    worlds = []
    for seed in (3, 3, 4):
        world = World(seed)
        Turmoil(world, 8).run(1000)
        worlds.append((world.now, {place: world.seen(place) for place in world.nodes}))
    assert worlds[0] == worlds[1]
    assert worlds[0] != worlds[2]


def until_all_are_linked(world: World) -> None:
    began = world.now
    while any(len(node.members.links) < len(world.nodes) - 1 for node in world.nodes.values()):
        assert world.now - began < 60, {place: sorted(node.members.links) for place, node in world.nodes.items()}
        world.run(0.5)


@pytest.mark.parametrize("seed", range(3))
def test_one_seed_introduces_many(seed: int) -> None:
    """More nodes than tell one another of everybody that comes."""
    world = World(seed)
    world.start("n0")
    for number in range(1, 2 * exchange.FEW):
        world.start(f"n{number}", seeds=["n0"])
    until_all_are_linked(world)
    world.end("n7", How.LOST)
    world.start("n7")
    until_all_are_linked(world)
    # These two give each other up, and are told of each other again.
    world.cut("n3", "n4")
    world.cut("n4", "n3")
    world.run(300)
    world.heal_all()
    until_all_are_linked(world)
    world.end("n0", How.SILENT)
    world.run(10)
    until_all_are_linked(world)


class Copy(RuleBasedStateMachine):
    """One owner and one copy, to which anything that was ever said comes at any time, and any number of times: more
    than a link can do."""

    def __init__(self) -> None:
        super().__init__()
        self.owner, self.catalog = Catalog("a"), Catalog("b")
        self.said = [self.owner.whole()]
        self.had: list[dict[str, node_pb2.Server]] = [{}]
        self.revision = 0

    def say(self, update: peer_pb2.CatalogUpdate | None) -> None:
        if update is not None:
            self.said += [update, self.owner.whole()]
            self.had.append({server.id: server for server in self.owner.servers()})

    @rule(number=st.integers(0, 3), service=st.sampled_from(SERVICES))
    def put(self, number: int, service: str) -> None:
        process = node_pb2.Process(node="a", pid=1)
        self.say(self.owner.put(node_pb2.Server(id=f"s{number}", process=process, services=[service])))

    @rule(number=st.integers(0, 3))
    def remove(self, number: int) -> None:
        self.say(self.owner.remove(f"s{number}"))

    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        update = data.draw(st.sampled_from(self.said))
        known = self.catalog.count("a"), self.catalog.revision_of("a")
        if not self.catalog.apply("a", "i", update):
            assert known == (self.catalog.count("a"), self.catalog.revision_of("a"))
            assert self.catalog.apply("a", "i", self.owner.whole())
            assert self.catalog.revision_of("a") == self.owner.revision

    @invariant()
    def it_is_what_its_owner_had_and_never_older_than_before(self) -> None:
        revision = self.catalog.revision_of("a")
        assert revision >= self.revision
        self.revision = revision
        assert {server.id: server for server in self.catalog.servers()} == self.had[revision]


TestCopy = Copy.TestCase


PLACES = ("a", "b", "c", "d")
places = st.sampled_from(PLACES)
others = st.sampled_from([(one, other) for one in PLACES for other in PLACES if one != other])
servers = st.sampled_from(["s1", "s2", "s3"])


class Cluster(RuleBasedStateMachine):
    """Few nodes, and an impostor on a machine x now and then, who has the name of one of them."""

    @initialize(seed=st.integers(0, 2**32 - 1), ahead=st.floats(-1e6, 1e6), rate=st.floats(0.9, 1.1))
    def start(self, seed: int, ahead: float, rate: float) -> None:
        self.world = World(seed)
        # What each run of a daemon had at each of its revisions.
        self.had: dict[tuple[str, int], dict[str, node_pb2.Server]] = {}
        self.world.set_clock("b", ahead, rate)
        for place in PLACES:
            self.world.start(place)
        self.world.run(1.0)

    @rule(place=places, server=servers, services=st.sets(st.sampled_from(SERVICES)))
    def serve(self, place: str, server: str, services: set[str]) -> None:
        if place in self.world.nodes:
            self.world.nodes[place].serve(server, *services)

    @rule(place=places, server=servers)
    def drop(self, place: str, server: str) -> None:
        if place in self.world.nodes and server in self.world.nodes[place].serving:
            self.world.nodes[place].drop(server)

    @rule(place=places, how=st.sampled_from(ENDS))
    def end(self, place: str, how: How) -> None:
        if place in self.world.nodes:
            self.world.end(place, how)

    @rule(place=places)
    def start_again(self, place: str) -> None:
        if place not in self.world.nodes:
            self.world.start(place)

    @rule(place=places)
    def stop_or_resume(self, place: str) -> None:
        if place in self.world.nodes:
            (self.world.resume if self.world.nodes[place].stopped else self.world.stop)(place)

    @rule(name=places)
    def impostor(self, name: str) -> None:
        if "x" in self.world.nodes:
            self.world.end("x", How.LOST)
        else:
            self.world.start("x", name).serve("s1", "x.X")

    @rule(path=others, seconds=st.sampled_from([0.0, 1.0, 5.0]))
    def slow(self, path: tuple[str, str], seconds: float) -> None:
        self.world.slow(*path, seconds)

    @rule(path=others)
    def cut(self, path: tuple[str, str]) -> None:
        self.world.cut(*path)

    @rule(path=others)
    def heal(self, path: tuple[str, str]) -> None:
        self.world.heal(*path)

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.1, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.world.run(seconds)

    @invariant()
    def every_copy_is_what_its_owner_had(self) -> None:
        for place, node in self.world.nodes.items():
            own = self.world.seen(place).get(node.name, {})
            assert self.had.setdefault((node.members.incarnation, node.catalog.revision), own) == own
        for node in self.world.nodes.values():
            for name, copy in node.catalog._copies.items():
                assert copy.servers == self.had[copy.incarnation, copy.revision]
                assert copy.incarnation == node.members.links[name].incarnation

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        if "x" in self.world.nodes:
            self.world.end("x", How.LOST)
        calm(self.world, PLACES)
        self.world.settle()
        for node in self.world.nodes.values():
            assert sorted(node.members.links) == sorted(set(PLACES) - {node.name})


TestCluster = Cluster.TestCase
