"""`asyncio.subprocess.Process` for a command that another process runs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Self, cast

import grpc
from grpc.aio import EOF

from ipcd_client.errors import IpcdError
from ipcd_client.loop.waiters import Waiters
from ipcd_client.pb.ipcd.v1 import command_pb2 as pb
from ipcd_client.primitives.command_pipes import readable
from ipcd_client.primitives.command_place import descriptor_of, write_all
from ipcd_client.primitives.command_state import CHUNK, STDERR, STDOUT, Called
from ipcd_client.primitives.errors import Lost, from_status


class StdinWriter:
    """Standard input of a run: what programs use of an `asyncio.StreamWriter`. Of what was written without `drain`,
    everything is kept."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._data = bytearray()
        self._ending = False

    def write(self, data: Any) -> None:
        """Sends it, as far as the command takes it; the rest follows."""
        if self._ending:
            raise RuntimeError("write to standard input after its end")
        self._data += data
        self._flush()

    def writelines(self, lines: Any) -> None:
        """Sends each."""
        for line in lines:
            self.write(line)

    async def drain(self) -> None:
        """Until what was written is on its way.

        Raises:
            BrokenPipeError: the command reads no more.
        """

        def sent(called: Called) -> bool:
            self._flush()
            if called.stdin_closed:
                raise BrokenPipeError(32, "the command reads no more of its standard input")
            return not self._data

        await self._process.until(sent)

    def can_write_eof(self) -> bool:
        """True."""
        return True

    def write_eof(self) -> None:
        """There is no more of it."""
        self._ending = True
        self._flush()

    close = write_eof

    def is_closing(self) -> bool:
        """It was closed."""
        return self._ending

    async def wait_closed(self) -> None:
        """Until all of it is on its way."""
        with suppress(BrokenPipeError):
            await self.drain()

    def _flush(self) -> None:
        called = self._process.called
        try:
            while self._data:
                with memoryview(self._data) as view:
                    size = called.write(view)
                if not size:
                    break
                del self._data[:size]
        except BrokenPipeError:
            self._data.clear()
        if self._ending and not self._data:
            called.end_stdin()
        self._process.send()

    def progressed(self) -> None:
        """There may be room."""
        if self._data or self._ending:
            self._flush()


class _Pausing(asyncio.ReadTransport):
    """With which a StreamReader holds back what it has no room for."""

    def __init__(self, feed: Callable[[], None]) -> None:
        super().__init__()
        self._feed = feed
        self.paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        # The reader is about to wait for news, and would not hear of what came before that.
        asyncio.get_running_loop().call_soon(self._feed)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


class _Reader:
    """One output, on its way into a StreamReader."""

    def __init__(self, process: Process, number: int) -> None:
        self._process = process
        self._number = number
        self._ended = False
        self.stream = asyncio.StreamReader()
        self._transport = _Pausing(self.feed)
        self.stream.set_transport(self._transport)

    def feed(self) -> None:
        """What has come."""
        output = self._process.called.outputs[self._number]
        while not self._transport.paused and (data := output.take(CHUNK)):
            self.stream.feed_data(data)
        if output.ended and not output.size and not self._ended:
            self._ended = True
            self.stream.feed_eof()
        self._process.send()

    def failed(self, error: Exception) -> None:
        """No more will come."""
        if not self._ended:
            self._ended = True
            self.stream.set_exception(error)


