"""docker/compose.one-host.yaml: containers that share the directory of the daemon's socket, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import pytest
from cluster import parts as calls
from cluster.eventually import eventually
from cluster.program import CallError, Program
from docker.conftest import MakeStack
from docker.kinds import all_four
from docker.stack import DockerError, Stack, docker

LAB = "lab.v1.Lab"

pytestmark = pytest.mark.timeout(180)


@dataclass
class OneHost:
    """The containers, and a program in the client's."""

    stack: Stack
    caller: Program

    def servers(self) -> set[str]:
        """Names of all that provide the service."""
        try:
            listed = json.loads(self.stack.run("client", "ipcctl", "-o", "json", "ls", LAB))
        except DockerError:
            return set()  # nobody, or no daemon
        return {server["server"] for server in listed}

    def over_shm(self) -> None:
        """The caller's connection is, and calls are answered on it."""
        assert self.caller.do(calls.who)[0].startswith("lab-")
        assert self.caller.do(calls.way).transport == "shm"


@pytest.fixture(scope="module")
def started(make_stack: MakeStack) -> OneHost:
    stack = make_stack("host", "docker/compose.one-host.yaml", "tests/docker/one_host.yaml")
    return OneHost(stack, stack.program("client", "caller"))


@pytest.fixture
def host(started: OneHost, mended: Callable[[Stack], None]) -> OneHost:
    """With a server that answers over shared memory."""
    mended(started.stack)
    started.over_shm()
    return started


def test_the_containers_are_apart(host: OneHost) -> None:
    for kind in ("net", "pid", "ipc", "mnt", "uts"):
        found = {host.stack.run(name, "readlink", f"/proc/self/ns/{kind}") for name in ("node", "lab", "client")}
        assert len(found) == 3, kind
    for name in ("node", "lab", "client"):
        assert host.stack.run(name, "sh", "-c", "ls /sys/class/net").split() == ["lo"]
        mounts = [(mount["Type"], mount["Destination"]) for mount in host.stack.inspect(name)["Mounts"]]
        # Beside the directory of the socket, at most programs to run, which cannot be written.
        assert [mount for mount in mounts if mount != ("bind", "/tests")] == [("volume", "/run/ipcd")]


def test_all_four_kinds_of_calls_over_shared_memory(host: OneHost) -> None:
    all_four(host.caller)
    host.over_shm()


def test_ipcctl_explains_it(host: OneHost) -> None:
    told = json.loads(host.stack.run("client", "ipcctl", "-o", "json", "explain", LAB))
    assert told["transport"] == "shm"
    assert told["reason"]


def test_the_daemon_is_killed_and_started(host: OneHost) -> None:
    session = host.caller.do(calls.open_session)
    assert host.caller.do(calls.ask, session, "digest abc.py")
    host.stack.act("kill", "node")
    # Nothing of a call passes through it.
    assert host.caller.do(calls.ask, session, "digest abc.py")
    late = host.stack.program("client", "late caller")
    with pytest.raises(CallError) as nobody:
        late.do(calls.who, wait=False)
    assert nobody.value.code is grpc.StatusCode.UNAVAILABLE
    assert "/run/ipcd/ipcd.sock" in nobody.value.details
    host.stack.act("start", "node")
    assert late.do(calls.who) == host.caller.do(calls.who)
    assert late.do(calls.way).transport == "shm"
    assert host.caller.do(calls.ask, session, "digest abc.py")
    assert host.caller.do(calls.end_session, session) == "OK"
    assert not host.stack.end(late)


def test_a_server_is_killed_and_started(host: OneHost) -> None:
    session = host.caller.do(calls.open_session)
    assert host.caller.do(calls.ask, session, "digest abc.py")
    host.caller.begin(calls.wait_for_end, session)
    host.stack.act("kill", "lab")
    with pytest.raises(CallError) as ended:
        host.caller.result()
    assert ended.value.code is grpc.StatusCode.UNAVAILABLE
    eventually(lambda: not host.servers())
    host.stack.act("start", "lab")
    host.over_shm()


def test_a_server_is_paused(host: OneHost) -> None:
    host.stack.act("pause", "lab")
    with pytest.raises(CallError) as late:
        host.caller.do(calls.hold, 1.0)
    assert late.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    host.stack.act("unpause", "lab")
    host.over_shm()


def test_there_are_more_servers(host: OneHost) -> None:
    host.stack.up("--scale", "lab=3", "lab")
    eventually(lambda: len(host.servers()) == 3)
    for name in host.servers():
        host.caller.do(calls.pin, f"ipcd:///{name}")
        assert host.caller.do(calls.who)[0] == name
        assert host.caller.do(calls.way).transport == "shm"
    host.caller.do(calls.pin, "ipcd:")
    host.stack.up("--scale", "lab=1", "lab")
    eventually(lambda: len(host.servers()) == 1)


def test_another_user_is_kept_out(host: OneHost, image: str) -> None:
    volumes = f"{host.stack.project}_socket:/run/ipcd"
    with pytest.raises(DockerError, match=r"(?i)permission denied|may not open"):
        docker(
            *("run", "--rm", "--network", "none", "--user", "10320:10320", "--workdir", "/", "--volume", volumes),
            *(image, "ipcctl", "ls"),
        )


def test_all_are_healthy(host: OneHost) -> None:
    def health() -> set[str]:
        return {host.stack.inspect(name)["State"]["Health"]["Status"] for name in ("node", "lab", "client")}

    eventually(lambda: health() == {"healthy"}, what=health)
