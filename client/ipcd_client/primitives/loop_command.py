"""Programs that other processes offer, for an event loop: run as `asyncio.create_subprocess_exec` runs those of this
machine. (command.py)"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Self

import grpc

from ipcd_client import aio
from ipcd_client.errors import IpcdError
from ipcd_client.node.paths import default_socket
from ipcd_client.pb.ipcd.v1 import command_pb2 as pb
from ipcd_client.pb.ipcd.v1 import command_pb2_grpc
from ipcd_client.primitives.command_place import START, check_streams, piped, target_of, to_of
from ipcd_client.primitives.command_server import LoopCommandServer
from ipcd_client.primitives.command_state import started_by
from ipcd_client.primitives.errors import from_status
from ipcd_client.primitives.loop_command_process import Process
from ipcd_client.primitives.offer import Offer, program
from ipcd_client.primitives.place import OPTIONS
from ipcd_client.primitives.waiting import deadline_of, unanswered


class LoopCommand:
    """A command that is offered somewhere, or is to be offered here. Of one loop. See `command`."""

    def __init__(self, name: str, node: str | None = None, channel: grpc.aio.Channel | None = None) -> None:
        self._target = target_of(name)
        self.name = name
        self._node = node
        self._given = channel
        self._channel: aio.Channel | None = None
        self._users = 0
        self._closed = False

    async def popen(
        self,
        args: Sequence[str] = (),
        *,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        env: Mapping[str, str] | None = None,
        detach: bool = False,
        wait: float | None = 0.0,
    ) -> Process:
        """Runs it; returns once it is started. Arguments and errors are those of `command.Command.popen`, without text:
        the streams are of bytes, as those of asyncio.
        """
        request = started_by(
            self.name,
            args,
            env,
            detach=detach,
            wait=wait,
            stdin=piped(stdin),
            stdout=to_of(stdout, "stdout"),
            stderr=to_of(stderr, "stderr"),
        )
        check_streams(stdin, stdout, stderr)
        channel = self._hold()
        call = command_pb2_grpc.CommandStub(channel).Run()
        process = Process(call, request, [self.name, *args], stdin, stdout, stderr, self._release)
        seconds = deadline_of(wait, START)
        try:
            async with asyncio.timeout(seconds):
                await process.started()
        except BaseException as error:
            await process.close()
            if isinstance(error, TimeoutError) and not isinstance(error, IpcdError):
                raise unanswered(seconds) from None
            raise
        return process

    async def run(
        self,
        args: Sequence[str] = (),
        *,
        input: bytes | None = None,  # noqa: A002  subprocess.run's
        timeout: float | None = None,
        check: bool = False,
        **keywords: Any,
    ) -> subprocess.CompletedProcess[bytes]:
        """As `command.Command.run`."""
        pipes = {"stdin": subprocess.DEVNULL if input is None else subprocess.PIPE}
        pipes |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = await self.popen(args, **(pipes | keywords))
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate(input)
        except TimeoutError as error:
            raise subprocess.TimeoutExpired(process.args, timeout or 0) from error
        finally:
            await process.close()
        done = subprocess.CompletedProcess(process.args, await process.wait(), out, err)
        if check:
            done.check_returncode()
        return done

    async def describe(self) -> pb.CommandInfo:
        """What is offered, and how many run. Errors are those of `command.Command.describe`."""
        try:
            stub: Any = command_pb2_grpc.CommandStub(self._hold())
            reply: pb.CommandInfo = await stub.Describe(pb.DescribeCommandRequest(name=self.name), timeout=START)
            return reply
        except grpc.RpcError as error:
            state: Any = error
            raise from_status(state.code(), state.details() or "") from error
        finally:
            await self._release()

    async def serve(self, command: Sequence[str], **keywords: Any) -> LoopCommandServer:
        """As `command.Command.serve`."""
        server = LoopCommandServer(Offer(self.name, program(command), **keywords), self._node)
        await server.start()
        return server

    async def close(self) -> None:
        """Lets go of the channel, as soon as nothing runs over it."""
        self._closed = True
        self._users += 1
        await self._release()

    def _hold(self) -> Any:
        self._closed = False
        self._users += 1
        if self._given is not None:
            return self._given
        if self._channel is None:
            self._channel = aio.channel(self._target, node=self._node or default_socket(), options=OPTIONS)
        return self._channel

    async def _release(self) -> None:
        self._users -= 1
        if self._closed and not self._users and self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        await self.close()


def command(name: str, *, node: str | None = None, channel: grpc.aio.Channel | None = None) -> LoopCommand:
    """As `ipcd_client.command`, for the running loop; `channel` is one of grpc.aio's.

    Raises:
        BadRequest: it is no name.
    """
    return LoopCommand(name, node, channel)
