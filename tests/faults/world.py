"""The cluster that is put under faults: three nodes, five servers, four callers, all of them processes.

Nodes and servers come back under their names; what comes back is another process.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent import futures
from pathlib import Path
from typing import Final

import grpc
import ipcd_client
from faults.ledger import Ledger
from faults.proxy import Roads
from faults.work import SERVICE, Gate, Lane, lanes_at
from integration.daemons import Daemon, Daemons
from ipcd_client.pb.ipcd.v1 import node_pb2, node_pb2_grpc
from sdk.processes import Processes, eventually
from sdk.test_rolling import free_addresses

FOLDER: Final = Path(__file__).parent
TESTS: Final = str(FOLDER.parent)
NODES: Final = ("a", "b", "c")
# Of another age: the seconds that the clocks of this node's daemon are ahead, where that can be.
AHEAD: Final = ("c", 1_000_000)
# Names by node and by how they are made. None on c: all that is called from there is elsewhere.
SERVERS: Final = {"a1": "threads", "a2": "loop", "a3": "threads", "b1": "threads", "b2": "loop"}
CALLERS: Final = {"a-threads": "threads", "a-loop": "loop", "c-threads": "threads", "c-loop": "loop"}
LONG: Final = 30.0  # seconds: far more than anything here takes


def environment(clock: Path) -> dict[str, str]:
    """Of all programs of the cluster: what they import, and the file that says how far their wall clocks are ahead."""
    path = [str(FOLDER / "clock"), TESTS, os.environ.get("PYTHONPATH", "")]
    # One heap for all threads: else what a process has depends on which of them happened to allocate.
    one_heap = {"MALLOC_ARENA_MAX": "1"}
    return {"PYTHONPATH": os.pathsep.join(filter(None, path)), "FAULTS_CLOCK": str(clock), **one_heap}


def ahead_in_time() -> list[str]:
    """What runs a daemon in another time; empty where there is no such thing."""
    launcher = [sys.executable, "-I", "-S", str(FOLDER / "in_time.py"), str(AHEAD[1])]
    done = subprocess.run([*launcher, sys.executable, "-I", "-S", "-c", ""], capture_output=True, check=False)
    return launcher if done.returncode == 0 else []


class World:
    """See the module. `environment` has to be in force as long as there is one."""

    def __init__(self, folder: Path, clock: Path, seed: str) -> None:
        self.folder = folder
        self.seed = seed
        self.gate = Gate(str(folder / "gate"))
        self.ledger = Ledger(folder)
        self.pauses = 0
        self._clock = clock
        self._launcher = ahead_in_time()
        addresses = free_addresses(2 * len(NODES))
        self._listen = dict(zip(NODES, addresses, strict=False))
        self._advertised = dict(zip(NODES, addresses[len(NODES) :], strict=True))
        self.roads = Roads({_port(self._advertised[node]): _port(self._listen[node]) for node in NODES}, seed)
        self._all_daemons = Daemons(folder)
        self._programs = Processes(folder)
        self.daemons: dict[str, Daemon] = {}
        self.servers: dict[str, subprocess.Popen[str]] = {}
        self.callers: dict[str, subprocess.Popen[str]] = {}

    def start(self) -> None:
        """All of it, which calls nothing yet."""
        self.pause()
        together(self.start_daemon, NODES)
        together(self.start_server, SERVERS)
        together(self.start_caller, CALLERS)
        self.await_whole(LONG)

    # -- processes --------------------------------------------------------------------------------

    def start_daemon(self, node: str) -> None:
        """Once it is ready."""
        arguments = [
            *("--listen", self._listen[node], "--advertise", self._advertised[node], "--no-discovery"),
            *("--state-dir", str(self.folder / f"{node}.state")),
        ]
        for other in NODES:
            if other != node:
                arguments += ["--peer", self._advertised[other]]
        launcher = self._launcher if node == AHEAD[0] else []
        daemon = Daemon(self.folder, node, tuple(arguments), {}, launcher)
        self.daemons[node] = self._all_daemons.add(daemon).up()

    def start_server(self, name: str) -> None:
        """Once it is registered."""
        arguments = (name, self.socket(name), str(self.folder / "seen"), SERVERS[name])
        self.servers[name] = self._programs.ready(name, str(FOLDER / "server.py"), *arguments)

    def start_caller(self, name: str) -> None:
        """It calls while the gate is open."""
        arguments = (name, name[0], self.socket(name), str(self.folder), CALLERS[name], self.seed)
        self.callers[name] = self._programs.ready(name, str(FOLDER / "caller.py"), *arguments)

    def processes(self) -> dict[str, int]:
        """Ids by the names of the parts."""
        daemons = {f"daemon {node}": daemon.process.pid for node, daemon in self.daemons.items()}
        servers = {f"server {name}": process.pid for name, process in self.servers.items()}
        return daemons | servers | {f"caller {name}": process.pid for name, process in self.callers.items()}

    def socket(self, name: str) -> str:
        """Path of the socket of the daemon that the part of this name is on."""
        return str(self.folder / name[0] / "ipcd.sock")

    def dead(self) -> list[str]:
        """Parts that have ended, though they should run."""
        processes = {f"daemon {node}": daemon.process for node, daemon in self.daemons.items()}
        others = {f"server {name}": each for name, each in self.servers.items()}
        others |= {f"caller {name}": each for name, each in self.callers.items()}
        ended = [f"{name} ended with {one.poll()}" for name, one in processes.items() if one.poll() is not None]
        return ended + [f"{name} ended with {one.poll()}" for name, one in others.items() if one.poll() is not None]

    def step_clocks(self, seconds: int) -> None:
        """The wall clocks of all programs are so far ahead, from now on."""
        self._clock.write_text(f"{seconds:<20}")

    # -- calls ------------------------------------------------------------------------------------

    def lanes(self) -> list[tuple[str, Lane]]:
        """Of all callers."""
        return [(caller, lane) for caller in self.callers for lane in lanes_at(caller[0])]

    def go(self) -> None:
        """Calls are made."""
        self.gate.set("go", self.pauses)

    def pause(self) -> None:
        """None are begun any more."""
        self.pauses += 1
        self.gate.set("pause", self.pauses)

    def await_quiet(self, limit: float) -> None:
        """Until no call is under way."""

        def busy() -> list[str]:
            self.ledger.read()
            paused = self.ledger.paused
            return [f"{who} {lane.name}" for who, lane in self.lanes() if paused.get((who, lane.name)) != self.pauses]

        until(lambda: not busy(), limit, lambda: f"calls are still under way: {', '.join(busy())}; {self.dead()}")

    def await_answers(self, count: int, since: float, limit: float) -> None:
        """Until that many calls of each lane, which began since then, were answered."""

        def missing() -> list[str]:
            self.ledger.read()
            answers = self.ledger.answers_since
            return [f"{who} {lane.name}" for who, lane in self.lanes() if answers(who, lane.name, since) < count]

        until(lambda: not missing(), limit, lambda: f"no answers: {', '.join(missing())}; {self.dead()}")

    # -- the nodes --------------------------------------------------------------------------------

    def faults_of_nodes(self) -> list[str]:
        """What is not as it should be in what the nodes know of each other and of their servers."""
        wrong = []
        for node, daemon in self.daemons.items():
            try:
                with ipcd_client.channel("ipcd-node:", node=daemon.socket) as channel:
                    api = node_pb2_grpc.NodeStub(channel)
                    infos = api.ListNodes(node_pb2.ListNodesRequest(), timeout=LONG).nodes
                    catalog = api.ListCatalog(node_pb2.ListCatalogRequest(service=SERVICE), timeout=LONG).servers
            except grpc.RpcError as error:
                wrong.append(f"node {node}: {error}")
                continue
            linked = {info.node for info in infos if info.state == info.STATE_LINKED}
            if linked != set(NODES) - {node}:
                wrong.append(f"node {node} is linked with {sorted(linked)}")
            names = sorted(server.name for server in catalog)
            if names != sorted(SERVERS):
                wrong.append(f"node {node} knows the servers {names}")
        return wrong

    def await_whole(self, limit: float) -> None:
        """Until all nodes know each other and all servers."""
        until(lambda: not self.faults_of_nodes(), limit, lambda: f"{self.faults_of_nodes()}; {self.dead()}")

    def end(self) -> list[str]:
        """Ends all processes; what was wrong with that, in words."""
        self._programs.end()
        ended = [f"server {name}" for name, one in self.servers.items() if one.returncode != 0]
        ended += [f"caller {name}" for name, one in self.callers.items() if one.returncode != 0]
        wrong = [f"{name} did not end well" for name in ended]
        for node, daemon in self.daemons.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (-1, -1))
            code = daemon.stop(signal.SIGTERM)
            if code != 0:
                wrong.append(f"daemon {node} ended with {code}")
        self._all_daemons.end()
        self.roads.close()
        self.gate.close()
        return wrong


def until(condition: Callable[[], bool], limit: float, state: Callable[[], str]) -> None:
    """Until it is true; `state` says what is wrong where that is not within so many seconds."""
    try:
        eventually(condition, "", limit)
    except AssertionError as error:
        raise AssertionError(f"{error}{state()}") from None


def together(start: Callable[[str], None], names: Iterable[str]) -> None:
    """Starts several at once."""
    with futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(start, names))


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def now() -> float:
    """As the ledgers have it."""
    return time.monotonic()
