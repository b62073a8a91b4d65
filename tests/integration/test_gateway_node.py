"""A gateway's own services, its servers' comings and goings, its socket, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from conformance import interop
from conformance.interop import Pipe, request
from conformance.pb.interop.v1 import interop_pb2, interop_pb2_grpc
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from integration.daemons import LONG, Daemon, Daemons, eventually, run
from integration.exposing import line_of
from integration.gateway import LISTEN, address_of, channel_to, fact, front_and_back, serving, until_served
from ipcd_client.pb.ipcd.grpc import reflection_pb2
from ipcd_client.pb.ipcd.v1 import node_pb2, node_pb2_grpc
from ipcd_client.wire.tcp import split_address

from ipcd import limits
from ipcd.state.primitives import SERVICES

NOTHING = interop_pb2.Empty()
SERVING = health_pb2.HealthCheckResponse.SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
Code = grpc.StatusCode


@pytest.fixture
def node(cluster: Daemons) -> Daemon:
    """With a gateway."""
    return cluster.run("a", *LISTEN)


@pytest.fixture
def channel(node: Daemon) -> Iterator[grpc.Channel]:
    """To its gateway."""
    with channel_to(node) as made:
        yield made


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    """As any program has it."""
    return interop_pb2_grpc.TestStub(channel)


def failed(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> tuple[grpc.StatusCode, str]:
    """What a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, timeout=LONG, **keywords)
    return caught.value.code(), caught.value.details() or ""


def served_by(stub: Any, target: str = "") -> str:
    """The name of the server that answers."""
    metadata = (("ipcd-target", target),) if target else ()
    _, call = stub.Nothing.with_call(NOTHING, timeout=LONG, metadata=metadata)
    return str(fact(call, "x-served-by"))


# -- the gateway's own services ---------------------------------------------------------------------


def test_the_node_s_own_api(node: Daemon, channel: grpc.Channel) -> None:
    stub: Any = node_pb2_grpc.NodeStub(channel)
    status = stub.Status(node_pb2.StatusRequest(), timeout=LONG)
    assert (status.node, list(status.grpc), status.attached) == ("a", [address_of(node)], 0)
    assert failed(stub.Resolve, node_pb2.ResolveRequest(service="x.X")) == (
        Code.UNAVAILABLE,
        "no server for x.X on node a",
    )
    watch = stub.WatchCatalog(node_pb2.ListCatalogRequest(), timeout=LONG)
    assert list(next(watch).servers) == []
    with serving(node):
        assert [server.name for server in next(watch).servers] == ["first"]
    assert list(next(watch).servers) == []
    watch.cancel()
    code, details = failed(stub.Open, node_pb2.OpenRequest())
    assert (code, "hands over a descriptor" in details) == (Code.FAILED_PRECONDITION, True)
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Register(iter([node_pb2.RegisterRequest()]), timeout=LONG))
    assert caught.value.code() is Code.FAILED_PRECONDITION
    code, details = failed(stub.Status, node_pb2.StatusRequest(), metadata=(("ipcd-target", "ipcd://b"),))
    assert (code, "answered by node a" in details) == (Code.INVALID_ARGUMENT, True)


def test_health(node: Daemon, channel: grpc.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)

    def check(service: str) -> Any:
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=LONG)

    assert check("").status == check("ipcd.v1.Node").status == SERVING
    assert failed(stub.Check, health_pb2.HealthCheckRequest(service=interop.SERVICE))[0] is Code.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=interop.SERVICE), timeout=LONG)
    assert next(watch).status == UNKNOWN
    with serving(node):
        assert next(watch).status == SERVING
        assert check(interop.SERVICE).status == SERVING
    assert next(watch).status == UNKNOWN
    watch.cancel()


