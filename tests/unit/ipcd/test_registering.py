"""How the node knows a server."""

from __future__ import annotations

from typing import cast

import pytest
from ipcd_client.aio.context import ServicerContext
from ipcd_client.pb.ipcd.v1 import node_pb2

from ipcd.broker import Broker, Registration
from ipcd.limits import InvalidRequest
from ipcd.log import Log
from ipcd.state.catalog import Catalog

INSTANCE = "0123456789abcdef"


def broker() -> Broker:
    return Broker("a", Catalog("a"), Log("a"), lambda: 0.0)


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


@pytest.mark.parametrize("instance", ["short", INSTANCE.upper(), INSTANCE + "/", "0" * 65, "é" * 16])
def test_an_instance_that_is_none(instance: str) -> None:
    with pytest.raises(InvalidRequest, match="hexadecimal"):
        register(broker(), instance)
