"""`ipcctl ls` and `ipcctl nodes`."""

from __future__ import annotations

import os

from integration.daemons import eventually
from integration.ipcctl.runs import LAB, Done, World, ctl, pair


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
            *("incarnation", "error", "link", "clock_offset_us", "clock_error_us"),
            *("security", "certificate_expires"),
        }
    )
    assert (own["node"], own["state"], own["address"], own["servers"]) == ("b", "self", b.listen, 0)
    assert (other["node"], other["state"], other["address"], other["servers"]) == ("a", "linked", a.listen, 1)
    assert (own["source"], other["source"], other["dialed"]) == ("self", "peer", True)
    assert (own["link"], other["link"], ctl("-o", "json", "nodes", node=a).json[1]["link"]) == (None, "out", "in")
    assert own["clock_offset_us"] is None
    other = eventually(
        lambda: [one for one in ctl("nodes", "-o", "json", node=b).json if one["clock_offset_us"] is not None],
        "the clock of a is known",
    )[0]
    # It is the same one. The two clocks that are used for it may differ by a little.
    assert abs(other["clock_offset_us"]) <= other["clock_error_us"] + 1000
    assert other["rtt_us"] > 0
    assert "(within " in ctl("nodes", node=b).out.splitlines()[2]
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