@pytest.mark.parametrize("nodes", [1, 2])
def test_reflection(cluster: Daemons, nodes: int) -> None:
    front, back = front_and_back(cluster, nodes)
    with serving(back), channel_to(front) as channel:
        until_served(channel)
        database = ProtoReflectionDescriptorDatabase(channel)
        own = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]
        own += ["grpc.reflection.v1alpha.ServerReflection", "ipcd.v1.Names", "ipcd.v1.Node", *SERVICES]
        assert sorted(database.get_services()) == sorted(["conformance.v1.Echo", interop.SERVICE, *own])
        pool = DescriptorPool(database)
        for service in own:
            assert pool.FindServiceByName(service).full_name == service
        described = pool.FindServiceByName(interop.SERVICE)
        assert [method.name for method in described.methods] == ["Nothing", "Unary", "Upload", "Download", "Duplex"]
        assert [field.name for field in pool.FindMessageTypeByName("interop.v1.Payload").fields] == ["body"]
        assert pool.FindFileByName("interop/v1/interop.proto") is described.file
        health = pool.FindServiceByName("grpc.health.v1.Health").methods_by_name["Watch"]
        assert health.input_type.full_name == "grpc.health.v1.HealthCheckRequest"
        assert health.server_streaming
        with pytest.raises(KeyError):
            pool.FindMessageTypeByName("interop.v1.Absent")


def test_reflection_of_each_version_and_its_errors(node: Daemon, channel: grpc.Channel) -> None:
    questions = [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="interop.v1.Test.Unary"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="absent.v1.Absent"),
        reflection_pb2.ServerReflectionRequest(
            file_containing_extension=reflection_pb2.ExtensionRequest(
                containing_type="interop.v1.Payload", extension_number=7
            )
        ),
        reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="interop.v1.Payload"),
        reflection_pb2.ServerReflectionRequest(),
    ]
    with serving(node):
        for version in ("v1", "v1alpha"):
            ask = channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
            of_a_method, *others = list(ask(iter(questions), timeout=LONG))
            (data,) = of_a_method.file_descriptor_response.file_descriptor_proto
            assert descriptor_pb2.FileDescriptorProto.FromString(data).package == "interop.v1"
            assert of_a_method.original_request == questions[0]
            unknown, no_extension, numbers, empty = others
            for answer in (unknown, no_extension, empty):
                assert answer.error_response.error_code == Code.NOT_FOUND.value[0]
            assert "absent.v1.Absent" in unknown.error_response.error_message
            assert numbers.all_extension_numbers_response.base_type_name == "interop.v1.Payload"
            assert list(numbers.all_extension_numbers_response.extension_number) == []


# -- which server -----------------------------------------------------------------------------------


def test_a_target_pins_a_call(cluster: Daemons) -> None:
    front, back = front_and_back(cluster, 2)
    with serving(front, "near"), serving(back, "far"), channel_to(front) as channel:
        stub: Any = interop_pb2_grpc.TestStub(channel)
        until_served(channel)

        def far() -> bool:
            try:
                return served_by(stub, "ipcd://b") == "far"
            except grpc.RpcError:
                return False

        eventually(far, "node a has heard of the server at b")
        assert served_by(stub) == served_by(stub, "ipcd:") == served_by(stub, "ipcd:///near") == "near"
        assert served_by(stub, "ipcd:///far") == served_by(stub, "ipcd://b/far") == "far"
        for target, code, words in (
            ("ipcd://c", Code.UNAVAILABLE, "node c is not known; the known ones are a, b"),
            ("ipcd:///other", Code.UNAVAILABLE, "no server 'other' for interop.v1.Test"),
            ("http://b", Code.INVALID_ARGUMENT, "not of the form ipcd:[//NODE]/[SERVER]"),
        ):
            found = failed(stub.Nothing, NOTHING, metadata=(("ipcd-target", target),))
            assert (found[0], words in found[1]) == (code, True), found
        twice = failed(stub.Nothing, NOTHING, metadata=(("ipcd-target", "ipcd:"), ("ipcd-target", "ipcd:")))
        assert twice == (Code.INVALID_ARGUMENT, "ipcd-target is given more than once")


@pytest.mark.parametrize("nodes", [1, 2])
def test_calls_are_spread_over_servers(cluster: Daemons, nodes: int) -> None:
    front, back = front_and_back(cluster, nodes)
    with serving(back, "first"), serving(back, "second"), channel_to(front) as channel:
        stub: Any = interop_pb2_grpc.TestStub(channel)
        until_served(channel)
        eventually(lambda: {served_by(stub) for _ in range(2)} == {"first", "second"}, "both are known")
        assert Counter(served_by(stub) for _ in range(20)) == {"first": 10, "second": 10}


