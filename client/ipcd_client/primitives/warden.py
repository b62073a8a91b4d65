"""Starts programs for another process, and ends them when that one ends. Run as a script, by wardens.py.

A process of its own, as what is needed can be done safely only in one that has a single thread: between fork and exec a
child asks for a signal at its parent's death, which to the kernel is the death of the *thread* that made it. It is also
the parent that keeps each program as a zombie until it is told to forget it, so that no signal ever goes to another
process that got the number meanwhile. It imports nothing but the standard library, and little of that.

Each message on its socket (SOCK_SEQPACKET) is a JSON object:

    to it      {"start": ID, "argv": [...], "env": {...}, "cwd": PATH}, with three descriptors
               {"signal": OWN, "program": ID, "number": N}     to the program's process group
               {"forget": ID}                  kills what is left of the group
    from it    {"started": ID, "pid": N}, or {"failed": ID, "text": WHY}
               {"signalled": OWN}              that signal has been sent, or there was nobody any more to send it to
               {"ended": ID, "code": N}        negative: the signal
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
from typing import Any, Final

MESSAGE: Final = 1 << 20
_PR_SET_PDEATHSIG: Final = 1
# Nobody sets those, and Python sets these for itself and back for each program.
_FIXED: Final = {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}


class _Program:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pidfd = os.pidfd_open(process.pid)
        self.ended = False

    def signal(self, number: int) -> None:
        # Its number is its group's, and nobody else's as long as it was not waited for.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


class _Warden:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._pid = os.getpid()
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl
        self._programs: dict[int, _Program] = {}
        self._by_pidfd: dict[int, int] = {}
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def run(self, parent: int) -> None:
        """Until the process at the other end ends, or closes it."""
        self._poll.register(parent, select.POLLIN)
        try:
            while True:
                for fd, _ in self._poll.poll():
                    if fd == parent:
                        return
                    if fd != self._sock.fileno():
                        self._ended(self._by_pidfd[fd])
                    elif not self._told():
                        return
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            for program in self._programs.values():
                program.signal(signal.SIGKILL)

    def _told(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._sock, MESSAGE, 3)
        if not data:
            return False
        message = json.loads(data)
        if "start" in message:
            try:
                self._start(message, fds)
            finally:
                for fd in fds:
                    os.close(fd)
        elif "signal" in message:
            program = self._programs.get(message["program"])
            if program is not None:
                program.signal(message["number"])
            self._tell(signalled=message["signal"])
        else:
            self._forget(message["forget"])
        return True

    def _start(self, message: dict[str, Any], fds: list[int]) -> None:
        number = message["start"]
        try:
            process = subprocess.Popen(
                message["argv"],
                stdin=fds[0],
                stdout=fds[1],
                stderr=fds[2],
                env={**os.environ, **message["env"]},
                cwd=message["cwd"],
                start_new_session=True,
                preexec_fn=self._dies_with_us,  # noqa: PLW1509  there is one thread
            )
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            self._tell(failed=number, text=str(error))
            return
        program = self._programs[number] = _Program(process)
        self._by_pidfd[program.pidfd] = number
        self._poll.register(program.pidfd, select.POLLIN)
        self._tell(started=number, pid=process.pid)

    def _dies_with_us(self) -> None:
        self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self._pid:
            os._exit(1)

    def _ended(self, number: int) -> None:
        program = self._programs[number]
        info = os.waitid(os.P_PID, program.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if info is None:
            return
        program.ended = True
        del self._by_pidfd[program.pidfd]
        self._poll.unregister(program.pidfd)
        os.close(program.pidfd)
        self._tell(ended=number, code=info.si_status if info.si_code == os.CLD_EXITED else -info.si_status)

    def _forget(self, number: int) -> None:
        program = self._programs.get(number)
        if program is not None:
            program.signal(signal.SIGKILL)
            if program.ended:
                del self._programs[number]
                program.process.wait()

    def _tell(self, **message: Any) -> None:
        self._sock.send(json.dumps(message).encode())


def main() -> None:
    """The argument is the number of the socket's descriptor, and the process at its other end."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # What is ignored here is ignored by each program, which could not even trap it: below nohup, say.
    for number in signal.valid_signals():
        if signal.getsignal(number) is not signal.SIG_DFL and number not in _FIXED:
            signal.signal(number, signal.SIG_DFL)
    sock.set_inheritable(False)
    try:
        parent = os.pidfd_open(int(sys.argv[2]))
    except ProcessLookupError:
        return
    _Warden(sock).run(parent)


if __name__ == "__main__":
    main()
