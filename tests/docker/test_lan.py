"""docker/compose.yaml: three nodes on a network, two services and a client; containers fail, and come back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import grpc
import pytest
from cluster import parts as calls
from cluster.eventually import eventually
from cluster.program import CallError, Program
from docker.conftest import MakeStack, Notice
from docker.kinds import all_four
from docker.stack import Stack

from docker import parts

NODES = ("a", "b", "c")
LAB = "lab.v1.Lab"
# Where each service is provided while all is well. The second lab.v1.Lab is of the tests.
PROVIDED = [("b", LAB), ("c", "hello.v1.Greeter"), ("c", LAB)]

pytestmark = pytest.mark.timeout(240)


@dataclass
class Lan:
    """The containers, with a program that asks each node, and two in the client's container."""

    stack: Stack
    observer: Program
    caller: Program
    steady: Program  # in a session with the server on c
    session: int = -1

    def nodes(self, asked: str) -> dict[str, parts.Seen]:
        """The nodes that one has a link with, whether they are late or not. Of one name there is one."""
        seen = [node for node in self.observer.do(parts.nodes, asked) if node.state in {"linked", "suspect"}]
        assert len(seen) == len({node.name for node in seen}), seen
        return {node.name: node for node in seen}

    def linked(self, asked: str) -> set[str]:
        """Those that are not late."""
        return {name for name, node in self.nodes(asked).items() if node.state == "linked"}

    def incarnation(self, node: str) -> str:
        """Of a node's daemon, which it says itself."""
        [own] = [seen for seen in self.observer.do(parts.nodes, node) if seen.state == "self"]
        return own.incarnation

    def catalog(self, asked: str) -> set[parts.Provided]:
        """Who serves what, as a node knows it."""
        return self.observer.do(parts.catalog, asked)

    def provided(self, asked: str) -> list[tuple[str, str]]:
        """Where which service is, as a node knows it."""
        return sorted((found.node, found.service) for found in self.catalog(asked))

    def complete(self, asked: str) -> bool:
        """Whether a node knows of everything."""
        return self.provided(asked) == PROVIDED

    def agree(self) -> None:
        """Every node has a link with each other, and all have one catalog, in which everything is."""
        for node in NODES:
            assert self.linked(node) == set(NODES) - {node}
            assert self.complete(node)
            assert self.catalog(node) == self.catalog("a")

    def goes_on(self) -> None:
        """The session with c does, and new calls of the caller are answered."""
        assert self.steady.do(calls.ask, self.session, "digest abc.py")
        eventually(self.answered_by)

    def answered_by(self) -> str:
        """The name of the server that answers the caller. Empty where the call went to one that is cut off, of which
        the caller has not heard yet: for all that it knows the call was carried out."""
        try:
            return self.caller.do(calls.who)[0]
        except CallError as error:
            if error.code is not grpc.StatusCode.UNAVAILABLE or "node b" not in error.details:
                raise
            return ""

    def settle(self) -> None:
        """Until they agree."""

        def holds() -> bool:
            self.agree()
            return True

        eventually(holds)

    def call_c(self) -> None:
        """Begins the session with c."""
        self.session = self.steady.do(calls.open_session)
        assert self.steady.do(calls.ask, self.session, "digest abc.py")

    def well(self) -> None:
        """Until all is well."""
        self.settle()
        self.goes_on()


@pytest.fixture(scope="module")
def started(make_stack: MakeStack) -> Lan:
    stack = make_stack("lan", "docker/compose.yaml", "tests/docker/lan.yaml")
    observer = stack.program("observer", "observer")
    caller = stack.program("client", "caller")
    steady = stack.program("client", "steady caller")
    steady.do(calls.pin, "ipcd://c")
    return Lan(stack, observer, caller, steady)


@pytest.fixture
def lan(started: Lan, mended: Callable[[Stack], None]) -> Lan:
    """With all well before the test, and again after it."""
    mended(started.stack)
    started.caller.do(calls.pin, "ipcd:")
    started.settle()
    started.call_c()
    started.goes_on()
    return started


def test_everything_finds_everything(lan: Lan) -> None:
    assert "Hello, Ada!" in lan.stack.run("client", "python", "client.py", "Ada")
    listed = json.loads(lan.stack.run("client", "ipcctl", "-o", "json", "ls"))
    assert {server["node"] for server in listed} == {"b", "c"}


@pytest.mark.parametrize("node", ["b", "c"])
def test_all_four_kinds_of_calls(lan: Lan, node: str) -> None:
    lan.caller.do(calls.pin, f"ipcd://{node}")
    way = lan.caller.do(calls.way)
    assert (way.node, way.transport) == (node, "tcp")
    all_four(lan.caller)


def test_ipcctl_explains_the_way(lan: Lan) -> None:
    told = json.loads(lan.stack.run("client", "ipcctl", "-o", "json", "explain", LAB, "--node", "b"))
    assert (told["node"], told["transport"]) == ("b", "tcp")
    assert told["reason"]


def gone(lan: Lan, node: str, asked: str) -> bool:
    """Whether one node knows the other no more, nor anything that it had."""
    return node not in lan.linked(asked) and node not in {found.node for found in lan.catalog(asked)}


def fails_without(lan: Lan, node: str) -> None:
    """A call that may go to that node alone does, at once."""
    lan.caller.do(calls.pin, f"ipcd://{node}")
    with pytest.raises(CallError) as nobody:
        lan.caller.do(calls.who, wait=False)
    assert nobody.value.code is grpc.StatusCode.UNAVAILABLE, nobody.value
    lan.caller.do(calls.pin, "ipcd:")


