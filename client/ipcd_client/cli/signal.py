"""`ipcctl signal`: flags that are raised at processes, and the ends of processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from ipcd_client.cli.failures import NO, OK, Failure, WrongUsage, from_error
from ipcd_client.cli.group import Group
from ipcd_client.cli.output import one_line
from ipcd_client.cli.session import Session, common, complete_service, pass_session

if TYPE_CHECKING:
    from ipcd_client.cli.backend import Node
    from ipcd_client.pb.ipcd.v1 import signal_pb2
    from ipcd_client.primitives.flags import Exit, Told


def complete_signal(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Flags that somebody listens for, for the shell."""
    from ipcd_client.errors import IpcdError

    session = ctx.ensure_object(Session)
    session.timeout = 1.0
    try:
        with session.node() as node:
            return sorted({each.name for each in _listeners(node, "*")[0] if each.name.startswith(incomplete)})
    except IpcdError:
        return []


@click.group("signal", cls=Group)
@common
def signal() -> None:
    """Raise a named flag at whoever listens for it, on any node; wait for one; see how a process ends.

    A flag is raised or not: raised twice before it is taken, it is one. NAME is the flag on all nodes, NAME@NODE the
    one of those who listen at NODE.

    \b
    Examples:
      ipcctl signal wait reload
      ipcctl signal raise reload
      ipcctl signal watch-exit 4711@b --raise worker-exit
    """


@signal.command("raise")
@click.argument("name", shell_complete=complete_signal)
@click.option("--pid", metavar="PID[@NODE]", help="Only at this process; without a node, of this one.")
@click.option("--group", metavar="GROUP", default="", help="Only at those who listen as members of GROUP.")
@common
@pass_session
def raise_(session: Session, name: str, pid: str | None, group: str) -> int:
    """Raise the flag NAME at all who listen for it.

    Prints how many those are on each node. Exit code 1 if it is nobody, or a node could not be told.

    \b
    Examples:
      ipcctl signal raise reload
      ipcctl signal raise reload --group workers
      ipcctl signal raise reload --pid 4711@b
      ipcctl signal raise reload@b -o json
    """
    from ipcd_client.primitives.signal import signal as flag

    with _answered(), session.node() as node, flag(name, node=node.path) as raised:
        told = raised.raise_(pid=pid, group=group)
    if session.output.json:
        nodes = [{"node": each.node, "listeners": each.listeners, "error": each.error or None} for each in told]
        listeners = sum(each.listeners for each in told)
        session.output.document({"signal": name, "listeners": listeners, "nodes": nodes})
    else:
        _table(session, told)
    return OK if any(each.listeners for each in told) and not any(each.error for each in told) else NO


def _table(session: Session, told: list[Told]) -> None:
    headings = ["NODE", "LISTENERS"]
    rows = [[each.node, "" if each.error else str(each.listeners)] for each in told]
    if any(each.error for each in told):
        headings.append("NOT TOLD")
        for row, each in zip(rows, told, strict=True):
            row.append(each.error)
    session.output.table(headings, rows, right=[1])


@signal.command("wait")
@click.argument("name", shell_complete=complete_signal)
@click.option("--group", metavar="GROUP", default="", help="Listen as a member of GROUP.")
@common
@pass_session
def wait(session: Session, name: str, group: str) -> None:
    """Listen for the flag NAME until it is raised.

    Waits for ever, or as long as --timeout says: exit code 1 if it was not raised. What was raised before is not seen.

    \b
    Examples:
      ipcctl signal wait worker-exit
      ipcctl signal wait reload --group workers --timeout 60 && systemctl reload nginx
    """
    from ipcd_client.primitives.signal import signal as flag

    with session.node() as node:
        path = node.path
    with _answered(), flag(name, node=path) as waited, waited.listen(group=group) as listener:
        session.output.remark(f"listening for {name} at node {listener.node}")
        raised = listener.wait(session.timeout)
    if session.output.json:
        session.output.document(
            {"signal": raised.name, "node": raised.node, "pid": raised.pid or None, "identity": raised.identity}
        )
    else:
        who = f"pid {raised.pid} on node {raised.node}" if raised.pid else f"a client of the gateway of {raised.node}"
        session.output.line(f"{raised.name} was raised by {who} ({raised.identity})")


