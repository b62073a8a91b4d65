"""A node inside this process."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import pytest
from ipcd_client.errors import ConfigError

import ipcd


def handlers() -> grpc.GenericRpcHandler:
    echo: Any = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    handler: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler("x.X", {"Echo": echo})
    return handler


def test_a_node_for_a_while() -> None:
    with ipcd.embedded() as node:
        assert Path(node.socket).is_socket()
        assert node.listen.startswith("127.0.0.1:")
        server = ipcd_client.server(handlers=(handlers(),), node=node.socket)
        server.start()
        with ipcd_client.channel(node=node.socket) as channel:
            assert channel.unary_unary("/x.X/Echo")(b"hello", timeout=10) == b"hello"
        server.stop(0).wait()
    assert not Path(node.socket).parent.exists()


def test_two_nodes() -> None:
    with ipcd.embedded(node="a") as a, ipcd.embedded(node="b", peers=[a.listen]) as b:
        server = ipcd_client.server(handlers=(handlers(),), node=a.socket)
        server.start()
        with ipcd_client.channel("ipcd://a", node=b.socket) as channel:
            echo = channel.unary_unary("/x.X/Echo")
            assert echo(b"hello", timeout=10, wait_for_ready=True) == b"hello"
        server.stop(0).wait()


def test_it_does_not_look_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPCD_SOCKET", "/nonexistent/ipcd.sock")
    monkeypatch.setenv("IPCD_NODE", "somebody")
    with ipcd.embedded() as node:
        assert node.node.startswith(f"embedded-{os.getpid()}-")


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ConfigError, match="--insecure"), ipcd.embedded(listen="192.0.2.1:0"):
        pass
    with ipcd.embedded() as node, pytest.raises(ConfigError, match="in use"), ipcd.embedded(listen=node.listen):
        pass


def test_an_error_inside_passes_through() -> None:
    with pytest.raises(KeyError), ipcd.embedded():
        raise KeyError("inside")


def test_the_fixture(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os
        import grpc, ipcd_client

        def test_it(ipcd_node):
            assert os.environ["IPCD_SOCKET"] == ipcd_node.socket
            echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
            server = ipcd_client.server(handlers=(grpc.method_handlers_generic_handler("x.X", {"Echo": echo}),))
            server.start()
            with ipcd_client.channel() as channel:
                assert channel.unary_unary("/x.X/Echo")(b"hello", timeout=10) == b"hello"
            server.stop(0).wait()

        def test_gone(monkeypatch):
            assert "ipcd-" not in os.environ.get("IPCD_SOCKET", "")
        """
    )
    # Where the distribution is installed, pytest finds the plugin by itself, and refuses it a second time.
    installed = entry_points(group="pytest11", name="ipcd")
    arguments = () if installed else ("-p", "ipcd.pytest_plugin")
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=2)
