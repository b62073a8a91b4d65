"""The last messages of subjects, as far as publishers want them kept. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from operator import attrgetter

from ipcd_client.primitives import subjects

from ipcd import limits
from ipcd.state.quota import Owner, Shares
from ipcd.state.subscription import Message


class Kept:
    """Of one node. They count for their publishers' users, who outlive the processes, or nodes."""

    def __init__(self) -> None:
        self._by_subject: dict[str, deque[Message]] = {}
        self._shares = Shares("bytes of kept messages", limits.TOPIC_KEPT_BYTES, limits.TOPIC_KEPT_BYTES_EACH)

    def keep(self, message: Message, most: int) -> None:
        """It is one of the `most` last ones of its subject.

        Raises:
            LimitReached: too much is kept.
        """
        kept = self._by_subject.get(message.subject)
        if kept is None:
            limits.check("subjects with kept messages", len(self._by_subject) + 1, limits.TOPIC_KEPT_SUBJECTS)
        going = [] if kept is None else list(kept)[: max(0, len(kept) + 1 - most)]
        # Those that make room for it first, as they may be what is too much.
        for old in going:
            self._shares.give(_owner(old), _size(old))
        try:
            self._shares.take(_owner(message), _size(message))
        except limits.LimitReached:
            for old in going:
                self._shares.take(_owner(old), _size(old))
            raise
        if kept is None:
            kept = self._by_subject[message.subject] = deque()
        for _ in going:
            kept.popleft()
        kept.append(message)

    def names(self, pattern: str) -> list[str]:
        """Subjects of which something is kept."""
        return [subject for subject, _ in self._matching(pattern)]

    def last(self, names: Iterable[str], most: int = 0, *, until: int | None = None) -> Iterator[Message]:
        """Of each of these subjects so many, 0 for all, the newest of all first; `until`: up to this number. They are
        those of now, whenever they are taken from here."""
        found: list[list[Message]] = []
        for name in names:
            kept = self._by_subject.get(name)
            if kept is not None:
                newest: Iterable[Message] = reversed(kept)
                if until is not None and kept[-1].sequence > until:
                    newest = (message for message in newest if message.sequence <= until)
                found.append(list(itertools.islice(newest, most or None)))
        return heapq.merge(*found, key=attrgetter("sequence"), reverse=True)

    def forget(self, pattern: str) -> int:
        """Keeps nothing of these any more; how many messages these were."""
        count = 0
        for subject, kept in list(self._matching(pattern)):
            del self._by_subject[subject]
            for message in kept:
                self._shares.give(_owner(message), _size(message))
            count += len(kept)
        return count

    def subjects(self, pattern: str) -> Iterator[tuple[str, int, int, float]]:
        """Subject, messages, their bytes, and the time of the last."""
        for subject, kept in self._matching(pattern):
            yield subject, len(kept), sum(len(message.data) for message in kept), kept[-1].time

    @property
    def used(self) -> int:
        """Bytes that count."""
        return self._shares.used

    def _matching(self, pattern: str) -> Iterator[tuple[str, deque[Message]]]:
        if not subjects.is_wild(pattern):
            kept = self._by_subject.get(pattern)
            if kept is not None:
                yield pattern, kept
            return
        for subject, kept in sorted(self._by_subject.items()):
            if subjects.matches(pattern, subject):
                yield subject, kept


def _owner(message: Message) -> Owner:
    return message.owner[-1:]


def _size(message: Message) -> int:
    return len(message.data) + limits.TOPIC_COST