@signal.command("watch-exit")
@click.argument("pid", metavar="[PID[@NODE]]", required=False)
@click.option(
    "--service", metavar="SERVICE[@NODE]", help="The process that serves it.", shell_complete=complete_service
)
@click.option("--name", metavar="NAME[@NODE]", help="The process of the server of this name.")
@click.option("--raise", "then", metavar="SIGNAL", help="Raise this flag when it has ended.")
@common
@pass_session
def watch_exit(session: Session, pid: str | None, service: str | None, name: str | None, then: str | None) -> None:
    """Wait until a process has ended, and print how and when.

    Waits for ever, or as long as --timeout says: exit code 1 if it has not ended. How it ended the kernel does not
    always tell to others than its parent; that it is not known is printed too.

    \b
    Examples:
      ipcctl signal watch-exit 4711
      ipcctl signal watch-exit 4711@b --raise worker-exit
      ipcctl signal watch-exit --service lab.v1.Lab -o json
    """
    from ipcd_client.primitives.signal import signal as flag
    from ipcd_client.primitives.watch_exit import watch_exit as watched

    with session.node() as node:
        path = node.path
    with _answered(), watched(pid, service=service, name=name, node=path) as watch:
        process = watch.process
        session.output.remark(f"watching process {process.pid} on node {process.node}")
        ended = watch.wait(session.timeout)
    _show(session, ended)
    if then is not None:
        with flag(then, node=path) as raised:
            raised.raise_()


def _show(session: Session, ended: Exit) -> None:
    when = None if ended.ended is None else datetime.fromtimestamp(ended.ended, UTC)
    if session.output.json:
        session.output.document(
            {
                "node": ended.node,
                "pid": ended.pid,
                "uid": ended.uid,
                "ended": when.isoformat(timespec="milliseconds") if when else None,
                "code": ended.code,
                "signal": ended.signal,
                "core_dumped": ended.core_dumped,
                "source": ended.source or None,
            }
        )
        return
    clock = f"{when.astimezone():%H:%M:%S}" if when else "before"
    session.output.line(f"{clock}  {ended}")


@signal.command("ls")
@click.argument("name", default="*", shell_complete=complete_signal)
@common
@pass_session
def ls(session: Session, name: str) -> int:
    """Who listens for which flag, on every node.

    Exit code 1 if NAME is given and nobody listens for it.

    \b
    Examples:
      ipcctl signal ls
      ipcctl signal ls reload -o json
    """
    with _answered(), session.node() as node:
        listeners, unasked = _listeners(node, name)
    if session.output.json:
        session.output.document([_as_json(each) for each in listeners])
    elif listeners:
        rows = [
            [
                each.name,
                each.group,
                each.process.node,
                str(each.process.pid or ""),
                str(each.process.uid) if each.process.pid else "",
                each.node,
                str(each.raised),
                str(each.coalesced),
            ]
            for each in listeners
        ]
        headings = ["SIGNAL", "GROUP", "NODE", "PID", "UID", "AT", "RAISED", "COALESCED"]
        session.output.table(headings, rows, right=[3, 4, 6, 7])
    else:
        session.output.remark("nobody listens" + ("" if name == "*" else f" for {one_line(name)}"))
    for each, error in unasked:
        session.output.remark(f"node {each} was not asked: {error}")
    return OK if listeners or name == "*" else NO


def _as_json(each: signal_pb2.Listener) -> dict[str, Any]:
    return {
        "signal": each.name,
        "group": each.group or None,
        "node": each.process.node,
        "pid": each.process.pid or None,
        "uid": each.process.uid if each.process.pid else None,
        "at": each.node,
        "raised": each.raised,
        "coalesced": each.coalesced,
    }


def _listeners(node: Node, name: str) -> tuple[list[signal_pb2.Listener], list[tuple[str, str]]]:
    """Those of all nodes, and the nodes that could not be asked."""
    import grpc

    from ipcd_client.cli.catalog import names
    from ipcd_client.errors import IpcdError
    from ipcd_client.pb.ipcd.v1 import signal_pb2, signal_pb2_grpc
    from ipcd_client.primitives.place import Place
    from ipcd_client.primitives.waiting import deadline_of

    found: list[signal_pb2.Listener] = []
    unasked: list[tuple[str, str]] = []
    for each in [""] if "@" in name else names(node):
        text = f"{name}@{each}" if each else name
        request = signal_pb2.ListListenersRequest(name=text)
        place = Place("signal", text, node.path)
        try:
            stub = signal_pb2_grpc.SignalStub(place.channel())
            found += stub.ListListeners(request, timeout=deadline_of(0)).listeners
        except (IpcdError, grpc.RpcError) as error:
            if not each:
                raise
            failure = from_error(error)
            unasked.append((each, failure.text if failure is not None else str(error)))
        finally:
            place.close()
    return sorted(found, key=lambda one: (one.name, one.group, one.process.node, one.process.pid)), unasked


@contextmanager
def _answered() -> Iterator[None]:
    """Errors that are answers, or the command line's."""
    from ipcd_client.primitives.errors import Ambiguous, BadRequest, NoSuchName, TimedOut

    try:
        yield
    except TimedOut as error:
        raise Failure(str(error), "TIMED_OUT", NO) from error
    except (NoSuchName, Ambiguous) as error:
        raise Failure(str(error), error.code.name, NO) from error
    except BadRequest as error:
        raise WrongUsage(str(error)) from error
