"""The values that a node keeps: which version each has, until when, and what it is tied to. Pure.

What a value's bytes are kept in is nobody's business here but where they are a number to add to. Each verb that takes a
content gives back the one that is kept no more.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from ipcd_client.primitives.errors import BadRequest, Lost

from ipcd import limits

# Of numbers to add to: 64 bits with a sign.
LEAST: Final = -(1 << 63)
MOST: Final = (1 << 63) - 1
_DIGITS: Final = 20
# Seconds that a value may live by its own; more would be for ever.
TTL_MOST: Final = 1e9


class Content(Protocol):
    """The bytes of one version."""

    @property
    def size(self) -> int:
        """In bytes."""

    @property
    def data(self) -> bytes | None:
        """Themselves, where they are few."""


C = TypeVar("C", bound=Content)


@dataclass(slots=True)
class Kept(Generic[C]):
    """A value. `expires`: when, by the clock of the verbs' `now`; 0: never. `holder`: what it ends with; 0: nothing."""

    content: C
    version: int
    expires: float = 0.0
    holder: int = 0


@dataclass(frozen=True, slots=True)
class Changed(Generic[C]):
    """What came of a verb. `old`: what is kept no more."""

    version: int
    refused: bool = False
    old: C | None = None


@dataclass(frozen=True, slots=True)
class Gone(Generic[C]):
    """A value that has ended by itself."""

    name: str
    old: C


