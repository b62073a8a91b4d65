"""The servicer of lab.v1.Lab behind a real server, and the demo's real work done through it."""

from __future__ import annotations

import hashlib
import os
import platform
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import grpc
import ipcd_client
import pytest

import ipcd
from ipcd.demo import library as lab
from ipcd.demo import work
from ipcd.demo.library import Library
from ipcd.demo.pb.lab.v1 import lab_pb2, lab_pb2_grpc
from ipcd.demo.service import SERVICE, LabServicer
from ipcd.demo.show import compare


@contextmanager
def over_grpcio(servicer: LabServicer) -> Iterator[grpc.Channel]:
    with ThreadPoolExecutor(4) as executor:
        server = grpc.server(executor)
        lab_pb2_grpc.add_LabServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield channel
        finally:
            server.stop(None).wait(5)


@contextmanager
def over_unix(servicer: LabServicer) -> Iterator[grpc.Channel]:
    """Through ipcd, on one node."""
    with ipcd.embedded() as node, registered(servicer, node), ipcd_client.channel(node=node.socket) as channel:
        yield channel


@contextmanager
def over_tcp(servicer: LabServicer) -> Iterator[grpc.Channel]:
    """Through ipcd, the caller on another node than the server."""
    with (
        ipcd.embedded() as node,
        ipcd.embedded(peers=[node.listen]) as other,
        registered(servicer, node),
        ipcd_client.channel(node=other.socket) as channel,
    ):
        assert channel.route(SERVICE, 10, wait_for_ready=True).transport == "tcp"
        yield channel


@contextmanager
def registered(servicer: LabServicer, node: ipcd.Embedded) -> Iterator[None]:
    with ThreadPoolExecutor(4) as executor:
        server = ipcd_client.server(executor, node=node.socket)
        lab_pb2_grpc.add_LabServicer_to_server(servicer, server)
        server.start()
        try:
            yield
        finally:
            server.stop(None).wait(5)


# What the servicer is served by: it must make no difference to any test below.
SERVED: dict[str, Callable[[LabServicer], AbstractContextManager[grpc.Channel]]] = {
    "grpcio": over_grpcio,
    "unix": over_unix,
    "tcp": over_tcp,
}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    (tmp_path / "a.py").write_text("def a():\n    pass\n")
    (tmp_path / "b.py").write_text("def b():\n    pass\n")
    return Library(tmp_path)


@pytest.fixture(params=SERVED)
def stub(request: pytest.FixtureRequest, library: Library) -> Iterator[lab_pb2_grpc.LabStub]:
    with SERVED[request.param](LabServicer(library, name="lab")) as channel:
        yield lab_pb2_grpc.LabStub(channel)


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Exception = caught.value
    assert isinstance(error, grpc.Call)
    return error.code(), error.details() or ""


def test_digest(stub: lab_pb2_grpc.LabStub) -> None:
    reply = stub.Digest(lab_pb2.DigestRequest(data=b"abc"), timeout=5)
    assert (reply.algorithm, reply.hex, reply.size) == ("sha256", hashlib.sha256(b"abc").hexdigest(), 3)
    reply = stub.Digest(lab_pb2.DigestRequest(data=b"abc", algorithm="md5"), timeout=5)
    assert reply.hex == "900150983cd24fb0d6963f7d28e17f72"


def test_digest_refusals(stub: lab_pb2_grpc.LabStub) -> None:
    code, details = refusal(lambda: stub.Digest(lab_pb2.DigestRequest(algorithm="crc32"), timeout=5))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "'crc32'" in details
    data = bytes(lab.MAX_UNARY_BYTES + 1)
    code, details = refusal(lambda: stub.Digest(lab_pb2.DigestRequest(data=data), timeout=5))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details == f"{len(data)} bytes are over the limit of {lab.MAX_UNARY_BYTES}"


@pytest.mark.parametrize("count", [0, 1, 100])
def test_digest_stream(stub: lab_pb2_grpc.LabStub, count: int) -> None:
    chunks = [lab_pb2.Chunk(data=bytes([n]) * 1000, algorithm="sha1" if n == 0 else "") for n in range(count)]
    reply = stub.DigestStream(iter(chunks), timeout=5)
    expected = hashlib.new("sha1" if count else "sha256", b"".join(chunk.data for chunk in chunks)).hexdigest()
    assert (reply.hex, reply.size) == (expected, count * 1000)


def test_a_stream_over_the_limit_is_ended(stub: lab_pb2_grpc.LabStub) -> None:
    drawn = 0

    def endless() -> Iterator[lab_pb2.Chunk]:
        nonlocal drawn
        while True:
            drawn += 1
            yield lab_pb2.Chunk(data=bytes(1 << 20))

    code, details = refusal(lambda: stub.DigestStream(endless(), timeout=20))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED, details
    assert str(lab.MAX_STREAM_BYTES) in details
    assert drawn > lab.MAX_STREAM_BYTES >> 20


def test_search(stub: lab_pb2_grpc.LabStub) -> None:
    matches = list(stub.Search(lab_pb2.SearchRequest(pattern="^def"), timeout=5))
    assert matches == [
        lab_pb2.Match(file="a.py", line=1, text="def a():"),
        lab_pb2.Match(file="b.py", line=1, text="def b():"),
    ]
    assert list(stub.Search(lab_pb2.SearchRequest(pattern="^def", limit=1), timeout=5)) == matches[:1]
    assert list(stub.Search(lab_pb2.SearchRequest(pattern="nowhere"), timeout=5)) == []


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (
            lab_pb2.SearchRequest(pattern="a(b"),
            "bad pattern at position 1: missing ), unterminated subpattern",
        ),
        (lab_pb2.SearchRequest(glob="../*"), "'../*' leads out of the standard library"),
        (lab_pb2.SearchRequest(limit=10_001), "a limit of 10001 matches is over the limit of 10000"),
    ],
)
def test_search_refusals(stub: lab_pb2_grpc.LabStub, request_: lab_pb2.SearchRequest, says: str) -> None:
    assert refusal(lambda: list(stub.Search(request_, timeout=5))) == (grpc.StatusCode.INVALID_ARGUMENT, says)


