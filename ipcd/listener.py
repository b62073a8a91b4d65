"""The node's two doors: the socket file for processes of this machine, and TCP for callers and nodes of others."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ipcd_client.errors import ConfigError, IpcdError, ProtocolError
from ipcd_client.frame import codec, preamble
from ipcd_client.frame import settings as frame_settings
from ipcd_client.wire.tcp import join_address, split_address, tune

from ipcd import limits
from ipcd.log import Log
from ipcd.quota import Quotas
from ipcd.state import quota

BACKLOG: Final = 1024
# Connections accepted before other callbacks of the loop get their turn.
_TURN: Final = 8
# Out of descriptors: seconds until accepting is tried again. The listening socket stays readable meanwhile.
_BREATH: Final = 0.2
# Bytes of a socket's path that Linux takes, beside the 0 at the end.
_PATH_MOST: Final = 107
# A socket file's name until it is moved.
_MADE: Final = "ipcd-socket"
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Acceptor:
    """Accepts on a listening socket and hands each connection over."""

    def __init__(self, sock: socket.socket, log: Log, accepted: Callable[[socket.socket, Any], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._log = log
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._fd = sock.fileno()
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._fd, self._on_readable)

    def _on_readable(self) -> None:
        for _ in range(_TURN):
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._log.error("cannot accept connections", reason=error.strerror)
                    self._loop.remove_reader(self._fd)
                    self._pause = self._loop.call_later(_BREATH, self._resume)
                    return
                continue  # that connection is gone already
            self._accepted(sock, address)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._fd, self._on_readable)

    def close(self) -> None:
        """Accepts no more."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._fd)
        self._sock.close()


