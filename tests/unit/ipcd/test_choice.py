from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from ipcd_client.pb.ipcd.v1 import node_pb2

from ipcd.state import choice

TCP, UNIX, SHM = node_pb2.TRANSPORT_TCP, node_pb2.TRANSPORT_UNIX, node_pb2.TRANSPORT_SHM


def server(server_id: str, node: str, name: str = "") -> node_pb2.Server:
    return node_pb2.Server(id=server_id, name=name, process=node_pb2.Process(node=node), services=["x.X"])


SERVERS = [server("b1", "b"), server("a1", "a", "canary"), server("a2", "a"), server("c1", "c")]


def rank(
    *,
    node: str = "",
    name: str = "",
    transport: node_pb2.Transport = node_pb2.TRANSPORT_UNSPECIFIED,
    servers: list[node_pb2.Server] = SERVERS,
    connections: Mapping[str, int] | None = None,
    turns: Mapping[str, int] | None = None,
    unshared: str = "",
) -> list[node_pb2.Candidate]:
    target = node_pb2.ResolveRequest(service="x.X", node=node, server=name, transport=transport)
    connections, turns = connections or {}, turns or {}
    return choice.rank(
        target, servers, "a", lambda i: connections.get(i, 0), lambda i: turns.get(i, 0), lambda _server: unshared
    )


def order(candidates: list[node_pb2.Candidate]) -> list[str]:
    return [candidate.server.id for candidate in candidates]


def test_own_node_first_then_the_others() -> None:
    candidates = rank()
    assert order(candidates) == ["a1", "a2", "b1", "c1"]
    assert [candidate.chosen for candidate in candidates] == [True, False, False, False]
    assert [candidate.transport for candidate in candidates] == [SHM, SHM, TCP, TCP]
    assert candidates[0].reason == "shm: caller and server share node a"
    assert candidates[2].reason == "on node b, and there is one on the caller's own"


def test_fewest_connections_then_turns() -> None:
    assert order(rank(connections={"a1": 2, "a2": 1}))[:2] == ["a2", "a1"]
    assert order(rank(turns={"a1": 7, "a2": 3}))[:2] == ["a2", "a1"]
    assert order(rank(connections={"a1": 0, "a2": 1}, turns={"a1": 9}))[:2] == ["a1", "a2"]
    assert rank(connections={"a1": 2, "a2": 1})[1].reason == "2 connections, the chosen one has 1"


def test_pinned() -> None:
    assert order(rank(node="b")) == ["b1"]
    assert rank(node="b")[0].reason == "tcp: the server is on node b, the caller on node a; pinned to node b"
    assert order(rank(name="canary")) == ["a1"]
    assert order(rank(node="b", name="canary")) == []


def test_transport_asked_for() -> None:
    assert [candidate.transport for candidate in rank(transport=TCP)] == [TCP] * 4
    assert rank(transport=TCP)[0].reason == "tcp was asked for"
    assert order(rank(transport=UNIX)) == ["a1", "a2"]
    with pytest.raises(choice.Impossible, match="from node a to node b"):
        rank(transport=UNIX, node="b")
    assert order(rank(transport=SHM)) == ["a1", "a2"]
    with pytest.raises(choice.Impossible, match="shared memory does not reach from node a to node b"):
        rank(transport=SHM, node="b")
    assert rank(transport=SHM, servers=[]) == [], "nobody serves it: that is another error"


