"""Who may offer which command, and who may run it."""

from __future__ import annotations

from typing import Any

import grpc
import ipcd_client
import pytest
from integration.daemons import LONG, Daemon, Daemons, attached, run
from integration.gateway import LISTEN, channel_to
from integration.ipcctl.runs import ctl
from integration.test_rules import Ruled, rule
from ipcd_client.errors import IpcdError, NotAllowed
from ipcd_client.pb.ipcd.v1 import command_pb2 as pb
from ipcd_client.pb.ipcd.v1 import command_pb2_grpc
from primitives.command_faces import seen_from

SERVICE = "ipcd.v1.Command"


@pytest.mark.parametrize(("what", "also"), [("command:*", False), (SERVICE, False), ("command:s*", True)])
def test_who_may_offer(nodes: Daemons, what: str, also: bool) -> None:
    node = Ruled(nodes, "a", rule("deny", "**", "register", what)).daemon
    with pytest.raises(IpcdError, match="may not register command:sh on node a: rule 1 denies it") as caught:
        ipcd_client.command("sh", node=node.socket).serve(["true"])
    assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED
    if also:
        with (
            ipcd_client.command("true", node=node.socket).serve(["true"]),
            ipcd_client.command("true", node=node.socket) as command,
        ):
            assert command.run().returncode == 0


def ran(node: Daemon, name: str) -> bytes:
    """What it says, run from that node."""
    with ipcd_client.command(name, node=node.socket) as command:
        return bytes(command.run().stdout)


def test_who_may_run(nodes: Daemons) -> None:
    """Of one process, each of whose commands is a matter of its own; the node of who calls has nothing to say."""
    home = Ruled(nodes, "b", rule("deny", "node/a/**", "call", "command:no.*", "not from a"))
    front = nodes.run("a", *LISTEN, "--peer", home.daemon.listen)
    node = home.daemon
    words = r"may not call command:no\.x on node b: the rule not from a denies it"
    with (
        ipcd_client.command("no.x", node=node.socket).serve(["echo", "no"]),
        ipcd_client.command("yes", node=node.socket).serve(["echo", "yes"]),
    ):
        seen_from(front, "yes")  # and the other one, of which it was told before
        assert (ran(front, "yes"), ran(node, "yes"), ran(node, "no.x")) == (b"yes\n", b"yes\n", b"no\n")
        for name in ("no.x", "no.x@b"):
            with pytest.raises(NotAllowed, match=words):
                ran(front, name)
        with (
            channel_to(front) as channel,
            ipcd_client.command("no.x", channel=channel) as through,
            pytest.raises(NotAllowed, match=words),
        ):
            through.run()
        # Nor by asking for any command, and naming this one when it is too late to choose.
        with ipcd_client.channel(node=front.socket) as anybody:
            request = pb.RunRequest(name="no.x", start=pb.RunStart())
            call: Any = command_pb2_grpc.CommandStub(anybody).Run(iter([request]), timeout=LONG)
            with pytest.raises(grpc.RpcError, match=r"no\.x: what is offered here is yes"):
                list(call)
        home.change(rule("deny", "node/a/**", "call", SERVICE, "none from a"))
        with pytest.raises(NotAllowed, match="may not call command:yes on node b: the rule none from a denies it"):
            ran(front, "yes")


def test_a_command_is_not_reached_by_another_service(nodes: Daemons) -> None:
    """Of one server: that is told what the caller may call there."""
    node = Ruled(nodes, "a", rule("deny", "**", "call", "command:no")).daemon

    async def main() -> None:
        async with attached(node) as client:
            for name, callable_ in (("no", ["x.X"]), ("yes", [])):
                server = await client.register("x.X", SERVICE, name=name)
                _, ours = await client.open("x.X", server=name)
                grant, theirs = await server.granted()
                with ours, theirs:
                    assert grant.services == callable_

    run(main)


def test_a_gateway_asks_of_each_command(nodes: Daemons) -> None:
    """Also of those of other nodes, which see no more than that it calls."""
    back = nodes.run("b")
    front = Ruled(
        nodes, "a", rule("deny", "node/a/grpc", "call", "command:no"), arguments=(*LISTEN, "--peer", back.listen)
    ).daemon
    with (
        ipcd_client.command("yes", node=back.socket).serve(["echo", "yes"]),
        ipcd_client.command("no", node=back.socket).serve(["echo", "no"]),
        channel_to(front) as channel,
    ):
        seen_from(front, "yes")
        seen_from(front, "no")
        with ipcd_client.command("yes", channel=channel) as command:
            assert command.run().stdout == b"yes\n"
        with (
            ipcd_client.command("no", channel=channel) as command,
            pytest.raises(NotAllowed, match="grpc may not call command:no on node a: rule 1 denies it"),
        ):
            command.run()


def test_who_may_is_told(nodes: Daemons) -> None:
    allowed = rule("allow", "node/*/uid/1001", "call", "command:yes", "guests")
    node = Ruled(nodes, "a", allowed).daemon
    with (
        ipcd_client.command("yes", node=node.socket).serve(["true"]),
        ipcd_client.command("no", node=node.socket).serve(["true"]),
    ):
        told = ctl("explain", SERVICE, "--as", "uid:1001", "-o", "json", node=node)
        assert told.code == 0
        refusals = {one["server"]: one["refusal"] for one in told.json["candidates"]}
        assert (told.json["server"], refusals["yes"]) == ("yes", None)
        assert refusals["no"].startswith("spiffe://default/node/a/uid/1001 may not call command:no on node a: no rule")
    file = nodes.folder / "rules.toml"
    file.write_text(allowed + rule("allow", "node/*/uid/1002", "call", SERVICE))
    for who, name, code in ((1002, "command:yes", 0), (1001, "command:maybe", 1)):
        done = ctl("rules", "check", str(file), "--as", f"uid:{who}", "--may", "call", name)
        assert (done.code, done.err) == (code, "")
        assert f"uid/{who} {'may not' if code else 'may'} call {name} on node" in done.out
