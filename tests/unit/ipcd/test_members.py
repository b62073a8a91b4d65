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


def test_an_address_that_does_not_answer_is_given_up_later_than_one_that_refuses() -> None:
    members = Members("a", "i1", "c")
    for address in ("refuses:1", "silent:1"):
        members.found(address, state.LEARNED, 0)
    for count in range(1, state.GIVE_UP_SILENT + 1):
        for entry in list(members.addresses.values()):
            members.failed(entry, "?", count, 0.0, silent=entry.address == "silent:1")
        assert ("refuses:1" in members.addresses) == (count < state.GIVE_UP)
        assert ("silent:1" in members.addresses) == (count < state.GIVE_UP_SILENT)


def test_each_address_of_a_name_is_tried_and_those_of_before_are_not() -> None:
    members = Members("a", "i1", "c")
    members.configured(("h:9",), 0, ("name:1",))
    assert list(members.addresses) == ["h:9"]
    assert not members.resolved("name:1", ("h:1", "h:2"), 1)
    assert members.resolved("another:1", ("h:7",), 1), "it is not configured, so there is nothing to do"
    assert sorted(members.addresses) == ["h:1", "h:2", "h:9"]
    assert not members.resolved("name:1", ("h:2", "h:3"), 2)
    assert sorted(members.addresses) == ["h:2", "h:3", "h:9"]
    # One leads to a node: the others are tried further, and nobody is told that they fail.
    members.met(members.addresses["h:3"], "b", "i2")
    members.failed(members.addresses["h:2"], "refused", 3, 0.0)
    assert {info.address for info in members.infos(3)} == {"h:2", "h:3", "h:9"}
    members.linked(link("b", "i2", dialed=True, address="h:3"))
    assert members.resolved("name:1", ("h:2", "h:3"), 4)
    assert {info.address for info in members.infos(4)} == {"h:3", "h:9"}
    entry, _ = members.next_due(10)
    assert entry is not None
    # The configuration changes.
    members.configured(("h:9",), 5)
    assert sorted(members.addresses) == ["h:9"]


def test_a_name_that_stands_for_nothing_is_told_of() -> None:
    members = Members("a", "i1", "c")
    members.configured((), 0, ("name:1",))
    assert members.unresolved("name:1", "no such name", 1)
    assert not members.unresolved("name:1", "no such name", 2), "no news"
    assert not members.unresolved("another:1", "no such name", 2)
    [info] = members.infos(5)
    assert (info.address, info.error, info.age, info.source) == ("name:1", "no such name", 4.0, state.CONFIGURED)
    members.resolved("name:1", ("h:1",), 6)
    assert [info.address for info in members.infos(7)] == ["h:1"]


def test_who_was_refused_is_shown_for_a_while() -> None:
    members = Members("a", "i1", "c", address="h:0")
    twin = hello("a", "i9", "h:9")
    with pytest.raises(state.NameTaken, match=r"'a': incarnation i1 at h:0, and i9 at h:9") as taken:
        members.judge(twin, "h:2", False, 0)
    for now in (0.0, 3.0):
        members.refused(twin, "h:2", str(taken.value), now)
    [info] = members.infos(4.0)
    assert (info.node, info.address, info.age, info.source) == ("a", "h:9", 4.0, state.INBOUND)
    assert info.error == str(taken.value)
    assert members.infos(3.0 + state.REFUSAL_SHOWN) == []
    for number in range(limits.REFUSALS + 5):
        members.refused(hello("b", f"i{number}", f"h:{number}"), "h:2", "no", 20.0)
    assert len(members.refusals) == limits.REFUSALS
    members.linked(link("b", f"i{limits.REFUSALS}", dialed=False))
    assert f"h:{limits.REFUSALS}" not in members.refusals


def test_a_link_with_a_clock() -> None:
    members = Members("a", "i1", "c")
    for name, skew in (("b", 0.0), ("c", -86_400.0), ("d", None)):
        one = link(name, f"of {name}", dialed=True)
        if skew is not None:
            one.clock.sample(1e9, 1e9 + skew + 0.01, 1e9 + skew + 0.01, 0.02)
        members.linked(one)
    b, c, d = members.infos(1)
    assert (b.clock_offset, b.clock_error) == pytest.approx((0.0, 0.01), abs=1e-6)
    assert (c.clock_offset, c.clock_error) == pytest.approx((-86_400.0, 0.01), abs=1e-6)
    assert not d.HasField("clock_offset")
