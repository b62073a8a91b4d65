"""The catalog converges: whatever is lost or comes twice, after a resync a copy is what its owner has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2

from ipcd import limits
from ipcd.state.catalog import BadUpdate, Catalog, checked


def server(number: int, *services: str, node: str = "a", name: str = "") -> node_pb2.Server:
    return node_pb2.Server(
        id=f"{node}.{number}", name=name, process=node_pb2.Process(node=node, pid=number), services=services
    )


def ids(catalog: Catalog, service: str = "") -> list[str]:
    return [one.id for one in catalog.servers(service)]


def test_own_servers_are_found_by_service() -> None:
    catalog = Catalog("a")
    catalog.put(server(1, "x.X", "y.Y"))
    catalog.put(server(2, "y.Y"))
    assert ids(catalog, "x.X") == ["a.1"]
    assert ids(catalog, "y.Y") == ["a.1", "a.2"]
    assert ids(catalog, "z.Z") == []
    update = catalog.remove("a.1")
    assert update is not None
    assert (update.revision, list(update.removed_ids)) == (3, ["a.1"])
    assert catalog.remove("a.1") is None
    assert ids(catalog, "y.Y") == ["a.2"]


def test_a_copy_follows_its_owner() -> None:
    owner, copy = Catalog("a"), Catalog("b")
    assert not copy.apply("a", "i1", owner.put(server(1, "x.X"))), "a delta without a whole before it"
    assert copy.apply("a", "i1", owner.whole())
    assert copy.apply("a", "i1", owner.put(server(2, "x.X")))
    assert ids(copy, "x.X") == ["a.1", "a.2"]
    lost = owner.put(server(3, "x.X"))
    late = owner.remove("a.1")
    assert late is not None
    assert not copy.apply("a", "i1", late), "one is missing in between"
    assert ids(copy) == ["a.1", "a.2"]
    assert copy.apply("a", "i1", lost)
    assert copy.apply("a", "i1", late)
    assert ids(copy) == ["a.2", "a.3"]
    assert copy.apply("a", "i1", lost), "old news is no reason for a resync"
    assert ids(copy) == ["a.2", "a.3"]


def test_a_new_incarnation_starts_over() -> None:
    first, second, copy = Catalog("a"), Catalog("a"), Catalog("b")
    first.put(server(1, "x.X"))
    first.put(server(2, "x.X"))
    copy.apply("a", "i1", first.whole())
    delta = second.put(server(9, "x.X"))
    assert not copy.apply("a", "i2", delta)
    assert copy.apply("a", "i2", second.whole())
    assert ids(copy) == ["a.9"]
    assert copy.forget("a")
    assert not copy.forget("a")
    assert ids(copy) == []


def test_nobody_tells_of_servers_that_are_not_its_own() -> None:
    catalog = Catalog("b")
    foreign = peer_pb2.CatalogUpdate(revision=1, full=True, servers=[server(1, "x.X", node="c")])
    with pytest.raises(BadUpdate, match="'c'"):
        catalog.apply("a", "i1", foreign)
    with pytest.raises(BadUpdate):
        catalog.apply("b", "i1", peer_pb2.CatalogUpdate(revision=1, full=True))
    assert ids(catalog) == []


def test_a_copy_keeps_what_it_needs_and_nothing_that_came_with_it() -> None:
    catalog = Catalog("b")
    known = server(1, "x.X")
    more = b"\xfa\x7f\x03abc"  # a field that nobody knows
    sent = node_pb2.Server.FromString(known.SerializeToString() + more)
    update = peer_pb2.CatalogUpdate(revision=1, full=True, servers=[sent], removed_ids=["x" * 1000])
    update = peer_pb2.CatalogUpdate.FromString(update.SerializeToString())
    assert more in update.servers[0].SerializeToString()
    assert catalog.apply("a", "i1", update)
    (kept,) = catalog.servers()
    # A part of a message keeps all of its memory, whatever else was in there.
    assert kept is not update.servers[0]
    assert kept.SerializeToString() == known.SerializeToString()


def test_ids_are_bounded() -> None:
    catalog = Catalog("b")
    for server_id in ("", "a." + "0" * 510):
        long = node_pb2.Server(id=server_id, process=node_pb2.Process(node="a"))
        with pytest.raises(BadUpdate) as caught:
            catalog.apply("a", "i1", peer_pb2.CatalogUpdate(revision=1, full=True, servers=[long]))
        assert len(str(caught.value)) < 700
    assert ids(catalog) == []


def test_limits_are_named() -> None:
    catalog = Catalog("a", limit=2)
    catalog.put(server(1))
    catalog.put(server(2))
    catalog.put(server(2, "x.X"))
    with pytest.raises(limits.LimitReached, match="limit of 2 servers on one node"):
        catalog.put(server(3))
    copy = Catalog("b", limit=1)
    with pytest.raises(limits.LimitReached):
        copy.apply("a", "i1", catalog.whole())
    assert ids(copy) == []
    with pytest.raises(limits.LimitReached, match="services"):
        checked("", [f"s{number}" for number in range(limits.SERVICES + 1)])
    with pytest.raises(limits.LimitReached, match="characters"):
        checked("n" * 256, [])
    with pytest.raises(limits.InvalidRequest):
        checked("a\nb", [])
    assert checked("", ["b", "a", "b"]) == ["a", "b"]


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "remove"]),
        st.integers(0, 4),
        st.sets(st.sampled_from(["x.X", "y.Y", ""])),
        st.sampled_from(["deliver", "lose", "twice", "late"]),
    )
)


@given(steps)
def test_converges(steps: list[tuple[str, int, set[str], str]]) -> None:
    owner, copy = Catalog("a"), Catalog("b")
    copy.apply("a", "i", owner.whole())
    late: list[peer_pb2.CatalogUpdate] = []
    for verb, number, services, fate in steps:
        update = owner.put(server(number, *sorted(services))) if verb == "put" else owner.remove(f"a.{number}")
        if update is None:
            continue
        if fate == "late":
            late.append(update)
        elif fate != "lose":
            in_step = True
            for _ in range(2 if fate == "twice" else 1):
                in_step = copy.apply("a", "i", update)
            if not in_step:
                assert copy.apply("a", "i", owner.whole())
        if copy.revision_of("a") == owner.revision:
            assert copy.servers() == owner.servers()
        for service in ("x.X", "y.Y"):
            assert copy.servers(service) == [one for one in copy.servers() if service in one.services]
    for update in late:
        copy.apply("a", "i", update)
    assert copy.apply("a", "i", owner.whole())
    assert {one.id: one for one in copy.servers()} == {one.id: one for one in owner.servers()}
