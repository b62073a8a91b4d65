"""`ipcctl cert`: the certificates of a cluster. It asks no daemon: an authority is best kept where none runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ipcd_client.cli.failures import NO, OK, USAGE
from ipcd_client.cli.group import Group
from ipcd_client.cli.session import Session, formatted, pass_session

if TYPE_CHECKING:
    from ipcd_client.certs.authority import Authority
    from ipcd_client.certs.reading import Seen

F = TypeVar("F", bound=Callable[..., Any])

_DAY: Final = 86400.0
_DAYS: Final = 365
_EXPIRED: Final = "expired"
_NOT_YET: Final = "not yet"
_COLOURS: Final = {_EXPIRED: "red", _NOT_YET: "red"}


def _directory(function: F) -> F:
    return click.option(
        "--dir",
        "directory",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where the authority is kept. [default: $XDG_CONFIG_HOME/ipcd/authority, else ~/.config/ipcd/authority]",
    )(function)


@click.group("cert", cls=Group, invoke_without_command=True)
@click.pass_context
def cert(ctx: click.Context) -> None:
    """Make and show the certificates of a cluster.

    By them nodes and their processes know each other. An authority, which stays with you, makes an identity file for
    each node; the node's daemon is started with it. None of these commands needs a daemon.

    \b
    Examples:
      ipcctl cert init --cluster lab
      ipcctl cert issue host1 host2
      ipcctl cert show host1.pem
      ipcctl cert rotate
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit(USAGE)


@cert.command("init")
@click.option("--cluster", metavar="NAME", default="default", show_default=True, help="The cluster that it is for.")
@_directory
@click.option("--force", is_flag=True, help="Even if there is one: its nodes then need new files, all at once.")
@formatted
@pass_session
def init(session: Session, cluster: str, directory: Path | None, force: bool) -> None:
    """Make the authority of a cluster.

    Whoever has its key can pose as any node. authority.pem has it in the clear, for its owner alone to read: keep it
    where no daemon runs, with a copy in a safe place. It is valid for ten years.

    \b
    Examples:
      ipcctl cert init
      ipcctl cert init --cluster lab --dir /media/stick/lab
    """
    from ipcd_client.certs import authority, reading

    made = authority.Authority.create(directory or authority.default_directory(), cluster, force=force)
    if session.output.json:
        session.output.document(_authority(made))
        return
    session.output.line(f"authority of cluster {cluster}, until {reading.when(made.own.expires)}")
    session.output.facts([("keep to yourself", str(made.path)), ("may be seen", str(made.trusted_path))])
    session.output.remark("next, an identity file for each node: ipcctl cert issue NODE...")


@cert.command("issue")
@click.argument("nodes", metavar="NODE...", nargs=-1, required=True)
@_directory
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="Where to write the files. [default: here]",
)
@click.option(
    "--days",
    metavar="N",
    type=click.IntRange(min=1, max=3650),
    default=_DAYS,
    show_default=True,
    help="For how long they are valid, if the authority is.",
)
@click.option("--force", is_flag=True, help="Overwrite files that are there, as when they are renewed.")
@formatted
@pass_session
def issue(session: Session, nodes: tuple[str, ...], directory: Path | None, out: Path, days: int, force: bool) -> None:
    """Make an identity file for each NODE.

    NODE.pem is for `ipcd run --identity NODE.pem` on that node alone. In it are a new key, the node's certificate, and
    the authorities that the node trusts. The key is nowhere else. Bring the file to the node so that nobody else sees
    it, with mode 0600, for the user who runs the daemon.

    \b
    Examples:
      ipcctl cert issue host1 host2
      ipcctl cert issue host1 --days 30 --force
      ipcctl cert issue host3 --out /media/stick -o json
    """
    from ipcd_client.certs import authority, files, reading

    loaded = authority.Authority.load(directory or authority.default_directory())
    # All of them are checked first: rather no file than some.
    made = {out / f"{node}.pem": loaded.issue(node, days) for node in nodes}
    if not force:
        for path in made:
            files.refuse_to_overwrite(path)
    for path, issued in made.items():
        files.write(path, issued.content, files.PRIVATE, force=force)
    if session.output.json:
        session.output.document([_certificate(str(path), issued.seen) for path, issued in made.items()])
        return
    rows = [
        [issued.seen.node, str(path), reading.when(issued.seen.expires), issued.seen.sha256]
        for path, issued in made.items()
    ]
    session.output.table(["NODE", "FILE", "VALID UNTIL", "SHA-256"], rows)


