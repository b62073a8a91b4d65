"""Rules at work: real daemons, and processes of several users."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from google.protobuf.empty_pb2 import Empty
from integration.as_user import NOT_HERE
from integration.conftest import Tally
from integration.daemons import LONG, Client, Daemon, Daemons, attached, eventually, joined, run, until
from integration.gateway import address_of
from integration.ipcctl.runs import CTL, LAB, SERVER, Done, World, ctl
from ipcd_client.node import attach
from ipcd_client.pb.ipcd.v1 import node_pb2
from ipcd_client.rpc.failure import CallFailed

from ipcd.demo.pb.lab.v1 import lab_pb2, lab_pb2_grpc

AS_USER = str(Path(__file__).with_name("as_user.py"))
US = os.getuid()
STRANGER = 65534
ONLY_ROOT = pytest.mark.skipif(US != 0, reason="only root can be somebody else")


def rule(effect: str, who: str, may: str = "*", what: str = "*", name: str = "") -> str:
    named = f'name = "{name}"\n' if name else ""
    return f'[[rules]]\n{named}effect = "{effect}"\nwho = "{who}"\nmay = "{may}"\nwhat = "{what}"\n'


@pytest.fixture
def world(cluster: Daemons) -> Iterator[World]:
    """Servers of this test, ended after it."""
    made = World(cluster)
    try:
        yield made
    finally:
        made.end()


class Ruled:
    """A daemon and the file that has its rules."""

    def __init__(self, cluster: Daemons, node: str, *rules: str, arguments: tuple[str, ...] = ()) -> None:
        self._file = cluster.folder / f"{node}.toml"
        self._file.write_text("\n".join(rules))
        self._reloads = 0
        self.daemon = cluster.run(node, "--config", str(self._file), *arguments)

    def change(self, *rules: str) -> None:
        """Other rules, from now on."""
        self._file.write_text("\n".join(rules))
        self.daemon.process.send_signal(signal.SIGHUP)
        self._reloads += 1
        eventually(lambda: len(self.daemon.events("reloaded")) == self._reloads, "the file is read again")
        assert self.daemon.events("reloaded")[-1]["rules"] == len(rules)


async def refused(client: Client, service: str, *, wait: bool = False, **target: Any) -> str:
    """The text of the refusal of an introduction."""
    with pytest.raises(CallFailed) as caught:
        await client.open(service, wait=wait, **target)
    assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED
    return caught.value.details


async def known(client: Client, service: str, count: int = 1) -> None:
    async def look() -> bool:
        return len(await client.servers(service)) == count

    await until(look, f"{count} servers of {service} are known")


def test_registering(cluster: Daemons) -> None:
    node = Ruled(cluster, "a", rule("deny", f"node/a/uid/{US}", "register", "secret.*", "no secrets")).daemon

    async def main() -> None:
        async with attached(node) as client:
            for _ in range(3):
                with pytest.raises(CallFailed) as caught:
                    await client.register("x.X", "secret.X")
                assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED
                words = (
                    f"spiffe://default/node/a/uid/{US} may not register secret.X on node a: the rule no secrets denies"
                )
                assert words in caught.value.details
            assert await client.servers() == []
            server = await client.register("x.X")
            # Nor later.
            more = node_pb2.RegisterRequest(services=["x.X", "secret.X"])
            await server.stream.send(more.SerializeToString())
            with pytest.raises(CallFailed, match="the rule no secrets denies"):
                await server.stream.receive()
            assert await client.servers() == []
        assert [(line["verb"], line["rule"]) for line in node.events("refused")] == [("register", "no secrets")]

    run(main)


def test_a_server_that_is_not_let_in_is_told_so_at_once(cluster: Daemons) -> None:
    node = Ruled(cluster, "a", rule("deny", "**", "register", "lab.*")).daemon
    done = subprocess.run(
        [sys.executable, SERVER, node.socket, "lab"],
        capture_output=True,
        text=True,
        timeout=LONG,
        # Else it would be tried for that long.
        env=os.environ | {"IPCD_ATTACH_TIMEOUT": "1000"},
    )
    assert done.returncode == 1
    assert "may not register lab.v1.Lab on node a: rule 1 denies it" in done.stderr


def test_calling_on_this_node(cluster: Daemons) -> None:
    node = Ruled(cluster, "a", rule("deny", f"node/*/uid/{US}", "call", "secret.*")).daemon

    async def main() -> None:
        async with attached(node) as client:
            await client.register("secret.X")
            words = f"spiffe://default/node/a/uid/{US} may not call secret.X on node a: rule 1 denies it"
            for wait in (False, True):
                assert (await refused(client, "secret.X", wait=wait)).startswith(words)
            assert (await refused(client, "secret.X", transport=node_pb2.TRANSPORT_TCP)).startswith(words)
            request = node_pb2.ResolveRequest(service="secret.X")
            (candidate,) = (await client.call("Resolve", request, node_pb2.ResolveReply)).candidates
            assert candidate.refusal.startswith(words)
            assert not candidate.chosen
            assert not candidate.preferred
            # Whether there is a server is no secret: who waits for one waits, and others are told that there is none.
            with pytest.raises(CallFailed, match=r"no server for secret\.Y"):
                await client.open("secret.Y")
            request = node_pb2.ResolveRequest(service="secret.X", caller="nobody")
            with pytest.raises(CallFailed, match="'nobody' is no identity: one is spiffe://"):
                await client.call("Resolve", request, node_pb2.ResolveReply)
        assert len(node.events("refused")) == 1

    run(main)


def ok(_request: bytes, _context: Any) -> bytes:
    return b""


async def ok_later(_request: bytes, _context: Any) -> bytes:
    return b""


def handlers(behaviour: Any) -> list[grpc.GenericRpcHandler]:
    return [
        grpc.method_handlers_generic_handler(service, {"M": grpc.unary_unary_rpc_method_handler(behaviour)})
        for service in ("public.X", "secret.X")
    ]


def over_one_connection(node: Daemon, allowed: bool) -> None:
    """What comes of a call of another service than that for which the connection was asked for."""
    with ipcd_client.channel(node=node.socket) as channel:
        connection = channel.route("public.X").connection
        for service, well in (("public.X", True), ("secret.X", allowed), ("public.X", True)):
            with contextlib.nullcontext() if well else pytest.raises(CallFailed) as caught:
                attach.call(connection, f"/{service}/M", Empty(), Empty, time.monotonic() + LONG)
            if caught is not None:
                assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED
                words = "may not call secret.X here: the server's node lets it call public.X"
                assert words in caught.value.details


@pytest.mark.parametrize("allowed", [True, False])
def test_a_connection_is_good_for_what_the_caller_may_call(cluster: Daemons, allowed: bool) -> None:
    """A program that means harm need not ask the node again."""
    node = Ruled(cluster, "a", *([] if allowed else [rule("deny", f"node/*/uid/{US}", "call", "secret.*")])).daemon
    server = ipcd_client.server(node=node.socket, handlers=handlers(ok))
    server.start()
    try:
        over_one_connection(node, allowed)
    finally:
        server.stop(None)

    async def main() -> None:
        server = ipcd_client.aio.server(node=node.socket, handlers=handlers(ok_later))
        await server.start()
        await asyncio.to_thread(over_one_connection, node, allowed)
        await server.stop(None)

    run(main)


def test_each_node_judges_for_its_own_servers(cluster: Daemons) -> None:
    a = Ruled(cluster, "a", rule("deny", "**", "call", "x.*"))
    b = Ruled(
        cluster, "b", rule("deny", "node/a/**", "call", "x.*", "not from a"), arguments=("--peer", a.daemon.listen)
    )
    c = Ruled(cluster, "c", arguments=("--peer", a.daemon.listen))

    async def main() -> None:
        async with attached(a.daemon) as caller, attached(b.daemon) as on_b, attached(c.daemon) as on_c:
            await on_b.register("x.X")
            await known(caller, "x.X")
            words = (
                f"node b: spiffe://default/node/a/uid/{US} may not call x.X on node b: the rule not from a denies it"
            )
            for wait in (False, True):
                assert (await refused(caller, "x.X", wait=wait)).startswith(words)
            assert b.daemon.logged("refused")["identity"] == f"spiffe://default/node/a/uid/{US}"
            assert a.daemon.events("refused") == []
            # What a denies is about its own servers, and does not count elsewhere.
            server = await on_c.register("x.X")
            await known(caller, "x.X", 2)
            own = await caller.register("x.X")
            for _ in range(4):
                answer, ours = await caller.open("x.X")
                _, theirs = await server.granted()
                with ours, theirs:
                    assert answer.choice.server == server.server
                    assert await joined(ours, theirs)
            assert (await refused(caller, "x.X", node="a")).startswith("spiffe://")
            assert own.server.process.node == "a"

    run(main)


def test_a_reload_is_for_what_is_asked_from_then_on(cluster: Daemons) -> None:
    node = Ruled(cluster, "a")

    async def main() -> None:
        async with attached(node.daemon) as client:
            server = await client.register("x.X")
            _, ours = await client.open("x.X")
            _, theirs = await server.granted()
            with ours, theirs:
                await asyncio.to_thread(node.change, rule("deny", "**", "call", "x.X", "closed"))
                assert "the rule closed denies it" in await refused(client, "x.X")
                assert await joined(ours, theirs)
            # The daemon's own user may be kept out, too; whoever is in stays.
            await asyncio.to_thread(node.change, rule("deny", "**"))
            with pytest.raises(Exception, match="may not attach to node a: rule 1 denies spiffe://"):
                async with attached(node.daemon):
                    pass
            assert len(await client.servers("x.X")) == 1
            await asyncio.to_thread(node.change)
            _, ours = await client.open("x.X")
            ours.close()

    run(main)


def test_a_channel_after_a_reload(cluster: Daemons, world: World) -> None:
    node = Ruled(cluster, "a")
    world.serve(node.daemon)
    request = lab_pb2.DigestRequest(data=b"x")

    async def aio() -> None:
        async with ipcd_client.aio.channel(node=node.daemon.socket) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await lab_pb2_grpc.LabStub(channel).Digest(request, timeout=LONG, wait_for_ready=True)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

    with ipcd_client.channel(node=node.daemon.socket) as old, ipcd_client.channel(node=node.daemon.socket) as new:
        lab_pb2_grpc.LabStub(old).Digest(request, timeout=LONG)
        node.change(rule("deny", "**", "call", "lab.*"))
        lab_pb2_grpc.LabStub(old).Digest(request, timeout=LONG)
        with pytest.raises(grpc.RpcError) as caught:
            lab_pb2_grpc.LabStub(new).Digest(request, timeout=LONG, wait_for_ready=True)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "rule 1 denies it" in (caught.value.details() or "")
        asyncio.run(aio())
        node.change()
        lab_pb2_grpc.LabStub(new).Digest(request, timeout=LONG)


def test_the_gateway_is_judged_for_whom_it_calls(cluster: Daemons, world: World) -> None:
    path = f"{cluster.folder}/grpc.sock"
    far = cluster.run("b")
    node = Ruled(
        cluster,
        "a",
        rule("deny", "node/a/grpc", "call", "lab.*", "not from there"),
        arguments=("--grpc-listen", "127.0.0.1:0", "--grpc-socket", path, "--peer", far.listen),
    )
    request = lab_pb2.DigestRequest(data=b"x")

    def denied(stub: lab_pb2_grpc.LabStub, words: str) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            stub.Digest(request, timeout=LONG)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert words in (caught.value.details() or "")

    options = [("grpc.use_local_subchannel_pool", 1)]
    with (
        grpc.insecure_channel(f"unix:{path}", options) as over_unix,
        grpc.insecure_channel(address_of(node.daemon), options) as over_tcp,
    ):
        unix, tcp = lab_pb2_grpc.LabStub(over_unix), lab_pb2_grpc.LabStub(over_tcp)
        # On another node first, which knows nothing of who it is for whom the gateway calls.
        for number, host in enumerate((far, node.daemon)):
            server = world.serve(host)
            eventually(lambda: LAB in ctl("ls", LAB, node=node.daemon).out, "the gateway's node knows it")
            unix.Digest(request, timeout=LONG)
            denied(
                tcp, "spiffe://default/node/a/grpc may not call lab.v1.Lab on node a: the rule not from there denies it"
            )
            if not number:
                server.kill()
                eventually(
                    lambda: LAB not in ctl("ls", node=node.daemon).out, "the gateway's node knows that it is gone"
                )
        assert len(node.daemon.events("refused")) == 1
        node.change(rule("deny", f"node/a/uid/{US}", "call"))
        tcp.Digest(request, timeout=LONG)
        denied(unix, "rule 1 denies it")


def as_user(*arguments: str) -> Done:
    """Runs a program as the stranger, to its end."""
    done = subprocess.run(
        [sys.executable, AS_USER, str(STRANGER), *arguments], capture_output=True, text=True, timeout=LONG
    )
    if done.returncode == NOT_HERE:
        pytest.skip("the tests are where others may not go")
    return Done(done.returncode, done.stdout, done.stderr)


def open_folders(daemon: Daemon, folder: Path) -> None:
    """As an operator does who wants other users to get to the socket."""
    folder.chmod(0o755)
    Path(daemon.socket).parent.chmod(0o755)


@contextlib.contextmanager
def unobstructed(folder: Path) -> Iterator[None]:
    """The folders above those of a test are closed to others."""
    closed = [one for one in folder.parents if not one.stat().st_mode & 0o001]
    before = [one.stat().st_mode for one in closed]
    for one in closed:
        one.chmod(0o711)
    try:
        yield
    finally:
        for one, mode in zip(closed, before, strict=True):
            one.chmod(mode)


def mode_of(daemon: Daemon) -> int:
    return stat.S_IMODE(Path(daemon.socket).stat().st_mode)


@ONLY_ROOT
def test_another_user_calls_and_serves(cluster: Daemons, world: World) -> None:
    with unobstructed(cluster.folder):
        node = Ruled(
            cluster,
            "a",
            rule("allow", f"node/a/uid/{STRANGER}", "call", "lab.*", "guests"),
        )
        assert mode_of(node.daemon) == 0o666
        # The folder was made by the daemon, for itself.
        warning = node.daemon.logged("rules let other users in, who cannot get here")
        assert warning["reason"] == f"the directory {cluster.folder} has the mode 0700; chmod o+x lets them through"
        open_folders(node.daemon, cluster.folder)
        world.serve(node.daemon)

        told = as_user("-m", "ipcd_client.cli", "-s", node.daemon.socket, "-o", "json", "explain", LAB)
        assert (told.code, told.err) == (0, "")
        assert told.json["transport"] == "unix"
        assert "the caller's uid is 65534" in told.json["reason"]
        called = as_user("-m", "ipcd_client.cli", "-s", node.daemon.socket, "call", f"{LAB}/Digest", '{"data": "eA=="}')
        assert (called.code, called.err) == (0, "")
        healthy = as_user("-m", "ipcd_client.cli", "-s", node.daemon.socket, "-o", "json", "doctor")
        assert {one["check"]: one["status"] for one in healthy.json}["socket"] == "ok"

        # To serve is another thing.
        served = as_user(SERVER, node.daemon.socket, "lab")
        assert served.code == 1
        assert f"spiffe://default/node/a/uid/{STRANGER} may not register lab.v1.Lab on node a: no rule" in served.err
        assert node.daemon.logged("refused")["rule"] == "none"

        node.change(rule("allow", f"node/a/uid/{STRANGER}", "register", "lab.*"))
        process = world.spawn(node.daemon, sys.executable, AS_USER, str(STRANGER), SERVER, node.daemon.socket, "guest")
        done = ctl("call", f"{LAB}/Digest", '{"data": "eA=="}', "--server", "guest", node=node.daemon)
        assert (done.code, done.err) == (0, "")

        # The door closes behind whoever is in.
        node.change()
        assert mode_of(node.daemon) == 0o600
        done = ctl("call", f"{LAB}/Digest", '{"data": "eA=="}', "--server", "guest", node=node.daemon)
        assert (done.code, done.err) == (0, "")
        assert process.poll() is None
        shut = as_user("-m", "ipcd_client.cli", "-s", node.daemon.socket, "ls")
        assert shut.code == 4
        assert f"PERMISSION_DENIED: uid {STRANGER} may not open {node.daemon.socket}" in shut.err


@ONLY_ROOT
def test_who_gets_to_the_socket_still_has_to_be_let_in(cluster: Daemons, tally: Tally) -> None:
    with unobstructed(cluster.folder):
        node = Ruled(cluster, "a", rule("allow", "node/a/uid/1234"))
        open_folders(node.daemon, cluster.folder)
        assert mode_of(node.daemon) == 0o666
        shut = as_user("-m", "ipcd_client.cli", "-s", node.daemon.socket, "ls")
        assert shut.code == 4
        assert f"no rule allows spiffe://default/node/a/uid/{STRANGER} anything" in shut.err
        ill = as_user("-m", "ipcd_client.cli", "-s", node.daemon.socket, "-o", "json", "doctor")
        found = [(one["status"], one["text"]) for one in ill.json if one["check"] == "socket"]
        assert found[-1][0] == "fail"
        assert "may not attach to node a" in found[-1][1]
        refused = [line for line in node.daemon.events("attach refused") if line["uid"] == STRANGER]
        tally("a process of another user", len(refused), 0, len(refused))


def test_explain_as_somebody_else(cluster: Daemons, world: World) -> None:
    node = Ruled(
        cluster, "a", rule("allow", "node/*/uid/1001", "call", "lab.*"), rule("deny", "node/b/**", "call", "*", "not b")
    )
    server = world.serve(node.daemon)
    allowed = ctl("explain", LAB, "--as", "uid:1001", "-o", "json", node=node.daemon)
    assert (allowed.code, allowed.err) == (0, "")
    told = allowed.json
    assert told["asked"]["as"] == "spiffe://default/node/a/uid/1001"
    assert (told["pid"], told["transport"], told["open_us"]) == (server.pid, "unix", None)
    assert told["candidates"][0]["refusal"] is None
    assert (
        "  called by  spiffe://default/node/a/uid/1001\n"
        in ctl("explain", LAB, "--as", "uid:1001", node=node.daemon).out
    )

    identity = "spiffe://default/node/b/uid/1001"
    words = f"{identity} may not call {LAB} on node a: the rule not b denies it"
    denied = ctl("explain", LAB, "--as", identity, "-o", "json", node=node.daemon)
    assert denied.code == 1
    assert denied.json["candidates"][0]["refusal"].startswith(words)
    assert denied.json["candidates"][0]["transport"] == "tcp"
    assert denied.error["code"] == "PERMISSION_DENIED"
    denied = ctl("explain", LAB, "--as", identity, node=node.daemon)
    assert words in denied.out
    assert words in denied.err
    assert ctl("explain", LAB, "--as", "nobody", node=node.daemon).code == 2
    # A question is no call.
    assert node.daemon.events("refused") == []
    assert ctl("explain", LAB, "--as", identity, "--node", "z", node=node.daemon).code == 1


def test_a_file_is_checked_without_a_daemon(tmp_path: Path) -> None:
    file = tmp_path / "ipcd.toml"
    file.write_text(
        'node = "a"\ncluster = "prod"\n'
        + rule("allow", "node/*/uid/1001", "call", "lab.*", "guests")
        + rule("deny", "node/b/**", "*", "*")
    )
    listed = ctl("rules", "check", str(file), "--uid", "1000")
    assert (listed.code, listed.err) == (0, "")
    lines = [line.split(maxsplit=1) for line in listed.out.splitlines()]
    assert [line[0] for line in lines] == ["RULE", "guests", "rule", "same-uid", "grpc-listen"]
    assert "node/*/uid/0, node/*/uid/1000" in lines[3][1]
    assert len({line.index("node/") for line in listed.out.splitlines()[1:]}) == 1
    shown = ctl("rules", "check", str(file), "-o", "json").json
    assert [(one["rule"], one["effect"], one["built_in"]) for one in shown] == [
        ("guests", "allow", False),
        ("rule 2", "deny", False),
        ("same-uid", "allow", True),
        ("grpc-listen", "allow", True),
    ]
    assert shown[1]["may"] == ["register", "call", "publish", "read"]

    for identity, verb, code, said in (
        (
            "uid:1001",
            "call",
            0,
            "yes: spiffe://prod/node/a/uid/1001 may call lab.Lab on node a: the rule guests allows it",
        ),
        ("uid:1001", "register", 1, "no: spiffe://prod/node/a/uid/1001 may not register lab.Lab on node a: no rule"),
        ("spiffe://prod/node/b/uid/1001", "call", 1, "on node a: rule 2 denies it"),
        ("spiffe://prod/node/a/grpc", "call", 0, "the rule grpc-listen allows it"),
    ):
        arguments = ("rules", "check", str(file), "--as", identity, "--may", verb, "lab.Lab")
        done = ctl(*arguments)
        assert done.code == code
        assert said in done.out
        answer = ctl(*arguments, "-o", "json").json
        assert answer["allowed"] is (code == 0)
        assert answer["reason"] in done.out
    assert ctl("rules", "check", str(file), "--uid", "7", "--as", "uid:7", "--may", "call", "x").code == 0


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("", ["--as", "uid:1"], "belong together"),
        ("", ["--as", "me", "--may", "call", "x.X"], "'me' is no identity"),
        ("rules = 1", [], "rules in FILE: it is not a list of tables"),
        ("node = 1", [], "node in FILE: 1 is not a text"),
        ("[[rules", [], "FILE: "),
        (rule("allow", "uid:1"), [], "rules in FILE, rule 1, who: 'uid:1': an identity's path begins with node/"),
        (None, [], "FILE: No such file"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, text: str | None, arguments: list[str], words: str) -> None:
    file = tmp_path / "ipcd.toml"
    if text is not None:
        file.write_text(text)
    done = ctl("rules", "check", str(file), *arguments, "-o", "json")
    assert done.code == 2
    assert words.replace("FILE", str(file)) in done.error["error"]


def test_the_module_that_runs_as_others_is_the_command() -> None:
    assert CTL[1:] == ["-m", "ipcd_client.cli"]
