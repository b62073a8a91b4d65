"""`ipcctl expose` as a process, before real gRPC servers, at real daemons."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ipcd_client
import pytest
from conformance import interop
from conformance.interop import Pipe, request
from conformance.pb.interop.v1 import interop_pb2, interop_pb2_grpc
from integration.daemons import LONG, Daemon, Daemons, eventually
from integration.exposing import CTL, PROTO, Exposing, grpcio_server, line_of, python, tell

NOTHING = interop_pb2.Empty()


@pytest.fixture
def node(cluster: Daemons) -> Daemon:
    """The test's daemon."""
    return cluster.run()


@pytest.fixture
def address(socket_dir: Path) -> Iterator[str]:
    """For a server that is killed, and for another after it."""
    path = socket_dir / "server"
    yield f"unix:{path}"
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def stub_at(node: Daemon) -> Iterator[Any]:
    """As any program has it."""
    with ipcd_client.channel(node=node.socket) as channel:
        yield interop_pb2_grpc.TestStub(channel)


@contextlib.contextmanager
def exposed(node: Daemon, address: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Exposing, Any]]:
    """A server, exposed and registered; the process that does it, and a stub."""
    with grpcio_server(address) as server:
        line_of(server)
        with Exposing(node, address, interop.SERVICE, *arguments) as exposing, stub_at(node) as stub:
            exposing.serves()
            yield server, exposing, stub


