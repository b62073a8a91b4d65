"""What is said over which link, and what is made of what is heard. Whole histories are in tests/property and
tests/scenarios."""

from __future__ import annotations

import pytest
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2
from ipcd_client.wire.tcp import split_address

from ipcd import limits
from ipcd.state import exchange as state
from ipcd.state import members
from ipcd.state.catalog import BadUpdate, Catalog
from ipcd.state.exchange import Exchange, Outbox
from ipcd.state.members import Link, Members


class Node:
    """One that says what it has to say into a list."""

    def __init__(self, name: str, incarnation: str = "") -> None:
        self.members = Members(name, incarnation or f"i-{name}", "c")
        self.catalog = Catalog(name)
        self.exchange = Exchange(self.members, self.catalog, split_address)
        self.woken = 0

    def linked(self, name: str, incarnation: str = "") -> tuple[Link, Outbox]:
        address = f"{name}:1"
        link = Link(name, incarnation or f"i-{name}", "1", address, address, True, since=0.0, heard=0.0)
        return link, self.exchange.linked(link, self.wake)

    def wake(self) -> None:
        self.woken += 1

    def said(self, outbox: Outbox) -> list[peer_pb2.LinkMessage]:
        """All that waits."""
        messages = []
        while (message := outbox.next(self.catalog.whole)) is not None:
            messages.append(message)
        return messages

    def put(self, number: int) -> peer_pb2.CatalogUpdate:
        return self.catalog.put(server(self.members.node, number))


def server(node: str, number: int) -> node_pb2.Server:
    return node_pb2.Server(id=f"{node}.{number}", process=node_pb2.Process(node=node, pid=1), services=["x.X"])


def kinds(messages: list[peer_pb2.LinkMessage]) -> list[str | None]:
    return [message.WhichOneof("message") for message in messages]


def whole(node: str, *numbers: int, revision: int = 1) -> peer_pb2.LinkMessage:
    servers = [server(node, number) for number in numbers]
    return peer_pb2.LinkMessage(update=peer_pb2.CatalogUpdate(revision=revision, full=True, servers=servers))


def known(*names: str) -> peer_pb2.LinkMessage:
    nodes = [peer_pb2.KnownNode(node=name, incarnation=f"i-{name}", address=f"{name}:1") for name in names]
    return peer_pb2.LinkMessage(known=peer_pb2.KnownNodes(nodes=nodes))


def test_a_link_begins_with_the_whole_and_goes_on_with_changes() -> None:
    node = Node("a")
    node.put(1)
    _, outbox = node.linked("b")
    node.exchange.tell(node.put(2))
    first, second = node.said(outbox)
    assert first.update.full
    assert [one.id for one in first.update.servers] == ["a.1", "a.2"]
    assert not second.update.full, "it is in the whole already; the other end knows by its revision"
    assert second.update.revision == first.update.revision == 2


def test_of_more_changes_than_are_queued_the_whole_is_said() -> None:
    node = Node("a")
    _, outbox = node.linked("b")
    node.said(outbox)
    for number in range(state.QUEUED):
        node.exchange.tell(node.put(number))
    woken = node.woken
    node.exchange.tell(node.put(state.QUEUED))
    assert node.woken > woken
    (only,) = node.said(outbox)
    assert only.update.full
    assert len(only.update.servers) == state.QUEUED + 1


def test_a_change_that_does_not_follow_is_asked_for_again() -> None:
    node, other = Node("a"), Node("b")
    link, outbox = node.linked("b")
    back, answers = other.linked("a")
    for message in other.said(answers):
        node.exchange.hear(link, message)
    node.said(outbox)
    other.put(1)
    lost = peer_pb2.LinkMessage(update=other.put(2))
    assert not node.exchange.hear(link, lost).catalog
    (request,) = node.said(outbox)
    assert kinds([request]) == ["resync"]
    other.exchange.hear(back, request)
    (answer,) = other.said(answers)
    assert node.exchange.hear(link, answer).catalog
    assert node.catalog.servers() == other.catalog.servers()


