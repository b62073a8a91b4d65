"""`ipcctl` as a process, with real daemons and servers."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from integration.daemons import LONG, Daemon, Daemons, eventually

CTL = [sys.executable, "-m", "ipcd_client.cli"]
SERVER = str(Path(__file__).with_name("lab_server.py"))
LAB = "lab.v1.Lab"

EXPLAINED = {
    *("service", "node", "server", "pid", "uid", "id", "transport", "reason"),
    *("open_us", "round_trip_us", "asked", "candidates"),
}
CANDIDATE = {"node", "server", "pid", "uid", "id", "transport", "connections", "chosen", "reason"}
PINGED = {
    *("target", "service", "node", "server", "pid", "uid", "id", "transport", "reason"),
    *("sent", "answered", "min_us", "avg_us", "p99_us", "max_us", "last_error"),
}


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a run."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON value."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Standard output as one JSON value a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> Any:
        """Standard error as one JSON value."""
        return json.loads(self.err)


def ctl(*arguments: str, node: Daemon | None = None, given: str = "", **environment: str) -> Done:
    """Runs it to its end."""
    where = ["-s", node.socket] if node else []
    done = subprocess.run(
        [*CTL, *where, *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=LONG,
        env=os.environ | environment,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class World:
    """Daemons, and servers of theirs."""

    def __init__(self, cluster: Daemons) -> None:
        self._cluster = cluster
        self._servers: list[subprocess.Popen[bytes]] = []

    def node(self, name: str = "a", *arguments: str) -> Daemon:
        """A daemon."""
        return self._cluster.run(name, *arguments)

    def serve(self, node: Daemon, name: str = "lab") -> subprocess.Popen[bytes]:
        """A server of lab.v1.Lab, once the daemon knows it."""
        return self.spawn(node, sys.executable, SERVER, node.socket, name)

    def spawn(self, node: Daemon, *command: str) -> subprocess.Popen[bytes]:
        """Any process that registers a server, once it has."""
        before = len(node.events("server registered"))
        process = subprocess.Popen(command)
        self._servers.append(process)
        eventually(lambda: len(node.events("server registered")) > before, "the server is registered")
        return process

    def end(self) -> None:
        """Ends the servers."""
        for process in self._servers:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(LONG)


@pytest.fixture
def world(cluster: Daemons) -> Iterator[World]:
    made = World(cluster)
    try:
        yield made
    finally:
        made.end()


@contextlib.contextmanager
def running(*arguments: str, node: Daemon, **keywords: Any) -> Iterator[subprocess.Popen[str]]:
    """Runs it meanwhile, with pipes to its three streams."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | keywords
    with subprocess.Popen([*CTL, "-s", node.socket, *arguments], text=True, bufsize=1, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def pair(world: World) -> tuple[Daemon, Daemon, subprocess.Popen[bytes]]:
    """Two nodes that know each other, with a server named "lab" on a."""
    a = world.node("a")
    server = world.serve(a)
    b = world.node("b", "--peer", a.listen)
    eventually(lambda: LAB in ctl("ls", LAB, node=b).out, "node b knows the server on a")
    return a, b, server


# -- ls and nodes ----------------------------------------------------------------------------------


def test_ls_and_nodes(world: World) -> None:
    a, b, server = pair(world)
    row = {"service": LAB, "node": "a", "server": "lab", "pid": server.pid, "uid": os.getuid()}
    for node in (a, b):
        for arguments in (["ls"], ["ls", LAB]):
            done = ctl(*arguments, "-o", "json", node=node)
            assert (done.code, done.err) == (0, "")
            (found,) = done.json
            assert found.pop("id").startswith("a.")
            assert found == row
    heading, line = ctl("ls", node=b).out.splitlines()
    assert heading.split() == ["SERVICE", "SERVER", "NODE", "PID", "UID"]
    assert line.split() == [LAB, "lab", "a", str(server.pid), str(os.getuid())]
    assert heading.index("NODE") == line.index(" a ") + 1

    done = ctl("ls", "lab.v1.lab", node=b)
    assert (done.code, done.out) == (1, "")
    assert done.err == "ipcctl: no server for lab.v1.lab on nodes b, a (did you mean 'lab.v1.Lab'?)\n"
    done = ctl("ls", "x.X", "-o", "json", node=b)
    assert (done.code, done.json) == (1, [])
    assert done.error == {
        "error": "no server for x.X on nodes b, a",
        "code": "NO_SERVER",
        "exit": 1,
        "service": "x.X",
        "nodes": ["b", "a"],
    }

    done = ctl("-o", "json", "nodes", node=b)
    assert done.code == 0
    own, other = done.json
    assert (
        set(own)
        == set(other)
        == {
            *("node", "state", "address", "version", "rtt_us", "age_seconds", "servers", "source", "dialed"),
            *("incarnation", "error"),
        }
    )
    assert (own["node"], own["state"], own["address"], own["servers"]) == ("b", "self", b.listen, 0)
    assert (other["node"], other["state"], other["address"], other["servers"]) == ("a", "linked", a.listen, 1)
    assert (own["source"], other["source"], other["dialed"]) == ("self", "peer", True)
    assert own["age_seconds"] > 0
    assert [line.split()[:3] for line in ctl("nodes", node=b).out.splitlines()[1:]] == [
        ["b", "self", b.listen],
        ["a", "linked", a.listen],
    ]
    a.stop()
    eventually(lambda: ctl("nodes", "-o", "json", node=b).json[1]["state"] == "connecting", "node a is gone")
    assert "LAST ERROR" in ctl("nodes", node=b).out.splitlines()[0]


def test_ls_of_an_empty_node_is_no_error(world: World) -> None:
    node = world.node()
    assert ctl("ls", node=node) == Done(0, "", "nobody serves anything on node a\n")
    assert ctl("ls", "-o", "json", node=node) == Done(0, "[]\n", "")


# -- explain ---------------------------------------------------------------------------------------


def test_explain_over_two_nodes(world: World) -> None:
    a, b, server = pair(world)
    for node, transport, reason in (
        (a, "shm", "shm: caller and server share node a"),
        (b, "tcp", "tcp: the server is on node a, the caller on node b"),
    ):
        done = ctl("explain", LAB, "-o", "json", node=node)
        assert (done.code, done.err) == (0, "")
        told = done.json
        assert set(told) == EXPLAINED
        assert (told["service"], told["node"], told["server"], told["pid"]) == (LAB, "a", "lab", server.pid)
        assert (told["transport"], told["reason"]) == (transport, reason)
        assert told["open_us"] > 0 < told["round_trip_us"]
        assert told["asked"] == {"node": None, "server": None, "transport": "auto"}
        (candidate,) = told["candidates"]
        assert set(candidate) == CANDIDATE
        assert candidate["chosen"] is True
        text = ctl("explain", LAB, node=node).out
        assert text.startswith(f"{LAB}\n  node        a\n  server      lab\n  process     pid {server.pid}, uid ")
        assert f"  transport   {transport}\n  why         {reason}\n" in text
        assert text.endswith("no other candidate\n")

    # A second one, on b: a caller there takes it, and is told why not the first.
    other = world.serve(b, "canary")
    told = ctl("explain", f"{LAB}/Digest", "-o", "json", node=b).json
    assert (told["pid"], told["transport"]) == (other.pid, "shm")
    assert [each["pid"] for each in told["candidates"]] == [other.pid, server.pid]
    assert told["candidates"][1]["reason"] == "on node a, and there is one on the caller's own"
    table = ctl("explain", LAB, node=b).out.partition("other candidates\n")[2].splitlines()
    assert table[0].split() == ["NODE", "SERVER", "PID", "TRANSPORT", "WHY", "NOT"]
    assert table[1].split(maxsplit=4)[:4] == ["a", "lab", str(server.pid), "tcp"]

    # Pinned: the one that was ruled out is told, too.
    told = ctl("explain", LAB, "--node", "a", "-o", "json", node=b).json
    assert (told["pid"], told["transport"]) == (server.pid, "tcp")
    assert told["asked"]["node"] == "a"
    ruled_out = {each["pid"]: each["reason"] for each in told["candidates"] if not each["chosen"]}
    assert ruled_out == {other.pid: "not on node a, which was asked for"}
    told = ctl("explain", LAB, "--server", "lab", "-o", "json", node=b).json
    assert (told["pid"], told["candidates"][1]["reason"]) == (server.pid, "not called 'lab', which was asked for")
    told = ctl("explain", LAB, "--node", "b", "--transport", "tcp", "-o", "json", node=b).json
    assert (told["pid"], told["transport"], told["reason"]) == (
        other.pid,
        "tcp",
        "tcp was asked for; pinned to node b",
    )


def test_explain_says_no(world: World) -> None:
    node = world.node()
    server = world.serve(node)
    done = ctl("explain", "x.X", "-o", "json", node=node)
    assert done.code == 1
    assert set(done.json) == EXPLAINED
    assert done.json["transport"] is None
    assert done.json["candidates"] == []
    assert done.json["reason"] == done.error["error"] == "no server for x.X on node a"
    assert done.error["code"] == "NO_SERVER"
    assert ctl("explain", "x.X", node=node) == Done(1, "", "ipcctl: no server for x.X on node a\n")

    # There is a server, but not what was asked for: it is listed, with what rules it out.
    for pin, why in (
        (["--server", "x"], "not called 'x', which was asked for"),
        (["--node", "z"], "not on node z, which was asked for"),
    ):
        done = ctl("explain", LAB, *pin, "-o", "json", node=node)
        assert done.code == 1
        assert done.json["node"] is None
        assert [(each["pid"], each["chosen"], each["reason"]) for each in done.json["candidates"]] == [
            (server.pid, False, why)
        ]
        text = ctl("explain", LAB, *pin, node=node)
        assert why in text.out
        assert text.err.startswith("ipcctl: ")


def test_explain_of_a_server_that_does_not_answer_fails(world: World) -> None:
    node = world.node()
    server = world.serve(node)
    server.send_signal(signal.SIGSTOP)
    done = ctl("explain", LAB, "-o", "json", "--timeout", "0.5", node=node)
    assert done.code == 4
    assert done.error["code"] == "DEADLINE_EXCEEDED"
    assert done.error["error"].startswith(f"cannot open a connection for {LAB}: ")
    assert [each["pid"] for each in done.json["candidates"]] == [server.pid]
    assert done.json["transport"] is None


# -- call ------------------------------------------------------------------------------------------


def test_call_of_all_four_kinds(world: World, tmp_path: Path) -> None:
    node = world.node()
    server = world.serve(node)
    data = b"some bytes"
    chunk = json.dumps({"data": b64encode(data).decode()})

    done = ctl("call", f"{LAB}/Digest", chunk, node=node)
    expected = {"algorithm": "sha256", "hex": sha256(data).hexdigest(), "size": str(len(data))}
    assert (done.code, done.json, done.err) == (0, expected, "")
    assert done.out == json.dumps(expected, indent=2) + "\n"
    assert ctl("call", f"{LAB}/Digest", "-", "-o", "json", node=node, given=chunk).lines == [expected]
    assert ctl("call", f"/{LAB}/Identity", "-o", "json", node=node).json["pid"] == server.pid

    many = tmp_path / "chunks.jsonl"
    many.write_text(f"{chunk}\n{chunk}\n", encoding="utf-8-sig")
    expected |= {"hex": sha256(data * 4).hexdigest(), "size": str(4 * len(data))}
    done = ctl("call", f"{LAB}/DigestStream", chunk, f"@{many}", "-", node=node, given=chunk)
    assert (done.code, done.json) == (0, expected)

    done = ctl("call", f"{LAB}/Search", '{"pattern": "^import (json|os)$", "limit": 5}', "-o", "json", node=node)
    assert done.code == 0
    assert len(done.lines) == 5
    assert all(set(line) == {"file", "line", "text"} for line in done.lines)

    session = "".join(json.dumps({"sequence": n, "line": line}) for n, line in enumerate(["stat os.py", "quit"], 1))
    done = ctl("call", f"{LAB}/Session", session, "-o", "json", node=node)
    assert done.code == 0
    assert [line["sequence"] for line in done.lines if line["last"]] == [1, 2]


def test_a_session_can_be_typed(world: World) -> None:
    node = world.node()
    world.serve(node)
    with running("call", f"{LAB}/Session", "-", "-o", "json", node=node) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in (1, 2, 3):
            # Each answer comes before the next question is asked.
            process.stdin.write(json.dumps({"sequence": number, "line": "stat os.py"}) + "\n")
            assert json.loads(process.stdout.readline())["sequence"] == number
        process.stdin.close()
        assert process.stdout.read() == ""
        assert process.wait(LONG) == 0


def test_the_end_of_a_call_does_not_wait_for_more_input(world: World) -> None:
    node = world.node()
    world.serve(node)
    with running("call", f"{LAB}/Session", "-", "-o", "json", node=node) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write('{"line": "quit"}\n')
        assert process.wait(LONG) == 0
        assert process.stderr.read() == ""


def test_metadata_both_ways(world: World) -> None:
    node = world.node()
    server = world.serve(node)
    sent = ["-m", "x-one=1", "--metadata", "x-two-bin=AP8=", "-m", "y=hidden"]
    done = ctl("call", f"{LAB}/Identity", "-v", *sent, node=node)
    assert done.code == 0
    assert done.err.splitlines() == [
        f"served by lab (node a, pid {server.pid}) over shm; shm: caller and server share node a",
        "initial metadata:",
        "  served-by: lab",
        "trailing metadata:",
        "  x-one: 1",
        "  x-two-bin: AP8=",
    ]
    done = ctl("call", f"{LAB}/Identity", "-v", "-o", "json", *sent, node=node)
    served, initial, trailing = (json.loads(line) for line in done.err.splitlines())
    assert served["served_by"]["pid"] == server.pid
    assert initial == {"initial_metadata": [["served-by", "lab"]]}
    assert trailing == {"trailing_metadata": [["x-one", "1"], ["x-two-bin", "AP8="]]}


def test_a_call_that_fails(world: World) -> None:
    node = world.node()
    world.serve(node)
    done = ctl("call", f"{LAB}/Digest", '{"algorithm": "rot13"}', node=node)
    assert (done.code, done.out) == (4, "")
    assert done.err.startswith(f"ipcctl: {LAB}/Digest: INVALID_ARGUMENT: no algorithm 'rot13'")
    error = ctl("call", f"{LAB}/Digest", '{"algorithm": "rot13"}', "-o", "json", node=node).error
    assert set(error) == {"error", "code", "exit", "details", "trailing_metadata"}
    assert (error["code"], error["exit"]) == ("INVALID_ARGUMENT", 4)
    assert error["details"].startswith("no algorithm 'rot13'")
    assert error["trailing_metadata"] == [["seen-by", "lab"], ["raw-bin", "AP8="]]

    # Replies that came before the failure are printed.
    requests = '{"sequence": 1, "line": "stat os.py"}' * 1001
    done = ctl("call", f"{LAB}/Session", "-", "-o", "json", node=node, given=requests)
    assert (done.code, done.error["code"]) == (4, "RESOURCE_EXHAUSTED")
    assert len(done.lines) == 1000

    done = ctl("call", "nobody.v1.Nobody/Do", node=node)
    assert done == Done(4, "", "ipcctl: nobody.v1.Nobody: UNAVAILABLE: no server for nobody.v1.Nobody on node a\n")
    assert "(did you mean 'lab.v1.Lab'?)" in ctl("call", "lab.v1.lab/Digest", node=node).err

    with running("call", f"{LAB}/Session", "-", "-o", "json", "--timeout", "0.3", node=node) as process:
        assert process.wait(LONG) == 4
        assert process.stderr is not None
        assert json.loads(process.stderr.read())["code"] == "DEADLINE_EXCEEDED"


def test_input_that_is_wrong_says_where_and_what(world: World, tmp_path: Path) -> None:
    node = world.node()
    world.serve(node)

    def refused(*arguments: str, given: str = "") -> str:
        done = ctl("call", *arguments, node=node, given=given)
        assert done.code == 2
        assert done.out == ""
        assert "Traceback" not in done.err
        return done.err.removeprefix("ipcctl: ").removesuffix("\n")

    assert refused(f"{LAB}/Digest", '{"data" "x"}').splitlines() == [
        "bad JSON in argument 1, line 1 column 9: expecting ':' delimiter",
        '  {"data" "x"}',
        "          ^",
    ]
    assert refused(f"{LAB}/DigestStream", "-", given='{"data": "AAAA"}\n{"dat": "AAAA"}\n') == (
        "message 2 (standard input, line 2): lab.v1.Chunk has no field 'dat' (did you mean 'data'?); "
        "it has: data, algorithm"
    )
    assert refused(f"{LAB}/DigestStream", "-", given='{"data": "AAAA"}\n{"data": "AA').startswith(
        "bad JSON in standard input, line 2 column 1: the value that begins here is not complete"
    )
    assert refused(f"{LAB}/Digest", "{}", "{}") == f"{LAB}/Digest takes one message; more were given"
    assert refused(f"{LAB}/Digest", "-") == f"{LAB}/Digest takes one message; none was given"
    assert refused(f"{LAB}/Session").startswith(f"{LAB}/Session takes a stream of messages: ")
    assert refused(f"{LAB}/Digest", f"@{tmp_path}/none") == f"cannot read {tmp_path}/none: No such file or directory"
    (tmp_path / "binary").write_bytes(b'{"data": "\xff"}')
    assert refused(f"{LAB}/Digest", f"@{tmp_path}/binary") == f"{tmp_path}/binary is not UTF-8: invalid start byte"

    first, *methods = refused(f"{LAB}/Digests").splitlines()
    assert first == f"{LAB} has no method 'Digests' (did you mean 'Digest'?); it has:"
    assert "  Search(lab.v1.SearchRequest) returns (stream lab.v1.Match)" in methods
    error = ctl("call", f"{LAB}/Nope", "-o", "json", node=node).error
    assert (error["code"], error["exit"], len(error["methods"])) == ("USAGE", 2, 6)
    error = ctl("call", f"{LAB}/DigestStream", "{}\n}", "-o", "json", node=node).error
    assert (error["line"], error["column"]) == (2, 1)


def test_the_methods_of_a_service_are_listed(world: World) -> None:
    node = world.node()
    world.serve(node)
    done = ctl("call", LAB, node=node)
    assert done.code == 0
    assert done.out.splitlines()[1] == "DigestStream(stream lab.v1.Chunk) returns (lab.v1.DigestReply)"
    assert ctl("call", LAB, "-o", "json", node=node).json[1] == {
        "method": f"{LAB}/DigestStream",
        "request": "lab.v1.Chunk",
        "reply": "lab.v1.DigestReply",
        "client_streaming": True,
        "server_streaming": False,
    }


def test_the_daemon_itself_is_called_like_a_service(world: World) -> None:
    node = world.node()
    done = ctl("call", "ipcd.v1.Node/Status", "-o", "json", node=node)
    assert done.code == 0
    assert (done.json["node"], done.json["pid"]) == ("a", node.process.pid)
    with running("call", "ipcd.v1.Node/WatchCatalog", "-o", "json", node=node) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"servers": []}
        server = world.serve(node)
        (told,) = json.loads(process.stdout.readline())["servers"]
        assert told["process"]["pid"] == server.pid