def test_a_session_answers_each_request_before_the_next_is_sent(stub: lab_pb2_grpc.LabStub) -> None:
    replies = work.converse(stub, ("ls", "nonsense", "grep pass a.py"))
    assert replies == {
        1: [(1, "a.py", False, ""), (1, "b.py", False, ""), (1, "2 entries", True, "")],
        2: [(2, "", True, "no command 'nonsense'; there are cd, ls, stat, grep, digest, quit")],
        3: [(3, "2:    pass", False, ""), (3, "1 matches", True, "")],
    }


def test_quit_ends_a_session_though_the_caller_would_say_more(stub: lab_pb2_grpc.LabStub) -> None:
    open_end = threading.Event()

    def requests() -> Iterator[lab_pb2.SessionRequest]:
        yield lab_pb2.SessionRequest(sequence=7, line="quit")
        open_end.wait(10)

    call = stub.Session(requests(), timeout=5)
    try:
        assert [(reply.sequence, reply.text) for reply in call] == [(7, "bye")]
        assert call.code() is grpc.StatusCode.OK
    finally:
        open_end.set()


def test_a_session_of_too_many_requests_is_ended(stub: lab_pb2_grpc.LabStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "MAX_REQUESTS", 2)
    lines = [lab_pb2.SessionRequest(sequence=n, line="cd .") for n in range(3)]
    got: list[int] = []

    def drain() -> None:
        got.extend(reply.sequence for reply in stub.Session(iter(lines), timeout=5))

    assert refusal(drain) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "a session takes at most 2 requests")
    assert got == [0, 1]


def test_echo_and_identity(stub: lab_pb2_grpc.LabStub) -> None:
    payload = lab_pb2.Payload(data=os.urandom(64))
    assert stub.Echo(payload, timeout=5) == payload
    reply = stub.Identity(lab_pb2.IdentityRequest(), timeout=5)
    assert (reply.name, reply.pid, reply.python) == ("lab", os.getpid(), platform.python_version())


@pytest.fixture(params=SERVED)
def real_stub(request: pytest.FixtureRequest) -> Iterator[lab_pb2_grpc.LabStub]:
    """Over the running Python's own standard library, as in the demo."""
    with SERVED[request.param](LabServicer()) as channel:
        yield lab_pb2_grpc.LabStub(channel)


def test_the_real_work_is_right(real_stub: lab_pb2_grpc.LabStub) -> None:
    findings = work.do_all(real_stub, Library(), os.getpid())
    assert [finding.what for finding in findings] == [
        "identity",
        "unary",
        "client streaming",
        "server streaming",
        "bidirectional",
        "a bad request",
    ]
    assert [finding.wrong for finding in findings] == [""] * 6
    assert all(one.right == ["x", "y"] and not one.wrong for one in compare({"x": findings, "y": findings}))


class LyingServicer(LabServicer):
    """Wrong in each of its answers, and only by a little."""

    def Digest(self, request: lab_pb2.DigestRequest, context: grpc.ServicerContext) -> lab_pb2.DigestReply:
        return super().Digest(lab_pb2.DigestRequest(data=request.data[:-1] + b"?"), context)

    def DigestStream(
        self, request_iterator: Iterator[lab_pb2.Chunk], context: grpc.ServicerContext
    ) -> lab_pb2.DigestReply:
        next(request_iterator)
        return super().DigestStream(request_iterator, context)

    def Search(self, request: lab_pb2.SearchRequest, context: grpc.ServicerContext) -> Iterator[lab_pb2.Match]:
        for number, match in enumerate(super().Search(request, context)):
            if number:
                yield match

    def Session(
        self, request_iterator: Iterator[lab_pb2.SessionRequest], context: grpc.ServicerContext
    ) -> Iterator[lab_pb2.SessionReply]:
        for reply in super().Session(request_iterator, context):
            reply.text = reply.text.upper()
            yield reply


@pytest.mark.parametrize("served", SERVED)
def test_wrong_answers_are_found_out(served: str) -> None:
    with SERVED[served](LyingServicer()) as channel:
        findings = work.do_all(lab_pb2_grpc.LabStub(channel), Library(), os.getpid() + 1)
    wrong = {finding.what: finding.wrong for finding in findings}
    assert wrong.pop("a bad request") == ""
    assert all(" is " in text and ", not " in text for text in wrong.values()), wrong


@pytest.mark.parametrize("served", SERVED)
def test_a_closed_channel_is_a_mistake_of_the_demo_and_no_finding(served: str) -> None:
    with SERVED[served](LabServicer()) as channel:
        stub = lab_pb2_grpc.LabStub(channel)
        channel.close()
        with pytest.raises(ValueError, match="closed"):
            work.do_all(stub, Library(), os.getpid())


def test_failed_calls_are_found_out() -> None:
    with grpc.insecure_channel("unix:/nonexistent/socket") as channel:
        findings = work.do_all(lab_pb2_grpc.LabStub(channel), Library(), os.getpid())
    assert all("UNAVAILABLE" in finding.wrong for finding in findings), findings
