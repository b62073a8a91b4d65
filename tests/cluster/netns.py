"""Network namespaces as hosts, and one more as the switch that they are plugged into.

A namespace is held by a descriptor of this process and has no name: when that is closed the kernel removes the
namespace and every interface in it, however the tests end. All interfaces are made inside namespaces, so that those
of the machine itself are never touched.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Final

from cluster.enter import CLONE_NEWNET

ENTER: Final = str(Path(__file__).with_name("enter.py"))
CABLE: Final = str(Path(__file__).with_name("cable.py"))
PATIENCE: Final = 20.0  # seconds for an `ip` command


class NoNamespaces(Exception):
    """There can be none here; the text says why."""


class Namespace:
    """A host's network: loopback up, and nothing else.

    Raises:
        NoNamespaces: it cannot be made.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._fd = _unshared()
        self._inode = os.fstat(self._fd).st_ino
        try:
            self.ip("link set lo up")
        except BaseException:
            self.close()
            raise

    def start(
        self,
        command: list[str],
        *,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        environment: dict[str, str] | None = None,
        fds: tuple[int, ...] = (),
        folder: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """A process in it. It ends with the thread that calls this, so that must be the main one."""
        return subprocess.Popen(
            [sys.executable, "-I", "-S", ENTER, str(os.getpid()), str(self._fd), self.name, *command],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            pass_fds=(self._fd, *fds),
            cwd=folder,
            # Ctrl-C is for the tests, which then end their processes in order.
            process_group=0,
        )

    def run(self, *command: str, given: str = "", fds: tuple[int, ...] = ()) -> str:
        """What a command prints.

        Raises:
            OSError: it failed, with its words.
        """
        process = self.start(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, fds=fds
        )
        with process:
            try:
                output, _ = process.communicate(given.encode(), PATIENCE)
            except BaseException:
                process.kill()
                raise
        text = output.decode(errors="replace")
        if process.returncode:
            raise OSError(f"{' '.join(command)} on {self.name}: {text.strip() or process.returncode}")
        return text

    def ip(self, *commands: str, fds: tuple[int, ...] = ()) -> str:
        """Does `ip COMMAND` for each, in one go.

        Raises:
            OSError: one failed.
        """
        return self.run("ip", "-batch", "-", given="\n".join(commands) + "\n", fds=fds)

    def plug(self, switch: Namespace, port: str, name: str = "eth0") -> None:
        """Makes an interface of that name here, at the end of a cable from the interface `port` there."""
        switch.ip(f"link add {port} type veth peer name {name} netns /proc/self/fd/{self._fd}", fds=(self._fd,))

    def plug_weather(self, switch: Namespace, port: str) -> subprocess.Popen[bytes]:
        """The same with a cable that there can be bad weather on (see cable.py), which is there as long as the process.

        Raises:
            OSError: there are no such cables here.
        """
        cable = self.start(
            [sys.executable, "-I", "-S", CABLE, port, str(switch._fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            fds=(switch._fd,),
        )
        assert cable.stdout is not None
        if cable.stdout.readline() != b"ok\n":
            with cable:
                raise OSError(f"no TAP device can be made: {cable.stdout.read().decode().strip()}")
        return cable

    def processes(self) -> list[int]:
        """Ids of the processes in it."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and (entry / "ns" / "net").stat().st_ino == self._inode:
                    found.append(int(entry.name))
            except OSError:
                continue  # it has ended
        return found

    def close(self) -> None:
        """Gives it up. It is gone when no process is in it any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _unshared() -> int:
    """The descriptor of a new network namespace."""
    answer: list[int | OSError] = []

    def make() -> None:
        # A namespace is the thread's own: this one ends, and no other is moved.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) != 0:
            answer.append(OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno())))
            return
        try:
            answer.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            answer.append(error)

    thread = threading.Thread(target=make, name="unshare")
    thread.start()
    thread.join()
    if isinstance(answer[0], OSError):
        raise NoNamespaces(f"no network namespace can be made: {answer[0].strerror}")
    return answer[0]
