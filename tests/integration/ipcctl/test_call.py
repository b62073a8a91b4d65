"""`ipcctl call`: methods of all four kinds, from descriptors alone."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from integration.daemons import LONG
from integration.ipcctl.runs import LAB, Done, World, ctl, running


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
