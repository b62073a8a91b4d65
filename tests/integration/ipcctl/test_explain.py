"""`ipcctl explain`: which server, over what, and why."""

from __future__ import annotations

import signal

from integration.ipcctl.runs import LAB, Done, World, ctl, pair

EXPLAINED = {
    *("service", "node", "server", "pid", "uid", "id", "transport", "reason"),
    *("open_us", "round_trip_us", "asked", "candidates"),
}
CANDIDATE = {"node", "server", "pid", "uid", "id", "transport", "connections", "chosen", "reason", "refusal"}


def test_explain_over_two_nodes(world: World) -> None:
    a, b, server = pair(world)
    for node, transport, reason in (
        (a, "shm", "shm: caller and server share node a"),
        (b, "tcp", "tcp: the server is on node a, the caller on node b; direct: the caller dials"),
    ):
        done = ctl("explain", LAB, "-o", "json", node=node)
        assert (done.code, done.err) == (0, "")
        told = done.json
        assert set(told) == EXPLAINED
        assert (told["service"], told["node"], told["server"], told["pid"]) == (LAB, "a", "lab", server.pid)
        assert (told["transport"], told["reason"]) == (transport, reason)
        assert told["open_us"] > 0 < told["round_trip_us"]
        assert told["asked"] == {"node": None, "server": None, "transport": "auto", "as": None}
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
        "tcp was asked for; pinned to node b; direct: the caller dials",
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
    done = ctl("explain", LAB, "-o", "json", "--timeout", "2", node=node)
    assert done.code == 4
    assert done.error["code"] == "DEADLINE_EXCEEDED"
    assert done.error["error"].startswith(f"cannot open a connection for {LAB}: ")
    assert [each["pid"] for each in done.json["candidates"]] == [server.pid]
    assert done.json["transport"] is None
