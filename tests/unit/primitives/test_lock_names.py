"""What a party's sessions are called, said where it waits."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from ipcd_client.pb.ipcd.v1 import lock_pb2
from ipcd_client.primitives import lock_names
from ipcd_client.primitives.lock_names import MOST, Name
from ipcd_client.primitives.loop_lock_session import Stream


def session(number: int) -> lock_pb2.LockSession:
    return lock_pb2.LockSession(node="a", secret=number.to_bytes(16, "big"))


def opened(party: str, number: int) -> Name:
    name = Name(party)
    name.answered(lock_pb2.LockHoldReply(id=1, session=session(number)))
    name.answered(lock_pb2.LockHoldReply(id=2))
    return name


def said(name: Name, wait: float | None = None) -> list[lock_pb2.LockSession]:
    request = lock_pb2.LockHoldRequest(acquire=lock_pb2.LockAcquire(wait=wait))
    name.asked(request)
    once = list(request.acquire.elsewhere)
    name.asked(request)
    assert list(request.acquire.elsewhere) == once
    return once


def test_of_the_others_of_the_same_party() -> None:
    names = [opened("p", number) for number in range(3)] + [opened("q", 3), opened("", 4)]
    try:
        assert said(names[0]) == [session(2), session(1)]
        assert said(names[0], wait=0) == said(names[3]) == said(names[4]) == []
        release = lock_pb2.LockHoldRequest(release=lock_pb2.LockRange())
        names[0].asked(release)
        assert release.WhichOneof("act") == "release"
        names[1].over()
        assert said(names[0], wait=1) == [session(2)]
        names += [opened("p", number) for number in range(5, 5 + MOST)]
        assert said(names[0]) == [session(number) for number in reversed(range(5, 5 + MOST))]
    finally:
        for name in names:
            name.over()
    assert not lock_names._known.of


def test_what_no_home_would_take_is_not_said() -> None:
    """Whatever another home calls its session: this one would refuse all that the party acquires."""
    names = [opened("p", 1)]
    for node, secret in (("a" * 256, bytes(16)), ("a", b"short"), ("a", bytes(17)), ("a", b"")):
        names.append(Name("p"))
        names[-1].answered(lock_pb2.LockHoldReply(id=1, session=lock_pb2.LockSession(node=node, secret=secret)))
    try:
        assert said(names[-1]) == [session(1)]
    finally:
        for name in names:
            name.over()


def test_a_child_has_none_of_its_parents() -> None:
    """In a program without threads."""
    program = """
import os
from ipcd_client.pb.ipcd.v1 import lock_pb2
from ipcd_client.primitives.lock_names import Name
Name("p").answered(lock_pb2.LockHoldReply(session=lock_pb2.LockSession(node="a", secret=bytes(16))))
child = os.fork()
request = lock_pb2.LockHoldRequest(acquire=lock_pb2.LockAcquire())
Name("p").asked(request)
if not child:
    os._exit(len(request.acquire.elsewhere))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(request.acquire.elsewhere))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.stderr) == ("0 1\n", "")


def test_a_loop_that_is_closed_with_a_session_leaves_none() -> None:
    """Its task does not see the call's end."""

    class Call:
        async def write(self, _request: lock_pb2.LockHoldRequest) -> None:
            pass

        async def __aiter__(self) -> AsyncIterator[lock_pb2.LockHoldReply]:
            granted = lock_pb2.LockGranted(token=7)
            yield lock_pb2.LockHoldReply(id=1, granted=granted, session=session(1))
            await asyncio.get_running_loop().create_future()

    async def acquired() -> Any:
        stub = SimpleNamespace(Hold=Call)
        request = lock_pb2.LockHoldRequest(party="p", id=1, acquire=lock_pb2.LockAcquire())
        stream = Stream(stub, request, "x", lambda: asyncio.sleep(0))
        assert await stream.first(None) == 7
        return stream

    loop = asyncio.new_event_loop()
    # That it goes with a task that has not ended.
    loop.set_exception_handler(lambda *_: None)
    stream = loop.run_until_complete(acquired())
    assert lock_names._known.of
    loop.close()
    del loop, stream
    gc.collect()
    assert not lock_names._known.of
