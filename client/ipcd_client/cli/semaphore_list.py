"""`ipcctl sem ls`: which semaphores there are, who holds and who waits, and in which circles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ipcd_client.cli.failures import NO, Failure
from ipcd_client.cli.output import Output, duration
from ipcd_client.cli.session import Session, common, pass_session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipcd_client.pb.ipcd.v1 import names_pb2
    from ipcd_client.pb.ipcd.v1 import semaphore_pb2 as pb


def names(session: Session) -> list[names_pb2.Name]:
    """The semaphores of all nodes."""
    import ipcd_client
    from ipcd_client.node.target import NODE_API
    from ipcd_client.pb.ipcd.v1 import names_pb2, names_pb2_grpc

    with session.node() as node, ipcd_client.channel(NODE_API, node=node.path) as channel:
        request = names_pb2.ListNamesRequest(kind="semaphore")
        return list(names_pb2_grpc.NamesStub(channel).List(request, timeout=session.wait).names)


def complete_semaphore(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of semaphores, for the shell."""
    import grpc

    from ipcd_client.errors import IpcdError

    session = ctx.ensure_object(Session)
    # Nobody waits long for a completion, and nobody wants to read an error instead of one.
    session.timeout = 1.0
    try:
        found = {name.name for name in names(session)}
    except (IpcdError, grpc.RpcError):
        return []
    return sorted(name for name in found if name.startswith(incomplete))


@click.command("ls")
@click.argument("name", default="", shell_complete=complete_semaphore)
@common
@pass_session
def ls(session: Session, name: str) -> None:
    """The semaphores of all nodes, who holds and who waits for them, and who waits for one another.

    A circle is a report: nothing is ended for it, and somebody else may still put something in. Only calls that say
    which thread or task they are from are looked at, as those of the library do. Exit code 1 if NAME is given and there
    is none.

    \b
    Examples:
      ipcctl sem ls
      ipcctl sem ls licences
      ipcctl sem ls -o json | jq '.circles'
    """
    wanted, _, at = name.partition("@")
    found = [one for one in names(session) if not name or (one.name == wanted and at in {"", one.node})]
    if name and not found:
        raise Failure(f"there is no semaphore {name}", "NO_SUCH_NAME", NO)
    replies = {home: _look(session, home, one) for home, one in {one.node: one.name for one in found}.items()}
    rows = []
    for one in found:
        reply = replies[one.node]
        info = next((info for info in reply.semaphores if info.name == one.name), None) if reply is not None else None
        rows.append(_row(one, info, answers=reply is not None))
    circles = [
        {"home": home, "waits": [_party(wait.who, wait.name) for wait in circle.waits]}
        for home, reply in sorted(replies.items())
        for circle in (reply.circles if reply is not None else ())
        if not name or any(wait.name == wanted for wait in circle.waits)
    ]
    if session.output.json:
        session.output.document({"semaphores": rows, "circles": circles})
        return
    _show(session.output, rows, circles)


def _look(session: Session, home: str, name: str) -> pb.SemaphoreLookReply | None:
    """What its daemon says; None where it does not answer."""
    import grpc

    from ipcd_client.errors import IpcdError
    from ipcd_client.node.paths import default_socket
    from ipcd_client.pb.ipcd.v1 import semaphore_pb2, semaphore_pb2_grpc
    from ipcd_client.primitives.place import Place

    place = Place("semaphore", f"{name}@{home}", session.socket or default_socket())
    request = semaphore_pb2.SemaphoreLookRequest(name=place.text, all=True)

    def act(stub: Any) -> pb.SemaphoreLookReply:
        reply: pb.SemaphoreLookReply = stub.Look(request, timeout=session.wait)
        return reply

    try:
        return place.run(semaphore_pb2_grpc.SemaphoreStub, act)
    except (IpcdError, grpc.RpcError):
        return None
    finally:
        place.close()


def _row(one: names_pb2.Name, info: pb.SemaphoreInfo | None, *, answers: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"name": one.name, "node": one.node, "uid": one.uid, "created": one.created}
    # One that its home does not show: it may not be read.
    row["state"] = "shown" if info is not None else "hidden" if answers else "unreachable"
    if info is not None:
        row |= {
            "value": info.value,
            "initial": info.initial,
            "held": info.held,
            "waiting": info.waiting,
            "holders": [_party(who) for who in info.holders],
            "waiters": [_party(who) for who in info.waiters],
        }
    return row


def _party(who: pb.SemaphoreParty, name: str = "") -> dict[str, Any]:
    shown = {"node": who.node, "pid": who.pid, "party": who.party, "count": who.count, "seconds": round(who.seconds, 3)}
    return shown | ({"semaphore": name} if name else {})


def _show(output: Output, rows: list[dict[str, Any]], circles: list[dict[str, Any]]) -> None:
    if not rows:
        output.remark("there are no semaphores")
        return
    figures = ("value", "initial", "held", "waiting")
    output.table(
        ["NAME", "NODE", "VALUE", "INITIAL", "HELD", "WAITING"],
        [
            [row["name"], row["node"], *(str(row[figure]) if "value" in row else row["state"] for figure in figures)]
            for row in rows
        ],
        right=[2, 3, 4, 5],
    )
    people = [
        [f"{row['name']}@{row['node']}", does, str(who["count"]), who["node"], str(who["pid"]), who["party"], _for(who)]
        for row in rows
        for does, key in (("holds", "holders"), ("waits", "waiters"))
        for who in row.get(key, ())
    ]
    if people:
        output.line()
        output.table(["SEMAPHORE", "", "COUNT", "BY NODE", "PID", "PARTY", "FOR"], people, right=[2, 4, 6])
    for circle in circles:
        output.line()
        output.line("a circle: each waits for what the next one holds")
        for line in _steps(circle["home"], circle["waits"]):
            output.line(f"  {line}")


def _steps(home: str, waits: list[dict[str, Any]]) -> Iterable[str]:
    for wait, following in zip(waits, [*waits[1:], waits[0]], strict=True):
        yield (f"{_name(wait)} waits for {wait['semaphore']}@{home}, for {_for(wait)}; of that has {_name(following)}")


def _name(who: dict[str, Any]) -> str:
    return f"process {who['pid']} on {who['node']} ({who['party']})"


def _for(who: dict[str, Any]) -> str:
    return duration(who["seconds"])
