"""What a session with a lock holds, as its requests and their answers say; and what it has to ask for when nobody waits
for an answer any more. Pure.

Whoever gives up waiting (cancelled, interrupted, or as no answer came) is told that nothing was acquired. The home may
have granted it all the same, just before: so with the word that nobody waits goes what takes back what was granted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ipcd_client.pb.ipcd.v1 import lock_pb2
from ipcd_client.primitives import segments
from ipcd_client.primitives.segments import Segment


@dataclass(slots=True)
class _Asked:
    """A request. `before`: what was held when its answer came; None: it has not. `wanted`: somebody waits for that."""

    request: lock_pb2.LockHoldRequest
    before: Sequence[Segment] | None = None
    wanted: bool = True


class Ledger:
    """Of one session."""

    def __init__(self) -> None:
        self.held: Sequence[Segment] = []
        self._asked: dict[int, _Asked] = {}

    def asked(self, request: lock_pb2.LockHoldRequest) -> None:
        """It is sent, and somebody waits for its answer."""
        self._asked[request.id] = _Asked(request)

    def answered(self, reply: lock_pb2.LockHoldReply) -> None:
        """This has come."""
        asked = self._asked.get(reply.id)
        if asked is None:
            return
        asked.before = self.held
        act = asked.request.WhichOneof("act")
        if act == "acquire" and reply.HasField("granted"):
            acquire = asked.request.acquire
            self.held = segments.put(self.held, *_bounds(acquire.range), acquire.shared)
        elif act == "release" and reply.HasField("done"):
            self.held = segments.put(self.held, *_bounds(asked.request.release), None)
        if not asked.wanted:
            del self._asked[reply.id]

    def done(self, id_: int) -> None:
        """Whoever waited for an answer has it."""
        self._asked.pop(id_, None)

    def given_up(self, id_: int, ids: Iterator[int]) -> list[lock_pb2.LockHoldRequest]:
        """Nobody waits for an answer any more: what is to be sent, in this order, so that no more is held than before.
        What an upgrade has made exclusive is shared again. `ids`: for the requests, to whose answers nobody listens."""
        asked = self._asked.pop(id_, None)
        if asked is None:
            return []
        before = self.held if asked.before is None else asked.before
        if asked.before is None:
            asked.wanted = False
            self._asked[id_] = asked
        requests = [lock_pb2.LockHoldRequest(cancel=id_)]
        if asked.request.WhichOneof("act") == "acquire":
            requests += [_back(next(ids), *piece) for piece in _pieces(before, *_bounds(asked.request.acquire.range))]
        for request in requests[1:]:
            self._asked[request.id] = _Asked(request, wanted=False)
        return requests


def _bounds(range_: lock_pb2.LockRange) -> tuple[int, int]:
    return segments.bounds(range_.start, range_.length)


def _pieces(held: Sequence[Segment], start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """The parts of a range that were not held, or shared, and whether that."""
    for one in held:
        if one.end <= start or end <= one.start:
            continue
        if start < one.start:
            yield start, one.start, False
        if one.shared:
            yield max(start, one.start), min(end, one.end), True
        start = one.end
    if start < end:
        yield start, end, False


def _back(id_: int, start: int, end: int, shared: bool) -> lock_pb2.LockHoldRequest:
    range_ = lock_pb2.LockRange(start=start, length=0 if end == segments.END else end - start)
    if shared:
        # Without waiting, as the session holds as much or more.
        return lock_pb2.LockHoldRequest(id=id_, acquire=lock_pb2.LockAcquire(range=range_, shared=True, wait=0))
    return lock_pb2.LockHoldRequest(id=id_, release=range_)
