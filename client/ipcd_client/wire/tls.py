"""TLS 1.3 on the `tcp` wire: both ends prove who they are, and nobody between them can read or change a byte.

What is sent is sealed into a buffer and goes the way of every frame from there; what is received is fed to TLS, and the
frames are read from it. So a socket that takes only a part, or an end in the middle, is dealt with as without TLS.

Ordering: records are opened in the order in which they were sealed, so sealing and handing to the socket is one step,
under `_sealing`. The handshake is driven by the thread that receives, and its last step sends what was given to `send`
meanwhile, before anything that is given later. `_state` guards OpenSSL's state, which two threads must not be in at
once; nothing blocks under either.

Trust: the peer's certificate leads to an authority of the cluster (OpenSSL), and says who the peer is (`identity.py`).
Before that is known nothing that the peer has sent is given to anybody. There are no session tickets: each connection
proves anew who is there, and nothing is ever sent with the first flight, so that nothing can be replayed.
"""

from __future__ import annotations

import functools
import os
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from ipcd_client.errors import ConfigError, NotAllowed, ProtocolError, UsageError, WireClosed
from ipcd_client.frame.codec import Buffer, Frame
from ipcd_client.wire import fds as fdlib
from ipcd_client.wire import identity
from ipcd_client.wire.fds import Fd
from ipcd_client.wire.sockets import READ_SIZE
from ipcd_client.wire.tcp import TcpWire

# What is sealed at once is copied together first: each record costs more than the copy.
_RECORD: Final = 16 << 10
# What may wait for the end of the handshake, in bytes: a hello, and perhaps why the connection ends.
_WAITING_MOST: Final = 1 << 20
# Contexts that a process keeps: of its own certificate and the one before, for either side.
_CONTEXTS: Final = 8