@pytest.mark.parametrize("incarnation", ["i-b", "i-b2"])
def test_over_a_link_that_was_replaced_nothing_is_taken(incarnation: str) -> None:
    node = Node("a")
    old, _ = node.linked("b")
    new, _ = node.linked("b", incarnation)
    assert node.exchange.hear(new, whole("b", 2)).catalog
    assert not node.exchange.hear(old, whole("b", 1, revision=9)).catalog
    assert [one.id for one in node.catalog.servers()] == ["b.2"]
    assert not node.exchange.unlinked(old, 1.0), "the node is still there"
    assert node.exchange.unlinked(new, 1.0)


def test_who_comes_is_told_of_the_others_and_they_of_it() -> None:
    node = Node("a")
    _, to_b = node.linked("b")
    node.said(to_b)
    _, to_c = node.linked("c")
    assert [one.node for one in node.said(to_c)[-1].known.nodes] == ["b"]
    assert [one.node for one in node.said(to_b)[-1].known.nodes] == ["c"]


def test_with_many_links_only_the_first_to_know_tells() -> None:
    node = Node("a")
    outboxes = [node.linked(f"n{number}")[1] for number in range(state.FEW)]
    for outbox in outboxes:
        node.said(outbox)
    node.members.found("x:1", members.LEARNED, 0.0, "x", "i-x")
    _, to_x = node.linked("x")
    assert kinds(node.said(to_x)) == ["update"]
    assert [node.said(outbox) for outbox in outboxes] == [[]] * state.FEW
    # Another run of it is news again.
    _, to_x = node.linked("x", "i-x2")
    assert len(node.said(to_x)[-1].known.nodes) == state.FEW
    assert [len(node.said(outbox)) for outbox in outboxes] == [1] * state.FEW


def test_what_is_known_is_said_again_over_few_links() -> None:
    node = Node("a")
    links = [node.linked(f"n{number}") for number in range(2 * state.RETOLD)]
    for _, outbox in links:
        node.said(outbox)
    link, outbox = links[0]
    node.exchange.retell(link, 0.6)
    assert node.said(outbox) == []
    node.exchange.retell(link, 0.4)
    (only,) = node.said(outbox)
    assert [one.node for one in only.known.nodes] == [f"n{number}" for number in range(1, 2 * state.RETOLD)]


def test_nodes_to_look_for() -> None:
    node = Node("a")
    link, _ = node.linked("b")
    node.linked("c")
    heard = node.exchange.hear(link, known("a", "b", "c", "d"))
    assert [one.node for one in heard.nodes] == ["d"], "not itself, not the one that tells, and none that is linked"
    node.linked("c", "i-c2")
    assert [one.node for one in node.exchange.hear(link, known("c")).nodes] == ["c"], "another run of it"
    assert len(node.exchange.hear(link, known(*(f"n{number}" for number in range(5000)))).nodes) == limits.NODES


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (peer_pb2.LinkMessage(hello=peer_pb2.PeerHello()), "node b said hello twice"),
        (whole("c", 1), "'b' tells of server 'c.1' on node 'c'"),
        (
            peer_pb2.LinkMessage(
                known=peer_pb2.KnownNodes(nodes=[peer_pb2.KnownNode(node="d", incarnation="i", address="nowhere")])
            ),
            "node b tells of a node at 'nowhere': ",
        ),
        (known(""), "node b tells of a node at ':1': the name of a node is empty"),
    ],
)
def test_what_no_node_may_say(message: peer_pb2.LinkMessage, error: str) -> None:
    node = Node("a")
    link, _ = node.linked("b")
    with pytest.raises(BadUpdate) as caught:
        node.exchange.hear(link, message)
    assert str(caught.value).startswith(error)
    assert node.catalog.servers() == []
