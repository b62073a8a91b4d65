"""Commands, when one of those who take part goes away; and who may take part."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import PIPE
from typing import Any

import grpc
import ipcd_client
import ipcd_client.aio
import pytest
from integration.daemons import LONG, Daemons, eventually
from integration.gateway import address_of
from integration.ipcctl.runs import CTL, ctl
from ipcd_client.errors import IpcdError
from ipcd_client.primitives import command_server
from ipcd_client.primitives.errors import Full, Lost
from ipcd_client.rpc.failure import CallFailed
from primitives.command_faces import alive, gone, seen_from
from primitives.roads import Cluster, Road

OFFERING = str(Path(__file__).with_name("offering.py"))
# Prints its own number and that of what it has started, and lasts.
FAMILY = ("sh", "-c", "sleep 60 & echo $$ $!; wait")

DIRECT = pytest.mark.parametrize("road", ["here", "there"], indirect=True)


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another program, and its first line."""
    with subprocess.Popen([sys.executable, OFFERING, *arguments], stdout=PIPE, stdin=PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield child, child.stdout.readline()
        finally:
            child.kill()


def family(run: Any) -> list[int]:
    return [int(number) for number in run.stdout.readline().split()]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def offered(stack: ExitStack, road: Road, name: str, *program: str, **keywords: Any) -> str:
    """Offers it in this process."""
    text = road.name(name)
    short = text.partition("@")[0]
    server = ipcd_client.command(short, node=road.home.socket).serve(program, **{"grace": 0.3, **keywords})
    stack.callback(server.stop)
    seen_from(road.front, text)
    return text


# A process has its channel to a node's daemon: for the gateway's see the next test.
@DIRECT
@pytest.mark.parametrize("verb", ["run", "detach"])
def test_the_caller_is_killed(road: Road, stack: ExitStack, verb: str) -> None:
    name = offered(stack, road, "cat", "sleep", "60", detach=True)
    with process(verb, road.front.socket, name) as (caller, said):
        pid = int(said)
        assert alive(pid)
        caller.kill()
    if verb == "run":
        gone(pid)
        return
    with ipcd_client.command(name, **road.keywords) as command:
        assert command.describe().running == 1
        assert alive(pid)
        # It ends with its offerer.
    stack.close()
    gone(pid)


@DIRECT
def test_what_outlives_its_caller_keeps_its_place_and_its_time(road: Road, stack: ExitStack) -> None:
    name = offered(stack, road, "cat", "sleep", "60", detach=True, most=1, seconds=3)
    with process("detach", road.front.socket, name) as (caller, said):
        pid = int(said)
        caller.kill()
        caller.wait(LONG)
    with ipcd_client.command(name, **road.keywords) as command:
        with pytest.raises(Full, match="1 run already, of at most 1"):
            command.popen()
        assert alive(pid)
        gone(pid)
        eventually(lambda: not command.describe().running, "its place is free")
        command.popen(stdout=PIPE).close()


@DIRECT
def test_what_a_killed_caller_has_started_ends_with_all_its_family(
    road: Road, stack: ExitStack, tmp_path: Path
) -> None:
    out = tmp_path / "pids"
    name = offered(stack, road, "family", "sh", "-c", f"sleep 60 & echo $$ $! > {out}.new; mv {out}.new {out}; wait")
    with process("run", road.front.socket, name) as (caller, _):
        eventually(out.exists, "it has said who it is")
        pids = [int(number) for number in out.read_text().split()]
        assert all(alive(pid) for pid in pids)
        caller.kill()
    for pid in pids:
        gone(pid)


def test_a_program_ignores_nothing_that_its_offerer_does(cluster: Cluster) -> None:
    """As nohup has it."""
    node = cluster.front
    arguments = [sys.executable, OFFERING, "serve", node.socket, "ignores", "grep", "SigIgn", "/proc/self/status"]
    with subprocess.Popen(["sh", "-c", 'trap "" HUP INT USR1; exec "$@"', "sh", *arguments], stdout=PIPE) as offerer:
        try:
            assert offerer.stdout is not None
            offerer.stdout.readline()
            seen_from(node, "ignores")
            with ipcd_client.command("ignores", node=node.socket) as command:
                ignored = int(command.run().stdout.split()[1], 16)
            # Beside those that the C library keeps for itself, and lets nobody change.
            assert not ignored & ~(0b11 << 31)
        finally:
            offerer.kill()


def test_the_channel_of_a_caller_of_the_gateway_is_closed(cluster: Cluster, stack: ExitStack) -> None:
    road = Road("gateway", cluster, "closing")
    stack.callback(road.close)
    name = offered(stack, road, "family", *FAMILY)
    with grpc.insecure_channel(address_of(road.front)) as channel:
        run = ipcd_client.command(name, channel=channel).popen(stdout=PIPE)
        pids = family(run)
    for pid in pids:
        gone(pid)
    run.close()


@DIRECT
def test_a_caller_that_goes_away_takes_no_turn(road: Road, stack: ExitStack) -> None:
    name = offered(stack, road, "one", "cat", most=1)
    with ipcd_client.command(name, **road.keywords) as command:
        first = command.popen(stdin=PIPE)
        arguments = [*CTL, "-s", road.front.socket, "command", "run", "--wait", "60", name]
        waiting = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
        try:
            eventually(lambda: command.describe().waiting == 1, "it waits")
        finally:
            waiting.kill()
            waiting.wait(LONG)
        eventually(lambda: command.describe().waiting == 0, "it waits no more")
        first.communicate()
        first.close()
        eventually(lambda: not command.describe().running, "nothing runs")
        assert command.describe().started == 1


def test_the_offerer_is_killed(road: Road) -> None:
    name = road.name("family")
    with process("serve", road.home.socket, name.partition("@")[0], *FAMILY) as (offerer, _):
        seen_from(road.front, name)
        with ipcd_client.command(name, **road.keywords) as command:
            run = command.popen(stdout=PIPE)
            pids = family(run)
            assert all(alive(pid) for pid in pids)
            offerer.kill()
            with pytest.raises(IpcdError) as caught:
                run.wait(LONG)
            assert isinstance(caught.value, CallFailed)
            assert caught.value.code is grpc.StatusCode.UNAVAILABLE
            for pid in pids:
                gone(pid)
            run.close()


def test_what_starts_the_programs_is_killed(road: Road, stack: ExitStack) -> None:
    name = offered(stack, road, "family", *FAMILY)
    with ipcd_client.command(name, **road.keywords) as command:
        run = command.popen(stdout=PIPE)
        pids = family(run)
        warden = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(warden, signal.SIGKILL)
        with pytest.raises(Lost):
            run.wait(LONG)
        for pid in pids:
            gone(pid)
        run.close()
        # There is another one then.
        with command.popen(stdout=PIPE) as again:
            pids = family(again)
            again.kill()
        for pid in pids:
            gone(pid)


def test_the_offerer_stops(road: Road, stack: ExitStack) -> None:
    name = offered(stack, road, "family", *FAMILY)
    with ipcd_client.command(name, **road.keywords) as command:
        run = command.popen(stdout=PIPE)
        pids = family(run)
        stack.close()
        with pytest.raises(IpcdError):
            run.wait(LONG)
        for pid in pids:
            gone(pid)
        run.close()


def test_the_offerer_stops_while_what_starts_the_programs_does_not_run(
    road: Road, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_server, "_ANSWER", 0.1)
    name = offered(stack, road, "family", *FAMILY)
    with ipcd_client.command(name, **road.keywords) as command:
        run = command.popen(stdout=PIPE)
        pids = family(run)
        warden = os.pidfd_open(int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1]))
        signal.pidfd_send_signal(warden, signal.SIGSTOP)
        try:
            stack.close()
        finally:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(warden, signal.SIGCONT)
            os.close(warden)
        with pytest.raises(IpcdError):
            run.wait(LONG)
        for pid in pids:
            gone(pid)
        run.close()


