"""The process that starts programs for this one, from an event loop: see warden.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ipcd_client.primitives import warden
from ipcd_client.primitives.command_pipes import settled
from ipcd_client.primitives.errors import CannotStart, Lost

_SCRIPT: Final = str(Path(warden.__file__))
# Seconds for that process to end: somebody may have stopped it.
_PATIENCE: Final = 2.0


class Program:
    """One that runs. `ended` has its exit code, or the negative of the signal that killed it."""

    def __init__(self, warden: Warden, number: int, pid: int) -> None:
        self._warden = warden
        self._number = number
        self.pid = pid
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def signal(self, number: int) -> None:
        """To its process group. It was sent when this returns: what comes afterwards meets it."""
        await self._warden.signal(self._number, number)

    async def forget(self) -> None:
        """Kills what it has started and left behind. Once it has ended."""
        await self._warden.forget(self._number)


class Warden:
    """`start`, then `close`."""

    def __init__(self) -> None:
        self._sock: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = asyncio.Lock()
        self._starting: dict[int, asyncio.Future[int]] = {}
        self._programs: dict[int, Program] = {}
        self._signalling: dict[int, asyncio.Future[None]] = {}
        self._room: asyncio.Future[None] | None = None  # for what is to be sent, where there is none now
        self._next = 0

    async def run(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: str | None, fds: tuple[int, int, int]
    ) -> Program:
        """Starts a program with these as its descriptors 0 to 2, in a session of its own.

        Raises:
            CannotStart: why.
        """
        self.start()
        self._next += 1
        number = self._next
        started = self._starting[number] = asyncio.get_running_loop().create_future()
        try:
            message = {"start": number, "argv": list(argv), "env": dict(env), "cwd": cwd}
            await self._send(json.dumps(message).encode(), fds)
            pid = await asyncio.shield(started)
        except asyncio.CancelledError:
            started.add_done_callback(lambda done: self._unwanted(number, done))
            raise
        finally:
            if started.done():
                self._starting.pop(number, None)
        return self._programs[number] if number in self._programs else self._lost(number, pid)

    def _lost(self, number: int, pid: int) -> Program:
        program = Program(self, number, pid)
        program.ended.set_exception(Lost("what has started it has ended"))
        return program

    def _unwanted(self, number: int, done: asyncio.Future[int]) -> None:
        # It was started after all, and nobody waits for it.
        self._starting.pop(number, None)
        program = self._programs.get(number)
        if not done.cancelled() and done.exception() is None and program is not None:
            program.ended.add_done_callback(lambda _: self._later(program.forget()))
            self._later(program.signal(signal.SIGKILL))

    @staticmethod
    def _later(coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    def start(self) -> None:
        """Starts the process, where there is none."""
        if self._sock is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", _SCRIPT, str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise CannotStart(f"no process that starts others: {error.strerror or error}") from error
        ours.setblocking(False)
        self._sock = ours
        asyncio.get_running_loop().add_reader(ours, self._read)

    async def signal(self, program: int, number: int) -> None:
        """See `Program.signal`."""
        self._next += 1
        own = self._next
        sent = self._signalling[own] = asyncio.get_running_loop().create_future()
        try:
            await self._send(json.dumps({"signal": own, "program": program, "number": number}).encode())
            await sent
        except CannotStart:
            pass  # its programs have gone with it
        finally:
            del self._signalling[own]

    async def tell(self, **message: int) -> None:
        """A message without descriptors. To one that has gone it says nothing."""
        if self._sock is not None:
            with contextlib.suppress(CannotStart):
                await self._send(json.dumps(message).encode())

    async def forget(self, number: int) -> None:
        """See `Program.forget`."""
        if self._programs.pop(number, None) is not None:
            await self.tell(forget=number)

    async def _send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        loop = asyncio.get_running_loop()
        sock = self._sock
        async with self._lock:
            while True:
                # What was meant for one that has ended is nothing to the next one.
                if sock is None or sock is not self._sock:
                    raise CannotStart("the process that starts others has ended")
                try:
                    socket.send_fds(sock, [data], fds)
                except BlockingIOError:
                    room = self._room = loop.create_future()
                    loop.add_writer(sock, settled, room)
                    try:
                        await room
                    finally:
                        self._room = None
                        if sock is self._sock:
                            loop.remove_writer(sock)
                except OSError as error:
                    raise CannotStart(f"the process that starts others: {error.strerror or error}") from error
                else:
                    return

    def _read(self) -> None:
        while self._sock is not None:
            try:
                data = self._sock.recv(warden.MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._gone()
                return
            self._heard(json.loads(data))

    def _heard(self, message: dict[str, Any]) -> None:
        if "started" in message:
            number, pid = message["started"], message["pid"]
            self._programs[number] = Program(self, number, pid)
            self._answer(number, pid)
        elif "failed" in message:
            self._answer(message["failed"], CannotStart(message["text"]))
        elif "signalled" in message:
            sent = self._signalling.get(message["signalled"])
            if sent is not None:
                settled(sent)
        else:
            program = self._programs.get(message["ended"])
            if program is not None and not program.ended.done():
                program.ended.set_result(message["code"])

    def _answer(self, number: int, answer: int | CannotStart) -> None:
        started = self._starting.get(number)
        if started is None or started.done():
            return
        if isinstance(answer, int):
            started.set_result(answer)
        else:
            started.set_exception(answer)

    def _gone(self) -> None:
        """It has ended of itself, or was killed. The kernel kills its children; what those have started we do."""
        programs, self._programs = self._programs, {}
        for program in programs.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(program.pid, signal.SIGKILL)
        self._drop()
        for number in list(self._starting):
            self._answer(number, CannotStart("the process that starts others has ended"))
        for program in programs.values():
            if not program.ended.done():
                program.ended.set_exception(Lost("what has started it has ended"))
                program.ended.exception()  # whether anybody waits or not

    def _drop(self) -> None:
        sock, self._sock = self._sock, None
        process, self._process = self._process, None
        if sock is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(sock)
            loop.remove_writer(sock)
            sock.close()
        if self._room is not None:
            settled(self._room)
        for sent in self._signalling.values():
            settled(sent)
        if process is not None:
            # It ends at once, as its socket has: it waits for nobody.
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self) -> None:
        """Ends it where it does not answer, as somebody has stopped it, and with it what it has started."""
        if self._process is not None:
            self._process.kill()
            self._gone()

    async def close(self) -> None:
        """Kills all that still runs."""
        self._drop()
        self._programs.clear()


_tasks: set[asyncio.Task[None]] = set()