def test_a_node_is_killed_and_started(lan: Lan, notice: Notice) -> None:
    before = lan.incarnation("b")
    since = lan.stack.act("kill", "b")
    notice("b is killed", since, partial(gone, lan, "b"), "a", "c")
    lan.goes_on()
    assert lan.answered_by() == "standby"
    fails_without(lan, "b")
    since = lan.stack.act("start", "b")
    notice("b is started, and its server attached", since, lan.complete, "a", "c")
    lan.well()
    assert lan.incarnation("b") != before
    lan.caller.do(calls.pin, "ipcd://b")
    assert lan.caller.do(calls.who)[0].startswith("lab-")


def test_a_node_is_paused(lan: Lan, notice: Notice) -> None:
    before = lan.incarnation("b")
    since = lan.stack.act("pause", "b")
    notice("b is paused, and suspected", since, lambda asked: "b" not in lan.linked(asked), "a")
    notice("b is paused, and given up", since, partial(gone, lan, "b"), "a", "c")
    lan.goes_on()
    since = lan.stack.act("unpause", "b")
    notice("b goes on", since, lan.complete, "a", "c")
    lan.well()
    assert lan.incarnation("b") == before


@pytest.mark.parametrize("elsewhere", [False, True], ids=["at its address", "at another address"])
def test_a_node_is_cut_off_and_comes_back(lan: Lan, notice: Notice, elsewhere: bool) -> None:
    before, address = lan.incarnation("b"), lan.nodes("a")["b"].address
    since = lan.stack.plug("b", plugged=False)
    notice("b is cut off", since, partial(gone, lan, "b"), "a", "c")
    notice("b is cut off, as is noticed there", since, lambda asked: not lan.linked(asked), "b")
    # What is on the node itself stays.
    assert lan.provided("b") == [("b", LAB)]
    lan.goes_on()
    fails_without(lan, "b")
    if elsewhere:
        # It takes the address that is free now.
        lan.stack.up("--scale", "more=1", "more")
    since = lan.stack.plug("b", plugged=True)
    words = f"b is back at {'another' if elsewhere else 'its'} address"
    notice(words, since, lambda asked: ("b", LAB) in lan.provided(asked), "a", "c")
    lan.caller.do(calls.pin, "ipcd://b")
    assert lan.caller.do(calls.who)[0].startswith("lab-")
    assert (lan.nodes("a")["b"].address != address) == elsewhere
    lan.stack.remove("more")
    lan.well()
    assert lan.incarnation("b") == before


@pytest.mark.parametrize("node", NODES)
def test_a_node_is_restarted(lan: Lan, node: str) -> None:
    before = lan.incarnation(node)
    lan.stack.act("restart", node)
    if node == "c":
        # Its network went with the container, and the connections that came in through it.
        lan.steady.begin(calls.wait_for_end, lan.session)
        with pytest.raises(CallError) as ended:
            lan.steady.result()
        assert ended.value.code is grpc.StatusCode.UNAVAILABLE
        assert "node c" in ended.value.details
        lan.settle()
        lan.call_c()
    lan.well()
    assert lan.incarnation(node) != before


@pytest.mark.parametrize("verb", ["kill", "stop"])
def test_a_server_ends_and_comes_back(lan: Lan, notice: Notice, verb: str) -> None:
    lan.caller.do(calls.pin, "ipcd://b")
    session = lan.caller.do(calls.open_session)
    assert lan.caller.do(calls.ask, session, "digest abc.py")
    lan.caller.begin(calls.wait_for_end, session)
    since = lan.stack.act(verb, "lab")
    with pytest.raises(CallError) as ended:
        lan.caller.result()
    assert ended.value.code is grpc.StatusCode.UNAVAILABLE
    if verb == "kill":
        assert "node b" in ended.value.details
    words = f"a server has ended by docker {verb}"
    notice(words, since, lambda asked: ("b", LAB) not in lan.provided(asked), *NODES)
    fails_without(lan, "b")
    assert lan.caller.do(calls.who)[0] == "standby"
    lan.stack.act("start", "lab")
    lan.well()


def test_a_server_is_paused(lan: Lan) -> None:
    lan.caller.do(calls.pin, "ipcd://b")
    assert lan.caller.do(calls.who)
    lan.stack.act("pause", "lab")
    with pytest.raises(CallError) as late:
        lan.caller.do(calls.hold, 1.0)
    assert late.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    lan.stack.act("unpause", "lab")
    assert lan.caller.do(calls.who)[0].startswith("lab-")


def test_there_are_more_servers(lan: Lan) -> None:
    lan.stack.up("--scale", "lab=3", "lab")

    def names(asked: str) -> set[str]:
        return {found.server for found in lan.catalog(asked) if (found.node, found.service) == ("b", LAB)}

    eventually(lambda: [len(names(asked)) for asked in NODES] == [3, 3, 3])
    for name in names("a"):
        lan.caller.do(calls.pin, f"ipcd:///{name}")
        assert lan.caller.do(calls.who)[0] == name
    lan.caller.do(calls.pin, "ipcd:")
    lan.stack.up("--scale", "lab=1", "lab")
    lan.well()


def test_there_are_more_nodes(lan: Lan) -> None:
    lan.stack.up("--scale", "more=2", "more")
    more = {container[:12] for container in lan.stack.containers("more")}
    assert len(more) == 2
    eventually(lambda: all(lan.linked(asked) == more | set(NODES) - {asked} for asked in NODES))
    lan.goes_on()
    lan.stack.remove("more")
    lan.well()
