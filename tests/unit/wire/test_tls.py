"""Who gets in over TLS, and who does not; what both ends are told; what a bit that is changed on the way does."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from ipcd_client.access import identity as identities
from ipcd_client.certs.identity import Credentials
from ipcd_client.errors import ConfigError, IpcdError, ProtocolError, UsageError, WireClosed
from ipcd_client.testing import certificates
from ipcd_client.testing.certificates import TestAuthority
from ipcd_client.testing.wire_factories import TlsFactory, tls_end
from ipcd_client.testing.wire_tools import LIMIT, MAX_FRAME, message, soon
from ipcd_client.wire import tls
from ipcd_client.wire.base import Wire
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.tls import TlsWire

Sockets = tuple[socket.socket, socket.socket]
CALLER = identities.of_uid(certificates.CLUSTER, "a", 1000)
SERVER = identities.of_uid(certificates.CLUSTER, "b", 1000)


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with ExitStack() as stack:
        one, other = TlsFactory().sockets()
        yield stack.enter_context(one), stack.enter_context(other)


def end(
    sock: socket.socket, credentials: Credentials, expected: str, *, server_side: bool, trusted: bytes = b""
) -> TlsWire:
    context = tls.context(
        credentials.chain, credentials.key, trusted or credentials.authorities, server_side=server_side
    )
    return TlsWire(sock, peer="the other end", context=context, server_side=server_side, expected=expected)


def outcome(wire: Wire) -> str:
    """Says hello, and tells what comes: an identity's greeting, or an error's name and text."""
    try:
        wire.send(message(b"hello"))
        return bytes(wire.recv_by(soon()).payload).decode()
    except IpcdError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        wire.close(0.2)


def both(one: Wire, other: Wire) -> tuple[str, str]:
    """What comes of it at either end."""
    told: list[str] = []
    thread = threading.Thread(target=lambda: told.append(outcome(other)))
    thread.start()
    mine = outcome(one)
    thread.join(LIMIT)
    return mine, told[0]


def of(node: str, uid: int = 1000) -> Credentials:
    return certificates.authority().of_process(node, uid)


def test_each_end_knows_who_the_other_is(sockets: Sockets) -> None:
    caller = end(sockets[0], of("a"), SERVER, server_side=False)
    server = end(sockets[1], of("b"), "", server_side=True)
    assert both(caller, server) == ("hello", "hello")
    assert (caller.identity, server.identity) == (SERVER, CALLER)


def stranger(own: str) -> Credentials:
    """Of another authority, with the right names."""
    made = TestAuthority().credentials(own, own.split("/")[4])
    return Credentials(made.chain, made.key, certificates.authority().pem, made.expires)


def expired(uri: str) -> Credentials:
    return certificates.authority().credentials(uri, uri.split("/")[4], since=7200)


def another_user(uri: str) -> Credentials:
    return of(uri.split("/")[4], 1001)


def another_node(_own: str) -> Credentials:
    return of("c")


def forged(uri: str) -> Credentials:
    """The right name, in a certificate that another node of the cluster has made."""
    return certificates.authority().credentials(uri, "c")


def daemon(uri: str) -> Credentials:
    """That of the node itself."""
    node = uri.split("/")[4]
    return certificates.authority().credentials(identities.of_node(certificates.CLUSTER, node), node)


WRONG = [
    (stranger, "not accepted"),
    (expired, "expired"),
    (another_user, "uid/1001"),
    (another_node, "node/c/uid/1000"),
    (forged, "did not make"),
    (daemon, "expected"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG, ids=[wrong.__name__ for wrong, _ in WRONG])
@pytest.mark.parametrize("side", ["caller", "server"])
def test_who_is_not_let_in(sockets: Sockets, wrong: Callable[[str], Credentials], why: str, side: str) -> None:
    """Either end finds out, says who was expected and who is there, and gives nothing of it to anybody."""
    credentials = {"caller": of("a"), "server": of("b")}
    credentials[side] = wrong(CALLER if side == "caller" else SERVER)
    caller = end(sockets[0], credentials["caller"], SERVER, server_side=False)
    server = end(sockets[1], credentials["server"], CALLER, server_side=True)
    told = dict(zip(("caller", "server"), both(caller, server), strict=True))
    judge, judged = ("server", "caller") if side == "caller" else ("caller", "server")
    assert told[judge].startswith("NotAllowed: the other end")
    assert why in told[judge]
    assert told[judged] != "hello"


def test_without_a_certificate(sockets: Sockets) -> None:
    """As a client that only wants to know whom it talks to would come."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=certificates.authority().pem.decode())
    server = tls_end(sockets[1], "b", "a", server_side=True)
    told: list[str] = []
    thread = threading.Thread(target=lambda: told.append(outcome(server)))
    thread.start()
    sockets[0].settimeout(LIMIT)
    with contextlib.suppress(OSError), context.wrap_socket(sockets[0]) as client:  # an alert, or a reset
        client.sendall(b"x" * 100)
        assert client.recv(1000) == b""
    thread.join(LIMIT)
    assert told[0].startswith(("ProtocolError: bad-tls", "NotAllowed"))
    assert "peer did not return a certificate" in told[0]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2])
