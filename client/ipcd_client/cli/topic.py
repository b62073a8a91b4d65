"""`ipcctl topic`: publish and subscribe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ipcd_client.cli.failures import CALL_FAILED, NO, OK, Failure, WrongUsage
from ipcd_client.cli.group import Group
from ipcd_client.cli.output import Output, duration
from ipcd_client.cli.session import Seconds, Session, common, pass_session

if TYPE_CHECKING:
    from ipcd_client.pb.ipcd.v1 import topic_pb2
    from ipcd_client.primitives.topics import Message

F = TypeVar("F", bound=Callable[..., Any])

_POLICIES = ("block", "drop-oldest", "drop-newest", "latest")


@click.group("topic", cls=Group)
@common
def topic() -> None:
    """Publish and subscribe, by subjects such as orders.eu.new.

    To listen, * stands for any one token of a subject, and > at the end for one or more. A message goes to each node
    once, and there to all who listen.

    \b
    Examples:
      ipcctl topic sub 'orders.>'
      ipcctl topic pub orders.eu.new 42 --retain
      ipcctl topic ls
    """


@topic.command("pub")
@click.argument("subject", shell_complete=lambda ctx, _, text: _complete(ctx, text))
@click.argument("data", required=False)
@click.option("--lines", is_flag=True, help="Each line of standard input is a message, as it comes.")
@click.option("--retain", is_flag=True, help="Kept for later subscribers, as the last one of SUBJECT.")
@click.option("--keep", metavar="N", type=click.IntRange(0), default=0, help="Kept, as one of the last N of SUBJECT.")
@click.option(
    "--wait",
    metavar="SECONDS",
    type=Seconds(zero=True),
    help="How long to wait for subscribers that block and have no room. [default: for ever]",
)
@common
@pass_session
def pub(
    session: Session, subject: str, data: str | None, lines: bool, retain: bool, keep: int, wait: float | None
) -> int:
    """Give a message to everyone who listens to SUBJECT, on all nodes.

    DATA is the message; without it, standard input is. Exit code 1 if subscribers that block had no room in time; all
    others have the message.

    \b
    Examples:
      ipcctl topic pub orders.eu.new 42
      ipcctl topic pub config.rates --retain < rates.json
      tail -f access.log | ipcctl topic pub logs.web --lines
      ipcctl topic pub orders@b '' -o json
    """
    from ipcd_client.primitives.errors import Full, TimedOut
    from ipcd_client.primitives.topic import topic as make

    if lines and data is not None:
        raise WrongUsage("--lines takes messages from standard input: leave out DATA")
    with session.node() as node, make(subject, node=node.path) as handle:
        for message in _given(data, lines):
            try:
                done = handle.publish(message, retain=retain, keep=keep, wait=wait)
            except (Full, TimedOut) as error:
                raise Failure(str(error), error.code.name, NO) from None
            if session.output.json:
                session.output.record(done._asdict())
    return OK


def _given(data: str | None, lines: bool) -> Iterator[bytes]:
    if data is not None:
        yield data.encode("utf-8", "surrogateescape")
    elif lines:
        for line in sys.stdin.buffer:
            yield line.removesuffix(b"\n")
    else:
        yield sys.stdin.buffer.read()


@topic.command("sub")
@click.argument("pattern", shell_complete=lambda ctx, _, text: _complete(ctx, text))
@click.option("-n", "--count", metavar="N", type=click.IntRange(1), help="End after N messages.")
@click.option(
    "--wait", metavar="SECONDS", type=Seconds(zero=True), help="End if no message comes for so long. [default: never]"
)
@click.option(
    "--replay", metavar="N", type=click.IntRange(0), default=0, help="First, the last N kept of each subject."
)
@click.option("--group", metavar="NAME", default="", help="Each message goes to one of those in the group.")
@click.option(
    "--policy",
    type=click.Choice(_POLICIES),
    default="drop-oldest",
    show_default=True,
    help="What becomes of messages for which there is no room; block: the publisher waits.",
)
@click.option("--most", metavar="N", type=click.IntRange(1), help="Messages that may wait. [default: 1024]")
@click.option("--raw", is_flag=True, help="Print the bytes of messages and nothing else, each with a newline.")
@common
@pass_session
def sub(
    session: Session,
    pattern: str,
    count: int | None,
    wait: float | None,
    replay: int,
    group: str,
    policy: Any,
    most: int | None,
    raw: bool,
) -> int:
    """Print messages of the subjects that PATTERN stands for, until interrupted.

    What was missed is said where it is missing. Exit code 1 if --wait ends it before the first message, or before the
    --count is reached.

    \b
    Examples:
      ipcctl topic sub 'orders.>'
      ipcctl topic sub config.rates --replay 1 --count 1 --wait 0 --raw
      ipcctl topic sub 'jobs.*' --group workers --policy block -o json
    """
    from ipcd_client.primitives.errors import Empty, TimedOut
    from ipcd_client.primitives.topic import topic as make

    came = 0
    with (
        session.node() as node,
        make(pattern, node=node.path) as handle,
        handle.subscribe(policy=policy, most=most or 0, group=group, replay=replay) as messages,
    ):
        while count is None or came < count:
            try:
                message = messages.receive(wait)
            except (Empty, TimedOut):
                return OK if came and count is None else NO
            came += 1
            _print(session.output, message, raw=raw)
    return OK


def _print(output: Output, message: Message, *, raw: bool) -> None:
    data = bytes(message.data)
    if output.json:
        import base64

        try:
            shown = {"data": data.decode()}
        except UnicodeDecodeError:
            shown = {"data_base64": base64.b64encode(data).decode()}
        facts = message._asdict()
        del facts["data"]
        output.record({"subject": facts.pop("subject"), **shown, **facts})
        return
    if message.missed or message.gap:
        more = " and perhaps more" if message.gap else ""
        output.remark(f"missed {message.missed}{more}" if message.missed else "messages may have been missed")
    if raw:
        sys.stdout.buffer.write(data + b"\n")
        sys.stdout.buffer.flush()
    else:
        output.line(f"{message.subject}  {data.decode('utf-8', 'backslashreplace')}")


@topic.command("ls")
@click.argument("pattern", default=">")
@common
@pass_session
def ls(session: Session, pattern: str) -> int:
    """List who listens and what is kept, on all nodes.

    \b
    Examples:
      ipcctl topic ls
      ipcctl topic ls 'orders.>' -o json
    """
    from ipcd_client.primitives import subjects

    subjects.pattern(pattern)
    lists, silent = _lists(session, pattern)
    if session.output.json:
        session.output.document(
            {
                "subscriptions": [_subscription(reply.node, one) for reply in lists for one in reply.subscriptions],
                "kept": [_kept(reply.node, one) for reply in lists for one in reply.kept],
                "nodes": [{"node": one.node, "published": one.published, "sent": one.sent} for one in lists],
            }
        )
    else:
        rows = [
            [
                one["pattern"],
                one["node"],
                one["group"],
                one["policy"],
                f"pid {one['pid']}" if one["caller"] == one["node"] else f"node {one['caller']}",
                str(one["waiting"]),
                str(one["delivered"]),
                str(one["dropped"]),
                str(one["blocked"]),
            ]
            for reply in lists
            for one in map(lambda each, reply=reply: _subscription(reply.node, each), reply.subscriptions)  # type: ignore[misc]
        ]
        headings = ["PATTERN", "NODE", "GROUP", "POLICY", "WHO", "WAITING", "DELIVERED", "DROPPED", "BLOCKED"]
        session.output.table(headings, rows, right=(5, 6, 7, 8))
        now = datetime.now(UTC).timestamp()
        kept = [
            [one.subject, reply.node, str(one.messages), str(one.bytes), duration(max(0.0, now - one.time))]
            for reply in lists
            for one in reply.kept
        ]
        if kept:
            session.output.line()
            session.output.table(["KEPT", "NODE", "MESSAGES", "BYTES", "AGE"], kept, right=(2, 3, 4))
    if silent:
        raise Failure(f"not asked: {'; '.join(silent)}", "UNAVAILABLE", CALL_FAILED)
    return OK


def _subscription(node: str, one: topic_pb2.TopicSubscriptionInfo) -> dict[str, Any]:
    return {
        "pattern": one.pattern,
        "node": node,
        "group": one.group,
        "policy": _POLICIES[one.policy],
        "caller": one.node,
        "pid": one.pid,
        "uid": one.uid,
        "waiting": one.waiting,
        "waiting_bytes": one.waiting_bytes,
        "delivered": one.delivered,
        "dropped": one.dropped,
        "blocked": one.blocked,
    }


def _kept(node: str, one: topic_pb2.TopicKeptInfo) -> dict[str, Any]:
    return {
        "subject": one.subject,
        "node": node,
        "messages": one.messages,
        "bytes": one.bytes,
        "time": one.time,
    }


def _lists(session: Session, pattern: str) -> tuple[list[topic_pb2.TopicListReply], list[str]]:
    """What each node has, and which did not say it."""
    from ipcd_client.errors import IpcdError
    from ipcd_client.pb.ipcd.v1 import node_pb2, topic_pb2, topic_pb2_grpc
    from ipcd_client.primitives import subjects
    from ipcd_client.primitives.place import Place

    with session.node() as node:
        linked = (node_pb2.NodeInfo.STATE_SELF, node_pb2.NodeInfo.STATE_LINKED)
        names = [info.node for info in node.nodes() if info.state in linked]
    name, _, only = pattern.partition("@")
    found, silent = [], []
    for each in [only] if only else names:
        place = Place(subjects.KIND, f"{name}@{each}", session.socket)
        request = topic_pb2.TopicListRequest(name=name)
        try:
            found.append(
                place.run(topic_pb2_grpc.TopicStub, lambda stub: stub.List(request, timeout=session.wait))  # noqa: B023
            )
        except IpcdError as error:
            silent.append(f"node {each}: {error}")
        finally:
            place.close()
    return found, silent


def _complete(ctx: click.Context, incomplete: str) -> list[str]:
    """Subjects and patterns that are in use, for the shell."""
    from ipcd_client.errors import IpcdError

    session = ctx.ensure_object(Session)
    session.timeout = 1.0
    try:
        lists, _ = _lists(session, ">")
    except IpcdError:
        return []
    names = {one.pattern for reply in lists for one in reply.subscriptions}
    names |= {one.subject for reply in lists for one in reply.kept}
    return sorted(name for name in names if name.startswith(incomplete))


@topic.command("rm")
@click.argument("pattern", shell_complete=lambda ctx, _, text: _complete(ctx, text))
@common
@pass_session
def rm(session: Session, pattern: str) -> int:
    """Keep nothing of the subjects that PATTERN stands for any more, on all nodes. Exit code 1 if nothing was kept.

    \b
    Examples:
      ipcctl topic rm orders.eu.new
      ipcctl topic rm 'orders.>' -o json
    """
    from ipcd_client.primitives.topic import topic as make

    with session.node() as node, make(pattern, node=node.path) as handle:
        count = handle.forget()
    if session.output.json:
        session.output.document({"messages": count})
    else:
        session.output.line(f"{count} messages")
    return OK if count else NO
