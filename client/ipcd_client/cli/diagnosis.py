"""What `ipcctl doctor` makes of what it has found out. Pure: facts go in, findings come out."""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Literal

from ipcd_client.cli.output import duration

if TYPE_CHECKING:
    from ipcd_client.pb.ipcd.v1 import node_pb2

Status = Literal["ok", "warn", "fail"]

# Descriptors that a connection over shared memory may take in each of its two processes.
PER_CONNECTION: Final = 8
# Fewer connections than these at a time: something will go wrong soon; a busy server may run out.
FEW: Final = 16
PLENTY: Final = 500
# Of the daemon's descriptors.
_NEARLY_ALL: Final = 0.8
# Seconds. Deadlines travel as time left, so a clock that is wrong harms no call; it does harm who compares logs.
_CLOCK: Final = 1.0
# Seconds. A certificate is to be replaced when it has less left than this.
_DAY: Final = 86400.0
_RENEW: Final = 30 * _DAY
_IFF_UP: Final = 0x1
_IFF_LOOPBACK: Final = 0x8
_IFF_MULTICAST: Final = 0x1000


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `advice`: what to do; empty where all is well."""

    check: str
    status: Status
    text: str
    advice: str = ""

    def as_json(self) -> dict[str, str | None]:
        """For programs."""
        return {**asdict(self), "advice": self.advice or None}


def socket_file(path: str, mode: int | None, owner: int, uid: int) -> Finding:
    """The daemon's socket file: its `st_mode` (None: it is not there) and owner, and who asks."""
    if mode is None:
        return Finding(
            "socket", "fail", f"there is no {path}", f"start a daemon: ipcd run --socket {path}; or set IPCD_SOCKET"
        )
    if not stat.S_ISSOCK(mode):
        return Finding("socket", "fail", f"{path} is not a socket", "set IPCD_SOCKET, or move that file away")
    text = f"{path}, uid {owner}, mode {stat.S_IMODE(mode):04o}"
    if uid not in {0, owner} and not mode & 0o022:
        advice = "run a daemon of your own, run as that user, or have a rule of the daemon's let this one in"
        return Finding("socket", "fail", f"{text}; this is uid {uid}", advice)
    if stat.S_IMODE(mode) == 0o666:
        # As a daemon makes it whose rules let other users in.
        return Finding("socket", "ok", f"{text}: all users may ask; the daemon's rules say who is let in")
    if stat.S_IMODE(mode) & 0o077:
        advice = f"chmod 0600 {path} (SocketMode=0600): the daemon refuses other users, but they can fill its queue"
        return Finding("socket", "warn", text, advice)
    return Finding("socket", "ok", text)


def stale(path: str) -> Finding:
    """The socket file is there, and nobody listens on it."""
    advice = f"start a daemon, which takes the file over: ipcd run --socket {path}"
    return Finding("daemon", "fail", f"a daemon that is gone has left {path}", advice)


def daemon(status: node_pb2.StatusReply, own_version: str, round_trip: float) -> list[Finding]:
    """The daemon that answers, `round_trip` in seconds."""
    text = f"node {status.node}, pid {status.pid}, up {duration(status.uptime)}, answers in {duration(round_trip)}"
    findings = [Finding("daemon", "ok", text)]
    if status.version != own_version:
        text = f"the daemon is {status.version}, this program {own_version}"
        findings.append(Finding("version", "warn", text, "restart the daemon after an upgrade, or use its own ipcctl"))
    else:
        findings.append(Finding("version", "ok", own_version))
    if status.insecure:
        text = f"{status.listen} takes connections without proof of identity"
        findings.append(Finding("network", "warn", text, "do so only where every member of the network is trusted"))
    return findings


def certificate(status: node_pb2.StatusReply, now: float) -> list[Finding]:
    """The node's, if it has one. `now`: in seconds since the epoch."""
    if not status.identity:
        return []
    left = status.certificate_expires - now
    advice = f"ipcctl cert issue {status.node} --force where the authority is; then SIGHUP to the daemon"
    if left <= 0:
        text = f"that of {status.identity} has expired: other nodes refuse this one"
        return [Finding("certificate", "fail", text, advice)]
    text = f"{status.identity}, for {left / _DAY:.0f} more days"
    return [Finding("certificate", "warn" if left < _RENEW else "ok", text, advice if left < _RENEW else "")]


