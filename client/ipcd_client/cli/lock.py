"""`ipcctl lock`: hold a lock while a program runs, and see who holds which."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from ipcd_client.cli.failures import NO, Failure
from ipcd_client.cli.group import Group
from ipcd_client.cli.output import duration
from ipcd_client.cli.session import Seconds, Session, common, grace_option, pass_session

if TYPE_CHECKING:
    from ipcd_client.primitives.lock_terms import Info, Party

# Of the environment of the program that runs while the lock is held.
TOKEN = "IPCD_LOCK_TOKEN"


def complete_lock(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of locks, for the shell."""
    from ipcd_client.cli.locks import names
    from ipcd_client.errors import IpcdError

    session = ctx.ensure_object(Session)
    session.timeout = 1.0
    try:
        with session.node() as node:
            return sorted({name.name for name in names(node) if name.name.startswith(incomplete)})
    except IpcdError:
        return []


class Range(click.ParamType[tuple[int, int]] if TYPE_CHECKING else click.ParamType):  # type: ignore[misc]
    """START or START:LENGTH."""

    name = "range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        start, _, length = str(value).partition(":")
        if not (start.isdecimal() and (length or "0").isdecimal()):
            self.fail(f"{value!r} is not START or START:LENGTH, in bytes", param, ctx)
        return int(start), int(length or "0")


@click.group("lock", cls=Group)
@common
def lock() -> None:
    """Locks by name, for programs on all nodes.

    \b
    Examples:
      ipcctl lock run nightly -- ./backup.sh
      ipcctl lock ls
    """


@lock.command("run")
@click.argument("name", shell_complete=complete_lock)
@click.argument("command", metavar="-- COMMAND [ARGUMENT]...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--shared", is_flag=True, help="Together with others who share it.")
@click.option("--range", "range_", metavar="START[:LENGTH]", type=Range(), help="Only these bytes. [default: all]")
@click.option(
    "--wait", metavar="SECONDS", type=Seconds(zero=True), help="For the lock; 0: not at all. [default: no limit]"
)
@grace_option
@common
@pass_session
def run(
    session: Session,
    name: str,
    command: tuple[str, ...],
    shared: bool,
    range_: tuple[int, int] | None,
    wait: float | None,
    grace: float,
) -> int:
    """Run COMMAND while holding the lock NAME, or NAME@NODE.

    IPCD_LOCK_TOKEN in COMMAND's environment is the fencing token. If the lock is lost,
    because the daemon that keeps it has ended or cannot be reached, or somebody has removed it, COMMAND is ended; so it
    is if this process is killed. TERM and HUP are passed on to it, INT is not.

    Where COMMAND is, or starts, another `lock run`, deadlocks of such programs are not found: use --wait.

    Exit code: COMMAND's, or 128 and the number of the signal that ended it; 126 or 127 if it cannot be run; 1 if the
    lock was not to be had within --wait; 4 if it was refused, or cannot be reached.

    \b
    Examples:
      ipcctl lock run nightly -- ./backup.sh
      ipcctl lock run nightly@b --wait 0 -- ./backup.sh --full
      ipcctl lock run ledger --shared --range 0:100 -- sh -c 'echo $IPCD_LOCK_TOKEN'
    """
    from ipcd_client.cli.running import run_holding
    from ipcd_client.primitives.errors import TimedOut
    from ipcd_client.primitives.lock import lock as handle_of

    # To find the daemon first: an error here is one of no daemon.
    with session.node() as node:
        path = node.path
    wanted = handle_of(name, node=path)
    wanted = wanted.shared() if shared else wanted
    wanted = wanted.range(*range_) if range_ else wanted
    try:
        held = wanted.acquire(wait)
    except TimedOut as error:
        raise Failure(str(error), "TIMED_OUT", NO, lock=name) from None
    return run_holding(session.output, held, command, {TOKEN: str(held.token)}, grace)


@lock.command("ls")
@click.argument("name", default="", shell_complete=complete_lock)
@common
@pass_session
def ls(session: Session, name: str) -> None:
    """Who holds which locks and who waits for them, on every node; or for NAME only.

    One row for each range that is held or waited for. A process 0 is a client of that node's gateway. TOKEN is the
    fencing token of the last exclusive grant. Exit code 1 if NAME is given and there is none.

    \b
    Examples:
      ipcctl lock ls
      ipcctl lock ls nightly
      ipcctl lock ls -o json | jq -r '.[] | select(.waiter_count > 0) | .name'
    """
    from ipcd_client.cli.locks import look

    with session.node() as node:
        found, silent = look(node, session.wait, name)
    if session.output.json:
        session.output.document([dataclasses.asdict(info) for info in found])
    elif found:
        rows = [row for info in found for row in _rows(info)]
        headings = ["LOCK", "NODE", "TOKEN", "STATE", "MODE", "RANGE", "PROCESS", "UID", "FOR"]
        session.output.table(headings, rows, right=[2, 7, 8])
    for where, why in silent.items():
        session.output.remark(f"node {where} does not say who holds its locks: {why}")
    if name and not found:
        raise Failure(f"there is no lock {name!r}", "NO_SUCH_NAME", NO, lock=name)
    if not found:
        session.output.remark("there are no locks")


@lock.command("rm")
@click.argument("name", shell_complete=complete_lock)
@click.option("--force", is_flag=True, help="Also if it is held or waited for: who does loses it.")
@common
@pass_session
def rm(session: Session, name: str, force: bool) -> None:
    """Remove the lock NAME, or NAME@NODE; with --force, take it from whoever holds it.

    \b
    Examples:
      ipcctl lock rm nightly
      ipcctl lock rm --force nightly@b
    """
    from ipcd_client.primitives.errors import InUse, NoSuchName
    from ipcd_client.primitives.lock import lock as handle_of

    with session.node() as node:
        path = node.path
    try:
        handle_of(name, node=path).remove(force=force)
    except NoSuchName as error:
        raise Failure(str(error), "NO_SUCH_NAME", NO, lock=name) from None
    except InUse as error:
        raise Failure(f"{error}; --force takes it from them", "IN_USE", NO, lock=name) from None


def _rows(info: Info) -> list[list[str]]:
    start = [info.name, info.node, str(info.token or "")]
    rows = [
        [*start, state, *_party(party)]
        for state, parties in (("held", info.holders), ("waits", info.waiters))
        for party in parties
    ]
    left = info.holder_count + info.waiter_count - len(rows)
    if left > 0:
        rows.append([*start, f"{left} more", "", "", "", "", ""])
    return rows or [[*start, "free", "", "", "", "", ""]]


def _party(party: Party) -> list[str]:
    end = f"{party.start}-{party.start + party.length - 1}" if party.length else f"{party.start}-"
    return [
        "shared" if party.shared else "exclusive",
        end if party.length or party.start else "all",
        f"{party.pid}@{party.node}",
        str(party.uid),
        duration(party.seconds),
    ]
