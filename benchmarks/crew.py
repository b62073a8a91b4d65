"""Client processes that call at the same time, behind one that speaks for them.

    python -m benchmarks.crew PEER PLACE SERVER_PID COUNT

They are forked before anything is connected, so that sixteen of them cost one interpreter's imports. The commands are

    {"do": "together", "active": K, "size": B, "seconds": S}    K of them call for so long: {"calls": N}
    {"do": "gather", "count": N}    channels opened, in equal parts: {"served": N}
    {"do": "again"}    a call over each of these: {"served": N}

At the end of its input the process ends, and the others with it.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from benchmarks.callers import SyncCaller
from benchmarks.peers.base import PATIENCE, Place
from benchmarks.peers.registry import BY_NAME
from benchmarks.processes import allow_descriptors
from benchmarks.talk import ToldError, error_text, say

HEAD_START = 0.05  # seconds from a command to the first call, for all to be ready
GRACE = 1.5  # seconds for the members to end by themselves


class Member:
    """One of the forked processes, seen from the one that speaks for them."""

    def __init__(self, pid: int, line: socket.socket) -> None:
        self.pid = pid
        self._socket = line
        self._file = line.makefile("rwb")

    def say(self, command: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(command).encode() + b"\n")
        self._file.flush()

    def answer(self, until: float) -> dict[str, Any]:
        """Its next line; raises ToldError for an error, TimeoutError where none comes until then, EOFError where
        nobody wants it any more: no command comes before this one is answered, so it is the end of the commands."""
        ready, _, _ = select.select([self._socket, sys.stdin], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError(f"process {self.pid} does not answer")
        if self._socket not in ready:
            raise EOFError
        line = self._file.readline()
        if not line:
            raise ToldError(f"process {self.pid} has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ToldError(answer["error"])
        return answer

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def main() -> None:
    peer, place = BY_NAME[sys.argv[1]], Place(**json.loads(sys.argv[2]))
    server_pid, count = int(sys.argv[3]), int(sys.argv[4])
    allow_descriptors()
    members: list[Member] = []
    try:
        module = importlib.import_module(f"benchmarks.peers.{peer.module}")
        for _ in range(count):
            ours, theirs = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                # What the others' ends are is none of a member's business: it would keep them alive.
                ours.close()
                for other in members:
                    other.close()
                _be_member(theirs, module, place, server_pid)
            theirs.close()
            members.append(Member(pid, ours))
        until = time.monotonic() + PATIENCE
        for member in members:
            member.answer(until)
        say({"members": [member.pid for member in members]})
        for line in sys.stdin:
            say(_do(members, json.loads(line)))
    except EOFError:
        pass
    except Exception as error:
        # Whatever it is, it is told to who can act on it; where it came from stands in this process's log.
        say({"error": error_text(error)})
        raise
    finally:
        _end(members)


def _do(members: Sequence[Member], command: dict[str, Any]) -> dict[str, Any]:
    if command["do"] == "together":
        active = members[: command.pop("active")]
        command["begin"] = time.monotonic() + HEAD_START
        answers = _ask(active, [command] * len(active), command["seconds"] + PATIENCE)
        return {"calls": sum(answer["calls"] for answer in answers)}
    if command["do"] == "gather":
        each, more = divmod(command["count"], len(members))
        parts = [{"do": "gather", "count": each + (index < more)} for index in range(len(members))]
    else:
        parts = [command] * len(members)
    answers = _ask(members, parts, 3 * PATIENCE)
    return {"served": sum(answer["served"] for answer in answers)}


def _ask(members: Sequence[Member], commands: Sequence[Mapping[str, Any]], timeout: float) -> list[dict[str, Any]]:
    until = time.monotonic() + timeout
    for member, command in zip(members, commands, strict=True):
        member.say(command)
    return [member.answer(until) for member in members]


def _end(members: Sequence[Member]) -> None:
    for member in members:
        try:
            member.close()
        except OSError:  # it has ended before
            pass
    until = time.monotonic() + GRACE
    left = [member.pid for member in members]
    while left and time.monotonic() < until:
        left = [pid for pid in left if os.waitpid(pid, os.WNOHANG)[0] == 0]
        time.sleep(0.01)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _be_member(line: socket.socket, module: Any, place: Place, server_pid: int) -> NoReturn:
    file = line.makefile("rwb")
    code = 0
    client = None

    def answer(told: Mapping[str, Any]) -> None:
        file.write(json.dumps(told).encode() + b"\n")
        file.flush()

    try:
        client = module.connect(place)
        answer(client.taken._asdict())
        caller = SyncCaller(client, module.connect, place, server_pid)
        for text in file:
            command = json.loads(text)
            answer(getattr(caller, command.pop("do"))(**command))
    except BrokenPipeError:
        pass
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told to who can act on it
        answer({"error": error_text(error)})
        code = 1
    finally:
        if client is not None:
            client.close()
        # Not through the interpreter's end: what was inherited is not this process's to clean up.
        os._exit(code)
    raise AssertionError("os._exit does not return")


if __name__ == "__main__":
    main()
