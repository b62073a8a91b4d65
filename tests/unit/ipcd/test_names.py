"""Names: what each node knows of, and that of several nodes that make one at a time, one does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.errors import NodeError
from ipcd_client.pb.ipcd.v1 import names_pb2, peer_pb2
from ipcd_client.primitives import naming
from ipcd_client.primitives.errors import Ambiguous, BadRequest, Elsewhere, TimedOut, from_status
from ipcd_client.rpc.failure import CallFailed

from ipcd import limits
from ipcd.log import Log
from ipcd.parties import NoLinks
from ipcd.primitives.directory import Directory
from ipcd.quota import Quotas
from ipcd.registry import Registry
from ipcd.state import quota
from ipcd.state.catalog import BadUpdate, Catalog
from ipcd.state.names import Names


def name(text: str, kind: str = "queue", **fields: float) -> names_pb2.Name:
    return names_pb2.Name(kind=kind, name=text, **fields)  # type: ignore[arg-type]


class Cable(NoLinks):
    """Between the nodes of one test; each way takes a moment, which `dice` throws. (Links)"""

    def __init__(self, node: str, all_of_them: dict[str, Registry], dice: random.Random, slowest: float) -> None:
        self._node = node
        self._all = all_of_them
        self._dice = dice
        self._slowest = slowest
        self.cut: set[str] = set()

    def names(self) -> Sequence[str]:
        return [node for node in self._all if node != self._node and node not in self.cut]

    async def claim(self, node: str, request: peer_pb2.ClaimRequest) -> str:
        if node in self.cut:
            raise NodeError("cut")
        await asyncio.sleep(self._dice.random() * self._slowest)
        answer = self._all[node].on_claim(self._node, request)
        await asyncio.sleep(self._dice.random() * self._slowest)
        return answer

    def tell(self, update: peer_pb2.CatalogUpdate) -> None:
        for node in self.names():
            self._all[node].catalog.apply(self._node, "i", update)


def cluster(nodes: str, seed: int = 0, slowest: float = 0.0) -> dict[str, Directory]:
    """Nodes that see each other."""
    registries: dict[str, Registry] = {}
    dice = random.Random(seed)
    for node in nodes:
        registries[node] = Registry(node, Catalog(node), Log(node), clock=lambda: 0.0, quotas=Quotas(lambda: 0.0))
        registries[node].links = Cable(node, registries, dice, slowest)
    for node in nodes:
        for other in nodes:
            if other != node:
                registries[node].catalog.apply(other, "i", registries[other].catalog.whole())
    return {node: Directory(registry, Log(node), lambda: 1.0) for node, registry in registries.items()}


def test_a_name_is_made_found_and_removed() -> None:
    async def main() -> None:
        nodes = cluster("ab")
        assert nodes["b"].find("queue", "jobs") == ""
        assert await nodes["a"].take("queue", "jobs", 7) == "jobs"
        assert await nodes["a"].take("queue", "jobs@a", 7) == "jobs"
        for directory in nodes.values():
            assert directory.find("queue", "jobs") == "a"
            assert directory.find("lock", "jobs") == ""
            assert directory.find("queue", "jobs@b") == "b"
            (one,) = directory.all()
            assert (one.kind, one.name, one.node, one.uid, one.created) == ("queue", "jobs", "a", 7, 1.0)
        with pytest.raises(Elsewhere) as caught:
            await nodes["b"].take("queue", "jobs", 0)
        assert caught.value.node == "a"
        nodes["a"].drop("queue", "jobs")
        nodes["a"].drop("queue", "jobs")
        assert nodes["b"].find("queue", "jobs") == nodes["a"].find("queue", "jobs") == ""
        assert await nodes["b"].take("queue", "jobs", 0) == "jobs"

    asyncio.run(main())


def test_a_node_makes_what_is_asked_of_it_by_name() -> None:
    """There may be two of a name, when somebody says so; then it has to be said which is meant."""

    async def main() -> None:
        nodes = cluster("ab")
        await nodes["a"].take("queue", "jobs", 0)
        await nodes["b"].take("queue", "jobs@b", 0)
        with pytest.raises(Ambiguous, match="jobs@b and jobs@a"):
            nodes["b"].find("queue", "jobs")
        assert [one.node for one in nodes["a"].all("queue")] == ["a", "b"]
        with pytest.raises(Elsewhere):
            await nodes["a"].take("queue", "jobs@b", 0)

    asyncio.run(main())


@given(seed=st.integers(0, 2**32), nodes=st.integers(2, 6), late=st.floats(0, 2))
def test_of_several_that_make_one_at_one_time_one_does(seed: int, nodes: int, late: float) -> None:
    slowest = 0.002
    names = "abcdef"[:nodes]

    async def main() -> None:
        directories = cluster(names, seed, slowest)
        dice = random.Random(seed)

        async def take(node: str) -> str:
            await asyncio.sleep(dice.random() * slowest * late)
            at = node
            for _ in names:
                try:
                    await directories[at].take("lock", "one", 0)
                except Elsewhere as error:
                    at = error.node
                else:
                    return at
            raise AssertionError("sent from node to node")

        homes = await asyncio.gather(*(take(node) for node in names))
        assert len(set(homes)) == 1
        assert {directory.find("lock", "one") for directory in directories.values()} == {homes[0]}

    asyncio.run(main())


def test_nodes_that_cannot_see_each_other_each_make_one() -> None:
    async def main() -> None:
        nodes = cluster("ab")
        for directory, other in ((nodes["a"], "b"), (nodes["b"], "a")):
            links = directory._registry.links
            assert isinstance(links, Cable)
            links.cut.add(other)
            await directory.take("queue", "jobs", 0)
        for directory in nodes.values():
            directory._registry.links.cut.clear()  # type: ignore[attr-defined]
        for node, other in ("ab", "ba"):
            whole = nodes[other]._registry.catalog.whole()
            nodes[node]._registry.catalog.apply(other, "i", whole)
            with pytest.raises(Ambiguous):
                nodes[node].find("queue", "jobs")

    asyncio.run(main())


def test_each_owner_has_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NAMES_EACH", {"process": 2, "uid": 3})

    async def main() -> None:
        directory = cluster("a")["a"]
        owner = quota.local(1, 2)
        for number in range(2):
            await directory.take("queue", f"q{number}", 1, owner)
        with pytest.raises(limits.LimitReached, match="2 named things"):
            await directory.take("queue", "more", 1, owner)
        directory.drop("queue", "q0")
        await directory.take("queue", "more", 1, owner)

    asyncio.run(main())


def test_a_copy_is_whole_or_as_it_was() -> None:
    owner, copy = Catalog("a"), Catalog("b")
    owner.put_name(name("one"))
    assert copy.apply("a", "i", owner.whole())
    assert copy.apply("a", "i", owner.put_name(name("two")))
    removed = owner.remove_name(("queue", "one"))
    assert removed is not None
    assert copy.apply("a", "i", removed)
    assert [one.name for one in copy.names.all()] == ["two"]
    bad = peer_pb2.CatalogUpdate(revision=4, names=[name("three"), name("a b")])
    with pytest.raises(limits.InvalidRequest):
        copy.apply("a", "i", bad)
    with pytest.raises(BadUpdate, match="of the kind"):
        copy.apply("a", "i", peer_pb2.CatalogUpdate(revision=4, names=[name("x", kind="a" * 17)]))
    assert [one.name for one in copy.names.all()] == ["two"]
    assert copy.apply("a", "i2", Catalog("a").whole())
    assert copy.names.all() == []
    # Without servers, too, a node that is gone is forgotten.
    assert copy.apply("a", "i2", peer_pb2.CatalogUpdate(revision=1, names=[name("four")]))
    copy.forget("a")
    assert copy.names.all() == []
    assert copy.names.homes(("queue", "four")) == []


def test_there_is_a_bound() -> None:
    names = Names("a", limit=2)
    names.put(name("one"))
    names.put(name("two"))
    names.put(name("two"))
    with pytest.raises(limits.LimitReached):
        names.put(name("three"))
    with pytest.raises(limits.LimitReached):
        names.checked("b", [name(str(number)) for number in range(3)], [], full=True)


@pytest.mark.parametrize(
    "text", ["@" + "y" * (1 << 20), "y" * (1 << 20) + "@", " " * (1 << 20), "y@" + "/" * (1 << 20)]
)
def test_what_is_said_of_a_name_is_short(text: str) -> None:
    with pytest.raises(BadRequest) as failed:
        naming.parse("queue", text)
    assert len(str(failed.value)) < 1024


@given(st.text(max_size=300))
def test_whatever_is_given_as_a_name_is_one_or_is_refused(text: str) -> None:
    try:
        base, node = naming.parse("queue", text)
    except BadRequest:
        return
    assert text == (f"{base}@{node}" if node else base)
    assert limits.check_name("queue", base) == base


def test_errors_arrive_as_what_they_were() -> None:
    for error in (Elsewhere("b"), Ambiguous("two: of them"), BadRequest("no")):
        again = from_status(error.code, error.details())
        assert (type(again), str(again)) == (type(error), str(error))
    # The words of a home, and of nobody.
    assert type(from_status(grpc.StatusCode.DEADLINE_EXCEEDED, "timeout: within 1 s")) is TimedOut
    unknown = from_status(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    assert (type(unknown), unknown.code) == (CallFailed, grpc.StatusCode.DEADLINE_EXCEEDED)
