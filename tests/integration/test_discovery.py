"""Nodes that find each other with zeroconf, on loopback."""

from __future__ import annotations

import secrets

from integration.daemons import Daemons, attached, run
from integration.test_links import linked


def test_nodes_find_each_other(cluster: Daemons) -> None:
    # Other runs on this machine are other clusters.
    own = ("--cluster", f"test-{secrets.token_hex(4)}")
    a = cluster.run("a", *own, discovery=True)
    b = cluster.run("b", *own, discovery=True)
    stranger = cluster.run("c", "--cluster", f"test-{secrets.token_hex(4)}", discovery=True)

    async def main() -> None:
        async with attached(a) as one, attached(b) as other, attached(stranger) as third:
            await linked(one, "b")
            await linked(other, "a")
            assert "zeroconf" in {a.logged("node linked")["source"], b.logged("node linked")["source"]}
            assert await third.nodes() == {}
            assert b.stop() == 0
            await linked(one)

    run(main)
    # Goodbye was said: nobody dials an address that is gone.
    assert a.logged("node gone")["peer"] == "b"


def test_it_stays_on_loopback(cluster: Daemons) -> None:
    daemon = cluster.run("a", discovery=True)
    assert daemon.logged("discovery")["interfaces"] == "127.0.0.1"
