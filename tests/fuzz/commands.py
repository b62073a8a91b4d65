"""Commands: what who offers one takes of its callers, and what a caller takes of the offerer."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any, Final
from unittest import mock

from fuzz.protos import messages
from fuzz.registry import target
from fuzz.script import Script, blocks
from fuzz.things import CANCEL, END, TIME, Things, World, drive, methods
from fuzz.wires import no_leak
from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from ipcd_client.pb.ipcd.v1 import command_pb2
from ipcd_client.primitives import command_state
from ipcd_client.primitives.command_server import Servicer
from ipcd_client.primitives.command_state import STDERR, STDOUT, Called, started_by
from ipcd_client.primitives.errors import Lost
from ipcd_client.primitives.offer import Offer

# Instead of what fits into no input.
_WINDOW: Final = 64
_PIECE: Final = 16

# -- commands, where they are offered -----------------------------------------------------------------


class _Program:
    """One that does what the input says. (wardens.Program)"""

    pid = 7

    def __init__(self, fds: tuple[int, int, int]) -> None:
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.fds = {name: os.dup(fd) for name, fd in zip(("stdin", "stdout", "stderr"), fds, strict=True)}
        for fd in self.fds.values():
            os.set_blocking(fd, False)

    async def signal(self, number: int) -> None:
        assert 0 < number < 65
        if number == 9:
            self.end(-9)

    async def forget(self) -> None:
        self.close(*self.fds)

    def end(self, code: int) -> None:
        if not self.ended.done():
            self.ended.set_result(code)

    def close(self, *names: str) -> None:
        for name in names:
            if name in self.fds:
                os.close(self.fds.pop(name))


class _Warden:
    """(wardens.Warden)"""

    def __init__(self) -> None:
        self.programs: list[_Program] = []

    async def run(self, _argv: object, _env: object, _cwd: object, fds: tuple[int, int, int]) -> _Program:
        self.programs.append(_Program(fds))
        return self.programs[-1]

    async def close(self) -> None:
        pass


class _Offerer(Servicer):
    """With programs of the input's."""

    def __init__(self) -> None:
        super().__init__(Offer("a", ("p",), args=("a*",), env=("E=b*",), detach=True, most=2, waiting=2, grace=0.5))
        self.programs = _Warden()
        self.warden = self.programs  # type: ignore[assignment]

    async def start(self) -> None:
        pass


def _acts(world: World, told: command_pb2.RunReply) -> None:
    """The last program writes, closes something, reads its input, or ends."""
    offerer: _Offerer = world.servicer
    programs = [program for program in offerer.programs.programs if program.fds]
    if not programs:
        return
    program, what = programs[-1], told.WhichOneof("what") or ""
    with contextlib.suppress(BlockingIOError, BrokenPipeError):
        if what in {"stdin_closed", "stdout_end", "stderr_end"}:
            program.close(what.partition("_")[0])
        elif what == "exit":
            program.end(-told.exit.signal if told.exit.WhichOneof("how") == "signal" else told.exit.code)
        elif what == "started" and "stdin" in program.fds:
            os.read(program.fds["stdin"], 1 << 16)
        elif what in program.fds:
            os.write(program.fds[what], getattr(told, what))


def _check_offer(world: World) -> None:
    offerer: _Offerer = world.servicer
    assert 0 <= offerer.places.running <= 2
    assert offerer.places.waiting <= 2
    for run in offerer._runs:
        assert run._input_size <= _WINDOW + _PIECE or run._program is None or run not in offerer._runs
        assert sum(map(len, run._input)) <= run._input_size


_OFFER: Final = Things(
    lambda _world: _Offerer(),
    methods(command_pb2, "Command"),
    _check_offer,
    more=((command_pb2.RunReply, _acts),),
)


def _start(**more: Any) -> command_pb2.RunRequest:
    return command_pb2.RunRequest(name="a", start=command_pb2.RunStart(**more))


