"""gRPC's interoperability tests, of servers that know nothing of ipcd, through `ipcctl expose`: called by stubs of
ours, and by grpcio's through the gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import ipcd_client
import pytest
from conformance import interop
from integration import daemons
from integration.exposing import PROTO, Exposing, grpcio_server, line_of
from integration.gateway import LISTEN, channel_to


@pytest.fixture(scope="module", params=["grpcio", "nodejs"])
def node(request: pytest.FixtureRequest) -> Iterator[daemons.Daemon]:
    """At which a server in the language is exposed."""
    with daemons.daemons() as all_of_them:
        daemon = all_of_them.run("a", *LISTEN)
        if request.param == "grpcio":
            server = grpcio_server("127.0.0.1:0")
        else:
            server = request.getfixturevalue("nodejs").running("interop_server.js", str(PROTO), "127.0.0.1:0")
        with server as process, Exposing(daemon, f"127.0.0.1:{line_of(process)}", interop.SERVICE) as exposing:
            exposing.serves()
            # As long as it lives, so do grpcio's pollers.
            with channel_to(daemon):
                yield daemon


@pytest.fixture(params=["ours", "gateway"])
def channel(node: daemons.Daemon, request: pytest.FixtureRequest) -> Iterator[grpc.Channel]:
    """Of one test."""
    with ipcd_client.channel(node=node.socket) if request.param == "ours" else channel_to(node) as made:
        yield made


@pytest.mark.parametrize("case", interop.CASES.values(), ids=interop.CASES)
def test_case(case: Callable[[grpc.Channel], None], channel: grpc.Channel) -> None:
    case(channel)


def test_unimplemented_service(channel: grpc.Channel) -> None:
    interop.unimplemented_service(channel, grpc.StatusCode.UNAVAILABLE)