@functools.lru_cache(_CONTEXTS)
def context(chain: bytes, key: bytes, authorities: bytes, *, server_side: bool) -> ssl.SSLContext:
    """What one end needs, all in PEM: its certificate with those between that and an authority, its key, whom to trust.

    Raises:
        ConfigError: OpenSSL does not take them.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    # Who it has to be is no host name: see identity.py.
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    if server_side:
        made.num_tickets = 0
    try:
        made.load_verify_locations(cadata=authorities.decode("ascii"))
        # OpenSSL takes a key from a file only. This one is in memory, and gone with the descriptor.
        with Fd(os.memfd_create("ipcd-tls", os.MFD_CLOEXEC)) as file:
            with open(os.dup(file.fileno()), "wb") as writing:  # noqa: PTH123 - it has no path
                writing.write(key + chain)
            made.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(f"the certificate for TLS cannot be used: {_words(error)}") from error
    return made


class TlsWire(TcpWire):
    """One end. `expected`: the identity that the other end has to show; empty for any that the authorities vouch for.
    `identity`: what it has shown, empty until then."""

    def __init__(
        self, sock: socket.socket, *, peer: str, context: ssl.SSLContext, server_side: bool, expected: str = ""
    ) -> None:
        super().__init__(sock, peer=peer)
        self.identity = ""
        self._expected = expected
        self._received = ssl.MemoryBIO()
        self._sealed = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._sealed, server_side=server_side)
        self._read: Callable[..., Any] = self._tls.read
        self._write = self._tls.write
        self._waiting: list[bytes] | None = []  # to be sent once the handshake is over; None from then on
        self._failed: Exception | None = None
        self._held = False  # TLS has more, perhaps, than was asked for
        self._sealing = threading.RLock()
        self._state = threading.Lock()

    # -- the handshake ----------------------------------------------------------------------------

    def _shake_hands(self) -> bool:
        """Goes on with the handshake as far as what was received lets it. True when it is over.

        Raises:
            NotAllowed: the peer, or this end in its eyes, is not who it has to be.
            ProtocolError: `bad-tls`.
        """
        with self._sealing:
            if self._waiting is None:
                return True
            try:
                with self._state:
                    self._tls.do_handshake()
                self.identity = identity.proven(self._tls, self._expected)
            except ssl.SSLWantReadError:
                self._pass_sealed()
                return False
            except NotAllowed as error:
                raise self._fail(NotAllowed(f"{self.peer()}: {error}")) from None
            except ssl.SSLError as error:
                # The reason goes to the peer as an alert.
                self._pass_sealed()
                raise self._fail(self._why(error)) from None
            waiting, self._waiting = self._waiting, None
            self._held = True  # what came with the last step
            self._pass_sealed()
            if waiting:
                super().send((self._seal(waiting),))
            return True

    def _pass_sealed(self) -> None:
        data = self._sealed.read()
        if data:
            try:
                super().send((data,))
            except WireClosed:
                pass  # why it has closed is still to be received, perhaps

    def _why(self, error: ssl.SSLError) -> NotAllowed | ProtocolError:
        words = _words(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            return NotAllowed(f"{self.peer()} has shown a certificate that is not accepted: {words}")
        if "ALERT" in (error.reason or ""):
            return NotAllowed(f"{self.peer()} does not accept this end's certificate, or shows none itself: {words}")
        return ProtocolError("bad-tls", f"{self.peer()} does not speak TLS 1.3 as it has to: {words}")

    def _fail(self, error: NotAllowed | ProtocolError) -> NotAllowed | ProtocolError:
        self._failed = error
        return error

    # -- sending ----------------------------------------------------------------------------------

    def send(self, buffers: Sequence[Buffer], fds: Sequence[Fd] = ()) -> bool:
        if fds:
            fdlib.close_all(fds)
            raise UsageError("descriptors do not travel over TCP")
        if self.closed:
            raise WireClosed(self._why_gone())
        with self._sealing:
            if self._waiting is None:
                return super().send((self._seal(buffers),))
            # Whoever receives sends it. It is no backlog: to wait for room would not bring it on.
            self._waiting.extend(bytes(buffer) for buffer in buffers)
            if sum(map(len, self._waiting)) > _WAITING_MOST:
                raise WireClosed(f"{self.peer()} does not finish the TLS handshake")
            if self._failed is None:
                try:
                    self._shake_hands()
                except (NotAllowed, ProtocolError):
                    pass  # for recv to tell
            return True

    def _seal(self, buffers: Sequence[Buffer]) -> bytes:
        write = self._write
        if len(buffers) > 1 and sum(map(len, buffers)) <= _RECORD:
            buffers = (b"".join(buffers),)
        try:
            with self._state:
                for buffer in buffers:
                    done = write(buffer)
                    if done < len(buffer):
                        view = memoryview(buffer)
                        while done < len(view):
                            done += write(view[done:])
                return self._sealed.read()
        except ssl.SSLError as error:
            raise WireClosed(f"{self.peer()}: {_words(error)}") from None

    def flush(self) -> bool:
        with self._sealing:
            return super().flush()

    # -- receiving --------------------------------------------------------------------------------

    def recv(self) -> Frame | None:
        if self._waiting is not None:
            self._check()
            if not self._greet():
                return None
        return super().recv()

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _greet(self) -> bool:
        """Receives for the handshake. True when it is over."""
        while not self._shake_hands():
            try:
                data = self._socket.recv(READ_SIZE)
            except BlockingIOError:
                return False
            except OSError as error:
                raise self._end(f"{self._words(error)} during the TLS handshake") from None
            if not data:
                raise self._end(f"{self.peer()} closed the connection during the TLS handshake")
            with self._state:
                self._received.write(data)
        return True

    def glance(self) -> bytes | None:
        if self._waiting is not None or self._failed is not None:
            return None
        sealed = super().glance()
        if sealed is None:
            return None
        try:
            return self._opened(sealed) or None
        except (NotAllowed, ProtocolError):
            return None  # recv tells

    def put_back(self, data: bytes) -> None:
        # All that was received is opened: what TLS holds is a part of a record at most.
        self._short = True
        self._decoder.feed(data)

    def _opened(self, sealed: bytes) -> bytes:
        """All that can be read now."""
        received = self._received
        parts: list[bytes] = []
        try:
            with self._state:
                received.write(sealed)
                # OpenSSL takes one record at a time out of there: to ask when there is none would cost an exception.
                parts.append(self._read(READ_SIZE))
                while received.pending:
                    parts.append(self._read(READ_SIZE))
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            if isinstance(error, ssl.SSLZeroReturnError):
                self._gone = self._gone or f"{self.peer()} closed the connection"
            elif not parts:
                raise self._fail(self._why(error)) from None
            else:
                self._fail(self._why(error))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _recv(self) -> bytes:
        self._check()
        if self._held:
            self._held = False
            opened = self._opened(b"")
            if opened:
                return opened
        while True:
            data = self._socket.recv(READ_SIZE)
            if not data:
                return b""
            opened = self._opened(data)
            if opened:
                return opened

    def _recv_into(self, place: memoryview) -> int:
        self._check()
        while True:
            try:
                with self._state:
                    count: int = self._read(len(place), place)
                # There may be something of the next message in the same record.
                self._held = count == len(place)
                return count
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                return 0
            except ssl.SSLError as error:
                raise self._fail(self._why(error)) from None
            data = self._socket.recv(READ_SIZE)
            if not data:
                return 0
            with self._state:
                self._received.write(data)

    def abandon(self) -> None:
        # Locks may be held by threads that are not in this process.
        self._sealing = threading.RLock()
        self._state = threading.Lock()
        super().abandon()


def _words(error: Exception) -> str:
    """What OpenSSL has to say, without its places in the source."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error)
