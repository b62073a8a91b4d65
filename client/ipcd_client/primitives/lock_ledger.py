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
        if reply.HasField("granted") or reply.HasField("done"):
            self.held = _after(self.held, asked.request)
        if not asked.wanted:
            del self._asked[reply.id]

    def done(self, id_: int) -> None:
        """Whoever waited for an answer has it."""
        self._asked.pop(id_, None)

    def given_up(self, id_: int, ids: Iterator[int]) -> list[lock_pb2.LockHoldRequest]:
        """Nobody waits for an answer any more: what is to be sent, in this order, so that no more is held than before.
        What an upgrade has made exclusive is shared again. `ids`: for the requests, to whose answers nobody listens."""
        asked = self._asked.get(id_)
        if asked is None:
            return []
        if asked.before is not None:
            before = asked.before
            del self._asked[id_]
        else:
            before = self._then(id_)
            asked.wanted = False
        requests = [lock_pb2.LockHoldRequest(cancel=id_)]
        if asked.request.WhichOneof("act") == "acquire":
            requests += [_back(next(ids), *piece) for piece in _pieces(before, *_bounds(asked.request.acquire.range))]
        for request in requests[1:]:
            self._asked[request.id] = _Asked(request, wanted=False)
        return requests

    def _then(self, id_: int) -> Sequence[Segment]:
        """What is held when this request, whose answer has not come, is served: what was sent before it is served
        before it, and comes to what it asks for. Where something that others wait for does not, more is kept than was
        held before, until they ask for it again or the session ends: better than to take back what is theirs."""
        held = self.held
        for other, asked in self._asked.items():
            if other == id_:
                break
            if asked.before is None:
                held = _after(held, asked.request)
        return held


def _after(held: Sequence[Segment], request: lock_pb2.LockHoldRequest) -> Sequence[Segment]:
    """What is held once that is done."""
    if request.WhichOneof("act") == "acquire":
        return segments.put(held, *_bounds(request.acquire.range), request.acquire.shared)
    return segments.put(held, *_bounds(request.release), None)


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
