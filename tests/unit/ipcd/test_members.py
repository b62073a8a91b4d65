"""Which link is kept, played through for two nodes that find each other at once."""

from __future__ import annotations

import itertools

import pytest
from ipcd_client.pb.ipcd.v1 import peer_pb2

from ipcd import limits
from ipcd.state import members as state
from ipcd.state.members import Link, Members


def hello(node: str, incarnation: str, address: str = "", cluster: str = "c") -> peer_pb2.PeerHello:
    return peer_pb2.PeerHello(node=node, incarnation=incarnation, cluster=cluster, address=address, version="1")


def link(node: str, incarnation: str, *, dialed: bool, now: float = 0.0, address: str = "h:1") -> Link:
    return Link(node, incarnation, "1", address, "h:2", dialed, since=now, heard=now)


def test_the_node_itself_is_no_other() -> None:
    members = Members("a", "i1", "c")
    with pytest.raises(state.Ourselves):
        members.judge(hello("a", "i1"), "h:2", True, 0)
    members.found("h:1", state.CONFIGURED, 0)
    entry, _ = members.next_due(0)
    assert entry is not None
    members.met(entry, "a", "i1")
    assert members.next_due(100) == (None, None), "never dialed again"


def test_two_nodes_of_one_name() -> None:
    members = Members("a", "i1", "c")
    with pytest.raises(state.NameTaken, match=r"two nodes are named 'a'.* at h:9"):
        members.judge(hello("a", "i2", "h:9"), "h:2", True, 0)
    members.linked(link("b", "i2", dialed=True, address="h:1"))
    with pytest.raises(state.NameTaken, match="i2 at h:1, and i3 at h:9"):
        members.judge(hello("b", "i3", "h:9"), "h:2", False, 1.0)
    # The first one is not heard of any more: the second has been restarted in its place.
    assert members.judge(hello("b", "i3", "h:9"), "h:2", False, 10.0) is members.links["b"]


def test_other_clusters_and_bad_names() -> None:
    members = Members("a", "i1", "c")
    with pytest.raises(state.Refused, match="cluster 'other', not to 'c'"):
        members.judge(hello("b", "i2", cluster="other"), "h:2", True, 0)
    with pytest.raises(limits.InvalidRequest):
        members.judge(hello("", "i2"), "h:2", True, 0)
    with pytest.raises(limits.LimitReached):
        members.judge(hello("b" * 300, "i2"), "h:2", True, 0)


# "dialer a" is a's decision on the link that it dialed; that link's accepting end, b, always decides before.
ORDERS = [
    order
    for order in itertools.permutations(["dialer a", "acceptor a", "dialer b", "acceptor b"])
    if order.index("acceptor b") < order.index("dialer a") and order.index("acceptor a") < order.index("dialer b")
]


@pytest.mark.parametrize("order", ORDERS)
def test_both_dial_and_one_link_stays(order: tuple[str, ...]) -> None:
    """Each end of each of the two links comes to its decision at any time; in the end both keep the same link, that
    of the smaller incarnation."""
    nodes = {"a": Members("a", "i1", "c"), "b": Members("b", "i2", "c")}
    refused: set[str] = set()  # by who dialed
    for step in order:
        end, name = step.split()
        other = "b" if name == "a" else "a"
        dialer = name if end == "dialer" else other
        if dialer in refused:
            continue
        me, them = nodes[name], nodes[other]
        try:
            replaced = me.judge(hello(other, them.incarnation), "h:2", end == "dialer", 0.0)
        except state.Superfluous:
            refused.add(dialer)
            continue
        if replaced is not None:
            refused.add(name if replaced.dialed else other)
        me.linked(link(other, them.incarnation, dialed=end == "dialer"))
    assert "a" not in refused, "the smaller incarnation's link is never given up"
    assert refused == {"b"}
    assert nodes["a"].links["b"].dialed
    assert not nodes["b"].links["a"].dialed


def test_dialing_backs_off_and_hearsay_is_given_up() -> None:
    members = Members("a", "i1", "c")
    members.found("h:1", state.CONFIGURED, 0)
    members.found("h:2", state.LEARNED, 0, "b", "i2")
    now = 0.0
    waits: dict[str, list[float]] = {"h:1": [], "h:2": []}
    for _ in range(80):
        entry, soonest = members.next_due(now)
        if entry is None:
            assert soonest is not None
            now = soonest
            continue
        assert members.failed(entry, "refused", now, 1.0) == (not waits[entry.address])
        waits[entry.address].append(entry.due - now)
    assert waits["h:1"][:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert max(waits["h:1"]) == pytest.approx(state.RETRY_MOST)
    assert len(waits["h:2"]) == state.GIVE_UP
    assert list(members.addresses) == ["h:1"]


def test_a_link_rests_its_addresses_until_it_is_gone() -> None:
    members = Members("a", "i1", "c")
    members.found("h:1", state.CONFIGURED, 0)
    entry, _ = members.next_due(0)
    assert entry is not None
    members.met(entry, "b", "i2")
    old, new = link("b", "i2", dialed=True), link("b", "i2", dialed=False)
    members.linked(old)
    assert members.next_due(50) == (None, None)
    members.linked(new)
    assert not members.unlinked(old, 60), "it had been replaced"
    assert members.unlinked(new, 60)
    _, soonest = members.next_due(0)
    due, _ = members.next_due(61)
    assert soonest is not None
    assert due is entry


def test_the_greater_incarnation_waits_for_the_other_to_dial() -> None:
    members = Members("a", "i5", "c")
    members.found("h:1", state.ZEROCONF, 0, "b", "i2")
    members.found("h:2", state.ZEROCONF, 0, "c", "i9")
    entry, _ = members.next_due(0)
    assert entry is not None
    assert entry.address == "h:2"
    entry.dialing = True
    assert members.next_due(0) == (None, state.COURTESY)
    assert not members.found("h:3", state.ZEROCONF, 0, "a", "i5"), "our own announcement"


def test_configured_peers_change() -> None:
    members = Members("a", "i1", "c")
    members.configured(("h:1", "h:2"), 0)
    members.found("h:2", state.ZEROCONF, 0, "b", "i2")
    members.configured(("h:3",), 1)
    assert sorted(members.addresses) == ["h:2", "h:3"]
    assert members.addresses["h:2"].sources == {state.ZEROCONF}
    members.lost("h:2", state.ZEROCONF)
    assert sorted(members.addresses) == ["h:3"]
    assert [info.error for info in members.infos(2)] == [""]
