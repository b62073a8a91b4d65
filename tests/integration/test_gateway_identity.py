"""Who a gateway's clients are to the nodes and servers that they call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import ipcd_client
import pytest
from integration.daemons import LONG, Daemon, Daemons
from integration.gateway import LISTEN, channel_to, until_served
from integration.test_rules import US, Ruled, rule

SERVICES = ("public.X", "secret.X")


def who(_request: bytes, context: grpc.ServicerContext) -> bytes:
    (identity,) = context.peer_identities() or ()
    return bytes(identity)


@contextmanager
def served(node: Daemon) -> Iterator[None]:
    """One server of two services, which tell callers who they are."""
    method: Any = grpc.unary_unary_rpc_method_handler(who)
    handlers = [grpc.method_handlers_generic_handler(service, {"Who": method}) for service in SERVICES]
    server = ipcd_client.server(node=node.socket, handlers=handlers)
    server.start()
    try:
        yield
    finally:
        server.stop(None)


def asked(channel: grpc.Channel, service: str) -> str:
    method: Any = channel.unary_unary(f"/{service}/Who")
    return bytes(method(b"", timeout=LONG)).decode()


@pytest.mark.parametrize("home", ["a", "b"])
def test_servers_see_for_whom_a_gateway_calls(cluster: Daemons, home: str) -> None:
    path = f"{cluster.folder}/grpc.sock"
    back = cluster.run("b")
    front = cluster.run("a", *LISTEN, "--grpc-socket", path, "--peer", back.listen)
    front.logged("node linked", "b")
    with (
        served(front if home == "a" else back),
        channel_to(front) as tcp,
        grpc.insecure_channel(f"unix:{path}", [("grpc.use_local_subchannel_pool", 1)]) as unix,
    ):
        until_served(tcp, "/public.X/Who")
        for _ in range(2):
            for service in SERVICES:
                assert asked(tcp, service) == "spiffe://default/node/a/grpc"
                assert asked(unix, service) == f"spiffe://default/node/a/uid/{US}"


def test_the_servers_node_judges_for_whom_a_gateway_calls(cluster: Daemons) -> None:
    """And the daemon, as any caller; whatever it has let in before."""
    back = Ruled(cluster, "b", rule("deny", "node/a/grpc", "call", "secret.*", "not by the port"))
    front = cluster.run("a", *LISTEN, "--peer", back.daemon.listen)
    front.logged("node linked", "b")

    def denied(words: str) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            asked(tcp, "secret.X")
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert words in str(caught.value.details())

    with served(back.daemon), channel_to(front) as tcp:
        until_served(tcp, "/public.X/Who")
        denied("spiffe://default/node/a/grpc may not call secret.X on node b: the rule not by the port denies it")
        back.change(rule("deny", f"node/a/uid/{US}", "call", "secret.*", "not by it"))
        denied(f"spiffe://default/node/a/uid/{US} may not call secret.X on node b: the rule not by it denies it")
        back.change()
        assert asked(tcp, "secret.X") == asked(tcp, "public.X")


def test_what_is_allowed_later_is_not_refused_over_what_is_connected(cluster: Daemons) -> None:
    path = f"{cluster.folder}/grpc.sock"
    back = Ruled(cluster, "b", rule("deny", f"node/a/uid/{US}", "call", "secret.*"))
    front = cluster.run("a", "--grpc-socket", path, "--peer", back.daemon.listen)
    front.logged("node linked", "b")
    with (
        served(back.daemon),
        grpc.insecure_channel(f"unix:{path}", [("grpc.use_local_subchannel_pool", 1)]) as unix,
    ):
        until_served(unix, "/public.X/Who")
        assert asked(unix, "public.X") == f"spiffe://default/node/a/uid/{US}"
        with pytest.raises(grpc.RpcError, match=r"may not call secret\.X"):
            asked(unix, "secret.X")
        back.change()
        assert asked(unix, "secret.X") == asked(unix, "public.X")
