"""`ipcctl queue`: queues of messages."""

from __future__ import annotations

import math
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ipcd_client.cli.failures import NO, OK, Failure, WrongUsage
from ipcd_client.cli.group import Group
from ipcd_client.cli.output import Output
from ipcd_client.cli.session import Seconds, Session, common, pass_session

if TYPE_CHECKING:
    from ipcd_client.primitives.queue import Message, Queue

F = TypeVar("F", bound=Callable[..., Any])

# Of messages that one call asks for.
_MOST: Final = 1024
_FULL: Final = ("block", "fail", "drop-oldest", "drop-newest")


@click.group("queue", cls=Group)
@common
def queue() -> None:
    """Queues: messages with priorities and types, from any process to any other.

    NAME@NODE is the queue of that node; NAME is the one there is.

    \b
    Examples:
      ipcctl queue create jobs --durable --deliveries 5 --dead-letters jobs.dead
      ipcctl queue send jobs 'first thing' --priority 9
      ipcctl queue receive jobs --wait 10
      ipcctl queue ls
    """


def _complete_name(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    from ipcd_client.errors import IpcdError
    from ipcd_client.pb.ipcd.v1 import names_pb2

    session = ctx.ensure_object(Session)
    session.timeout = 1.0
    try:
        found: list[names_pb2.Name] = _names(session)
    except (IpcdError, Failure):
        return []
    return sorted({name.name for name in found if name.name.startswith(incomplete)})


_name: Final = click.argument("name", shell_complete=_complete_name)


def _waits(function: F) -> F:
    return click.option(
        "--wait",
        metavar="SECONDS",
        type=Seconds(zero=True),
        help="How long to wait, 0 for not at all. [default: for ever]",
    )(function)


def _type(function: F) -> F:
    return click.option(
        "--type",
        "type_",
        metavar="N",
        type=int,
        default=0,
        help="Of this type; -N: of the lowest up to N. [default: any]",
    )(function)


@queue.command("create")
@_name
@click.option("--max-messages", metavar="N", type=click.IntRange(min=1), default=1024, show_default=True)
@click.option("--max-bytes", metavar="N", type=click.IntRange(min=1), default=16 << 20, show_default=True)
@click.option(
    "--when-full",
    type=click.Choice(_FULL),
    default="block",
    show_default=True,
    help="What becomes of senders, or messages, when there is no room.",
)
@click.option(
    "--lease",
    metavar="SECONDS",
    type=Seconds(),
    default=30.0,
    show_default=True,
    help="How long a message is held that is to be acknowledged.",
)
@click.option("--deliveries", metavar="N", type=click.IntRange(min=1), default=None, help="How often it is tried.")
@click.option("--dead-letters", metavar="NAME", default="", help="Where it goes then: a queue, made with this one.")
@click.option("--durable", is_flag=True, help="Keep it on the node's disk, in its --state-dir.")
@click.option("--exclusive", is_flag=True, help="Exit with 1 if there is one already.")
@common
@pass_session
def create(session: Session, /, name: str, exclusive: bool, deliveries: int | None, **options: Any) -> int:
    """Make a queue. One that is there already stays as it is.

    \b
    Examples:
      ipcctl queue create jobs
      ipcctl queue create events --max-messages 100 --when-full drop-oldest
      ipcctl queue create orders@b --durable --deliveries 5 --dead-letters orders.dead
    """
    from ipcd_client.primitives.errors import NameTaken

    with _handle(session, name, deliveries=deliveries or 0, **options) as handle:
        try:
            made = handle.create(exist_ok=not exclusive)
        except NameTaken as error:
            raise Failure(str(error), "ALREADY_EXISTS", NO) from None
        stat = handle.stat()
    if session.output.json:
        session.output.document({"made": made, "queue": stat.name, "node": stat.node})
    elif not made:
        session.output.remark(f"there is a queue {stat.name} on node {stat.node} already")
    return OK


@queue.command("send")
@_name
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option("--priority", metavar="0-31", type=click.IntRange(0, 31), default=0, show_default=True)
@click.option("--type", "type_", metavar="N", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--delay", metavar="SECONDS", type=Seconds(zero=True), default=0.0, help="Before it can be received.")
@click.option("--lines", is_flag=True, help="Each line of standard input is a message.")
@click.option("--create", is_flag=True, help="Make the queue, if there is none.")
@_waits
@common
@pass_session
def send(
    session: Session,
    name: str,
    texts: tuple[str, ...],
    priority: int,
    type_: int,
    delay: float,
    lines: bool,
    create: bool,
    wait: float | None,
) -> int:
    """Send each TEXT, or standard input, as a message.

    Exit code 1 if there was no room within --wait.

    \b
    Examples:
      ipcctl queue send jobs build deploy
      ipcctl queue send jobs --priority 31 < job.json
      tail -f log | ipcctl queue send lines --lines
    """
    from ipcd_client.primitives.queue import Draft

    if texts and lines:
        raise WrongUsage("TEXT and --lines exclude each other")
    source: Iterator[bytes]
    if lines:
        source = (line.removesuffix(b"\n") for line in sys.stdin.buffer)
    elif texts:
        source = (text.encode("utf-8", "surrogateescape") for text in texts)
    else:
        source = iter([sys.stdin.buffer.read()])
    ids = []
    with _handle(session, name, create=create) as handle, _no("FULL"):
        for data in source:
            ids += handle.send_many([Draft(data, priority, type_, delay)], timeout=wait)
    if session.output.json:
        session.output.document({"queue": name, "ids": ids})
    return OK


@queue.command("receive")
@_name
@_type
@click.option("-n", "--count", metavar="N", type=click.IntRange(min=1), default=1, help="How many. [default: 1]")
@click.option("--follow", is_flag=True, help="Until interrupted, or nothing comes within --wait.")
@click.option("--null", is_flag=True, help="End each with a null byte instead of a newline.")
@_waits
@common
@pass_session
def receive(session: Session, name: str, type_: int, count: int, follow: bool, null: bool, wait: float | None) -> int:
    """Receive messages, and print them. Each is acknowledged once it is printed.

    Exit code 1 if fewer came, each within --wait.

    \b
    Examples:
      ipcctl queue receive jobs
      ipcctl queue receive jobs --wait 0 -o json | jq -r .text
      ipcctl queue receive lines --follow
    """
    with _handle(session, name) as handle, _no("EMPTY"):
        received = 0
        while follow or received < count:
            message = handle.receive(type_, wait, ack=False)
            _print(session.output, message, b"\0" if null else b"\n")
            message.ack()
            received += 1
    return OK


@queue.command("peek")
@_name
@_type
@click.option("-n", "--count", metavar="N", type=click.IntRange(1, _MOST), default=1, help="How many. [default: 1]")
@common
@pass_session
def peek(session: Session, name: str, type_: int, count: int) -> int:
    """Print what would be received next, and leave it there.

    Exit code 1 if there is nothing.

    \b
    Examples:
      ipcctl queue peek jobs
      ipcctl queue peek jobs -n 100 -o json
    """
    with _handle(session, name) as handle:
        messages = handle.peek(count, type_)
    if not messages:
        raise Failure(f"there is nothing in queue {name}", "EMPTY", NO)
    for message in messages:
        _print(session.output, message, b"\n")
    return OK


@queue.command("purge")
@_name
@common
@pass_session
def purge(session: Session, name: str) -> int:
    """Throw away all messages that nobody holds.

    \b
    Example:
      ipcctl queue purge jobs
    """
    with _handle(session, name) as handle:
        _counted(session.output, handle.purge(), "thrown away")
    return OK


@queue.command("rm")
@_name
@common
@pass_session
def rm(session: Session, name: str) -> int:
    """Remove a queue with all that is in it.

    \b
    Example:
      ipcctl queue rm jobs@b
    """
    with _handle(session, name) as handle:
        _counted(session.output, handle.remove(), "removed with it")
    return OK


@queue.command("stat")
@_name
@common
@pass_session
def stat(session: Session, name: str) -> int:
    """What there is in a queue, and how it was made.

    \b
    Example:
      ipcctl queue stat jobs -o json | jq .ready
    """
    import dataclasses

    with _handle(session, name) as handle:
        facts = dataclasses.asdict(handle.stat())
    if session.output.json:
        session.output.document(facts)
    else:
        session.output.facts([(key.replace("_", " "), _text(value)) for key, value in facts.items()])
    return OK


@queue.command("ls")
@common
@pass_session
def ls(session: Session) -> int:
    """All queues of all nodes.

    \b
    Examples:
      ipcctl queue ls
      ipcctl queue ls -o json | jq -r '.[] | select(.ready > 100) | .queue'
    """
    rows = [_row(session, name.name, name.node) for name in _names(session)]
    if session.output.json:
        session.output.document(rows)
        return OK
    if not rows:
        session.output.remark("there are no queues")
        return OK
    headings = ["QUEUE", "NODE", "READY", "DELAYED", "HELD", "BYTES", "RECEIVERS", "SENDERS", "DURABLE", "ERROR"]
    keys = ["queue", "node", "ready", "delayed", "held", "bytes", "receivers", "senders", "durable", "error"]
    if not any(row["error"] for row in rows):
        headings.pop(), keys.pop()
    shown = [[_text(row[key]) for key in keys] for row in rows]
    session.output.table(headings, shown, right=range(2, 8))
    return OK


def _handle(session: Session, name: str, **options: Any) -> Queue:
    from ipcd_client.primitives.queue import queue as handle

    with session.node() as node:
        return handle(name, node=node.path, **options)


def _names(session: Session) -> list[Any]:
    from ipcd_client import channel
    from ipcd_client.node.target import NODE_API
    from ipcd_client.pb.ipcd.v1 import names_pb2, names_pb2_grpc

    with session.node() as node, channel(NODE_API, node=node.path) as own:
        request = names_pb2.ListNamesRequest(kind="queue")
        return list(names_pb2_grpc.NamesStub(own).List(request, timeout=session.wait).names)


def _row(session: Session, name: str, node: str) -> dict[str, Any]:
    from ipcd_client.errors import IpcdError

    row: dict[str, Any] = dict.fromkeys(("ready", "delayed", "held", "bytes", "receivers", "senders", "durable"))
    error = None
    try:
        with _handle(session, f"{name}@{node}") as handle:
            stat = handle.stat()
        row = {key: getattr(stat, key) for key in row}
    except IpcdError as failed:
        # Its name is known, and its node may be out of reach, or not tell us.
        error = str(failed)
    return {"queue": name, "node": node, **row, "error": error}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)


class _no:  # noqa: N801  # reads as a phrase
    """Within it, nothing in time is the answer no."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        from ipcd_client.primitives.errors import Empty, Full, TimedOut

        if isinstance(error, (Empty, Full, TimedOut)):
            raise Failure(str(error), self._code, NO) from None


def _print(output: Output, message: Message, end: bytes) -> None:
    if not output.json:
        sys.stdout.buffer.write(message.data + end)
        sys.stdout.buffer.flush()
        return
    try:
        content = {"text": message.data.decode()}
    except UnicodeDecodeError:
        content = {"base64": b64encode(message.data).decode()}
    facts = {"id": message.id, "priority": message.priority, "type": message.type, "sent": message.sent}
    output.record({**facts, "deliveries": message.deliveries, **content})


def _counted(output: Output, count: int, what: str) -> None:
    if output.json:
        output.document({"messages": count})
    else:
        output.remark(f"{count} message{'s' * (count != 1)} {what}")