def test_older_versions(sockets: Sockets, version: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    server = tls_end(sockets[1], "b", "a", server_side=True)
    told: list[str] = []
    thread = threading.Thread(target=lambda: told.append(outcome(server)))
    thread.start()
    sockets[0].settimeout(LIMIT)
    with pytest.raises(OSError):  # noqa: PT011 - an alert, or a reset
        context.wrap_socket(sockets[0])
    thread.join(LIMIT)
    assert told[0] == (
        "ProtocolError: bad-tls: the other end does not speak TLS 1.3 as it has to: unsupported protocol"
    )


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"".join(map(bytes, message(b"plain")))])
def test_plain_bytes(sockets: Sockets, data: bytes) -> None:
    server = tls_end(sockets[1], "b", "a", server_side=True)
    sockets[0].sendall(data)
    with pytest.raises(ProtocolError, match="bad-tls"):
        server.recv_by(soon())
    server.abort()


def test_plain_bytes_from_what_is_dialed(sockets: Sockets) -> None:
    caller = tls_end(sockets[0], "a", "b", server_side=False)
    caller.send(message(b"hello"))
    sockets[1].sendall(b"".join(map(bytes, message(b"plain"))))
    with pytest.raises(ProtocolError, match="bad-tls"):
        caller.recv_by(soon())
    caller.abort()


def test_an_end_in_the_handshake(sockets: Sockets) -> None:
    server = tls_end(sockets[1], "b", "a", server_side=True)
    sockets[0].close()
    with pytest.raises(WireClosed, match="during the TLS handshake"):
        server.recv_by(soon())
    server.abort()


class Between:
    """Two sockets, and somebody who passes on what comes, as he likes."""

    def __init__(self) -> None:
        self.caller, self._left = TlsFactory().sockets()
        self._right, self.server = TlsFactory().sockets()
        for sock in (self._left, self._right):
            sock.setblocking(False)
        self.passed = b""

    def pass_on(self, change: Callable[[bytes], bytes] = lambda data: data, *, most: int = 1 << 16) -> bool:
        """Whether there was anything."""
        moved = False
        for source, sink in ((self._left, self._right), (self._right, self._left)):
            try:
                data = source.recv(most)
            except BlockingIOError:
                continue
            moved = moved or bool(data)
            if source is self._left:
                self.passed += data
                data = change(data)
            sink.setblocking(True)
            sink.sendall(data)
            sink.setblocking(False)
        return moved

    def close(self) -> None:
        for sock in (self.caller, self.server, self._left, self._right):
            sock.close()


@pytest.fixture
def between() -> Iterator[Between]:
    made = Between()
    yield made
    made.close()


