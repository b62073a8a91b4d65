"""What a run is played on: two nodes, a server behind ipcd, one behind grpcio, a client for each road."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ipcd.demo.nodes import NodePair, start_pair
from ipcd.demo.processes import Children, StageError, Talker
from ipcd.demo.roads import BESIDE, Asked, Road, Taken
from ipcd.demo.timing import Summary
from ipcd.demo.work import Finding

START = 20.0  # seconds for a process to be up: an interpreter and its imports, on a busy machine
ANSWER = 60.0  # seconds for the real work; each of its calls has a deadline of its own
SLACK = 15.0  # seconds past the end of a turn


@dataclass(frozen=True, slots=True)
class Client:
    """A client process whose road is open."""

    road: Road
    taken: Taken
    server_pid: int
    process: Talker

    def turn(self, seconds: float, size: int, *, keep: bool = True) -> float:
        """Echoes of `size` bytes for so long; the median of this turn in microseconds."""
        answer = self.process.ask({"do": "turn", "seconds": seconds, "bytes": size, "keep": keep}, seconds + SLACK)
        return float(answer["p50_us"])

    def work(self) -> list[Finding]:
        """The real work, once."""
        answer = self.process.ask({"do": "work", "server_pid": self.server_pid}, ANSWER)
        return [Finding(**finding) for finding in answer["findings"]]

    def summary(self, size: int) -> Summary:
        """Over the turns of `size` bytes that were kept."""
        return Summary(**self.process.ask({"do": "summary", "bytes": size}, SLACK))


@dataclass(frozen=True, slots=True)
class Stage:
    """Ready to be measured: `clients` in the order of their roads."""

    pair: NodePair
    clients: list[Client]
    left_out: list[tuple[Road, str]]  # and why


def _ipcd_roads(pair: NodePair, asked: Sequence[Asked]) -> list[Road]:
    sockets = {"a": pair.a.socket, "b": pair.b.socket}
    return [
        Road(
            label=f"ipcd, caller on node {one.caller}, transport {one.transport}",
            target="ipcd:",
            caller=one.caller,
            node=str(sockets[one.caller]),
            transport=one.transport,
            optional=one.optional,
        )
        for one in asked
    ]


@contextmanager
def set_up(asked: Sequence[Asked], tell: Callable[[str], None]) -> Iterator[Stage]:
    """Start everything, open the roads asked for and grpcio's two; end everything afterwards.

    Where two roads from the same node turn out to be the same, the first is kept. `tell` is given a line for
    each step. Raises `StageError` where something does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="ipcd-demo-") as name:
        directory = Path(name)
        with Children(directory) as children:
            grpcio_socket = directory / "grpcio.sock"
            grpcio = children.start_talker("the grpcio server", "-m", "ipcd.demo.server", "grpcio", str(grpcio_socket))
            pair = start_pair(children, directory, tell)
            server = children.start_talker("the server on node a", "-m", "ipcd.demo.server", "ipcd", str(pair.a.socket))
            grpcio_at, server_at = grpcio.answer(START), server.answer(START)
            tell(f"lab.v1.Lab: served by process {server_at['pid']} on node a")
            tell(f"the same beside it through grpcio: process {grpcio_at['pid']}")
            roads = [
                *_ipcd_roads(pair, asked),
                Road(label="grpcio, UNIX socket", target=f"unix:{grpcio_socket}", grpcio="unix"),
                Road(label="grpcio, loopback TCP", target=str(grpcio_at["tcp"]), grpcio="tcp"),
            ]
            clients, left_out = _open(children, roads, server_at["pid"], grpcio_at["pid"])
            yield Stage(pair, clients, left_out)


def _open(
    children: Children, roads: list[Road], server_pid: int, grpcio_pid: int
) -> tuple[list[Client], list[tuple[Road, str]]]:
    # All are started before the first is waited for: most of the time goes into the interpreters' imports.
    started = [(road, children.start_talker(f"the client: {road.label}", *road.arguments())) for road in roads]
    clients: list[Client] = []
    left_out: list[tuple[Road, str]] = []
    for road, process in started:
        answer = process.answer(START)
        if "error" in answer:
            if not road.optional:
                raise StageError(f"{process.name}: {answer['error']}")
            left_out.append((road, answer["error"]))
        elif same := next((one for one in clients if one.taken.transport == answer["transport"]), None):
            # Asked for by name what `auto` had picked already. From another node it would be no detour but wrong.
            if same.road.caller != road.caller:
                raise StageError(f"{process.name}: took {same.taken.transport}, as from node {same.road.caller}")
        else:
            pid = grpcio_pid if road.grpcio else server_pid
            clients.append(Client(road, Taken(answer["transport"], answer["why"]), pid, process))
            continue
        children.stop(process)
    return clients, left_out


def interleave(
    clients: Sequence[Client], rounds: int, seconds: float, size: int, after: Callable[[Client, float], None]
) -> dict[str, Summary]:
    """Turns of so many seconds for each client, one after the other, `rounds` times; figures by transport.

    Interleaved, so that whatever drifts (clock rate, other load) hits all alike; each round begins with
    another client. A first turn of each is thrown away: connections and caches are cold. `after` is given the
    median of each turn, in microseconds.
    """
    for client in clients:
        after(client, client.turn(seconds, size, keep=False))
    for number in range(rounds):
        first = number % len(clients)
        for client in (*clients[first:], *clients[:first]):
            after(client, client.turn(seconds, size))
    return {client.taken.transport: client.summary(size) for client in clients}


def ratio(figures: dict[str, Summary], transport: str) -> float | None:
    """The p50 of `transport` as a part of grpcio's on the same kind of socket; None for grpcio's own."""
    beside = BESIDE.get(transport)
    if beside is None or beside not in figures:
        return None
    return figures[transport].p50_us / figures[beside].p50_us