@cert.command("show")
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@formatted
@pass_session
def show(session: Session, paths: tuple[str, ...]) -> int:
    """Which certificates are in files.

    Each line is a certificate: who it is for, who made it, and until when it is valid. Keys are not shown. Exit code 1
    if one of them has expired, or is not valid yet.

    \b
    Kinds: authority; cross-signed (an authority, as an older one vouches for it during a rotation); node; daemon and
    process (what a node makes for those who run there, which are in no file); other.

    \b
    Examples:
      ipcctl cert show host1.pem
      ipcctl cert show ~/.config/ipcd/authority/authority.pem
      ipcctl cert show *.pem -o json | jq -r '.[] | select(.days_left < 30) | .file'
    """
    from ipcd_client.certs import reading

    found = [(path, seen) for path in paths for seen in reading.look_into(path)]
    now = time.time()
    if session.output.json:
        session.output.document([_certificate(path, seen) for path, seen in found])
    else:
        rows = [
            [
                path,
                seen.kind,
                seen.identity,
                seen.issuer,
                reading.when(seen.expires),
                _left(seen, now),
                seen.sha256,
            ]
            for path, seen in found
        ]
        headings = ["FILE", "KIND", "IDENTITY", "ISSUER", "VALID UNTIL", "DAYS LEFT", "SHA-256"]
        session.output.table(headings, rows, right=[5], colours=_COLOURS)
    return OK if all(seen.begins <= now < seen.expires for _, seen in found) else NO


@cert.command("rotate")
@_directory
@click.option("--retire", is_flag=True, help="End a rotation: the older authority is trusted no longer.")
@formatted
@pass_session
def rotate(session: Session, directory: Path | None, retire: bool) -> None:
    """Replace the authority, while nodes run.

    That is due every few years, and when its key, or a node's, is in wrong hands. It takes two steps. After the first,
    nodes with new files and with old ones accept each other: issue every node's file anew, and restart the nodes, in
    any order. After the second, issue and restart once more: from then on nodes trust the new authority alone.

    \b
    Examples:
      ipcctl cert rotate
      ipcctl cert rotate --retire
    """
    from ipcd_client.certs import authority, reading

    current = authority.Authority.load(directory or authority.default_directory())
    retired = []
    if retire:
        retired = current.retire()
    else:
        current.rotate()
    if session.output.json:
        gone = [_certificate("", each) | {"file": None} for each in retired]
        session.output.document(_authority(current) | {"retired": gone})
        return
    rows = [[seen.subject, _state(seen, current), reading.when(seen.expires)] for seen in (*current.trusted, *retired)]
    session.output.table(["AUTHORITY", "STATE", "VALID UNTIL"], rows)
    session.output.remark("next, issue all nodes' files anew, and restart the nodes: ipcctl cert issue --force NODE...")
    if not retire:
        session.output.remark("when the last node has its new file: ipcctl cert rotate --retire")


def _authority(made: Authority) -> dict[str, Any]:
    return {
        "cluster": made.own.cluster,
        "rotating": made.rotating,
        "authority": str(made.path),
        "trusted": str(made.trusted_path),
        "certificates": [_certificate(str(made.trusted_path), each) for each in made.trusted],
    }


def _certificate(path: str, seen: Seen) -> dict[str, Any]:
    """In JSON. What there is none of is null."""
    return {
        "file": path,
        "kind": seen.kind,
        "identity": seen.identity or None,
        "cluster": seen.cluster or None,
        "node": seen.node or None,
        "subject": seen.subject,
        "issuer": seen.issuer,
        "serial": f"{seen.serial:x}",
        "not_before": _iso(seen.begins),
        "not_after": _iso(seen.expires),
        "expires": seen.expires,
        "days_left": round((seen.expires - time.time()) / _DAY, 1),
        "sha256": seen.sha256,
    }


def _iso(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat()


def _left(seen: Seen, now: float) -> str:
    if seen.expires <= now:
        return _EXPIRED
    return _NOT_YET if now < seen.begins else str(int((seen.expires - now) / _DAY))


def _state(seen: Seen, authority: Authority) -> str:
    if seen.sha256 == authority.own.sha256:
        return "signs"
    return "trusted" if any(seen.sha256 == each.sha256 for each in authority.trusted) else "retired"
