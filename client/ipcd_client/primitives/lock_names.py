"""What the sessions of this process with locks are called at their homes: said to those of other locks that the same
party waits for, which find circles of waits by it."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import Final

from ipcd_client.pb.ipcd.v1 import lock_pb2

# As many as a home takes of one acquisition; characters of a node's name, and bytes of a session's.
MOST: Final = 64
_NODE: Final = 255
_SECRET: Final = 16


class _Known:
    """By party, and there by session. Threads open sessions and loops do."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.lock = threading.Lock()
        self.of: dict[str, dict[Name, lock_pb2.LockSession]] = {}
        self.over: deque[Name] = deque()

    def clear(self) -> None:
        """Of what is over. With the lock."""
        while self.over:
            name = self.over.popleft()
            of_party = self.of.get(name.party, {})
            of_party.pop(name, None)
            if not of_party:
                self.of.pop(name.party, None)


_known = _Known()
# What a parent holds its child does not.
os.register_at_fork(after_in_child=_known.renew)


class Name:
    """Of one session, that of a party."""

    def __init__(self, party: str) -> None:
        self.party = party

    def asked(self, request: lock_pb2.LockHoldRequest) -> None:
        """Before it is sent: adds to what may wait what the party's other sessions are called."""
        if not self.party or not request.HasField("acquire") or _at_once(request.acquire):
            return
        with _known.lock:
            _known.clear()
            of_party = _known.of.get(self.party, {})
            others = [session for name, session in reversed(of_party.items()) if name is not self]
        # A first request is sent again where the lock has moved.
        del request.acquire.elsewhere[:]
        request.acquire.elsewhere.extend(others[:MOST])

    def answered(self, reply: lock_pb2.LockHoldReply) -> None:
        """This has come."""
        if not self.party or not reply.HasField("session"):
            return
        # A message of its own: as a part of the reply it would keep all that came with that.
        session = lock_pb2.LockSession(node=reply.session.node, secret=reply.session.secret)
        # Other homes would refuse the acquisition that says anything else.
        if len(session.node) <= _NODE and len(session.secret) == _SECRET:
            with _known.lock:
                _known.of.setdefault(self.party, {})[self] = session

    def over(self) -> None:
        """The session is. Waits for nothing: it may come from a collection of garbage, amid anything that is here."""
        _known.over.append(self)
        if _known.lock.acquire(blocking=False):
            try:
                _known.clear()
            finally:
                _known.lock.release()


def _at_once(acquire: lock_pb2.LockAcquire) -> bool:
    return acquire.HasField("wait") and acquire.wait == 0