def test_a_server_without_descriptors_can_be_pinged_but_not_called(world: World) -> None:
    node = world.node()
    code = (
        "import sys, time, grpc, ipcd_client\n"
        "handlers = {'Do': grpc.unary_unary_rpc_method_handler(lambda request, context: request)}\n"
        "generic = grpc.method_handlers_generic_handler('raw.v1.Raw', handlers)\n"
        "server = ipcd_client.server(handlers=[generic], node=sys.argv[1])\n"
        "server.start()\n"
        "time.sleep(60)\n"
    )
    server = world.spawn(node, sys.executable, "-c", code, node.socket)
    assert ctl("ping", "raw.v1.Raw", "-c", "1", "-o", "json", node=node).json["pid"] == server.pid
    done = ctl("call", "raw.v1.Raw/Do", node=node)
    assert done.code == 4
    assert "the server has no descriptor of raw.v1.Raw" in done.err


# -- ping ------------------------------------------------------------------------------------------


def test_ping(world: World) -> None:
    a, b, server = pair(world)
    done = ctl("ping", LAB, "-c", "3", "-i", "0", "-o", "json", node=b)
    assert (done.code, done.err) == (0, "")
    told = done.json
    assert set(told) == PINGED
    assert (told["service"], told["node"], told["pid"], told["transport"]) == (LAB, "a", server.pid, "tcp")
    assert (told["sent"], told["answered"], told["last_error"]) == (3, 3, None)
    assert 0 < told["min_us"] <= told["avg_us"] <= told["p99_us"] <= told["max_us"]
    lines = ctl("ping", LAB, "-c", "3", "-i", "0", node=a).out.splitlines()
    assert lines[0] == f"{LAB} at server 'lab' on node a (pid {server.pid}): shm: caller and server share node a"
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert re.fullmatch(r"3 of 3 answered over shm: min .*, avg .*, p99 .*, max .*", lines[4])

    for node, transport, count in ((b, "unix", 10), (a, "link", 1)):
        told = ctl("ping", node.node, "-o", "json", "-i", "0", node=b).json
        assert set(told) == PINGED
        assert (told["service"], told["node"], told["transport"]) == (None, node.node, transport)
        assert (told["sent"], told["answered"]) == (count, count)

    for transport in ("unix", "shm"):
        assert ctl("ping", LAB, "--transport", transport, node=b).code == 4
    done = ctl("ping", "c", node=b)
    assert (done.code, done.err) == (1, "ipcctl: neither a service nor a node is called 'c'\n")

    a.stop()
    eventually(lambda: ctl("nodes", "-o", "json", node=b).json[1]["state"] == "connecting", "node a is gone")
    done = ctl("ping", "a", "-o", "json", node=b)
    assert (done.code, done.json["answered"], done.json["avg_us"]) == (4, 0, None)
    assert done.error["error"].startswith("1 of 1 had no answer; the last: node a is connecting")