def test_a_server_that_comes_later(node: Daemon, channel: grpc.Channel, stub: Any) -> None:
    assert failed(stub.Nothing, NOTHING) == (Code.UNAVAILABLE, "no server for interop.v1.Test on node a")
    with serving(node, "late"):
        assert served_by(stub) == "late"
    with serving(node, "later"):
        until_served(channel)
        assert served_by(stub) == "later"


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_server_that_is_killed_in_a_call(cluster: Daemons, nodes: int) -> None:
    front, back = front_and_back(cluster, nodes)
    with channel_to(front) as channel:
        stub: Any = interop_pb2_grpc.TestStub(channel)
        with serving(back) as server:
            until_served(channel)
            pipe = Pipe()
            call = stub.Duplex(iter(pipe), timeout=LONG)
            pipe.put(request(0, 1))
            assert next(call) == interop.reply(1)
            server.kill()
            assert call.code() is Code.UNAVAILABLE
            assert f"(pid {server.pid} on node {back.node})" in call.details()
            pipe.close()
        with serving(back, "second"):
            until_served(channel)
            assert served_by(stub) == "second"


def test_no_call_fails_while_servers_are_replaced(node: Daemon, stub: Any) -> None:
    """One stops while the other serves, with calls coming all the time."""
    with contextlib.ExitStack() as stack, futures.ThreadPoolExecutor(8) as pool:
        serving_now = stack.enter_context(serving(node, "0"))
        for number in range(1, 4):
            before, serving_now = serving_now, stack.enter_context(serving(node, str(number)))
            calls = [pool.submit(stub.Nothing, NOTHING, timeout=LONG) for _ in range(200)]
            before.terminate()
            assert all(call.result() == NOTHING for call in calls)
            assert before.wait(LONG) == 0


# -- callers that go --------------------------------------------------------------------------------


def test_a_cancelled_upload_is_broken_off_and_not_ended(node: Daemon, stub: Any) -> None:
    """Many times, because to grpcio's own servers the two look alike for a moment."""
    with serving(node) as server:
        for _ in range(50):
            pipe = Pipe()
            pipe.put(request(10))
            call = stub.Upload.future(iter(pipe), timeout=LONG)
            assert line_of(server) == "begun"
            call.cancel()
            pipe.close()
            assert {line_of(server), line_of(server)} == {"ended", "broken"}
        # A whole one, so that the words above are known to tell the difference.
        assert stub.Upload(iter([request(10)]), timeout=LONG).size == 10
        assert {line_of(server) for _ in range(3)} == {"begun", "ended", "whole"}
    assert "Traceback" not in node.text()


def test_a_caller_whose_connection_breaks(node: Daemon) -> None:
    """Its calls are cancelled at the server."""
    with serving(node) as server:

        async def main() -> None:
            async with grpc.aio.insecure_channel(through.address) as channel:
                call = interop_pb2_grpc.TestStub(channel).Upload(timeout=LONG)
                await call.write(request(10))
                assert await asyncio.to_thread(line_of, server) == "begun"
                through.cut()
                assert await call.code() is Code.UNAVAILABLE

        with Through(address_of(node)) as through:
            run(main)
        assert {line_of(server), line_of(server)} == {"ended", "broken"}
    assert "Traceback" not in node.text()


class Through:
    """A TCP connection that can be cut: the only one to be made through here."""

    def __init__(self, to: str) -> None:
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._socks: list[socket.socket] = []
        self._pool = futures.ThreadPoolExecutor(3)
        self._pool.submit(self._join)

    def _join(self) -> None:
        here, _ = self._listener.accept()
        there = socket.create_connection(split_address(self._to))
        self._socks = [here, there]
        self._pool.submit(self._copy, here, there)
        self._pool.submit(self._copy, there, here)

    def _copy(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)

    def cut(self) -> None:
        """Resets both connections."""
        for sock in self._socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._pool.shutdown()


# -- doors ------------------------------------------------------------------------------------------


def test_the_socket_is_the_user_s_alone_and_left_behind_it_is_taken_over(cluster: Daemons) -> None:
    path = cluster.folder / "door" / "grpc.sock"
    first = cluster.run("a", "--grpc-socket", str(path))
    assert first.events("started")[0]["grpc"] == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(each.name for each in path.parent.iterdir()) == ["grpc.sock", "grpc.sock.lock"]
    second = cluster.start("b", "--grpc-socket", str(path))
    assert second.process.wait(LONG) == 2
    words = f"a running daemon (pid {first.process.pid}) listens on it; stop that one, or choose another --grpc-socket"
    assert words in second.text()
    assert not Path(second.socket).exists()
    first.kill()
    third = cluster.run("b", "--grpc-socket", str(path))
    with grpc.insecure_channel(f"unix:{path}") as channel:
        stub: Any = node_pb2_grpc.NodeStub(channel)
        assert stub.Status(node_pb2.StatusRequest(), timeout=LONG).node == "b"
    assert third.stop() == 0
    assert list(path.parent.iterdir()) == []


