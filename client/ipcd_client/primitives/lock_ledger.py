"""What a session with a lock holds, as its requests and their answers say; and what it has to ask for when nobody waits
for an answer any more. Pure.

Whoever gives up waiting (cancelled, interrupted, or as no answer came) is told that nothing was acquired. The home may
have granted it all the same, just before: so with the word that nobody waits goes what takes back what was granted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ipcd_client.pb.ipcd.v1 import lock_pb2
from ipcd_client.primitives import segments
from ipcd_client.primitives.segments import Segment


class Ledger:
    """Of one session, of which several may ask at one time."""

    def __init__(self) -> None:
        # What is held for those who have their answers; by id, in the order in which they were answered, what was
        # granted since to somebody who has not all of them yet; and what was not answered, in the order it was sent.
        self._base: Sequence[Segment] = []
        self._granted: dict[int, lock_pb2.LockHoldRequest] = {}
        self._pending: dict[int, lock_pb2.LockHoldRequest] = {}
        # Of those granted, and of those pending: nobody waits for them.
        self._done: set[int] = set()

    @property
    def held(self) -> Sequence[Segment]:
        """What was granted to those who have not given up, and is not unlocked."""
        held = self._base
        for request in self._granted.values():
            held = _after(held, request)
        return held

    def asked(self, request: lock_pb2.LockHoldRequest) -> None:
        """It is sent, and somebody waits for its answer."""
        self._pending[request.id] = request

    def answered(self, reply: lock_pb2.LockHoldReply) -> None:
        """This has come."""
        request = self._pending.pop(reply.id, None)
        if request is None:
            return
        if reply.HasField("granted") or reply.HasField("done"):
            self._granted[reply.id] = request
            self._settle()
        else:
            self._done.discard(reply.id)

    def done(self, id_: int) -> None:
        """Whoever waited for an answer has it, or needs none."""
        if id_ in self._granted or id_ in self._pending:
            self._done.add(id_)
            self._settle()

    def given_up(self, id_: int, ids: Iterator[int]) -> list[lock_pb2.LockHoldRequest]:
        """Nobody waits for an answer any more: what is to be sent, in this order, so that no more is held than without
        the request. What others of the session have got, or wait for, stays as they have asked for it: where that is
        not granted, or comes before the request that was given up, more is kept than they hold, until it is asked for
        again or the session ends. What was exclusive may be shared, if that was asked for. `ids`: for the requests, to
        whose answers nobody listens."""
        request = self._pending.get(id_) or self._granted.get(id_)
        if request is None:
            return []
        if request.WhichOneof("act") != "acquire":
            # Nothing can stop it.
            self.done(id_)
            return []
        self._pending.pop(id_, None)
        self._granted.pop(id_, None)
        self._settle()
        pieces = _pieces(self._others(), *_bounds(request.acquire.range))
        return [lock_pb2.LockHoldRequest(cancel=id_), *(_back(next(ids), *piece) for piece in pieces)]

    def _settle(self) -> None:
        while self._granted and (first := next(iter(self._granted))) in self._done:
            self._base = _after(self._base, self._granted.pop(first))
            self._done.discard(first)

    def _others(self) -> Sequence[Segment]:
        """What is not to be taken back; what is to be exclusive, or may be, as if it were held so. Requests that were
        not answered may be granted in any order, before what is sent now or after it."""
        held = self.held
        acquires = []
        for request in self._pending.values():
            if request.WhichOneof("act") == "acquire":
                acquires.append(request.acquire)
            else:
                held = _after(held, request)
        shared = [one for one in held if one.shared]
        held = _exclusive(held, (each for each in acquires if each.shared))
        for one in shared:
            # Whoever asks for what is shared already, and wants no more, has it.
            held = segments.put(held, *one)
        return _exclusive(held, (each for each in acquires if not each.shared))


def _exclusive(held: Sequence[Segment], acquires: Iterable[lock_pb2.LockAcquire]) -> Sequence[Segment]:
    for each in acquires:
        held = segments.put(held, *_bounds(each.range), False)
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