def test_ping_goes_on_over_the_death_of_a_server(world: World) -> None:
    node = world.node()
    server = world.serve(node)
    with running("ping", LAB, "-c", "0", "-i", "0.05", node=node) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        assert re.fullmatch(r" +1  .* us\n| +1  .* ms\n", process.stdout.readline())
        server.kill()
        eventually(lambda: "no server for" in process.stdout.readline(), "the death is told")  # type: ignore[union-attr]
        world.serve(node)
        eventually(lambda: re.search(r" [mu]s$", process.stdout.readline()), "the next server answers")  # type: ignore[union-attr]
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(LONG) == 130
        assert re.search(r"^\d+ of \d+ answered over shm: min ", rest, re.MULTILINE)
        assert process.stderr.read() == "ipcctl: interrupted\n"


# -- no daemon, and what else can go wrong ---------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["ls"], ["nodes"], ["explain", LAB], ["call", f"{LAB}/Digest", "{}"], ["ping", LAB]], ids=" ".join
)
def test_no_daemon(arguments: list[str], tmp_path: Path) -> None:
    path = str(tmp_path / "none.sock")
    text = f"no ipcd daemon at {path} (no such file); start one with: ipcd run --socket {path}"
    assert ctl(*arguments, "-s", path) == Done(3, "", f"ipcctl: {text}\n")
    done = ctl(*arguments, "-o", "json", IPCD_SOCKET=path)
    assert (done.code, done.out) == (3, "")
    assert done.error == {
        "error": text,
        "code": "NO_DAEMON",
        "exit": 3,
        "socket": path,
        "start": f"ipcd run --socket {path}",
    }