class Process:
    """A run of a command, with what `asyncio.subprocess.Process` has; and `async with`, which waits for its end, and
    `close`, which ends it. What it says of signals, of `reason` and of a run that is lost is as of `Popen`.
    """

    def __init__(
        self,
        call: Any,
        request: pb.RunRequest,
        args: Sequence[str],
        stdin: Any,
        stdout: Any,
        stderr: Any,
        release: Callable[[], Awaitable[None]],
    ) -> None:
        self.args = list(args)
        self.called = Called(request)
        self._call = call
        self._release = release
        self._news = Waiters()
        self._failure: Exception | None = None
        self._over = False
        self._to_send = asyncio.Event()
        self.stdin = StdinWriter(self) if stdin == subprocess.PIPE else None
        self._readers: list[_Reader] = []
        self._copies: list[asyncio.Task[None]] = []
        self.stdout = self._reader(STDOUT) if stdout == subprocess.PIPE else None
        self.stderr = self._reader(STDERR) if stderr == subprocess.PIPE else None
        self._pump = asyncio.get_running_loop().create_task(self._run())
        if stdin != subprocess.PIPE and (source := descriptor_of(stdin, None)) is not None:
            self._copy(self._copy_in(source))
        for number, value in ((STDOUT, stdout), (STDERR, stderr)):
            if value != subprocess.PIPE and (sink := descriptor_of(value, number)) is not None:
                self._copy(self._copy_out(number, sink))

    def _reader(self, number: int) -> asyncio.StreamReader:
        reader = _Reader(self, number)
        self._readers.append(reader)
        return reader.stream

    # -- asyncio.subprocess.Process ---------------------------------------------------------------

    @property
    def pid(self) -> int:
        """On the offerer's machine."""
        return self.called.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self.called.returncode

    @property
    def reason(self) -> str:
        """Why the offerer ended it; empty where it did not."""
        return self.called.reason

    async def started(self) -> None:
        """Until it is.

        Raises:
            PrimitiveError, NotAllowed, CallFailed: it was not.
        """
        await self.until(lambda called: called.pid or called.returncode is not None)

    async def wait(self) -> int:
        """Until it has ended, and what goes to files has been written. The return code.

        Raises:
            Lost, CallFailed: nobody knows how it ended: its offerer has.
        """
        await self.until(lambda called: called.returncode is not None)
        for copy in self._copies:
            await asyncio.wait({copy})
        return cast(int, self.returncode)

    async def communicate(self, input: bytes | None = None) -> tuple[bytes | None, bytes | None]:  # noqa: A002
        """Gives it `input`, reads until its outputs end, and waits for it."""
        out, err, _ = await asyncio.gather(self._all(self.stdout), self._all(self.stderr), self._give(input))
        await self.wait()
        return out, err

    @staticmethod
    async def _all(stream: asyncio.StreamReader | None) -> bytes | None:
        return None if stream is None else await stream.read()

    async def _give(self, data: bytes | None) -> None:
        if self.stdin is not None:
            if data:
                self.stdin.write(data)
            self.stdin.close()
            await self.stdin.wait_closed()

    def send_signal(self, number: int) -> None:
        """Sends it to the command's process group; nothing happens if it has ended."""
        self.called.signal(int(number))
        self.send()

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    async def close(self) -> None:
        """Ends the run, where it has not ended, unless it was started with `detach`: that one goes on."""
        self._call.cancel()
        await asyncio.wait({self._pump, *self._copies})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        if self.stdin is not None:
            self.stdin.close()
        for number, reader in ((STDOUT, self.stdout), (STDERR, self.stderr)):
            if reader is not None:
                self.called.close_output(number)
        self.send()
        try:
            if kind is None:
                await self.wait()
        finally:
            await self.close()

    # -- the call ---------------------------------------------------------------------------------

    async def until(self, ready: Callable[[Called], Any]) -> Any:
        """What `ready` gives, once that is true; it is asked again after each change, and may take or give.

        Raises:
            PrimitiveError, NotAllowed, CallFailed: the call has ended, and it is not.
        """
        while True:
            if result := ready(self.called):
                self.send()
                return result
            if self._over:
                raise self._failure or Lost("the run's call has ended before the run")
            await self._news.wait()

    def send(self) -> None:
        """There may be something to send."""
        self._to_send.set()

    async def _run(self) -> None:
        sending = asyncio.get_running_loop().create_task(self._send_all())
        failure: Exception | None = None
        try:
            while (reply := await self._call.read()) is not EOF:
                self.called.replied(reply)
                self._progressed()
                self.send()
            if (code := await self._call.code()) is not grpc.StatusCode.OK:
                failure = from_status(code, await self._call.details() or "")
        except grpc.RpcError as error:
            state: Any = error
            failure = from_status(state.code(), state.details() or "")
        except IpcdError as error:
            self._call.cancel()
            failure = error
        except asyncio.CancelledError:
            # The call's own, as it was cancelled by `close`; or this task's.
            self._call.cancel()
            failure = Lost("the run was ended by its caller")
        finally:
            self._failure, self._over = failure, True
            sending.cancel()
            await asyncio.wait({sending})
            self._progressed()
            for reader in self._readers:
                reader.failed(failure or Lost("the run's call has ended before its output"))
            await self._release()

    async def _send_all(self) -> None:
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            while True:
                self._to_send.clear()
                while (request := self.called.outgoing()) is not None:
                    await self._call.write(request)
                if self.called.over:
                    await self._call.done_writing()
                    return
                await self._to_send.wait()

    def _progressed(self) -> None:
        for reader in self._readers:
            reader.feed()
        if self.stdin is not None:
            self.stdin.progressed()
        self._news.progressed()

    # -- copying ----------------------------------------------------------------------------------

    def _copy(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._copies.append(asyncio.get_running_loop().create_task(coroutine))

    async def _copy_in(self, fd: int) -> None:
        reading = asyncio.ensure_future(readable(fd))
        try:
            while True:
                over = asyncio.ensure_future(self._ended())
                await asyncio.wait({reading, over}, return_when=asyncio.FIRST_COMPLETED)
                over.cancel()
                if not reading.done():
                    break
                data = memoryview(await asyncio.to_thread(os.read, fd, CHUNK))
                if not data:
                    break
                while data:
                    view = data
                    data = data[await self.until(lambda called: called.write(view)) :]  # noqa: B023  used at once
                reading = asyncio.ensure_future(readable(fd))
        except (OSError, IpcdError):
            pass
        finally:
            reading.cancel()
        self.called.end_stdin()
        self.send()

    async def _ended(self) -> None:
        with suppress(IpcdError):
            await self.until(lambda called: called.stdin_closed)

    async def _copy_out(self, number: int, fd: int) -> None:
        def some(called: Called) -> bytes | bool:
            output = called.outputs[number]
            return output.take(CHUNK) or output.ended or output.closed

        try:
            while (data := await self.until(some)) is not True:
                await asyncio.to_thread(write_all, fd, data)
        except (OSError, IpcdError):
            self.called.close_output(number)
            self.send()
