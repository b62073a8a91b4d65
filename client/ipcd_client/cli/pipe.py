"""`ipcctl pipe`: pipes between programs, on one host or on two."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from ipcd_client.cli.failures import NO, Failure, WrongUsage
from ipcd_client.cli.group import Group
from ipcd_client.cli.session import Session, common, pass_session

if TYPE_CHECKING:
    from ipcd_client.primitives.pipe import Pipe

# Bytes of one read and one write.
_PIECE: Final = 64 << 10
_COLUMNS: Final = ("NAME", "NODE", "READERS", "WRITERS", "WAITING", "STAYS")


def _complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    from ipcd_client.errors import IpcdError

    session = ctx.ensure_object(Session)
    session.timeout = 1.0
    try:
        return sorted({name for name, _ in _names(session) if name.startswith(incomplete)})
    except IpcdError:
        return []


_name = click.argument("name", metavar="NAME", shell_complete=_complete)
_nonblock = click.option("--nonblock", is_flag=True, help="Do not wait for the other side.")


@click.group("pipe", cls=Group)
def pipe() -> None:
    """Bytes from those who write to those who read, on any node.

    \b
    Examples:
      host1$ ls | ipcctl pipe write jobs
      host2$ ipcctl pipe read jobs | lpr
    """


@pipe.command("write")
@_name
@_nonblock
@common
@pass_session
def write(session: Session, name: str, *, nonblock: bool) -> None:
    """Write standard input to the pipe NAME, or NAME@NODE, which is made if there is none.

    Waits until somebody reads it, for as long as --timeout says, or for ever. When the last reader goes, this program
    ends as `cat > FIFO` does: by SIGPIPE.

    Exit code 1 if nobody reads it in time; with --nonblock, now.

    \b
    Examples:
      ls | ipcctl pipe write jobs
      tail -f app.log | ipcctl pipe write logs@b
      ipcctl pipe write --nonblock jobs < list || echo nobody reads
    """
    from ipcd_client.primitives.errors import NoReader, TimedOut

    with _opened(session, name) as it:
        try:
            end: Any = it.open_write(wait=session.timeout, nonblock=nonblock)
        except (NoReader, TimedOut) as error:
            raise _nobody(error) from error
        try:
            while data := os.read(sys.stdin.fileno(), _PIECE):
                end.write(data)
            end.close()
        except BrokenPipeError:
            _sigpipe()
        except KeyboardInterrupt:
            end.abandon()
            raise


@pipe.command("read")
@_name
@_nonblock
@common
@pass_session
def read(session: Session, name: str, *, nonblock: bool) -> None:
    """Read the pipe NAME, or NAME@NODE, to standard output, until nobody writes any more.

    Waits until somebody writes it, for as long as --timeout says, or for ever; with --nonblock, what nobody writes ends
    at once. When nobody reads standard output any more, this program ends by SIGPIPE.

    Exit code 1 if nobody writes it in time.

    \b
    Examples:
      ipcctl pipe read jobs | lpr
      ipcctl pipe read logs@b | grep ERROR
      ipcctl pipe read --timeout 60 jobs > list
    """
    from ipcd_client.primitives.errors import TimedOut

    with _opened(session, name) as it:
        try:
            end: Any = it.open_read(buffering=0, wait=session.timeout, nonblock=nonblock)
        except TimedOut as error:
            raise _nobody(error) from error
        try:
            _copy(end)
        finally:
            end.close()


def _copy(end: Any) -> None:
    out = sys.stdout.fileno()
    buffer = memoryview(bytearray(_PIECE))
    while count := end.readinto(buffer):
        rest = buffer[:count]
        try:
            while rest:
                rest = rest[os.write(out, rest) :]
        except BrokenPipeError:
            end.close()
            _sigpipe()


@pipe.command("ls")
@click.argument("name", default="", shell_complete=_complete)
@common
@pass_session
def ls(session: Session, name: str) -> None:
    """Pipes of all nodes: who has them open, how many of those wait for the other side, and whether they stay.

    Pipes without names are not listed. Exit code 1 if NAME is given and there is none.

    \b
    Examples:
      ipcctl pipe ls
      ipcctl pipe ls -o json | jq -r '.[] | select(.readers == 0) | .name'
    """
    from ipcd_client.errors import IpcdError
    from ipcd_client.primitives.errors import NoSuchName
    from ipcd_client.primitives.pipe import Pipe

    rows: list[dict[str, Any]] = []
    with session.node() as node:
        for one, home in _names(session):
            if name and name not in {one, f"{one}@{home}"}:
                continue
            row: dict[str, Any] = {"name": one, "node": home}
            try:
                facts = Pipe(f"{one}@{home}", node=node.path).facts()
            except NoSuchName:
                continue  # gone meanwhile
            except IpcdError as error:
                row |= {"readers": None, "writers": None, "waiting": None, "stays": None, "error": str(error)}
            else:
                row |= {
                    "readers": facts.readers,
                    "writers": facts.writers,
                    "waiting": facts.waiting,
                    "stays": facts.stays,
                }
            rows.append(row)
    if session.output.json:
        session.output.document(rows)
    elif rows:
        cells = [["?" if row[key.lower()] is None else _cell(row[key.lower()]) for key in _COLUMNS] for row in rows]
        session.output.table(_COLUMNS, cells, right=[2, 3, 4])
    if name and not rows:
        raise Failure(f"there is no pipe {name}", "NOT_FOUND", NO)
    if not rows:
        session.output.remark("there are no pipes")


@pipe.command("make")
@_name
@common
@pass_session
def make(session: Session, name: str) -> None:
    """Make the pipe NAME, or NAME@NODE, stay when nobody has it open: until `rm`, or until its node's daemon ends.

    Without this, a pipe is made by who first opens it, and goes with who last has it open.

    \b
    Examples:
      ipcctl pipe make jobs@b
    """
    with _opened(session, name) as it:
        it.make()
        where = it.facts().node
    if session.output.json:
        session.output.document({"name": it.name, "node": where})
    else:
        session.output.line(f"{it.name} at {where}")


@pipe.command("rm")
@_name
@common
@pass_session
def rm(session: Session, name: str) -> None:
    """Take the pipe NAME, or NAME@NODE, away: whoever has it open finds that the other side has gone.

    Exit code 1 if there is none.

    \b
    Examples:
      ipcctl pipe rm jobs
    """
    from ipcd_client.primitives.errors import NoSuchName

    with _opened(session, name) as it:
        try:
            it.remove()
        except NoSuchName as error:
            raise Failure(str(error), error.code.name, NO) from error
    if session.output.json:
        session.output.document({"name": it.name, "removed": True})


@contextlib.contextmanager
def _opened(session: Session, name: str) -> Iterator[Pipe]:
    """The pipe of that name; that there is a daemon is known then."""
    from ipcd_client.primitives.errors import BadRequest
    from ipcd_client.primitives.pipe import Pipe

    # The time that is given is for the other side to come.
    with Session(session.socket, session.format).node() as node:
        try:
            it = Pipe(name, node=node.path)
        except BadRequest as error:
            raise WrongUsage(str(error)) from error
        yield it


def _names(session: Session) -> list[tuple[str, str]]:
    import ipcd_client
    from ipcd_client.node.target import NODE_API
    from ipcd_client.pb.ipcd.v1 import names_pb2, names_pb2_grpc

    with session.node() as node, ipcd_client.channel(NODE_API, node=node.path) as channel:
        request = names_pb2.ListNamesRequest(kind="pipe")
        reply = names_pb2_grpc.NamesStub(channel).List(request, timeout=session.wait)
    return [(one.name, one.node) for one in reply.names]


def _cell(value: Any) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _nobody(error: Exception) -> Failure:
    code: Any = getattr(error, "code", None)
    return Failure(str(error), code.name, NO)


def _sigpipe() -> NoReturn:
    """Ends this process as a write to a pipe that nobody reads does."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPIPE})
    os.kill(os.getpid(), signal.SIGPIPE)
    raise SystemExit(128 + signal.SIGPIPE)
