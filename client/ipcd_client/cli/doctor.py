"""`ipcctl doctor`: what an operator would look at first."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ipcd_client import __version__
from ipcd_client.cli import catalog, diagnosis
from ipcd_client.cli.diagnosis import Finding
from ipcd_client.cli.failures import NO, OK
from ipcd_client.cli.session import Session, common, pass_session
from ipcd_client.errors import IpcdError, NoDaemon, NotAllowed
from ipcd_client.node.paths import default_socket

if TYPE_CHECKING:
    from ipcd_client.cli.backend import Node

_SIOCGIFFLAGS: Final = 0x8913
_IFREQ: Final = struct.Struct("16sH22x")
_DENIED: Final = "run a daemon of your own, or run as its user"
_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("doctor")
@common
@pass_session
def doctor(session: Session) -> int:
    """Look for what may be wrong: the socket and its rights, the daemon, limits, shared memory, multicast, other nodes.

    Each line is ok, warn (it works, though not as well as it could) or fail, with what to do. Exit code 1 if something
    fails. What depends on the process, such as limits, is looked at from here: ask as the user, and in the container,
    that has the trouble.

    \b
    Examples:
      ipcctl doctor
      ipcctl doctor -o json | jq -r '.[] | select(.status != "ok") | .advice'
    """
    findings = [*_daemon(session), *_process()]
    if session.output.json:
        session.output.document([finding.as_json() for finding in findings])
    else:
        rows = [[each.status, each.check, each.text, each.advice] for each in findings]
        session.output.table(["", "CHECK", "FOUND", "WHAT TO DO"], rows, colours=_COLOURS)
    return NO if any(finding.status == "fail" for finding in findings) else OK


def _daemon(session: Session) -> list[Finding]:
    path = session.socket or default_socket()
    try:
        status = Path(path).lstat()
    except PermissionError:
        return [_denied(path)]
    except OSError:
        return [diagnosis.socket_file(path, None, 0, os.geteuid())]
    findings = [diagnosis.socket_file(path, status.st_mode, status.st_uid, os.geteuid())]
    if findings[0].status == "fail":
        return findings
    try:
        with session.node() as node:
            return [*findings, *_asked(node)]
    except NoDaemon as error:
        if isinstance(error.__cause__ and error.__cause__.__cause__, ConnectionRefusedError):
            return [*findings, diagnosis.stale(path)]
        return [*findings, Finding("daemon", "fail", str(error), "look at its log")]
    except NotAllowed as error:
        return [*findings, Finding("socket", "fail", str(error), f"{_DENIED}, or have a rule let this user in")]
    except IpcdError as error:
        advice = "is it stuck? look at its log, and restart it: calls that run go on"
        return [*findings, Finding("daemon", "fail", str(error), advice)]


def _denied(path: str) -> Finding:
    advice = f"{_DENIED}; in a container, look at the rights of the mounted directory"
    return Finding("socket", "fail", f"uid {os.geteuid()} may not open {path}", advice)


def _asked(node: Node) -> list[Finding]:
    status = node.status()
    known = node.nodes()
    return [
        *diagnosis.daemon(status, __version__, node.ping()),
        *diagnosis.certificate(status, time.time()),
        *_daemon_descriptors(status.pid),
        diagnosis.multicast(status.discovery, status.listen, _interfaces()),
        *diagnosis.nodes(known, [catalog.state_name(info) for info in known]),
    ]


def _daemon_descriptors(pid: int) -> list[Finding]:
    """Nothing where this cannot be seen: another PID namespace, or another user's."""
    try:
        if "ipcd" not in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace"):
            return []
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    except OSError:
        return []
    return [diagnosis.daemon_descriptors(used, limit)]


def _process() -> list[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [diagnosis.descriptors(soft), diagnosis.shared_memory(_memory_problem())]


def _memory_problem() -> str:
    from ipcd_client.wire import segment

    try:
        _, _, parts = segment.create(segment.SMALLEST)
        segment.take(parts, segment.SMALLEST)
    except (OSError, IpcdError) as error:
        return f"it cannot be used: {error}"
    return ""


def _interfaces() -> dict[str, int]:
    """The flags of each network interface."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ.pack(name.encode(), 0))
            except OSError:
                continue  # gone meanwhile
            found[name] = _IFREQ.unpack(answer)[1]
    return found