def test_the_default_socket(tmp_path: Path) -> None:
    done = ctl("ls", "-o", "json", IPCD_SOCKET="", XDG_RUNTIME_DIR=str(tmp_path))
    assert done.error["socket"] == str(tmp_path / "ipcd" / "ipcd.sock")
    assert ctl("ls", "-o", "json", IPCD_SOCKET="", XDG_RUNTIME_DIR="").error["socket"] == "/run/ipcd/ipcd.sock"


def test_a_daemon_that_does_not_answer(cluster: Daemons) -> None:
    path = str(cluster.folder / "silent.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        begin = time.monotonic()
        done = ctl("ls", "-o", "json", "-s", path, "--timeout", "0.3")
        assert time.monotonic() - begin < 5
    assert (done.code, done.error["code"]) == (4, "DEADLINE_EXCEEDED")
    assert path in done.error["error"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_users_daemon(world: World) -> None:
    node = world.node()
    code = (
        "import os, sys, ipcd_client.cli.backend, ipcd_client.cli.program as program\n"
        "os.seteuid(65534)\n"
        "sys.exit(program.run(['ls', '-o', 'json', '-s', sys.argv[1]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, node.socket], capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 4
    error = json.loads(done.stderr)
    assert error["code"] == "PERMISSION_DENIED"
    assert error["details"] == f"uid 65534 may not open {node.socket}: it belongs to another user"


@pytest.mark.parametrize("format_", ["text", "json"])
def test_interrupted(world: World, format_: str) -> None:
    node = world.node()
    world.serve(node)
    with running("call", f"{LAB}/Session", "-", "-o", format_, node=node) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write('{"line": "stat os.py"}\n')
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(LONG) == 130
        error = process.stderr.read()
    if format_ == "json":
        assert json.loads(error) == {"error": "interrupted", "code": "INTERRUPTED", "exit": 130}
    else:
        assert error == "ipcctl: interrupted\n"


def test_a_reader_that_has_seen_enough(world: World) -> None:
    node = world.node()
    world.serve(node)
    search = ("call", f"{LAB}/Search", '{"pattern": "import", "limit": 10000}', "-o", "json")
    with running(*search, node=node) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())
        process.stdout.close()
        assert process.wait(LONG) == 0
        assert process.stderr.read() == ""


def test_help_into_a_pipe_that_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([*CTL, "--help"], stdout=writer, stderr=subprocess.PIPE, timeout=LONG)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_nowhere_to_write(world: World) -> None:
    node = world.node()
    with Path("/dev/full").open("w") as full, running("nodes", node=node, stdout=full) as process:
        assert process.wait(LONG) == 4
        assert process.stderr is not None
        assert process.stderr.read() == "ipcctl: cannot write: No space left on device\n"


# -- terminals and shells --------------------------------------------------------------------------


def on_terminal(node: Daemon, *arguments: str, **environment: str) -> str:
    """What it writes to a terminal."""
    ours, theirs = pty.openpty()
    try:
        environment = {"TERM": "xterm-256color", "COLUMNS": "100"} | environment
        clean = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "FORCE_COLOR"}}
        command = [*CTL, "-s", node.socket, *arguments]
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=clean | environment)
        os.close(theirs)
        said = b""
        # The terminal ends with an I/O error once nobody has it open.
        with contextlib.suppress(OSError):
            while data := os.read(ours, 4096):
                said += data
        assert process.wait(LONG) == 0
        return said.decode()
    finally:
        os.close(ours)


