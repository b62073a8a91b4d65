"""What was kept, on its way to one who asks for it. What is kept here is not held a second time for that. Pure."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from ipcd import limits
from ipcd.state.quota import Owner, Shares
from ipcd.state.subscription import Message

# Messages of one node that are remembered as seen: more cannot be under way from there.
SEEN: Final = 2 * limits.TOPIC_LINK_WAITING


class _Entry(NamedTuple):
    time: float
    node: str
    sequence: int
    subject: str
    own: weakref.ref[Message] | None
    theirs: Message | None


class Replay:
    """For `owner`, who has to close it: what other nodes keep counts for it until it has been told. What is kept here
    can go meanwhile; `gone` says how many messages did that after the first `since` of this node, `cut` that something
    was left out."""

    def __init__(self, shares: Shares, owner: Owner, since: int = 0) -> None:
        self.gone = 0
        self.cut = False
        self._shares = shares
        self._owner = owner
        self._since = since
        self._entries: deque[_Entry] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def own(self, messages: Iterable[Message]) -> None:
        """These are kept here."""
        self._entries.extend(
            _Entry(one.time, one.node, one.sequence, one.subject, weakref.ref(one), None) for one in messages
        )

    def add(self, message: Message) -> None:
        """This is another node's.

        Raises:
            LimitReached: too much.
        """
        self._shares.take(self._owner, _cost(message))
        self._entries.append(_Entry(message.time, message.node, message.sequence, message.subject, None, message))

    def settle(self, most: int, may: Callable[[str], bool]) -> None:
        """All have said what they keep: of each subject that `may` be told the last `most` stay, or all for 0, the
        oldest of all first."""
        entries = sorted(self._entries, key=lambda one: one[:3], reverse=True)
        counts: dict[str, int] = {}
        self._entries = deque()
        for one in entries:
            if one.subject not in counts:
                counts[one.subject] = 0 if may(one.subject) else -1
            count = counts[one.subject]
            if count < 0 or (most and count >= most):
                self._give(one)
            else:
                counts[one.subject] = count + 1
                self._entries.appendleft(one)

    def next(self) -> Message | None:
        """The next one, unless it is kept no more."""
        entry = self._entries.popleft()
        self._give(entry)
        message = entry.theirs if entry.own is None else entry.own()
        # One that came later waits for the subscriber besides.
        if message is None and entry.sequence <= self._since:
            self.gone += 1
        return message

    def close(self) -> None:
        """Nobody wants the rest."""
        while self._entries:
            self._give(self._entries.popleft())

    def _give(self, entry: _Entry) -> None:
        if entry.theirs is not None:
            self._shares.give(self._owner, _cost(entry.theirs))


class Seen:
    """What a subscriber was told as kept, and may still come to it as new. By its time besides its number: a node that
    is started again counts anew."""

    def __init__(self) -> None:
        self._of: dict[str, dict[int, float]] = {}

    def add(self, message: Message) -> None:
        """It was told."""
        told = self._of.setdefault(message.node, {})
        told[message.sequence] = message.time
        if len(told) > SEEN:
            del told[next(iter(told))]

    def again(self, message: Message) -> bool:
        """Whether it has been told before. A node's messages come in their order."""
        told = self._of.get(message.node)
        if told is None:
            return False
        if told.get(message.sequence) == message.time:
            del told[message.sequence]
            return True
        if message.time > next(reversed(told.values()), 0.0):
            del self._of[message.node]
        return False


def _cost(message: Message) -> int:
    return len(message.data) + limits.TOPIC_COST