def test_byte_by_byte(between: Between) -> None:
    caller = tls_end(between.caller, "a", "b", server_side=False)
    server = tls_end(between.server, "b", "a", server_side=True)
    caller.send(message(b"1"))
    server.send(message(b"2"))
    got = [caller.recv(), server.recv()]
    until = soon()
    while None in got and time.monotonic() < until:
        between.pass_on(most=1)
        got = [got[0] or caller.recv(), got[1] or server.recv()]
    assert [bytes(frame.payload) for frame in got if frame is not None] == [b"2", b"1"]
    caller.abort()
    server.abort()


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_bit_that_is_changed_on_the_way(between: Between, size: int) -> None:
    caller = tls_end(between.caller, "a", "b", server_side=False)
    server = tls_end(between.server, "b", "a", server_side=True)
    server.max_frame = MAX_FRAME
    caller.send(message(b"good"))
    frame = None
    until = soon()
    while frame is None and time.monotonic() < until:
        caller.recv()
        between.pass_on()
        frame = server.recv()
    assert frame is not None
    assert frame.payload == b"good"
    caller.send(message(bytes(size)))

    def pass_changed() -> None:
        while time.monotonic() < until:
            caller.flush()
            between.pass_on(lambda data: data[:-1] + bytes([data[-1] ^ 1]))
            assert server.recv() is None

    with pytest.raises(ProtocolError, match=r"bad-tls: .* bad record mac"):
        pass_changed()
    caller.abort()
    server.abort()


def test_a_recorded_handshake_is_of_no_use(between: Between, sockets: Sockets) -> None:
    """What a caller has once sent, sent again."""
    caller = tls_end(between.caller, "a", "b", server_side=False)
    server = tls_end(between.server, "b", "a", server_side=True)
    caller.send(message(b"pay 100"))
    frame = None
    until = soon()
    while frame is None and time.monotonic() < until:
        caller.recv()
        between.pass_on()
        frame = server.recv()
    assert frame is not None
    caller.abort()
    server.abort()
    again = tls_end(sockets[1], "b", "a", server_side=True)
    sockets[0].sendall(between.passed)
    with pytest.raises(ProtocolError, match="bad-tls"):
        again.recv_by(soon())
    again.abort()


def test_two_threads_at_once() -> None:
    """One sends while the other receives, on both ends."""
    one, other = TlsFactory().pair()
    sizes = [size % 40_000 for size in range(0, 4_000_000, 7919)]
    failures: list[BaseException] = []

    def send(wire: Wire) -> None:
        try:
            for number, size in enumerate(sizes):
                wire.send_by(message(bytes([number % 251]) * size), time.monotonic() + LIMIT)
        except BaseException as error:
            failures.append(error)

    def receive(wire: Wire) -> None:
        try:
            for number, size in enumerate(sizes):
                assert wire.recv_by(time.monotonic() + LIMIT).payload == bytes([number % 251]) * size
        except BaseException as error:
            failures.append(error)

    one.max_frame = other.max_frame = MAX_FRAME
    threads = [threading.Thread(target=work, args=(wire,)) for wire in (one, other) for work in (send, receive)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(6 * LIMIT)
    one.abort()
    other.abort()
    assert failures == []


def test_no_descriptors(sockets: Sockets) -> None:
    caller = tls_end(sockets[0], "a", "b", server_side=False)
    with Fd(socket.socket().detach()) as fd, pytest.raises(UsageError, match="do not travel"):
        caller.send(message(b""), [Fd(fd.detach())])
    caller.abort()


def test_what_waits_for_the_handshake_is_bounded(sockets: Sockets) -> None:
    caller = tls_end(sockets[0], "a", "b", server_side=False)
    for _ in range(10):
        caller.send(message(bytes(100_000)))
    with pytest.raises(WireClosed, match="does not finish the TLS handshake"):
        caller.send(message(bytes(100_000)))
    caller.abort()


def test_a_key_of_another_certificate() -> None:
    one, other = of("a"), of("b")
    with pytest.raises(ConfigError, match="cannot be used: key values mismatch"):
        tls.context(one.chain, other.key, one.authorities, server_side=False)
