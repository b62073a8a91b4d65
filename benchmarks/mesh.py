"""A cluster in one process: every node's catalog, members and exchange, all linked with one another. What is measured
is what these do, and the messages between them; no socket and no event loop is in it."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ipcd_client.frame import codec
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2

from ipcd import limits
from ipcd.state import heartbeat
from ipcd.state import members as state
from ipcd.state.catalog import Catalog
from ipcd.state.exchange import Exchange, Outbox
from ipcd.state.members import Link, Members

# Nodes of the largest cluster: each is linked with all others, and one joins.
MOST: Final = limits.NODES
# On each node, of two services each.
SERVERS: Final = 2
# Frames on a link: of a message there is a header, of a ping and its answer eight bytes besides.
FRAME: Final = codec.HEADER_SIZE
PING: Final = FRAME + 8

# Of one size of cluster. Names have their units at their ends.
Figures = dict[str, float]


@dataclass(slots=True)
class Node:
    """One of them."""

    members: Members
    catalog: Catalog
    exchange: Exchange
    links: dict[str, tuple[Link, Outbox]]


class Mesh:
    """`count` nodes, linked and equal."""

    def __init__(self, count: int) -> None:
        self.nodes = [_node(number) for number in range(count)]
        for node in self.nodes:
            for number in range(SERVERS):
                node.catalog.put(_server(node, number))
        for node in self.nodes:
            # What every other gets when its link comes up.
            whole = peer_pb2.LinkMessage(update=node.catalog.whole()).SerializeToString()
            for other in self.nodes:
                if other is not node:
                    _link(other, node)
            for other in self.nodes:
                if other is not node:
                    other.exchange.hear(other.links[node.members.node][0], peer_pb2.LinkMessage.FromString(whole))
        for node in self.nodes:
            _say(node)  # which has been heard above


def _node(number: int) -> Node:
    name = f"node-{number:04}.example"
    members, catalog = Members(name, f"{number:016x}", "cluster"), Catalog(name)
    return Node(members, catalog, Exchange(members, catalog, str), {})


def _server(node: Node, number: int) -> node_pb2.Server:
    name = node.members.node
    return node_pb2.Server(
        id=f"{name}.{number:016x}",
        name=f"server-{number}",
        process=node_pb2.Process(node=name, pid=4242, uid=1000, gid=1000),
        services=[f"company.team.v1.Service{number}", "grpc.health.v1.Health"],
    )


def _hello(node: Node) -> peer_pb2.PeerHello:
    members = node.members
    return peer_pb2.PeerHello(
        node=members.node, incarnation=members.incarnation, cluster="cluster", version="1.0.0", address=_address(node)
    )


def _address(node: Node) -> str:
    number = int(node.members.incarnation, 16)
    return f"10.0.{number >> 8}.{number & 255}:7777"


def _link(node: Node, other: Node, *, told: bool = True) -> None:
    """One end of a link; `told`: another node has told of the other before, as it is with all but the first."""
    members, hello = node.members, _hello(other)
    address, dialed = hello.address, members.incarnation < hello.incarnation
    if told:
        members.found(address, state.LEARNED, 0.0, hello.node, hello.incarnation)
    assert members.judge(hello, address, dialed, 0.0) is None
    link = Link(hello.node, hello.incarnation, hello.version, address, address, dialed, since=0.0, heard=0.0)
    node.links[hello.node] = link, node.exchange.linked(link, lambda: None)


def _spent(do: Callable[[], object]) -> float:
    """Microseconds of CPU."""
    start = time.process_time_ns()
    do()
    return (time.process_time_ns() - start) / 1000


def _say(node: Node) -> list[tuple[str, bytes]]:
    """All that waits on all links of a node: to whom, and as it goes there."""
    said = []
    for name, (_, outbox) in node.links.items():
        while (message := outbox.next(node.catalog.whole)) is not None:
            said.append((name, message.SerializeToString()))
    return said


def _hear(node: Node, link: Link, message: bytes) -> None:
    for known in node.exchange.hear(link, peer_pb2.LinkMessage.FromString(message)).nodes:
        node.members.found(known.address, state.LEARNED, 0.0, known.node, known.incarnation)


def change(mesh: Mesh, changes: int, chance: random.Random) -> Figures:
    """A server comes, serves something else, or goes; everybody is told. Medians of so many changes."""
    by_name = {node.members.node: node for node in mesh.nodes}
    told: list[tuple[float, float, float]] = []
    for number in range(changes):
        owner = chance.choice(mesh.nodes)
        server = _server(owner, SERVERS)
        said: list[tuple[str, bytes]] = []

        def tell(
            number: int = number,
            owner: Node = owner,
            server: node_pb2.Server = server,
            said: list[tuple[str, bytes]] = said,
        ) -> None:
            if number % 3 == 2:
                update = owner.catalog.remove(server.id) or owner.catalog.put(server)
            else:
                update = owner.catalog.put(server)
            owner.exchange.tell(update)
            said.extend(_say(owner))

        owner_us = _spent(tell)
        arrivals = [(by_name[name], by_name[name].links[owner.members.node][0], data) for name, data in said]

        def hear(arrivals: list[tuple[Node, Link, bytes]] = arrivals) -> None:
            for node, link, data in arrivals:
                _hear(node, link, data)

        others_us = _spent(hear)
        assert len(arrivals) == len(mesh.nodes) - 1
        told.append((owner_us, others_us, sum(FRAME + len(data) for _, data in said)))
    owner_us, others_us, size = (statistics.median(column) for column in zip(*told, strict=True))
    others = len(mesh.nodes) - 1
    return {
        "change_bytes": size,
        "change_bytes_per_link": size / others,
        "change_us": owner_us + others_us,
        "change_owner_us": owner_us,
        "change_other_us": others_us / others,
    }


def join(mesh: Mesh) -> Figures:
    """One node more comes, and knows one of the others."""
    new = _node(len(mesh.nodes))
    for number in range(SERVERS):
        new.catalog.put(_server(new, number))
    by_name = {node.members.node: node for node in [*mesh.nodes, new]}
    size = 0
    own_us = others_us = 0.0

    def talk(nodes: list[Node]) -> None:
        """All say what they have to say, and hear it."""
        nonlocal size, own_us, others_us
        for node in nodes:
            said: list[tuple[str, bytes]] = []
            spent = {node is new: _spent(lambda node=node, said=said: said.extend(_say(node)))}  # type: ignore[misc]
            for name, data in said:
                size += FRAME + len(data)
                other = by_name[name]
                link = other.links[node.members.node][0]
                us = _spent(lambda other=other, link=link, data=data: _hear(other, link, data))  # type: ignore[misc]
                spent[other is new] = spent.get(other is new, 0.0) + us
            own_us += spent.get(True, 0.0)
            others_us += spent.get(False, 0.0)

    first, rest = mesh.nodes[0], mesh.nodes[1:]
    for told, those in ((False, [first]), (True, rest)):
        for other in those:
            own_us += _spent(lambda other=other, told=told: _link(new, other, told=told))  # type: ignore[misc]
            others_us += _spent(lambda other=other, told=told: _link(other, new, told=told))  # type: ignore[misc]
            for one in (new, other):
                size += FRAME + peer_pb2.LinkMessage(hello=_hello(one)).ByteSize()
        talk([*those, new])
    assert all(node.catalog.count(new.members.node) == SERVERS for node in mesh.nodes)
    assert all(new.catalog.count(node.members.node) >= SERVERS for node in mesh.nodes)
    return {"join_bytes": size, "join_us": own_us + others_us, "join_own_us": own_us}


def heartbeats(count: int) -> Figures:
    """Each end of each link pings, and is answered."""
    links = count * (count - 1) / 2
    total = links * 2 * 2 * PING / heartbeat.EVERY
    # Of one node: its own pings and its answers to those of the others; as much comes.
    return {"heartbeat_bytes_per_s": total, "heartbeat_node_bytes_per_s": total / count}


def resident() -> int:
    """Bytes of this process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


def measure(count: int, changes: int) -> Figures:
    """All figures of a cluster of `count` nodes. For a process of its own: what it keeps is measured too."""
    gc.collect()
    gc.disable()  # it would look at the whole cluster, of which a node is a small part
    before = resident()
    mesh = Mesh(count)
    memory = (resident() - before) / count
    figures = {"memory_bytes": memory, "node_links": len(mesh.nodes[0].members.links)}
    figures |= change(mesh, changes, random.Random(count))
    return figures | join(mesh) | heartbeats(count)