class Values(Generic[C]):
    """Of one run of a daemon. `names` and `ended`: how many are kept, and of how many that ended the version. `before`:
    all versions are beyond that."""

    def __init__(
        self,
        names: int = limits.NAMES,
        ended: int = limits.VALUE_ENDED,
        holds: int = limits.VALUE_HOLDS,
        *,
        before: int = 0,
    ) -> None:
        self._kept: dict[str, Kept[C]] = {}
        self._names = names
        # The last version of names that have no value now: one made again goes on from there, so that nobody takes it
        # for what was before. Beyond that all go on from the highest that was forgotten.
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._ended_most = ended
        self._forgotten = before
        self._holds: dict[int, tuple[str, set[str]]] = {}
        self._holds_most = holds
        self._last_hold = 0
        # (when, name, version), also of those that live longer by now.
        self._ends: list[tuple[float, str, int]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def get(self, name: str) -> Kept[C] | None:
        """What there is."""
        return self._kept.get(name)

    def version(self, name: str) -> int:
        """Of what there is; 0 if there is nothing."""
        kept = self._kept.get(name)
        return kept.version if kept is not None else 0

    # -- changes ----------------------------------------------------------------------------------

    def check(self, ttl: float, size: int) -> None:
        """Whether anything may be set like this.

        Raises:
            BadRequest, LimitReached: it may not.
        """
        if not (ttl == 0 or 0 < ttl <= TTL_MOST):
            raise BadRequest(f"a value lives for more than 0 and at most {TTL_MOST:g} seconds, not {ttl:g}")
        limits.check("bytes of one value", size, limits.VALUE)

    def set(
        self,
        name: str,
        content: C,
        now: float,
        *,
        expected: int | None = None,
        ttl: float = 0.0,
        holder: int = 0,
    ) -> Changed[C]:
        """Changes a value, or makes it. `expected`: only if it has this version. `ttl`: seconds; 0: for ever. `holder`:
        a hold of this name.

        Raises:
            BadRequest, LimitReached: it cannot be.
            Lost: the hold is over.
        """
        self.check(ttl, content.size)
        version = self.version(name)
        if holder and self._holds.get(holder, ("",))[0] != name:
            raise Lost(f"the hold to which the value {name} was to be tied is over")
        if expected is not None and version != expected:
            return Changed(version, refused=True)
        kept = self._kept.get(name)
        expires = now + ttl if ttl else 0.0
        if kept is None:
            kept = self._made(name, content)
            old = None
        else:
            self._untie(name, kept)
            old, kept.content = kept.content, content
            kept.version += 1
        kept.expires = expires
        if expires:
            self._push(name, kept)
        if holder:
            kept.holder = holder
            self._holds[holder][1].add(name)
        return Changed(kept.version, old=old)

    def add(self, name: str, amount: int, make: Callable[[bytes], C]) -> tuple[int, Changed[C]]:
        """Adds to a number, 0 where there is none; what it is tied to, and how long it lives, stays. `make` gives a
        content of these bytes.

        Raises:
            BadRequest: it is no number, or there would be none of 64 bits.
            LimitReached: there are too many values.
        """
        kept = self._kept.get(name)
        number = (0 if kept is None else number_of(name, kept.content.data)) + amount
        if not LEAST <= number <= MOST:
            raise BadRequest(f"the sum {number} has more than 64 bits: the value {name} stays as it is")
        if kept is None:
            self._check_room()
        content = make(b"%d" % number)
        if kept is None:
            return number, Changed(self._made(name, content).version)
        old, kept.content = kept.content, content
        kept.version += 1
        if kept.expires:
            self._push(name, kept)
        return number, Changed(kept.version, old=old)

    def delete(self, name: str, expected: int | None = None) -> Changed[C]:
        """Ends a value; refused where there is none. `expected`: only if it has this version."""
        version = self.version(name)
        if not version or (expected is not None and version != expected):
            return Changed(version, refused=True)
        return Changed(0, old=self._end(name))

    def _check_room(self) -> None:
        limits.check("values on one node", len(self._kept) + 1, self._names)

    def _made(self, name: str, content: C) -> Kept[C]:
        self._check_room()
        before = self._ended.pop(name, self._forgotten)
        kept = self._kept[name] = Kept(content, before + 1)
        return kept

    def _end(self, name: str) -> C:
        kept = self._kept.pop(name)
        self._untie(name, kept)
        self._ended[name] = kept.version
        if len(self._ended) > self._ended_most:
            _, version = self._ended.popitem(last=False)
            self._forgotten = max(self._forgotten, version)
        return kept.content

    # -- ends -------------------------------------------------------------------------------------

    def hold(self, name: str, number: int = 0) -> int:
        """Something that this name's value can be tied to: its number, which is `number` unless that is 0. Whoever has
        the number may end it.

        Raises:
            LimitReached: there are too many.
        """
        limits.check("holds of values on one node", len(self._holds) + 1, self._holds_most)
        self._last_hold = number or self._last_hold + 1
        self._holds[self._last_hold] = (name, set())
        return self._last_hold

    def is_held(self, name: str, number: int) -> bool:
        """Whether this is the number of something that the name's value can be tied to."""
        return self._holds.get(number, ("",))[0] == name

    def release(self, holder: int) -> list[Gone[C]]:
        """A hold is over, perhaps again: what ends with it."""
        _, names = self._holds.pop(holder, ("", set[str]()))
        return [Gone(name, self._end(name)) for name in list(names)]

    def _untie(self, name: str, kept: Kept[C]) -> None:
        if kept.holder in self._holds:
            self._holds[kept.holder][1].discard(name)
        kept.holder = 0

    @property
    def next_end(self) -> float:
        """When `expire` has something to do, at the earliest; infinity: never, as it is now."""
        return self._ends[0][0] if self._ends else math.inf

    def expire(self, now: float) -> list[Gone[C]]:
        """What has lived long enough."""
        gone = []
        while self._ends and self._ends[0][0] <= now:
            _, name, version = heapq.heappop(self._ends)
            kept = self._kept.get(name)
            if kept is not None and kept.version == version and kept.expires:
                gone.append(Gone(name, self._end(name)))
        return gone

    def _push(self, name: str, kept: Kept[C]) -> None:
        if len(self._ends) > 2 * len(self._kept) + 64:
            # Most are of values that were changed since.
            self._ends = [(one.expires, key, one.version) for key, one in self._kept.items() if one.expires]
            heapq.heapify(self._ends)
            return
        heapq.heappush(self._ends, (kept.expires, name, kept.version))


def number_of(name: str, data: bytes | None) -> int:
    """The number that a value is: a decimal in ASCII, such as b"-12", with white space around it or not.

    Raises:
        BadRequest: it is none.
    """
    text = data.strip() if data is not None else b""
    digits = text[1:] if text[:1] in {b"-", b"+"} else text
    if not digits.isdigit() or len(text) > _DIGITS or not LEAST <= int(text) <= MOST:
        raise BadRequest(f"the value {name} is no number of 64 bits, as a decimal")
    return int(text)
