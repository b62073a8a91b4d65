"""What links do over time, with nodes of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ipcd_client.errors import NotAllowed, WireClosed
from ipcd_client.loop.connection import Connection
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2

from ipcd import link_keeper, links
from ipcd.config import Config
from ipcd.node import Node
from ipcd.peer import Peer
from ipcd.peer_servicer import PeerServicer

LONG = 20.0  # seconds: far more than anything here takes


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LONG):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(("dialed", "caller", "let"), [(True, "b", True), (True, "c", False), (False, "b", False)])
def test_who_was_dialed_may_ask_before_the_link_was_taken_in(dialed: bool, caller: str, let: bool) -> None:
    """It has decided that there is a link, and the end that dialed has yet to read that. Who dialed hears of the
    decision first, and has no reason to ask before."""

    async def main() -> None:
        broker: Any = SimpleNamespace(introduce=lambda request: request.caller.node)
        peer: Any = Peer(cast("Connection", None), "10.0.0.2:7319", (), dialed=dialed)
        context: Any = SimpleNamespace(peer_identity=peer)
        request = peer_pb2.IntroduceRequest(caller=node_pb2.Process(node=caller))
        asked = asyncio.create_task(PeerServicer(cast("Any", None), broker).Introduce(request, context))
        await asyncio.sleep(0)
        assert asked.done() is not dialed
        peer.link = SimpleNamespace(node="b")
        peer.settled.set()
        if let:
            assert str(await asked) == "b"
        else:
            with pytest.raises(NotAllowed, match="own-callers"):
                await asked

    asyncio.run(main())


def test_who_was_dialed_is_refused_where_there_is_no_link() -> None:
    async def main() -> None:
        peer: Any = Peer(cast("Connection", None), "10.0.0.2:7319", (), dialed=True)
        context: Any = SimpleNamespace(peer_identity=peer)
        asked = asyncio.create_task(
            PeerServicer(cast("Any", None), cast("Any", None)).ConnectBack(cast("Any", None), context)
        )
        await asyncio.sleep(0)
        peer.settled.set()
        with pytest.raises(NotAllowed, match="only a linked node"):
            await asked

    asyncio.run(main())


def test_a_node_that_was_given_up_is_told_of_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_keeper, "RETELL", 0.5)

    async def story() -> None:
        seed = Node(Config("seed", str(tmp_path / "seed"), discovery=False))
        await seed.start()
        others = [
            Node(Config(name, str(tmp_path / name), discovery=False, peers=(seed.listen,))) for name in ("a", "c")
        ]
        a, c = others
        try:
            for node in others:
                await node.start()
            await until(lambda: set(a._links.names()) == {"seed", "c"} and set(c._links.names()) == {"seed", "a"})
            # As after a long cut between these two alone: nobody knows the other's address any more.
            for node, other in ((a, c), (c, a)):
                del node._links.members.addresses[other.listen]
            link = a._links.members.links["c"]
            a._links._peers[link].connection.fail(WireClosed("cut"))
            await until(lambda: "c" not in a._links.names() or a._links.members.links["c"] is not link)
            await until(lambda: set(a._links.names()) == {"seed", "c"} and set(c._links.names()) == {"seed", "a"})
        finally:
            for node in (*others, seed):
                await node.stop()

    asyncio.run(story())


def test_an_accepted_link_that_breaks_is_no_failure_of_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        accepting = Node(Config("accepting", str(tmp_path / "accepting"), discovery=False))
        await accepting.start()
        dialing = Node(Config("dialing", str(tmp_path / "dialing"), discovery=False, peers=(accepting.listen,)))
        await dialing.start()

        async def cut() -> None:
            await until(lambda: accepting._links.names() and dialing._links.names())
            link = dialing._links.members.links["accepting"]
            accepted = accepting._links.members.links["dialing"]
            dialing._links._peers[link].connection.fail(WireClosed("cut"))
            # The next one may be up before anybody looks.
            await until(lambda: accepting._links.members.links.get("dialing") is not accepted)

        try:
            for _ in range(5):
                await cut()
        finally:
            await dialing.stop()
            await accepting.stop()

    asyncio.run(story())
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


def test_two_nodes_that_dial_each_other_at_once_keep_the_same_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(links, "LINGER", 0.05)

    async def story(number: int) -> None:
        a, b = nodes = [Node(Config(name, str(tmp_path / f"{name}{number}"), discovery=False)) for name in ("a", "b")]
        try:
            for node in nodes:
                await node.start()
            for node, other in ((a, b), (b, a)):
                node._links.configure((other.listen,))
            await until(lambda: a._links.names() and b._links.names())
            # Of two links one goes, and no more.
            await until(lambda: len(a._links._connections) == len(b._links._connections) == 1)
            assert a._links.members.links["b"].dialed != b._links.members.links["a"].dialed
        finally:
            for node in nodes:
                await node.stop()

    with caplog.at_level("INFO"):
        for number in range(20):
            asyncio.run(story(number))
            assert "node gone" not in caplog.text.partition("stopping")[0]
            caplog.clear()
