"""Listeners and their flags; and how the end of a process is found out."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ipcd_client.access.identity import BadIdentity
from ipcd_client.pb.ipcd.v1 import node_pb2, peer_pb2, signal_pb2
from ipcd_client.primitives import flags
from ipcd_client.primitives.errors import BadRequest, Lost, NoSuchName
from ipcd_client.primitives.flags import Inbox, Pending, Raised
from ipcd_client.rpc.failure import CallFailed

from ipcd import limits
from ipcd.primitives import exits
from ipcd.primitives.exits import Exit
from ipcd.primitives.signal import SignalServicer
from ipcd.state import quota
from ipcd.state.signal import Aim, Listener, Listeners

EVERYBODY = Aim()


def process(pid: int, node: str = "a") -> node_pb2.Process:
    return node_pb2.Process(node=node, pid=pid)


def flag(name: str, by: int = 1) -> signal_pb2.Flag:
    return signal_pb2.Flag(name=name, process=process(by))


def listen(listeners: Listeners, name: str, pid: int = 7, group: str = "", node: str = "a") -> Listener:
    return listeners.listen(name, group, process(pid, node), quota.local(0, pid))


def test_a_flag_is_raised_once_until_it_is_taken() -> None:
    listeners = Listeners()
    one, other, another = listen(listeners, "x"), listen(listeners, "x"), listen(listeners, "y")
    assert listeners.raise_flag(flag("x", 1), EVERYBODY) == (2, [one, other])
    assert listeners.take(one) == flag("x", 1)
    assert listeners.take(one) is None
    assert listeners.raise_flag(flag("x", 2), EVERYBODY) == (2, [one])
    # Who raised it last.
    assert listeners.take(other) == flag("x", 2)
    assert (one.raised, one.coalesced, other.raised, other.coalesced) == (2, 0, 2, 1)
    assert listeners.take(another) is None
    assert listeners.raise_flag(flag("z"), EVERYBODY) == (0, [])


def test_at_whom() -> None:
    listeners = Listeners()
    red = listen(listeners, "x", 1, "red")
    blue = listen(listeners, "x", 1, "blue", "b")
    none = listen(listeners, "x", 0)
    for aim, hit in (
        (Aim(pid=1, node="a"), [red]),
        (Aim(pid=1, node="b"), [blue]),
        (Aim(pid=2, node="b"), []),
        (Aim(group="red"), [red]),
        (Aim(pid=1, node="b", group="red"), []),
        (EVERYBODY, [red, blue, none]),
    ):
        assert listeners.raise_flag(flag("x"), aim).due == hit
        for each in hit:
            assert listeners.take(each) is not None


def test_who_has_left_is_not_told_and_makes_room() -> None:
    listeners = Listeners(3, {"process": 2})
    one, two = listen(listeners, "x"), listen(listeners, "y")
    with pytest.raises(limits.LimitReached, match="2 listeners for flags of one process"):
        listen(listeners, "z")
    listen(listeners, "z", 8)
    with pytest.raises(limits.LimitReached, match="the limit of 3 listeners for flags is reached"):
        listen(listeners, "z", 9)
    assert [each.name for each in listeners.all()] == ["x", "y", "z"]
    for _ in range(2):
        listeners.leave(one)
        assert len(listeners) == 2
    assert listeners.raise_flag(flag("x"), EVERYBODY) == (0, [])
    assert list(listeners.all("x")) == []
    assert list(listeners.all("y")) == [two]
    listen(listeners, "z")


def test_an_inbox() -> None:
    inbox = Inbox()
    first, second = (Pending(Raised("x", "a", pid, ""), f"listener {pid}") for pid in (1, 2))
    assert inbox.take() is None
    assert inbox.put(first)
    assert not inbox.put(second)
    assert (inbox.raised, inbox.settled) == (True, True)
    assert inbox.take() == second
    # What was taken for nobody nobody has to take at a daemon again; with a newer one it is one.
    inbox.put_back(first.flag)
    assert inbox.take() == Pending(first.flag, "")
    inbox.put(second)
    inbox.put_back(first.flag)
    assert inbox.take() == second
    inbox.broke()
    assert inbox.gaps == 1
    inbox.put(first)
    inbox.error = Lost("gone")
    assert inbox.take() == first
    with pytest.raises(Lost):
        inbox.take()


def test_what_ends_a_listener() -> None:
    import grpc

    assert not flags.lasting(CallFailed(grpc.StatusCode.UNAVAILABLE, ""))
    assert flags.lasting(CallFailed(grpc.StatusCode.RESOURCE_EXHAUSTED, ""))
    assert flags.lasting(NoSuchName(""))
    delays = flags.delays()
    assert [round(next(delays), 2) for _ in range(8)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


@pytest.mark.parametrize("text", ["", "x", "0", "01", "-1", "1@", str(1 << 31), "\u0663"])
def test_what_is_no_number_of_a_process(text: str) -> None:
    with pytest.raises(BadRequest):
        flags.number(text)


@pytest.mark.parametrize(
    ("exited", "words", "returncode"),
    [
        (signal_pb2.Exited(code=3), "process 7 on node a ended with exit code 3", 3),
        (signal_pb2.Exited(signal=9), "process 7 on node a was ended by SIGKILL", -9),
        (signal_pb2.Exited(signal=11, core_dumped=True), "was ended by SIGSEGV, core dumped", -11),
        (signal_pb2.Exited(signal=99), "was ended by signal 99", -99),
        (signal_pb2.Exited(), "process 7 on node a has ended; how is not known", None),
    ],
)
def test_an_end_in_words(exited: signal_pb2.Exited, words: str, returncode: int | None) -> None:
    exited.process.CopyFrom(process(7))
    ended = flags.exited(exited)
    assert str(ended).endswith(words)
    assert (ended.returncode, ended.ended) == (returncode, None)


# -- ends ---------------------------------------------------------------------------------------------


def watched(main: Callable[[subprocess.Popen[bytes], Exit], Awaitable[Any]], how: str = "sys.exit(3)") -> None:
    """Runs it with a child, which ends when its input does, and a watch of that."""
    code = f"import os, sys; sys.stdin.read(); {how}"

    async def run(child: subprocess.Popen[bytes]) -> None:
        exit_ = Exit(process(child.pid), lambda: 12.5)
        try:
            async with asyncio.timeout(20):
                await main(child, exit_)
        finally:
            exit_.close()

    with subprocess.Popen([sys.executable, "-S", "-E", "-c", code], stdin=subprocess.PIPE) as child:
        try:
            asyncio.run(run(child))
        finally:
            child.kill()


def ended_unreaped(child: subprocess.Popen[bytes]) -> int:
    """Its wait status, once it has ended."""
    end(child)
    ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    return flags.wait_status(ended.si_code, ended.si_status)


def end(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    child.stdin.close()


def test_where_the_kernel_says_nothing_nothing_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "unreaped", lambda _: None)
    monkeypatch.setattr(exits, "_GET_INFO", 0)

    async def main(child: subprocess.Popen[bytes], exit_: Exit) -> None:
        end(child)
        told = await exit_.ended()
        assert (told.ended, told.source) == (12.5, "")
        assert not told.HasField("code")
        assert not told.HasField("signal")
        assert flags.exited(told).returncode is None

    watched(main)


def test_a_parent_may_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "unreaped", lambda _: None)
    monkeypatch.setattr(exits, "_GET_INFO", 0)

    async def main(child: subprocess.Popen[bytes], exit_: Exit) -> None:
        status = ended_unreaped(child)
        assert exits.parent_of_unreaped(child.pid) == os.getpid()
        exit_.told(status)
        exit_.told(0)
        told = await exit_.ended()
        assert (told.signal, told.source) == (signal.SIGTERM, "parent")
        child.wait()
        assert exits.parent_of_unreaped(child.pid) == 0

    watched(main, "os.kill(os.getpid(), 15)")


def test_before_it_is_reaped() -> None:
    async def main(child: subprocess.Popen[bytes], exit_: Exit) -> None:
        assert exits.unreaped(child.pid) is None
        assert exits.parent_of_unreaped(child.pid) == 0
        end(child)
        told = await exit_.ended()
        assert (told.code, told.source) == (3, "kernel")
        again = Exit(process(child.pid))
        try:
            # When it ended was not seen.
            assert (await again.ended()).ended == 0
        finally:
            again.close()

    watched(main)


def test_after_it_is_reaped() -> None:
    async def main(child: subprocess.Popen[bytes], exit_: Exit) -> None:
        end(child)
        child.wait()
        told = await exit_.ended()
        if not told.source:
            pytest.skip("this kernel tells nobody but the parent once that has reaped; Linux 6.15 does")
        assert (told.code, told.source) == (3, "kernel")

    watched(main)


def test_a_number_that_is_another_process_by_now() -> None:
    async def main(child: subprocess.Popen[bytes], exit_: Exit) -> None:
        other = node_pb2.Process(node="a", pid=child.pid, pidfd_id=exit_.process.pidfd_id + 1)
        with pytest.raises(NoSuchName):
            Exit(other)
        Exit(exit_.process).close()

    watched(main)


def test_what_is_read_of_the_number_is_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the parent has reaped, another may have the number, and have ended, too."""
    monkeypatch.setattr(exits, "unreaped", lambda _: 0x700)
    monkeypatch.setattr(exits, "_GET_INFO", 0)
    monkeypatch.setattr("ipcd.primitives.signal.parent_of_unreaped", lambda _: os.getpid())

    async def main(child: subprocess.Popen[bytes], exit_: Exit) -> None:
        servicer: Any = object.__new__(SignalServicer)
        parent = node_pb2.Process(node="a", pid=os.getpid())
        servicer._keeper = SimpleNamespace(node="a", caller=lambda _: parent, called_for=lambda _: ())
        servicer._exits = {exit_}
        context = SimpleNamespace()

        async def told() -> int:
            request = signal_pb2.TellExitRequest(name=str(child.pid), wait_status=0x800)
            return int((await servicer.TellExit(request, context)).watches)

        ended_unreaped(child)
        numbers = [exit_.has_number]
        child.wait()
        assert [*numbers, exit_.has_number] == [True, False]
        assert await told() == 0
        assert (await exit_.ended()).source == ""

    watched(main)


