"""`ipcctl ping`, of services and of nodes."""

from __future__ import annotations

import re
import signal

from integration.daemons import LONG, eventually
from integration.ipcctl.runs import LAB, World, ctl, pair, running

PINGED = {
    *("target", "service", "node", "server", "pid", "uid", "id", "transport", "reason"),
    *("sent", "answered", "min_us", "avg_us", "p99_us", "max_us", "last_error"),
}


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