def descriptors(soft: int) -> Finding:
    """The limit of programs that are started from here. `soft`: -1 for none."""
    room = soft // PER_CONNECTION
    text = f"a limit of {soft}, which is {room} connections over shared memory in a process"
    advice = "raise it where programs are started: ulimit -n 65536, or LimitNOFILE=65536 in their units"
    if soft < 0:
        return Finding("descriptors", "ok", "no limit")
    if room < FEW:
        return Finding("descriptors", "fail", text, advice)
    if room < PLENTY:
        return Finding("descriptors", "warn", text, advice)
    return Finding("descriptors", "ok", text)


def daemon_descriptors(used: int, limit: int) -> Finding:
    """The daemon's own: one for each attached process."""
    text = f"the daemon uses {used} of {limit}"
    if used >= limit * _NEARLY_ALL:
        return Finding("daemon descriptors", "warn", text, "raise its hard limit: LimitNOFILE= in its unit")
    return Finding("daemon descriptors", "ok", text)


def shared_memory(problem: str) -> Finding:
    """Whether a segment could be made, sealed and taken; `problem` is empty if so."""
    if problem:
        advice = "calls take UNIX sockets, which is slower: look at seccomp filters, limits, vm.memfd_noexec"
        return Finding("shared memory", "warn", problem, advice)
    return Finding("shared memory", "ok", "memory can be made, sealed and mapped")


def multicast(discovery: Sequence[str], listen: str, interfaces: Mapping[str, int]) -> Finding:
    """Whether zeroconf can work. `interfaces`: their flags (netdevice(7)) by name."""
    if "zeroconf" not in discovery:
        how = "by named peers" if discovery else "not looked for"
        return Finding("multicast", "ok", f"not needed: other nodes are {how}")
    if _is_loopback(listen):
        return Finding("multicast", "ok", f"not needed: the node listens at {listen}, for this machine alone")
    able = [
        name
        for name, flags in interfaces.items()
        if flags & _IFF_UP and flags & _IFF_MULTICAST and not flags & _IFF_LOOPBACK
    ]
    if able:
        return Finding("multicast", "ok", f"can be sent on {', '.join(able)}")
    advice = "name any other node: ipcd run --peer HOST:PORT"
    return Finding("multicast", "warn", "no interface that is up can send it: zeroconf finds nobody", advice)


def nodes(found: Sequence[node_pb2.NodeInfo], states: Sequence[str]) -> list[Finding]:
    """The nodes that are known, the own one first, and the names of their states."""
    findings = []
    own, own_name = (found[0].version, found[0].node) if found else ("", "")
    linked = 0
    for info, state in zip(found, states, strict=True):
        if state == "self":
            continue
        name = f"node {info.node or '(not known yet)'} at {info.address}"
        if info.node == own_name:
            advice = "give one of the two another name, with --node, and restart it"
            findings.append(
                Finding("nodes", "fail", f"{info.address}: {info.error or 'has the name of this node'}", advice)
            )
        elif state == "linked":
            linked += 1
        else:
            why = f": {info.error}" if info.error else ""
            advice = "is it running, and its port open from here (firewall, --advertise)?"
            if "closed the connection" in why:
                advice = "its log says why; if it has a certificate, this node needs one too: see ipcctl cert --help"
            findings.append(Finding("nodes", "warn", f"{name} is {state}{why}", advice))
        if info.version and info.version != own:
            advice = "end the upgrade: restart the older one"
            findings.append(Finding("nodes", "warn", f"{name} is {info.version}, this one {own}", advice))
        if info.HasField("clock_offset") and abs(info.clock_offset) - info.clock_error > _CLOCK:
            text = f"the clock of {name} differs by {duration(abs(info.clock_offset))}"
            findings.append(Finding("clocks", "warn", text, "calls do not mind; set both by NTP to compare their logs"))
    if not findings:
        findings.append(Finding("nodes", "ok", f"{linked} linked" if linked else "no other nodes"))
    return findings


def _is_loopback(listen: str) -> bool:
    host = listen.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