def test_of_another_nodes_flag_only_what_is_needed_is_kept() -> None:
    keeper: Any = SimpleNamespace(
        node="a",
        broker=SimpleNamespace(access=SimpleNamespace(rules=SimpleNamespace(cluster="c"))),
        check_who=lambda *_: None,
    )
    servicer = SignalServicer(keeper)
    listener = listen(servicer._listeners, "x")
    servicer._news[listener] = asyncio.Event()
    identity = "spiffe://c/node/b/uid/7"
    there = process(9, "b")
    there.MergeFromString(b"\xfa\x07\x04more")  # a field that nobody knows here
    request = peer_pb2.PeerRaiseRequest(request={"name": "x"}, process=there, identity=identity)
    assert servicer._raised_there("b", request).listeners == 1
    assert listener.flag == signal_pb2.Flag(name="x", process=process(9, "b"), identity=identity)
    for wrong in (f"spiffe://c/node/b/{'x' * 4096}", "spiffe://c/node/b/uid/x"):
        for who in ({"identity": wrong}, {"identity": identity, "others": [wrong]}):
            with pytest.raises(BadIdentity):
                servicer._raised_there("b", peer_pb2.PeerRaiseRequest(request={"name": "x"}, process=there, **who))


def test_wait_statuses() -> None:
    assert flags.wait_status(os.CLD_EXITED, 3) == 0x300
    assert flags.wait_status(os.CLD_KILLED, 9) == 9
    assert flags.wait_status(os.CLD_DUMPED, 11) == 0x8B
