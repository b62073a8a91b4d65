"""How the node knows a server."""

from __future__ import annotations

from typing import cast

import pytest
from ipcd_client.aio.context import ServicerContext
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2
from support.everybody import EVERYBODY

from ipcd.access import Access
from ipcd.broker import Broker
from ipcd.limits import InvalidRequest
from ipcd.log import Log
from ipcd.parties import Registration
from ipcd.state.catalog import Catalog

INSTANCE = "0123456789abcdef"


def broker() -> Broker:
    log = Log("a")
    return Broker("a", Catalog("a"), log, lambda: 0.0, access=Access("default", "a", log, [EVERYBODY]))


def register(node: Broker, instance: str, services: tuple[str, ...] = ("x.X",)) -> Registration:
    request = node_pb2.RegisterRequest(services=services, instance=instance)
    attached = node.attach(node_pb2.Process(node="a", pid=1, uid=1))
    return node.register(attached, request, cast("ServicerContext", None))


def test_a_server_that_registers_again_is_the_same() -> None:
    node = broker()
    first = register(node, INSTANCE)
    assert first.server.id == f"a.{INSTANCE}"
    node.unregister(first, "it is gone")
    assert register(node, INSTANCE).server.id == first.server.id


def test_nobody_passes_for_one_that_is_there() -> None:
    node = broker()
    first, second = register(node, INSTANCE), register(node, INSTANCE, ("y.Y",))
    assert first.server.id != second.server.id
    node.unregister(second, "it is gone")
    assert [server.id for server in node.catalog.servers("x.X")] == [first.server.id]


def test_without_an_instance_the_node_chooses() -> None:
    node = broker()
    assert register(node, "").server.id != register(node, "").server.id


def test_an_introduction_keeps_its_caller_and_nothing_that_came_with_it() -> None:
    node = broker()
    register(node, INSTANCE)
    caller = node_pb2.Process(node="b", pid=7, uid=8, gid=9)
    sent = node_pb2.Process.FromString(caller.SerializeToString() + b"\xfa\x7f\x03abc")
    request = peer_pb2.IntroduceRequest(target=node_pb2.ResolveRequest(service="x.X"), caller=sent)
    reply = node.introduce(request)
    introduction = node.arrivals._tokens.redeem(reply.token, 0.0)
    assert introduction is not None
    assert introduction.caller is not request.caller
    assert introduction.caller.SerializeToString() == caller.SerializeToString()


def test_turns_are_forgotten_the_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipcd.limits.TURNS", 2)
    node = broker()
    servers = [register(node, "", (name,)).server for name in ("a.A", "b.B", "c.C")]
    for number in (0, 1, 0, 2):
        target = node_pb2.ResolveRequest(service=servers[number].services[0])
        node.introduce(peer_pb2.IntroduceRequest(target=target, caller=node_pb2.Process(node="b")))
    assert list(node._turns) == [servers[0].id, servers[2].id]


@pytest.mark.parametrize("instance", ["short", INSTANCE.upper(), INSTANCE + "/", "0" * 65, "é" * 16])
def test_an_instance_that_is_none(instance: str) -> None:
    with pytest.raises(InvalidRequest, match="hexadecimal"):
        register(broker(), instance)
