"""`ipcctl command`: programs offered under a name, and run from anywhere."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Self

import click

from ipcd_client.cli.failures import NO, Failure, WrongUsage
from ipcd_client.cli.output import duration
from ipcd_client.cli.session import Seconds, Session, common, pass_session

if TYPE_CHECKING:
    from ipcd_client.pb.ipcd.v1 import node_pb2
    from ipcd_client.primitives.command_popen import Popen
    from ipcd_client.primitives.command_server import CommandServer

# What `run` passes on. SIGTSTP is not among them: it stops this program, and by that its reading.
_FORWARDED: Final = tuple(
    getattr(signal, f"SIG{name}") for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "WINCH", "ALRM")
)
_SIGNALLED: Final = 128  # and the signal's number: the exit code of a shell
# Interrupts after which a command that does not end is given up.
_IMPATIENT: Final = 3


@click.group("command")
@common
def command() -> None:
    """Programs that a process offers under a name, on any node.

    \b
    Examples:
      ipcctl command serve wc -- wc -l
      ipcctl command run wc < file
      ipcctl command ls
    """


def _complete_name(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    from ipcd_client.errors import IpcdError

    session = ctx.ensure_object(Session)
    session.timeout = 1.0
    try:
        return sorted({server.name for server in _servers(session) if server.name.startswith(incomplete)})
    except IpcdError:
        return []


@command.command("serve")
@click.argument("name")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--args",
    "args",
    metavar="PATTERN",
    multiple=True,
    help="A caller may add arguments that fit this, such as '*.txt'. What begins with a dash fits only a PATTERN that "
    "does. May be given several times. [default: no arguments]",
)
@click.option("--args-most", metavar="N", type=click.IntRange(min=1), help="How many. [default: 32]")
@click.option(
    "--env",
    metavar="NAME[=PATTERN]",
    multiple=True,
    help="A caller may set this environment variable, to what fits PATTERN. May be given several times.",
)
@click.option("--most", metavar="N", type=click.IntRange(min=1), default=16, show_default=True, help="Runs at once.")
@click.option(
    "--waiting",
    metavar="N",
    type=click.IntRange(min=0),
    default=128,
    show_default=True,
    help="Callers that may wait for their turn.",
)
@click.option("--time", "seconds", metavar="SECONDS", type=Seconds(), default=None, help="How long one may run.")
@click.option(
    "--grace",
    metavar="SECONDS",
    type=Seconds(zero=True),
    default=5.0,
    show_default=True,
    help="Between SIGTERM and SIGKILL, where a run is ended.",
)
@click.option("--detach", is_flag=True, help="A caller may ask that its run goes on without it.")
@click.option("--cwd", metavar="DIR", type=click.Path(exists=True, file_okay=False), help="Where it runs.")
@common
@pass_session
def serve(
    session: Session,
    name: str,
    program: tuple[str, ...],
    args: tuple[str, ...],
    args_most: int | None,
    env: tuple[str, ...],
    most: int,
    waiting: int,
    seconds: float | None,
    grace: float,
    detach: bool,
    cwd: str | None,
) -> None:
    """Offer PROGRAM as the command NAME, until interrupted.

    Each run of it is a process of its own, a child of this one's, with this one's user, environment and directory. It
    ends, with all that it has started, when its caller goes away, when it may run no longer, and when this process
    ends, however that does. No shell sees what callers say.

    Whoever may call ipcd.v1.Command on this node may run it.

    \b
    Examples:
      ipcctl command serve wc -- wc -l
      ipcctl command serve grep --args '[!-]*' --args-most 1 --args=-i -- grep
      ipcctl command serve build --most 1 --time 600 --env TARGET=release-* -- make -C /srv/src
    """
    from ipcd_client.primitives.command_server import CommandServer
    from ipcd_client.primitives.offer import Offer

    offer = Offer(
        name,
        program,
        args=args,
        args_most=-1 if args_most is None else args_most,
        env=env,
        detach=detach,
        most=most,
        waiting=waiting,
        seconds=seconds or 0.0,
        grace=grace,
        cwd=cwd,
    )
    with session.node() as node:
        path = node.path
    with CommandServer(offer, path) as server:
        if session.output.json:
            session.output.record({"command": name, "program": list(program), "state": "offered"})
        else:
            session.output.line(f"offering {name}: {' '.join(program)}")
        if _until_signal(server) == signal.SIGINT:
            raise KeyboardInterrupt


def _until_signal(server: CommandServer) -> int:
    def on_signal(number: int, _: FrameType | None) -> None:
        # A second one ends this process at once, and with it what runs.
        signal.signal(number, signal.SIG_DFL)

    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    # The C handler writes the numbers there: the main thread does not hear of one that comes just before it waits.
    fd_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before: dict[int, Any] = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while (number := os.read(reading, 1)[0]) not in before:
            pass
        server.stop()
        return number
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(fd_before)
        os.close(reading)
        os.close(writing)


@command.command("run", context_settings={"allow_interspersed_args": False})
@click.argument("name", shell_complete=_complete_name)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option("--env", metavar="NAME=VALUE", multiple=True, help="Set in its environment, if the offerer allows it.")
@click.option(
    "--wait", metavar="SECONDS", type=Seconds(zero=True), help="For its turn, where as many run as may. [default: 0]"
)
@click.option("--detach", is_flag=True, help="It goes on when this program ends, if the offerer allows it.")
@click.option("-n", "--null", is_flag=True, help="It gets no standard input.")
@common
@pass_session
def run(
    session: Session,
    name: str,
    args: tuple[str, ...],
    env: tuple[str, ...],
    wait: float | None,
    detach: bool,
    null: bool,
) -> int:
    """Run the command NAME, or NAME@NODE, with this program's standard input, output and error output.

    The exit code is the command's, and 128 and the signal's number where one has killed it, as in a shell. Signals
    that this program gets are passed on; after a third interrupt the run is ended.

    Options, also -s, -o and --timeout, stand before NAME: all that follows it is for the command. The offerer says
    which arguments may be added; where it says '*', none that begins with a dash.

    \b
    Examples:
      ipcctl command run wc < file
      ipcctl command run grep@b -- -i error < /var/log/syslog | head
      ipcctl command run --wait 60 --env TARGET=release-1 build
    """
    import subprocess

    from ipcd_client.errors import IpcdError
    from ipcd_client.primitives.command import command as handle

    variables = {}
    for entry in env:
        variable, equals, value = entry.partition("=")
        if not equals:
            raise WrongUsage(f"--env {entry!r}: not of the form NAME=VALUE")
        variables[variable] = value
    # click leaves it in place behind the name.
    args = args[1:] if args[:1] == ("--",) else args
    with session.node() as node:
        path = node.path
    sys.stdout.flush()
    offered = handle(name, node=path)
    with offered, _Forwarding() as forwarding:
        process = offered.popen(
            args,
            stdin=subprocess.DEVNULL if null else 0,
            stdout=1,
            stderr=2,
            env=variables,
            detach=detach,
            wait=wait or 0.0,
            on_start=forwarding.started,
        )
        try:
            code = process.wait()
        except IpcdError:
            if forwarding.given_up:
                raise KeyboardInterrupt from None
            raise
        finally:
            process.close()
    if process.reason:
        session.output.note({"reason": process.reason}, f"ipcctl: {name} was ended: {process.reason}")
    return code if code >= 0 else _SIGNALLED - code


class _Forwarding:
    """Passes signals on to what was started. Until then they do to this program what they always do.

    The interpreter runs a handler in the main thread, which does not hear of a signal that comes just before it waits
    for a lock. So a thread passes them on, which gets their numbers from the C handler itself, through a pipe.
    """

    def __init__(self) -> None:
        self._process: Popen | None = None
        self._ready = threading.Event()
        self._before: dict[int, Any] = {}
        self._thread = threading.Thread(target=self._forward, name="ipcctl-signals", daemon=True)
        self.given_up = False

    def started(self, process: Popen) -> None:
        """From now on."""
        self._process = process
        self._ready.set()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._process is None:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)

    def _forward(self) -> None:
        self._ready.wait()
        interrupts = 0
        while (data := os.read(self._reading, 1)) != b"\0":
            process, number = self._process, data[0]
            if process is None:
                continue
            interrupts += number == signal.SIGINT
            if interrupts < _IMPATIENT:
                process.send_signal(number)
            elif not self.given_up:
                self.given_up = True
                process.close()

    def __enter__(self) -> Self:
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._writing, False)
        self._thread.start()
        for number in _FORWARDED:
            self._before[number] = signal.getsignal(number)
            signal.signal(number, self._on_signal)
        self._fd_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        signal.set_wakeup_fd(self._fd_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._ready.set()
        os.set_blocking(self._writing, True)
        os.write(self._writing, b"\0")
        self._thread.join()
        os.close(self._reading)
        os.close(self._writing)


@command.command("ls")
@click.argument("name", default="", shell_complete=_complete_name)
@common
@pass_session
def ls(session: Session, name: str) -> None:
    """Which commands are offered, on every node.

    Exit code 1 if NAME is given and nobody offers it.

    \b
    Examples:
      ipcctl command ls
      ipcctl command ls wc -o json
    """
    rows = [_row(session, server) for server in _servers(session) if not name or server.name == name]
    if session.output.json:
        session.output.document(rows)
    elif rows:
        table = [
            [
                row["command"],
                row["node"],
                str(row["pid"]),
                str(row["uid"]),
                _figure(row["running"], row["most"]),
                _figure(row["waiting"]),
                _figure(row["started"]),
                "" if not row["seconds"] else duration(row["seconds"]),
                " ".join(row["program"]) if row["error"] is None else row["error"],
            ]
            for row in rows
        ]
        headings = ["COMMAND", "NODE", "PID", "UID", "RUNNING", "WAITING", "STARTED", "TIME", "PROGRAM"]
        session.output.table(headings, table, right=[2, 3, 4, 5, 6])
    if not rows:
        if name:
            raise Failure(f"nobody offers the command {name}", "NO_COMMAND", NO, command=name)
        session.output.remark("nobody offers a command")


def _figure(number: int | None, most: int | None = None) -> str:
    if number is None:
        return ""
    return f"{number}/{most}" if most else str(number)


def _servers(session: Session) -> list[node_pb2.Server]:
    from ipcd_client.primitives.command_place import SERVICE

    with session.node() as node:
        found = node.servers(SERVICE)
    return sorted(found, key=lambda server: (server.name, server.process.node, server.process.pid))


def _row(session: Session, server: node_pb2.Server) -> dict[str, Any]:
    from ipcd_client.errors import IpcdError
    from ipcd_client.primitives.command import command as handle

    row: dict[str, Any] = {
        "command": server.name,
        "node": server.process.node,
        "pid": server.process.pid,
        "uid": server.process.uid,
        "running": None,
        "most": None,
        "waiting": None,
        "started": None,
        "seconds": None,
        "args": [],
        "env": [],
        "detach": None,
        "program": [],
        "error": None,
    }
    try:
        with handle(f"{server.name}@{server.process.node}", node=session.socket) as offered:
            info = offered.describe()
    except IpcdError as error:
        return row | {"error": str(error)}
    return row | {
        "running": info.running,
        "most": info.most,
        "waiting": info.waiting,
        "started": info.started,
        "seconds": info.seconds,
        "args": list(info.args),
        "env": list(info.env),
        "detach": info.detach,
        "program": list(info.command),
    }