def test_memory_is_shared_within_one_user() -> None:
    def process(uid: int) -> node_pb2.Process:
        return node_pb2.Process(node="a", uid=uid)

    assert choice.unshared(process(7), process(7), ()) == ""
    assert choice.unshared(process(7), process(8), (7, 8)) == ""
    for caller, callee, trusted in ((7, 8, ()), (7, 8, (7,)), (7, 8, (8,)), (0, 8, ())):
        why = choice.unshared(process(caller), process(callee), trusted)
        assert f"the caller's uid is {caller}, the server's {callee}" in why
    assert "no process of this machine" in choice.unshared(None, process(7), ())

    candidates = rank(unshared="they are strangers")
    assert [candidate.transport for candidate in candidates] == [UNIX, UNIX, TCP, TCP]
    assert candidates[0].reason == "unix: caller and server share node a; they are strangers"
    with pytest.raises(choice.Impossible, match=r"transport shm for x\.X: .*they are strangers"):
        rank(transport=SHM, unshared="they are strangers")


def test_words_for_nobody() -> None:
    def words(**target: str) -> str:
        return str(choice.no_server(node_pb2.ResolveRequest(service="x.X", **target), ["a", "b"]))

    assert words() == "no server for x.X on nodes a, b"
    assert words(node="b") == "no server for x.X on node b"
    assert words(node="q") == "node q is not known; the known ones are a, b"
    assert words(server="s") == "no server 's' for x.X on nodes a, b"


def weighted(server_id: str, node: str, weight: int, spillover: int = 0) -> node_pb2.Server:
    plain = server(server_id, node)
    plain.weight, plain.spillover = weight, spillover
    return plain


def preferred(*servers: node_pb2.Server) -> list[str]:
    return [candidate.server.id for candidate in rank(servers=list(servers)) if candidate.preferred]


def test_preferred_are_those_as_near_as_the_first() -> None:
    assert preferred(weighted("b1", "b", 1), weighted("a1", "a", 1), weighted("a2", "a", 5)) == ["a1", "a2"]
    assert preferred(weighted("b1", "b", 1), weighted("c1", "c", 1)) == ["b1", "c1"]


def test_a_weight_of_0_is_for_when_there_is_no_other() -> None:
    assert preferred(weighted("a1", "a", 0), weighted("b1", "b", 1)) == ["b1"]
    assert preferred(weighted("a1", "a", 0), weighted("b1", "b", 0)) == ["a1"]
    spare = rank(servers=[weighted("a1", "a", 0), weighted("b1", "b", 1)])[1]
    assert (spare.server.id, spare.reason) == ("a1", "its weight is 0, and there are others")


def test_a_spillover_brings_in_the_other_nodes() -> None:
    near, far = weighted("a1", "a", 1, spillover=4), weighted("b1", "b", 1)
    assert preferred(near, far) == ["a1", "b1"]
    reason = rank(servers=[near, far])[1].reason
    assert reason == "on node b: takes what is over the spillover of those on the caller's own"


def test_connections_count_by_weight() -> None:
    servers = [weighted("a1", "a", 1), weighted("a2", "a", 3)]
    assert order(rank(servers=servers, connections={"a1": 1, "a2": 2})) == ["a2", "a1"]
    assert order(rank(servers=servers, connections={"a1": 1, "a2": 4})) == ["a1", "a2"]


def test_who_may_not_be_called_is_never_chosen() -> None:
    target = node_pb2.ResolveRequest(service="x.X")

    def judged(refusal: Callable[[node_pb2.Server], str]) -> list[node_pb2.Candidate]:
        return choice.rank(target, SERVERS, "a", lambda _: 0, lambda _: 0, lambda _: "", refusal)

    candidates = judged(lambda server: "rule 1 denies it" if server.process.node == "a" else "")
    assert order(candidates) == ["b1", "c1", "a1", "a2"]
    assert [candidate.chosen for candidate in candidates] == [True, False, False, False]
    assert [candidate.preferred for candidate in candidates] == [True, True, False, False]
    assert [candidate.refusal for candidate in candidates] == ["", "", "rule 1 denies it", "rule 1 denies it"]
    assert candidates[2].reason == "rule 1 denies it"
    candidates = judged(lambda _: "rule 1 denies it")
    assert order(candidates) == ["a1", "a2", "b1", "c1"]
    assert not any(candidate.chosen or candidate.preferred for candidate in candidates)
