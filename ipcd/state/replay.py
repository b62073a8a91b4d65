"""What was kept, on its way to one who asks for it. What is kept here is not held a second time for that. Pure."""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from ipcd import limits
from ipcd.state.quota import Owner, Shares
from ipcd.state.subscription import Message

# Messages of one piece: less than a millisecond.
PIECE: Final = 256


class _Entry(NamedTuple):
    time: float
    node: str
    sequence: int
    turn: int  # no two have the same
    subject: str
    cost: int
    own: weakref.ref[Message] | None
    theirs: Message | None


class Replay:
    """For `owner`, who has to close it: what other nodes keep, and what is noted of what is kept here, counts for it
    until it has been told. What is kept here can go meanwhile; `gone` says how many messages did that. `cut`: something
    was left out, of which `most` is the bound; the newest are not. `seen`: see there.

    What goes through all of it does so a piece for each time that it is asked for the next."""

    def __init__(self, shares: Shares, owner: Owner, most: int = limits.TOPIC_REPLAY) -> None:
        self.gone = 0
        self.cut = False
        self.seen = Seen(shares, owner)
        self._shares = shares
        self._owner = owner
        self._most = most
        self._used = 0
        self._turn = 0
        # While they are gathered, a heap: the oldest comes first.
        self._entries: list[_Entry] = []
        self._settled: deque[_Entry] = deque()

    def __len__(self) -> int:
        return len(self._settled)

    def own(self, messages: Iterable[Message]) -> Iterator[None]:
        """These are kept here, the newest first."""
        left, found = iter(messages), list[Message]()
        while block := list(itertools.islice(left, min(PIECE, self._most - len(found)))):
            try:
                self._take(len(block) * limits.TOPIC_REPLAY_COST)
            except limits.LimitReached:
                self.cut = True
                break
            found += block
            yield
        self.cut |= next(left, None) is not None
        del messages, left, block
        while found:
            # They come into the heap in its order, and are not held any more.
            for message in found[: -PIECE - 1 : -1]:
                self._put(message, limits.TOPIC_REPLAY_COST, weakref.ref(message), None)
            del found[-PIECE:]
            yield

    def add(self, message: Message) -> None:
        """This is another node's.

        Raises:
            LimitReached: too much.
        """
        cost = len(message.data) + limits.TOPIC_COST
        self._take(cost)
        self._put(message, cost, None, message)

    def _put(self, message: Message, cost: int, own: weakref.ref[Message] | None, theirs: Message | None) -> None:
        self._turn += 1
        entry = _Entry(message.time, message.node, message.sequence, self._turn, message.subject, cost, own, theirs)
        heapq.heappush(self._entries, entry)
        if len(self._entries) > self._most:
            self._give(heapq.heappop(self._entries))
            self.cut = True

    def settle(self, most: int, may: Callable[[str], bool]) -> Iterator[None]:
        """All have said what they keep: of each subject that `may` be told the last `most` stay, or all for 0, the
        oldest of all first."""
        entries, self._entries = self._entries, []
        sorted_: list[list[_Entry]] = []
        for first in range(0, len(entries), PIECE):
            sorted_.append(sorted(entries[first : first + PIECE], reverse=True))
            yield
        del entries
        counts: dict[str, int] = {}
        for number, one in enumerate(heapq.merge(*sorted_, reverse=True), 1):
            if one.subject not in counts:
                counts[one.subject] = 0 if may(one.subject) else -1
            count = counts[one.subject]
            if count < 0 or (most and count >= most):
                self._give(one)
            else:
                counts[one.subject] = count + 1
                self._settled.appendleft(one)
            if number % PIECE == 0:
                yield

    def next(self) -> Message | None:
        """The next one, unless it is kept no more."""
        entry = self._settled.popleft()
        self._give(entry)
        message = entry.theirs if entry.own is None else entry.own()
        if message is None:
            self.gone += 1
        return message

    def close(self) -> None:
        """Nobody wants the rest."""
        self._shares.give(self._owner, self._used)
        self._used = 0
        self._entries.clear()
        self._settled.clear()
        self.seen.close()

    def _take(self, cost: int) -> None:
        self._shares.take(self._owner, cost)
        self._used += cost

    def _give(self, entry: _Entry) -> None:
        self._shares.give(self._owner, entry.cost)
        self._used -= entry.cost


class Seen:
    """The last message of each subject that a subscriber was told as kept by another node. That one, and older ones,
    may still come to it as new: they waited meanwhile, and it is not to end with what was before. What is noted counts
    for `owner`, who has to close it.

    By their time besides their number: a node that is started again counts anew."""

    def __init__(self, shares: Shares, owner: Owner) -> None:
        self._shares = shares
        self._owner = owner
        self._of: dict[str, dict[str, tuple[int, float]]] = {}
        self._last: dict[str, int] = {}  # number that was told, of each node

    def add(self, message: Message) -> None:
        """It was told. What it counted for has just been given back, so that there is room."""
        told = self._of.setdefault(message.node, {})
        sequence, time = told.get(message.subject, (0, 0.0))
        if message.subject not in told:
            self._shares.take(self._owner, limits.TOPIC_COST)
        # Each by itself: clocks may be put back.
        told[message.subject] = (max(message.sequence, sequence), max(message.time, time))
        self._last[message.node] = max(message.sequence, self._last.get(message.node, 0))

    def again(self, message: Message) -> bool:
        """Whether it has been told before, or one that came after it. A node's messages come in their order: after the
        last, none can."""
        told = self._of.get(message.node)
        if told is None:
            return False
        if message.sequence > self._last[message.node]:
            self._forget(message.node)
            return False
        sequence, time = told.get(message.subject, (-1, 0.0))
        return message.sequence <= sequence and message.time <= time

    def close(self) -> None:
        """None of that comes any more."""
        for node in list(self._of):
            self._forget(node)

    def _forget(self, node: str) -> None:
        del self._last[node]
        self._shares.give(self._owner, limits.TOPIC_COST * len(self._of.pop(node)))