def test_the_daemon_is_started_again(nodes: Daemons) -> None:
    node = nodes.run("a")
    with (
        ipcd_client.command("cat", node=node.socket).serve(["cat"]),
        ipcd_client.command("cat", node=node.socket) as command,
        command.popen(stdin=PIPE, stdout=PIPE) as run,
    ):
        assert run.stdin is not None
        assert run.stdout is not None
        node.kill()
        run.stdin.write(b"still\n")
        run.stdin.flush()
        assert run.stdout.readline() == b"still\n"
        node = nodes.run("a")
        seen_from(node, "cat")
        assert command.run(input=b"again").stdout == b"again"


def test_the_daemon_of_the_gateway_is_killed(nodes: Daemons) -> None:
    back = nodes.run("b")
    front = nodes.run("a", "--grpc-listen", "127.0.0.1:0", "--peer", back.listen)
    with ipcd_client.command("family", node=back.socket).serve(FAMILY, grace=0.2):
        seen_from(front, "family")
        with grpc.insecure_channel(address_of(front)) as channel:
            run = ipcd_client.command("family", channel=channel).popen(stdout=PIPE)
            pids = family(run)
            front.kill()
            with pytest.raises(CallFailed):
                run.wait(LONG)
            for pid in pids:
                gone(pid)
            run.close()


def test_names_offered_on_both_sides_of_a_partition(nodes: Daemons) -> None:
    b = nodes.run("b")
    a = nodes.run("a")
    with (
        ipcd_client.command("who", node=a.socket).serve(["echo", "a"]),
        ipcd_client.command("who", node=b.socket).serve(["echo", "b"]),
    ):
        rows = ctl("command", "ls", "who", "-o", "json", node=a).json
        assert [row["node"] for row in rows] == ["a"]
        a.stop()
        a = nodes.run("a", "--peer", b.listen)
        a.logged("node linked", "b")
        seen_from(a, "who@a")
        seen_from(a, "who@b")
        rows = ctl("command", "ls", "who", "-o", "json", node=a).json
        assert [row["node"] for row in rows] == ["a", "b"]
        for name, answer in (("who@a", b"a\n"), ("who@b", b"b\n"), ("who", b"a\n")):
            with ipcd_client.command(name, node=a.socket) as command:
                assert command.run().stdout == answer