def ctl(node: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs ipcctl to its end."""
    return subprocess.run([*CTL, "-s", node.socket, *arguments], capture_output=True, text=True, timeout=LONG)


def listed(node: Daemon) -> list[str]:
    """The services that `ipcctl ls` shows."""
    return [row["service"] for row in json.loads(ctl(node, "ls", "-o", "json").stdout)]


def fact(call: Any, key: str) -> str:
    """From the trailing metadata."""
    return str(dict(call.trailing_metadata())[key])


# -- calls ------------------------------------------------------------------------------------------


def test_the_deadline_travels(node: Daemon, address: str) -> None:
    with exposed(node, address) as (_, _, stub):
        _, call = stub.Nothing.with_call(NOTHING, timeout=100.0)
        # gRPC's wire has few digits for it, and rounds up.
        assert 50 < float(fact(call, "x-left")) < 110
        _, call = stub.Nothing.with_call(NOTHING)
        assert float(fact(call, "x-left")) > 1e6


def test_an_error_keeps_its_details_and_trailing_metadata(node: Daemon, address: str) -> None:
    with exposed(node, address) as (_, _, stub):
        with pytest.raises(grpc.RpcError) as caught:
            stub.Unary(request(status=interop_pb2.Status(code=9, message="not so")), timeout=LONG)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.details() == "not so"
        assert set(caught.value.trailing_metadata()) >= {("x-why", "asked"), ("grpc-status-details-bin", b"\0\xff")}


@pytest.fixture
def frames(node: Daemon, address: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A server that shows how requests end; and a stub."""
    with python("frames_server.py", address.removeprefix("unix:")) as server:
        line_of(server)
        with Exposing(node, address, interop.SERVICE) as exposing, stub_at(node) as stub:
            exposing.serves()
            yield server, stub


def test_a_cancelled_upload_is_broken_off_and_not_ended(frames: tuple[subprocess.Popen[str], Any]) -> None:
    server, stub = frames
    for _ in range(50):
        pipe = Pipe()
        call = stub.Upload.future(iter(pipe), timeout=LONG)
        pipe.put(request(1))
        assert line_of(server) == "begun"
        call.cancel()
        pipe.close()
        assert line_of(server) == "reset"
    # So that the words above are known to tell the difference.
    pipe = Pipe()
    call = stub.Upload.future(iter(pipe), timeout=LONG)
    pipe.put(request(1))
    assert line_of(server) == "begun"
    pipe.close()
    assert line_of(server) == "ended"
    assert call.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_caller_that_is_killed_is_a_cancel(node: Daemon, frames: tuple[subprocess.Popen[str], Any]) -> None:
    program = (
        "import sys, ipcd_client\n"
        "channel = ipcd_client.channel(node=sys.argv[1])\n"
        "call = channel.stream_unary('/interop.v1.Test/Upload')\n"
        "def requests():\n"
        "    yield b''\n"
        "    sys.stdin.read()\n"
        "call(requests())\n"
    )
    server, _ = frames
    with subprocess.Popen([sys.executable, "-c", program, node.socket], stdin=subprocess.PIPE) as caller:
        assert line_of(server) == "begun"
        caller.kill()
    assert line_of(server) == "reset"


def test_a_reader_that_stops_stops_the_server(node: Daemon, address: str) -> None:
    count, size = 256, 1 << 20

    def made() -> int:
        return int(fact(stub.Nothing.with_call(NOTHING, timeout=LONG)[1], "x-made"))

    with exposed(node, address) as (_, _, stub):
        call = stub.Download(request(0, *[size] * count), timeout=5 * LONG)
        assert next(call) == interop.reply(size)
        before, same = made(), 0
        # It has come to rest when many calls, each of which has to get past it, find it where it was.
        while same < 200:
            now = made()
            before, same = now, same + 1 if now == before else 0
        assert before < count / 2
        assert sum(1 for _ in call) == count - 1
        assert made() == count


def test_how_large_a_message_may_be_is_for_the_two_programs_to_say(node: Daemon, address: str) -> None:
    with exposed(node, address) as (_, _, stub):
        with ipcd_client.channel(node=node.socket, options=[("grpc.max_receive_message_length", -1)]) as channel:
            large = interop_pb2_grpc.TestStub(channel)
            assert large.Unary(request(0, 16 << 20), timeout=LONG) == interop.reply(16 << 20)
        for call in (
            stub.Unary.future(request(0, 16 << 20), timeout=LONG),  # more than the caller takes
            stub.Unary.future(request(16 << 20), timeout=LONG),  # more than the server takes
        ):
            assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max" in str(call.details())


def test_one_call_too_many_is_told_the_limit(node: Daemon, address: str) -> None:
    with exposed(node, address, "--max-calls", "2") as (_, _, stub):
        pipes = [Pipe(), Pipe()]
        calls = [stub.Duplex(iter(pipe), timeout=LONG) for pipe in pipes]
        for pipe, call in zip(pipes, calls, strict=True):
            pipe.put(request(0, 1))
            assert next(call) == interop.reply(1)
        for _ in range(5):
            with pytest.raises(grpc.RpcError) as caught:
                stub.Nothing(NOTHING, timeout=LONG)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            details = str(caught.value.details())
            assert "2 calls" in details
            assert "--max-calls" in details
        for pipe, call in zip(pipes, calls, strict=True):
            pipe.close()
            assert list(call) == []
        answered = [grpc.StatusCode.OK]
        eventually(lambda: [stub.Nothing.future(NOTHING, timeout=LONG).code()] == answered, "there is room again")


def test_other_nodes_find_it(cluster: Daemons, node: Daemon, address: str) -> None:
    other = cluster.run("b", "--peer", node.listen)
    with exposed(node, address), stub_at(other) as stub:
        eventually(lambda: interop.SERVICE in listed(other), "node b knows it")
        assert stub.Unary(request(10, 20), timeout=LONG) == interop.reply(20)


def test_its_name_and_the_node_choose_it(node: Daemon, address: str) -> None:
    with exposed(node, address, "--name", "canary"):
        with ipcd_client.channel("ipcd:///canary", node=node.socket) as channel:
            interop.empty_unary(channel)
        with ipcd_client.channel("ipcd:///other", node=node.socket) as channel, pytest.raises(grpc.RpcError):
            interop.empty_unary(channel)


# -- health -----------------------------------------------------------------------------------------


def gone(stub: Any) -> None:
    """Nobody serves it, callers are told."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.Nothing(NOTHING, timeout=LONG)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == f"no server for {interop.SERVICE} on node a"


@pytest.mark.parametrize("options", [(), ("--health", "watch"), ("--health", "check")], ids=["none", "watch", "check"])
def test_a_server_that_dies_is_gone_until_it_is_back(node: Daemon, address: str, options: tuple[str, ...]) -> None:
    with stub_at(node) as stub, Exposing(node, address, interop.SERVICE) as exposing:
        exposing.serves_not(words="UNAVAILABLE")
        gone(stub)
        for _ in range(2):
            with grpcio_server(address, *options) as server:
                line_of(server)
                exposing.serves()
                assert stub.Nothing(NOTHING, timeout=LONG) == NOTHING
                assert listed(node) == [interop.SERVICE]
            exposing.serves_not(words="UNAVAILABLE")
            gone(stub)
            assert listed(node) == []


def test_a_server_in_another_language_that_dies_is_gone_until_it_is_back(
    node: Daemon, address: str, request: pytest.FixtureRequest
) -> None:
    nodejs = request.getfixturevalue("nodejs")
    with stub_at(node) as stub, Exposing(node, address, interop.SERVICE) as exposing:
        exposing.serves_not(words="UNAVAILABLE")
        for _ in range(2):
            with nodejs.running("interop_server.js", str(PROTO), address) as server:
                line_of(server)
                exposing.serves(words="no health service")
                assert stub.Nothing(NOTHING, timeout=LONG) == NOTHING
            exposing.serves_not(words="UNAVAILABLE")
            gone(stub)


@pytest.mark.parametrize("kind", ["watch", "check"])
@pytest.mark.parametrize("name", [interop.SERVICE, "*"])
def test_what_the_health_service_says_counts(node: Daemon, address: str, kind: str, name: str) -> None:
    with grpcio_server(address, "--health", kind) as server:
        tell(server, f"{name} SERVING")
        line_of(server)
        with stub_at(node) as stub, Exposing(node, address, interop.SERVICE) as exposing:
            exposing.serves(words="SERVING")
            pipe = Pipe()
            call = stub.Duplex(iter(pipe), timeout=LONG)
            pipe.put(request(0, 1))
            assert next(call) == interop.reply(1)
            tell(server, f"{name} NOT_SERVING")
            exposing.serves_not(words="NOT_SERVING")
            gone(stub)
            # What was under way goes on.
            pipe.put(request(0, 2))
            assert next(call) == interop.reply(2)
            pipe.close()
            assert list(call) == []
            tell(server, f"{name} SERVING")
            exposing.serves(words="SERVING")
            assert stub.Nothing(NOTHING, timeout=LONG) == NOTHING


def test_who_waits_for_it_gets_it(node: Daemon, address: str) -> None:
    with stub_at(node) as stub, Exposing(node, address, interop.SERVICE) as exposing:
        exposing.serves_not(words="UNAVAILABLE")
        call = stub.Nothing.future(NOTHING, timeout=2 * LONG, wait_for_ready=True)
        with grpcio_server(address):
            assert call.result() == NOTHING


def test_each_service_has_its_own_health(node: Daemon, address: str) -> None:
    with grpcio_server(address, "--health", "watch") as server:
        line_of(server)
        with Exposing(node, address, interop.SERVICE, "other.v1.Other") as exposing, stub_at(node) as stub:
            assert {exposing.change()["service"] for _ in range(2)} == {interop.SERVICE, "other.v1.Other"}
            assert listed(node) == [interop.SERVICE, "other.v1.Other"]
            tell(server, "other.v1.Other NOT_SERVING")
            exposing.serves_not("other.v1.Other", words="NOT_SERVING")
            assert listed(node) == [interop.SERVICE]
            assert stub.Nothing(NOTHING, timeout=LONG) == NOTHING


def test_it_registers_again_with_a_new_daemon(cluster: Daemons, node: Daemon, address: str) -> None:
    with exposed(node, address) as (_, _, stub):
        assert stub.Nothing(NOTHING, timeout=LONG) == NOTHING
        node.kill()
        again = cluster.run()
        eventually(lambda: interop.SERVICE in listed(again), "it is registered")
        with stub_at(again) as other:
            assert other.Nothing(NOTHING, timeout=LONG) == NOTHING


def test_what_cannot_be_registered_is_as_soon_as_it_can(cluster: Daemons, node: Daemon, address: str) -> None:
    with grpcio_server(address, "--health", "watch") as server:
        line_of(server)
        with Exposing(node, address, interop.SERVICE, IPCD_ATTACH_TIMEOUT="2") as exposing:
            exposing.serves()
            node.kill()
            tell(server, f"{interop.SERVICE} NOT_SERVING")
            exposing.serves_not(words="NOT_SERVING")
            tell(server, f"{interop.SERVICE} SERVING")
            exposing.serves_not(words="cannot be registered: no ipcd daemon")
            again = cluster.run()
            exposing.serves(words="SERVING")
            assert listed(again) == [interop.SERVICE]


# -- the end ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_drains(node: Daemon, address: str, number: int, code: int) -> None:
    with exposed(node, address) as (_, exposing, stub):
        pipe = Pipe()
        call = stub.Duplex(iter(pipe), timeout=LONG)
        pipe.put(request(0, 1))
        assert next(call) == interop.reply(1)
        exposing.process.send_signal(number)
        exposing.serves_not(words="ending")
        eventually(lambda: not listed(node), "nobody finds it any more")
        pipe.put(request(0, 2))
        assert next(call) == interop.reply(2)
        pipe.close()
        assert list(call) == []
        assert exposing.process.wait(LONG) == code


def test_what_does_not_end_is_ended(node: Daemon, address: str) -> None:
    with exposed(node, address, "--grace", "0") as (_, exposing, stub):
        pipe = Pipe()
        call = stub.Duplex(iter(pipe))
        pipe.put(request(0, 1))
        assert next(call) == interop.reply(1)
        assert exposing.end() == 0
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        pipe.close()


def test_a_second_signal_ends_it_at_once(node: Daemon, address: str) -> None:
    with exposed(node, address, "--grace", "600") as (_, exposing, stub):
        pipe = Pipe()
        call = stub.Duplex(iter(pipe), timeout=LONG)
        pipe.put(request(0, 1))
        assert next(call) == interop.reply(1)
        exposing.process.send_signal(signal.SIGTERM)
        exposing.serves_not(words="ending")
        assert exposing.end() == -signal.SIGTERM
        pipe.close()
        assert call.code() is grpc.StatusCode.UNAVAILABLE


# -- reflection -------------------------------------------------------------------------------------


def test_all_services_are_found_by_reflection_and_can_be_called_by_hand(node: Daemon, address: str) -> None:
    with grpcio_server(address, "--reflection", "--health", "watch") as server:
        line_of(server)
        with Exposing(node, address) as exposing:
            exposing.serves()
            # Those about the server itself are not among them.
            assert listed(node) == [interop.SERVICE]
            done = ctl(node, "call", f"{interop.SERVICE}/Unary", '{"reply_sizes": [3]}', "-o", "json")
            assert done.stdout == '{"payload": {"body": "AAAA"}}\n', done.stderr
            done = ctl(node, "call", interop.SERVICE)
            assert "Upload(stream interop.v1.Request) returns (interop.v1.Sum)" in done.stdout


def test_without_reflection_the_services_have_to_be_named(node: Daemon, address: str) -> None:
    with exposed(node, address):
        done = ctl(node, "expose", "--to", address)
        assert (done.returncode, done.stderr) == (
            2,
            f"ipcctl: the server at {address} has no reflection: name the services to expose\n",
        )
        done = ctl(node, "call", f"{interop.SERVICE}/Nothing")
        assert done.returncode == 4
        assert "does not describe its services" in done.stderr


# -- usage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "nowhere"], "'nowhere' is not HOST:PORT"),
        (["--to", "localhost:0"], "port 0"),
        (["--to", "unix:"], "names no socket"),
        (["a.B/C", "--to", "localhost:1"], "'a.B/C' is not the full name of a service"),
        (["a.B", "--to", "unix:/x", "--tls"], "--tls and --ca are for HOST:PORT"),
        (["a.B"], "Missing option '--to'"),
        (["a.B", "--to", "localhost:1", "--max-calls", "0"], "--max-calls"),
    ],
)
def test_wrong_usage(cluster: Daemons, arguments: list[str], words: str) -> None:
    done = ctl(cluster.run(), "expose", *arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_without_a_daemon(address: str, socket_dir: Path) -> None:
    done = subprocess.run(
        [*CTL, "-s", str(socket_dir / "none"), "expose", "a.B", "--to", address], capture_output=True, timeout=LONG
    )
    assert done.returncode == 3


def test_without_a_server_to_ask(node: Daemon, address: str) -> None:
    done = ctl(node, "expose", "--to", address)
    assert done.returncode == 4
    assert f"the server at {address} does not say what it serves: UNAVAILABLE" in done.stderr


def test_lines_for_people_are_aligned(node: Daemon, address: str) -> None:
    command = [*CTL, "-s", node.socket, "expose", interop.SERVICE, "x.Y", "--to", address]
    with grpcio_server(address) as server:
        line_of(server)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            lines = sorted(line_of(process) for _ in range(2))
            process.terminate()
    # HH:MM:SS, then columns.
    assert sorted(line[8:] for line in lines) == [
        "  serving      interop.v1.Test  connected; the server has no health service",
        "  serving      x.Y              connected; the server has no health service",
    ]


# -- TLS --------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Of localhost, signed by itself; and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on PATH to make a certificate with")
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [openssl, *command, *names, "-out", files[0], "-keyout", files[1]],
        check=True,
        capture_output=True,
        timeout=LONG,
    )
    return files


def test_a_server_with_a_certificate(node: Daemon, certificate: tuple[Path, Path]) -> None:
    with grpcio_server("localhost:0", "--tls", *map(str, certificate)) as server:
        to = f"localhost:{line_of(server)}"
        with Exposing(node, to, interop.SERVICE, "--ca", str(certificate[0])) as exposing, stub_at(node) as stub:
            exposing.serves()
            assert stub.Unary(request(10, 20), timeout=LONG) == interop.reply(20)
        # One that does not lead to what the system trusts, and none.
        for options in (["--tls"], []):
            with Exposing(node, to, interop.SERVICE, *options) as exposing:
                exposing.serves_not(words="UNAVAILABLE")
