"""Programs that other processes offer, on any node: run as `subprocess.Popen` runs those of this machine."""

from __future__ import annotations

import subprocess
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import grpc

import ipcd_client
from ipcd_client.node.paths import default_socket
from ipcd_client.pb.ipcd.v1 import command_pb2 as pb
from ipcd_client.pb.ipcd.v1 import command_pb2_grpc
from ipcd_client.primitives.command_call import RunCall
from ipcd_client.primitives.command_place import START, check_streams, piped, target_of, to_of
from ipcd_client.primitives.command_popen import Popen
from ipcd_client.primitives.command_server import CommandServer
from ipcd_client.primitives.command_state import started_by
from ipcd_client.primitives.errors import from_status
from ipcd_client.primitives.offer import Offer, program
from ipcd_client.primitives.place import OPTIONS
from ipcd_client.primitives.waiting import deadline_of


class _Road:
    """A channel, closed when neither the handle nor any of its runs needs it."""

    def __init__(self, make: Callable[[], grpc.Channel], *, ours: bool) -> None:
        self._make = make
        self._ours = ours
        self._channel: grpc.Channel | None = None
        self._users = 0
        # The collector may run a handle's end while this thread holds it.
        self._lock = threading.RLock()

    def hold(self) -> grpc.Channel:
        with self._lock:
            if self._channel is None:
                self._channel = self._make()
            self._users += 1
            return self._channel

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            channel, self._channel = self._channel, None
        if channel is not None and self._ours:
            channel.close()


class Command:
    """A command that is offered somewhere, or is to be offered here. See `command`."""

    def __init__(self, name: str, node: str | None = None, channel: grpc.Channel | None = None) -> None:
        target = target_of(name)
        self.name = name
        self._node = node
        path = node or default_socket()
        self._road = _Road(
            lambda: ipcd_client.channel(target, node=path, options=OPTIONS) if channel is None else channel,
            ours=channel is None,
        )
        self._lock = threading.Lock()
        self._end: weakref.finalize[Any, Any] | None = None

    def popen(
        self,
        args: Sequence[str] = (),
        *,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        env: Mapping[str, str] | None = None,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        detach: bool = False,
        wait: float | None = 0.0,
        on_start: Callable[[Popen], None] | None = None,
    ) -> Popen:
        """Runs it; returns once it is started.

        Args:
            args: added to those that the offerer gives; env: set beside what the offerer's environment has. Both as far
                as the offerer allows them.
            stdin, stdout, stderr: `subprocess.PIPE`, `subprocess.DEVNULL`, a file with a descriptor, or a descriptor;
                `stderr` also `subprocess.STDOUT`. None: standard input is empty, and the outputs go to this process's
                own. What goes to files is copied by threads.
            text, encoding, errors: the streams are of text, as of `subprocess.Popen`.
            detach: it goes on when this process, its host or the handle goes away.
            wait: seconds to wait for its turn where as many run as may. None: however long it takes.
            on_start: gets what this returns, before anything of its output is written to a file.

        Raises:
            BadRequest: the offerer does not allow that.
            Full, TimedOut: as many run as may.
            CannotStart, NotAllowed, CallFailed: why else it was not started; UNAVAILABLE: nobody offers it.
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
        check_streams(stdin, stdout, stderr, encoding)
        self._keep()
        channel = self._road.hold()
        call = RunCall(channel, request, self._road.release)
        call.start(deadline_of(wait, START))
        given = [self.name, *args]
        try:
            process = Popen(call, given, stdin, stdout, stderr, text=text, encoding=encoding, errors=errors)
            if on_start is not None:
                on_start(process)
            process.begin()
            return process
        except BaseException:
            call.cancel()
            raise

    def run(
        self,
        args: Sequence[str] = (),
        *,
        input: Any = None,  # noqa: A002  subprocess.run's
        timeout: float | None = None,
        check: bool = False,
        **keywords: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """As `subprocess.run` with `capture_output`: runs it to its end. `keywords`: those of `popen`.

        Raises:
            subprocess.TimeoutExpired: it was killed after so many seconds.
            subprocess.CalledProcessError: with `check`, it returned something else than 0.
            PrimitiveError, NotAllowed, CallFailed: as of `popen`.
        """
        pipes = {"stdin": subprocess.DEVNULL if input is None else subprocess.PIPE}
        pipes |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = self.popen(args, **(pipes | keywords))
        try:
            out, err = process.communicate(input, timeout)
            done = subprocess.CompletedProcess(process.args, process.wait(), out, err)
        finally:
            process.close()
        if check:
            done.check_returncode()
        return done

    def describe(self) -> pb.CommandInfo:
        """What is offered, and how many run.

        Raises:
            NoSuchName, NotAllowed, CallFailed: nobody offers it, or may not be asked.
        """
        self._keep()
        channel = self._road.hold()
        try:
            request = pb.DescribeCommandRequest(name=self.name)
            reply: pb.CommandInfo = command_pb2_grpc.CommandStub(channel).Describe(request, timeout=START)
            return reply
        except grpc.RpcError as error:
            state: Any = error
            raise from_status(state.code(), state.details() or "") from error
        finally:
            self._road.release()

    def serve(self, command: Sequence[str], **keywords: Any) -> CommandServer:
        """Offers it on this machine's node, from now until the server that this returns is stopped, or this process
        ends. `keywords`: those of `Offer`.

        Raises:
            BadRequest: something of it makes no sense.
            IpcdError: there is no daemon, or it refused.
        """
        server = CommandServer(Offer(self.name, program(command), **keywords), self._node)
        server.start()
        return server

    def close(self) -> None:
        """Lets go of the channel. What runs goes on; the next use takes it up again."""
        with self._lock:
            end, self._end = self._end, None
        if end is not None:
            end()

    def _keep(self) -> None:
        with self._lock:
            if self._end is None:
                self._road.hold()
                self._end = weakref.finalize(self, self._road.release)
                self._end.atexit = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.close()


def command(name: str, *, node: str | None = None, channel: grpc.Channel | None = None) -> Command:
    """A command: a program that a process offers under a name, and others run.

    >>> with ipcd_client.command("wc").serve(["wc", "-l"]):
    ...     with ipcd_client.command("wc").popen(stdin=PIPE, stdout=PIPE) as process:
    ...         process.communicate(b"one line" + b"\\n")

    Args:
        name: NAME, wherever it is offered, the nearest and least busy first; or NAME@NODE.
        node: path of the daemon's socket; the default is that of `ipcd_client.channel`.
        channel: any channel to a node's gateway instead. It stays the caller's.

    Raises:
        BadRequest: it is no name.
    """
    return Command(name, node, channel)