def test_doors_that_cannot_be_opened(cluster: Daemons) -> None:
    taken = cluster.run("a", *LISTEN)
    long = cluster.folder / ("x" * 120)
    for arguments, words in (
        (("--grpc-listen", address_of(taken)), f"grpc-listen {address_of(taken)}: Address already in use"),
        (("--grpc-listen", "0.0.0.0:0"), "--grpc-listen: 0.0.0.0:0 can be reached from other machines"),
        (("--grpc-socket", str(long)), f"socket {long}: the path is too long for a socket"),
        (("--grpc-socket", taken.socket), f"socket {taken.socket}: a running daemon"),
    ):
        daemon = cluster.start("b", *arguments)
        assert daemon.process.wait(LONG) == 2
        assert words in " ".join(daemon.text().split())
        assert not Path(daemon.socket).exists()


def test_whoever_does_not_speak_http_is_dropped(node: Daemon, stub: Any) -> None:
    before = node.descriptors()
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = b"\0\0\0\x04\0\0\0\0\0"
    for data in (
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(4096),
        b"IPCD\x01\x02" + bytes(18),
        preface + os.urandom(4096),
        # Headers that are not compressed as HPACK says, and a frame of 16 MiB.
        preface + settings + b"\0\0\x04\x01\x04\0\0\0\x01\xff\xff\xff\xff",
        preface + settings + b"\xff\xff\xff\x00\x00\0\0\0\x01",
    ):
        with socket.create_connection(split_address(address_of(node)), timeout=LONG) as sock:
            sock.sendall(data)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(1 << 16):
                    pass
    with serving(node):
        assert stub.Unary(request(1, 2), timeout=LONG) == interop.reply(2)
    eventually(lambda: node.descriptors() <= before + 2, "their descriptors are closed, but for our own connection's")


# -- bounds -----------------------------------------------------------------------------------------


def test_calls_past_the_limit(channel: grpc.Channel) -> None:
    stub: Any = node_pb2_grpc.NodeStub(channel)
    calls = [stub.WatchCatalog(node_pb2.ListCatalogRequest()) for _ in range(limits.GATEWAY_CALLS_EACH["host"])]
    for call in calls:
        next(call)
    with pytest.raises(grpc.RpcError) as caught:
        next(stub.WatchCatalog(node_pb2.ListCatalogRequest(), timeout=LONG))
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    assert caught.value.details() == "the limit of 3072 calls of the gateway at once of one host is reached (127.0.0.1)"
    calls.pop().cancel()

    def let_in() -> bool:
        try:
            stub.Status(node_pb2.StatusRequest(), timeout=LONG)
        except grpc.RpcError:
            return False
        return True

    eventually(let_in, "there is room for another")
    for call in calls:
        call.cancel()


# -- its end ----------------------------------------------------------------------------------------


def test_a_signal_drains(node: Daemon, channel: grpc.Channel, stub: Any) -> None:
    with serving(node) as server:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=LONG)
        assert next(watch).status == SERVING
        pipe = Pipe()
        call = stub.Duplex(iter(pipe), timeout=LONG)
        pipe.put(request(0, 1))
        assert next(call) == interop.reply(1)
        node.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert failed(stub.Nothing, NOTHING) == (Code.UNAVAILABLE, "node a is stopping")
        pipe.put(request(0, 2))
        pipe.close()
        assert list(call) == [interop.reply(2)]
        assert call.code() is Code.OK
        assert node.process.wait(LONG) == 0
        assert watch.code() is Code.UNAVAILABLE
        server.kill()


def test_what_does_not_end_is_ended(node: Daemon, channel: grpc.Channel) -> None:
    with serving(node) as server:
        until_served(channel)
        pipe = Pipe()
        call = interop_pb2_grpc.TestStub(channel).Duplex(iter(pipe), timeout=LONG)
        pipe.put(request(0, 1))
        assert next(call) == interop.reply(1)
        assert node.stop() == 0
        assert call.code() is Code.UNAVAILABLE
        pipe.close()
        server.kill()