class SocketFile:
    """A socket file. While a daemon lives, it holds a lock on PATH.lock, in which its pid stands: so two that start
    at once cannot both take a stale file over. `flag`: the setting that names the path, for the errors' texts."""

    def __init__(self, path: str, flag: str = "--socket") -> None:
        self.path = Path(path)
        self._flag = flag
        self._lock_path = Path(f"{path}.lock")
        self._lock: int = -1
        self._inode: tuple[int, int] | None = None
        self._open = False

    def listen(self) -> socket.socket:
        """Makes the file, taking over what a dead daemon left.

        Raises:
            ConfigError: a live one listens there, or the file cannot be made.
        """
        with self._taking_over():
            return self._bound()

    def bind(self, bind: Callable[[str], object]) -> None:
        """The same for a library that wants a path to bind to and would have its own way with what is there, and with
        the file's rights: it binds in a directory that is closed to others, and the file is moved when it is ready.

        Raises:
            ConfigError: as `listen`.
        """
        with self._taking_over():
            if len(os.fsencode(self.path)) > _PATH_MOST:
                raise OSError("AF_UNIX path too long")
            with tempfile.TemporaryDirectory(prefix=".", dir=self.path.parent) as folder:
                fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    # The folder's own path may be too long for a socket.
                    bind(f"/proc/self/fd/{fd}/{_MADE}")
                finally:
                    os.close(fd)
                made = Path(folder, _MADE)
                made.chmod(0o600)
                status = made.lstat()
                made.rename(self.path)
                self._inode = (status.st_dev, status.st_ino)

    @contextlib.contextmanager
    def _taking_over(self) -> Iterator[None]:
        try:
            if not self.path.parent.is_dir():
                self.path.parent.mkdir(parents=True, mode=0o700)
            self._lock = self._locked()
            self._check_stale()
            yield
        except BaseException as error:
            self.remove()
            if isinstance(error, OSError):
                why = "the path is too long for a socket" if "too long" in str(error) else error.strerror
                raise ConfigError(f"socket {self.path}: {why or error}") from error
            raise

    def _locked(self) -> int:
        while True:
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
                os.close(fd)
                raise self._taken(f"pid {pid}" if pid else "another process") from None
            # The last owner removes the file before it lets the lock go: this may be that one's.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), self._lock_path.stat()):
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
                    return fd
            os.close(fd)

    def _check_stale(self) -> None:
        """Also for what is no daemon of ours, and has no lock."""
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise ConfigError(f"socket {self.path}: there is a file that is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(self.path))
            except (ConnectionRefusedError, FileNotFoundError):
                pass
            except BlockingIOError:
                raise self._taken("another process") from None
            else:
                raise self._taken("another process")
        self.path.unlink(missing_ok=True)

    def _taken(self, who: str) -> ConfigError:
        return ConfigError(
            f"socket {self.path}: a running daemon ({who}) listens on it; stop that one, or choose another {self._flag}"
        )

    def _bound(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Linux makes the file with the mode of the unbound socket: so it is never open to others, and the umask,
            # which belongs to all threads, is left alone.
            os.fchmod(sock.fileno(), 0o600)
            sock.bind(str(self.path))
            status = self.path.lstat()
            self._inode = (status.st_dev, status.st_ino)
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
        return sock

    def open_to_others(self, others: bool) -> None:
        """Lets processes of other users connect, or no longer. While that stays as it was, so do the file's rights,
        which may be somebody's wish."""
        if others != self._open and self._is_ours():
            self._open = others
            self.path.chmod(0o666 if others else 0o600)

    def obstacle(self) -> str:
        """What keeps all other users from it, in words: the rights of the file, or of a directory above. Empty: nothing
        that can be seen."""
        absolute = self.path.absolute()
        with contextlib.suppress(OSError):
            for folder in reversed(absolute.parents):
                mode = stat.S_IMODE(folder.stat().st_mode)
                if not mode & 0o011:
                    return f"the directory {folder} has the mode {mode:04o}; chmod o+x lets them through"
            mode = stat.S_IMODE(absolute.stat().st_mode)
            if not mode & 0o022:
                return f"{absolute} has the mode {mode:04o}; it takes 0666 (SocketMode=0666 in a unit)"
        return ""

    def _is_ours(self) -> bool:
        with contextlib.suppress(OSError):
            status = self.path.lstat()
            return (status.st_dev, status.st_ino) == self._inode
        return False

    def remove(self) -> None:
        """Removes the file, if it is still ours, and then lets the lock go."""
        if self._is_ours():
            with contextlib.suppress(OSError):
                self.path.unlink()
        self._inode = None
        if self._lock >= 0:
            with contextlib.suppress(OSError):
                self._lock_path.unlink()
            os.close(self._lock)
            self._lock = -1


def listen_tcp(address: str, setting: str = "listen") -> socket.socket:
    """A listening socket at HOST:PORT, which `setting` has.

    Raises:
        ConfigError: it cannot be, and why.
    """
    host, port = split_address(address)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # Whatever the system's default is: a node on :: is reached over IPv4, too.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(place)
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise ConfigError(f"{setting} {address}: {error.strerror or error}") from error
    except UnicodeError as error:
        raise ConfigError(f"{setting} {address}: {host!r} is no host name") from error
    return sock


def address_of(sock: socket.socket) -> str:
    """HOST:PORT that a TCP socket is bound to."""
    host, port = sock.getsockname()[:2]
    return join_address(host, port)


def where_from(address: tuple[Any, ...]) -> str:
    """HOST:PORT of the other end of a connection, in a form that can be dialed."""
    host = ipaddress.ip_address(address[0])
    if isinstance(host, ipaddress.IPv6Address):
        if host.ipv4_mapped is not None:
            return join_address(str(host.ipv4_mapped), address[1])
        if host.is_link_local and address[3]:
            with contextlib.suppress(OSError):  # the interface has just gone
                return join_address(f"{host}%{socket.if_indextoname(address[3])}", address[1])
    return join_address(str(host), address[1])


def refuse(sock: socket.socket, reason: str, goaway: int) -> None:
    """Says why, and closes."""
    frame = codec.encode(codec.GOAWAY, 0, reason.encode("utf-8", "replace")[:1024], aux=goaway)
    with contextlib.suppress(OSError):
        sock.send(b"".join(frame), socket.MSG_DONTWAIT)
        if sock.family != socket.AF_UNIX:
            # What the peer has sent and nobody has read would turn the close into a reset, which overtakes the reason.
            sock.shutdown(socket.SHUT_WR)
            sock.recv(1 << 16, socket.MSG_DONTWAIT)
    sock.close()


@dataclass(slots=True)
class _HalfOpen:
    sock: socket.socket
    where: str
    since: float
    judged: bool = False  # its preamble has come, and whoever takes it over has its own deadline


# Takes a connection over, with its preamble's kind and token, and the peer's HOST:PORT.
OnPreamble = Callable[[socket.socket, int, bytes, str], Coroutine[Any, Any, None]]


class TcpDoor:
    """Reads the preamble of each connection, exactly its 24 bytes, and hands it over.

    `on_preamble` owns the socket from then on, and refuses with `turn_away`.
    """

    def __init__(self, sock: socket.socket, log: Log, on_preamble: OnPreamble, quotas: Quotas | None = None) -> None:
        self._log = log
        self._on_preamble = on_preamble
        self._loop = asyncio.get_running_loop()
        self._quotas = quotas or Quotas(self._loop.time)
        # By host, in the order in which they came.
        self._half_open: dict[str, dict[asyncio.Task[None], _HalfOpen]] = {}
        self._full: set[str] = set()
        self._acceptor = Acceptor(sock, log, self._accepted)

    def _accepted(self, sock: socket.socket, address: Any) -> None:
        where = where_from(address)
        host = where.rpartition(":")[0]
        owner = quota.host(host)
        quotas, now = self._quotas, self._loop.time()
        try:
            quotas.check_descriptor(sock.fileno(), owner)
            quotas.dials.check(owner, now)
            self._make_room(host, owner, now)
            quotas.half_open.take(owner)
        except limits.LimitReached as error:
            if host not in self._full:
                # Once for each flood: it would fill the log as well.
                self._full.add(host)
                self._log.warning("connection refused", peer=where, reason=f"half-open: {error}")
            refuse(sock, str(error), frame_settings.GOAWAY_EXHAUSTED)
            return
        task = self._loop.create_task(self._begin(sock, where))
        self._half_open.setdefault(host, {})[task] = _HalfOpen(sock, where, now)
        task.add_done_callback(lambda task: self._begun(task, host, owner))
        # A task that is cancelled before it starts never closes it.
        task.add_done_callback(lambda task: sock.close() if task.cancelled() else None)

    def _make_room(self, host: str, owner: quota.Owner, now: float) -> None:
        """Where a host has all that it may have, the one that has waited longest goes, if that was long enough: whoever
        means it says what it wants at once."""
        of_host = self._half_open.get(host)
        if not of_host:
            return
        try:
            self._quotas.half_open.check(owner)
        except limits.LimitReached as error:
            task, oldest = next(iter(of_host.items()))
            if oldest.judged or now - oldest.since < limits.HALF_OPEN_SPARED:
                raise
            del of_host[task]
            self._quotas.half_open.give(owner)
            if host not in self._full:
                self._full.add(host)
                self._log.warning("connection refused", peer=oldest.where, reason=f"half-open: {error}")
            task.cancel()
            refuse(oldest.sock, str(error), frame_settings.GOAWAY_EXHAUSTED)

    def _begun(self, task: asyncio.Task[None], host: str, owner: quota.Owner) -> None:
        of_host = self._half_open.get(host, {})
        if of_host.pop(task, None) is not None:
            self._quotas.half_open.give(owner)
        if not of_host:
            self._half_open.pop(host, None)
        if len(of_host) < limits.HALF_OPEN_EACH["host"] // 2:
            self._full.discard(host)

    async def _begin(self, sock: socket.socket, where: str) -> None:
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        raw = b""
        try:
            tune(sock)
            async with asyncio.timeout(limits.PREAMBLE):
                while len(raw) < preamble.SIZE:
                    piece = await loop.sock_recv(sock, preamble.SIZE - len(raw))
                    if not piece:
                        raise ProtocolError("bad-preamble", f"the connection ended after {len(raw)} bytes")
                    raw += piece
                    if not preamble.MAGIC.startswith(raw[:4]):
                        raise ProtocolError("bad-preamble", f"it begins with {raw!r}: not an ipcd connection")
            kind, token = preamble.unpack(raw)
        except TimeoutError:
            reason = f"no-preamble: {len(raw)} of {preamble.SIZE} bytes within {limits.PREAMBLE:g} s"
            self.turn_away(sock, where, reason, frame_settings.GOAWAY_TIMEOUT)
        except ProtocolError as error:
            self.turn_away(sock, where, str(error), frame_settings.GOAWAY_VIOLATION)
        except (OSError, IpcdError) as error:
            self._log.info("connection lost", peer=where, reason=error)
            sock.close()
        else:
            self._judged(where)
            await self._on_preamble(sock, kind, token, where)

    def _judged(self, where: str) -> None:
        task = asyncio.current_task()
        half_open = self._half_open.get(where.rpartition(":")[0], {}).get(task) if task is not None else None
        if half_open is not None:
            half_open.judged = True

    def turn_away(self, sock: socket.socket, where: str, reason: str, goaway: int) -> None:
        """Says why, logs it, and closes."""
        self._log.warning("connection refused", peer=where, reason=reason)
        refuse(sock, reason, goaway)

    async def close(self) -> None:
        """Accepts no more, and drops what has not got through."""
        self._acceptor.close()
        tasks = [task for of_host in self._half_open.values() for task in of_host]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