def test_colours_are_for_terminals(world: World) -> None:
    a, b, _ = pair(world)
    del a
    assert "\x1b[32mlinked" in on_terminal(b, "nodes")
    assert "\x1b[32m" not in on_terminal(b, "nodes", NO_COLOR="1")
    assert "\x1b" not in on_terminal(b, "nodes", TERM="dumb")
    assert "\x1b" not in ctl("nodes", node=b).out
    assert "\x1b" not in ctl("nodes", node=b, FORCE_COLOR="1").out
    assert json.loads(on_terminal(b, "nodes", "-o", "json"))


SHELLS: list[tuple[str, Callable[[str], list[str]]]] = [
    ("bash", lambda script: ["bash", "-n", script]),
    ("zsh", lambda script: ["zsh", "-n", script]),
    ("fish", lambda script: ["fish", "--no-execute", script]),
]


@pytest.mark.parametrize(("shell", "check"), SHELLS, ids=[shell for shell, _ in SHELLS])
def test_completion_scripts(shell: str, check: Callable[[str], list[str]], tmp_path: Path) -> None:
    done = ctl("completion", shell)
    assert done.code == 0
    assert f"_IPCCTL_COMPLETE={shell}_complete" in done.out
    script = tmp_path / "script"
    script.write_text(done.out)
    try:
        assert subprocess.run(check(str(script)), capture_output=True, timeout=LONG).returncode == 0
    except FileNotFoundError:
        pytest.skip(f"there is no {shell} here to check the script's syntax with")


def test_completion_knows_commands_services_and_nodes(world: World) -> None:
    node = world.node()
    world.serve(node)

    def completed(*words: str, socket: str = node.socket) -> list[str]:
        done = ctl(
            IPCD_SOCKET=socket,
            _IPCCTL_COMPLETE="bash_complete",
            COMP_WORDS=" ".join(["ipcctl", *words]),
            COMP_CWORD=str(len(words)),
        )
        assert done.err == ""
        return [line.partition(",")[2] for line in done.out.split()]

    assert completed("no") == ["nodes"]
    assert completed("explain", "lab") == [LAB]
    assert completed("explain", LAB, "--node", "a") == ["a"]
    assert completed("explain", "x") == []
    # Where there is no daemon, there is nothing to complete, and no word about it.
    assert completed("explain", "lab", socket="/nonexistent") == []
