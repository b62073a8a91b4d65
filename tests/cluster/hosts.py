"""A cluster on one machine: hosts joined by a switch, each with its daemon and its programs.

A host is a network namespace with one interface, eth0, on a cable to the switch, which is a bridge in a namespace of
its own. It has an IPv4 address, a link-local IPv6 address and, where the kernel has IPv6, a routed one. There is no
route but to the hosts of the same switch, and none for multicast: whoever wants that has to name an interface.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import ipcd_client
from cluster.eventually import LONG, eventually
from cluster.netns import Namespace, NoNamespaces
from cluster.program import Program
from ipcd_client.pb.ipcd.v1 import node_pb2, node_pb2_grpc

PORT: Final = 7319
TESTS: Final = str(Path(__file__).parents[1])
# For programs that import what tests share, beside what the tests themselves were started with.
PYTHONPATH: Final = os.pathsep.join(filter(None, (TESTS, os.environ.get("PYTHONPATH"))))
# Seconds that all processes have to end in when they are asked to.
GRACE: Final = 10.0

SERVING = tuple[str, str]  # node and name of a server


class Weather(NamedTuple):
    """On one way of a cable. Seconds, and shares of 1."""

    delay: float = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    cut: bool = False


CLEAR: Final = Weather()


class Daemon:
    """`ipcd run` on a host. Every question waits until it answers."""

    def __init__(self, process: subprocess.Popen[bytes], socket: str) -> None:
        self.process = process
        self.socket = socket

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait(LONG)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    @contextlib.contextmanager
    def _api(self) -> Iterator[node_pb2_grpc.NodeStub]:
        # The socket is a file, and files are not the network's: it can be reached from outside the host.
        with ipcd_client.channel("ipcd-node:", node=self.socket) as channel:
            yield node_pb2_grpc.NodeStub(channel)

    def status(self) -> node_pb2.StatusReply:
        """Of the node."""
        with self._api() as api:
            reply: node_pb2.StatusReply = api.Status(node_pb2.StatusRequest(), timeout=LONG, wait_for_ready=True)
            return reply

    def nodes(self) -> list[node_pb2.NodeInfo]:
        """All nodes and addresses that it knows, itself first."""
        with self._api() as api:
            return list(api.ListNodes(node_pb2.ListNodesRequest(), timeout=LONG, wait_for_ready=True).nodes)

    def linked(self) -> dict[str, node_pb2.NodeInfo]:
        """The nodes that it has a link with, none of which is late."""
        return {info.node: info for info in self.nodes() if info.state == info.STATE_LINKED}

    def serving(self) -> set[SERVING]:
        """Node and name of each server in its catalog."""
        with self._api() as api:
            reply = api.ListCatalog(node_pb2.ListCatalogRequest(), timeout=LONG, wait_for_ready=True)
            return {(server.process.node, server.name) for server in reply.servers}


class Host:
    """One host. Its daemon is named as itself."""

    def __init__(self, cluster: Cluster, name: str, number: int) -> None:
        self.name = name
        self.address = f"10.77.0.{number}"
        self.link_local = f"fe80::77:{number}"
        self.routed = f"fd77::{number}"
        self.network = Namespace(name)
        self.daemon: Daemon | None = None
        self._cluster = cluster
        self._port = f"port{number}"
        self._cable: subprocess.Popen[bytes] | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._programs: list[Program] = []

    def wire_up(self, switch: Namespace, *, weather: bool) -> None:
        """Plugs the host in, at the switch's bridge. `weather`: there can be bad one on its cable."""
        if weather:
            self._cable = self.network.plug_weather(switch, self._port)
        else:
            self.network.plug(switch, self._port)
        switch.ip(f"link set {self._port} master bridge", f"link set {self._port} up")
        self.network.ip(
            f"address add {self.address}/24 dev eth0",
            # Addresses of the tests' own, in use at once: the kernel's would be looked for elsewhere for 2 s first.
            "link set eth0 addrgenmode none",
            "link set eth0 up",
        )
        try:
            self.network.ip(
                f"address add {self.link_local}/64 dev eth0 nodad",
                f"address add {self.routed}/64 dev eth0 nodad",
            )
        except OSError:
            self.link_local = self.routed = ""

    # -- the cable --------------------------------------------------------------------------------

    def pull_cable(self) -> None:
        """At the switch: the host's own interface stays up, and what it sends goes nowhere."""
        self._cluster.switch.ip(f"link set {self._port} down")

    def plug_cable(self) -> None:
        """In again."""
        self._cluster.switch.ip(f"link set {self._port} up")

    def weather(self, out: Weather = CLEAR, into: Weather = CLEAR) -> None:
        """On the cable, from now on: on the way out of the host, and on the way into it."""
        assert self._cable is not None
        assert self._cable.stdin is not None
        assert self._cable.stdout is not None
        self._cable.stdin.write(json.dumps([out._asdict(), into._asdict()]).encode() + b"\n")
        self._cable.stdin.flush()
        assert self._cable.stdout.readline() == b"ok\n"

    def move(self, bridge: str) -> None:
        """Plugs the cable in at another bridge of the switch."""
        self._cluster.switch.ip(f"link set {self._port} master {bridge}")

    def lose(self, other: Host) -> None:
        """From now on what this host sends to that one alone goes nowhere."""
        self.network.ip(f"neigh replace {other.address} lladdr 02:00:00:00:00:01 nud permanent dev eth0")

    def find(self, other: Host) -> None:
        """It arrives again."""
        self.network.ip(f"neigh del {other.address} dev eth0")

    def interface(self, state: str) -> None:
        """Turns the host's own interface "up" or "down": addresses of IPv6, and routes, go with it."""
        self.network.ip(f"link set eth0 {state}")

    def add_interface(self, name: str, address: str) -> None:
        """One more, at another switch, where all that have the same name are."""
        port = f"{name}-{self._port}"
        self._cluster.switch.ip(*self._cluster.new_switch(name))
        self.network.plug(self._cluster.switch, port, name)
        self._cluster.switch.ip(f"link set {port} master bridge-{name}", f"link set {port} up")
        self.network.ip(f"address add {address} dev {name}", f"link set {name} up")

    # -- processes --------------------------------------------------------------------------------

    def run_daemon(self, *arguments: str, listen: str | None = None, peers: tuple[Host, ...] = ()) -> Daemon:
        """Starts the daemon, again if one has been there, and does not wait until it answers."""
        socket = str(self._cluster.folder / f"{self.name}.sock")
        more = [argument for peer in peers for argument in ("--peer", f"{peer.address}:{PORT}")]
        process = self._start(
            "ipcd",
            *("-m", "ipcd", "run", "--node", self.name, "--socket", socket),
            *("--listen", listen or f"{self.address}:{PORT}", "--insecure", "--log-level", "debug"),
            *more,
            *arguments,
        )
        self.daemon = Daemon(process, socket)
        return self.daemon

    def run_typed(self, *command: str) -> Daemon:
        """Starts a daemon as somebody there has typed it, in the cluster's folder."""
        socket = str(self._cluster.folder / f"{self.name}.sock")
        assert command[:2] == ("ipcd", "run"), command
        process = self._start("ipcd", "-m", *command, environment={"IPCD_SOCKET": socket})
        self.daemon = Daemon(process, socket)
        return self.daemon

    @property
    def node(self) -> Daemon:
        """The daemon, which has been started."""
        assert self.daemon is not None
        return self.daemon

    def program(self, name: str, network: Namespace | None = None) -> Program:
        """Starts a program that does what it is told. `network`: another than the host's, as a container has it that
        shares with its host no more than the daemon's socket."""
        socket = str(self._cluster.folder / f"{self.name}.sock")
        process = self._start(name, "-m", "cluster.program", socket, piped=True, network=network)
        log = self._log(name)
        self._programs.append(Program(f"{name} on {self.name}", process, lambda: log.read_text(errors="replace")))
        return self._programs[-1]

    def python(self, code: str, *arguments: str) -> str:
        """What a piece of Python prints, run here."""
        return self.network.run(sys.executable, "-c", code, *arguments)

    def connections(self) -> list[tuple[str, str, set[int]]]:
        """The TCP connections that are up: local and other address, and the ids of the processes that have it."""
        found = []
        for line in self.network.run("ss", "-H", "-t", "-n", "-p", "state", "established").splitlines():
            _, _, local, other, *users = line.split()
            pids = {int(part.split(",")[0]) for part in "".join(users).split("pid=")[1:]}
            found.append((local, other, pids))
        return found

    def kill_all(self) -> None:
        """SIGKILL to every process of the host, at once."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait(LONG)

    def _start(
        self,
        name: str,
        *arguments: str,
        piped: bool = False,
        network: Namespace | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.Popen[bytes]:
        old = self._processes.get(name)
        assert old is None or old.poll() is not None, f"{name} on {self.name} runs already"
        with self._log(name).open("ab") as log:
            process = (network or self.network).start(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else log,
                stderr=log,
                environment=os.environ | {"PYTHONPATH": PYTHONPATH} | environment,
                # Not where the tests were started: what is in that folder could be imported.
                folder=self._cluster.folder,
            )
        self._processes[name] = process
        return process

    def log(self) -> str:
        """What the daemon has written."""
        return self._log("ipcd").read_text(errors="replace")

    def _log(self, name: str) -> Path:
        return self._cluster.folder / f"{self.name}-{name}.log"

    def end_programs(self) -> None:
        """Tells the programs to end."""
        for program in self._programs:
            program.end()

    def end_daemon(self) -> None:
        """Asks the daemon to end."""
        if self.daemon is not None and self.daemon.process.poll() is None:
            self.daemon.signal(signal.SIGCONT)
            self.daemon.signal(signal.SIGTERM)

    def await_programs(self, until: float) -> list[str]:
        """Waits for them until then, a time of time.monotonic(): what went wrong, in words."""
        wrong = []
        for program in self._programs:
            wrong += self._await(program.name, program.process, until)
            program.close()
        return wrong

    def await_daemon(self, until: float) -> list[str]:
        """Waits for it. The host is gone then."""
        wrong = []
        if self.daemon is not None:
            ended_before = self.daemon.process.poll() is not None
            wrong += self._await(f"ipcd on {self.name}", self.daemon.process, until)
            if not ended_before and self.daemon.process.returncode != 0:
                wrong.append(f"ipcd on {self.name} ended with {self.daemon.process.returncode}")
            if "Traceback" in self._log("ipcd").read_text(errors="replace"):
                wrong.append(f"ipcd on {self.name} has a traceback in its log")
        return wrong

    def close(self) -> list[str]:
        """The host is gone: which processes were still on it, in words."""
        if self._cable is not None:
            with self._cable:
                self._cable.kill()
        left = self.network.processes()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.network.close()
        return [f"process {pid} was left on {self.name}" for pid in left]

    def _await(self, name: str, process: subprocess.Popen[bytes], until: float) -> list[str]:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(LONG)
            return [f"{name} did not end within {GRACE:g} s"]
        return []


class Cluster:
    """Hosts by their names: give it names, then close it.

    Raises:
        NoNamespaces: there can be none here.
    """

    def __init__(self, *names: str, weather: bool = False) -> None:
        for tool in ("ip", "ss"):
            if shutil.which(tool) is None:
                raise NoNamespaces(f"there is no `{tool}` (iproute2)")
        self.hosts: dict[str, Host] = {}
        # Short: the path of a UNIX socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="ipcd-c-"))
        self._switch: Namespace | None = None
        self._switches: set[str] = set()
        try:
            self._build(names, weather)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise NoNamespaces(f"hosts cannot be joined: {error}") from error
            raise

    def _build(self, names: tuple[str, ...], weather: bool) -> None:
        self._switch = Namespace("switch")
        self.switch.ip(
            # A switch that nobody asks for multicast groups would, after a while, forget who is in which.
            "link add bridge type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            "link set bridge up",
        )
        for number, name in enumerate(names, start=1):
            self.hosts[name] = Host(self, name, number)
            self.hosts[name].wire_up(self.switch, weather=weather)

    def split(self, *names: str) -> None:
        """Takes these hosts away from the others, to a bridge of their own."""
        self.switch.ip(*self.new_switch("island"))
        for name in names:
            self.hosts[name].move("bridge-island")

    def join(self) -> None:
        """All at one bridge again."""
        for host in self:
            host.move("bridge")

    def new_switch(self, name: str) -> list[str]:
        """What makes one more, if it is not there yet."""
        if name in self._switches:
            return []
        self._switches.add(name)
        bridge = f"bridge-{name}"
        return [f"link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0", f"link set {bridge} up"]

    @property
    def switch(self) -> Namespace:
        """What the cables of the hosts lead to."""
        assert self._switch is not None
        return self._switch

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts.values())

    def all_linked(self, timeout: float = LONG) -> None:
        """Until each daemon that runs has a link with each other, and nobody is late."""
        running = [host for host in self if host.daemon is not None and host.daemon.process.poll() is None]

        def linked() -> bool:
            return all(
                set(host.node.linked()) == {other.name for other in running if other is not host} for host in running
            )

        eventually(linked, timeout, what=lambda: {host.name: host.node.nodes() for host in running})

    def logs(self) -> str:
        """What all processes wrote."""
        parts = []
        for log in sorted(self.folder.glob("*.log")):
            parts += [f"---- {log.stem}", log.read_text(errors="replace").rstrip()]
        return "\n".join(parts)

    def close(self) -> list[str]:
        """Ends all processes and removes everything: what did not go as it should, in words."""
        wrong: list[str] = []
        for host in self:
            host.end_programs()
        until = time.monotonic() + GRACE
        for host in self:
            wrong += host.await_programs(until)
        for host in self:
            host.end_daemon()
        until = time.monotonic() + GRACE
        for host in self:
            wrong += host.await_daemon(until)
        for host in self:
            wrong += host.close()
        if self._switch is not None:
            self._switch.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return wrong
