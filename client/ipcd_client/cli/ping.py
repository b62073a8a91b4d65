"""`ipcctl ping`: round trips."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from ipcd_client.cli import catalog
from ipcd_client.cli.failures import CALL_FAILED, NO, Failure
from ipcd_client.cli.jsoncall import did_you_mean, split_path
from ipcd_client.cli.output import Output, duration, microseconds
from ipcd_client.cli.session import Pins, Seconds, Session, common, complete_service, pass_session, pinned
from ipcd_client.errors import IpcdError

if TYPE_CHECKING:
    from ipcd_client.cli.backend import Node
    from ipcd_client.pb.ipcd.v1 import node_pb2

Ping = Callable[[], float]

# What another node is asked over: the connection of the two daemons.
LINK: Final = "link"


@dataclass(slots=True)
class Tally:
    """What came of the round trips. Times in seconds."""

    what: dict[str, Any]  # who answers, over what
    answered: int = 0
    total: float = 0.0
    least: float = math.inf
    most: float = 0.0
    failed: int = 0
    last_error: str = ""
    # For p99: the last of them only, because a ping may run for days.
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))

    def add(self, seconds: float) -> None:
        """One answer."""
        self.answered += 1
        self.total += seconds
        self.least = min(self.least, seconds)
        self.most = max(self.most, seconds)
        self.recent.append(seconds)

    def fail(self, why: str) -> None:
        """One without."""
        self.failed += 1
        self.last_error = why

    def figures(self) -> dict[str, float]:
        """Seconds by name; empty where nothing answered."""
        if not self.answered:
            return {}
        p99 = percentile(sorted(self.recent), 0.99)
        return {"min": self.least, "avg": self.total / self.answered, "p99": p99, "max": self.most}

    def as_json(self) -> dict[str, Any]:
        """The figures are null where nothing answered."""
        figures = self.figures()
        named = {
            f"{name}_us": microseconds(figures[name]) if figures else None for name in ("min", "avg", "p99", "max")
        }
        counts = {"sent": self.answered + self.failed, "answered": self.answered}
        return {**self.what, **counts, **named, "last_error": self.last_error or None}


@click.command("ping")
@click.argument("name", metavar="SERVICE|NODE", shell_complete=complete_service)
@click.option(
    "-c",
    "--count",
    metavar="N",
    type=click.IntRange(min=0),
    help="How many; 0: until interrupted. [default: 10; of another node: 1]",
)
@click.option(
    "-i",
    "--interval",
    metavar="SECONDS",
    type=Seconds(zero=True),
    help="Between the end of one and the start of the next. [default: 0.1; of another node: 1]",
)
@pinned
@common
@pass_session
def ping(session: Session, name: str, count: int | None, interval: float | None, pins: Pins) -> None:
    """Time round trips to a server of SERVICE, or to NODE.

    A server's and this machine's own daemon are asked over a connection from here; no handler runs, the library at
    the other end answers. Of another node, the round trip is the one that this machine's daemon measured last, with
    the heartbeat of its link to it.

    p99 is the largest of fewer than 100. Exit code 1 if nothing has that name, 4 if an answer is missing.

    \b
    Examples:
      ipcctl ping lab.v1.Lab
      ipcctl ping lab.v1.Lab -c 1000 -i 0 --transport unix
      ipcctl ping b -o json | jq .avg_us
    """
    output = session.output
    with session.node() as node:
        tally, once = _target(node, split_path(name)[0], pins, session.wait)
        # The daemon measures the links with other nodes about once a second: to look more often shows nothing more.
        defaults = (1, 1.0) if tally.what["transport"] == LINK else (10, 0.1)
        count = defaults[0] if count is None else count
        interval = defaults[1] if interval is None else interval
        if not output.json:
            output.line(f"{tally.what['target']}: {tally.what['reason']}")
        try:
            _run(tally, once, count, interval, output)
        except KeyboardInterrupt:
            _summary(output, tally)
            raise
    _summary(output, tally)
    if tally.failed:
        text = f"{tally.failed} of {tally.failed + tally.answered} had no answer; the last: {tally.last_error}"
        raise Failure(text, "UNAVAILABLE", CALL_FAILED, details=tally.last_error)


def percentile(ordered: list[float], part: float) -> float:
    """The smallest value that at least `part` of them do not exceed. The list is sorted and not empty."""
    return ordered[math.ceil(part * len(ordered)) - 1]


def _run(tally: Tally, once: Ping, count: int, interval: float, output: Output) -> None:
    number = 0
    while True:
        number += 1
        try:
            seconds = once()
            tally.add(seconds)
            shown = duration(seconds)
        except IpcdError as error:
            tally.fail(str(error))
            shown = str(error)
        if not output.json:
            output.line(f"{number:>5}  {shown}")
        if number == count:
            return
        time.sleep(interval)


def _summary(output: Output, tally: Tally) -> None:
    if output.json:
        output.document(tally.as_json())
        return
    words = f"{tally.answered} of {tally.answered + tally.failed} answered"
    if tally.answered:
        named = ", ".join(f"{name} {duration(seconds)}" for name, seconds in tally.figures().items())
        words += f" over {tally.what['transport']}: {named}"
    output.line(words)


def _target(node: Node, name: str, pins: Pins, timeout: float) -> tuple[Tally, Ping]:
    """Services come first: a node may be called like one, but that would be a strange name for a node."""
    if node.servers(name):
        return _service(node, name, pins, timeout)
    known = {info.node: info for info in node.nodes()}
    if name in known:
        return _node(node, known[name])
    guess = did_you_mean(name, [*known, *node.services()])
    text = f"neither a service nor a node is called {name!r}{guess}"
    raise Failure(text, "NO_SERVER", NO, service=name, nodes=list(known))


def _service(node: Node, service: str, pins: Pins, timeout: float) -> tuple[Tally, Ping]:
    channel = node.channel(pins)
    route = channel.route(service, timeout)
    facts = catalog.server_facts(route.server)
    named = f" {facts['server']!r}" if facts["server"] else ""
    what = {
        "target": f"{service} at server{named} on node {facts['node']} (pid {facts['pid']})",
        "service": service,
        **facts,
        "transport": route.transport,
        "reason": route.reason,
    }
    return Tally(what), lambda: channel.route(service, timeout).connection.ping(timeout)


def _node(node: Node, info: node_pb2.NodeInfo) -> tuple[Tally, Ping]:
    from ipcd_client.pb.ipcd.v1 import node_pb2

    own = info.state == node_pb2.NodeInfo.STATE_SELF
    what = {
        "target": f"node {info.node}",
        "service": None,
        "node": info.node,
        "server": None,
        "pid": None,
        "uid": None,
        "id": None,
        "transport": "unix" if own else LINK,
        "reason": f"the daemon at {node.path}" if own else f"the heartbeat of the link with {info.address}",
    }
    return Tally(what), node.ping if own else lambda: _link(node, info.node)


def _link(node: Node, name: str) -> float:
    """The round trip that the daemon measured last.

    Raises:
        IpcdError: there is no link at present.
    """
    from ipcd_client.errors import NodeError
    from ipcd_client.pb.ipcd.v1 import node_pb2

    info = next((each for each in node.nodes() if each.node == name), None)
    if info is None:
        raise NodeError(f"node {name} is gone")
    if info.state != node_pb2.NodeInfo.STATE_LINKED or not info.rtt:
        raise NodeError(f"node {name} is {catalog.state_name(info)}" + (f": {info.error}" if info.error else ""))
    return info.rtt
