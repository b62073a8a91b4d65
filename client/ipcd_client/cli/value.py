"""`ipcctl value`: shared data by name."""

from __future__ import annotations

import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from ipcd_client.cli.failures import NO, Failure, WrongUsage
from ipcd_client.cli.group import Group
from ipcd_client.cli.output import Output, duration, one_line
from ipcd_client.cli.session import Seconds, Session, common, pass_session

if TYPE_CHECKING:
    from ipcd_client.primitives.value import Value
    from ipcd_client.primitives.values import Snapshot

_KIND: Final = "value"
# Bytes of a value that are shown on the line of a change; and those written at once.
_SHOWN: Final = 60
_WRITTEN: Final = 1 << 20


def _complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of values, for the shell."""
    from ipcd_client.errors import IpcdError
    from ipcd_client.primitives.listing import names

    session = ctx.ensure_object(Session)
    session.timeout = 1.0
    try:
        with session.node() as node:
            found = names(node.api(), _KIND, session.wait)
            return sorted({each.name for each in found if each.name.startswith(incomplete)})
    except IpcdError:
        return []


_name = click.argument("name", metavar="NAME[@NODE]", shell_complete=_complete)
_data = click.argument("data", required=False)
_from = click.option(
    "-f",
    "--file",
    type=click.File("rb"),
    metavar="FILE",
    help="Take the bytes from a file, or with - from standard input, which is what is taken without DATA too, also if "
    "it is empty.",
)
_ttl = click.option(
    "--ttl", metavar="SECONDS", type=Seconds(), default=None, help="It ends by itself after this time. [default: never]"
)
_hold = click.option(
    "--hold", is_flag=True, help="It ends with this command, which stays until it is interrupted or killed."
)


@click.group("value", cls=Group)
@common
def value() -> None:
    """Shared data: bytes by name, with versions, that others see at once.

    NAME is found wherever it is kept; NAME@NODE is the one of that node.

    \b
    Examples:
      ipcctl value set limits '{"most": 10}'
      ipcctl value get limits
      ipcctl value watch limits
    """


@value.command("get")
@_name
@click.option("--info", is_flag=True, help="Say what it is, and not its bytes.")
@click.option(
    "--wait", metavar="SECONDS", type=Seconds(zero=True), default=None, help="Wait so long for there to be one."
)
@common
@pass_session
def get(session: Session, name: str, info: bool, wait: float | None) -> int:
    """Print a value's bytes, as they are.

    Exits with 1 if there is none. With -o json the bytes are in "data", in base64, and in "text" where they are UTF-8.

    \b
    Examples:
      ipcctl value get model > model.bin
      ipcctl value get --info model@build7
      ipcctl value get --wait 30 leader
    """
    from ipcd_client.primitives.errors import TimedOut

    with _handle(session, name) as handle:
        found = handle.get()
        if not found and wait is not None:
            try:
                found = handle.wait(found, wait)
            except TimedOut:
                pass
        if not found:
            raise _none(name)
        if session.output.json:
            session.output.document(_as_json(name, found, data=not info))
        elif info:
            session.output.facts(_facts(name, found))
        else:
            _write(found)
    return 0


@value.command("set")
@_name
@_data
@_from
@_ttl
@_hold
@common
@pass_session
def set_(session: Session, name: str, data: str | None, file: BinaryIO | None, ttl: float | None, hold: bool) -> int:
    """Make a value DATA, or the bytes of a file; print its new version.

    Without DATA and --file it is standard input, also where that is empty: the value then has no bytes.

    \b
    Examples:
      ipcctl value set limits '{"most": 10}'
      ipcctl value set model -f model.bin
      date | ipcctl value set --ttl 60 last-seen
      ipcctl value set --hold worker-7 ready
    """
    with _handle(session, name) as handle:
        version = handle.set(_bytes(data, file), ttl=ttl, ephemeral=hold)
        _tell_version(session.output, name, version)
        _stay(hold, handle)
    return 0


@value.command("cas")
@_name
@click.argument("version", type=click.IntRange(min=0))
@_data
@_from
@_ttl
@_hold
@common
@pass_session
def cas(
    session: Session,
    name: str,
    version: int,
    data: str | None,
    file: BinaryIO | None,
    ttl: float | None,
    hold: bool,
) -> int:
    """Make a value DATA if it has this VERSION: 0 for that there is none.

    Prints its new version; exits with 1 if it has another one.

    \b
    Examples:
      ipcctl value cas --hold leader 0 "$HOSTNAME"
      ipcctl value cas limits 7 '{"most": 11}'
    """
    with _handle(session, name) as handle:
        made = handle.compare_and_set(version, _bytes(data, file), ttl=ttl, ephemeral=hold)
        if not made:
            raise _other(name, handle.version(), version)
        _tell_version(session.output, name, made)
        _stay(hold, handle)
    return 0


@value.command("add", context_settings={"ignore_unknown_options": True})
@_name
@click.argument("amount", type=int, default=1)
@common
@pass_session
def add(session: Session, name: str, amount: int) -> int:
    """Add AMOUNT (1) to a value that is a decimal number, 0 where there is none; print the sum.

    \b
    Examples:
      ipcctl value add hits
      ipcctl value add stock -3
    """
    with _handle(session, name) as handle:
        number = handle.add(amount)
    if session.output.json:
        session.output.document({"name": name, "number": number})
    else:
        session.output.line(str(number))
    return 0


@value.command("rm")
@_name
@click.option("--version", type=click.IntRange(min=1), default=None, help="Only if it has this version.")
@common
@pass_session
def rm(session: Session, name: str, version: int | None) -> int:
    """Remove a value. Exits with 1 if there is none, or if it has another version.

    \b
    Examples:
      ipcctl value rm limits
    """
    with _handle(session, name) as handle:
        if not handle.delete(version):
            now = handle.version()
            raise _none(name) if not now else _other(name, now, version or 0)
    if session.output.json:
        session.output.document({"name": name, "removed": True})
    return 0


@value.command("watch")
@_name
@click.option("-n", "--count", metavar="N", type=click.IntRange(min=1), default=None, help="End after N changes.")
@click.option("--data", is_flag=True, help="Print the bytes of each version as they are, and nothing else.")
@common
@pass_session
def watch(session: Session, name: str, count: int | None, data: bool) -> int:
    """Print a line for what a value is, and for each change, until interrupted.

    With --timeout, exits with 1 when so many seconds have gone by without a change. Of changes that follow one another
    quickly the last is always printed.

    \b
    Examples:
      ipcctl value watch limits
      ipcctl value watch -o json limits | jq -r .text
      ipcctl --timeout 60 value watch -n 1 --data door
    """
    from ipcd_client.primitives.errors import TimedOut

    told = 0
    with _handle(session, name) as handle:
        try:
            for found in handle.watch(timeout=session.timeout):
                _tell_change(session.output, name, found, data=data)
                told += 1
                if told == count:
                    break
        except TimedOut as error:
            raise Failure(str(error), "DEADLINE_EXCEEDED", NO) from None
    return 0


@value.command("ls")
@common
@pass_session
def ls(session: Session) -> None:
    """Show the values of all nodes.

    What a node does not say, because it cannot be reached or does not let you read, is shown as -.

    \b
    Examples:
      ipcctl value ls
      ipcctl value ls -o json | jq -r '.values[].name'
    """
    import ipcd_client
    from ipcd_client.errors import IpcdError
    from ipcd_client.primitives.listing import names

    found: list[dict[str, Any]] = []
    with session.node() as node:
        for each in names(node.api(), _KIND, session.wait):
            row: dict[str, Any] = {"name": each.name, "node": each.node, "uid": each.uid, "created": each.created}
            try:
                with ipcd_client.value(f"{each.name}@{each.node}", node=node.path) as handle:
                    info = handle.info()
            except IpcdError as error:
                row["error"] = str(error)
            else:
                if not info.version:
                    continue  # it has just ended
                row |= {"version": info.version, "bytes": info.size, "ttl": info.ttl or None, "held": info.held}
            found.append(row)
    if session.output.json:
        session.output.document({"values": found})
        return
    now = time.time()
    rows = [
        (
            row["name"],
            row["node"],
            str(row.get("version", "")),
            str(row.get("bytes", "")),
            duration(max(0.0, now - row["created"])),
            duration(row["ttl"]) if row.get("ttl") else "",
            "yes" if row.get("held") else "",
        )
        for row in found
    ]
    session.output.table(("NAME", "NODE", "VERSION", "BYTES", "AGE", "ENDS IN", "HELD"), rows, right=(2, 3))


@contextmanager
def _handle(session: Session, name: str) -> Iterator[Value]:
    import ipcd_client

    # Attached first: that there is no daemon is an answer of its own.
    with session.node() as node, ipcd_client.value(name, node=node.path) as handle:
        yield handle


def _bytes(data: str | None, file: BinaryIO | None) -> bytes:
    if data is not None and file is not None:
        raise WrongUsage("DATA and --file: one of them")
    if data is not None:
        return data.encode("utf-8", "surrogateescape")
    return (file or sys.stdin.buffer).read()


def _write(found: Snapshot) -> None:
    for offset in range(0, len(found), _WRITTEN):
        sys.stdout.buffer.write(found.data[offset : offset + _WRITTEN])
    sys.stdout.buffer.flush()


def _stay(hold: bool, handle: Value) -> None:
    """Until interrupted, or the value is not held any more."""
    if hold:
        handle.keep()


def _text(found: Snapshot) -> str | None:
    try:
        return bytes(found).decode()
    except UnicodeDecodeError:
        return None


def _as_json(name: str, found: Snapshot, *, data: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": name,
        "node": found.node,
        "version": found.version,
        "bytes": len(found),
        "ttl": found.ttl,
        "held": found.held,
    }
    if data:
        shown["data"] = b64encode(found.data).decode()
        shown["text"] = _text(found)
    return shown


def _facts(name: str, found: Snapshot) -> list[tuple[str, str]]:
    return [
        ("name", name),
        ("node", found.node),
        ("version", str(found.version)),
        ("bytes", str(len(found))),
        ("ends in", duration(found.ttl) if found.ttl else "-"),
        ("held", "yes" if found.held else "no"),
    ]


def _tell_version(output: Output, name: str, version: int) -> None:
    if output.json:
        output.record({"name": name, "version": version})
    else:
        output.line(str(version))


def _tell_change(output: Output, name: str, found: Snapshot, *, data: bool) -> None:
    if data:
        _write(found)
        return
    now = datetime.now(UTC)
    if output.json:
        time_ = now.isoformat(timespec="milliseconds")
        output.record({"time": time_, **_as_json(name, found, data=bool(found))})
        return
    words = "there is none"
    if found:
        text = _text(found) if len(found) <= _SHOWN else None
        words = f"version {found.version}  {len(found)} bytes" + (f"  {one_line(text)}" if text is not None else "")
    output.line(f"{now.astimezone():%H:%M:%S}  {words}")


def _none(name: str) -> Failure:
    return Failure(f"there is no value {name}", "NO_VALUE", NO)


def _other(name: str, now: int, wanted: int) -> Failure:
    return Failure(f"the value {name} has the version {now}, not {wanted}", "OTHER_VERSION", NO, version=now)