_OFFER_STEPS: Final = (
    _OFFER.call("Run", _start()),
    _OFFER.call("Run", _start(stdout_credit=4, stderr_credit=4, args=["ab"], env={"E": "b"})),
    _OFFER.call("Run", _start(no_stdin=True, detach=True, wait=0.5)),
    _OFFER.say(command_pb2.RunRequest(stdin=b"x" * 20, stdout_credit=3)),
    _OFFER.say(command_pb2.RunRequest(stdin_end=True, signal=15)),
    _OFFER.say(command_pb2.RunRequest(stdout_close=True, stderr_close=True)),
    _OFFER.step(5, command_pb2.RunReply(stdout=b"y" * 9).SerializeToString()),
    _OFFER.step(5, command_pb2.RunReply(stderr=b"z").SerializeToString()),
    _OFFER.step(5, command_pb2.RunReply(stdin_closed=True).SerializeToString()),
    _OFFER.step(5, command_pb2.RunReply(stdout_end=True).SerializeToString()),
    _OFFER.step(5, command_pb2.RunReply(started=command_pb2.RunStarted()).SerializeToString()),
    _OFFER.step(5, command_pb2.RunReply(exit=command_pb2.RunExit(code=3)).SerializeToString()),
    _OFFER.call("Describe", command_pb2.DescribeCommandRequest(name="a")),
    _OFFER.step(END),
    _OFFER.step(CANCEL),
    _OFFER.step(TIME, b"\x09"),
)


@target(
    "offer", _OFFER.steps(_OFFER_STEPS, ("a", "a", "ab", "E", "b", "", "-a", "a\0")), words=_OFFER_STEPS, largest=1024
)
def _offer(data: bytes) -> object:
    """Who offers a command, and its callers."""
    with no_leak(), mock.patch("ipcd_client.primitives.command_run.WINDOW", _WINDOW):
        return drive(_OFFER, data)


# -- commands, where they are called ------------------------------------------------------------------


@target(
    "command",
    st.lists(
        st.one_of(
            messages(command_pb2.RunReply).map(lambda reply: b"\0" + blocks(reply.SerializeToString())),
            st.builds(
                lambda kind, size: bytes((kind,)) + blocks(bytes((size,))), st.integers(1, 5), st.integers(0, 80)
            ),
        ),
        max_size=12,
    ).map(b"".join),
    words=(
        b"\0" + blocks(command_pb2.RunReply(started={"stdin_credit": _WINDOW}).SerializeToString()),
        b"\0" + blocks(command_pb2.RunReply(stdin_credit=9).SerializeToString()),
        b"\0" + blocks(command_pb2.RunReply(stdin_credit=1 << 40).SerializeToString()),
        b"\0" + blocks(command_pb2.RunReply(stdout=b"x" * 30).SerializeToString()),
        b"\0" + blocks(command_pb2.RunReply(stderr=b"x" * 9).SerializeToString()),
        b"\0" + blocks(command_pb2.RunReply(exit={"signal": 9}).SerializeToString()),
        *(bytes((kind,)) + blocks(b"\x10") for kind in range(1, 6)),
    ),
)
def _command(data: bytes) -> object:
    """A run as its caller has it, whose offerer answers what it likes."""
    script = Script(data)
    said: list[object] = []
    with mock.patch.multiple(command_state, WINDOW=_WINDOW, CHUNK=_PIECE):
        called = Called(started_by("a", (), None, detach=False, wait=None, stdin=True, stdout=0, stderr=0))
        while script:
            kind, block = script.number() % 6, script.block()
            size = block[0] if block else 0
            try:
                if kind == 0:
                    called.replied(command_pb2.RunReply.FromString(block))
                elif kind == 1:
                    said.append("wrote" if called.write(memoryview(bytes(size))) else "-")
                elif kind == 2:
                    said.append("out" if called.outputs[STDOUT].take(1 + size) else "-")
                elif kind == 3:
                    said.append("err" if called.outputs[STDERR].take(1 + size) else "-")
                elif kind == 4:
                    request = called.outgoing()
                    said.append([field.name for field, _ in request.ListFields()] if request is not None else "-")
                elif size & 1:
                    called.close_output(STDOUT + (size >> 1) % 2)
                else:
                    called.end_stdin()
            except DecodeError:
                said.append("does not parse")
            except BrokenPipeError:
                said.append("broken")
            except Lost as error:
                said.append(str(error))
                break  # the call is given up
            _check_called(called)
    return said


def _check_called(called: Called) -> None:
    assert sum(map(len, called._stdin)) <= _WINDOW, "standard input waits without a bound"
    for output in called.outputs.values():
        assert output.size == sum(map(len, output._chunks)) <= _WINDOW
        assert 0 <= output._granted <= _WINDOW
        assert output.size + output._owed + output._granted <= _WINDOW or output.closed
