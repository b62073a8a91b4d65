"""What a run is played on: the nodes, and for each peer a server process and a client process."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ipcd_client.certs.authority import Authority

from benchmarks import nodes
from benchmarks.peers.base import Place
from benchmarks.peers.registry import Peer
from ipcd.demo.nodes import Node
from ipcd.demo.processes import Children, StageError, Talker

START = 30.0  # seconds for a process to be up: an interpreter and its imports, on a busy machine
SLACK = 30.0  # seconds past the end of a turn; every call has a deadline of its own below that

Tell = Callable[[str], None]


@dataclass(slots=True)
class Entry:
    """A peer on stage. `missing` says why it is not to be had, and is empty while it is."""

    peer: Peer
    stage: Stage
    place: Place
    missing: str = ""
    transport: str = ""  # what its connection really is, in its own words, and why
    why: str = ""
    failures: list[str] = field(default_factory=list)
    server_pid: int = 0
    server: Talker | None = None
    client: Talker | None = None

    @property
    def name(self) -> str:
        return self.peer.name

    @property
    def client_pid(self) -> int:
        return self.client.pid if self.client is not None else 0

    def ask(self, command: dict[str, Any], seconds: float = 0.0) -> dict[str, Any]:
        """Have the client process carry out a command that takes about so long; raises StageError."""
        if self.client is None:
            raise StageError(f"{self.peer.label} has no client")
        return self.client.ask(command, seconds + SLACK)

    def begin_server(self) -> None:
        """Started but not waited for: most of the time goes into imports, and there are many."""
        arguments = ("-m", "benchmarks.server", self.name, json.dumps(asdict(self.place)))
        self.server = self.stage.children.start_talker(f"the server of {self.peer.label}", *arguments)

    def server_up(self) -> None:
        assert self.server is not None
        answer = self.server.answer(START)
        if "error" in answer:
            raise StageError(answer["error"])
        self.server_pid = answer["pid"]
        self.place = replace(self.place, address=answer["address"])

    def begin_client(self) -> None:
        self.client = self.start_client("benchmarks.worker")

    def start_client(self, module: str, *more: str) -> Talker:
        """A further client process, which the caller ends."""
        arguments = ("-m", module, self.name, json.dumps(asdict(self.place)), str(self.server_pid), *more)
        return self.stage.children.start_talker(f"a client of {self.peer.label}", *arguments)

    def client_up(self) -> None:
        assert self.client is not None
        answer = self.client.answer(START)
        if "error" in answer:
            raise StageError(answer["error"])
        if self.place.socket not in (answer["transport"], "auto"):
            raise StageError(f"{self.place.socket} was asked for, {answer['transport']} was taken: {answer['why']}")
        self.transport, self.why = answer["transport"], answer["why"]

    def fail(self, why: str) -> None:
        """It cannot go on: its processes are ended, the reason is kept."""
        self.failures.append(why)
        self.missing = why
        for process in (self.client, self.server):
            if process is not None:
                self.stage.children.stop(process)
        self.client = self.server = None

    def revive(self) -> None:
        """Start it again after a failure; raises nothing, `missing` says how it went."""
        self.missing = ""
        for step in (self.begin_server, self.server_up, self.begin_client, self.client_up):
            if not self.missing:
                self.attempt(step)

    def attempt(self, step: Callable[[], object]) -> None:
        """A step of its start; where that fails, it is not to be had."""
        try:
            step()
        except StageError as error:
            self.fail(one_line(error))


@dataclass(slots=True)
class Stage:
    """Ready to be measured: every peer that was asked for, had or not."""

    children: Children
    directory: Path
    tell: Tell
    entries: list[Entry] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    secured: list[Node] = field(default_factory=list)

    @property
    def present(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.missing]

    def add(self, peers: Sequence[Peer], *, prefix: str = "", socket: str = "", client: bool = True) -> list[Entry]:
        """Start these; those that do not come up say so in `missing`.

        `prefix` keeps apart what is started twice; `socket` is asked for in place of the peer's own.
        """
        added = [Entry(peer, self, self._place(peer, prefix, socket)) for peer in peers]
        for step in (Entry.begin_server, Entry.server_up, *((Entry.begin_client, Entry.client_up) if client else ())):
            for entry in added:
                if not entry.missing:
                    entry.attempt(lambda step=step, entry=entry: step(entry))  # type: ignore[misc]
        return added

    def end(self, entries: Sequence[Entry]) -> None:
        """End what `add` has started, before the run is over."""
        for entry in entries:
            for process in (entry.client, entry.server):
                if process is not None:
                    self.children.stop(process)
            entry.client = entry.server = None

    def revive(self) -> None:
        """Start again those that failed while they were measured; what was never had is left alone."""
        for entry in self.entries:
            if entry.missing and entry.transport:
                entry.revive()
                self.tell(
                    f"{entry.peer.label}: started again" + (f", in vain: {entry.missing}" if entry.missing else "")
                )

    def _place(self, peer: Peer, prefix: str, socket: str) -> Place:
        place = Place(socket=socket or peer.socket, name=f"{prefix}{peer.name}", directory=str(self.directory))
        if not peer.ours:
            return place
        nodes = self.secured if peer.secured else self.nodes
        own = str(nodes[0].socket)
        return replace(place, node=own, caller_node=str(nodes[1].socket) if peer.socket == "tcp" else own)


def one_line(error: BaseException) -> str:
    """The first line of an error: a child's last words, which follow, are in no table's place."""
    return str(error).partition("\n")[0]


@contextmanager
def set_up(peers: Sequence[Peer], tell: Tell) -> Iterator[Stage]:
    """Start everything; end everything afterwards. Raises StageError where no node comes up."""
    with tempfile.TemporaryDirectory(prefix="ipcd-bench-") as name, Children(Path(name)) as children:
        stage = Stage(children, Path(name), tell)
        if any(peer.ours for peer in peers):
            first = nodes.start(children, stage.directory, "a")
            stage.nodes = [first, nodes.start(children, stage.directory, "b", first)]
        if any(peer.secured for peer in peers):
            authority = Authority.create(stage.directory / "authority", nodes.cluster())
            first = nodes.start(children, stage.directory, "c", authority=authority)
            stage.secured = [first, nodes.start(children, stage.directory, "d", first, authority=authority)]
        stage.entries = stage.add(peers)
        for entry in stage.entries:
            if entry.missing:
                tell(f"{entry.peer.label}: not available: {entry.missing}")
        yield stage
